//! What a gate is to be given, and what a person is told of it: what may be pushed where, by which key. As a
//! sidecar, a gate keeps what it was given in memory only.

use std::collections::BTreeSet;

use super::decide::{Seen, differences};
use super::decision::{Decision, Loading};
use super::load::reprovision;
use super::{Change, Reason, Verdict};
use crate::model::gate::LoadSpec;
use crate::model::policy::GitUpstream;
use crate::model::{
    BackendKind, FieldChange, GateSpec, Instance, InstanceState, ResourceKind, SandboxSpec,
};

/// Decides whether the gate is loaded; `gate` is the one that stays.
pub(super) fn decide_load(
    decision: &mut Decision,
    spec: &GateSpec,
    backend: BackendKind,
    gate: Option<&Instance>,
    seen: &Seen<'_>,
) {
    let spec_of = || LoadSpec::Gate(spec.clone());
    let Some(gate) = gate else {
        decision.load.push(Loading { spec: spec_of(), on: None });
        return;
    };
    let runs = gate.state == InstanceState::Running;
    let prior = seen.observed.receipts.get(&gate.id);
    let loaded =
        prior.filter(|receipt| runs && receipt.boot == gate.boot && receipt.guest.is_some());
    let (reason, fields) = match loaded {
        // Where it does not run, its own verdict says so already.
        None => (Reason::HashMissing, Vec::new()),
        Some(loaded) if loaded.guest == Some(spec.content_hash()) => return,
        Some(loaded) => (Reason::SpecChanged, differences(&loaded.fields, &spec.content())),
    };
    if runs {
        reprovision(decision, ResourceKind::Gate, backend, reason, fields);
    }
    decision.load.push(Loading { spec: spec_of(), on: Some(gate.clone()) });
}

/// Says of a gate that comes what it lets through, and of one that is given more what that is.
pub(super) fn widened(decision: &mut Decision, spec: &SandboxSpec) {
    let Some(gate) = &spec.gate else { return };
    for change in decision.changes.iter_mut().filter(|c| c.resource == ResourceKind::Gate) {
        for upstream in &*gate.upstreams {
            if widens(change, upstream) {
                change.notes.push(format!("widens: {}", told(upstream)));
            }
        }
    }
}

/// What a gate does for one upstream, in one line.
fn told(upstream: &GitUpstream) -> String {
    let pins = upstream.pins();
    let pins = match pins.is_empty() {
        true => "no KnownHostKey is set, so nothing is sent".to_owned(),
        false => format!("where the host shows {}", pins.join(" or ")),
    };
    format!("{}: {}, by {}, {pins}", upstream.place(), upstream.grants(), upstream.key())
}

/// Whether this change of a gate lets more through to this upstream.
fn widens(change: &Change, upstream: &GitUpstream) -> bool {
    if matches!(change.verdict, Verdict::Create | Verdict::Replace) {
        return true;
    }
    let begin = format!("git.{}.", upstream.name);
    let more = |field: &FieldChange| {
        let Some(path) = field.path.strip_prefix(&begin) else { return false };
        let (from, to) = (field.from.as_deref(), field.to.as_deref());
        match path {
            // The repository is another one, and so is who is spoken to.
            "upstream" | "host_key" | "address" => to.is_some(),
            "push" | "force" | "delete" | "refs" => {
                let had: BTreeSet<&str> = from.into_iter().flat_map(|l| l.split(", ")).collect();
                let has = to.into_iter().flat_map(|list| list.split(", "));
                has.filter(|pattern| *pattern != "nothing").any(|pattern| !had.contains(pattern))
            }
            _ => path.starts_with("allow.") && to.is_some(),
        }
    };
    change.verdict == Verdict::Reprovision && change.fields.iter().any(more)
}
