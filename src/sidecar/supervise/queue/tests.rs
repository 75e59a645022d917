use std::cell::Cell;

use super::*;
use crate::model::supervise::{CapabilityAsk, What};

fn ask(value: &str) -> Ask {
    Ask::Capability(CapabilityAsk { what: What::Memory, value: value.to_owned() })
}

fn new(value: &str) -> New {
    New { tool: Tool::CapabilityBlock, ask: ask(value), reason: "it fails".to_owned() }
}

fn at(seconds: u64) -> Moment {
    Moment::of_seconds(1_796_059_524 + seconds)
}

/// A queue with a source of names.
#[derive(Default)]
struct Rig {
    queue: Queue,
    random: Cell<u64>,
    generation: u64,
}

impl Rig {
    fn ask(&mut self, value: &str, seconds: u64) -> Outcome {
        let random = || {
            self.random.set(self.random.get() + 1);
            self.random.get().to_be_bytes()[3..].try_into().ok()
        };
        self.queue.ask(new(value), at(seconds), random).unwrap()
    }

    fn asks(&mut self, value: &str, seconds: u64) -> RequestId {
        match self.ask(value, seconds) {
            Outcome::New(id) => id,
            other => panic!("{value}: {other:?}"),
        }
    }

    fn decide(&mut self, id: &RequestId, value: &str, state: Standing, seconds: u64) {
        self.generation += 1;
        let decided = Decided {
            id: id.clone(),
            ask: ask(value),
            state,
            granted: None,
            until: None,
            message: Some("no".to_owned()),
            at: at(seconds),
        };
        let section = Section { requests: vec![decided], ..Section::default() };
        self.queue.sync(&section, self.generation);
    }

    fn held(&mut self) -> Held {
        self.queue.held(&Evidence::default(), at(0))
    }
}

#[test]
fn the_same_is_one_request_however_often_it_is_asked() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    for second in 1..50 {
        assert_eq!(rig.ask("4G", second), Outcome::Again(id.clone()));
    }
    let held = rig.held();
    assert_eq!((held.pending.len(), held.pending[0].asked), (1, 50));
    assert_eq!((held.pending[0].first, held.pending[0].last), (at(0), at(49)));
}

#[test]
fn five_wait_and_no_more() {
    let mut rig = Rig::default();
    let ids: Vec<RequestId> = (0..5).map(|n| rig.asks(&n.to_string(), n)).collect();
    assert_eq!(rig.ask("5", 5), Outcome::Busy(ids.clone()));
    rig.decide(&ids[2], "2", Standing::Denied, 6);
    rig.asks("5", 7);
    assert_eq!(rig.held().pending.len(), 5);
}

#[test]
fn there_are_ten_new_ones_a_minute_and_sixty_a_day() {
    let mut rig = Rig::default();
    let (mut count, mut refused) = (0, 0);
    // Each is decided at once.
    for second in 0..3 * 24 * 60 * 60 / 5 {
        let (value, now) = (second.to_string(), second * 5);
        match rig.ask(&value, now) {
            Outcome::New(id) => {
                rig.decide(&id, &value, Standing::Applied, now);
                count += 1;
            }
            Outcome::TooMany(seconds) => {
                assert!((1..=EXPIRES).contains(&seconds), "{seconds}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(rig.queue.entries.len() <= KEPT);
        if now == 59 / 5 * 5 {
            assert_eq!(count, A_MINUTE, "in the first minute");
        }
    }
    assert_eq!(count, 3 * A_DAY, "in three days");
    assert!(refused > 0);
}

#[test]
fn a_denial_holds_for_half_an_hour() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    rig.decide(&id, "4G", Standing::Denied, 10);
    for second in [10, 11, 10 + DENIED - 1] {
        let Outcome::Denied(entry) = rig.ask("4G", second) else { panic!("at {second}") };
        assert_eq!((entry.id, entry.message.as_deref()), (id.clone(), Some("no")));
    }
    assert_ne!(rig.asks("4G", 10 + DENIED), id);
    // What is something else was not denied.
    rig.asks("8G", 11);
}

#[test]
fn what_a_newer_document_says_holds() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    rig.decide(&id, "4G", Standing::Applied, 1);
    let older = Section { requests: Vec::new(), ..Section::default() };
    rig.queue.sync(&older, 1);
    assert_eq!(rig.queue.get(&id, at(2)).unwrap().state, Standing::Applied);
    rig.decide(&id, "4G", Standing::Undone, 3);
    assert_eq!(rig.queue.get(&id, at(4)).unwrap().state, Standing::Undone);
    assert_eq!(rig.held().known, [Known { id, state: Standing::Undone }]);
}

#[test]
fn one_that_was_started_anew_gets_its_table_back() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    let mut anew = Rig::default();
    anew.decide(&id, "4G", Standing::Pending, 0);
    assert_eq!(anew.ask("4G", 5), Outcome::Again(id.clone()), "the same name");
    // The host knows it: nothing of it is told again.
    assert_eq!(anew.held().known, [Known { id, state: Standing::Pending }]);
    let denied = rig.asks("8G", 1);
    anew.decide(&denied, "8G", Standing::Denied, 2);
    assert!(matches!(anew.ask("8G", 6), Outcome::Denied(_)));
}

#[test]
fn nobody_decides_after_a_day() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    assert_eq!(rig.queue.get(&id, at(EXPIRES - 1)).unwrap().state, Standing::Pending);
    assert_eq!(rig.queue.get(&id, at(EXPIRES)).unwrap().state, Standing::Expired);
    assert_ne!(rig.asks("4G", EXPIRES + 1), id);
}

#[test]
fn whoever_is_muted_asks_nothing() {
    let mut rig = Rig::default();
    let section = Section { muted_until: Some(at(100)), ..Section::default() };
    rig.queue.sync(&section, 1);
    assert_eq!(rig.ask("4G", 99), Outcome::Muted(at(100)));
    rig.asks("4G", 100);
}

#[test]
fn the_log_hears_of_a_flood_once_a_minute() {
    let mut queue = Queue::default();
    let told = (0..600).filter(|second| queue.tells_of_flood(at(*second))).count();
    assert_eq!(told, 10);
}

#[test]
fn only_what_waits_keeps_its_reason() {
    let mut rig = Rig::default();
    let id = rig.asks("4G", 0);
    assert_eq!(rig.held().pending[0].reason, "it fails");
    rig.decide(&id, "4G", Standing::Denied, 1);
    assert_eq!(rig.queue.entries[0].said.as_ref().unwrap().reason, "");
}
