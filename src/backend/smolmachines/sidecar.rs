//! The one way out of a microVM: every connection that it opens is delivered to its sidecar.
//!
//! `smolvm` hands each TCP connection of a machine to a listener on the host's loopback, and says
//! where it was meant to go; nothing else leaves the machine. The listener's address, and a token by
//! which it knows the machine from any other program of the host, are chosen once and kept (0600):
//! a sidecar that starts anew beside its running machine takes the same. The socket is made here, and
//! handed to the sidecar with the token, over its control socket.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use super::command::Call;
use super::labels::machine_name;
use super::version::Version;
use super::{Smolmachines, observe, record};
use crate::backend::hostside::{self, Role, Sidecar, Sidecars};
use crate::backend::{BackendError, LogOptions, Scope};
use crate::model::access::MICROVM_GATEWAY;
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Instance, InstanceState, MachineSpec, ResourceKind, SandboxId, SidecarSpec,
};

/// Where the connections of one machine go, and how they prove to be its.
#[derive(Clone, Serialize, Deserialize)]
struct Door {
    port: u16,
    /// 32 bytes in hexadecimal.
    token: String,
}

impl Door {
    /// Names it in what is remembered of the sidecar.
    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn place(scope: &Scope, sandbox: &SandboxId) -> PathBuf {
    record::folder(scope).join("doors").join(format!("{sandbox}.json"))
}

fn door(scope: &Scope, sandbox: &SandboxId) -> Option<Door> {
    record::read(&place(scope, sandbox))
}

fn token() -> Result<String, BackendError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        BackendError::failed("choosing a token", anyhow::anyhow!("no randomness: {error}"))
    })?;
    Ok(hex::encode(random))
}

/// Whether this version can hold a machine to its sidecar.
pub(super) fn check(spec: &MachineSpec, version: Version) -> Result<(), BackendError> {
    if !spec.connected || version.interceptor() {
        return Ok(());
    }
    Err(BackendError::Unsupported(format!(
        "smolvm {version} cannot hold a machine to its sidecar (it would reach every port of this \
         host's loopback): install {} or later, or take `egress` and `cred_proxy` out of the bottle",
        Version::INTERCEPTOR
    )))
}

/// What `machine create` is told of the network: the gateway, where the sidecar answers, is the only
/// address that there is, and no name can be looked up.
pub(super) fn create_args(spec: &MachineSpec) -> Vec<String> {
    if !spec.connected {
        return Vec::new();
    }
    let gateway = format!("{MICROVM_GATEWAY}/32");
    ["--allow-cidr", &gateway, "--allow-host-pattern", NO_NAME, "--dns", NO_SERVER]
        .map(str::to_owned)
        .into()
}

/// What the listing shows of that.
pub(super) fn reach() -> BTreeSet<String> {
    [format!("{MICROVM_GATEWAY}/32"), format!("={NO_NAME}"), format!("dns {NO_SERVER}")].into()
}

/// The one name that it may ask for, which says nothing: without one it may ask for any.
const NO_NAME: &str = "localhost";
/// An address of this host at which nothing answers.
const NO_SERVER: &str = "127.255.255.254";

/// Adds to `machine start` what each start has to say again.
pub(super) fn start_args(
    scope: &Scope,
    sandbox: &SandboxId,
    call: &mut Call,
) -> Result<(), BackendError> {
    let Some(door) = door(scope, sandbox) else {
        return Err(BackendError::NotRunning {
            name: format!("the sidecar of {sandbox}"),
            state: "not started, and its machine has no other way out".to_owned(),
        });
    };
    call.args.extend(["--egress-interceptor".to_owned(), door.name()]);
    call.env.push(("SMOLVM_INTERCEPTOR_TOKEN", door.token));
    Ok(())
}

/// Runs what blocks elsewhere.
async fn blocking<T: Send + 'static>(
    backend: &Smolmachines,
    scope: &Scope,
    what: &'static str,
    work: impl FnOnce(Sidecars<'_>) -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let (program, scope) = (backend.program.clone(), scope.clone());
    let done = tokio::task::spawn_blocking(move || {
        work(Sidecars::new(Role::Sidecar, &scope, BackendKind::Smolmachines, &program))
    });
    done.await.unwrap_or_else(|panic| Err(BackendError::failed(what, panic)))
}

/// Those that there are, as the planner sees them.
pub(super) async fn observe(
    backend: &Smolmachines,
    scope: &Scope,
) -> Result<Vec<Instance>, BackendError> {
    let data = scope.clone();
    blocking(backend, scope, "observing sidecars", move |sidecars| {
        let all =
            sidecars.all().map_err(|error| BackendError::failed("observing sidecars", error))?;
        let instance = |sidecar: Sidecar<'_>| {
            let mut instance = sidecar.instance();
            let door = door(&data, sidecar.sandbox()).map(|door| door.name());
            // One that serves no door is as good as one that its machine is not attached to.
            instance.mendable.extend(sidecar.unattached(Some(door.as_deref().unwrap_or_default())));
            instance
        };
        Ok(all.into_iter().map(instance).collect())
    })
    .await
}

/// What there is of them, in words that differ when anything changes.
pub(super) fn snapshot(scope: &Scope) -> Vec<(String, String)> {
    let all = hostside::processes(Role::Sidecar, scope, BackendKind::Smolmachines);
    let host_boot = hostside::host_boot().unwrap_or_default();
    let words = |(sandbox, process): (SandboxId, Option<hostside::Process>)| {
        let lives = process.as_ref().is_some_and(|process| process.alive(&host_boot));
        let boot = process.map(|process| process.boot()).unwrap_or_default();
        (format!("sidecar {sandbox}"), format!("{boot} {lives}"))
    };
    all.into_iter().map(words).collect()
}

/// Makes one, not started.
pub(super) async fn create(
    backend: &Smolmachines,
    scope: &Scope,
    spec: &SidecarSpec,
) -> Result<Instance, BackendError> {
    let spec = spec.clone();
    blocking(backend, scope, "creating a sidecar", move |sidecars| {
        sidecars.create(&ResourceSpec::Sidecar(spec))
    })
    .await
}

/// Starts it, and opens its door.
pub(super) async fn start(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<Instance, BackendError> {
    // While its machine runs, that knows the door as it is and no other.
    let name = machine_name(scope, &instance.sandbox);
    let machine = observe::by_name(backend, scope, &name).await?;
    let machine = machine.and_then(|row| observe::instance(scope, &row));
    let bound = machine.is_some_and(|machine| machine.state == InstanceState::Running);
    let (instance, data) = (instance.clone(), scope.clone());
    blocking(backend, scope, "starting a sidecar", move |sidecars| {
        let sidecar = sidecars.start(&instance)?;
        open(&data, &sidecar, bound)?;
        Ok(sidecar.instance())
    })
    .await
}

/// Has a running sidecar listen at its door. The door may be another one unless a machine is `bound`
/// to it.
fn open(scope: &Scope, sidecar: &Sidecar<'_>, bound: bool) -> Result<(), BackendError> {
    let sandbox = sidecar.sandbox();
    let what = format!("opening the sidecar of {sandbox} to its machine");
    let failed = |error: anyhow::Error| BackendError::failed(&what, error);
    let before = door(scope, sandbox);
    if before.as_ref().is_some_and(|door| sidecar.is_attached(&door.name())) {
        return Ok(());
    }
    let control = sidecar.control()?;
    // Of an opening that was cut short, it may hold the address already.
    control.detach().map_err(failed)?;
    let listener = match listen(before.as_ref().map_or(0, |door| door.port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !bound => listen(0),
        result => result,
    };
    let listener = listener.map_err(|error| {
        let address = before.as_ref().map(Door::name).unwrap_or_default();
        failed(anyhow::anyhow!(
            "the address {address}, which its running machine was given, is not free \
             ({error}): end the program that has taken it, or stop the machine"
        ))
    })?;
    let port = listener.local_addr().map_err(|error| failed(error.into()))?.port();
    let token = match before {
        Some(door) => door.token,
        None => token()?,
    };
    let door = Door { port, token };
    // Before it is used: a machine could otherwise be started with a door that nobody remembers.
    record::keep(&place(scope, sandbox), &door).map_err(|error| failed(error.into()))?;
    control.intercept(listener.as_fd(), &door.token).map_err(failed)?;
    sidecar.note_attached(&door.name()).map_err(|error| failed(error.into()))
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Ends it. Its door stays its own.
pub(super) async fn stop(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let own = instance.clone();
    blocking(backend, scope, "stopping a sidecar", move |sidecars| sidecars.stop(&own, || Ok(())))
        .await
}

/// Ends and removes it, and forgets the door unless a machine is there that knows it.
pub(super) async fn teardown(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let (sandbox, own) = (instance.sandbox.clone(), instance.clone());
    blocking(backend, scope, "tearing a sidecar down", move |sidecars| {
        sidecars.teardown(&own, || Ok(()))
    })
    .await?;
    let name = machine_name(scope, &sandbox);
    if let Ok(None) = observe::by_name(backend, scope, &name).await {
        forget(scope, &sandbox);
    }
    Ok(())
}

/// The machine is gone, and with it the one who knew the door: unless the sidecar stays, it goes too.
pub(super) async fn machine_is_gone(backend: &Smolmachines, scope: &Scope, sandbox: &SandboxId) {
    let of = sandbox.clone();
    let sidecar = blocking(backend, scope, "looking for a sidecar", move |sidecars| {
        Ok(sidecars.of(&of)?.is_some())
    });
    if matches!(sidecar.await, Ok(false)) {
        forget(scope, sandbox);
    }
}

fn forget(scope: &Scope, sandbox: &SandboxId) {
    let place = place(scope, sandbox);
    record::forget(&place);
    if let Some(folder) = place.parent() {
        // Once it is empty.
        let _ = std::fs::remove_dir(folder);
    }
}

/// Opens the door of one that runs without.
pub(super) async fn mend(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    if instance.resource != ResourceKind::Sidecar {
        return Ok(());
    }
    match start(backend, scope, instance).await {
        // Gone by now: nothing is left to mend.
        Err(BackendError::NotRunning { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// Gives it its document, whole.
pub(super) async fn load(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    document: Bytes,
) -> Result<(), BackendError> {
    let instance = instance.clone();
    blocking(backend, scope, "loading a sidecar", move |sidecars| {
        sidecars.own(&instance)?.load(&document)
    })
    .await
}

/// What it says of itself.
pub(super) async fn state(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<Bytes, BackendError> {
    let instance = instance.clone();
    blocking(backend, scope, "asking a sidecar", move |sidecars| {
        sidecars.own(&instance)?.state().map(Bytes::from)
    })
    .await
}

/// Its record.
pub(super) async fn logs(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    options: LogOptions,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<(), BackendError> {
    let instance = instance.clone();
    let record = blocking(backend, scope, "reading a sidecar's record", move |sidecars| {
        Ok(sidecars.own(&instance)?.record_of())
    });
    record.await?.show(options, out).await
}
