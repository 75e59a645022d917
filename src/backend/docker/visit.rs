//! Files in and out past the engine, where its containers can be entered from here: nothing of the
//! guest's runs for it, and its tmpfs is reached. Where they cannot be, `copy` has the ways that are
//! left.

use bytes::Bytes;

use super::Docker;
use super::engine::Engine;
use super::{copy, exec, mounted, parse};
#[cfg(target_os = "linux")]
use crate::backend::native::visit::Visited;
use crate::backend::{BackendError, Identity, TarStream, Upload};
use crate::model::Instance;

/// Runtimes whose containers are processes of this kernel, by the name that an engine gives them.
#[cfg(target_os = "linux")]
const PLAIN: [&str; 4] =
    ["runc", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux", "crun"];

/// The first line of the one file of a tar; `None` where it is no plain file.
pub(super) fn line(tar: &[u8]) -> Option<String> {
    let mut archive = tar::Archive::new(tar);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Wipes, makes folders and unpacks. False: this container cannot be entered, and nothing was done.
#[cfg(target_os = "linux")]
pub(super) async fn put(
    docker: &Docker,
    engine: &Engine,
    instance: &Instance,
    user: &Identity,
    upload: &Upload,
) -> Result<bool, BackendError> {
    let what = copy::copying(instance);
    let own = Some(copy::workdir(instance)).filter(|own| !own.is_empty());
    let parts = mounted::parted(instance, upload);
    let parts = parts.map_err(|error| BackendError::failed(what.clone(), error))?;
    // What lets the machine's command start is among the rest, so that comes last.
    let parts = match &parts {
        Some((mounted, rest)) => vec![(mounted, true), (rest, false)],
        None => vec![(upload, false)],
    };
    for (part, as_guest) in parts {
        let Some(door) = door(engine, instance).await? else { return Ok(false) };
        let whose = whose(user, as_guest);
        let visited = docker.visitor.put(door, what.clone(), own, part, whose).await?;
        if done(instance, visited).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Unpacks a tar as it comes; where the workspace is mounted, with the rights of the guest's user. Gives
/// it back where this container cannot be entered.
#[cfg(target_os = "linux")]
pub(super) async fn stream(
    docker: &Docker,
    engine: &Engine,
    instance: &Instance,
    user: &Identity,
    tar: TarStream,
) -> Result<Option<TarStream>, BackendError> {
    // What comes can be read once, so it is tried with nothing first.
    if !put(docker, engine, instance, user, &Upload::default()).await? {
        return Ok(Some(tar));
    }
    let Some(door) = door(engine, instance).await? else { return Ok(Some(tar)) };
    let (what, whose) = (copy::copying(instance), whose(user, mounted::has_mount(instance)));
    match docker.visitor.stream(door, what.clone(), tar, whose).await? {
        Visited::Done(()) => Ok(None),
        Visited::No(why) => Err(BackendError::failed(what, anyhow::Error::msg(why))),
    }
}

/// A tar of `path`. `None`: this container cannot be entered.
#[cfg(target_os = "linux")]
pub(super) async fn get(
    docker: &Docker,
    engine: &Engine,
    instance: &Instance,
    user: &Identity,
    path: &str,
    limit: u64,
) -> Result<Option<Bytes>, BackendError> {
    let Some(door) = door(engine, instance).await? else { return Ok(None) };
    let what = format!("copying {path} out of {}", instance.name);
    let whose = whose(user, mounted::holds(instance, path));
    Ok(done(instance, docker.visitor.get(door, what, path, limit, whose).await?))
}

#[cfg(target_os = "linux")]
fn whose(user: &Identity, as_guest: bool) -> crate::backend::native::visit::Whose {
    crate::backend::native::visit::Whose { user: (user.uid, user.gid), as_guest }
}

#[cfg(target_os = "linux")]
fn done<T>(instance: &Instance, visited: Visited<T>) -> Option<T> {
    match visited {
        Visited::Done(done) => Some(done),
        Visited::No(why) => {
            tracing::debug!(machine = %instance.name, why, "it cannot be entered");
            None
        }
    }
}

/// The way into a container that runs. `None`: there is none from here.
#[cfg(target_os = "linux")]
async fn door(
    engine: &Engine,
    instance: &Instance,
) -> Result<Option<crate::backend::native::visit::Door>, BackendError> {
    use crate::backend::native::visit::Door;
    if engine.endpoint.socket().is_none() {
        return Ok(None);
    }
    let found = engine.client.inspect_container(&instance.id.0, None).await;
    let found = found.map_err(|e| exec::not_running(engine, instance, e))?;
    let state = found.state.unwrap_or_default();
    let not_running = |state: &str| {
        Err(BackendError::NotRunning { name: instance.name.clone(), state: state.to_owned() })
    };
    if state.paused == Some(true) {
        return not_running("paused");
    }
    if state.running != Some(true) {
        return not_running("stopped");
    }
    let runtime = found.host_config.and_then(|host| host.runtime).unwrap_or_default();
    if !PLAIN.contains(&runtime.as_str()) {
        return Ok(None);
    }
    let (pid, id) = (state.pid.unwrap_or_default(), instance.id.0.clone());
    // What the image asks for is the container's alone.
    let volumes = found.mounts.into_iter().flatten().filter_map(|mount| mount.name);
    let volumes: Vec<String> = volumes.filter(|name| parse::anonymous(name)).collect();
    match Door::of(pid, &id, &volumes) {
        Ok(door) => Ok(Some(door)),
        Err(error) => {
            tracing::debug!(machine = %instance.name, %error, "it cannot be entered");
            Ok(None)
        }
    }
}

/// Containers are processes of another kernel here.
#[cfg(not(target_os = "linux"))]
pub(super) async fn put(
    _: &Docker,
    _: &Engine,
    _: &Instance,
    _: &Identity,
    _: &Upload,
) -> Result<bool, BackendError> {
    Ok(false)
}

/// As above.
#[cfg(not(target_os = "linux"))]
pub(super) async fn stream(
    _: &Docker,
    _: &Engine,
    _: &Instance,
    _: &Identity,
    tar: TarStream,
) -> Result<Option<TarStream>, BackendError> {
    Ok(Some(tar))
}

/// As above.
#[cfg(not(target_os = "linux"))]
pub(super) async fn get(
    _: &Docker,
    _: &Engine,
    _: &Instance,
    _: &Identity,
    _: &str,
    _: u64,
) -> Result<Option<Bytes>, BackendError> {
    Ok(None)
}
