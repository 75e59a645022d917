//! Nothing is decided by accident: not by a list that moves, not by Enter, not by what is typed ahead or pasted.

use super::super::Order;
use super::*;
use crate::dashboard::tui::Failure;

/// On the requests, with the card of the first.
fn asked() -> Desk {
    let mut desk = Desk::open(80, 24);
    desk.keys("2");
    assert_eq!(desk.taken(), [Effect::Review(id("r-7f3k2q2d"), Terms::default())]);
    desk.reviewed(card("aaaa"));
    desk.wait(GUARD);
    desk
}

fn orders(desk: &mut Desk) -> Vec<Order> {
    let effects = desk.taken().into_iter();
    effects
        .filter_map(|it| if let Effect::Order(_, order) = it { Some(order) } else { None })
        .collect()
}

#[test]
fn a_and_then_y_approve_what_was_seen() {
    let mut desk = asked();
    desk.keys("a");
    assert_eq!(orders(&mut desk), []);
    let screen = desk.screen();
    for told in ["approve r-7f3k2q2d", "bottles/dev.md", "commits on main", "ada, grace", "y yes"] {
        assert!(screen.contains(told), "{told}: {screen}");
    }
    desk.keys("y");
    let order = Order::Approve(id("r-7f3k2q2d"), Terms::default(), "aaaa".to_owned());
    assert_eq!(orders(&mut desk), [order]);
    assert!(desk.screen().contains("under way: approve r-7f3k2q2d"));
    // Once is enough.
    desk.keys("a");
    assert!(desk.screen().contains("is being decided"));
    desk.event(Event::Done(1, Ok("r-7f3k2q2d applied".to_owned())));
    assert!(desk.screen().contains("r-7f3k2q2d applied"));
}

#[test]
fn nothing_but_y_approves() {
    for key in [
        Key::Enter,
        Key::Esc,
        Key::Tab,
        Key::Backspace,
        Key::Up,
        Key::Down,
        Key::Char(' '),
        Key::Char('n'),
        Key::Char('Y'),
        Key::Char('a'),
        Key::Char('j'),
        Key::Char('q'),
        Key::Ctrl('y'),
    ] {
        let mut desk = asked();
        desk.keys("a");
        desk.key(key);
        assert_eq!(orders(&mut desk), [], "{key:?}");
        assert!(desk.app.confirm.is_none(), "{key:?}");
        desk.keys("y");
        assert_eq!(orders(&mut desk), [], "{key:?}");
    }
}

#[test]
fn enter_decides_nothing_wherever_it_is_pressed() {
    let mut desk = asked();
    for _ in 0..20 {
        desk.wait(GUARD);
        desk.key(Key::Enter);
        desk.key(Key::Char('a'));
        desk.wait(GUARD);
        desk.key(Key::Enter);
    }
    assert_eq!(orders(&mut desk), []);
}

#[test]
fn what_is_typed_ahead_or_pasted_decides_nothing() {
    let mut desk = asked();
    desk.key(Key::Char('a'));
    desk.key(Key::Char('y'));
    desk.wait(GUARD - 1);
    desk.key(Key::Char('y'));
    assert_eq!(orders(&mut desk), []);
    desk.event(Event::Paste("y".to_owned()));
    assert_eq!(orders(&mut desk), []);
    desk.wait(1);
    desk.key(Key::Char('y'));
    assert_eq!(orders(&mut desk).len(), 1);
    desk = asked();
    desk.event(Event::Paste("ay".to_owned()));
    desk.wait(GUARD);
    desk.event(Event::Paste("y".to_owned()));
    assert!(desk.app.confirm.is_none());
    assert_eq!(orders(&mut desk), []);
}

#[test]
fn a_list_that_moves_does_not_take_its_choice_along() {
    let mut desk = asked();
    // A new one comes before it: the same request is chosen, and keys of that moment are nobody's.
    let mut moved = team();
    moved.requests.insert(0, ask("r-aaaaaaaa", "tick", "egress", "evil.test:443", 1));
    desk.event(Event::Looked(Arc::new(moved.clone())));
    assert_eq!(desk.app.request, Some(id("r-7f3k2q2d")));
    assert!(desk.taken().contains(&Effect::Ring(3)));
    for key in ['a', 'd', 'm', 'u', 'j'] {
        desk.key(Key::Char(key));
    }
    assert!(desk.app.confirm.is_none() && desk.app.prompt.is_none());
    assert_eq!(desk.app.request, Some(id("r-7f3k2q2d")));
    desk.wait(GUARD - 1);
    desk.key(Key::Char('a'));
    assert!(desk.app.confirm.is_none());
    desk.wait(1);
    desk.key(Key::Char('a'));
    assert!(desk.app.confirm.as_ref().is_some_and(|it| it.question.contains("r-7f3k2q2d")));
}

#[test]
fn a_key_that_was_pressed_before_the_list_moved_is_dropped_too() {
    let mut desk = asked();
    let before = desk.at();
    desk.wait(50);
    let mut moved = team();
    moved.requests.remove(0);
    desk.event(Event::Looked(Arc::new(moved)));
    assert_eq!(desk.app.request, Some(id("r-5a2m4xqz")), "the next one is chosen");
    // It was read from the terminal before, and comes after.
    assert_eq!(desk.app.update(before, Event::Key(Key::Char('d'))), []);
    assert!(desk.app.prompt.is_none());
    // Nor while it was not drawn yet.
    let effects = desk.app.update(desk.at(), Event::Looked(Arc::new(team())));
    assert!(!effects.is_empty());
    let late = At { ms: desk.ms + 10 * GUARD, ..desk.at() };
    desk.app.update(late, Event::Key(Key::Char('d')));
    assert!(desk.app.prompt.is_none());
}

#[test]
fn a_question_is_taken_back_when_what_it_is_about_changes() {
    let mut desk = asked();
    desk.keys("a");
    // Looked again: the same, and the question stays.
    desk.reviewed(card("aaaa"));
    assert!(desk.app.confirm.is_some());
    desk.reviewed(card("bbbb"));
    assert!(desk.app.confirm.is_none());
    assert!(desk.screen().contains("what you saw of r-7f3k2q2d has changed: look again"));
    desk.key(Key::Char('y'));
    desk.keys("y");
    assert_eq!(orders(&mut desk), []);
    // The new one can be approved as what it is.
    desk.keys("ay");
    let order = Order::Approve(id("r-7f3k2q2d"), Terms::default(), "bbbb".to_owned());
    assert_eq!(orders(&mut desk), [order]);

    let mut desk = asked();
    desk.keys("a");
    let mut over = team();
    over.requests.remove(0);
    desk.event(Event::Looked(Arc::new(over)));
    assert!(desk.app.confirm.is_none());
    assert!(desk.screen().contains("r-7f3k2q2d does not wait any more"));
    desk.keys("y");
    assert_eq!(orders(&mut desk), []);
}

#[test]
fn a_stale_token_says_so_and_shows_the_new() {
    let mut desk = asked();
    desk.keys("ay");
    desk.taken();
    let why = "what you saw of r-7f3k2q2d has changed: look again (bottles/dev.md was edited)";
    let failure = Failure { why: why.to_owned(), stale: Some(id("r-7f3k2q2d")) };
    desk.event(Event::Done(1, Err(failure)));
    assert!(desk.screen().contains("look again (bottles/dev.md was edited)"));
    assert_eq!(desk.taken(), [Effect::Review(id("r-7f3k2q2d"), Terms::default())]);
    desk.reviewed(card("cccc"));
    assert!(desk.app.confirm.is_none());
}

#[test]
fn a_no_takes_a_word_and_a_yes_to_that() {
    let mut desk = asked();
    desk.keys("d");
    desk.key(Key::Enter);
    assert!(desk.screen().contains("needs a word to the agent"));
    desk.keys("d");
    desk.event(Event::Paste("use the \u{1b}mirror\n".to_owned()));
    desk.key(Key::Enter);
    assert!(desk.screen().contains("deny r-7f3k2q2d, and tell the agent \"use the mirror\"?"));
    desk.key(Key::Enter);
    assert_eq!(orders(&mut desk), []);
    desk.keys("d");
    desk.event(Event::Paste("no".to_owned()));
    desk.key(Key::Enter);
    desk.keys("y");
    assert_eq!(orders(&mut desk), [Order::Deny(id("r-7f3k2q2d"), "no".to_owned())]);
}

#[test]
fn what_is_typed_is_about_what_it_was_begun_for() {
    let mut desk = asked();
    desk.keys("d");
    // The list moves meanwhile, and another one is chosen.
    let mut over = team();
    over.requests.remove(0);
    desk.event(Event::Looked(Arc::new(over)));
    assert_eq!(desk.app.request, Some(id("r-5a2m4xqz")));
    desk.event(Event::Paste("no".to_owned()));
    desk.key(Key::Enter);
    desk.keys("y");
    assert_eq!(orders(&mut desk), [Order::Deny(id("r-7f3k2q2d"), "no".to_owned())]);
}

#[test]
fn until_is_looked_at_before_it_is_asked() {
    let mut desk = asked();
    desk.keys("u");
    desk.event(Event::Paste("2h".to_owned()));
    desk.key(Key::Enter);
    let terms = Terms { until: Some("2h".to_owned()), token_ref: None };
    assert_eq!(desk.taken(), [Effect::Review(id("r-7f3k2q2d"), terms.clone())]);
    assert!(desk.app.confirm.is_none());
    // An answer to what was asked before is late.
    desk.reviewed(card("aaaa"));
    assert!(desk.app.confirm.is_none());
    desk.reviewed_by(card("dddd"), terms.clone());
    assert!(desk.screen().contains("until 2h"));
    desk.keys("y");
    let order = Order::Approve(id("r-7f3k2q2d"), terms, "dddd".to_owned());
    assert_eq!(orders(&mut desk), [order]);
}

#[test]
fn a_new_route_needs_the_name_of_its_token() {
    let mut team = team();
    team.requests[0].wants_token = true;
    let mut desk = Desk::new(80, 24);
    desk.event(Event::Looked(Arc::new(team)));
    desk.keys("2");
    let mut blocked = card("aaaa");
    blocked.blocked = Some("which token?".to_owned());
    desk.reviewed(blocked);
    desk.keys("a");
    assert!(desk.screen().contains("the variable that holds the token"));
    desk.event(Event::Paste("GH_TOKEN".to_owned()));
    desk.key(Key::Enter);
    let terms = Terms { until: None, token_ref: Some("GH_TOKEN".to_owned()) };
    desk.reviewed_by(card("eeee"), terms.clone());
    desk.keys("y");
    let order = Order::Approve(id("r-7f3k2q2d"), terms, "eeee".to_owned());
    assert_eq!(orders(&mut desk), [order]);
}

#[test]
fn what_cannot_be_approved_is_not_asked() {
    let mut desk = asked();
    let mut blocked = card("ffff");
    blocked.blocked = Some("bottles/dev.md has changes that are not committed".to_owned());
    desk.reviewed(blocked);
    desk.keys("a");
    assert!(desk.app.confirm.is_none());
    assert!(desk.screen().contains("cannot be approved: bottles/dev.md has changes"));
}

#[test]
fn orders_about_a_sandbox_name_it_and_take_y() {
    for (key, order) in [
        ('s', Order::Stop("ada".to_owned())),
        ('R', Order::Restart("ada".to_owned())),
        ('m', Order::Mute("ada".to_owned())),
    ] {
        let mut desk = Desk::open(80, 24);
        desk.wait(GUARD);
        desk.key(Key::Char(key));
        assert!(desk.app.confirm.as_ref().is_some_and(|it| it.question.contains("ada")), "{key}");
        desk.wait(GUARD);
        desk.key(Key::Enter);
        desk.keys("y");
        assert_eq!(orders(&mut desk), [], "{key}");
        desk.key(Key::Char(key));
        desk.keys("y");
        assert_eq!(orders(&mut desk), [order], "{key}");
    }
}

#[test]
fn a_snapshot_is_restored_by_its_name() {
    let mut desk = Desk::open(80, 24);
    desk.wait(GUARD);
    desk.key(Key::Enter);
    assert_eq!(desk.taken(), [Effect::Detail("ada".to_owned())]);
    desk.event(Event::Detailed(Box::new(detail())));
    for _ in 0..6 {
        desk.key(Key::Tab);
    }
    desk.key(Key::Enter);
    assert!(desk.app.confirm.is_none(), "none is chosen");
    desk.key(Key::Down);
    desk.key(Key::Enter);
    assert!(desk.screen().contains("restore ada@2 into ada"));
    desk.keys("y");
    let order = Order::Restore("ada@2".to_owned(), "ada".to_owned());
    assert_eq!(orders(&mut desk), [order]);
}

#[test]
fn whoever_leaves_is_told_what_is_under_way() {
    let mut desk = asked();
    desk.keys("ay");
    desk.taken();
    desk.keys("q");
    assert_eq!(desk.taken(), []);
    assert!(desk.screen().contains("waits for: approve r-7f3k2q2d"));
    desk.event(Event::Done(1, Ok("applied".to_owned())));
    assert_eq!(desk.taken(), [Effect::Quit]);
    let mut desk = asked();
    desk.keys("q");
    assert_eq!(desk.taken(), [Effect::Quit]);
}

#[test]
fn idle_is_not_drawn() {
    let mut desk = Desk::open(80, 24);
    assert!(!desk.app.is_dirty());
    for _ in 0..10 {
        desk.wait(1000);
        desk.app.update(desk.at(), Event::Looked(Arc::new(team())));
        desk.app.update(desk.at(), Event::Audited(Vec::new()));
        assert!(!desk.app.is_dirty());
    }
}
