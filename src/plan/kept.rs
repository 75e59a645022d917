//! What of a sandbox is kept when its machine goes: what `keep` of its bottle names, which unless said
//! otherwise is the workspace, where it is a copy, and the home of its user. A machine that is followed by
//! another hands it on; of any other it stays as a snapshot.

use super::decision::Decision;
use super::{Change, Options, Reason, Verdict};
use crate::model::kept::{HOME, REST, WORKSPACE, lies_in};
use crate::model::{
    Desired, Instance, InstanceState, Keep, Kept, Observed, ResourceKind, SandboxId, Why,
    WorkspaceMode,
};

/// What is known where removals become steps.
pub(super) struct Keeping<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) options: &'a Options,
}

impl Keeping<'_> {
    /// What of a machine is kept before it goes; `None`: nothing is.
    pub(super) fn kept(&self, decision: &Decision, instance: &Instance) -> Option<Kept> {
        let what = self.named(&decision.sandbox);
        let any = what.home || !what.paths.is_empty() || copied(&what, instance).is_some();
        let kept = instance.resource == ResourceKind::Machine
            && self.keeps(decision)
            && has_work(instance)
            && any;
        let followed = decision.followed.as_ref() == Some(&instance.id);
        let why = if followed { Why::Replace } else { Why::Teardown };
        kept.then_some(Kept { why, what })
    }

    /// Whether what was kept of an earlier machine goes into this one, or into the one that is made.
    pub(super) fn carries(&self, decision: &Decision, machine: Option<&Instance>) -> bool {
        if !self.keeps(decision) {
            return false;
        }
        let replaced = |gone: &Instance| {
            self.kept(decision, gone).is_some_and(|kept| kept.why == Why::Replace)
        };
        let handed_on = machine.is_none() && decision.teardown.iter().any(replaced);
        // A run that ended between the two machines. As long as the old one is there, nothing was handed on.
        // What was kept then arrives, whatever the tree says is kept by now.
        let under_way = self.observed.carrying.get(&decision.sandbox).is_some_and(|old| {
            let there = |instance: &Instance| instance.id == *old && has_work(instance);
            !self.observed.instances.iter().any(there)
        });
        handed_on || under_way
    }

    /// What the tree says is kept of a sandbox: now, else when it last named it.
    fn named(&self, sandbox: &SandboxId) -> Keep {
        let now = self.desired.sandboxes.get(sandbox).map(|spec| &spec.keep);
        now.or_else(|| self.observed.keeps.get(sandbox)).cloned().unwrap_or_default()
    }

    /// Whether anything is, as far as the tree as a whole and the operator say.
    fn keeps(&self, decision: &Decision) -> bool {
        self.desired.tree.snapshots.is_some() && !self.options.discard.has(&decision.sandbox)
    }

    /// Says of the machine of a sandbox that goes what is kept of it and what is lost.
    pub(super) fn tell(&self, decision: &mut Decision) {
        let named = self.named(&decision.sandbox);
        let kept = self.keeps(decision);
        let mut changes = std::mem::take(&mut decision.changes);
        for change in changes.iter_mut().filter(|c| c.resource == ResourceKind::Machine) {
            let machines = decision.teardown.iter().filter(|i| i.resource == ResourceKind::Machine);
            let gone: Vec<&Instance> = match change.verdict {
                Verdict::Replace => {
                    machines.filter(|i| decision.followed.as_ref() == Some(&i.id)).collect()
                }
                // Of one that was set aside, the one in its place has all.
                Verdict::Teardown => machines
                    .filter(|i| Some(i.backend) == change.backend)
                    .filter(|i| {
                        i.state != InstanceState::Aside
                            || !matches!(change.reason, Reason::Duplicate { .. })
                    })
                    .collect(),
                _ => continue,
            };
            // Else nothing is done to it this time.
            if !gone.is_empty() {
                // What a machine that was never started is to get lies in a snapshot, and stays there.
                let waits = self.observed.carrying.contains_key(&decision.sandbox);
                let kept = kept && (waits || gone.iter().any(|i| has_work(i)));
                self.tell_one(decision, change, &gone, &named, kept);
            }
        }
        decision.changes = changes;
    }

    fn tell_one(
        &self,
        decision: &Decision,
        change: &mut Change,
        gone: &[&Instance],
        named: &Keep,
        kept: bool,
    ) {
        let next = self.desired.sandboxes.get(&decision.sandbox);
        let next = next.filter(|_| change.verdict == Verdict::Replace);
        // Into a copy of another folder, or none, no workspace comes along.
        let folder = next.and_then(|next| next.workspace.as_ref());
        let folder = folder.filter(|folder| folder.mode == WorkspaceMode::Copy);
        let comes_along = |instance: &&Instance| {
            let receipt = self.observed.receipts.get(&instance.id);
            let from = receipt.and_then(|receipt| receipt.copied_from.as_ref());
            folder.is_some_and(|folder| from.is_none_or(|from| *from == folder.path))
        };
        let replaced = change.verdict == Verdict::Replace;
        // What there is, in the order in which it is named, and whether it is kept.
        let mut work: Vec<(&str, bool)> = Vec::new();
        if gone.iter().any(|instance| instance.copied_workspace().is_some()) {
            let is_named = gone.iter().any(|instance| copied(named, instance).is_some());
            if kept && is_named && replaced && !gone.iter().all(comes_along) {
                change.notes.push(
                    "the new machine has no copy of the same folder: what was written to the workspace stays \
                     as a snapshot"
                        .to_owned(),
                );
            } else {
                work.push((WORKSPACE, is_named));
            }
        }
        work.push((HOME, named.home));
        let mounts = self.mounts_of_next(decision, change);
        for path in &named.paths {
            let is_workspace =
                |instance: &&Instance| instance.copied_workspace() == Some(path.as_str());
            let on_mount =
                |instance: &&Instance| instance.mounts().iter().any(|mount| lies_in(path, mount));
            if gone.iter().all(|instance| is_workspace(instance) || on_mount(instance)) {
                continue;
            }
            match mounts.iter().find(|mount| lies_in(path, mount)) {
                Some(mount) if kept => change.notes.push(format!(
                    "in the new machine {mount} is a folder of the host: what was written to {path} stays as a \
                     snapshot"
                )),
                _ => work.push((path, true)),
            }
            for mount in
                mounts.iter().filter(|mount| kept && lies_in(mount, path) && *mount != path)
            {
                change.notes.push(format!(
                    "in the new machine {mount} is a folder of the host: what {path} has there stays as a snapshot"
                ));
            }
        }
        if kept && named.is_nothing() {
            change.notes.push("`keep: []` of its bottle: nothing is kept".to_owned());
        }
        let (keeps, mut loses): (Vec<_>, Vec<_>) =
            work.into_iter().partition(|(_, is_named)| kept && *is_named);
        loses.push((REST, false));
        let names =
            |list: Vec<(&str, bool)>| list.iter().map(|(name, _)| (*name).to_owned()).collect();
        (change.keeps, change.loses) = (Some(names(keeps)), Some(names(loses)));
    }

    /// Where folders of the host will be mounted in the machine that follows.
    fn mounts_of_next(&self, decision: &Decision, change: &Change) -> Vec<String> {
        let spec = self.desired.sandboxes.get(&decision.sandbox);
        let Some(spec) = spec.filter(|_| change.verdict == Verdict::Replace) else {
            return Vec::new();
        };
        let tools = spec.tools.values().flat_map(|tool| &tool.folders);
        let shown = spec.host_paths.iter().chain(tools).map(|path| path.display().to_string());
        let mount = spec.workspace.as_ref().filter(|w| w.mode == WorkspaceMode::Mount);
        mount.map(|mount| mount.target.clone()).into_iter().chain(shown).collect()
    }
}

/// The copied workspace of a machine, where it is kept.
fn copied<'a>(named: &Keep, instance: &'a Instance) -> Option<&'a str> {
    instance.copied_workspace().filter(|target| named.workspace || named.covers(target))
}

/// One that was never started has none; from one that is half made or unreadable nothing can be taken.
pub(super) fn has_work(instance: &Instance) -> bool {
    match instance.state {
        InstanceState::Running | InstanceState::Paused | InstanceState::Stopped { .. } => true,
        // What one had that was set aside is in a snapshot, and in the machine that took its place.
        InstanceState::Aside
        | InstanceState::Created
        | InstanceState::Broken(_)
        | InstanceState::Unknown(_) => false,
    }
}
