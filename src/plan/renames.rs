//! Sandboxes that were renamed: `was` of an agent, or what a run that was cut short has begun. What exists
//! under the old name is the new one's from here on, and a step gives it all that is remembered of the old.

use std::collections::{BTreeMap, BTreeSet};

use super::decision::Decision;
use super::{Reason, Verdict};
use crate::model::{
    Desired, Diagnostic, FieldChange, GuestSpec, Instance, MachineSpec, Observed, Ownership,
    Places, ResourceKind, SandboxId, SandboxSpec, Was,
};

/// The field of a machine's change that says its sandbox's names.
pub(super) const NAME: &str = "name";

/// What is known of renames beside tree and backends.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Where renamed sandboxes are.
    pub places: Places,
    /// Renames that were begun and may not have ended: new names, with the old ones.
    pub begun: BTreeMap<SandboxId, SandboxId>,
    /// Whether `was` of agents counts: not where all goes or stops, whatever the tree says.
    pub was: bool,
}

/// Says whose is what, and returns where each sandbox is, or is to be made. An agent whose `was` cannot be
/// followed is held, and so is what it means.
pub fn resolve(desired: &mut Desired, observed: &mut Observed, known: &Known) -> Places {
    let mut places = known.places.clone();
    let mut renames = BTreeMap::new();
    for (new, old) in &known.begun {
        // Whoever took the new name back before it was given meant the old one to stay.
        if !declares(desired, new) && declares(desired, old) {
            places.rename(new, old);
            take(observed, new, old);
            renames.insert(old.clone(), new.clone());
        } else {
            finish(observed, old, new);
            renames.insert(new.clone(), old.clone());
        }
    }
    let mut held = Vec::new();
    for (id, was) in desired.was.iter().filter(|_| known.was) {
        // What is under way already needs no further word.
        if renames.contains_key(id) || renames.values().any(|old| *old == was.name) {
            continue;
        }
        match judge(id, was, observed) {
            Ok(false) => {}
            Ok(true) => {
                places.rename(&was.name, id);
                take(observed, &was.name, id);
                renames.insert(id.clone(), was.name.clone());
            }
            Err(finding) => held.push((id.clone(), was.name.clone(), *finding)),
        }
    }
    for (id, was, finding) in held {
        desired.sandboxes.remove(&id);
        desired.unread.entry(was).or_insert_with(|| finding.clone());
        if !desired.diagnostics.contains(&finding) {
            desired.diagnostics.push(finding.clone());
        }
        desired.held.insert(id, vec![finding]);
    }
    let taken: BTreeSet<&SandboxId> = (desired.sandboxes.keys())
        .chain(desired.held.keys())
        .chain(observed.instances.iter().map(|i| i.place.as_ref().unwrap_or(&i.sandbox)))
        .collect();
    places.settle(desired.sandboxes.keys(), &taken);
    for (id, spec) in &mut desired.sandboxes {
        spec.host_name = places.of(id).clone();
    }
    observed.renames = renames;
    places
}

/// Whether anything of ours says that this sandbox exists.
fn exists(observed: &Observed, id: &SandboxId) -> bool {
    observed.instances.iter().any(|i| i.sandbox == *id && i.ownership == Ownership::Ours)
        || observed.receipts.values().any(|receipt| receipt.sandbox == *id)
        || observed.carrying.contains_key(id)
}

/// Whether a sandbox is renamed, or why it cannot be.
fn judge(new: &SandboxId, was: &Was, observed: &Observed) -> Result<bool, Box<Diagnostic>> {
    let old = &was.name;
    let finding = |message: String, hint: String| {
        let place = &was.place;
        let finding = Diagnostic {
            line: place.line,
            column: place.column,
            field: Some("was".to_owned()),
            ..Diagnostic::error(place.file.clone(), message)
        };
        Box::new(finding.with_hint(hint))
    };
    let of_old = || observed.instances.iter().filter(|instance| instance.sandbox == *old);
    if !exists(observed, old) {
        // Else `new` would be made beside what `--adopt` makes ours.
        let other = of_old().find(|i| matches!(i.ownership, Ownership::OtherState(_)));
        return match other.filter(|_| !exists(observed, new)) {
            None => Ok(false),
            Some(other) => Err(finding(
                format!("`was: {old}`, and {} is another state folder's", other.name),
                format!(
                    "`bottle apply --adopt` takes it over; else leave `was` out, and {new} is made anew"
                ),
            )),
        };
    }
    if exists(observed, new) {
        return Err(finding(
            format!("`was: {old}`, and sandboxes of both names exist: {old} and {new}"),
            format!(
                "leave `was` out, and {old} goes (a snapshot keeps its work); or `bottle down --only {new}` \
                 first, and {old} is renamed"
            ),
        ));
    }
    let theirs = of_old().find(|i| i.ownership == Ownership::Ours && i.overlay != was.overlay);
    if let Some(theirs) = theirs {
        let who = |overlay: &Option<String>| match overlay {
            Some(overlay) => format!("the overlay {overlay}"),
            None => "the tree itself".to_owned(),
        };
        let (made, here) = (who(&theirs.overlay), who(&was.overlay));
        return Err(finding(
            format!("`was: {old}`, and {old} was made by {made}, while this agent is of {here}"),
            "a sandbox is renamed where its agent is: leave `was` out".to_owned(),
        ));
    }
    Ok(true)
}

/// Whether an agent of this name is in the tree, whatever is wrong with it.
fn declares(desired: &Desired, id: &SandboxId) -> bool {
    desired.sandboxes.contains_key(id)
        || desired.held.contains_key(id)
        || desired.unread.contains_key(id)
}

/// Gives what was seen of `old` to `new`.
fn take(observed: &mut Observed, old: &SandboxId, new: &SandboxId) {
    for instance in observed.instances.iter_mut().filter(|i| i.sandbox == *old) {
        // A stranger keeps standing where it does.
        if instance.ownership == Ownership::Foreign {
            continue;
        }
        let place = instance.place.take().unwrap_or_else(|| old.clone());
        instance.place = (place != *new).then_some(place);
        instance.sandbox = new.clone();
    }
    finish(observed, old, new);
}

/// Gives what is remembered of `old` to `new`. Where both are, a place was given to `new` before: what stands under
/// the old name by now is another sandbox, made since.
fn finish(observed: &mut Observed, old: &SandboxId, new: &SandboxId) {
    let since: BTreeSet<_> = observed
        .instances
        .iter()
        .filter(|instance| instance.sandbox == *old && instance.ownership != Ownership::Foreign)
        .map(|instance| instance.id.clone())
        .collect();
    for (_, receipt) in observed.receipts.iter_mut().filter(|(id, _)| !since.contains(id)) {
        if receipt.sandbox == *old {
            receipt.sandbox = new.clone();
        }
    }
    if !since.is_empty() {
        return;
    }
    hand(&mut observed.carrying, old, new);
    hand(&mut observed.keeps, old, new);
    hand(&mut observed.stopped, old, new);
    hand(&mut observed.accepted, old, new);
}

/// What the new name has already was given to it before.
fn hand<T>(of: &mut BTreeMap<SandboxId, T>, old: &SandboxId, new: &SandboxId) {
    if let Some(value) = of.remove(old) {
        of.entry(new.clone()).or_insert(value);
    }
}

/// Says of a sandbox that is renamed that it is, unless nothing is done for it.
pub(super) fn tell(decision: &mut Decision, observed: &Observed) {
    let Some(old) = observed.renames.get(&decision.sandbox) else { return };
    let new = decision.sandbox.to_string();
    let beside =
        |reason: &Reason| matches!(reason, Reason::Duplicate { .. } | Reason::Elsewhere { .. });
    let machine = |change: &&mut super::Change| {
        change.resource == ResourceKind::Machine && !beside(&change.reason)
    };
    let Some(change) = decision.changes.iter_mut().find(machine) else { return };
    match (change.verdict, &change.reason) {
        (_, Reason::Suspended) => {
            return change
                .notes
                .push(format!("was {old}: is renamed once it is suspended no more"));
        }
        (Verdict::Hold, _) => {
            return change.notes.push(format!("was {old}: is renamed once it is held no more"));
        }
        (Verdict::Keep, _) => {
            change.verdict = Verdict::Reprovision;
            change.reason = Reason::Renamed { was: old.clone() };
        }
        _ => {}
    }
    let (from, to) = (Some(old.to_string()), Some(new));
    change.fields.insert(0, FieldChange { path: NAME.to_owned(), from, to });
    let stays = matches!(change.verdict, Verdict::Reprovision);
    let instance = observed.instances.iter().find(|i| {
        i.sandbox == decision.sandbox && i.resource == ResourceKind::Machine && i.place.is_some()
    });
    if let Some(instance) = instance.filter(|_| stays) {
        change.notes.push(format!(
            "what exists of it stays {} on {}, with its host name",
            instance.name, instance.backend
        ));
    }
    decision.rename = Some(old.clone());
}

/// Says of a sandbox whose file is gone that a new one looks like it.
pub(super) fn hint(desired: &Desired, observed: &Observed, decisions: &mut [Decision]) {
    let made: Vec<(&SandboxSpec, MachineSpec, GuestSpec)> = decisions
        .iter()
        .filter(|decision| decision.makes_machine() && decision.teardown.is_empty())
        .filter_map(|decision| {
            let spec = desired.sandboxes.get(&decision.sandbox)?;
            let backend = decision.backend?;
            Some((spec, spec.machine(backend).ok()?, spec.guest(backend)))
        })
        .collect();
    if made.is_empty() {
        return;
    }
    let alike = |gone: &Instance| {
        let receipt = observed.receipts.get(&gone.id)?;
        let mut all = made.iter().filter(|(spec, machine, guest)| {
            let prompt = guest.fields().0.remove("prompt");
            machine.backend == gone.backend
                && spec.overlay == gone.overlay
                && gone.hash == Some(machine.hash())
                && !spec.prompt.is_empty()
                && prompt.is_some_and(|prompt| receipt.fields.0.get("prompt") == Some(&prompt))
        });
        let (spec, ..) = all.next()?;
        // Of several nobody knows which.
        all.next().is_none().then_some(*spec)
    };
    let found: BTreeMap<SandboxId, (SandboxId, String)> = decisions
        .iter()
        .filter(|decision| decision.create.is_empty())
        .filter_map(|decision| {
            let machine = decision.teardown.iter().find(|i| i.resource == ResourceKind::Machine)?;
            let spec = alike(machine)?;
            Some((decision.sandbox.clone(), (spec.id.clone(), spec.source.clone())))
        })
        .collect();
    for decision in decisions.iter_mut() {
        let Some((new, file)) = found.get(&decision.sandbox) else { continue };
        // Two that go and look like the same one are as little told apart.
        if found.values().filter(|(other, _)| other == new).count() > 1 {
            continue;
        }
        let gone = &decision.sandbox;
        let note = format!(
            "{file} looks like {gone} renamed: add `was: {gone}` there, and {new} keeps everything"
        );
        let change = decision.changes.iter_mut().find(|c| {
            c.resource == ResourceKind::Machine && matches!(c.reason, Reason::NotDeclared { .. })
        });
        change.into_iter().for_each(|change| change.notes.push(note.clone()));
    }
}
