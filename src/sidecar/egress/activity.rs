#![expect(clippy::disallowed_methods, reason = "asks how long nothing has moved")]
//! Whether anything but uploads moves: only as long as it does, they are paced for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::limits;

/// When something moved last that is no long upload. A request that waits for its upstream, and a stream that
/// is silent, need no processor.
pub(super) struct Activity {
    begun: Instant,
    /// In microseconds from then on; 0: nothing has.
    moved: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { begun: Instant::now(), moved: AtomicU64::new(0) }
    }
}

impl Activity {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Something does.
    pub(super) fn moves(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    /// Whether something did a moment ago, and so may wait for a processor.
    pub(super) fn is_recent(&self) -> bool {
        let moved = self.moved.load(Ordering::Relaxed);
        let since = Duration::from_micros(self.now().saturating_sub(moved));
        moved > 0 && since < limits::ACTIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_long_ago_waits_for_nothing() {
        let activity = Activity::default();
        assert!(!activity.is_recent(), "nothing has moved yet");
        activity.moves();
        assert!(activity.is_recent());
        let long_ago = Instant::now().checked_sub(limits::ACTIVE * 2).unwrap();
        let activity = Activity { begun: long_ago, moved: AtomicU64::new(1) };
        assert!(!activity.is_recent());
        activity.moves();
        assert!(activity.is_recent());
    }
}
