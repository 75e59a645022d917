//! The guest's verdict: what is inside a machine, as its receipt says, against what is to be inside.

use std::collections::BTreeSet;

use super::decide::{Seen, differences};
use super::decision::{Decision, Provisioning};
use super::{Options, Reason, Verdict};
use crate::model::{
    BackendKind, FieldChange, GuestSpec, Instance, InstanceState, Receipt, ResourceKind,
    SandboxSpec, Setup, change,
};

/// Decides what is to be put in; `machine` is the one that stays.
pub(super) fn decide_guest(
    mut decision: Decision,
    spec: &SandboxSpec,
    backend: BackendKind,
    machine: Option<&Instance>,
    seen: &Seen<'_>,
    options: &Options,
) -> Decision {
    let guest = match machine {
        Some(machine) => of_machine(spec, machine),
        None => spec.guest(backend),
    };
    let at = Some(backend);
    let missing = |names: &BTreeSet<String>| -> Vec<String> {
        names.iter().filter(|name| !options.values.contains_key(*name)).cloned().collect()
    };
    let Some(machine) = machine else {
        // Nothing is made without them, and nothing is removed for what cannot be made.
        decision.waits = missing(&guest.asked_env).into_iter().collect();
        let replaces = decision
            .changes
            .iter()
            .any(|c| c.resource == ResourceKind::Machine && c.verdict == Verdict::Replace);
        if replaces {
            let reason = Reason::StandsOnReplaced { on: ResourceKind::Machine };
            decision.change(ResourceKind::Guest, at, Verdict::Replace, reason);
        } else {
            decision.change(ResourceKind::Guest, at, Verdict::Create, Reason::NotFound);
        }
        let deliver = guest.asked_env.clone();
        decision.provision = Some(Provisioning { guest, machine: None, prior: None, deliver });
        return decision;
    };
    let prior = seen.observed.receipts.get(&machine.id);
    let runs = machine.state == InstanceState::Running;
    let same_run = runs && prior.is_some_and(|receipt| receipt.boot == machine.boot);
    // Values that are not inside: never delivered, lost with the run, or changed since.
    let mut deliver = BTreeSet::new();
    let mut fields = Vec::new();
    for name in &guest.asked_env {
        // An empty digest: its delivery was cut short, so it may be inside or not.
        let inside = prior.and_then(|receipt| receipt.env.get(name));
        let inside = inside.filter(|digest| same_run && !digest.is_empty());
        let at_hand = options.values.get(name);
        if inside.is_none() || at_hand.is_some_and(|value| Some(value) != inside) {
            deliver.insert(name.clone());
        }
        if let (Some(old), Some(new)) = (inside, at_hand)
            && old != new
        {
            fields.push(FieldChange {
                path: format!("env.{name}"),
                from: Some(keyed(old)),
                to: Some(keyed(new)),
            });
        }
    }
    // The CA that it trusts: its sidecar presents certificates of the one that is in force.
    let trusted = prior.and_then(|receipt| receipt.ca.as_ref());
    let renewed = guest.access.is_some() && options.cas.get(&spec.id) != trusted;
    if renewed && known_before(prior) {
        fields.push(FieldChange {
            path: "ca".to_owned(),
            from: trusted.map(|ca| short(ca)),
            to: Some(
                options.cas.get(&spec.id).map_or_else(|| "a new one".to_owned(), |ca| short(ca)),
            ),
        });
    }
    let waits = missing(&deliver);
    let known = prior.and_then(|receipt| receipt.guest);
    if !waits.is_empty() {
        // A part of the values would let `command` start without the others: they wait together,
        // whatever was put in before.
        deliver.clear();
    }
    let hash = guest.hash();
    let reason = if !runs {
        Some(Reason::NotRunning { state: "its machine does not run".to_owned() })
    } else if known.is_none() {
        Some(Reason::HashMissing)
    } else if known != Some(hash) || !fields.is_empty() || renewed {
        Some(Reason::SpecChanged)
    } else if !deliver.is_empty() {
        // The machine was started behind our back, and its tmpfs is empty.
        Some(Reason::HashMissing)
    } else {
        None
    };
    if known.is_some_and(|known| known != hash)
        && let Some(receipt) = prior
    {
        let mut all = differences(&receipt.fields, &guest.fields());
        all.append(&mut fields);
        fields = all;
    }
    if !waits.is_empty() {
        // Only the delivery waits: whatever else there is to do is done.
        let reason = Reason::NeedsInput { names: waits, tokens: Vec::new() };
        decision.change(ResourceKind::Guest, at, Verdict::Hold, reason);
    } else if reason.is_none() {
        decision.change(ResourceKind::Guest, at, Verdict::Keep, Reason::UpToDate);
    }
    if let Some(reason) = reason {
        decision.change(ResourceKind::Guest, at, Verdict::Reprovision, reason);
        decision.fields(fields);
        decision.provision = Some(Provisioning {
            guest,
            machine: Some(machine.clone()),
            prior: prior.cloned(),
            deliver,
        });
    }
    decision
}

/// What is wanted of the guest of this machine, which may be one that an earlier version made.
fn of_machine(spec: &SandboxSpec, machine: &Instance) -> GuestSpec {
    let mut guest = spec.guest(machine.backend);
    // What that built in would show through where nothing stands over it.
    let built_in = machine.fields.0.keys().filter_map(|path| change::variable(path));
    let gone =
        built_in.filter(|name| !guest.env.contains_key(*name) && !guest.asked_env.contains(*name));
    guest.unset = gone.map(str::to_owned).collect();
    // Its supervisor reads none.
    let earlier = |hash| change::is_earlier(machine.backend, hash, &machine.fields);
    guest.main = guest.main.filter(|_| !machine.hash.is_some_and(earlier));
    guest
}

/// What is put into a machine that has to run again, because the one in its place could not be made.
pub(super) fn revive(spec: &SandboxSpec, old: &Instance, prior: Option<&Receipt>) -> Provisioning {
    let mut guest = of_machine(spec, old);
    // What it was made with is what it has: a setup that is another by now is that of the next machine.
    guest.setup = Setup::default();
    // So is a workspace: what was written to one that it does not keep would go with it.
    guest.workspace =
        guest.workspace.filter(|new| old.copied_workspace() == Some(new.target.as_str()));
    let deliver = guest.asked_env.clone();
    Provisioning { guest, machine: Some(old.clone()), prior: prior.cloned(), deliver }
}

pub(super) fn keyed(digest: &str) -> String {
    format!("hmac:{}", digest.get(..12).unwrap_or(digest))
}

/// The first characters of a CA's fingerprint, for people.
pub(super) fn short(fingerprint: &str) -> String {
    fingerprint.get(..12).unwrap_or(fingerprint).to_owned()
}

fn known_before(prior: Option<&Receipt>) -> bool {
    prior.is_some_and(|receipt| receipt.guest.is_some())
}
