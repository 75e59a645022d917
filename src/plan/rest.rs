//! A sandbox that the operator stopped: nothing of it runs, what is made of it is not started, and what is to
//! be put into it waits for its start.

use super::decide::Seen;
use super::decision::Decision;
use super::{Reason, Verdict};
use crate::model::{Instance, InstanceState, ResourceKind};

/// Whether there is something to stop.
pub(super) fn runs(instance: &Instance) -> bool {
    let kind = matches!(
        instance.resource,
        ResourceKind::Machine | ResourceKind::Sidecar | ResourceKind::Gate
    );
    kind && matches!(instance.state, InstanceState::Running | InstanceState::Paused)
}

/// The operator's order to stop it now: nothing else is looked at, for it has to work on a tree that is
/// broken, too.
pub(super) fn stop(mut decision: Decision, seen: &Seen<'_>) -> Option<Decision> {
    decision.rests = true;
    for instance in seen.ours().filter(|i| i.resource != ResourceKind::Network) {
        if let InstanceState::Unknown(what) = &instance.state {
            decision.defer();
            let reason = Reason::Unreadable { what: what.clone() };
            return Some(decision.hold(Some(instance.backend), reason));
        }
        let verdict = if runs(instance) { Verdict::Reprovision } else { Verdict::Keep };
        decision.change(instance.resource, Some(instance.backend), verdict, Reason::Stopped);
        if runs(instance) {
            decision.stop.push(instance.clone());
        }
    }
    decision.backend = seen.home();
    (!decision.changes.is_empty()).then_some(decision)
}

/// What somebody else has started of a sandbox that is to start is started as well: it is told so to stay up
/// from now on.
pub(super) fn wake<'a>(decision: &mut Decision, kept: impl Iterator<Item = &'a Instance>) {
    for instance in kept.filter(|instance| runs(instance)) {
        if decision.start.iter().all(|started| started.id != instance.id) {
            decision.start.push(instance.clone());
        }
    }
}

/// Turns what would be done for a sandbox into what is done for one that was stopped; `kept` is what of it
/// exists and stays.
pub(super) fn rest<'a>(decision: &mut Decision, kept: impl Iterator<Item = &'a Instance>) {
    decision.rests = true;
    decision.start.clear();
    decision.mend.clear();
    decision.adjust.clear();
    decision.load.clear();
    (decision.provision, decision.revival) = (None, None);
    decision.stop = kept.filter(|instance| runs(instance)).cloned().collect();
    let makes = decision.makes_machine();
    let mut pending = false;
    let mut guest = false;
    decision.changes.retain_mut(|change| {
        let of_guest = change.resource == ResourceKind::Guest;
        if !of_guest && !matches!(change.verdict, Verdict::Keep | Verdict::Reprovision) {
            // What goes, or is made, does so as of any other.
            return true;
        }
        pending |= change.reason == Reason::SpecChanged || !change.fields.is_empty();
        change.fields.clear();
        change.reason = Reason::Stopped;
        let stops = decision.stop.iter().any(|instance| instance.resource == change.resource);
        change.verdict = if stops { Verdict::Reprovision } else { Verdict::Keep };
        // Of a guest that waits for values there are two.
        !of_guest || !std::mem::replace(&mut guest, true)
    });
    let note = match (makes, pending) {
        (true, _) => "stopped by you: the new machine is not started",
        (false, true) => "stopped by you: what has changed is put in when it is started",
        (false, false) => return,
    };
    if let Some(machine) =
        decision.changes.iter_mut().find(|change| change.resource == ResourceKind::Machine)
    {
        machine.notes.push(note.to_owned());
    }
}
