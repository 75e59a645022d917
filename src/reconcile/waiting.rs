//! What was heard since the last pass, and when the next one is due. Pure: time is passed in.

use std::collections::BTreeSet;
use std::time::Duration;

use super::trigger::Trigger;

/// A tree that never comes to rest is read all the same after this long. What would then be removed
/// still waits for a tree that is at rest.
const CAP: Duration = Duration::from_secs(5);

/// While sandboxes are worked on, their backends tell mostly of that very work: they hurry a pass
/// no more often than this.
const BUSY: Duration = Duration::from_secs(1);

/// So many changed files are named one by one.
const NAMED: usize = 8;

/// The causes that were heard. Times are since an epoch of the caller's.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    causes: BTreeSet<Trigger>,
    first: Duration,
    first_file: Option<Duration>,
    last_file: Duration,
}

impl Waiting {
    /// Notes a cause.
    pub(super) fn hear(&mut self, cause: Trigger, now: Duration) {
        if self.causes.is_empty() {
            self.first = now;
        }
        if matches!(cause, Trigger::Files(_)) {
            self.first_file.get_or_insert(now);
            self.last_file = now;
        }
        self.causes.insert(cause);
    }

    /// Nothing was heard; it is only time to look again.
    pub(super) fn is_resync(&self) -> bool {
        self.causes.iter().eq([&Trigger::Resync])
    }

    /// Nothing was heard.
    pub(super) fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// The operator's word is among the causes.
    pub(super) fn has_orders(&self) -> bool {
        self.causes.contains(&Trigger::Order)
    }

    /// When a pass is due for what was heard. Files are waited for until none has moved for
    /// `debounce`; everything else that follows a first cause within that time is one with it.
    pub(super) fn due(&self, debounce: Duration, busy_since: Option<Duration>) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        if let Some(first) = self.first_file {
            return Some((self.last_file + debounce).min(first + CAP.max(debounce)));
        }
        let due = self.first + debounce;
        let hints = self.causes.iter().all(|cause| matches!(cause, Trigger::Backend(..)));
        let earliest = busy_since.filter(|_| hints).map_or(Duration::ZERO, |since| since + BUSY);
        Some(due.max(earliest))
    }

    /// The files have been moving for so long that they are not waited for any more.
    pub(super) fn overdue(&self, now: Duration) -> bool {
        self.first_file.is_some_and(|first| now >= first + CAP)
    }

    /// A file is among the causes: the tree may say something else now.
    pub(super) fn has_files(&self) -> bool {
        self.first_file.is_some()
    }

    /// Somebody is known to be rewriting the tree.
    pub(super) fn not_yet(&mut self, now: Duration) {
        self.first_file.get_or_insert(now);
        self.last_file = now;
    }

    /// Adds what was heard later.
    pub(super) fn absorb(&mut self, later: Self) {
        if self.causes.is_empty() {
            self.first = later.first;
        }
        self.first_file = self.first_file.or(later.first_file);
        self.last_file = self.last_file.max(later.last_file);
        self.causes.extend(later.causes);
    }

    /// The causes for a pass: of many files a few are named, and how many more there are.
    pub(super) fn take(&mut self) -> Vec<Trigger> {
        let heard = std::mem::take(self);
        let is_file = |cause: &Trigger| matches!(cause, Trigger::Files(_));
        let (files, mut few): (Vec<_>, Vec<_>) = heard.causes.into_iter().partition(is_file);
        let more = files.len().saturating_sub(NAMED);
        few.extend(files.into_iter().take(NAMED));
        if more > 0 {
            few.push(Trigger::Files(format!("{more} more files")));
        }
        few
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackendKind;

    const DEBOUNCE: Duration = Duration::from_millis(200);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn file(n: usize) -> Trigger {
        Trigger::Files(format!("/t/agents/a{n:05}.md"))
    }

    #[test]
    fn files_are_waited_for_until_they_are_at_rest_but_not_for_ever() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.due(DEBOUNCE, None), None);
        waiting.hear(file(1), at(1000));
        assert_eq!(waiting.due(DEBOUNCE, None), Some(at(1200)));
        waiting.hear(file(2), at(1150));
        assert_eq!(waiting.due(DEBOUNCE, None), Some(at(1350)), "counted from the last");
        for n in 0..100 {
            waiting.hear(file(n), at(1150 + 100 * n as u64));
        }
        assert_eq!(waiting.due(DEBOUNCE, None), Some(at(6000)));
        assert!(!waiting.overdue(at(5999)) && waiting.overdue(at(6000)));
    }

    #[test]
    fn what_a_backend_says_coalesces_from_the_first() {
        let mut waiting = Waiting::default();
        for n in 0..10 {
            let hint = Trigger::Backend(BackendKind::Native, format!("a{n} ended"));
            waiting.hear(hint, at(1000 + 100 * n));
        }
        assert_eq!(waiting.due(DEBOUNCE, None), Some(at(1200)));
        assert_eq!(waiting.due(DEBOUNCE, Some(at(900))), Some(at(1900)));
        waiting.hear(file(1), at(1100));
        assert_eq!(waiting.due(DEBOUNCE, Some(at(900))), Some(at(1300)));
    }

    #[test]
    fn of_many_files_a_few_are_named() {
        let mut waiting = Waiting::default();
        (0..5000).map(file).for_each(|cause| waiting.hear(cause, at(0)));
        waiting.hear(Trigger::Resync, at(0));
        let told = waiting.take();
        assert_eq!(told.len(), 1 + NAMED + 1);
        assert!(told.contains(&Trigger::Resync) && told.contains(&file(0)));
        assert_eq!(told[1 + NAMED], Trigger::Files("4992 more files".to_owned()));
        assert!(waiting.is_empty());
        waiting.hear(file(1), at(0));
        assert_eq!(waiting.take(), [file(1)]);
    }
}
