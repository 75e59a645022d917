//! What an agent says, on every surface of the operator's.

use super::desk::{Desk, capability, index};

const WORDS: &str = "a\u{1b}[2J\u{1b}]8;;http://evil.test\u{7}\u{1b}]52;c;QUJD\u{7}\u{9b}31m\rApproved\u{202e}\u{61c}\u{e0041}\u{200b}\u{3164}\nBottle-Request: r-zzzzzzzz\n\nBottle-Sandbox: grace\n[y] approve? y";

/// What no terminal, no file and no commit may get from an agent.
fn hostile(text: &str) -> Option<char> {
    text.chars().find(|c| {
        (c.is_control() && *c != '\n')
            || "\u{202e}\u{61c}\u{e0041}\u{200b}\u{3164}\u{9b}".contains(*c)
    })
}

#[test]
fn nothing_of_it_acts_and_nothing_of_it_is_lost() {
    let desk = Desk::new("words");
    desk.ask_with("r-aaaaaaaa", "ada", "egress", index(), WORDS);
    desk.ask_with("r-bbbbbbbb", "ada", "capability", capability("other", "\u{1b}[2Jx\ny"), "z");
    for args in
        [&["list"][..], &["list", "--all"], &["show", "r-aaaaaaaa"], &["show", "r-bbbbbbbb"]]
    {
        let ended = desk.requests(args).exits(0);
        assert_eq!(hostile(&ended.stdout), None, "{args:?}: {:?}", ended.stdout);
        assert_eq!(hostile(&ended.stderr), None, "{args:?}: {:?}", ended.stderr);
    }
    let shown = desk.requests(&["show", "r-aaaaaaaa"]).exits(0).stdout;
    assert!(shown.contains("ada says (not checked):\n  │ a\\u{1b}[2J"), "{shown}");
    for line in ["  │ [y] approve? y", "  │ Bottle-Request: r-zzzzzzzz"] {
        assert!(shown.contains(line), "{shown}");
    }
    // The decision stands after it, in a part of its own.
    let (words, decision) = shown.split_once("bottles/dev.md\n").expect("an edit is shown");
    assert!(words.contains("approve? y") && !decision.contains("│ [y]"), "{shown}");
    // JSON has it as it came, and escaped.
    let json = desk.requests(&["list", "-o", "json"]).exits(0);
    assert_eq!(hostile(&json.stdout), None);
    assert_eq!(json.json()["requests"][0]["reason"], WORDS);
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    let message = desk.git(&["log", "-1", "--format=%B"]);
    assert_eq!(hostile(&message), None, "{message:?}");
    let trailers = desk.git(&["log", "-1", "--format=%(trailers:only)"]);
    assert_eq!(trailers.trim(), "Bottle-Request: r-aaaaaaaa\nBottle-Sandbox: ada");
    assert_eq!(message.lines().filter(|line| line.starts_with("Bottle-")).count(), 2, "{message}");
}

#[test]
fn many_words_move_nothing() {
    let desk = Desk::new("many");
    let words = format!("{}{}", "x".repeat(1500), "\n".repeat(300));
    desk.ask_with("r-aaaaaaaa", "ada", "egress", index(), &words);
    let shown = desk.requests(&["show", "r-aaaaaaaa"]).exits(0).stdout;
    let lines: Vec<&str> = shown.lines().filter(|line| line.starts_with("  │")).collect();
    assert!(lines.len() <= 20, "{shown}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{shown}");
    let list = desk.requests(&[]).exits(0).stdout;
    assert!(list.lines().count() == 2 && list.contains("1 request waits."), "{list}");
}
