//! The machine of one sandbox, for commands that work on it, and why there is none.

use std::collections::{BTreeMap, BTreeSet};

use super::pass::Reconciler;
use super::renames;
use super::state::TreeState;
use crate::backend::Scope;
use crate::model::{
    BackendChoice, BackendKind, Instance, InstanceState, Observed, Ownership, SandboxId,
};

impl Reconciler {
    /// Says of what was seen whose it is, where the record of renamed sandboxes is lost: else another one might be
    /// meant by a name.
    ///
    /// # Errors
    /// When the record is there and cannot be read.
    pub fn place_lost(
        &self,
        memory: &TreeState,
        scope: &mut Scope,
        observed: &mut Observed,
    ) -> anyhow::Result<()> {
        renames::place_lost(memory, scope, observed)
    }

    /// The machine of a sandbox, for `exec`, `run` and `logs`.
    ///
    /// # Errors
    /// When the tree or its backend cannot be read, or there is no such machine.
    pub async fn find(&self, sandbox: &SandboxId) -> anyhow::Result<(Scope, Instance, Observed)> {
        let tree = self.identify().await?;
        let memory = self.state.tree(&tree.owner)?;
        let mut scope = self.scope(&tree.owner, &memory)?;
        let mut observed = Observed { receipts: memory.receipts()?, ..self.observe(&scope).await };
        self.place_lost(&memory, &mut scope, &mut observed)?;
        let its = observed.instances.iter().filter(|instance| {
            instance.sandbox == *sandbox
                && instance.resource == crate::model::ResourceKind::Machine
                && instance.ownership == Ownership::Ours
        });
        // Rather than one that was set aside for it.
        let machine = its.min_by_key(|instance| instance.state == InstanceState::Aside);
        if let Some(machine) = machine.cloned() {
            return Ok((scope, machine, observed));
        }
        let unreachable =
            observed.receipts.values().filter(|receipt| receipt.sandbox == *sandbox).find_map(
                |receipt| Some((receipt.backend, observed.unreachable.get(&receipt.backend)?)),
            );
        if let Some((backend, why)) = unreachable {
            anyhow::bail!("{sandbox} is on {backend}, which cannot be reached: {why}");
        }
        if let Some(taken) = self.of_another_state(sandbox, &observed) {
            anyhow::bail!("{taken}");
        }
        // It may have been made there by another computer, or before the state folder was lost.
        if let Some((backend, why)) = self.unseen(sandbox, &observed).await {
            anyhow::bail!(
                "{sandbox} is to be on {backend}, which cannot be reached, and is nowhere else: {why}"
            );
        }
        let ours = observed.instances.iter().filter(|found| found.ownership == Ownership::Ours);
        let known: BTreeSet<&str> = ours.map(|instance| instance.sandbox.as_str()).collect();
        if known.is_empty() {
            anyhow::bail!(
                "there is no sandbox {sandbox}: nothing of this tree exists yet; `bottle apply` makes it"
            );
        }
        let known: Vec<&str> = known.into_iter().collect();
        anyhow::bail!("there is no sandbox {sandbox}; there are: {}", known.join(", "))
    }
}

impl Reconciler {
    /// The backend on which the tree wants this sandbox, where that cannot be reached, and why.
    async fn unseen<'a>(
        &self,
        sandbox: &SandboxId,
        observed: &'a Observed,
    ) -> Option<(BackendKind, &'a String)> {
        if observed.unreachable.is_empty() {
            return None;
        }
        let desired = self.desired().await.ok()?;
        let kind = match desired.sandboxes.get(sandbox)?.backend {
            BackendChoice::Fixed(kind) | BackendChoice::Auto { default: Some(kind) } => kind,
            BackendChoice::Auto { default: None } => return None,
        };
        Some((kind, observed.unreachable.get(&kind)?))
    }

    /// That a sandbox is there and carries the id of another state folder, and what to do about it: as a rule
    /// it is this one's, which has lost its id.
    fn of_another_state(&self, sandbox: &SandboxId, observed: &Observed) -> Option<String> {
        self.of_other_states(observed, Some(&BTreeSet::from([sandbox.clone()]))).pop()
    }

    /// The same of all sandboxes, or of these: a sentence for each other state folder.
    #[must_use]
    pub fn of_other_states(
        &self,
        observed: &Observed,
        only: Option<&BTreeSet<SandboxId>>,
    ) -> Vec<String> {
        let mut others: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for found in &observed.instances {
            if let Ownership::OtherState(state) = &found.ownership
                && only.is_none_or(|only| only.contains(&found.sandbox))
            {
                others.entry(state).or_default().insert(found.sandbox.as_str());
            }
        }
        let (file, own) = (self.state.root().join("id"), self.state.id());
        let said = |(state, sandboxes): (&str, BTreeSet<&str>)| {
            let state = crate::model::text::harmless_line(state);
            let verb = if sandboxes.len() == 1 { "exists and carries" } else { "exist and carry" };
            let names = sandboxes.into_iter().collect::<Vec<_>>().join(", ");
            format!(
                "{names} {verb} the id {state} of a state folder, and {} says {own}: if that file was lost, \
                 write {state} into it; else `bottle apply --adopt` takes over what exists, or name the \
                 other folder with --state-dir",
                file.display(),
            )
        };
        others.into_iter().map(said).collect()
    }
}
