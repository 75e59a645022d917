//! What is to be done for one sandbox, on its way from its verdicts to the steps.

use std::collections::BTreeSet;

use super::{Change, Reason, Verdict};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, FieldChange, GuestSpec, Instance, Receipt, ResourceKind, SandboxId, SidecarSpec,
};

/// What is to be done for one sandbox; `order` turns it into steps.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) sandbox: SandboxId,
    pub(super) changes: Vec<Change>,
    /// What goes.
    pub(super) teardown: Vec<Instance>,
    /// What is made, in the order of creation.
    pub(super) create: Vec<ResourceSpec>,
    /// What exists and is started.
    pub(super) start: Vec<Instance>,
    /// What exists and is set right in place.
    pub(super) mend: Vec<Instance>,
    /// What the sidecar is given.
    pub(super) load: Option<Loading>,
    /// What is put in.
    pub(super) provision: Option<Provisioning>,
    /// The machine goes or is made anew (and not merely a duplicate of it): the guard counts it.
    pub(super) loses_machine: bool,
}

/// What a sidecar is given.
#[derive(Debug, Clone)]
pub(super) struct Loading {
    pub(super) spec: SidecarSpec,
    /// The sidecar that stays; `None` when this plan makes it.
    pub(super) sidecar: Option<Instance>,
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
            teardown: Vec::new(),
            create: Vec::new(),
            start: Vec::new(),
            mend: Vec::new(),
            load: None,
            provision: None,
            loses_machine: false,
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
            fields: Vec::new(),
            notes: Vec::new(),
        });
    }

    pub(super) fn fields(&mut self, fields: Vec<FieldChange>) {
        if let Some(change) = self.changes.last_mut() {
            change.fields = fields;
        }
    }

    /// Nothing of this sandbox is touched.
    pub(super) fn hold(mut self, backend: Option<BackendKind>, reason: Reason) -> Self {
        self.change(ResourceKind::Machine, backend, Verdict::Hold, reason);
        self
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
        self.teardown.clear();
        self.create.clear();
        self.start.clear();
        self.mend.clear();
        self.load = None;
        self.provision = None;
        self.loses_machine = false;
    }
}
