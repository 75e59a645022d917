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
    let existing: BTreeSet<&SandboxId> = observed
        .instances
        .iter()
        .filter(|i| i.ownership == Ownership::Ours && i.resource == ResourceKind::Machine)
        .map(|i| &i.sandbox)
        .collect();
    let refusal = match no_agents(&desired.agents) {
        Some(found) if !options.remove_all => Refusal::NoAgents { found, removed },
        _ if removed > UNGUARDED && removed * 2 > existing.len() => {
            Refusal::MassTeardown { removed, existing: existing.len() }
        }
        _ => return None,
    };
    if options.on_mass_teardown == OnMassTeardown::Hold {
        for decision in decisions.iter_mut().filter(|decision| decision.loses_machine) {
            decision.withhold();
        }
    }
    Some(refusal)
}

fn no_agents(agents: &AgentsFolder) -> Option<String> {
    match agents {
        AgentsFolder::Present => None,
        AgentsFolder::Empty => Some("agents/ holds no agent".to_owned()),
        AgentsFolder::Missing => Some("there is no agents/".to_owned()),
        AgentsFolder::Unreadable(error) => Some(format!("agents/ cannot be read: {error}")),
    }
}
