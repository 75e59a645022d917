//! What of a sandbox is kept when its machine goes: the workspace, where it is a copy, and the home of its
//! user. A machine that is followed by another hands it on; of any other it stays as a snapshot.

use super::decision::Decision;
use super::{Options, Verdict};
use crate::model::{Desired, Instance, InstanceState, Observed, ResourceKind, Why};

/// The workspace of a sandbox, where it is a copy.
const WORKSPACE: &str = "workspace";
/// The home of its user.
const HOME: &str = "home";
/// All else in its machine.
const REST: &str = "the rest";

/// What is known where removals become steps.
pub(super) struct Keeping<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) options: &'a Options,
}

impl Keeping<'_> {
    /// Why the work in a machine is kept before it goes; `None`: it is not.
    pub(super) fn why(&self, decision: &Decision, instance: &Instance) -> Option<Why> {
        let kept = instance.resource == ResourceKind::Machine
            && keeps(self.desired, self.options, decision)
            && has_work(instance);
        let followed = decision.followed.as_ref() == Some(&instance.id);
        kept.then_some(if followed { Why::Replace } else { Why::Teardown })
    }

    /// Whether what was kept of an earlier machine goes into this one, or into the one that is made.
    pub(super) fn carries(&self, decision: &Decision, machine: Option<&Instance>) -> bool {
        if !keeps(self.desired, self.options, decision) {
            return false;
        }
        let handed_on = machine.is_none()
            && decision.teardown.iter().any(|gone| self.why(decision, gone) == Some(Why::Replace));
        // A run that ended between the two machines. As long as the old one is there, nothing was handed on.
        let under_way = self.observed.carrying.get(&decision.sandbox).is_some_and(|old| {
            let there = |instance: &Instance| instance.id == *old && has_work(instance);
            !self.observed.instances.iter().any(there)
        });
        handed_on || under_way
    }
}

fn keeps(desired: &Desired, options: &Options, decision: &Decision) -> bool {
    desired.tree.snapshots.is_some() && !options.discard.has(&decision.sandbox)
}

/// One that was never started has none; from one that is half made or unreadable nothing can be taken.
fn has_work(instance: &Instance) -> bool {
    match instance.state {
        InstanceState::Running | InstanceState::Paused | InstanceState::Stopped { .. } => true,
        InstanceState::Created | InstanceState::Broken(_) | InstanceState::Unknown(_) => false,
    }
}

/// Says of the machine of a sandbox that goes what is kept of it and what is lost.
pub(super) fn tell(
    desired: &Desired,
    observed: &Observed,
    options: &Options,
    decision: &mut Decision,
) {
    let kept = keeps(desired, options, decision);
    // Into a copy of another folder, or none, no workspace comes along.
    let next = decision.provision.as_ref().and_then(|next| next.guest.workspace.as_ref());
    let comes_along = |instance: &&Instance| {
        let receipt = observed.receipts.get(&instance.id);
        let from = receipt.and_then(|receipt| receipt.copied_from.as_ref());
        next.is_some_and(|next| from.is_none_or(|from| *from == next.path))
    };
    let followed = decision.followed.clone();
    let machines = || decision.teardown.iter().filter(|i| i.resource == ResourceKind::Machine);
    for change in decision.changes.iter_mut().filter(|c| c.resource == ResourceKind::Machine) {
        let gone: Vec<&Instance> = match change.verdict {
            Verdict::Replace => machines().filter(|i| followed.as_ref() == Some(&i.id)).collect(),
            Verdict::Teardown => machines().filter(|i| Some(i.backend) == change.backend).collect(),
            _ => continue,
        };
        if gone.is_empty() {
            // Nothing is done to it this time.
            continue;
        }
        let copy = |i: &&Instance| {
            let fields = &i.fields.0;
            fields.contains_key("workspace.target") && !fields.contains_key("workspace.mount")
        };
        let copied = gone.iter().any(copy);
        let stays = change.verdict == Verdict::Replace && !gone.iter().all(comes_along);
        let workspace = (copied && !stays).then_some(WORKSPACE);
        if kept && copied && stays {
            change.notes.push(
                "the new machine has no copy of the same folder: what was written to the workspace stays as a \
                 snapshot"
                    .to_owned(),
            );
        }
        let work = workspace.into_iter().chain([HOME]).map(str::to_owned);
        let rest = [REST.to_owned()];
        (change.keeps, change.loses) = if kept && gone.iter().any(|i| has_work(i)) {
            (Some(work.collect()), Some(rest.to_vec()))
        } else {
            (Some(Vec::new()), Some(work.chain(rest).collect()))
        };
    }
}
