//! Setting right in place what was changed from outside: networks, what leads to the sidecar, and limits.

use super::engine::Engine;
use super::parse::Made;
use super::wiring::Wiring;
use super::{hosts, observe, settings};
use crate::backend::{BackendError, Scope};
use crate::model::{Instance, InstanceState, ResourceKind};

/// Attaches it to what it was made for and to nothing else, and sets the limits as they were.
pub(super) async fn container(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
    made: &Made,
) -> Result<(), BackendError> {
    let gone =
        || BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() };
    let found = observe::raw_by_id(engine, &instance.id).await?.ok_or_else(gone)?;
    let wiring = Wiring::of_instance(scope, instance, made.set.as_ref());
    wiring.mend(engine, scope, &found, &instance.name).await?;
    if let Some(set) = &made.set
        && instance.resource == ResourceKind::Machine
        && instance.state == InstanceState::Running
    {
        // The engine leaves it out of what it has put on a network again.
        hosts::restore(engine, instance, set).await?;
    }
    let wrong = |path: &str| instance.mendable.iter().any(|change| change.path == path);
    if let Some(set) = &made.set
        && settings::MENDABLE.into_iter().any(wrong)
    {
        let update = settings::update(&set.settings);
        let done = engine.client.update_container(instance.id.0.as_str(), update).await;
        done.map_err(|e| engine.failed(format!("mending {}", instance.name), e))?;
    }
    Ok(())
}
