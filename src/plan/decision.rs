//! What is to be done for one sandbox, on its way from its verdicts to the steps.

use std::collections::BTreeSet;

use super::{Change, Reason, Verdict, verdict_of};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, FieldChange, GuestSpec, Instance, InstanceId, InstanceState, LoadSpec, Receipt,
    ResourceKind, Resources, SandboxId, Tools,
};

/// What is to be done for one sandbox; `order` turns it into steps.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) sandbox: SandboxId,
    pub(super) changes: Vec<Change>,
    /// Where the sandbox is, or is made; `None` where that was not decided.
    pub(super) backend: Option<BackendKind>,
    /// What was made half-way in the place of a machine that was set aside, and goes before all else.
    pub(super) half: Vec<Instance>,
    /// That machine, which is to have its name again.
    pub(super) bring_back: Option<Instance>,
    /// What goes.
    pub(super) teardown: Vec<Instance>,
    /// That machine of them which stays until the one in its place is provisioned.
    pub(super) superseded: Option<InstanceId>,
    /// That machine of them whose place a new one takes.
    pub(super) followed: Option<InstanceId>,
    /// What is made, in the order of creation.
    pub(super) create: Vec<ResourceSpec>,
    /// What runs and is stopped.
    pub(super) stop: Vec<Instance>,
    /// What exists and is started.
    pub(super) start: Vec<Instance>,
    /// What exists and is set right in place.
    pub(super) mend: Vec<Instance>,
    /// What exists and gets other limits in place.
    pub(super) adjust: Vec<(Instance, Resources, Tools)>,
    /// What the sidecar and the gate are given.
    pub(super) load: Vec<Loading>,
    /// What is put in.
    pub(super) provision: Option<Provisioning>,
    /// What is put into the machine that another is to follow, where it has to run again.
    pub(super) revival: Option<Provisioning>,
    /// The machine goes or is made anew (and not merely a duplicate of it): the guard counts it.
    pub(super) loses_machine: bool,
    /// The name that it had, where it is given another one.
    pub(super) rename: Option<SandboxId>,
    /// Values without which its machine is not made, or not started anew.
    pub(super) waits: BTreeSet<String>,
    /// The operator stopped it: what is made is not started.
    pub(super) rests: bool,
}

/// What a sidecar or a gate is given.
#[derive(Debug, Clone)]
pub(super) struct Loading {
    pub(super) spec: LoadSpec,
    /// The one that stays; `None` when this plan makes it.
    pub(super) on: Option<Instance>,
}

#[derive(Debug, Clone)]
pub(super) struct Provisioning {
    pub(super) guest: GuestSpec,
    /// The machine that stays; `None` when this plan makes it.
    pub(super) machine: Option<Instance>,
    pub(super) prior: Option<Receipt>,
    pub(super) deliver: BTreeSet<String>,
}

impl Decision {
    pub(super) fn new(sandbox: &SandboxId) -> Self {
        Self {
            sandbox: sandbox.clone(),
            changes: Vec::new(),
            backend: None,
            half: Vec::new(),
            bring_back: None,
            teardown: Vec::new(),
            superseded: None,
            followed: None,
            create: Vec::new(),
            stop: Vec::new(),
            start: Vec::new(),
            mend: Vec::new(),
            adjust: Vec::new(),
            load: Vec::new(),
            provision: None,
            revival: None,
            loses_machine: false,
            rename: None,
            waits: BTreeSet::new(),
            rests: false,
        }
    }

    pub(super) fn change(
        &mut self,
        resource: ResourceKind,
        at: Option<BackendKind>,
        v: Verdict,
        r: Reason,
    ) {
        self.changes.push(Change {
            sandbox: self.sandbox.clone(),
            resource,
            backend: at,
            verdict: v,
            reason: r,
            class: None,
            why: Vec::new(),
            fields: Vec::new(),
            keeps: None,
            loses: None,
            work: None,
            notes: Vec::new(),
        });
    }

    pub(super) fn fields(&mut self, fields: Vec<FieldChange>) {
        if let Some(change) = self.changes.last_mut() {
            change.fields = fields;
        }
    }

    /// Whether a machine of it is made.
    pub(super) fn makes_machine(&self) -> bool {
        self.create.iter().any(|spec| spec.kind() == ResourceKind::Machine)
    }

    /// Nothing of this sandbox is touched.
    pub(super) fn hold(mut self, backend: Option<BackendKind>, reason: Reason) -> Self {
        self.change(ResourceKind::Machine, backend, Verdict::Hold, reason);
        self
    }

    /// Does nothing of it as long as values are missing; what is to become of it is said all the same.
    pub(super) fn wait(&mut self, at: BackendKind, reason: Reason) {
        let Reason::NeedsInput { names, .. } = &reason else { return };
        let names = names.join(", ");
        let then = match verdict_of(&self.changes.iter().collect::<Vec<_>>()) {
            Verdict::Create => Some("it is made"),
            Verdict::Reprovision => Some("it is brought up to date in place"),
            Verdict::Replace => Some("it is made anew"),
            Verdict::Keep | Verdict::Hold | Verdict::Teardown => None,
        };
        self.withhold_all_but_gate();
        // One that stays waits for no more than this.
        self.changes.retain(|change| !matches!(change.reason, Reason::NeedsInput { .. }));
        self.change(ResourceKind::Machine, Some(at), Verdict::Hold, reason);
        self.changes.rotate_right(1);
        self.changes[0].notes.extend(then.map(|then| format!("once it has {names}, {then}")));
    }

    /// Does nothing of it, for this reason; what was to become of it is said all the same.
    pub(super) fn refuse(&mut self, at: BackendKind, reason: Reason) {
        self.withhold_all_but_gate();
        self.changes.retain(|change| !matches!(change.reason, Reason::NeedsInput { .. }));
        self.change(ResourceKind::Machine, Some(at), Verdict::Hold, reason);
        self.changes.rotate_right(1);
    }

    /// The same, but for what lets less of its git through: a gate that runs works by what is declared now, and one that
    /// is declared no more goes, whatever the rest waits for.
    fn withhold_all_but_gate(&mut self) {
        let works = |load: &Loading| {
            let on = load.on.as_ref();
            on.is_some_and(|on| {
                on.resource == ResourceKind::Gate && on.state == InstanceState::Running
            })
        };
        let undeclared = |change: &Change| {
            change.resource == ResourceKind::Gate
                && change.verdict == Verdict::Teardown
                && matches!(change.reason, Reason::NotDeclared { .. })
        };
        let goes = self.changes.iter().any(undeclared);
        let (mut load, mut teardown) = (self.load.clone(), self.teardown.clone());
        load.retain(works);
        teardown.retain(|gone| goes && gone.resource == ResourceKind::Gate);
        if self.rename.is_some() || (load.is_empty() && teardown.is_empty()) {
            return self.withhold();
        }
        let stands = |change: &Change| {
            change.resource == ResourceKind::Gate
                && matches!(change.verdict, Verdict::Reprovision | Verdict::Teardown)
        };
        let verdicts: Vec<Verdict> = self.changes.iter().map(|change| change.verdict).collect();
        self.withhold();
        for (change, verdict) in self.changes.iter_mut().zip(verdicts) {
            let before = Change { verdict, ..change.clone() };
            if stands(&before) {
                change.verdict = verdict;
            }
        }
        (self.load, self.teardown) = (load, teardown);
    }

    /// Drops all work and holds what would have been removed.
    pub(super) fn withhold(&mut self) {
        for change in &mut self.changes {
            if change.verdict != Verdict::Keep {
                change.verdict = Verdict::Hold;
            }
        }
        self.defer();
    }

    /// Drops all work.
    pub(super) fn defer(&mut self) {
        self.half.clear();
        self.bring_back = None;
        self.teardown.clear();
        self.create.clear();
        self.stop.clear();
        self.start.clear();
        self.mend.clear();
        self.adjust.clear();
        self.load.clear();
        (self.provision, self.revival) = (None, None);
        self.rename = None;
        self.loses_machine = false;
    }
}
