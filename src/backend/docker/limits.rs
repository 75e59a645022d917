//! Limits that were changed since a container was made. Its labels say those that it was made with, and
//! cannot be changed; so what was set later is remembered on the host, one small file a container. Without
//! that file the labels are believed, and the limits are set once more.
#![expect(clippy::disallowed_methods, reason = "what was told last is a file of the state folder")]

use std::fs;
use std::io;
use std::path::PathBuf;

use bollard::models::{ContainerUpdateBody, HostConfig};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Traits};
use super::labels::Settings;
use super::parse::Made;
use super::{error, observe, settings};
use crate::backend::durable::{self, Keep};
use crate::backend::{BackendError, Scope};
use crate::model::{BackendKind, Fields, Instance, InstanceId, Resources, change};

/// What a container was told last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Later {
    /// As the manifest says it.
    fields: Fields,
    /// As the engine was told.
    settings: Settings,
}

/// The limits as an engine with these traits takes them.
pub(super) fn host_config(resources: &Resources, traits: &Traits) -> HostConfig {
    // The engine refuses more CPUs than there are; without a limit it would give just those.
    let most = traits.cpus.map_or(i64::MAX, |cpus| cpus.saturating_mul(1_000_000_000));
    let nano_cpus = (i64::from(resources.millicpus) * 1_000_000).min(most);
    let memory = i64::try_from(resources.memory).unwrap_or(i64::MAX);
    HostConfig {
        memory: traits.memory.then_some(memory),
        memory_swap: (traits.memory && traits.swap).then_some(memory),
        nano_cpus: traits.cpu.then_some(nano_cpus),
        pids_limit: traits.pids.then_some(i64::from(resources.pids)),
        ..HostConfig::default()
    }
}

/// Puts a container under other limits, running or not, and remembers them.
pub(super) async fn adjust(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
    resources: &Resources,
) -> Result<(), BackendError> {
    let what = format!("changing the limits of {}", instance.name);
    let traits = engine.traits().await?;
    let host = host_config(resources, &traits);
    let later = Later { fields: resources.fields(), settings: settings::of_limits(&host) };
    let update = ContainerUpdateBody {
        memory: host.memory,
        memory_swap: host.memory_swap,
        nano_cpus: host.nano_cpus,
        pids_limit: host.pids_limit,
        ..ContainerUpdateBody::default()
    };
    let done = engine.client.update_container(instance.id.0.as_str(), update).await;
    done.map_err(|e| match error::is_status(&e, 404) {
        true => BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() },
        false => engine.failed(what.clone(), e),
    })?;
    remember(scope, &instance.id, &later).map_err(|e| BackendError::failed(what, e))?;
    // What the others were told goes with them.
    let listed = observe::ids(engine, scope).await?;
    for entry in fs::read_dir(folder(scope)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
        if id.is_some_and(|id| !listed.contains(id)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Whether any container of this tree was given other limits since it was made.
pub(super) fn any(scope: &Scope) -> bool {
    // What cannot be looked at is looked for one by one.
    folder(scope).try_exists().unwrap_or(true)
}

/// What was seen of a container, as it was told last.
pub(super) fn overlay(scope: &Scope, instance: &mut Instance, made: &mut Made) {
    let Ok(Some(later)) = durable::read_json::<Later>(&file(scope, &instance.id)) else { return };
    match instance.hash {
        Some(hash) => {
            let made = &instance.fields;
            let (hash, fields) = change::adjusted(BackendKind::Docker, hash, made, &later.fields);
            (instance.hash, instance.fields) = (Some(hash), fields);
        }
        None => instance.fields.0.extend(later.fields.0),
    }
    if let Some(set) = &mut made.set {
        set.settings.retain(|name, _| !settings::LIMITS.contains(&name.as_str()));
        set.settings.extend(later.settings);
    }
}

/// Forgets a container that is gone.
pub(super) fn forget(scope: &Scope, id: &InstanceId) {
    let _ = fs::remove_file(file(scope, id));
}

fn remember(scope: &Scope, id: &InstanceId, later: &Later) -> io::Result<()> {
    fs::create_dir_all(folder(scope))?;
    durable::write_json(&file(scope, id), later, Keep::Durably)
}

fn folder(scope: &Scope) -> PathBuf {
    scope.data.join("docker-limits")
}

fn file(scope: &Scope, id: &InstanceId) -> PathBuf {
    // An engine's id is hexadecimal, and nothing else may name a file.
    let id: String = id.0.chars().filter(char::is_ascii_alphanumeric).collect();
    folder(scope).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::traits;
    use super::super::labels::tests::{machine, scope, set};
    use super::super::parse;
    use super::*;
    use crate::model::{InstanceState, Ownership, ResourceKind};

    fn found() -> (Instance, Made) {
        let spec = machine("ada");
        let instance = Instance {
            id: InstanceId("7f".into()),
            backend: BackendKind::Docker,
            resource: ResourceKind::Machine,
            sandbox: spec.sandbox.clone(),
            place: None,
            name: "bottle-team-ada".into(),
            ownership: Ownership::Ours,
            hash: Some(spec.hash()),
            fields: spec.fields(),
            state: InstanceState::Running,
            boot: None,
            drift: Vec::new(),
            mendable: Vec::new(),
            notes: Vec::new(),
            image: None,
            created: None,
            overlay: None,
        };
        let mut set = set();
        set.settings.extend(settings::of_limits(&host_config(&spec.resources, &traits())));
        (instance, parse::Made { set: Some(set), ..parse::Made::default() })
    }

    #[test]
    fn what_was_told_last_stands_over_the_labels() {
        let data = tempfile::tempdir().unwrap();
        let scope = Scope { data: data.path().join("owner"), ..scope() };
        let (mut instance, mut made) = found();
        overlay(&scope, &mut instance, &mut made);
        assert_eq!((&instance, &made), (&found().0, &found().1), "nothing was told later");
        let resources = Resources { memory: 3 << 30, ..machine("ada").resources };
        let later = Later {
            fields: resources.fields(),
            settings: settings::of_limits(&host_config(&resources, &traits())),
        };
        remember(&scope, &instance.id, &later).unwrap();
        overlay(&scope, &mut instance, &mut made);
        assert_eq!(instance.fields.0["resources.memory"], "3G");
        let settings = made.set.unwrap().settings;
        assert_eq!(settings["resources.memory"], "3G");
        assert_eq!(settings["memory_swap"], (3u64 << 30).to_string());
        assert_eq!(settings["init"], "true");
        forget(&scope, &instance.id);
        let (mut again, mut made) = found();
        overlay(&scope, &mut again, &mut made);
        assert_eq!(again.fields.0["resources.memory"], "2G");
    }

    #[test]
    fn more_cpus_than_there_are_are_all_of_them() {
        let resources = Resources { millicpus: 64_000, ..Resources::default() };
        let few = Traits { cpus: Some(2), swap: false, ..traits() };
        let host = host_config(&resources, &few);
        assert_eq!((host.nano_cpus, host.memory_swap), (Some(2_000_000_000), None));
        assert_eq!((host.memory, host.pids_limit), (Some(2 << 30), Some(512)));
    }
}
