//! Stopping and removing machines, and removing leftovers.

use std::time::Duration;

use bollard::query_parameters::{
    InspectContainerOptions, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};

use super::engine::Engine;
use super::{carrier, error, image, labels, observe, pin, run, settings, sidecar_image, uplink};
use crate::backend::{BackendError, Scope};
use crate::model::{Instance, InstanceState, Leftover, LeftoverKind};

/// Seconds that a machine's main process has to end by itself: of one that goes, and of one that stays.
const GRACE: i32 = 3;
const PATIENCE: i32 = 10;

/// Questions whether a removal that somebody else began has ended, and the pause between them.
const LOOKS: usize = 300;
const PAUSE: Duration = Duration::from_millis(100);

/// Stops a machine or a sidecar for as long as nobody starts it: neither does the engine, when it begins anew.
pub(super) async fn stop(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let id = instance.id.0.as_str();
    let failed = |e| engine.failed(format!("stopping {}", instance.name), e);
    // Before it stops: one that is killed in between leaves a machine that the next pass stops.
    match engine.client.update_container(id, settings::restarts(false)).await {
        Ok(_) => {}
        Err(e) if error::is_status(&e, 404) => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    if instance.state == InstanceState::Paused {
        run::unpause(engine, instance).await?;
    }
    let options = StopContainerOptionsBuilder::new().t(PATIENCE).build();
    match engine.client.stop_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if error::is_status(&e, 404) || error::is_status(&e, 304) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Gives a machine another name.
pub(super) async fn rename(
    engine: &Engine,
    instance: &Instance,
    name: &str,
) -> Result<(), BackendError> {
    let id = instance.id.0.as_str();
    let options = RenameContainerOptionsBuilder::new().name(name).build();
    let failed = |e| engine.failed(format!("giving {} the name {name}", instance.name), e);
    match engine.client.rename_container(id, options).await {
        Ok(()) => Ok(()),
        Err(e) => match observe::by_name(engine, name).await? {
            // It has it already: an engine takes that for an error.
            Some(found) if found.id.as_deref() == Some(id) => Ok(()),
            _ => Err(failed(e)),
        },
    }
}

/// Stops and removes a machine and the volumes without a name that the engine made for it.
pub(super) async fn machine(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let options = StopContainerOptionsBuilder::new().t(GRACE).build();
    if let Err(e) = engine.client.stop_container(&instance.id.0, Some(options)).await {
        if error::is_status(&e, 404) {
            return Ok(());
        }
        if error::unreachable(&e).is_some() {
            return Err(engine.failed(format!("stopping {}", instance.name), e));
        }
        // One that cannot be stopped, a dead or a paused one, can still be removed by force.
        tracing::debug!(container = %instance.name, error = %e, "cannot stop it");
    }
    container(engine, &instance.id.0, &instance.name).await
}

async fn container(engine: &Engine, id: &str, name: &str) -> Result<(), BackendError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match engine.client.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if error::is_status(&e, 404) => Ok(()),
        Err(e)
            if error::answer(&e).is_some_and(|(_, text)| text.contains("already in progress")) =>
        {
            until_gone(engine, id, name).await
        }
        Err(e) => Err(engine.failed(format!("removing {name}"), e)),
    }
}

/// The name is free only when the other removal has ended.
async fn until_gone(engine: &Engine, id: &str, name: &str) -> Result<(), BackendError> {
    for _ in 0..LOOKS {
        match engine.client.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(e) if error::is_status(&e, 404) => return Ok(()),
            Err(e) => return Err(engine.failed(format!("removing {name}"), e)),
        }
    }
    Err(BackendError::Deadline {
        what: format!("another removal of {name}"),
        seconds: LOOKS as u64 * PAUSE.as_millis() as u64 / 1000,
    })
}

/// Removes an imported image that nothing stands on, or a probe.
pub(super) async fn leftover(
    engine: &Engine,
    scope: &Scope,
    leftover: &Leftover,
) -> Result<(), BackendError> {
    let name = leftover.id.0.as_str();
    if let Some(network) = carrier::left(leftover) {
        // Whatever the caller believes: each removes only what is its own, and unused.
        carrier::prune(engine, scope, network).await?;
        return uplink::tidy(engine, scope).await;
    }
    if let Some(pin) = pin::left(scope, leftover) {
        return pin::prune(&pin, || observe::mounted(engine, scope)).await;
    }
    match leftover.kind {
        LeftoverKind::Scratch => container(engine, name, &leftover.name).await,
        LeftoverKind::Image if leftover.digest.is_none() => {
            sidecar_image::remove(engine, name).await
        }
        LeftoverKind::Image => {
            let Some(digest) = labels::digest_of(scope, name) else {
                return Err(BackendError::Conflict { name: name.to_owned() });
            };
            // The engine minds machines on an image only while that name is its last.
            if observe::in_use(engine, scope, digest).await? {
                return Ok(());
            }
            image::remove(engine, name).await
        }
    }
}
