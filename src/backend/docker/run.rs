//! Starting a machine.

use bollard::query_parameters::StartContainerOptions;

use super::engine::Engine;
use super::{error, frozen, observe, settings, sidecar};
use crate::backend::{BackendError, Scope};
use crate::model::{Instance, InstanceState, ResourceKind};

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
    if instance.resource == ResourceKind::Sidecar {
        if frozen::is_stopped(engine, id) {
            frozen::restart(engine, instance).await?;
        }
        sidecar::wire(engine, scope, instance).await?;
    }
    if instance.state != InstanceState::Created {
        // Of one that `stop` stopped the engine has been told to leave it so.
        match engine.client.update_container(id, settings::restarts(true)).await {
            Ok(_) => {}
            Err(e) if error::is_status(&e, 404) => return Err(gone()),
            Err(e) => return Err(engine.failed(what(), e)),
        }
    }
    match engine.client.start_container(id, None::<StartContainerOptions>).await {
        Ok(()) => {}
        Err(e) if error::is_status(&e, 404) => return Err(gone()),
        // It was paused since it was looked at.
        Err(e) if error::answer(&e).is_some_and(|(_, text)| text.contains("paused")) => {
            unpause(engine, instance).await?;
        }
        Err(e) if error::words(&e).contains("macvlan") => {
            return Err(BackendError::Unsupported(format!(
                "{} cannot be started: a sandbox's network is a macvlan, and the kernel of the \
                 engine's host has none (load its module `macvlan`): {}",
                instance.name,
                error::words(&e)
            )));
        }
        Err(e) => return Err(engine.failed(what(), e)),
    }
    let now = observe::by_id(engine, scope, &instance.id).await?;
    now.map(|(instance, _)| instance).ok_or_else(gone)
}

pub(super) async fn unpause(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
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
