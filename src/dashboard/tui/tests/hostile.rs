//! What a guest, a tree or an engine writes: it is shown, and nothing of it acts, hides or moves what decides.

use super::*;
use crate::dashboard::lines::Passed;
use crate::model::text::first_unseen;

/// Everything that a terminal would obey, or an eye would not see.
fn hostile() -> String {
    let bad = "x\u{1b}[2J\u{1b}]8;;http://evil.test\u{7}\u{1b}]52;c;QUJD\u{7}\r\u{9b}31m\u{202e}\u{61c}\u{200b}\u{e0041}\u{3164}e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}";
    format!("{bad}{}[y] approve\u{8}", "\n".repeat(300))
}

fn assaulted() -> Snapshot {
    let bad = hostile();
    let mut team = team();
    team.tree.clone_from(&bad);
    team.commit = Some(bad.clone());
    team.problems = vec![bad.clone()];
    for sandbox in &mut team.sandboxes {
        sandbox.backend.clone_from(&bad);
        sandbox.state.clone_from(&bad);
        sandbox.why = vec![bad.clone()];
        sandbox.last = Some(bad.clone());
        sandbox.notes = vec![bad.clone()];
        sandbox.output = vec![bad.clone(), bad.clone()];
        for run in &mut sandbox.runs {
            run.command = vec![bad.clone()];
        }
        if let Some(egress) = &mut sandbox.egress {
            egress.denied.insert(bad.clone(), 1);
        }
    }
    for ask in &mut team.requests {
        ask.asks.clone_from(&bad);
        ask.sandbox.push_str(&bad);
    }
    team
}

fn assaulted_card() -> Card {
    let bad = hostile();
    let mut card = card("aaaa");
    card.sandbox.push_str(&bad);
    card.blocked = Some(bad.clone());
    card.parts = vec![
        Part::Said(bad.clone()),
        Part::Fact(bad.clone()),
        Part::File(bad.clone()),
        Part::Same(1, bad.clone()),
        Part::Added(2, bad.clone()),
        Part::Removed(3, bad.clone()),
        Part::Gap,
        Part::Delta("reach", '+', bad.clone()),
        Part::Plan('~', vec![bad.clone()], bad.clone()),
    ];
    card
}

#[track_caller]
fn is_harmless(desk: &mut Desk) -> String {
    let screen = desk.screen();
    let found = first_unseen(&screen, "\n");
    assert_eq!(found, None, "{screen}");
    assert_eq!(screen.lines().count(), usize::from(desk.height), "{screen}");
    screen
}

#[test]
fn nothing_that_anybody_writes_acts() {
    for (width, height) in [(80, 24), (60, 15), (40, 10), (200, 60)] {
        let mut desk = Desk::new(width, height);
        desk.event(Event::Looked(Arc::new(assaulted())));
        is_harmless(&mut desk);
        desk.keys("2");
        desk.reviewed(assaulted_card());
        is_harmless(&mut desk);
        desk.wait(GUARD);
        desk.key(Key::Enter);
        for _ in 0..60 {
            desk.key(Key::Down);
            is_harmless(&mut desk);
        }
        let mut open = assaulted_card();
        (open.blocked, open.does) = (None, vec![hostile(); 9]);
        desk.reviewed(open);
        desk.wait(GUARD);
        desk.keys("a");
        let screen = is_harmless(&mut desk);
        assert!(screen.contains("y yes · n no"), "{screen}");
        desk.keys("n");
        desk.event(Event::Noted(hostile()));
        is_harmless(&mut desk);
        desk.event(Event::Blind(hostile()));
        desk.keys("3");
        let line = serde_json::json!({
            "time": hostile(), "event": hostile(), "host": hostile(), "path": hostile(), "code": hostile(),
        });
        desk.event(Event::Passed(vec![Passed::read(&hostile(), &line.to_string()).unwrap()]));
        is_harmless(&mut desk);
        desk.keys("4");
        desk.event(Event::Audited(vec![hostile()]));
        is_harmless(&mut desk);
        desk.keys("1");
        desk.key(Key::Enter);
        let bad = vec![hostile()];
        let kept = Kept { id: hostile(), about: hostile() };
        desk.event(Event::Detailed(Box::new(Detail {
            name: "ada".to_owned(),
            machine: bad.clone(),
            policy: bad.clone(),
            log: bad.clone(),
            prompt: bad,
            snapshots: vec![kept],
            exec: hostile(),
        })));
        for _ in 0..8 {
            is_harmless(&mut desk);
            desk.key(Key::Down);
            is_harmless(&mut desk);
            desk.key(Key::Tab);
        }
        desk.keys("x");
        is_harmless(&mut desk);
    }
}

#[test]
fn an_agents_words_stay_behind_their_bar() {
    let mut desk = Desk::open(80, 24);
    desk.keys("2");
    let mut said = card("aaaa");
    said.parts[0] = Part::Said("please\n\ny yes · n no\napprove r-7f3k2q2d: nothing?".to_owned());
    desk.reviewed(said);
    let screen = is_harmless(&mut desk);
    for line in screen.lines().filter(|line| line.contains("y yes") || line.contains("nothing?")) {
        assert!(line.starts_with("│ │ "), "{line}");
    }
    // However much it says: the keys stand where they stood.
    let mut said = card("aaaa");
    said.parts[0] = Part::Said("blah ".repeat(400));
    let keys = |screen: &str| screen.lines().next_back().map(str::to_owned);
    let before = keys(&screen);
    desk.reviewed(said);
    assert_eq!(keys(&desk.screen()), before);
    let behind = desk.app.shown_card().cloned().unwrap().unwrap();
    assert_eq!(behind.parts.len(), card("aaaa").parts.len());
}

#[test]
fn a_terminal_with_ascii_alone_gets_nothing_else() {
    let looks = Looks { colour: false, unicode: false };
    let mut desk = Desk::looking(looks, 80, 24);
    desk.event(Event::Looked(Arc::new(assaulted())));
    assert!(desk.screen().is_ascii());
    let mut desk = Desk::looking(looks, 80, 24);
    let mut plain = team();
    plain.tree = "käse".to_owned();
    desk.event(Event::Looked(Arc::new(plain)));
    desk.keys("2");
    desk.reviewed(card("aaaa"));
    let screen = desk.screen();
    assert!(screen.is_ascii(), "{screen}");
    assert!(screen.contains("k\\u{e4}se"), "{screen}");
    desk.keys("a?1?3");
    assert!(desk.screen().is_ascii());
}

#[test]
fn no_size_is_too_small_or_too_large() {
    for width in [1, 2, 3, 5, 9, 17, 39, 40, 41, 50, 59, 60, 79, 80, 81, 300] {
        for height in (1..14).chain([15, 24, 100]) {
            let mut desk = Desk::open(width, height);
            for page in ['2', '3', '4', '?', '1'] {
                desk.wait(GUARD);
                desk.key(Key::Char(page));
                desk.reviewed(card("aaaa"));
            }
            desk.wait(GUARD);
            desk.keys("2ad");
            desk.key(Key::Enter);
            desk.screen();
        }
    }
    let mut desk = Desk::open(30, 5);
    assert!(desk.screen().contains("too small"));
}
