//! A machine that is replaced is set aside until the one in its place is provisioned. Where a run was cut short
//! between the two, there are both.
//!
//! What was worked on is in one of them only. As long as it is on its way, or the new machine was never
//! started or has no receipt, that is the old one: it comes back, and what was made in its place goes. From then on
//! it is the new one, and the old one goes.

use super::decide::Seen;
use super::decision::Decision;
use super::kept::has_work;
use super::{Reason, Verdict};
use crate::model::{BackendKind, Instance, InstanceState, ResourceKind};

/// What of a sandbox is ours, once it is decided which of two machines stays. The planner looks at that.
pub(super) fn settle<'a>(decision: &mut Decision, seen: &Seen<'a>) -> Vec<Instance> {
    let is_aside = |i: &&Instance| i.resource == ResourceKind::Machine && is_aside(i);
    let mut old: Vec<&Instance> = seen.ours().filter(is_aside).collect();
    old.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
    let Some((back, older)) = old.split_first() else { return seen.ours().cloned().collect() };
    let machines = || seen.ours().filter(|i| i.resource == ResourceKind::Machine && !is_aside(i));
    let provisioned = |machine: &Instance| {
        let receipt = seen.observed.receipts.get(&machine.id);
        receipt.is_some_and(|receipt| receipt.guest.is_some())
    };
    let on_its_way = seen.observed.carrying.get(&decision.sandbox) == Some(&back.id);
    // Where a record is lost of what is on its way, it is in the old one until the new one has a receipt.
    let arrived = |machine: &Instance| seen.observed.receipts.contains_key(&machine.id);
    let takes_over = |machine: &&Instance| {
        has_work(machine) && (provisioned(machine) || (!on_its_way && arrived(machine)))
    };
    let new = machines().filter(takes_over).min_by_key(|i| (!provisioned(i), i.id.clone()));
    let mut going: Vec<&Instance> = older.to_vec();
    if let Some(new) = new {
        going.push(back);
        if !provisioned(new) {
            decision.superseded = Some(back.id.clone());
        }
    } else {
        decision.half = machines().cloned().collect();
        decision.bring_back = Some((*back).clone());
    }
    let stays = new.unwrap_or(back).id.clone();
    for gone in decision.half.clone().iter().chain(going.iter().copied()) {
        let reason = Reason::Duplicate { keeps: stays.0.clone() };
        decision.change(ResourceKind::Machine, Some(gone.backend), Verdict::Teardown, reason);
    }
    decision.teardown.extend(going.iter().map(|gone| (*gone).clone()));
    let gone =
        |i: &&Instance| decision.half.iter().chain(&decision.teardown).any(|gone| gone.id == i.id);
    let stay = seen.ours().filter(|i| !gone(i)).cloned();
    stay.map(|mut instance| {
        if instance.id == back.id {
            instance.state = InstanceState::Stopped { code: None };
        }
        instance
    })
    .collect()
}

fn is_aside(instance: &Instance) -> bool {
    instance.state == InstanceState::Aside
}

/// The machine of this decision that is set aside until the one in its place is provisioned. Where nothing runs
/// either way, or its network is made anew, it goes first.
pub(super) fn followed(decision: &Decision) -> Option<&Instance> {
    let id = decision.followed.as_ref()?;
    let old = decision.teardown.iter().find(|instance| instance.id == *id)?;
    let made = |kind: ResourceKind| decision.create.iter().any(|spec| spec.kind() == kind);
    let network = |i: &Instance| i.resource == ResourceKind::Network && i.backend == old.backend;
    let anew = decision.backend == Some(old.backend)
        && made(ResourceKind::Network)
        && decision.teardown.iter().any(network);
    let provisioned = decision.provision.as_ref().is_some_and(|p| p.machine.is_none());
    let stays = old.backend.sets_aside() && has_work(old) && !decision.rests;
    (stays && !anew && provisioned && made(ResourceKind::Machine)).then_some(old)
}

/// Whether something that goes stays until the new machine is provisioned: the old one, and what only that
/// one needs.
pub(super) fn goes_last(
    decision: &Decision,
    old: &Instance,
    to: Option<BackendKind>,
    gone: &Instance,
) -> bool {
    let anew = decision.create.iter().any(|spec| spec.kind() == gone.resource);
    match gone.resource {
        ResourceKind::Machine => gone.id == old.id,
        _ => Some(gone.backend) != to || !anew,
    }
}
