//! Starting a machine, and taking off the networks that were attached to it by hand.

use bollard::models::{NetworkConnectRequest, NetworkDisconnectRequest};
use bollard::query_parameters::{InspectContainerOptions, StartContainerOptions};

use super::engine::Engine;
use super::{NO_NETWORK, error, observe};
use crate::backend::{BackendError, Scope};
use crate::model::{Instance, InstanceState};

/// Starts or unpauses; running already is fine. Returns the machine as it is now.
pub(super) async fn start(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
) -> Result<Instance, BackendError> {
    let id = instance.id.0.as_str();
    let what = || format!("starting {}", instance.name);
    let gone =
        || BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() };
    if instance.state == InstanceState::Paused {
        unpause(engine, instance).await?;
    }
    match engine.client.start_container(id, None::<StartContainerOptions>).await {
        Ok(()) => {}
        Err(e) if error::is_status(&e, 404) => return Err(gone()),
        // It was paused since it was looked at.
        Err(e) if error::answer(&e).is_some_and(|(_, text)| text.contains("paused")) => {
            unpause(engine, instance).await?;
        }
        Err(e) => return Err(engine.failed(what(), e)),
    }
    observe::by_id(engine, scope, &instance.id).await?.ok_or_else(gone)
}

async fn unpause(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    match engine.client.unpause_container(&instance.id.0).await {
        Ok(()) => Ok(()),
        // Somebody was faster.
        Err(e) if error::answer(&e).is_some_and(|(_, text)| text.contains("not paused")) => Ok(()),
        Err(e) if error::is_status(&e, 404) => {
            Err(BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() })
        }
        Err(e) => Err(engine.failed(format!("unpausing {}", instance.name), e)),
    }
}

/// Leaves the machine with no network but `none`.
pub(super) async fn disconnect(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let id = instance.id.0.as_str();
    let what = || format!("taking {} off its networks", instance.name);
    let inspected = match engine.client.inspect_container(id, None::<InspectContainerOptions>).await
    {
        Ok(inspected) => inspected,
        Err(e) if error::is_status(&e, 404) => return Ok(()),
        Err(e) => return Err(engine.failed(what(), e)),
    };
    let attached = inspected.network_settings.and_then(|settings| settings.networks);
    let attached: Vec<String> = attached.unwrap_or_default().into_keys().collect();
    for network in attached.iter().filter(|network| *network != NO_NETWORK) {
        let request = NetworkDisconnectRequest { container: id.to_owned(), force: Some(true) };
        match engine.client.disconnect_network(network, request).await {
            Ok(()) => {}
            Err(e) if error::is_status(&e, 404) => {}
            Err(e) => return Err(engine.failed(what(), e)),
        }
    }
    if attached.iter().any(|network| network == NO_NETWORK) {
        return Ok(());
    }
    let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config: None };
    let connected = engine.client.connect_network(NO_NETWORK, request).await;
    connected.map_err(|e| engine.failed(what(), e))
}
