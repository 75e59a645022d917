//! Every sandbox's verdicts and reasons: what is desired against what exists.

use std::collections::{BTreeSet, HashMap};

use super::decision::Decision;
use super::sources::{self, Shared};
use super::{Options, Order, Reason, Verdict, aside, gate, guest, load, renames, rest};
use crate::model::policy::PROXY_LOGIN;
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendChoice, BackendKind, Desired, FieldChange, Fields, ImageRef, Instance, InstanceId,
    InstanceState, MachineSpec, Observed, Ownership, Receipt, ResourceKind, SandboxId, SandboxSpec,
    WorkspaceMode,
};
use crate::model::{change, tool};

/// All decisions, by sandbox.
pub(super) fn decide(desired: &Desired, observed: &Observed, options: &Options) -> Vec<Decision> {
    // Only looked up, never iterated: their order plays no part.
    let mut existing: HashMap<&SandboxId, Vec<&Instance>> = HashMap::new();
    for instance in &observed.instances {
        existing.entry(&instance.sandbox).or_default().push(instance);
    }
    for instances in existing.values_mut() {
        instances
            .sort_by(|a, b| (a.backend, a.resource, &a.id).cmp(&(b.backend, b.resource, &b.id)));
    }
    let mut receipts: HashMap<&SandboxId, Vec<&Receipt>> = HashMap::new();
    for receipt in observed.receipts.values() {
        receipts.entry(&receipt.sandbox).or_default().push(receipt);
    }
    let shared = Shared::of(desired, observed);
    let mut all: Vec<&SandboxId> = desired
        .sandboxes
        .keys()
        .chain(desired.held.keys())
        .chain(existing.keys().copied())
        .chain(receipts.keys().copied())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .filter(|id| options.only.as_ref().is_none_or(|only| only.contains(id)))
        .filter_map(|id| {
            let seen = Seen {
                instances: existing.get(id).map_or(&[][..], Vec::as_slice),
                receipts: receipts.get(id).map_or(&[][..], Vec::as_slice),
                observed,
                shared: &shared,
            };
            decide_sandbox(id, desired, &seen, options)
        })
        .collect()
}

/// What exists of one sandbox.
pub(super) struct Seen<'a> {
    instances: &'a [&'a Instance],
    receipts: &'a [&'a Receipt],
    pub(super) observed: &'a Observed,
    shared: &'a Shared<'a>,
}

impl<'a> Seen<'a> {
    pub(super) fn ours(&self) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().copied().filter(|i| i.ownership == Ownership::Ours)
    }

    /// The backend that the sandbox is on, as far as objects tell.
    pub(super) fn home(&self) -> Option<BackendKind> {
        self.ours()
            .find(|i| i.resource == ResourceKind::Machine)
            .or_else(|| self.ours().next())
            .map(|i| i.backend)
    }

    /// A backend that cannot be observed and that, as a receipt says, holds a part of it.
    fn out_of_sight(&self) -> Option<(BackendKind, &'a str)> {
        self.receipts.iter().find_map(|receipt| self.unreachable(receipt.backend))
    }

    /// A part of it that is ours and cannot be read, unless the operator gave it up.
    fn unreadable(&self, id: &SandboxId, options: &Options) -> Option<(BackendKind, Reason)> {
        let given_up = options.replace_unknown.contains(id);
        self.ours().filter(|_| !given_up).find_map(|instance| match &instance.state {
            InstanceState::Unknown(what) => {
                Some((instance.backend, Reason::Unreadable { what: what.clone() }))
            }
            _ => None,
        })
    }

    /// A CA that programs trust which may be running, and that is damaged or gone: the machine, and how.
    fn lost_ca(&self, id: &SandboxId, options: &'a Options) -> Option<(&'a Instance, &'a str)> {
        let what = options.lost_cas.get(id)?;
        let trusts = |machine: &&Instance| {
            let prior = self.observed.receipts.get(&machine.id);
            machine.resource == ResourceKind::Machine
                && matches!(machine.state, InstanceState::Running | InstanceState::Paused)
                && prior.is_some_and(|receipt| receipt.ca.is_some())
        };
        Some((self.ours().find(trusts)?, what))
    }

    fn unreachable(&self, backend: BackendKind) -> Option<(BackendKind, &'a str)> {
        match self.observed.unreachable.get(&backend) {
            Some(error) => Some((backend, error)),
            None if !self.observed.facts.contains_key(&backend) => {
                Some((backend, "this bottle does not have that backend"))
            }
            None => None,
        }
    }
}

fn unreachable_reason((backend, error): (BackendKind, &str)) -> Reason {
    Reason::BackendUnreachable { backend, error: error.to_owned() }
}

fn decide_sandbox(
    id: &SandboxId,
    desired: &Desired,
    seen: &Seen<'_>,
    options: &Options,
) -> Option<Decision> {
    let decision = Decision::new(id);
    let home = seen.home();
    if options.remove_all {
        return undeclared(decision, seen, desired, options, true);
    }
    if options.order == Order::Stop {
        return halted(decision, seen);
    }
    if let Some(diagnostics) = desired.held.get(id) {
        let message = diagnostics.first().map_or_else(String::new, |d| {
            format!("{}:{}:{}: {}", d.file, d.line, d.column, d.message)
        });
        return Some(decision.hold(home, Reason::ManifestInvalid { message }));
    }
    // A file that was renamed so that it is not read is none that is gone.
    if let Some(unread) = desired.unread.get(id).filter(|_| !desired.sandboxes.contains_key(id))
        && seen.ours().next().is_some()
    {
        let message = format!("{}: {}", unread.file, unread.message);
        return Some(decision.hold(home, Reason::ManifestInvalid { message }));
    }
    let Some(spec) = desired.sandboxes.get(id) else {
        let mut decision = undeclared(decision, seen, desired, options, false)?;
        // A rename that was cut short ends, also of one that goes.
        if let Some(going) = decision.teardown.first() {
            decision.backend = Some(going.backend);
            renames::tell(&mut decision, seen.observed);
        }
        return Some(decision);
    };
    let mut decision = declared(decision, spec, seen, desired, options);
    note(&mut decision, spec, seen);
    renames::tell(&mut decision, seen.observed);
    Some(decision)
}

/// Nothing declares it: what is ours goes, unless an overlay that this run did not load made it.
fn undeclared(
    mut decision: Decision,
    seen: &Seen<'_>,
    desired: &Desired,
    options: &Options,
    whatever: bool,
) -> Option<Decision> {
    if let Some(unseen) = seen.out_of_sight() {
        return Some(decision.hold(Some(unseen.0), unreachable_reason(unseen)));
    }
    let file = format!("agents/{}.md", decision.sandbox);
    // `down` is the order to remove it, whatever its record says.
    if let Some((backend, reason)) = seen.unreadable(&decision.sandbox, options)
        && !whatever
    {
        return Some(decision.hold(Some(backend), reason));
    }
    // What is on its way from one machine to the next is in the old one, which is kept as any other that goes.
    let elsewhere = !whatever && seen.ours().any(|instance| made_elsewhere(instance, desired));
    let ours = match elsewhere {
        true => seen.ours().cloned().collect(),
        false => aside::settle(&mut decision, seen),
    };
    decision.loses_machine |= !decision.teardown.is_empty();
    for instance in &ours {
        if !whatever && made_elsewhere(instance, desired) {
            continue;
        }
        // It goes already.
        if decision.teardown.iter().any(|gone| gone.id == instance.id) {
            continue;
        }
        let reason = Reason::NotDeclared { file: file.clone() };
        decision.change(instance.resource, Some(instance.backend), Verdict::Teardown, reason);
        if let InstanceState::Unknown(what) = &instance.state
            && let Some(change) = decision.changes.last_mut()
        {
            change.notes.push(format!("{what}; it goes all the same, with all its files"));
        }
        decision.loses_machine |= instance.resource == ResourceKind::Machine;
        decision.teardown.push(instance.clone());
    }
    // Of `down`, "nothing to do" would say that nothing of the tree is left.
    let others = seen.instances.iter().filter(|i| matches!(i.ownership, Ownership::OtherState(_)));
    if let Some(other) = others.min_by_key(|i| i.resource != ResourceKind::Machine)
        && whatever
    {
        decision.change(other.resource, Some(other.backend), Verdict::Hold, conflict(other));
    }
    (!decision.changes.is_empty()).then_some(decision)
}

/// The order to stop it.
fn halted(decision: Decision, seen: &Seen<'_>) -> Option<Decision> {
    if let Some(unseen) = seen.out_of_sight() {
        return Some(decision.hold(Some(unseen.0), unreachable_reason(unseen)));
    }
    let others = seen.instances.iter().filter(|i| i.ownership != Ownership::Ours);
    let other = others.min_by_key(|i| i.resource != ResourceKind::Machine);
    match (seen.ours().next(), other) {
        (None, Some(other)) => Some(decision.hold(Some(other.backend), conflict(other))),
        _ => rest::stop(decision, seen),
    }
}

/// That something under a name of ours is not ours.
fn conflict(other: &Instance) -> Reason {
    let holder = match &other.ownership {
        Ownership::OtherState(state) => {
            format!("the state folder {state} of the same owner (`apply --adopt` takes it over)")
        }
        _ => "something that bottle did not make".to_owned(),
    };
    Reason::Conflict { name: other.name.clone(), holder }
}

fn made_elsewhere(instance: &Instance, desired: &Desired) -> bool {
    instance.overlay.as_ref().is_some_and(|overlay| !desired.overlays.contains(overlay))
}

fn declared(
    mut decision: Decision,
    spec: &SandboxSpec,
    seen: &Seen<'_>,
    desired: &Desired,
    options: &Options,
) -> Decision {
    let home = seen.home();
    if spec.suspend {
        decision.change(ResourceKind::Machine, home, Verdict::Keep, Reason::Suspended);
        return decision;
    }
    if let Some(unseen) = seen.out_of_sight() {
        return decision.hold(Some(unseen.0), unreachable_reason(unseen));
    }
    let backend = choose_backend(spec, seen);
    decision.backend = Some(backend);
    if let Some(unseen) = seen.unreachable(backend) {
        return decision.hold(Some(backend), unreachable_reason(unseen));
    }
    if let Some((at, reason)) = seen.unreadable(&decision.sandbox, options) {
        return decision.hold(Some(at), reason);
    }
    let with_ca = spec.sidecar(backend).is_some();
    let lost_ca = seen.lost_ca(&spec.id, options).filter(|_| with_ca);
    if let Some((machine, what)) = lost_ca
        && !options.replace_unknown.contains(&spec.id)
    {
        let reason = Reason::Unreadable { what: what.to_owned() };
        return decision.hold(Some(machine.backend), reason);
    }
    if let Some(elsewhere) = seen.ours().find(|i| made_elsewhere(i, desired)) {
        decision.change(ResourceKind::Machine, home, Verdict::Keep, Reason::UpToDate);
        let overlay = elsewhere.overlay.as_deref().unwrap_or_default();
        decision.changes[0].notes = vec![format!(
            "made by the overlay {overlay}, which this run does not load: left as it is"
        )];
        return decision;
    }
    let taken =
        seen.instances.iter().find(|i| i.ownership != Ownership::Ours && i.backend == backend);
    if let Some(other) = taken {
        return decision.hold(Some(backend), conflict(other));
    }
    if seen.ours().any(|instance| instance.resource == ResourceKind::Machine)
        && let Some(accepted) = seen.observed.accepted.get(&spec.id)
        && let Some(reason) = sources::moved(spec, accepted)
    {
        return decision.hold(Some(backend), reason);
    }
    if !seen.observed.accepted.contains_key(&spec.id)
        && !options.replace_unknown.contains(&spec.id)
        && let Some(reason) = seen
            .ours()
            .filter(|instance| instance.resource == ResourceKind::Machine)
            .find_map(|machine| sources::forgotten(spec, &machine.fields))
    {
        return decision.hold(Some(backend), reason);
    }
    let wanted = match spec.resources(backend) {
        Ok(wanted) => wanted,
        Err(unsuitable) => {
            let reason = Reason::ManifestInvalid { message: unsuitable.to_string() };
            return decision.hold(Some(backend), reason);
        }
    };
    let ours = aside::settle(&mut decision, seen);
    // What stands on another backend goes: the sandbox moves, or has moved.
    let has_moved =
        ours.iter().any(|i| i.backend == backend && i.resource == ResourceKind::Machine);
    for instance in ours.iter().filter(|i| i.backend != backend) {
        let machine = instance.resource == ResourceKind::Machine;
        // Of the machine that moves in this very plan, `replace` says it.
        if has_moved || !machine {
            let reason = Reason::Elsewhere { on: backend };
            let at = Some(instance.backend);
            decision.change(instance.resource, at, Verdict::Teardown, reason);
        }
        decision.loses_machine |= machine;
        decision.teardown.push(instance.clone());
    }
    // Of several the one that we made, and not somebody's copy of it; by id where all else is equal.
    let moves_from = decision
        .teardown
        .iter()
        .filter(|i| i.resource == ResourceKind::Machine && i.state != InstanceState::Aside)
        .min_by_key(|i| {
            let known = seen.observed.receipts.contains_key(&i.id);
            (!known, i.state != InstanceState::Running, i.created, i.id.clone())
        })
        .cloned();
    let standing: Vec<Instance> = ours
        .iter()
        .filter(|i| i.backend == backend)
        .map(|found| {
            let mut found = found.clone();
            found.drift.extend(built_in(&found, spec));
            // One that is to run anew is decided as one that stopped.
            if options.order == Order::Restart
                && found.resource == ResourceKind::Machine
                && rest::runs(&found)
            {
                decision.stop.push(found.clone());
                (found.state, found.boot) = (InstanceState::Stopped { code: None }, None);
            }
            // Only a new machine runs nothing that trusts the old one.
            if lost_ca.is_some_and(|(machine, _)| machine.id == found.id) {
                let (from, to) = (Some("lost".to_owned()), Some("a new one".to_owned()));
                found.drift.push(FieldChange { path: "ca".to_owned(), from, to });
            }
            found
        })
        .collect();
    let on_backend: Vec<&Instance> = standing.iter().collect();
    let mut replaced: BTreeSet<ResourceKind> = BTreeSet::new();
    let (mut machine, mut sidecar, mut own_gate) = (None, None, None);
    let kinds: BTreeSet<ResourceKind> = wanted.iter().map(ResourceSpec::kind).collect();
    for resource in wanted {
        let kind = resource.kind();
        let candidates: Vec<&Instance> =
            on_backend.iter().copied().filter(|i| i.resource == kind).collect();
        let moved = moves_from.as_ref().filter(|_| kind == ResourceKind::Machine);
        let kept = decide_resource(&mut decision, &resource, &candidates, moved, &mut replaced);
        match kind {
            ResourceKind::Machine => machine = kept,
            ResourceKind::Sidecar => sidecar = kept,
            ResourceKind::Gate => own_gate = kept,
            _ => {}
        }
    }
    if let Some(spec) = spec.sidecar(backend) {
        load::decide_load(&mut decision, spec, backend, sidecar, seen, options);
    }
    if let Some(spec) = spec.gate(backend) {
        gate::decide_load(&mut decision, spec, backend, own_gate, seen);
    }
    // A network, sidecar or gate that is no longer wanted.
    for instance in on_backend {
        if !kinds.contains(&instance.resource) {
            let reason = Reason::NotDeclared { file: spec.source.clone() };
            decision.change(instance.resource, Some(backend), Verdict::Teardown, reason);
            decision.teardown.push(instance.clone());
        }
    }
    let kept = machine.map(|machine| machine.id.clone());
    let mut decision = guest::decide_guest(decision, spec, backend, machine, seen, options);
    decision.revival = aside::followed(&decision)
        .map(|old| guest::revive(spec, old, seen.observed.receipts.get(&old.id)));
    let gone: BTreeSet<_> = decision.teardown.iter().map(|i| i.id.clone()).collect();
    let stays = standing.iter().filter(|i| !gone.contains(&i.id));
    let stopped = seen.observed.stopped.contains_key(&spec.id);
    if stopped && options.wakes(&spec.id) {
        rest::wake(&mut decision, stays);
    } else if stopped {
        rest::rest(&mut decision, stays);
        // What is not started waits for nothing.
        if !decision.makes_machine() {
            return decision;
        }
    }
    if options.order == Order::Restart {
        restarted(&mut decision, kept.as_ref(), spec, options);
    }
    let missing = missing(spec, seen, options, std::mem::take(&mut decision.waits));
    if let Some(why) = impossible(&decision, spec, backend, seen) {
        decision.refuse(backend, Reason::Impossible { why });
    } else if let Some(reason) = missing {
        decision.wait(backend, reason);
    }
    decision
}

/// Why the backend cannot do what was decided, as it says itself: nothing is begun then.
fn impossible(
    decision: &Decision,
    spec: &SandboxSpec,
    backend: BackendKind,
    seen: &Seen<'_>,
) -> Option<String> {
    let facts = seen.observed.facts.get(&backend)?;
    let starts = decision.start.iter().any(|i| i.resource == ResourceKind::Machine);
    if let Some(why) = &facts.no_machines
        && (decision.makes_machine() || starts)
    {
        return Some(format!("no machine can be made: {why}"));
    }
    let makes = |kind| decision.create.iter().any(|spec| spec.kind() == kind);
    let wants_gate = makes(ResourceKind::Gate) || decision.makes_machine();
    if let Some(why) = facts.no_gates.as_ref().filter(|_| spec.gate.is_some() && wants_gate) {
        return Some(format!("its git gate cannot be made: {why}"));
    }
    let makes_sidecar = makes(ResourceKind::Sidecar);
    let connected = spec.sidecar(backend).is_some() && decision.makes_machine();
    let why = facts.no_sidecars.as_ref().filter(|_| makes_sidecar || connected)?;
    Some(format!("its sidecar cannot be made: {why}"))
}

/// Says of a machine that runs anew why it does. What it would lose and could not be given again keeps it
/// from being stopped.
fn restarted(
    decision: &mut Decision,
    kept: Option<&InstanceId>,
    spec: &SandboxSpec,
    options: &Options,
) {
    decision.stop.retain(|instance| Some(&instance.id) == kept);
    if decision.stop.is_empty() {
        return;
    }
    for change in &mut decision.changes {
        let machine = change.resource == ResourceKind::Machine;
        if machine && matches!(change.reason, Reason::NotRunning { .. }) {
            change.reason = Reason::Restart;
        }
    }
    let missing = spec.asked_env.iter().filter(|name| !options.values.contains_key(*name));
    decision.waits.extend(missing.cloned());
}

/// What the whole sandbox waits for: tokens of its routes, and values without which it is not made.
fn missing(
    spec: &SandboxSpec,
    seen: &Seen<'_>,
    options: &Options,
    waits: BTreeSet<String>,
) -> Option<Reason> {
    let routes = spec.policy.routes.iter().map(|route| (&*route.token_ref, &*route.token_ref));
    let login = spec.sidecar.iter().flat_map(|sidecar| sidecar.proxy.iter());
    let login = login.filter_map(|proxy| Some((PROXY_LOGIN, proxy.login.name()?)));
    let used: Vec<(&str, &str)> = routes.chain(login).collect();
    let missing = used.iter().filter(|(known, _)| !options.tokens.contains_key(*known));
    let mut names: Vec<String> = missing.map(|(_, name)| (*name).to_owned()).collect();
    if !names.is_empty() {
        // All that is missing, at once: also values that nothing inside has.
        let inside = |name: &String| {
            seen.receipts.iter().any(|r| r.env.get(name).is_some_and(|digest| !digest.is_empty()))
        };
        let values = spec.asked_env.iter();
        names.extend(values.filter(|n| !options.values.contains_key(*n) && !inside(n)).cloned());
    }
    names.extend(waits);
    let mut named = BTreeSet::new();
    names.retain(|name| named.insert(name.clone()));
    let is_token = |name: &&String| used.iter().any(|(_, used)| used == name);
    let tokens = names.iter().filter(is_token).cloned().collect();
    (!names.is_empty()).then_some(Reason::NeedsInput { names, tokens })
}

/// What an earlier version built into a machine and is another by now: its command, and values that the
/// command would keep, for it is started there without the file that holds new ones.
fn built_in(found: &Instance, spec: &SandboxSpec) -> Vec<FieldChange> {
    let earlier = |hash| change::is_earlier(found.backend, hash, &found.fields);
    if found.resource != ResourceKind::Machine || !found.hash.is_some_and(earlier) {
        return Vec::new();
    }
    let guest = spec.guest(found.backend);
    let mut main = found.fields.clone();
    main.0.retain(|path, _| change::is_main(path));
    let main = differences(&main, &guest.main.map(|main| main.fields()).unwrap_or_default());
    if !main.is_empty() || spec.command.is_empty() {
        return main;
    }
    let wanted = guest.env;
    let values = found.fields.0.iter().filter_map(|(path, value)| {
        let name = change::variable(path)?;
        let to = wanted.get(name);
        (to != Some(value) && !spec.asked_env.contains(name)).then(|| FieldChange {
            path: path.clone(),
            from: Some(value.clone()),
            to: to.cloned(),
        })
    });
    values.collect()
}

/// An existing sandbox stays where it is; a new one goes where its bottle says, or to the first
/// backend that can make it.
fn choose_backend(spec: &SandboxSpec, seen: &Seen<'_>) -> BackendKind {
    match spec.backend {
        BackendChoice::Fixed(kind) => kind,
        BackendChoice::Auto { default } => seen
            .home()
            .or_else(|| seen.receipts.first().map(|receipt| receipt.backend))
            .or(default)
            .unwrap_or_else(|| {
                let answers = |kind| seen.unreachable(kind).is_none();
                match &spec.image {
                    None | Some(ImageRef::Host) => BackendKind::Native,
                    _ if answers(BackendKind::Docker) => BackendKind::Docker,
                    _ if answers(BackendKind::Smolmachines) => BackendKind::Smolmachines,
                    Some(ImageRef::Tar { .. } | ImageRef::Folder { .. }) => BackendKind::Native,
                    Some(_) => BackendKind::Docker,
                }
            }),
    }
}

/// Decides one resource. Returns the instance that stays, if one does.
fn decide_resource<'a>(
    decision: &mut Decision,
    wanted: &ResourceSpec,
    candidates: &[&'a Instance],
    moves_from: Option<&Instance>,
    replaced: &mut BTreeSet<ResourceKind>,
) -> Option<&'a Instance> {
    let kind = wanted.kind();
    let backend = match wanted {
        ResourceSpec::Machine(MachineSpec { backend, .. }) => Some(*backend),
        _ => candidates.first().map(|i| i.backend),
    };
    // The one that fits, else one that runs, else the oldest; by id where all else is equal.
    let best = candidates.iter().copied().min_by_key(|i| {
        let fits = wanted.is(i.hash, &i.fields) && i.drift.is_empty();
        (!fits, i.state != InstanceState::Running, i.created, i.id.clone())
    });
    let Some(best) = best else {
        match moves_from {
            Some(old) => {
                decision.change(kind, backend, Verdict::Replace, Reason::SpecChanged);
                let making = wanted.making_of(&old.fields);
                decision.fields(differences(&making, &wanted.making()));
                decision.loses_machine = true;
                decision.followed = Some(old.id.clone());
                replaced.insert(kind);
            }
            None => decision.change(kind, backend, Verdict::Create, Reason::NotFound),
        }
        decision.create.push(wanted.clone());
        return None;
    };
    let stands_on = kind.stands_on().iter().copied().find(|on| replaced.contains(on));
    let (verdict, reason, fields) = judge(best, wanted, stands_on);
    let duplicate = Reason::Duplicate { keeps: best.id.0.clone() };
    for other in candidates.iter().filter(|i| i.id != best.id) {
        decision.change(kind, Some(other.backend), Verdict::Teardown, duplicate.clone());
        decision.teardown.push((*other).clone());
    }
    decision.change(kind, backend, verdict, reason);
    decision.fields(fields);
    if verdict == Verdict::Replace {
        replaced.insert(kind);
        if kind == ResourceKind::Machine {
            decision.loses_machine = true;
            decision.followed = Some(best.id.clone());
        }
        decision.teardown.push(best.clone());
        decision.create.push(wanted.clone());
        return None;
    }
    if !best.mendable.is_empty() {
        decision.mend.push(best.clone());
    }
    if let ResourceSpec::Machine(machine) = wanted
        && !limits(best, wanted).is_empty()
    {
        decision.adjust.push((best.clone(), machine.resources, machine.tools.clone()));
    }
    if best.state != InstanceState::Running {
        decision.start.push(best.clone());
    }
    Some(best)
}

fn judge(
    found: &Instance,
    wanted: &ResourceSpec,
    stands_on: Option<ResourceKind>,
) -> (Verdict, Reason, Vec<FieldChange>) {
    if let Some(on) = stands_on {
        return (Verdict::Replace, Reason::StandsOnReplaced { on }, Vec::new());
    }
    match found.hash {
        None => return (Verdict::Replace, Reason::HashMissing, Vec::new()),
        Some(_) if !wanted.is(found.hash, &found.fields) => {
            let fields = differences(&wanted.making_of(&found.fields), &wanted.making());
            return (Verdict::Replace, Reason::SpecChanged, fields);
        }
        Some(_) => {}
    }
    if !found.drift.is_empty() {
        return (Verdict::Replace, Reason::SpecChanged, found.drift.clone());
    }
    let not_running = |state: String| Reason::NotRunning { state };
    // A limit that is another anyway need not be said to have drifted.
    let changed = limits(found, wanted);
    let mut mend = found.mendable.clone();
    mend.retain(|field| changed.iter().all(|limit| limit.path != field.path));
    mend.extend(changed);
    match &found.state {
        InstanceState::Running if mend.is_empty() => (Verdict::Keep, Reason::UpToDate, Vec::new()),
        InstanceState::Running => (Verdict::Reprovision, Reason::SpecChanged, mend),
        InstanceState::Created => {
            (Verdict::Reprovision, not_running("created, never started".to_owned()), mend)
        }
        InstanceState::Paused => (Verdict::Reprovision, not_running("paused".to_owned()), mend),
        // Which of two stays was decided before.
        InstanceState::Aside => (Verdict::Keep, Reason::UpToDate, Vec::new()),
        InstanceState::Stopped { code } => {
            let state = code.map_or_else(|| "stopped".to_owned(), |c| format!("stopped ({c})"));
            (Verdict::Reprovision, not_running(state), mend)
        }
        InstanceState::Broken(what) | InstanceState::Unknown(what) => {
            (Verdict::Replace, not_running(format!("broken: {what}")), mend)
        }
    }
}

/// What changes in place: limits, and where tools lie.
fn limits(found: &Instance, wanted: &ResourceSpec) -> Vec<FieldChange> {
    let ResourceSpec::Machine(machine) = wanted else { return Vec::new() };
    let of = |fields: &Fields| change::hot_fields(machine.backend, fields);
    differences(&of(&found.fields), &of(&machine.fields()))
}

/// Field by field, old → new, sorted by path.
pub(super) fn differences(from: &Fields, to: &Fields) -> Vec<FieldChange> {
    let paths: BTreeSet<&String> = from.0.keys().chain(to.0.keys()).collect();
    paths
        .into_iter()
        .filter_map(|path| {
            let (old, new) = (from.0.get(path), to.0.get(path));
            (old != new).then(|| FieldChange {
                path: path.clone(),
                from: old.cloned(),
                to: new.cloned(),
            })
        })
        .collect()
}

/// That ports of this machine are opened to it: where a sandbox comes, and where its policy changes.
fn widened(decision: &mut Decision, spec: &SandboxSpec) {
    for change in &mut decision.changes {
        let comes = change.resource == ResourceKind::Machine
            && matches!(change.verdict, Verdict::Create | Verdict::Replace);
        let changes =
            change.resource == ResourceKind::Sidecar && change.verdict == Verdict::Reprovision;
        for service in &spec.policy.services {
            let path = format!("services.{}", service.name);
            let opened = change.fields.iter().any(|field| field.path == path && field.to.is_some());
            if comes || changes && opened {
                let (port, asked) = (service.port, service.authority());
                change.notes.push(format!(
                    "widens: it reaches 127.0.0.1:{port} of this machine, as {asked}"
                ));
            }
        }
    }
}

/// What a person should know beside the verdict. A section that is not enforced is never silent.
fn note(decision: &mut Decision, spec: &SandboxSpec, seen: &Seen<'_>) {
    widened(decision, spec);
    gate::widened(decision, spec);
    let Some(change) = decision.changes.iter_mut().find(|c| c.resource == ResourceKind::Machine)
    else {
        return;
    };
    let backend = change.backend.unwrap_or(BackendKind::Native);
    let by_sidecar = spec.sidecar(backend).is_some();
    let enforced = |section: &&str| match *section {
        "cred_proxy" | "egress" | "services" | "supervise" => by_sidecar,
        "git" => spec.gate(backend).is_some(),
        _ => false,
    };
    let mut sections = spec.policy.sections();
    sections.retain(|section| !enforced(section));
    if !sections.is_empty() {
        let verb = if sections.len() == 1 { "is" } else { "are" };
        let network = if by_sidecar || spec.gate(backend).is_some() { "" } else { "no network: " };
        let list = sections.join(", ");
        change.notes.push(format!("{network}{list} {verb} not enforced yet"));
    }
    for receipt in seen.ours().filter_map(|instance| seen.observed.receipts.get(&instance.id)) {
        // What a provisioning found of the image's own, and left alone.
        let own = |(path, ours): &(&String, &String)| path.starts_with('/') && ours.is_empty();
        let own = receipt.settings.iter().filter(own).map(|(path, _)| path);
        change.notes.extend(
            own.map(|path| format!("supervise: {path} is the image's own: add the server there")),
        );
    }
    if let Some(overlay) = &spec.overlay {
        change.notes.push(format!("an agent of the overlay {overlay}"));
    }
    change.notes.extend(seen.shared.notes(spec));
    for field in change.fields.iter().filter(|field| tool::named(&field.path).is_some()) {
        if change.verdict == Verdict::Reprovision && change.reason == Reason::SpecChanged {
            let name = tool::named(&field.path).unwrap_or_default();
            change.notes.push(format!(
                "{name} has moved: it is shown from its new place at the next start"
            ));
        }
    }
    if matches!(change.verdict, Verdict::Keep | Verdict::Reprovision) {
        let kept = seen.ours().filter(|i| i.resource == ResourceKind::Machine);
        change.notes.extend(kept.flat_map(|machine| machine.notes.iter().cloned()));
    }
    if !matches!(change.verdict, Verdict::Create | Verdict::Replace) {
        return;
    }
    let Some(facts) = change.backend.and_then(|kind| seen.observed.facts.get(&kind)) else {
        return;
    };
    if facts.gvisor {
        change.notes.push("runs under gVisor (runsc)".to_owned());
    }
    let image = spec.image.as_ref().map(ToString::to_string).unwrap_or_default();
    if spec.user.is_none() && facts.root_images.contains(&image) {
        change.notes.push("runs as root: the image names no user and has no uid 1000".to_owned());
    }
    let mounted = spec.workspace.as_ref().is_some_and(|w| w.mode == WorkspaceMode::Mount);
    for limit in &facts.unenforced {
        let about = |field: &str| limit.starts_with(field);
        let concerns = (spec.resources.disk.is_some() || !about("resources.disk"))
            && (mounted || !about("workspace"));
        if concerns {
            change.notes.push(limit.clone());
        }
    }
}
