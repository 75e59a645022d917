//! A removal under `watch` takes two readings of the tree, some seconds apart: a file may be missing
//! only because it is being written anew. Pure: time is passed in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::time::Duration;

use crate::model::SandboxId;
use crate::plan::{Action, Plan};

/// How far apart the two readings are at least.
const APART: Duration = Duration::from_secs(2);

/// A tree that keeps moving meanwhile is believed when it has said the same for this long.
const STUBBORN: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Entry {
    /// What was to become of the sandbox.
    answer: String,
    first: Duration,
    /// When the tree was last found to have moved since.
    still_since: Duration,
    moves: u64,
}

/// The removals that earlier readings wanted. Times are since an epoch of the caller's.
#[derive(Debug, Default)]
pub(super) struct Removals(BTreeMap<SandboxId, Entry>);

/// What a reading comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Of these nothing is removed yet.
    pub(super) waiting: Vec<SandboxId>,
    /// Something goes although the tree does not come to rest.
    pub(super) insisted: bool,
}

impl Removals {
    /// Notes what a reading wants removed or replaced, and why. `moves` counts how often files of
    /// the tree have moved; while it is `locked`, somebody is known to be rewriting it.
    pub(super) fn read(
        &mut self,
        wanted: BTreeMap<SandboxId, String>,
        moves: u64,
        locked: bool,
        now: Duration,
    ) -> Read {
        self.0.retain(|sandbox, _| wanted.contains_key(sandbox));
        let mut read = Read::default();
        for (sandbox, answer) in wanted {
            let new = Entry { answer, first: now, still_since: now, moves };
            let entry = match self.0.entry(sandbox.clone()) {
                MapEntry::Vacant(place) => place.insert(new),
                MapEntry::Occupied(place) => {
                    let entry = place.into_mut();
                    if entry.answer != new.answer {
                        *entry = new;
                    }
                    entry
                }
            };
            if entry.moves != moves || locked {
                (entry.moves, entry.still_since) = (moves, now);
            }
            if now.saturating_sub(entry.still_since) >= APART {
                continue;
            }
            if now.saturating_sub(entry.first) >= STUBBORN {
                read.insisted = true;
            } else {
                read.waiting.push(sandbox);
            }
        }
        read
    }

    /// When the tree is to be read again for them.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let due = self.0.values().map(|entry| entry.still_since + APART);
        due.filter(|due| *due > now).min()
    }
}

/// What is to become of the sandboxes of which something would go.
pub(super) fn wanted(plan: &Plan) -> BTreeMap<SandboxId, String> {
    let mut wanted = BTreeMap::new();
    for step in &plan.steps {
        let Some(sandbox) = &step.sandbox else { continue };
        if matches!(step.action, Action::Teardown { .. }) && !wanted.contains_key(sandbox) {
            let changes = plan.changes.iter().filter(|change| change.sandbox == *sandbox);
            let answer: Vec<_> = changes.map(|c| (c.resource, c.verdict, &c.fields)).collect();
            wanted.insert(sandbox.clone(), format!("{answer:?}"));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a tree that wants `ada` removed, or not.
    fn read(removals: &mut Removals, answer: Option<&str>, moves: u64, at: u64) -> Read {
        let ada = SandboxId::new("ada").unwrap();
        let wanted = answer.map(|answer| (ada, answer.to_owned())).into_iter().collect();
        removals.read(wanted, moves, false, Duration::from_secs(at))
    }

    fn goes(read: &Read) -> bool {
        read.waiting.is_empty()
    }

    #[test]
    fn two_readings_of_a_tree_at_rest_remove() {
        let mut removals = Removals::default();
        assert!(!goes(&read(&mut removals, Some("gone"), 5, 100)));
        assert_eq!(removals.due(Duration::from_secs(100)), Some(Duration::from_secs(102)));
        assert!(!goes(&read(&mut removals, Some("gone"), 5, 101)));
        let second = read(&mut removals, Some("gone"), 5, 102);
        assert!(goes(&second) && !second.insisted);
    }

    #[test]
    fn another_answer_or_a_tree_that_moved_begins_anew() {
        let mut removals = Removals::default();
        read(&mut removals, Some("gone"), 5, 100);
        assert!(!goes(&read(&mut removals, Some("other image"), 5, 102)));
        assert!(!goes(&read(&mut removals, Some("other image"), 6, 105)));
        assert!(goes(&read(&mut removals, Some("other image"), 6, 107)));
        // There in between.
        read(&mut removals, None, 6, 108);
        assert!(!goes(&read(&mut removals, Some("gone"), 6, 120)));
    }

    #[test]
    fn a_tree_that_never_rests_is_believed_in_the_end() {
        let mut removals = Removals::default();
        for second in 0..30 {
            assert!(!goes(&read(&mut removals, Some("gone"), second, second)));
        }
        let last = read(&mut removals, Some("gone"), 30, 30);
        assert!(goes(&last) && last.insisted);
    }
}
