//! Failing sandboxes back off, each for itself, with a cap and jitter. Pure: time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::SandboxId;

/// The first delay.
const BASE: Duration = Duration::from_secs(1);
/// The longest delay.
const CAP: Duration = Duration::from_secs(300);
/// A machine that has run for less than this when it stopped keeps failing.
const FLAPPING: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
struct Entry {
    attempts: u32,
    until: Duration,
    started: Option<Duration>,
    /// When it was first seen to be down since.
    down: Option<Duration>,
}

impl Entry {
    /// It was started and ran only briefly. How long it waited for its next start does not count.
    fn briefly(&self, now: Duration) -> bool {
        let end = self.down.unwrap_or(now);
        self.started.is_some_and(|started| end.saturating_sub(started) < FLAPPING)
    }
}

/// What happened to a sandbox in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// All its steps were done.
    Done,
    /// All its steps were done, and one of them started a machine that had stopped.
    Restarted,
    /// A step failed.
    Failed,
}

/// All sandboxes that have failed lately. Times are since an epoch of the caller's.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    entries: BTreeMap<SandboxId, Entry>,
}

impl Backoff {
    /// Notes what happened; `jitter` is random, in `0.0..1.0`.
    pub fn record(&mut self, sandbox: &SandboxId, what: Happened, now: Duration, jitter: f64) {
        let entry = self.entries.entry(sandbox.clone()).or_default();
        let flapping = match what {
            // What is done for one that has not run for long yet says nothing of how it fares.
            Happened::Done if entry.attempts > 0 && entry.briefly(now) => return,
            Happened::Done => false,
            Happened::Failed => true,
            Happened::Restarted => {
                let flapping = entry.briefly(now);
                (entry.started, entry.down) = (Some(now), None);
                flapping
            }
        };
        if flapping {
            let doubled = BASE.saturating_mul(1 << entry.attempts.min(16)).min(CAP);
            entry.attempts += 1;
            entry.until = now + doubled.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        } else {
            entry.attempts = 0;
            entry.until = Duration::ZERO;
        }
    }

    /// Notes that a sandbox's machine was seen to be down.
    pub fn down(&mut self, sandbox: &SandboxId, now: Duration) {
        if let Some(entry) = self.entries.get_mut(sandbox) {
            entry.down.get_or_insert(now);
        }
    }

    /// Those for which nothing is to be done yet.
    #[must_use]
    pub fn deferred(&self, now: Duration) -> BTreeSet<SandboxId> {
        let waits = |(_, entry): &(&SandboxId, &Entry)| entry.until > now;
        self.entries.iter().filter(waits).map(|(sandbox, _)| sandbox.clone()).collect()
    }

    /// How long until the next one is due.
    #[must_use]
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let due = self.entries.values().filter(|e| e.until > now).map(|e| e.until).min()?;
        Some(due.saturating_sub(now))
    }

    /// How long until this one is due, and how often it has failed in a row.
    #[must_use]
    pub fn of(&self, sandbox: &SandboxId, now: Duration) -> Option<(Duration, u32)> {
        let entry = self.entries.get(sandbox).filter(|entry| entry.until > now)?;
        Some((entry.until.saturating_sub(now), entry.attempts))
    }

    /// An edit of the tree, or an order to start, may have repaired anything: everyone is due at once, and a
    /// start from now on is the first.
    pub fn reset(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> SandboxId {
        SandboxId::new("ada").unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_double_up_to_the_cap_and_a_success_resets() {
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff.record(&ada(), Happened::Failed, at(100), 0.5);
            delays.push(backoff.next(at(100)).unwrap());
        }
        assert_eq!(delays[..4], [at(1), at(2), at(4), at(8)]);
        assert_eq!(delays[11], CAP);
        assert_eq!(backoff.deferred(at(100)), BTreeSet::from([ada()]));
        assert!(backoff.deferred(at(401)).is_empty());
        backoff.record(&ada(), Happened::Done, at(500), 0.5);
        assert!(backoff.deferred(at(500)).is_empty());
        backoff.record(&ada(), Happened::Failed, at(500), 0.5);
        assert_eq!(backoff.next(at(500)), Some(at(1)));
    }

    #[test]
    fn one_restart_is_repair_and_the_next_one_soon_after_is_flapping() {
        let mut backoff = Backoff::default();
        backoff.record(&ada(), Happened::Restarted, at(100), 0.5);
        assert!(backoff.deferred(at(100)).is_empty());
        backoff.record(&ada(), Happened::Restarted, at(101), 0.5);
        assert_eq!(backoff.deferred(at(101)), BTreeSet::from([ada()]));
        backoff.record(&ada(), Happened::Restarted, at(900), 0.5);
        assert!(backoff.deferred(at(900)).is_empty());
    }

    #[test]
    fn a_machine_that_dies_at_once_after_each_start_waits_ever_longer() {
        let mut backoff = Backoff::default();
        let mut now = at(100);
        let mut delays = Vec::new();
        backoff.record(&ada(), Happened::Restarted, now, 0.5);
        for _ in 0..14 {
            // It dies a second after its start, waits, and is started again.
            now += at(1);
            backoff.down(&ada(), now);
            let delay = backoff.next(now).unwrap_or_default();
            now += delay;
            delays.push(delay);
            backoff.down(&ada(), now);
            backoff.record(&ada(), Happened::Restarted, now, 0.5);
        }
        assert!(delays.is_sorted(), "{delays:?}");
        // The delay counts from the start, a second before it died.
        assert_eq!(delays[13], CAP - at(1), "{delays:?}");
        // It runs for an hour, and is only then killed.
        now += at(3600);
        backoff.down(&ada(), now);
        backoff.record(&ada(), Happened::Restarted, now, 0.5);
        assert_eq!(backoff.next(now), None);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for jitter in [0.0, 0.5, 1.0] {
            let mut backoff = Backoff::default();
            backoff.record(&ada(), Happened::Failed, at(0), jitter);
            let delay = backoff.next(at(0)).unwrap();
            assert!(delay >= BASE.mul_f64(0.75) && delay <= BASE.mul_f64(1.25));
        }
    }

    #[test]
    fn an_edit_makes_everyone_due() {
        let mut backoff = Backoff::default();
        backoff.record(&ada(), Happened::Failed, at(0), 0.5);
        backoff.reset();
        assert!(backoff.deferred(at(0)).is_empty());
        // What was started before it says nothing of a restart that somebody orders.
        backoff.record(&ada(), Happened::Restarted, at(1), 0.5);
        backoff.reset();
        backoff.record(&ada(), Happened::Restarted, at(2), 0.5);
        assert!(backoff.deferred(at(2)).is_empty());
    }
}
