//! The sidecar: one container beside the machine, which is its only way out. Its program is bottle
//! itself; it gets what it enforces, and its credentials, on the stdin of a command that is run beside
//! it, and holds them in memory only.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bytes::Bytes;

use super::engine::{Engine, Traits};
use super::labels::{self, Set};
use super::program::Program;
use super::sidecar_image::{self, PROGRAM_PATH, RUN, USER};
use super::wiring::Wiring;
use super::{
    Docker, carrier, create, exec, frozen, network, observe, parse, remove, settings, uplink,
};
use crate::backend::{BackendError, ExecOutput, ExecSpec, Progress, Scope};
use crate::model::access::PROXY_PORT;
use crate::model::gate::GATE_PORT;
use crate::model::{FieldChange, Instance, InstanceState, ResourceKind, SidecarSpec, SpecHash};

/// What a sidecar may hold at most: its own bound of 64 MiB, with room for the command that loads it; and for those
/// that carry connections to a git gate, each a process of less than a mebibyte, and what starts them.
const MEMORY: i64 = 96 << 20;

/// Threads, of the sidecar and of those commands; of the sidecar one is a worker, for there is one CPU.
const PIDS: i64 = 128;

/// Thousandths of a CPU, in the engine's billionths: as much as a whole one.
const NANO_CPUS: i64 = 1_000_000_000;

/// Where a command that is run beside the sidecar reaches it.
pub(super) const CONTROL: &str = "/run/bottle/control.sock";

/// How long a sidecar that was started may take until it listens, and the pause between two looks.
const READY: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// How long one may take for its document: a busy engine has seconds to do before it is asked at all.
const SILENCE: Duration = Duration::from_secs(8);

/// How often an image is loaded again that went away before a container was made from it: with the
/// last sidecar of another tree.
const IMAGE_TRIES: usize = 5;

/// What a sidecar is made of, beside its spec.
struct Parts<'a> {
    /// The image's id.
    image: &'a str,
    program: SpecHash,
    address: Ipv4Addr,
    traits: &'a Traits,
}

fn body(scope: &Scope, spec: &SidecarSpec, parts: &Parts<'_>) -> ContainerCreateBody {
    let network = scope.object_name(&spec.sandbox);
    let listen = format!("{}:{PROXY_PORT}", parts.address);
    // Whether or not there is a git gate: one can come while all of this stays.
    let git = format!("{}:{GATE_PORT}", parts.address);
    let control = format!("unix:{CONTROL}");
    let command = ["sidecar", "serve", "--listen", &listen, "--git", &git, "--control", &control];
    let mut body = ContainerCreateBody {
        image: Some(parts.image.to_owned()),
        hostname: Some("sidecar".to_owned()),
        user: Some(format!("{USER}:{USER}")),
        entrypoint: Some(vec![PROGRAM_PATH.to_owned()]),
        cmd: Some(command.map(str::to_owned).to_vec()),
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host_config(network, parts.traits)),
        ..ContainerCreateBody::default()
    };
    let set = Set {
        uid: USER,
        gid: USER,
        home: "/".to_owned(),
        address: Some(parts.address),
        image: Some(parts.image.to_owned()),
        settings: settings::of_body(&body),
    };
    let wiring = Wiring::of(scope, ResourceKind::Sidecar, &spec.sandbox, Some(&set));
    body.networking_config = Some(NetworkingConfig { endpoints_config: Some(wiring.endpoints()) });
    body.labels = Some(labels::of_sidecar(scope, spec, &set, parts.program));
    body
}

fn host_config(network: String, traits: &Traits) -> HostConfig {
    let most = traits.cpus.map_or(NANO_CPUS, |cpus| cpus.saturating_mul(1_000_000_000));
    let tmpfs = format!("rw,noexec,nosuid,nodev,size=1m,mode=0700,uid={USER},gid={USER}");
    HostConfig {
        network_mode: Some(network),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        // The engine's own seccomp and AppArmor profiles stay: naming any here would replace them.
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ulimits: Some(vec![create::no_core()]),
        privileged: Some(false),
        memory: traits.memory.then_some(MEMORY),
        memory_swap: (traits.memory && traits.swap).then_some(MEMORY),
        nano_cpus: traits.cpu.then_some(NANO_CPUS.min(most)),
        pids_limit: traits.pids.then_some(PIDS),
        tmpfs: Some(HashMap::from([(RUN.to_owned(), tmpfs)])),
        // It stands in two networks and is a router between them in no way: a new namespace inherits
        // the host's own setting.
        sysctls: Some(HashMap::from([("net.ipv4.ip_forward".to_owned(), "0".to_owned())])),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ALWAYS),
            maximum_retry_count: None,
        }),
        // The record must be readable, and bounded, whatever the engine does by default.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "20m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}

/// Sees to it that the sidecars of new machines can be made.
pub(super) async fn prepare(
    docker: &Docker,
    engine: &Engine,
    scope: &Scope,
    progress: &Progress,
) -> Result<(), BackendError> {
    let program = program(docker).await?;
    sidecar_image::ready(docker, engine, scope, &program, progress).await.map(drop)
}

pub(super) async fn program(docker: &Docker) -> Result<Arc<Program>, BackendError> {
    let reason = |reason| BackendError::Unsupported(format!("a sidecar cannot be made: {reason}"));
    docker.program().await.map_err(reason)
}

/// Makes the container, on the sandbox's network and on the uplink, or finds the one that is there.
pub(super) async fn create(
    docker: &Docker,
    engine: &Engine,
    scope: &Scope,
    spec: &SidecarSpec,
) -> Result<Instance, BackendError> {
    let name = parse::name_of(scope, &spec.sandbox, ResourceKind::Sidecar);
    let program = program(docker).await?;
    let traits = engine.traits().await?;
    let subnet = network::subnet(engine, scope, &spec.sandbox).await?;
    let mut tries = 0;
    let made = loop {
        let silent = Progress::silent();
        let image = sidecar_image::ready(docker, engine, scope, &program, &silent).await?;
        let parts = Parts {
            image: &image,
            program: program.digest,
            address: subnet.sidecar(),
            traits: &traits,
        };
        let plan = create::Plan {
            name: &name,
            hash: spec.hash(),
            image: &sidecar_image::name(program.digest),
        };
        match create::container(engine, scope, &plan, body(scope, spec, &parts)).await {
            Err(BackendError::Image { .. }) if tries < IMAGE_TRIES => tries += 1,
            made => break made?,
        }
    };
    wire(engine, scope, &made).await?;
    Ok(made)
}

/// Attaches it to its networks, where it is not on all of them.
pub(super) async fn wire(
    engine: &Engine,
    scope: &Scope,
    sidecar: &Instance,
) -> Result<(), BackendError> {
    let Some(found) = observe::raw_by_id(engine, &sidecar.id).await? else { return Ok(()) };
    let empty = HashMap::new();
    let set = labels::Labels::of(found.labels.as_ref().unwrap_or(&empty)).set();
    let wiring = Wiring::of_instance(scope, sidecar, set.as_ref());
    if wiring.drift(&found, false).is_none() {
        return Ok(());
    }
    wiring.mend(engine, scope, &found, &sidecar.name).await
}

/// Removes a container that is this scope's own, and what only it needed: the uplink of the last, the image of the last.
pub(super) async fn teardown(
    engine: &Engine,
    scope: &Scope,
    sidecar: &Instance,
) -> Result<(), BackendError> {
    if let Some((_, made)) = observe::by_id(engine, scope, &sidecar.id).await? {
        remove::machine(engine, sidecar).await?;
        if let Some(image) = made.set.and_then(|set| set.image) {
            sidecar_image::remove(engine, &image).await?;
        }
        carrier::tidy(engine, scope, &sidecar.sandbox).await?;
    }
    uplink::tidy(engine, scope).await
}

/// Says of sidecars that were seen whether they run another program than new ones would.
pub(super) fn judge(
    sidecar: &mut Instance,
    runs: Option<SpecHash>,
    program: &Result<Arc<Program>, String>,
) {
    match program {
        Ok(program) if runs == Some(program.digest) => {}
        Ok(program) => sidecar.drift.push(FieldChange {
            path: "sidecar.program".to_owned(),
            from: runs.map(|digest| digest.short()),
            to: Some(program.digest.short()),
        }),
        // One that could not be made again is not taken away.
        Err(reason) => {
            sidecar
                .notes
                .push(format!("the sidecar stays as it is, and cannot be made anew: {reason}"));
        }
    }
}

async fn run(
    engine: &Engine,
    sidecar: &Instance,
    command: &str,
    stdin: Bytes,
) -> Result<ExecOutput, BackendError> {
    let spec = ExecSpec::new([PROGRAM_PATH, "sidecar", command, "--control", CONTROL]);
    exec::exec(engine, sidecar, &spec, stdin).await
}

/// Gives it its document.
pub(super) async fn load(
    engine: &Engine,
    scope: &Scope,
    sidecar: &Instance,
    document: Bytes,
) -> Result<(), BackendError> {
    let first = run(engine, sidecar, "load", document.clone());
    let said = match tokio::time::timeout(SILENCE, first).await {
        Ok(said) => Some(said?),
        Err(_) => {
            let (name, seconds) = (&sidecar.name, SILENCE.as_secs());
            tracing::warn!(sidecar = %name, seconds, "it does not answer, and is started again");
            frozen::restart(engine, sidecar).await?;
            wire(engine, scope, sidecar).await?;
            None
        }
    };
    if said.as_ref().is_some_and(|said| said.code == 0) {
        return Ok(());
    }
    // It may have been started only just now: once it listens, it is told again.
    let listens = async {
        while run(engine, sidecar, "state", Bytes::new()).await?.code != 0 {
            tokio::time::sleep(PAUSE).await;
        }
        Ok::<(), BackendError>(())
    };
    let Ok(listens) = tokio::time::timeout(READY, listens).await else {
        // One that ends again and again says more than one that does not answer.
        still_runs(engine, scope, sidecar).await?;
        return Err(said.map_or_else(|| silent(sidecar), |said| refusal("loading", sidecar, &said)));
    };
    listens?;
    let said = run(engine, sidecar, "load", document).await?;
    if said.code == 0 { Ok(()) } else { Err(refusal("loading", sidecar, &said)) }
}

fn silent(sidecar: &Instance) -> BackendError {
    let why = "it does not answer, also after it was started again: see its log";
    BackendError::failed(format!("loading {}", sidecar.name), anyhow::anyhow!(why))
}

async fn still_runs(
    engine: &Engine,
    scope: &Scope,
    sidecar: &Instance,
) -> Result<(), BackendError> {
    let found = observe::by_id(engine, scope, &sidecar.id).await?;
    let state = match found.map(|(found, _)| found.state) {
        Some(InstanceState::Running) => return Ok(()),
        None => "gone".to_owned(),
        Some(InstanceState::Stopped { code: Some(code) }) => {
            format!("ending with {code} whenever it is started: see its log")
        }
        Some(_) => "not running".to_owned(),
    };
    Err(BackendError::NotRunning { name: sidecar.name.clone(), state })
}

/// What it says of itself.
pub(super) async fn state(engine: &Engine, sidecar: &Instance) -> Result<Bytes, BackendError> {
    let said = run(engine, sidecar, "state", Bytes::new()).await?;
    if said.code == 0 { Ok(said.stdout.into()) } else { Err(refusal("asking", sidecar, &said)) }
}

/// A sidecar's own words, which hold no secret.
fn refusal(doing: &str, sidecar: &Instance, said: &ExecOutput) -> BackendError {
    let words = String::from_utf8_lossy(&said.stderr);
    let words = match words.trim() {
        "" => format!("it ended with {} and said nothing", said.code),
        words => words.to_owned(),
    };
    BackendError::failed(format!("{doing} {}", sidecar.name), anyhow::anyhow!(words))
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::traits;
    use super::super::labels::Labels;
    use super::super::labels::tests::scope;
    use super::*;
    use crate::model::Fields;

    fn made() -> ContainerCreateBody {
        let spec = SidecarSpec {
            sandbox: "ada".parse().unwrap(),
            fields: Fields::default(),
            policy: Arc::default(),
            proxy: None,
        };
        let parts = Parts {
            image: "sha256:side",
            program: SpecHash::of_bytes(b"bottle"),
            address: Ipv4Addr::new(198, 18, 7, 10),
            traits: &traits(),
        };
        body(&scope(), &spec, &parts)
    }

    #[test]
    fn a_sidecar_is_hardened() {
        let body = made();
        let host = body.host_config.unwrap();
        assert_eq!(body.user.as_deref(), Some("65532:65532"));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), None));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.privileged, host.pid_mode, host.devices), (Some(false), None, None));
        assert_eq!((host.binds, host.mounts, host.port_bindings), (None, None, None));
        assert_eq!((host.memory, host.memory_swap), (Some(MEMORY), Some(MEMORY)));
        assert_eq!((host.pids_limit, host.nano_cpus), (Some(128), Some(1_000_000_000)));
        assert_eq!(host.sysctls.unwrap()["net.ipv4.ip_forward"], "0");
        let tmpfs: Vec<(String, String)> = host.tmpfs.unwrap().into_iter().collect();
        assert_eq!(tmpfs[0].0, "/run/bottle");
        assert!(tmpfs[0].1.contains("noexec") && tmpfs[0].1.contains("mode=0700,uid=65532"));
        assert_eq!(tmpfs.len(), 1);
        let log = host.log_config.unwrap();
        assert_eq!((log.typ.as_deref(), log.config.unwrap().len()), (Some("json-file"), 2));
    }

    #[test]
    fn it_listens_on_the_sandboxs_side_only_and_is_known_there_by_name() {
        let body = made();
        assert_eq!(
            body.cmd.unwrap(),
            [
                "sidecar",
                "serve",
                "--listen",
                "198.18.7.10:3128",
                "--git",
                "198.18.7.10:9418",
                "--control",
                "unix:/run/bottle/control.sock"
            ]
        );
        let ends = body.networking_config.unwrap().endpoints_config.unwrap();
        let end = &ends["bottle-team-ada"];
        assert_eq!(end.aliases, Some(vec!["sidecar".to_owned(), "git.bottle".to_owned()]));
        assert_eq!(body.env, None);
        let labels = body.labels.unwrap();
        assert_eq!(labels::program(&Labels::of(&labels)), Some(SpecHash::of_bytes(b"bottle")));
        assert_eq!(Labels::of(&labels).set::<Set>().unwrap().image.as_deref(), Some("sha256:side"));
    }
}
