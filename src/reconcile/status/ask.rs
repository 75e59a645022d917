//! What backends say of machines, sidecars and gates while they run: bounded in number and in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use super::SandboxStatus;
use super::rows::machines;
use crate::backend::{Backend, LogOptions, MainState, Scope};
use crate::model::{Instance, InstanceState, Ownership, ResourceKind, SandboxId, Usage};
use crate::reconcile::{Reconciler, View};

/// So many machines are asked at once what they do, each no longer than this.
const ASKED_AT_ONCE: usize = 16;
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// So many lines of output of what fails are shown.
const OUTPUT_LINES: u64 = 5;

/// What the commands of running machines do, where there are any.
pub(super) async fn mains(reconciler: &Reconciler, view: &View) -> BTreeMap<SandboxId, MainState> {
    let machines = machines(view);
    let asked: Vec<_> = machines
        .into_iter()
        .filter(|(id, machine)| {
            let spec = view.desired.sandboxes.get(*id);
            let command = spec.is_none_or(|spec| !spec.command.is_empty());
            command && machine.state == InstanceState::Running
        })
        .filter_map(|(_, machine)| {
            let backend = reconciler.backends.get(&machine.backend)?.clone();
            Some(main(backend, view.scope.clone(), machine.clone()))
        })
        .collect();
    gather(asked).await
}

async fn main(
    backend: Arc<dyn Backend>,
    scope: Scope,
    machine: Instance,
) -> Option<(SandboxId, MainState)> {
    let asked = backend.main_state(&scope, &machine);
    match tokio::time::timeout(ASK_DEADLINE, asked).await {
        Ok(Ok(Some(main))) => Some((machine.sandbox, main)),
        _ => None,
    }
}

/// Asks all of them, so many at once.
async fn gather<T>(
    asked: Vec<impl Future<Output = Option<(SandboxId, T)>>>,
) -> BTreeMap<SandboxId, T> {
    let answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    answers.filter_map(std::future::ready).collect().await
}

/// What running sidecars, or gates, say of themselves.
pub(super) async fn beside<T>(
    reconciler: &Reconciler,
    view: &View,
    kind: ResourceKind,
    read: impl Fn(&[u8]) -> Option<T> + Copy,
) -> BTreeMap<SandboxId, T> {
    let asked = view.observed.instances.iter().filter(|instance| {
        instance.resource == kind
            && instance.ownership == Ownership::Ours
            && instance.state == InstanceState::Running
    });
    let asked = asked.filter_map(|instance| {
        let backend = reconciler.backends.get(&instance.backend)?.clone();
        Some(state(backend, view.scope.clone(), instance.clone()))
    });
    let answers = gather(asked.collect()).await.into_iter();
    answers.filter_map(|(id, answer)| Some((id, read(&answer)?))).collect()
}

async fn state(
    backend: Arc<dyn Backend>,
    scope: Scope,
    instance: Instance,
) -> Option<(SandboxId, Bytes)> {
    let asked = backend.sidecar_state(&scope, &instance);
    let answer = tokio::time::timeout(ASK_DEADLINE, asked).await.ok()?.ok()?;
    Some((instance.sandbox, answer))
}

/// What running machines use, where their backends tell.
pub(super) async fn usages(reconciler: &Reconciler, view: &View) -> BTreeMap<SandboxId, Usage> {
    let machines = machines(view).into_values();
    let running = machines.filter(|machine| machine.state == InstanceState::Running);
    let asked = running.filter_map(|machine| {
        let backend = reconciler.backends.get(&machine.backend)?.clone();
        Some(usage(backend, view.scope.clone(), machine.clone()))
    });
    gather(asked.collect()).await
}

async fn usage(
    backend: Arc<dyn Backend>,
    scope: Scope,
    machine: Instance,
) -> Option<(SandboxId, Usage)> {
    let asked = backend.usage(&scope, &machine);
    let answer = tokio::time::timeout(ASK_DEADLINE, asked).await.ok()?.ok()??;
    Some((machine.sandbox, answer))
}

/// Fetches the last lines of output of what fails.
pub(super) async fn outputs(reconciler: &Reconciler, view: &View, sandboxes: &mut [SandboxStatus]) {
    let machines = machines(view);
    for status in sandboxes.iter_mut().filter(|status| status.fails()) {
        let Some(machine) = machines.get(&status.sandbox) else { continue };
        let Some(backend) = reconciler.backends.get(&machine.backend) else { continue };
        let mut out: Vec<u8> = Vec::new();
        let options =
            LogOptions { follow: false, tail: Some(OUTPUT_LINES), ..LogOptions::default() };
        let asked = backend.logs(&view.scope, machine, options, &mut out);
        // Whatever came before the deadline is shown: it is a comfort, not the answer.
        let _ = tokio::time::timeout(ASK_DEADLINE, asked).await;
        let text = String::from_utf8_lossy(&out);
        status.output = text.lines().map(str::to_owned).collect();
    }
}
