//! What the operator stopped: a record a sandbox (`stopped/<sandbox>.json` in the tree's state folder). It
//! outlives machines, runs and reboots of the host, and ends with an order to start, or with its sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use super::pass::{Reconciler, Run};
use super::sidecars::Roots;
use super::state::{TreeState, entries, moved, now, read_json, remove_durably, write_json};
use super::trigger::Trigger;
use super::view::View;
use crate::apply::{Event, Report, Stop};
use crate::model::{Desired, Diagnostic, Instance, Ownership, ResourceKind, SandboxId, Stopped};
use crate::plan::{Action, Options, Order, Reason};

/// How often is looked whether somebody has stopped or started a sandbox.
const LOOK: Duration = Duration::from_millis(500);

/// The version of the records.
const VERSION: u32 = 1;

/// A record, as it is written.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    since: u64,
}

impl TreeState {
    fn stops(&self) -> PathBuf {
        self.dir().join("stopped")
    }

    /// When a sandbox was last stopped or started by an order.
    pub(super) fn ordered(&self) -> Option<SystemTime> {
        moved(&self.stops())
    }

    /// The sandboxes that the operator stopped, and the records of which cannot be read, with why.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn stopped(
        &self,
    ) -> anyhow::Result<(BTreeMap<SandboxId, Stopped>, BTreeMap<SandboxId, String>)> {
        let (mut all, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries(&self.stops())? {
            let entry = entry?;
            let name = entry.file_name();
            let sandbox = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(sandbox) = sandbox.and_then(|name| SandboxId::new(name).ok()) else {
                continue;
            };
            match read_json::<Record>(&entry.path()) {
                Ok(Some(Record { version: VERSION, since })) => {
                    all.insert(sandbox, Stopped { since });
                }
                Ok(Some(Record { version, .. })) => {
                    let path = entry.path();
                    let why = format!(
                        "{} is of version {version}, and this bottle reads version {VERSION}",
                        path.display()
                    );
                    unreadable.insert(sandbox, why);
                }
                Ok(None) => {}
                Err(error) => drop(unreadable.insert(sandbox, format!("{error:#}"))),
            }
        }
        Ok((all, unreadable))
    }

    /// Remembers that a sandbox was stopped, or that it is so no longer. It survives a power cut.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn set_stopped(
        &self,
        sandbox: &SandboxId,
        stopped: Option<&Stopped>,
    ) -> anyhow::Result<()> {
        let path = self.stops().join(format!("{sandbox}.json"));
        match stopped {
            Some(Stopped { since }) => {
                write_json(&path, &Record { version: VERSION, since: *since }, true)
            }
            None => remove_durably(&path),
        }
    }
}

impl View {
    /// Whether this sandbox was stopped, and is to stay so.
    #[must_use]
    pub fn is_stopped(&self, sandbox: &SandboxId) -> bool {
        self.observed.stopped.contains_key(sandbox) && !self.options.wakes(sandbox)
    }

    /// The sandboxes of an order to stop: those of whose machines the plan speaks.
    #[must_use]
    pub fn halts(&self) -> BTreeSet<&SandboxId> {
        let changes = self.plan.changes.iter();
        let halts = changes
            .filter(|c| c.resource == ResourceKind::Machine && c.reason == Reason::Stopped)
            .map(|change| &change.sandbox);
        halts.collect()
    }
}

impl Reconciler {
    /// Carries an order to stop out: first it is remembered, if it is one for good. The caller holds the locks
    /// of the sandboxes.
    ///
    /// # Errors
    /// When the state folder cannot be written: then nothing was begun.
    pub async fn halt(
        &self,
        view: &View,
        for_good: bool,
        stop: &Stop,
        tell: Arc<dyn Fn(Event<'_>) + Send + Sync>,
    ) -> anyhow::Result<Report> {
        if for_good {
            for sandbox in view.halts() {
                // Of one that was stopped already, since when is not to be told anew.
                if !view.observed.stopped.contains_key(sandbox) {
                    view.memory.set_stopped(sandbox, Some(&Stopped { since: now() }))?;
                }
            }
        }
        if view.plan.is_empty() {
            return Ok(Report::default());
        }
        let slots = self.slots();
        let run = Run {
            only: None,
            slots: &slots,
            roots: Roots::default(),
            may: &|_| true,
            claimed: true,
        };
        Ok(self.run(view, &run, stop, tell).await)
    }
}

/// Tells a `watch` that these went down by an order, which it would take for a crash. Who calls this ends the
/// records at once.
///
/// # Errors
/// When the state folder cannot be written.
pub fn tell(memory: &TreeState, sandboxes: &BTreeSet<SandboxId>) -> anyhow::Result<()> {
    let stopped = Stopped { since: now() };
    sandboxes.iter().try_for_each(|id| memory.set_stopped(id, Some(&stopped)))
}

/// Ends the records of the sandboxes that are to start, also of those that cannot be read.
///
/// # Errors
/// When the state folder cannot be read or written.
pub fn wake(memory: &TreeState, options: &Options) -> anyhow::Result<()> {
    if !matches!(options.order, Order::Start | Order::Restart) {
        return Ok(());
    }
    let (stopped, unreadable) = memory.stopped()?;
    let all = stopped.keys().chain(unreadable.keys());
    all.filter(|id| options.wakes(id)).try_for_each(|id| memory.set_stopped(id, None))
}

/// Holds the sandboxes of which it cannot be read since when they were stopped: whether they are to run is
/// not known.
pub(super) fn hold_unreadable(
    desired: &mut Desired,
    unreadable: BTreeMap<SandboxId, String>,
    options: &Options,
) {
    let held = unreadable.into_iter().filter(|(sandbox, _)| !options.wakes(sandbox));
    for (sandbox, why) in held {
        let file = format!("stopped/{sandbox}.json");
        let why = format!("whether you stopped {sandbox} is not known: {why}");
        let finding = Diagnostic::error(file, why)
            .with_hint(format!("`bottle stop {sandbox}` or `bottle start {sandbox}` says it anew"));
        if !desired.diagnostics.contains(&finding) {
            desired.diagnostics.push(finding.clone());
        }
        if desired.sandboxes.remove(&sandbox).is_some() {
            desired.held.insert(sandbox, vec![finding]);
        }
    }
}

/// Of these, the sandboxes that were stopped or started since the view was made.
pub(super) fn outdated<'a>(
    view: &View,
    sandboxes: impl Iterator<Item = &'a SandboxId>,
) -> BTreeSet<SandboxId> {
    if view.options.order == Order::Stop {
        return BTreeSet::new();
    }
    // What cannot be read now was read for the view.
    let Ok((stopped, _)) = view.memory.stopped() else { return BTreeSet::new() };
    // Of one that is being renamed the record may have either name.
    let is = |id: &SandboxId| {
        let old = view.observed.renames.get(id);
        stopped.contains_key(id) || old.is_some_and(|old| stopped.contains_key(old))
    };
    sandboxes.filter(|id| is(id) != view.is_stopped(id)).cloned().collect()
}

/// Forgets the records of sandboxes that are gone. The caller holds the tree's lock.
pub(super) fn tidy(view: &View) -> anyhow::Result<()> {
    let (stopped, unreadable) = view.memory.stopped()?;
    if stopped.is_empty() && unreadable.is_empty() {
        return Ok(());
    }
    let receipts = view.memory.receipts()?;
    let declared = |id: &SandboxId| {
        let desired = &view.desired;
        desired.sandboxes.contains_key(id)
            || desired.held.contains_key(id)
            || desired.unread.contains_key(id)
            // Its own step gives it to the new name.
            || view.observed.renames.values().any(|old| old == id)
    };
    let goes = |id: &SandboxId| {
        let of = |found: &&Instance| found.sandbox == *id && found.ownership == Ownership::Ours;
        view.observed.instances.iter().filter(of).all(|found| {
            view.plan.steps.iter().any(|step| {
                matches!(&step.action, Action::Teardown { instance, .. } if instance.id == found.id)
            })
        })
    };
    for id in stopped.keys().chain(unreadable.keys()) {
        let meant = view.options.removes(id) || !declared(id);
        if meant && goes(id) && receipts.values().all(|receipt| receipt.sandbox != *id) {
            view.memory.set_stopped(id, None)?;
        }
    }
    Ok(())
}

/// Says when somebody beside this loop has stopped a sandbox, or started one.
pub(super) async fn listen(memory: TreeState, send: UnboundedSender<Trigger>) {
    let mut before = memory.ordered();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = memory.ordered();
        if now != before && send.send(Trigger::Order).is_err() {
            return;
        }
        before = now;
    }
}
