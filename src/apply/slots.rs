//! How many steps run at once. Each backend has slots of its own, and of each three kinds: what
//! waits for an image, what waits for a guest, and all else. So no backend, no registry and no guest
//! keeps another's steps from starting. A step that takes long gives its slot back and goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::{BackendKind, ResourceKind};
use crate::plan::{Action, Step};

/// How many steps of a kind run at once on Docker: they wait for the engine and cost little here.
const DOCKER: usize = 16;

/// What a step mostly waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A registry, or an image that is unpacked.
    Image,
    /// The backend.
    Backend,
    /// What runs inside, which may take as long as it likes.
    Guest,
}

/// The slots of one run, or of all runs of a loop.
#[derive(Debug)]
pub struct Slots {
    /// One number for everything, as the operator said.
    all: Option<Arc<Semaphore>>,
    cores: usize,
    by_kind: Mutex<BTreeMap<(BackendKind, Kind), Arc<Semaphore>>>,
}

impl Slots {
    /// `jobs` for all backends and kinds together; without a number, so many for each as suits it
    /// on a machine of so many `cores`.
    #[must_use]
    pub fn new(jobs: Option<usize>, cores: usize) -> Self {
        let all = jobs.map(|jobs| Arc::new(Semaphore::new(jobs.max(1))));
        Self { all, cores, by_kind: Mutex::default() }
    }

    fn default_of(&self, backend: BackendKind) -> usize {
        match backend {
            BackendKind::Docker => DOCKER,
            // They work on this machine's own cores.
            _ => self.cores.clamp(2, 16),
        }
    }

    /// Waits for a slot. `None`: this step needs none.
    pub(super) async fn take(&self, step: &Step) -> Option<OwnedSemaphorePermit> {
        let kind = match &step.action {
            // What is no longer allowed must not be so while others work.
            Action::Load { .. } => return None,
            Action::Prepare(_) => Kind::Image,
            Action::Provision { .. } => Kind::Guest,
            _ => Kind::Backend,
        };
        let slots = match &self.all {
            Some(all) => all.clone(),
            None => {
                let mut by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
                let new = || Arc::new(Semaphore::new(self.default_of(step.backend)));
                by_kind.entry((step.backend, kind)).or_insert_with(new).clone()
            }
        };
        // Nobody closes it.
        slots.acquire_owned().await.ok()
    }
}

/// For how long a step keeps its slot.
pub(super) fn hold(step: &Step) -> Duration {
    match (&step.action, step.backend, step.resource) {
        (Action::Provision { .. }, ..) => Duration::from_secs(3),
        // A boot works on this machine's own cores, and a microVM that boots beside more than there
        // are cores takes longer than `smolvm` waits for a sign of life. It ends a boot that shows
        // none after half a minute by itself, so nothing inside keeps the slot for long.
        (Action::Start(_), BackendKind::Smolmachines, ResourceKind::Machine) => {
            Duration::from_secs(180)
        }
        _ => Duration::from_secs(30),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::Target;

    #[test]
    fn a_boot_keeps_its_slot_for_longer_than_smolvm_waits_for_a_sign_of_life() {
        let start = |backend, resource| Step {
            id: 1,
            action: Action::Start(Target::CreatedBy(0)),
            backend,
            sandbox: None,
            resource,
            after: BTreeSet::new(),
            undoes: BTreeSet::new(),
        };
        let long = hold(&start(BackendKind::Smolmachines, ResourceKind::Machine));
        let short = hold(&start(BackendKind::Smolmachines, ResourceKind::Sidecar));
        assert_eq!(short, hold(&start(BackendKind::Native, ResourceKind::Machine)));
        assert!(long > short * 2);
    }
}
