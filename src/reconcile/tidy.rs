//! What is left in the state folder of what is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::authorities::Authorities;
use super::pass::Reconciler;
use super::view::View;
use super::{carried, stops};
use crate::model::{InstanceId, InstanceState, Receipt, SandboxId};

impl Reconciler {
    /// Drops the receipts of what is gone: a run that was killed between a removal and its receipt
    /// leaves one. The caller holds the tree's lock.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub fn tidy(&self, view: &View) -> anyhow::Result<()> {
        self.tidy_by(view, view.memory.sweep_receipts()?)
    }

    /// The same, with the receipts as they are now.
    pub(super) fn tidy_by(
        &self,
        view: &View,
        mut receipts: BTreeMap<InstanceId, Receipt>,
    ) -> anyhow::Result<()> {
        self.drop_stale_receipts(view, &mut receipts)?;
        carried::tidy(view)?;
        stops::tidy(view)?;
        // A CA goes with what had it: what is torn down has no receipt any more, and a sandbox whose
        // egress was switched off has none that names a CA.
        let with_ca = receipts.values().filter(|receipt| receipt.ca.is_some());
        let mut wanted: BTreeSet<&SandboxId> = with_ca.map(|receipt| &receipt.sandbox).collect();
        let stays = |id: &&SandboxId| !view.options.removes(id);
        let declared = view.desired.sandboxes.values().filter(|spec| spec.sidecar.is_some());
        wanted.extend(declared.map(|spec| &spec.id).filter(stays));
        // Its own step gives it to the new name.
        wanted.extend(view.observed.renames.values().filter(stays));
        wanted.extend(view.desired.held.keys().filter(stays));
        // What cannot be read or seen may have one.
        let unknown = |state: &InstanceState| matches!(state, InstanceState::Unknown(_));
        let instances = view.observed.instances.iter();
        wanted.extend(instances.filter(|i| unknown(&i.state)).map(|i| &i.sandbox).filter(stays));
        Authorities::of(&view.memory).sweep(&wanted)
    }

    /// A receipt of a machine that was not there when its backend was observed, and that no step of
    /// this run has made, speaks of nothing. It is dropped only after its sandbox was made anew, for
    /// until then it tells where the sandbox was.
    fn drop_stale_receipts(
        &self,
        view: &View,
        now_there: &mut BTreeMap<InstanceId, Receipt>,
    ) -> anyhow::Result<()> {
        let seen: BTreeSet<_> = view.observed.instances.iter().map(|i| &i.id).collect();
        let unknown: BTreeSet<_> = view
            .observed
            .instances
            .iter()
            .filter(|instance| matches!(instance.state, InstanceState::Unknown(_)))
            .map(|instance| &instance.sandbox)
            .collect();
        let stale: Vec<_> = view
            .observed
            .receipts
            .iter()
            .filter(|(id, receipt)| {
                view.observed.facts.contains_key(&receipt.backend)
                    && !seen.contains(id)
                    // It may be this one's whose record cannot be read.
                    && (!unknown.contains(&receipt.sandbox) || view.options.removes(&receipt.sandbox))
            })
            .collect();
        for (id, receipt) in stale {
            let made_anew = now_there.values().any(|other| {
                let lives = seen.contains(&other.instance)
                    || !view.observed.receipts.contains_key(&other.instance);
                other.sandbox == receipt.sandbox && lives
            });
            let declared = view.desired.sandboxes.contains_key(&receipt.sandbox)
                || view.desired.held.contains_key(&receipt.sandbox);
            if made_anew || !declared || view.options.removes(&receipt.sandbox) {
                crate::apply::Receipts::forget(&view.memory, id)?;
                now_there.remove(id);
            }
        }
        Ok(())
    }
}
