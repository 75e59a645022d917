//! What is on its way from one machine of a sandbox to the next (`carried/<sandbox>.json` in the tree's state folder): a
//! run that is cut short there goes on with the next pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::view::View;
use crate::apply::{Outcome, Report, StepOutcome};
use crate::model::{
    Desired, Diagnostic, Fields, GuestSpec, Instance, InstanceId, InstanceState, Receipt,
    ResourceKind, SandboxId, Workspace,
};
use crate::plan::Action;
use crate::work::snapshot::{Meta, Planned};

/// What is on its way from one machine of a sandbox to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The machine that it comes from.
    pub machine: InstanceId,
    /// The snapshot that it is in; empty where it is in none.
    pub snapshot: String,
    /// It is in no snapshot: how it comes into the next machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// What had been put into that machine.
    pub receipt: Option<Receipt>,
    /// Whether the copy of its workspace had been made to the end: half of one is nobody's work.
    pub workspace: bool,
    /// When that was, in seconds since the epoch, where it is known: what is newer is the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_at: Option<u64>,
}

/// How what is kept comes from one machine into the next without a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// It is moved.
    Moved {
        /// Absolute paths in both.
        paths: Vec<String>,
        /// The machine that all of it is in by now.
        into: Option<InstanceId>,
    },
    /// It is read from the old machine, which was set aside.
    Read(Box<Planned>),
}

impl Carried {
    /// Whether the workspace that is on its way goes into a machine: of another folder the agent is to have
    /// another copy.
    pub(super) fn takes_workspace(&self, meta: &Meta, guest: &GuestSpec) -> bool {
        let from = self.receipt.as_ref().and_then(|receipt| receipt.copied_from.as_ref());
        let is_its = |source: &Workspace| from.is_none_or(|from| *from == source.path);
        self.workspace
            && meta.workspace.as_ref().is_some_and(|path| is_in(path, &meta.paths))
            && guest.workspace.as_ref().is_some_and(is_its)
    }

    /// The receipt of a machine into which the work came.
    pub(super) fn work(&self, machine: &Instance, guest: &GuestSpec, workspace: bool) -> Receipt {
        let old = self.receipt.as_ref();
        let from = old.and_then(|receipt| receipt.copied_from.clone());
        Receipt {
            kind: ResourceKind::Machine,
            instance: machine.id.clone(),
            backend: machine.backend,
            sandbox: guest.sandbox.clone(),
            guest: None,
            fields: Fields::default(),
            skills: Default::default(),
            skills_dir: None,
            env: Default::default(),
            boot: machine.boot.clone(),
            workspace,
            copied_from: from.filter(|_| workspace),
            files: Default::default(),
            under_way: Default::default(),
            ca: None,
            names: None,
            requests: BTreeMap::new(),
            settings: old.map(|old| old.settings.clone()).unwrap_or_default(),
        }
    }

    /// The same of one that has all that the earlier one had: what was put into that is there, too.
    pub(super) fn all(&self, machine: &Instance, guest: &GuestSpec, workspace: bool) -> Receipt {
        let work = self.work(machine, guest, workspace);
        let Some(old) = self.receipt.clone() else { return work };
        let Receipt { skills, skills_dir, files, under_way, .. } = old;
        Receipt { skills, skills_dir, files, under_way, ..work }
    }

    /// The sandbox has another name now.
    pub(super) fn rename(&mut self, from: &SandboxId, to: &SandboxId) {
        let time =
            self.snapshot.strip_prefix(from.as_str()).and_then(|rest| rest.strip_prefix('/'));
        if let Some(time) = time {
            self.snapshot = format!("{to}/{time}");
        }
        if let Some(receipt) = &mut self.receipt {
            receipt.sandbox = to.clone();
        }
    }
}

/// Whether a path of a snapshot is one of those that it keeps, or lies in one.
pub(super) fn is_in(path: &str, kept: &[String]) -> bool {
    kept.iter().any(|kept| Path::new(path).starts_with(kept))
}

/// Holds the sandboxes of which it cannot be read what is on its way into their next machines.
pub(super) fn hold_unreadable(desired: &mut Desired, unreadable: BTreeMap<SandboxId, String>) {
    for (sandbox, why) in unreadable {
        let file = format!("carried/{sandbox}.json");
        let finding = Diagnostic::error(file, why).with_hint(format!(
            "remove the file: the machine of {sandbox} that was set aside comes back, where there is one, else a new one \
             is made; `bottle snapshot list {sandbox}` names what was kept"
        ));
        if !desired.diagnostics.contains(&finding) {
            desired.diagnostics.push(finding.clone());
        }
        if desired.sandboxes.remove(&sandbox).is_some() {
            desired.held.insert(sandbox, vec![finding]);
        }
    }
}

/// Forgets what is on its way to a machine that is there without it, or that nobody wants to have it. The
/// caller holds the tree's lock.
pub(super) fn tidy(view: &View) -> anyhow::Result<()> {
    let (carried, _) = view.memory.carried()?;
    if carried.is_empty() {
        return Ok(());
    }
    let receipts = view.memory.receipts()?;
    let meant = |id: &SandboxId| view.options.only.as_ref().is_none_or(|only| only.contains(id));
    for (sandbox, one) in carried {
        let came = receipts.values().any(|receipt| {
            // A sidecar is loaded before its machine is started.
            let is_machine = receipt.is_of_machine() && receipt.instance != one.machine;
            is_machine && receipt.sandbox == sandbox && receipt.guest.is_some()
        });
        // It runs again, with all that was to come out of it.
        let stayed = one.way.is_some()
            && receipts.get(&one.machine).is_some_and(|receipt| receipt.guest.is_some())
            && view.observed.instances.iter().any(|instance| {
                instance.id == one.machine && instance.state == InstanceState::Running
            });
        let dropped = view.options.discard.has(&sandbox) && meant(&sandbox);
        if came
            || stayed
            || dropped
            || is_over(view, &sandbox, |_| false)
            || view.options.removes(&sandbox)
        {
            view.memory.carry(&sandbox, None)?;
        }
    }
    Ok(())
}

/// Whether nobody has the sandbox any more, and no machine of it is left, on any backend: its agent was removed
/// before the next machine was started. An agent that has its name later is another one, which does not get its
/// work unasked. The snapshots stay.
fn is_over(view: &View, sandbox: &SandboxId, is_gone: impl Fn(&Instance) -> bool) -> bool {
    let (desired, observed) = (&view.desired, &view.observed);
    let wanted = desired.sandboxes.contains_key(sandbox)
        || desired.held.contains_key(sandbox)
        || observed.renames.values().any(|from| from == sandbox);
    let mut left = observed.instances.iter().filter(|instance| instance.sandbox == *sandbox);
    // A machine that cannot be seen has a receipt.
    let mut receipts = observed.receipts.values().filter(|receipt| receipt.sandbox == *sandbox);
    let unseen = receipts.any(|receipt| observed.unreachable.contains_key(&receipt.backend));
    !wanted && !unseen && left.all(is_gone)
}

/// Forgets what was on its way to machines that this run has removed with their sandboxes. The caller holds the
/// tree's lock.
pub(super) fn settle(view: &View, report: &Report) -> anyhow::Result<()> {
    let (carried, _) = view.memory.carried()?;
    if carried.is_empty() {
        return Ok(());
    }
    let done = |outcome: &&StepOutcome| outcome.outcome == Outcome::Done;
    let steps = report.outcomes.iter().filter(done).map(|outcome| &view.plan.steps[outcome.step]);
    let removed: BTreeSet<&InstanceId> = steps
        .filter_map(|step| match &step.action {
            Action::Teardown { instance, .. } => Some(&instance.id),
            _ => None,
        })
        .collect();
    for sandbox in carried.into_keys() {
        if is_over(view, &sandbox, |instance| removed.contains(&instance.id)) {
            view.memory.carry(&sandbox, None)?;
        }
    }
    Ok(())
}
