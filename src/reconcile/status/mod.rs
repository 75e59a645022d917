//! How everything stands: every sandbox, declared or existing, and what agents ask for.
//!
//! [`observe`] looks at tree and backends and puts a [`Status`] together; [`of`] does so for a look that was taken.
//! A `watch` publishes it (`publish`, with what the loop says of itself on the `board`), and [`feed`] reads that;
//! [`newest`] takes it from there, or observes. `document` is the status as data, `rows` makes a row a sandbox of what the look has shown, `ask` asks what runs,
//! and `missing` says what to do about a program that is not inside.

mod ask;
pub(super) mod board;
mod document;
pub mod feed;
pub mod missing;
pub(super) mod publish;
mod rows;

pub use document::{
    GitStatus, RequestRow, RequestsStatus, Retry, SandboxStatus, SidecarStatus, Status, WatchStatus,
};
pub use feed::newest;

use std::collections::BTreeSet;

use super::pass::{Last, Reconciler};
use super::requests::Record;
use super::view::View;
use crate::model::supervise::Standing;
use crate::model::{ResourceKind, SandboxId};
use crate::plan::Options;
use crate::plan::document::VERSION;
use crate::reconcile::detached::RunDocument;

/// So many requests that were decided are shown, the newest.
const DECIDED: usize = 100;

/// There is no such sandbox.
#[derive(Debug, thiserror::Error)]
#[error("there is no sandbox {sandbox}")]
pub struct NoSandbox {
    /// The name.
    pub sandbox: SandboxId,
    /// Those that there are.
    pub known: Vec<SandboxId>,
}

/// Looks at tree and backends, and says how everything stands; of these sandboxes only, where any are named.
/// Takes no lock, and changes nothing but that it writes down what sidecars hold of requests.
///
/// # Errors
/// [`NoSandbox`]; or when the tree or the state folder cannot be read.
pub async fn observe(
    reconciler: &Reconciler,
    only: &BTreeSet<SandboxId>,
) -> anyhow::Result<Status> {
    let view = reconciler.look(Options::default()).await?;
    of(reconciler, &view, only).await
}

/// The same of a look that was taken.
///
/// # Errors
/// [`NoSandbox`]; or when the state folder cannot be read.
pub async fn of(
    reconciler: &Reconciler,
    view: &View,
    only: &BTreeSet<SandboxId>,
) -> anyhow::Result<Status> {
    if view.memory.dir().is_dir() {
        // What is shown is what sidecars hold now. Where that cannot be written down, it is shown as it was.
        if let Err(error) = reconciler.pull(view).await {
            tracing::warn!(error = %format!("{error:#}"), "requests cannot be read");
        }
    }
    of_pulled(reconciler, view, only).await
}

/// The same, where what sidecars hold was written down just now.
pub(super) async fn of_pulled(
    reconciler: &Reconciler,
    view: &View,
    only: &BTreeSet<SandboxId>,
) -> anyhow::Result<Status> {
    let last: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
    let mains = ask::mains(reconciler, view).await;
    let mut sandboxes = rows::sandboxes(view, &last, &mains);
    for run in view.memory.runs()? {
        let of = sandboxes.iter_mut().find(|status| status.sandbox == run.record.sandbox);
        if let Some(status) = of {
            status.runs.push(RunDocument::of(&run));
        }
    }
    let records = view.memory.requests()?;
    for status in &mut sandboxes {
        let spec = view.desired.sandboxes.get(&status.sandbox);
        let waits = |it: &&Record| it.sandbox == status.sandbox && it.state == Standing::Pending;
        let pending = records.iter().filter(waits).count();
        let asks = spec.is_some_and(|spec| spec.policy.supervise) || pending > 0;
        status.requests = asks.then_some(RequestsStatus { pending });
    }
    let mut status = Status {
        version: VERSION,
        tree: view.tree(),
        last_commit: last.commit,
        sandboxes,
        requests: requests(view, records),
        watch: view.memory.watcher().map(WatchStatus::of),
        diagnostics: view.desired.diagnostics.clone(),
    };
    status = only_of(status, only)?;
    ask::outputs(reconciler, view, &mut status.sandboxes).await;
    let sidecar = |bytes: &[u8]| Some(SidecarStatus::of(serde_json::from_slice(bytes).ok()?));
    let mut sidecars = ask::beside(reconciler, view, ResourceKind::Sidecar, sidecar).await;
    let gate = |bytes: &[u8]| Some(GitStatus::of(serde_json::from_slice(bytes).ok()?));
    let mut gates = ask::beside(reconciler, view, ResourceKind::Gate, gate).await;
    let mut usages = ask::usages(reconciler, view).await;
    for status in &mut status.sandboxes {
        status.usage = usages.remove(&status.sandbox);
        status.sidecar = sidecars.remove(&status.sandbox);
        status.git = gates.remove(&status.sandbox);
    }
    Ok(status)
}

/// Of a status what is about these sandboxes; all of it where none are named.
fn only_of(mut status: Status, only: &BTreeSet<SandboxId>) -> anyhow::Result<Status> {
    if only.is_empty() {
        return Ok(status);
    }
    let known = |id: &&SandboxId| status.sandboxes.iter().any(|it| it.sandbox == **id);
    if let Some(unknown) = only.iter().find(|id| !known(id)) {
        let known = status.sandboxes.into_iter().map(|it| it.sandbox).collect();
        return Err(NoSandbox { sandbox: unknown.clone(), known }.into());
    }
    status.sandboxes.retain(|it| only.contains(&it.sandbox));
    status.requests.retain(|it| only.contains(&it.record.sandbox));
    Ok(status)
}

/// Those that wait, the oldest first, then those that were decided, the newest first.
fn requests(view: &View, records: Vec<Record>) -> Vec<RequestRow> {
    let (waiting, mut decided): (Vec<Record>, Vec<Record>) =
        records.into_iter().partition(|it| it.state == Standing::Pending);
    decided.sort_by_key(|it| std::cmp::Reverse(it.at()));
    decided.truncate(DECIDED);
    let all = waiting.into_iter().chain(decided);
    all.map(|record| RequestRow { asks: record.asks(Some(&view.desired)), record }).collect()
}
