//! Setting right in place what was changed from outside: networks and limits.

use bollard::models::{NetworkConnectRequest, NetworkDisconnectRequest};

use super::engine::Engine;
use super::parse::{Made, attached};
use super::{NO_NETWORK, error, observe, settings};
use crate::backend::BackendError;
use crate::model::Instance;

/// Detaches what was attached by hand, and sets the limits as they were.
pub(super) async fn machine(
    engine: &Engine,
    instance: &Instance,
    made: &Made,
) -> Result<(), BackendError> {
    let what = || format!("mending {}", instance.name);
    let gone =
        || BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() };
    let container = instance.id.0.as_str();
    let found = observe::raw_by_id(engine, &instance.id).await?.ok_or_else(gone)?;
    let names = attached(&found);
    let by_hand: Vec<&str> = names.iter().copied().filter(|name| *name != NO_NETWORK).collect();
    for name in &by_hand {
        let request =
            NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        match engine.client.disconnect_network(name, request).await {
            Ok(()) => {}
            // Somebody was faster, or the network is gone with all that hung on it.
            Err(e) if error::is_status(&e, 404) => {}
            Err(e) if error::words(&e).contains("is not connected") => {}
            Err(e) => return Err(engine.failed(what(), e)),
        }
    }
    if !names.contains(NO_NETWORK) {
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: None };
        let done = engine.client.connect_network(NO_NETWORK, request).await;
        done.map_err(|e| engine.failed(what(), e))?;
    }
    let wrong = |path: &str| instance.mendable.iter().any(|change| change.path == path);
    if let Some(set) = &made.set
        && settings::MENDABLE.into_iter().any(wrong)
    {
        let update = settings::update(&set.settings);
        let done = engine.client.update_container(container, update).await;
        done.map_err(|e| engine.failed(what(), e))?;
    }
    Ok(())
}
