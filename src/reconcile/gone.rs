//! Of which sandboxes `watch` has removed or replaced a machine within the last hour. It outlives the process: one
//! that is started again and again removes no more for that.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{TreeState, now};
use crate::model::{ResourceKind, SandboxId};
use crate::plan::{Action, Plan};

/// What lies further back does not count, in seconds.
const HOUR: u64 = 3600;

/// When a machine of each went, in seconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeMap<SandboxId, u64>);

impl Gone {
    /// As an earlier process has left it.
    pub(super) fn read(memory: &TreeState) -> Self {
        Self(memory.gone().unwrap_or_else(|error| {
            // It widens nothing: each pass is guarded as before.
            tracing::warn!(error = %format!("{error:#}"), "what went within the last hour is not known");
            BTreeMap::new()
        }))
    }

    /// Those within the last hour.
    pub(super) fn lately(&mut self) -> BTreeSet<SandboxId> {
        self.since(now())
    }

    fn since(&mut self, now: u64) -> BTreeSet<SandboxId> {
        // A clock that was set back keeps none for longer than an hour from now.
        self.0.retain(|_, at| now.abs_diff(*at) < HOUR);
        self.0.keys().cloned().collect()
    }

    /// Notes the machines that this plan removes, before it does.
    pub(super) fn note(&mut self, plan: &Plan, memory: &TreeState) {
        let goes = |action: &Action| matches!(action, Action::Teardown { instance, .. } if instance.resource == ResourceKind::Machine);
        let going = plan.steps.iter().filter(|step| goes(&step.action));
        let going: BTreeSet<SandboxId> = going.filter_map(|step| step.sandbox.clone()).collect();
        if going.is_empty() {
            return;
        }
        let at = now();
        self.0.extend(going.into_iter().map(|sandbox| (sandbox, at)));
        if let Err(error) = memory.set_gone(&self.0) {
            tracing::warn!(error = %format!("{error:#}"), "what goes cannot be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_counts_for_an_hour() {
        let name = |name: &str| SandboxId::new(name).unwrap();
        let mut gone = Gone([(name("old"), 1_000), (name("new"), 4_000)].into());
        assert_eq!(gone.since(4_599), [name("new"), name("old")].into());
        assert_eq!(gone.since(4_600), [name("new")].into());
        // The clock went back by a day: nothing of what is ahead counts.
        gone.0.insert(name("ahead"), 100_000);
        assert_eq!(gone.since(4_600), [name("new")].into());
    }
}
