//! Verdicts into steps: removals before additions, nothing new on top of what failed to stop, and
//! whatever can fail without touching anything before the first removal.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::aside;
use super::decision::{Decision, Loading, Provisioning};
use super::kept::Keeping;
use super::sources;
use super::{Action, Options, Order, Step, StepId, Target};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Desired, Instance, InstanceId, InstanceState, Kept, LeftoverKind, MachineSpec,
    Observed, ResourceKind, SandboxId, SpecHash,
};

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    fn push(
        &mut self,
        action: Action,
        backend: BackendKind,
        sandbox: Option<&SandboxId>,
        resource: ResourceKind,
        after: BTreeSet<StepId>,
    ) -> StepId {
        let id = self.steps.len();
        let (sandbox, undoes) = (sandbox.cloned(), BTreeSet::new());
        self.steps.push(Step { id, action, backend, sandbox, resource, after, undoes });
        id
    }

    /// What stands on the step before it where it is not the first that makes these good.
    fn undo(
        &mut self,
        undoes: &BTreeSet<StepId>,
        action: Action,
        old: &Instance,
        after: Option<StepId>,
    ) -> StepId {
        let kind = match action {
            Action::Provision { .. } => ResourceKind::Guest,
            _ => ResourceKind::Machine,
        };
        let after = after.into_iter().collect();
        let id = self.push(action, old.backend, Some(&old.sandbox), kind, after);
        self.steps[id].undoes.clone_from(undoes);
        id
    }
}

/// All steps, in an order in which they could run one by one.
pub(super) fn order(
    desired: &Desired,
    observed: &Observed,
    options: &Options,
    decisions: &[Decision],
) -> Vec<Step> {
    let mut steps = Steps::default();
    let keeping = Keeping { desired, observed, options };
    // What only leaves, and could meddle with what is made, leaves first.
    let first = |gone: &Decision| {
        gone.create.is_empty()
            && !gone.teardown.is_empty()
            && decisions.iter().any(|made| follows(desired, observed, gone, made))
    };
    let (leaving, others): (Vec<&Decision>, Vec<&Decision>) =
        decisions.iter().partition(|decision| first(decision));
    let mut gone: Vec<(&Decision, BTreeSet<StepId>)> = Vec::new();
    for decision in &leaving {
        let from = steps.steps.len();
        order_sandbox(&mut steps, decision, &keeping);
        gone.push((*decision, (from..steps.steps.len()).collect()));
    }
    for decision in others {
        let from = steps.steps.len();
        order_sandbox(&mut steps, decision, &keeping);
        let before = gone.iter().filter(|(gone, _)| follows(desired, observed, gone, decision));
        let before: BTreeSet<StepId> = before.flat_map(|(_, ids)| ids.iter().copied()).collect();
        // What makes others good waits for what it undoes, and for nothing else.
        for step in steps.steps[from..].iter_mut().filter(|step| step.undoes.is_empty()) {
            step.after.extend(before.iter().copied());
        }
    }
    let wanted = desired
        .sandboxes
        .values()
        .filter(|spec| !options.removes(&spec.id))
        .filter_map(|spec| spec.image.as_ref()?.digest())
        .collect();
    // Who stops a sandbox wants nothing else done.
    if options.order != Order::Stop {
        prune(&mut steps, &wanted, observed, decisions);
    }
    steps.steps
}

/// Whether `made` must wait until `gone` is gone.
fn follows(desired: &Desired, observed: &Observed, gone: &Decision, made: &Decision) -> bool {
    gone.sandbox != made.sandbox
        && !(made.create.is_empty() && made.start.is_empty())
        && sources::goes_first(desired, observed, &gone.sandbox, &made.sandbox)
}

fn order_sandbox(steps: &mut Steps, decision: &Decision, keeping: &Keeping<'_>) {
    let Some((from, backend)) = decision.rename.as_ref().zip(decision.backend) else {
        return order_work(steps, decision, keeping);
    };
    let action = Action::Rename { from: from.clone() };
    let (sandbox, machine) = (Some(&decision.sandbox), ResourceKind::Machine);
    let renamed = steps.push(action, backend, sandbox, machine, BTreeSet::new());
    order_work(steps, decision, keeping);
    // Whatever is remembered of it from now on is under the new name.
    for step in steps.steps[renamed + 1..].iter_mut().filter(|step| step.undoes.is_empty()) {
        step.after.insert(renamed);
    }
}

/// What was made half-way goes, and the machine that was set aside for it comes back: it runs again, also where
/// what is to follow it cannot be made this time either.
fn order_back(steps: &mut Steps, decision: &Decision) -> BTreeSet<StepId> {
    let sandbox = Some(&decision.sandbox);
    let mut first = BTreeSet::new();
    for half in &decision.half {
        let action = Action::Teardown { instance: Box::new(half.clone()), keeps: None };
        first.insert(steps.push(action, half.backend, sandbox, half.resource, first.clone()));
    }
    let Some(back) = &decision.bring_back else { return first };
    let machine = || Box::new(back.clone());
    let action = Action::BringBack { machine: machine(), instead_of: None };
    let kind = ResourceKind::Machine;
    first.insert(steps.push(action, back.backend, sandbox, kind, first.clone()));
    let Some(revival) = &decision.revival else { return first };
    let action = Action::Start(Target::Existing(machine()));
    first.insert(steps.push(action, back.backend, sandbox, kind, first.clone()));
    let action = provision(revival, Target::Existing(machine()), false);
    first.insert(steps.push(action, back.backend, sandbox, ResourceKind::Guest, first.clone()));
    first
}

fn provision(provisioning: &Provisioning, machine: Target, carries: bool) -> Action {
    Action::Provision {
        machine,
        guest: Arc::new(provisioning.guest.clone()),
        prior: provisioning.prior.clone().map(Box::new),
        deliver: provisioning.deliver.clone(),
        carries,
    }
}

/// The old machine of a replace is set aside, once all that could fail without it is done. What is kept of it is taken
/// when nothing runs in it any more, so that both steps are to be made good.
fn order_aside(
    steps: &mut Steps,
    old: &Instance,
    next: &MachineSpec,
    kept: Option<Kept>,
    mut before: BTreeSet<StepId>,
) -> (Option<StepId>, StepId) {
    let (sandbox, kind) = (Some(&old.sandbox), ResourceKind::Machine);
    let keep = kept.map(|kept| {
        let next = Arc::new(next.clone());
        let action = Action::Keep { machine: Box::new(old.clone()), kept, next };
        steps.push(action, old.backend, sandbox, kind, before.clone())
    });
    before.extend(keep);
    let action = Action::SetAside(Box::new(old.clone()));
    (keep, steps.push(action, old.backend, sandbox, kind, before))
}

/// Where anything fails from there on, the old machine runs again, and what was made in its place goes.
fn order_undo(
    steps: &mut Steps,
    decision: &Decision,
    old: &Instance,
    made: StepId,
    undoes: &BTreeSet<StepId>,
) {
    let machine = || Box::new(old.clone());
    let action = Action::BringBack { machine: machine(), instead_of: Some(made) };
    let back = steps.undo(undoes, action, old, None);
    let started = Action::Start(Target::Existing(machine()));
    let started = steps.undo(undoes, started, old, Some(back));
    if let Some(revival) = &decision.revival {
        let action = provision(revival, Target::Existing(machine()), false);
        steps.undo(undoes, action, old, Some(started));
    }
}

fn order_work(steps: &mut Steps, decision: &Decision, keeping: &Keeping<'_>) {
    let sandbox = Some(&decision.sandbox);
    let aside = aside::followed(decision);
    let back = order_back(steps, decision);
    let backend_of_new = decision.create.iter().find_map(|spec| match spec {
        ResourceSpec::Machine(machine) => Some(machine.backend),
        _ => None,
    });
    let mut prepared = BTreeSet::new();
    for spec in &decision.create {
        if let ResourceSpec::Machine(machine) = spec {
            let action = Action::Prepare(Arc::new(machine.clone()));
            prepared.insert(steps.push(
                action,
                machine.backend,
                sandbox,
                spec.kind(),
                BTreeSet::new(),
            ));
        }
    }
    // What stands on another goes before it.
    let mut leaving: Vec<&Instance> = decision.teardown.iter().collect();
    leaving.sort_by(|a, b| (b.resource, &a.id).cmp(&(a.resource, &b.id)));
    let waits = |instance: &&Instance| match aside {
        Some(old) => aside::goes_last(decision, old, backend_of_new, instance),
        None => decision.superseded.as_ref() == Some(&instance.id) && decision.provision.is_some(),
    };
    let (last, leaving): (Vec<&Instance>, Vec<&Instance>) = leaving.into_iter().partition(waits);
    prepared.extend(back);
    let mut gone: BTreeSet<StepId> = BTreeSet::new();
    for instance in leaving {
        let mut after = prepared.clone();
        after.extend(gone.iter().copied());
        let keeps = keeping.kept(decision, instance);
        let action = Action::Teardown { instance: Box::new(instance.clone()), keeps };
        gone.insert(steps.push(action, instance.backend, sandbox, instance.resource, after));
    }
    let cleared: BTreeSet<StepId> = prepared.union(&gone).copied().collect();
    let mut made: Vec<(ResourceKind, StepId)> = Vec::new();
    let mut up = cleared.clone();
    let (mut new_machine, mut sidecar_up) = (None, None);
    let mut undoes = BTreeSet::new();
    // A network is set right before anything is made or attached again that is to be on it.
    let (networks, mending): (Vec<&Instance>, Vec<&Instance>) =
        decision.mend.iter().partition(|instance| instance.resource == ResourceKind::Network);
    for network in networks {
        let action = Action::Mend(Box::new(network.clone()));
        let backend = network.backend;
        let mended = steps.push(action, backend, sandbox, network.resource, cleared.clone());
        made.push((network.resource, mended));
        up.insert(mended);
    }
    for spec in &decision.create {
        let backend = match (spec, backend_of_new) {
            (ResourceSpec::Machine(machine), _) => machine.backend,
            (_, Some(backend)) => backend,
            // A network or sidecar made beside a machine that stays is made where that is.
            (_, None) => match decision.backend {
                Some(backend) => backend,
                None => continue,
            },
        };
        let kind = spec.kind();
        let mut after = cleared.clone();
        after
            .extend(made.iter().filter(|(on, _)| kind.stands_on().contains(on)).map(|(_, id)| *id));
        // A machine that comes up finds its way out there.
        if kind == ResourceKind::Machine {
            after.extend(sidecar_up);
            if let (Some(old), ResourceSpec::Machine(next)) = (aside, spec) {
                let mut before = up.clone();
                before.extend(after.iter().copied());
                let (keep, set) =
                    order_aside(steps, old, next, keeping.kept(decision, old), before);
                after.insert(set);
                undoes.extend(keep.into_iter().chain([set]));
            }
        }
        let created =
            steps.push(Action::Create(Arc::new(spec.clone())), backend, sandbox, kind, after);
        made.push((kind, created));
        let last = if kind == ResourceKind::Network || decision.rests {
            created
        } else {
            let start = Action::Start(Target::CreatedBy(created));
            steps.push(start, backend, sandbox, kind, BTreeSet::from([created]))
        };
        up.insert(last);
        match kind {
            ResourceKind::Machine => {
                new_machine = Some(created);
                undoes.extend([created, last]);
            }
            ResourceKind::Sidecar | ResourceKind::Gate => {
                // A machine needs no gate to come up.
                sidecar_up = if kind == ResourceKind::Sidecar { Some(last) } else { sidecar_up };
                let loaded = decision.load.iter().find(|load| load.spec.kind() == kind);
                let target = Target::CreatedBy(created);
                up.extend(loaded.map(|load| order_load(steps, load, target, backend, &up)));
            }
            _ => {}
        }
    }
    // The machine first: what stands on another stops before it.
    let mut stopping: Vec<&Instance> = decision.stop.iter().collect();
    stopping.sort_by(|a, b| (b.resource, &a.id).cmp(&(a.resource, &b.id)));
    for instance in stopping {
        let action = Action::Stop(Box::new(instance.clone()));
        up.insert(steps.push(action, instance.backend, sandbox, instance.resource, up.clone()));
    }
    for instance in mending {
        let action = Action::Mend(Box::new(instance.clone()));
        // What it is to be attached to again may be made by this very plan.
        let on = instance.resource.stands_on();
        let mut after = if decision.stop.is_empty() { cleared.clone() } else { up.clone() };
        after.extend(made.iter().filter(|(kind, _)| on.contains(kind)).map(|(_, id)| *id));
        up.insert(steps.push(action, instance.backend, sandbox, instance.resource, after));
    }
    // A limit that cannot be set keeps a machine from being started, and nothing else from being done.
    let mut limited = BTreeSet::new();
    for (instance, resources, tools) in &decision.adjust {
        let machine = Box::new(instance.clone());
        let tools = Box::new(tools.clone());
        let action = Action::Adjust { machine, resources: *resources, tools };
        let (backend, kind) = (instance.backend, instance.resource);
        limited.insert(steps.push(action, backend, sandbox, kind, up.clone()));
    }
    for instance in &decision.start {
        let action = Action::Start(Target::Existing(Box::new(instance.clone())));
        let after = up.union(&limited).copied().collect();
        up.insert(steps.push(action, instance.backend, sandbox, instance.resource, after));
    }
    for load in &decision.load {
        let Some(on) = &load.on else { continue };
        let target = Target::Existing(Box::new(on.clone()));
        // What a gate that runs lets through waits for nothing that fails, or takes long, beside it.
        let works = on.resource == ResourceKind::Gate
            && on.state == InstanceState::Running
            && !decision.start.iter().chain(&decision.mend).any(|other| other.id == on.id);
        let after = if works { &cleared } else { &up };
        up.insert(order_load(steps, load, target, on.backend, after));
    }
    let Some(provisioning) = &decision.provision else { return };
    let (machine, backend) = match (&provisioning.machine, new_machine, backend_of_new) {
        (Some(instance), _, _) => (Target::Existing(Box::new(instance.clone())), instance.backend),
        (None, Some(created), Some(backend)) => (Target::CreatedBy(created), backend),
        _ => return,
    };
    let carries = keeping.carries(decision, provisioning.machine.as_ref());
    let action = provision(provisioning, machine, carries);
    let provisioned = steps.push(action, backend, sandbox, ResourceKind::Guest, up);
    if let Some((old, made)) = aside.zip(new_machine) {
        undoes.insert(provisioned);
        order_undo(steps, decision, old, made, &undoes);
    }
    let mut gone = BTreeSet::from([provisioned]);
    for instance in last {
        let action = Action::Teardown { instance: Box::new(instance.clone()), keeps: None };
        gone.insert(steps.push(action, instance.backend, sandbox, instance.resource, gone.clone()));
    }
}

/// The step that gives a sidecar or a gate what it is to enforce, once it is up.
fn order_load(
    steps: &mut Steps,
    load: &Loading,
    target: Target,
    backend: BackendKind,
    up: &BTreeSet<StepId>,
) -> StepId {
    let (sandbox, kind) = (load.spec.sandbox(), load.spec.kind());
    let action = Action::Load { sidecar: target, spec: Arc::new(load.spec.clone()) };
    steps.push(action, backend, Some(sandbox), kind, up.clone())
}

/// Imported images that nothing stands on any more, and what interrupted runs left behind.
fn prune(
    steps: &mut Steps,
    wanted: &BTreeSet<SpecHash>,
    observed: &Observed,
    decisions: &[Decision],
) {
    if observed.leftovers.is_empty() {
        return;
    }
    let leaving: BTreeSet<(BackendKind, &InstanceId)> = decisions
        .iter()
        .flat_map(|d| d.half.iter().chain(&d.teardown))
        .map(|i| (i.backend, &i.id))
        .collect();
    let in_use: BTreeSet<(BackendKind, SpecHash)> = observed
        .instances
        .iter()
        .filter(|i| !leaving.contains(&(i.backend, &i.id)))
        .filter_map(|i| Some((i.backend, i.image?)))
        .collect();
    let mut leftovers: Vec<_> = observed
        .leftovers
        .iter()
        .filter(|leftover| match (leftover.kind, leftover.digest) {
            (LeftoverKind::Scratch, _) | (LeftoverKind::Image, None) => true,
            (LeftoverKind::Image, Some(digest)) => {
                !wanted.contains(&digest) && !in_use.contains(&(leftover.backend, digest))
            }
        })
        .collect();
    leftovers.sort_by(|a, b| (a.backend, a.kind, &a.id).cmp(&(b.backend, b.kind, &b.id)));
    for leftover in leftovers {
        let after: BTreeSet<StepId> = steps
            .steps
            .iter()
            .filter(|step| match &step.action {
                Action::Teardown { instance, .. } => {
                    instance.backend == leftover.backend
                        && instance.image.is_some()
                        && instance.image == leftover.digest
                }
                _ => false,
            })
            .map(|step| step.id)
            .collect();
        let action = Action::Prune(Box::new(leftover.clone()));
        steps.push(action, leftover.backend, None, ResourceKind::Image, after);
    }
}
