//! How many connections a machine has open, and which of them say nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::limits;

/// The places for connections.
#[derive(Default)]
pub(super) struct Slots(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    open: usize,
    next: u64,
    /// Those that wait for a request to begin or to become whole, the oldest first.
    silent: BTreeMap<u64, Arc<Notify>>,
}

/// One connection's place, until it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    evict: Arc<Notify>,
    /// Under which it is among the silent.
    silent: Mutex<Option<u64>>,
}

impl Slots {
    /// A place, unless all are taken by connections that are at work. A silent one makes room.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let evict = Arc::new(Notify::new());
        let mut inner = self.lock();
        if inner.open >= limits::CONNECTIONS || inner.silent.len() >= limits::SILENT_CONNECTIONS {
            match inner.silent.pop_first() {
                Some((_, oldest)) => oldest.notify_one(),
                None => return None,
            }
        }
        inner.open += 1;
        let number = inner.be_silent(&evict);
        drop(inner);
        Some(Slot { slots: Arc::clone(self), evict, silent: Mutex::new(Some(number)) })
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing is left half-done under this lock, so its poison says nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn be_silent(&mut self, evict: &Arc<Notify>) -> u64 {
        self.next += 1;
        self.silent.insert(self.next, Arc::clone(evict));
        self.next
    }
}

impl Slot {
    /// A request is whole: the connection is at work, and keeps its place.
    pub(super) fn heard(&self) {
        if let Some(number) = self.lock().take() {
            self.slots.lock().silent.remove(&number);
        }
    }

    /// The connection waits for its next request.
    pub(super) fn waits(&self) {
        let mut silent = self.lock();
        if silent.is_none() {
            *silent = Some(self.slots.lock().be_silent(&self.evict));
        }
    }

    /// Waits until another connection needs the place.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.heard();
        self.slots.lock().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_that_says_nothing_makes_room() {
        let slots = Arc::new(Slots::default());
        let first = slots.take().unwrap();
        first.heard();
        let second = slots.take().unwrap();
        let rest: Vec<Slot> =
            (0..limits::SILENT_CONNECTIONS).map(|_| slots.take().unwrap()).collect();
        assert!(second.evicted().now_or_never().is_some(), "the oldest silent one goes");
        assert!(first.evicted().now_or_never().is_none(), "one at work stays");
        assert!(rest.iter().all(|slot| slot.evicted().now_or_never().is_none()));
        first.waits();
        first.waits();
        drop((first, second, rest));
        assert_eq!(slots.open(), 0);
        assert!(slots.lock().silent.is_empty());
    }

    #[test]
    fn when_all_are_at_work_there_is_no_room() {
        let slots = Arc::new(Slots::default());
        let all: Vec<Slot> = std::iter::from_fn(|| {
            let slot = slots.take()?;
            slot.heard();
            Some(slot)
        })
        .collect();
        assert_eq!(all.len(), limits::CONNECTIONS);
        all[7].waits();
        assert!(slots.take().is_some());
    }
}
