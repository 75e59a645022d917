//! One row a sandbox, of what a look has shown.

use std::collections::{BTreeMap, BTreeSet};

use super::SandboxStatus;
use super::missing;
use crate::backend::MainState;
use crate::model::{BackendKind, Instance, InstanceState, Ownership, ResourceKind, SandboxId};
use crate::plan::{self, Change, reasons, verdict_of};
use crate::reconcile::state::now;
use crate::reconcile::{Last, View};

/// The machines of this tree, by sandbox.
pub(super) fn machines(view: &View) -> BTreeMap<&SandboxId, &Instance> {
    let ours =
        |i: &&Instance| i.resource == ResourceKind::Machine && i.ownership == Ownership::Ours;
    let aside = |i: &&Instance| i.state == InstanceState::Aside;
    let all = || view.observed.instances.iter().filter(ours);
    // Rather than one that was set aside for it.
    let last = all().filter(|i| !aside(i));
    all().filter(aside).chain(last).map(|i| (&i.sandbox, i)).collect()
}

pub(super) fn sandboxes(
    view: &View,
    last: &Last,
    mains: &BTreeMap<SandboxId, MainState>,
) -> Vec<SandboxStatus> {
    let machines = machines(view);
    let mut changes: BTreeMap<&SandboxId, Vec<&Change>> = BTreeMap::new();
    for change in &view.plan.changes {
        changes.entry(&change.sandbox).or_default().push(change);
    }
    let all: BTreeSet<&SandboxId> = changes.keys().chain(machines.keys()).copied().collect();
    let drifts = drifts(view);
    all.into_iter()
        .map(|id| {
            let machine = machines.get(id).copied();
            let of = changes.get(id).map_or(&[][..], Vec::as_slice);
            let created = machine.and_then(|machine| machine.created);
            let known = of.iter().find_map(|change| change.backend);
            let stopped = view.observed.stopped.get(id).map(|stopped| stopped.since);
            let (state, code) = match machine.map(|machine| &machine.state) {
                Some(InstanceState::Stopped { .. } | InstanceState::Created)
                    if stopped.is_some() =>
                {
                    ("stopped by you".to_owned(), None)
                }
                _ => state(machine, mains.get(id), known, view),
            };
            SandboxStatus {
                sandbox: id.clone(),
                backend: machine.map(|machine| machine.backend).or(known),
                state,
                code,
                stopped,
                since: stopped,
                verdict: verdict_of(of),
                drift: drifts.get(id.as_str()).cloned().unwrap_or_default(),
                age: created.map(|created| now().saturating_sub(created)),
                created,
                last: last.sandboxes.get(id).cloned(),
                notes: of
                    .iter()
                    .flat_map(|change| change.notes.iter().cloned())
                    .chain(not_found(id, machine, code, view))
                    .collect(),
                output: Vec::new(),
                runs: Vec::new(),
                requests: None,
                usage: None,
                sidecar: None,
                git: None,
            }
        })
        .collect()
}

/// What to do about a command whose program is not inside, as its exit code says.
fn not_found(
    id: &SandboxId,
    machine: Option<&Instance>,
    code: Option<i32>,
    view: &View,
) -> Option<String> {
    let spec = view.desired.sandboxes.get(id)?;
    let program = spec.command.first().filter(|_| code == Some(missing::NOT_FOUND))?;
    let brings = missing::brings(machine?, program, &format!("bottles/{}.md", spec.bottle));
    Some(format!(
        "its command ended with {}, which says that a program is not inside: where that is `{program}`, {brings}",
        missing::NOT_FOUND
    ))
}

fn state(
    machine: Option<&Instance>,
    main: Option<&MainState>,
    backend: Option<BackendKind>,
    view: &View,
) -> (String, Option<i32>) {
    let plain = |word: &str| (word.to_owned(), None);
    let Some(machine) = machine else {
        let unseen = backend.is_some_and(|kind| !view.observed.facts.contains_key(&kind));
        return plain(if unseen { "unknown" } else { "missing" });
    };
    match (&machine.state, main) {
        (InstanceState::Running, Some(MainState::Waiting)) => plain("waiting"),
        (InstanceState::Running, Some(MainState::Completed)) => plain("completed"),
        (InstanceState::Running, Some(MainState::Failed(code))) => {
            ("failed".to_owned(), Some(*code))
        }
        (InstanceState::Running, Some(MainState::BackingOff { code, .. })) => {
            ("failing".to_owned(), Some(*code))
        }
        (InstanceState::Running, _) => plain("running"),
        (InstanceState::Created, _) => plain("created"),
        (InstanceState::Paused, _) => plain("paused"),
        (InstanceState::Aside, _) => plain("stopped"),
        (InstanceState::Stopped { code }, _) => ("stopped".to_owned(), *code),
        (InstanceState::Broken(_), _) => plain("broken"),
        (InstanceState::Unknown(_), _) => plain("unreadable"),
    }
}

/// Why sandboxes are not as they should be, by name.
fn drifts(view: &View) -> BTreeMap<String, Vec<String>> {
    let diffs = plan::diff::diffs(&view.plan, &view.old_texts());
    let around = reasons::Around {
        // What a new sandbox is stands in the tree.
        about: &BTreeMap::new(),
        diffs: &diffs,
        down: view.options.remove_all,
    };
    reasons::drifts(&view.text_document(), around)
}
