//! The mass-teardown guard: data is never destroyed by a prompt, a typo or an unmounted folder.

use super::decision::Decision;
use super::{AllowTeardown, OnMassTeardown, Options, Refusal};
use crate::model::{AgentsFolder, Desired, Observed, Ownership, ResourceKind, SandboxId};
use std::collections::BTreeSet;

/// Up to so many sandboxes go without a flag, however few exist.
const UNGUARDED: usize = 5;

/// Refuses, or withholds the removals, when the plan would destroy too much.
pub(super) fn guard(
    desired: &Desired,
    observed: &Observed,
    options: &Options,
    decisions: &mut [Decision],
) -> Option<Refusal> {
    let removed = decisions.iter().filter(|decision| decision.loses_machine).count();
    if removed == 0 {
        return None;
    }
    let allowed = match options.allow_teardown {
        AllowTeardown::Guarded => false,
        AllowTeardown::Upto(limit) => removed <= limit,
        AllowTeardown::All => true,
    };
    if allowed {
        return None;
    }
    let refusal = match no_agents(&desired.agents) {
        Some(found) if !options.remove_all => Refusal::NoAgents { found, removed },
        _ => mass_teardown(observed, &options.gone_lately, decisions)?,
    };
    if options.on_mass_teardown == OnMassTeardown::Hold {
        for decision in decisions.iter_mut().filter(|decision| decision.loses_machine) {
            decision.withhold();
        }
    }
    Some(refusal)
}

/// What goes now counts with what went within the last hour, each sandbox once: a tree that is taken apart file by
/// file loses as much as one that is emptied at once.
fn mass_teardown(
    observed: &Observed,
    lately: &BTreeSet<SandboxId>,
    decisions: &[Decision],
) -> Option<Refusal> {
    let ours = observed
        .instances
        .iter()
        .filter(|i| i.ownership == Ownership::Ours && i.resource == ResourceKind::Machine)
        .map(|i| &i.sandbox);
    let existing = ours.chain(lately).collect::<BTreeSet<_>>().len();
    let going = decisions.iter().filter(|decision| decision.loses_machine).map(|d| &d.sandbox);
    let removed = going.chain(lately).collect::<BTreeSet<_>>().len();
    let too_much = removed > UNGUARDED && removed * 2 > existing;
    too_much.then_some(Refusal::MassTeardown { removed, existing, lately: lately.len() })
}

/// Holds what would go because nobody declares it any more. What is made anew keeps its work, and goes on.
pub(super) fn hold_teardowns(decisions: &mut [Decision]) {
    let goes = |decision: &&mut Decision| decision.loses_machine && !decision.makes_machine();
    for decision in decisions.iter_mut().filter(goes) {
        decision.withhold();
        if let Some(change) = decision.changes.first_mut() {
            change.notes.push(
                "`--hold-teardown`: once `watch` has ended, `bottle apply` removes it".to_owned(),
            );
        }
    }
}

fn no_agents(agents: &AgentsFolder) -> Option<String> {
    match agents {
        AgentsFolder::Present => None,
        AgentsFolder::Empty => Some("agents/ holds no agent".to_owned()),
        AgentsFolder::Missing => Some("there is no agents/".to_owned()),
        AgentsFolder::Unreadable(error) => Some(format!("agents/ cannot be read: {error}")),
    }
}
