//! What of runs a plan ends: people read it before it is carried out. A run that is under way is work.

use std::collections::BTreeSet;

use super::Detached;
use crate::model::{Instance, ResourceKind, SandboxId};
use crate::plan::{Action, Plan};
use crate::reconcile::state::TreeState;
use crate::reconcile::view::View;

/// The machines that go or stop by a plan.
fn stopping(plan: &Plan) -> impl Iterator<Item = &Instance> {
    plan.steps.iter().filter_map(|step| match &step.action {
        Action::Teardown { instance, .. } | Action::Stop(instance)
            if instance.resource == ResourceKind::Machine =>
        {
            Some(&**instance)
        }
        _ => None,
    })
}

impl View {
    /// The detached runs that its plan ends, each with the sandbox as it is called now.
    #[must_use]
    pub fn ends(&self) -> Vec<(SandboxId, Detached)> {
        let renamed = |id: &SandboxId| self.observed.renames.get(id).cloned();
        ends(&self.plan, &self.memory, renamed)
    }
}

fn ends(
    plan: &Plan,
    memory: &TreeState,
    earlier: impl Fn(&SandboxId) -> Option<SandboxId>,
) -> Vec<(SandboxId, Detached)> {
    let ids: BTreeSet<&SandboxId> = stopping(plan).map(|machine| &machine.sandbox).collect();
    if ids.is_empty() {
        return Vec::new();
    }
    let runs = memory.runs().unwrap_or_default().into_iter().filter(Detached::runs);
    let of = |run: Detached| {
        let is = |id: &&&SandboxId| {
            **id == &run.record.sandbox || earlier(id).as_ref() == Some(&run.record.sandbox)
        };
        let id = ids.iter().find(is).map(|id| (*id).clone())?;
        Some((id, run))
    };
    runs.filter_map(of).collect()
}

/// Says in the plan which runs it ends.
pub(in crate::reconcile) fn note(
    plan: &mut Plan,
    memory: &TreeState,
    earlier: impl Fn(&SandboxId) -> Option<SandboxId>,
) {
    for (sandbox, run) in ends(plan, memory, earlier) {
        let of = plan
            .changes
            .iter_mut()
            .find(|change| change.sandbox == sandbox && change.resource == ResourceKind::Machine);
        if let Some(change) = of {
            change.notes.push(format!("ends its detached run {}", run.record.id));
        }
    }
}
