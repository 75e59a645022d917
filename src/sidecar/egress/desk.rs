//! Where an agent's requests are kept between two of its calls, and what was refused of it meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits;
use super::state::Loaded;
use crate::model::supervise::{Held, RequestId};
use crate::sidecar::clock::moment;
use crate::sidecar::supervise::answer;
use crate::sidecar::supervise::evidence::{Evidence, Refusal};
use crate::sidecar::supervise::queue::Queue;

/// All that outlives a document.
pub(super) struct Desk {
    queue: Mutex<Queue>,
    evidence: Mutex<Evidence>,
    /// Places for calls that wait.
    places: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            evidence: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::WAITING_CALLS)),
        }
    }
}

impl Desk {
    /// The requests, by what the document says of them.
    pub(super) fn queue(&self, loaded: Option<&Loaded>) -> MutexGuard<'_, Queue> {
        // Nothing is left half-done under this lock, so its poison says nothing.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded
            && let Some(section) = &loaded.supervise
        {
            queue.sync(section, loaded.generation);
        }
        queue
    }

    pub(super) fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was refused.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.evidence().refused(refusal, moment());
    }

    /// What the host is told.
    pub(super) fn held(&self, loaded: Option<&Loaded>) -> Held {
        let mut queue = self.queue(loaded);
        queue.held(&self.evidence(), moment())
    }

    /// What is said of a request now.
    pub(super) fn text(&self, loaded: Option<&Loaded>, id: &RequestId) -> Option<String> {
        self.queue(loaded).get(id, moment()).map(answer::of)
    }

    /// A place to wait in, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}
