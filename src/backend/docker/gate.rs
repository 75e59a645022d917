//! The git gate of a sandbox on an engine: a process of this machine as any other gate, see `hostside`. Its relay brings the
//! connections, see `relay`: that is what it is attached by, and what it is given anew where it has lost it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde_json::json;
use tokio::io::AsyncWrite;

use super::connect::Endpoint;
use super::relay::Order;
use super::{Docker, Settings};
use crate::backend::hostside::{self, Role, Sidecar, Sidecars};
use crate::backend::native::{cgroup_of, remove_cgroups, set_apart};
use crate::backend::{BackendError, Hint, LogOptions, Scope};
use crate::model::spec::ResourceSpec;
use crate::model::{BackendKind, GateSpec, Instance, SandboxId};

/// How often it is looked whether one has ended.
const PERIOD: Duration = Duration::from_secs(2);

/// Runs what blocks elsewhere.
async fn blocking<T: Send + 'static>(
    docker: &Docker,
    scope: &Scope,
    what: &'static str,
    work: impl FnOnce(Sidecars<'_>) -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let (program, scope) = (docker.gates.clone(), scope.clone());
    let done = tokio::task::spawn_blocking(move || {
        work(Sidecars::new(Role::Gate, &scope, BackendKind::Docker, &program))
    });
    done.await.unwrap_or_else(|panic| Err(BackendError::failed(what, panic)))
}

/// Which engine a relay goes to, by which it is known whether a gate has the right one.
fn place(endpoint: &Endpoint) -> String {
    let certificates = endpoint.certificates.as_deref().map(|folder| folder.display().to_string());
    [Some(endpoint.host.clone()), certificates].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What a relay is told.
fn order(settings: &Settings, scope: &Scope, sandbox: &SandboxId) -> Vec<u8> {
    let relay = Order {
        owner: scope.owner.clone(),
        state: scope.state.clone(),
        adopted: scope.adopted.iter().cloned().collect(),
        sandbox: sandbox.clone(),
    };
    json!({ "env": settings.environment(), "relay": relay }).to_string().into_bytes()
}

/// Those that there are, as the planner sees them.
pub(super) async fn observe(
    docker: &Docker,
    scope: &Scope,
    endpoint: &Endpoint,
) -> Result<Vec<Instance>, BackendError> {
    let what = "observing git gates";
    let place = place(endpoint);
    blocking(docker, scope, what, move |gates| {
        let all = gates.all().map_err(|error| BackendError::failed(what, error))?;
        let instance = |gate: Sidecar<'_>| {
            let mut instance = gate.instance();
            instance.mendable.extend(gate.unattached(Some(&place)));
            instance
        };
        Ok(all.into_iter().map(instance).collect())
    })
    .await
}

/// Makes one, not started.
pub(super) async fn create(
    docker: &Docker,
    scope: &Scope,
    spec: &GateSpec,
) -> Result<Instance, BackendError> {
    let spec = ResourceSpec::Gate(spec.clone());
    blocking(docker, scope, "creating a git gate", move |gates| gates.create(&spec)).await
}

/// Starts it, and has its relay begin.
pub(super) async fn start(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
) -> Result<Instance, BackendError> {
    let endpoint = docker.settings.endpoint();
    let endpoint = endpoint
        .map_err(|reason| BackendError::Unreachable { backend: BackendKind::Docker, reason })?;
    let (place, order) = (place(&endpoint), order(&docker.settings, scope, &instance.sandbox));
    let instance = instance.clone();
    blocking(docker, scope, "starting a git gate", move |gates| {
        let gate = gates.start(&instance)?;
        if let Err(error) = set_apart(&instance, &gate) {
            // It works where it is: in the cgroup of whoever started it.
            tracing::warn!(gate = %instance.name, "it has no cgroup of its own: {error:#}");
        }
        if !gate.is_attached(&place) {
            let what = format!("having connections brought to {}", instance.name);
            gate.control()?.relay(&order).map_err(|error| BackendError::failed(&what, error))?;
            gate.note_attached(&place).map_err(|error| BackendError::failed(&what, error))?;
        }
        Ok(gate.instance())
    })
    .await
}

/// Ends it, and keeps what is its.
pub(super) async fn stop(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let instance = instance.clone();
    blocking(docker, scope, "stopping a git gate", move |gates| {
        let was_in = cgroup_of(gates, &instance);
        gates.stop(&instance, || remove_cgroups(&instance, was_in.as_deref()))
    })
    .await
}

/// Ends and removes it.
pub(super) async fn teardown(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let instance = instance.clone();
    blocking(docker, scope, "tearing a git gate down", move |gates| {
        let was_in = cgroup_of(gates, &instance);
        gates.teardown(&instance, || remove_cgroups(&instance, was_in.as_deref()))
    })
    .await
}

/// Has the relay begin of one that runs without.
pub(super) async fn mend(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    match start(docker, scope, instance).await {
        // Gone by now: nothing is left to mend.
        Err(BackendError::NotRunning { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// Gives it its document, whole.
pub(super) async fn load(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
    document: Bytes,
) -> Result<(), BackendError> {
    let instance = instance.clone();
    blocking(docker, scope, "loading a git gate", move |gates| {
        gates.own(&instance)?.load(&document)
    })
    .await
}

/// What it says of itself.
pub(super) async fn state(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
) -> Result<Bytes, BackendError> {
    let instance = instance.clone();
    blocking(docker, scope, "asking a git gate", move |gates| {
        gates.own(&instance)?.state().map(Bytes::from)
    })
    .await
}

/// Its record.
pub(super) async fn logs(
    docker: &Docker,
    scope: &Scope,
    instance: &Instance,
    options: LogOptions,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<(), BackendError> {
    let instance = instance.clone();
    let record = blocking(docker, scope, "reading a git gate's record", move |gates| {
        Ok(gates.own(&instance)?.record_of())
    });
    record.await?.show(options, out).await
}

/// Which there are, and which of them live.
fn snapshot(scope: &Scope) -> Vec<(SandboxId, String)> {
    let host_boot = hostside::host_boot().unwrap_or_default();
    let all = hostside::processes(Role::Gate, scope, BackendKind::Docker);
    let words = |(sandbox, process): (SandboxId, Option<hostside::Process>)| {
        let lives = process.as_ref().is_some_and(|process| process.alive(&host_boot));
        let boot = process.map(|process| process.boot()).unwrap_or_default();
        (sandbox, format!("{boot} {lives}"))
    };
    all.into_iter().map(words).collect()
}

/// The engine's hints, and those that a gate has come or gone, of which the engine knows nothing. They end with the
/// engine's.
pub(super) fn with_ends(
    hints: BoxStream<'static, Result<Hint, BackendError>>,
    scope: &Scope,
) -> BoxStream<'static, Result<Hint, BackendError>> {
    let scope = Arc::new(scope.clone());
    let before = snapshot(&scope);
    let ends = stream::unfold(before, move |before| {
        let scope = Arc::clone(&scope);
        async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                let of = Arc::clone(&scope);
                let now = tokio::task::spawn_blocking(move || snapshot(&of)).await.ok()?;
                if now != before {
                    let changed = now.iter().chain(&before);
                    let changed = changed
                        .filter(|one| !(now.contains(*one) && before.contains(*one)))
                        .map(|(sandbox, _)| format!("gate {sandbox}"))
                        .next();
                    let what = changed.unwrap_or_else(|| "gate".to_owned());
                    return Some((Ok(Hint { what }), now));
                }
            }
        }
    });
    // What ends the engine's ends all.
    let engine = hints.map(Some).chain(stream::once(std::future::ready(None)));
    stream::select(engine, ends.map(Some))
        .take_while(|hint| std::future::ready(hint.is_some()))
        .filter_map(std::future::ready)
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hints_end_with_the_engines() {
        let folder = tempfile::tempdir().unwrap();
        let scope =
            Scope { data: folder.path().to_owned(), ..super::super::labels::tests::scope() };
        let hint = |what: &str| Ok(Hint { what: what.to_owned() });
        let over = || Err(BackendError::Unsupported("over".to_owned()));
        let hints = stream::iter([hint("one"), over()]).boxed();
        let all: Vec<_> = with_ends(hints, &scope).collect().await;
        assert_eq!(all.len(), 2);
        assert!(all[0].is_ok() && all[1].is_err());
    }

    #[test]
    fn a_relay_is_told_whose_sidecar_and_which_engine() {
        let settings = Settings { host: Some("unix:///run/x.sock".into()), ..Settings::default() };
        let scope = super::super::labels::tests::scope();
        let text = order(&settings, &scope, &"ada".parse().unwrap());
        let order: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(order["env"]["DOCKER_HOST"], "unix:///run/x.sock");
        let relay: Order = serde_json::from_value(order["relay"].clone()).unwrap();
        assert_eq!((relay.owner, relay.state), (scope.owner, scope.state));
        assert_eq!((relay.adopted, relay.sandbox.as_str()), (vec!["s0".to_owned()], "ada"));
        let endpoint = settings.endpoint().unwrap();
        assert_eq!(place(&endpoint), "unix:///run/x.sock");
    }
}
