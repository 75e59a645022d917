//! What the operator writes himself: `approve --edit`, on a terminal, with programs for an editor.

use std::time::Duration;

use serde_json::json;

use super::desk::{Desk, capability};
use crate::support::Screen;

const ID: &str = "r-aaaaaaaa";

/// `approve --edit` on a terminal, with an editor that runs this script on the file `$1`.
fn approve(desk: &Desk, script: &str) -> Screen {
    let path = desk.cli.home().join("editor");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    let mut command = desk.cli.command(desk.command(&["approve", ID, "--edit", "--no-apply"]));
    // A command line, as git has it.
    command.env_remove("VISUAL").env("EDITOR", format!("sh {}", path.display()));
    Screen::open(&command, Duration::from_secs(60))
}

/// Nothing happened, and it still waits.
#[track_caller]
fn untouched(desk: &Desk, before: &str) {
    assert_eq!(desk.file(), before);
    assert_eq!(desk.state(ID), "pending");
    let left: Vec<_> = std::fs::read_dir(desk.lock().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("edit"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_narrower_entry_is_what_is_granted() {
    let desk = Desk::new("editor-narrower");
    desk.ask_egress(ID);
    let mut screen = approve(
        &desk,
        "cp \"$1\" \"$HOME/was\"; sed -i 's/GET, HEAD/GET/; s,/simple/,/simple/requests/,' \"$1\"",
    );
    screen.shows("Approve? edits bottles/dev.md, commits it [y/N]");
    screen.type_in("y\n");
    assert_eq!(screen.ended(), Some(0));
    let was = std::fs::read_to_string(desk.cli.home().join("was")).unwrap();
    assert!(was.contains("#   pip install requests fails\n"), "{was}");
    assert!(
        was.ends_with("\nhost: index.example.org\nmethods: [GET, HEAD]\npaths: [/simple/**]\n"),
        "{was}"
    );
    let file = desk.file();
    let added =
        "    - host: index.example.org\n      methods: [GET]\n      paths: [/simple/requests/**]\n";
    assert!(file.contains(added), "{file}");
    let granted = &desk.record(ID)["decision"]["granted"]["ask"];
    assert_eq!(granted["methods"], json!(["GET"]));
    assert_eq!(granted["paths"], json!(["/simple/requests/**"]));
    // And back, as any other grant.
    desk.requests(&["undo", ID, "--no-apply"]);
    assert!(!desk.file().contains("index.example.org"), "{}", desk.file());
}

#[test]
fn a_wider_entry_and_an_end_are_the_operators_to_give() {
    let desk = Desk::new("editor-wider");
    desk.ask_egress(ID);
    let script = "printf 'host: \"*.example.org\"\\nexpires: 2099-01-01T00:00:00Z\\n' >\"$1\"";
    let mut screen = approve(&desk, script);
    screen.shows("*.example.org:443");
    screen.shows("[y/N]");
    screen.type_in("y\n");
    assert_eq!(screen.ended(), Some(0));
    assert!(desk.file().contains("expires: 2099-01-01T00:00:00Z"), "{}", desk.file());
    let decision = &desk.record(ID)["decision"];
    assert_eq!(decision["until"], "2099-01-01T00:00:00Z", "{decision}");
    // The agent reads what it was granted of what it asked for, and no pattern.
    assert_eq!(decision["granted"]["ask"]["host"], "index.example.org", "{decision}");
}

#[test]
fn another_limit_than_was_asked_for() {
    let desk = Desk::new("editor-limit");
    desk.ask(ID, "ada", "capability", capability("memory", "4G"));
    let mut screen = approve(&desk, "sed -i 's/^memory: 4G$/memory: 2G/' \"$1\"");
    screen.shows("[y/N]");
    screen.type_in("y\n");
    assert_eq!(screen.ended(), Some(0));
    assert!(desk.file().contains("  memory: 2G # enough\n"), "{}", desk.file());
    assert_eq!(desk.record(ID)["decision"]["granted"]["ask"]["value"], "2G");
}

#[test]
fn what_is_no_entry_for_it_is_not_granted() {
    let desk = Desk::new("editor-refused");
    desk.ask_egress(ID);
    let before = desk.file();
    for (script, why) in [
        ("printf 'host: other.example.org\\n' >\"$1\"", "does not cover index.example.org:443"),
        ("printf 'host: index.example.org\\nport: 80\\n' >\"$1\"", "does not cover"),
        ("printf 'methods: [GET]\\n' >\"$1\"", "it has to name the `host`"),
        ("printf 'host: index.example.org\\ndlp: off\\n' >\"$1\"", "dlp"),
        ("printf 'host: \"**.org\"\\n' >\"$1\"", "anyone can register a name"),
        ("printf 'host: [\\n' >\"$1\"", "line "),
        ("printf -- '- a\\n- b\\n' >\"$1\"", "expected a host, or a map with `host`"),
    ] {
        let mut screen = approve(&desk, script);
        screen.shows(why);
        screen.shows("Edit it again? [y/N]");
        screen.type_in("n\n");
        assert_eq!(screen.ended(), Some(1), "{script}");
        untouched(&desk, &before);
    }
    for (script, why) in [
        (": >\"$1\"", "the entry is empty: nothing was changed"),
        ("exit 7", "the editor"),
        ("head -c 70000 /dev/zero | tr '\\0' '#' >\"$1\"", "larger than 64 KiB"),
        ("rm \"$1\"", "No such file"),
    ] {
        let mut screen = approve(&desk, script);
        screen.shows(why);
        assert_eq!(screen.ended(), Some(1), "{script}");
        untouched(&desk, &before);
    }
}

#[test]
fn a_mistake_is_mended_in_the_same_editor() {
    let desk = Desk::new("editor-again");
    desk.ask_egress(ID);
    let script = "if grep -q 'host: [[]' \"$1\"; then printf 'host: index.example.org\\n' >\"$1\"; else printf 'host: [\\n' >\"$1\"; fi";
    let mut screen = approve(&desk, script);
    screen.shows("Edit it again? [y/N]");
    screen.type_in("y\n");
    screen.shows("Approve? edits");
    screen.type_in("y\n");
    assert_eq!(screen.ended(), Some(0));
    assert!(desk.file().contains("    - index.example.org\n"), "{}", desk.file());
}

#[test]
fn an_editor_needs_a_terminal_and_one_request() {
    let desk = Desk::new("editor-alone");
    desk.ask_egress(ID);
    let before = desk.file();
    let ended = desk.requests(&["approve", ID, "--edit"]).exits(1);
    assert!(ended.stderr.contains("there is no terminal for an editor"), "{}", ended.stderr);
    desk.requests(&["approve", ID, "--edit", "--yes", "--review", "abc"]).exits(2);
    desk.ask("r-bbbbbbbb", "ada", "capability", capability("memory", "4G"));
    let ended = desk.requests(&["approve", ID, "r-bbbbbbbb", "--edit"]).exits(1);
    assert!(ended.stderr.contains("`--edit` is for one request"), "{}", ended.stderr);
    untouched(&desk, &before);
}
