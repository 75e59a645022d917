//! From a machine's spec to the container that the engine is asked for, and the asking.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, HealthConfig, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions, MountType,
    NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::engine::{Engine, GVISOR, Traits};
use super::labels::{self, Set};
use super::subnet::Subnet;
use super::user::User;
use super::wiring::Wiring;
use super::{NO_NETWORK, error, limits, observe, parse, seccomp, settings, supervisor};
use crate::backend::{BackendError, Scope, guest_path};
use crate::model::access::SIDECAR_NAME;
use crate::model::gate::GATE_NAME;
use crate::model::spec::LANGUAGE;
use crate::model::{Instance, MachineSpec, Ownership, ResourceKind, SpecHash};

/// How often a name is tried again that is taken by nothing that is listed: by a container that the
/// engine is just making for a run that was killed, or just removing.
const NAME_TRIES: u32 = 60;
/// How long after each try.
const NAME_DELAY: Duration = Duration::from_millis(250);

/// Lookups of names fail; they should do so soon.
const LOOKUPS: [&str; 2] = ["timeout:1", "attempts:1"];

/// What a container is made of, beside its spec.
pub(super) struct Parts<'a> {
    /// The image, by the name that the engine knows it by.
    pub image: &'a str,
    pub user: &'a User,
    pub traits: &'a Traits,
    /// Of the sandbox's own network; none: the machine is in no network.
    pub subnet: Option<Subnet>,
    /// The mount of ours that holds the workspace; none: the engine gets its path.
    pub workspace: Option<&'a std::path::Path>,
    /// Its programs are told to speak no language in particular, because its image says nothing of it.
    pub language: bool,
}

/// Whether the engine sees no such mount of ours.
pub(super) fn is_unseen(error: &BackendError, pin: &std::path::Path) -> bool {
    let text = format!("{:#}", anyhow::anyhow!("{error:?}"));
    text.contains("does not exist") && text.contains(&*pin.to_string_lossy())
}

/// Whether the workspace can be mounted, as far as that shows from here.
pub(super) fn check_mount(engine: &Engine, spec: &MachineSpec) -> Result<(), BackendError> {
    let (Some(workspace), Some(socket)) = (&spec.mount, engine.endpoint.socket()) else {
        // The folder of a remote engine is not to be seen from here: the engine will tell.
        return Ok(());
    };
    let path = &workspace.path;
    if !path.is_dir() {
        return Err(BackendError::Unsupported(format!(
            "the workspace {} is not a folder: make it, or change `workspace.path`",
            path.display()
        )));
    }
    // `/var/run` is a symlink on most machines.
    let places = [socket.to_owned(), socket.canonicalize().unwrap_or_default()];
    if places.iter().any(|socket| socket.starts_with(path)) {
        return Err(BackendError::Unsupported(format!(
            "the workspace {} holds the engine's socket, which no sandbox may have",
            path.display()
        )));
    }
    Ok(())
}

/// The container of `spec`.
pub(super) fn body(scope: &Scope, spec: &MachineSpec, parts: &Parts<'_>) -> ContainerCreateBody {
    let own = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    let language = parts.language.then(|| format!("LANG={LANGUAGE}"));
    let mut body = ContainerCreateBody {
        image: Some(parts.image.to_owned()),
        hostname: Some(spec.sandbox.to_string()),
        user: Some(parts.user.spec()),
        env: Some(language.into_iter().chain(own).collect()),
        entrypoint: Some(supervisor::entrypoint(spec)),
        // Empty and not absent: the image's own command would be appended.
        cmd: Some(spec.command.clone()),
        working_dir: spec.workdir.clone(),
        // Of the image these speak of another main process.
        stop_signal: Some("SIGTERM".to_owned()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(scope, spec, parts)),
        ..ContainerCreateBody::default()
    };
    let set = Set {
        uid: parts.user.identity.uid,
        gid: parts.user.identity.gid,
        home: parts.user.identity.home.clone(),
        address: parts.subnet.map(Subnet::machine),
        image: None,
        settings: settings::of_body(&body),
    };
    let wiring = Wiring::of(scope, ResourceKind::Machine, &spec.sandbox, Some(&set));
    body.networking_config = wiring
        .is_connected()
        .then(|| NetworkingConfig { endpoints_config: Some(wiring.endpoints()) });
    body.labels = Some(labels::of_machine(scope, spec, &set));
    body
}

fn host_config(scope: &Scope, spec: &MachineSpec, parts: &Parts<'_>) -> HostConfig {
    let Parts { user, traits, .. } = parts;
    let tmpfs = format!(
        "rw,noexec,nosuid,nodev,size=16m,mode=0700,uid={},gid={}",
        user.identity.uid, user.identity.gid
    );
    let disk = spec.resources.disk.filter(|_| traits.disk);
    let sidecar = parts.subnet.map(|subnet| subnet.sidecar().to_string());
    let network = match sidecar {
        Some(_) => scope.object_name(&spec.sandbox),
        None => NO_NETWORK.to_owned(),
    };
    HostConfig {
        init: Some(true),
        network_mode: Some(network),
        // Without a server that is named here, engines ask those of the host, some from the host
        // itself: that is a way out. The sidecar answers no names, so a lookup ends at once; its own
        // name needs none.
        dns: sidecar.as_ref().map(|sidecar| vec![sidecar.clone()]),
        dns_options: sidecar.as_ref().map(|_| LOOKUPS.map(str::to_owned).to_vec()),
        dns_search: sidecar.as_ref().map(|_| vec![".".to_owned()]),
        // It stands before the git gate, too, whether or not there is one.
        extra_hosts: sidecar.map(|sidecar| {
            [SIDECAR_NAME, GATE_NAME].map(|name| format!("{name}:{sidecar}")).to_vec()
        }),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(security(spec, traits)),
        ulimits: Some(vec![no_core()]),
        privileged: Some(false),
        runtime: traits.gvisor.then(|| GVISOR.to_owned()),
        group_add: (!user.groups.is_empty())
            .then(|| user.groups.iter().map(u32::to_string).collect()),
        storage_opt: disk.map(|disk| HashMap::from([("size".to_owned(), disk.to_string())])),
        tmpfs: Some(HashMap::from([(guest_path::RUN.to_owned(), tmpfs)])),
        mounts: spec.mount.as_ref().map(|workspace| {
            vec![Mount {
                typ: Some(MountType::BIND),
                source: Some(parts.workspace.unwrap_or(&workspace.path).display().to_string()),
                target: Some(workspace.target.clone()),
                read_only: Some(false),
                // What is mounted below it on the host stays the host's, also once it is unmounted there
                // and a container would have it still.
                bind_options: Some(MountBindOptions {
                    non_recursive: Some(true),
                    ..MountBindOptions::default()
                }),
                ..Mount::default()
            }]
        }),
        // After a reboot, and after an engine that was killed: `unless-stopped` misses the second.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ALWAYS),
            maximum_retry_count: None,
        }),
        // Other drivers have bounds, or a place, that the operator chose.
        log_config: traits.json_logs.then(|| HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..limits::host_config(&spec.resources, traits)
    }
}

/// The engine's own seccomp and AppArmor profiles stay, for naming one here replaces it, but where files of
/// the host can be written to.
fn security(spec: &MachineSpec, traits: &Traits) -> Vec<String> {
    let mut options = vec!["no-new-privileges".to_owned()];
    if spec.mount.is_some() && traits.seccomp {
        options.push(seccomp::option().to_owned());
    }
    options
}

/// No core dumps. 0 forbids the file, but not the host's handler of them (`|…` in core_pattern), which runs
/// as the host's root on what a sandbox feeds it; the kernel refuses both at 1.
pub(super) fn no_core() -> ResourcesUlimits {
    ResourcesUlimits { name: Some("core".to_owned()), soft: Some(1), hard: Some(1) }
}

/// What a container is made as.
pub(super) struct Plan<'a> {
    pub name: &'a str,
    /// Of its spec.
    pub hash: SpecHash,
    /// Its image, as messages show it.
    pub image: &'a str,
}

/// Makes the container, or finds the one that is there already.
pub(super) async fn container(
    engine: &Engine,
    scope: &Scope,
    plan: &Plan<'_>,
    body: ContainerCreateBody,
) -> Result<Instance, BackendError> {
    let name = plan.name;
    let labels = body.labels.clone();
    for _ in 0..NAME_TRIES {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = match engine.client.create_container(Some(options), body.clone()).await {
            Ok(made) => made,
            Err(e) if error::is_status(&e, 409) => match observe::by_name(engine, name).await? {
                Some(found) => return existing(scope, plan, found),
                None => {
                    tokio::time::sleep(NAME_DELAY).await;
                    continue;
                }
            },
            Err(e) if error::is_status(&e, 404) => {
                return Err(BackendError::Image {
                    image: plan.image.to_owned(),
                    reason: error::words(&e),
                });
            }
            Err(e) => return Err(engine.failed(format!("creating {name}"), e)),
        };
        for warning in &made.warnings {
            tracing::warn!(container = %name, warning, "the engine warns");
        }
        let summary = ContainerSummary {
            id: Some(made.id),
            names: Some(vec![format!("/{name}")]),
            image: body.image,
            labels,
            state: Some(ContainerSummaryStateEnum::CREATED),
            ..ContainerSummary::default()
        };
        return parse::own(scope, summary).ok_or_else(|| {
            BackendError::failed(format!("creating {name}"), anyhow::anyhow!("lost its labels"))
        });
    }
    Err(BackendError::failed(
        format!("creating {name}"),
        anyhow::anyhow!(
            "its name is taken, and the engine does not list by what: look for a container that it \
             is stuck making or removing"
        ),
    ))
}

/// What stands under our name already: the very thing that was asked for, or an error.
fn existing(
    scope: &Scope,
    plan: &Plan<'_>,
    found: ContainerSummary,
) -> Result<Instance, BackendError> {
    let name = plan.name;
    match parse::own(scope, found) {
        Some(found) if found.ownership == Ownership::Ours => {
            if found.hash == Some(plan.hash) {
                Ok(found)
            } else {
                Err(BackendError::failed(
                    format!("creating {name}"),
                    anyhow::anyhow!("it is there already, made from another spec: remove it first"),
                ))
            }
        }
        _ => Err(BackendError::Conflict { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::traits;
    use super::super::labels::Labels;
    use super::super::labels::tests::{machine, scope};
    use super::super::user::Accounts;
    use super::*;
    use crate::model::{Workspace, WorkspaceMode};

    fn made(spec: &MachineSpec, traits: &Traits) -> ContainerCreateBody {
        made_in(spec, traits, None)
    }

    fn made_in(spec: &MachineSpec, traits: &Traits, subnet: Option<Subnet>) -> ContainerCreateBody {
        let user = Accounts::default().resolve(Some("1000"), None).unwrap();
        body(
            &scope(),
            spec,
            &Parts {
                image: "node:22",
                user: &user,
                traits,
                subnet,
                workspace: None,
                language: false,
            },
        )
    }

    #[test]
    fn a_machine_is_hardened() {
        let body = made(&machine("ada"), &traits());
        let host = body.host_config.unwrap();
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.privileged, host.init), (Some(false), Some(true)));
        assert_eq!((host.memory, host.memory_swap), (Some(2 << 30), Some(2 << 30)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(2_000_000_000), Some(512)));
        assert_eq!((host.pid_mode, host.uts_mode, host.userns_mode), (None, None, None));
        assert_eq!((host.binds, host.mounts, host.devices), (None, None, None));
        assert_eq!(host.runtime, None);
        assert!(host.tmpfs.unwrap()["/run/bottle"].contains("mode=0700,uid=1000,gid=1000"));
    }

    #[test]
    fn what_the_engine_has_decides_what_it_is_asked_for() {
        let mut spec = machine("ada");
        spec.resources.disk = Some(1 << 30);
        let mut traits = traits();
        assert_eq!(made(&spec, &traits).host_config.unwrap().storage_opt, None);
        traits = Traits {
            gvisor: true,
            disk: true,
            swap: false,
            cpus: Some(1),
            json_logs: false,
            ..traits
        };
        let host = made(&spec, &traits).host_config.unwrap();
        assert_eq!(host.runtime.as_deref(), Some("runsc"));
        assert_eq!(host.storage_opt.unwrap()["size"], "1073741824");
        assert_eq!((host.memory, host.memory_swap), (Some(2 << 30), None));
        assert_eq!((host.nano_cpus, host.log_config), (Some(1_000_000_000), None));
    }

    #[test]
    fn a_connected_machine_is_in_its_own_network_and_asks_its_sidecar_for_names() {
        let mut spec = machine("ada");
        spec.connected = true;
        let subnet = "198.18.7.8/29".parse().unwrap();
        let body = made_in(&spec, &traits(), Some(subnet));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("bottle-team-ada"));
        assert_eq!(host.dns, Some(vec!["198.18.7.10".to_owned()]));
        assert_eq!(host.dns_search, Some(vec![".".to_owned()]));
        let names = ["sidecar:198.18.7.10", "git.bottle:198.18.7.10"].map(str::to_owned);
        assert_eq!(host.extra_hosts, Some(names.to_vec()));
        assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), None));
        let ends = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(ends.len(), 1);
        let address = ends["bottle-team-ada"].ipam_config.as_ref().unwrap().ipv4_address.clone();
        assert_eq!(address.as_deref(), Some("198.18.7.11"));
        let labels = body.labels.unwrap();
        let set: Set = Labels::of(&labels).set().unwrap();
        assert_eq!(set.address, Some(subnet.machine()));
        assert_eq!(set.settings["dns"], "198.18.7.10");
        assert_eq!(set.settings["extra_hosts"], "git.bottle:198.18.7.10 sidecar:198.18.7.10");
    }

    #[test]
    fn the_workspace_is_the_only_mount() {
        let mut spec = machine("ada");
        spec.workdir = Some("/work".into());
        spec.mount = Some(Workspace {
            path: "/srv/project".into(),
            mode: WorkspaceMode::Mount,
            target: "/work".into(),
        });
        let body = made(&spec, &traits());
        assert_eq!(body.working_dir.as_deref(), Some("/work"));
        let mounts = body.host_config.unwrap().mounts.unwrap();
        let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
        assert_eq!(mount.source.as_deref(), Some("/srv/project"));
        // A source that is missing must be an error, not a folder that the engine makes as root.
        assert_eq!((mount.typ, mount.read_only), (Some(MountType::BIND), Some(false)));
        assert_eq!(mount.bind_options.as_ref().unwrap().non_recursive, Some(true));
    }

    #[test]
    fn the_command_is_what_the_main_process_is_told_last() {
        let mut spec = machine("ada");
        spec.command = vec!["serve".into(), "a b".into()];
        let body = made(&spec, &traits());
        assert_eq!(body.entrypoint.unwrap(), supervisor::entrypoint(&spec));
        assert_eq!(body.cmd.unwrap(), spec.command);
    }

    #[test]
    fn labels_tell_what_was_set_and_no_value_twice() {
        let body = made(&machine("ada"), &traits());
        let labels = body.labels.unwrap();
        let set = Labels::of(&labels).set::<labels::Set>().unwrap();
        assert_eq!(set.identity().uid, 1000);
        assert_eq!(set.settings["cap_drop"], "ALL");
        assert!(!set.settings.keys().any(|name| name.starts_with("env")));
        assert!(labels[labels::SET].len() < 1500, "{}", labels[labels::SET].len());
    }
}
