//! Whole screens.

use super::*;
use crate::dashboard::lines::Passed;

#[track_caller]
fn same(name: &str, screen: &str, expected: &str) {
    assert_eq!(screen, expected, "{name}\n{screen}");
}

macro_rules! looks_like {
    ($desk:expr, $name:literal) => {
        same($name, &$desk.screen(), include_str!(concat!("screens/", $name, ".txt")));
    };
}

/// Both sizes that have to do.
fn both(mut show: impl FnMut(&mut Desk, bool)) {
    for (width, height) in [(80, 24), (60, 15)] {
        show(&mut Desk::open(width, height), width == 80);
    }
}

#[test]
fn the_sandboxes() {
    both(|desk, wide| {
        for _ in 0..3 {
            desk.key(Key::Down);
        }
        if wide {
            looks_like!(desk, "sandboxes-80");
        } else {
            looks_like!(desk, "sandboxes-60");
        }
    });
}

#[test]
fn one_sandbox() {
    both(|desk, wide| {
        desk.key(Key::Enter);
        desk.event(Event::Detailed(Box::new(detail())));
        if wide {
            looks_like!(desk, "sandbox-80");
        } else {
            looks_like!(desk, "sandbox-60");
        }
    });
}

#[test]
fn the_requests_and_the_question() {
    both(|desk, wide| {
        desk.keys("2");
        desk.reviewed(card("aaaa"));
        if wide {
            looks_like!(desk, "requests-80");
        } else {
            looks_like!(desk, "requests-60");
        }
        desk.keys("a");
        if wide {
            looks_like!(desk, "confirm-80");
        } else {
            looks_like!(desk, "confirm-60");
        }
    });
}

#[test]
fn the_whole_card_scrolls() {
    let mut desk = Desk::open(60, 15);
    desk.keys("2");
    desk.reviewed(card("aaaa"));
    desk.key(Key::Enter);
    for _ in 0..50 {
        desk.key(Key::Down);
    }
    looks_like!(desk, "card-60");
}

#[test]
fn the_records_and_help() {
    both(|desk, wide| {
        desk.keys("3");
        let line = r#"{"time":"2026-11-28T19:02:03Z","event":"deny","method":"GET","host":"index.example.org:443","path":"/simple/requests/","code":"host_not_allowed"}"#;
        desk.event(Event::Passed(vec![Passed::read("ada", line).unwrap()]));
        if wide {
            looks_like!(desk, "egress-80");
        } else {
            looks_like!(desk, "egress-60");
        }
        desk.keys("4");
        let lines = (0..40).map(|at| format!("2026-11-28 19:02:{at:02} ada: create done"));
        desk.event(Event::Audited(lines.collect()));
        if wide {
            looks_like!(desk, "log-80");
        } else {
            looks_like!(desk, "log-60");
        }
        desk.keys("?");
        if wide {
            looks_like!(desk, "help-80");
        } else {
            looks_like!(desk, "help-60");
        }
    });
}

#[test]
fn a_thousand_sandboxes_are_a_page() {
    let mut many = team();
    many.sandboxes = (0..1000)
        .map(|at| sandbox(&format!("agent-{at:04}"), "native", "running", Verdict::Keep, &[]))
        .collect();
    let mut desk = Desk::new(80, 24);
    desk.event(Event::Looked(Arc::new(many)));
    desk.key(Key::End);
    let screen = desk.screen();
    assert!(screen.contains("▸ agent-0999"), "{screen}");
    assert!(!screen.contains("agent-0000"));
    desk.keys("/");
    desk.event(Event::Paste("0123".to_owned()));
    desk.key(Key::Enter);
    let screen = desk.screen();
    assert!(screen.contains("▸ agent-0123") && !screen.contains("0999"), "{screen}");
}
