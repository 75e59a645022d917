//! What a yes changes: the asked lines, one commit, and nothing else.

use std::time::Duration;

use serde_json::json;

use super::desk::{DEV, Desk, capability, index, sha256};
use crate::support::Screen;

const ENTRY: &str = "    - packages.example.org # why\n    - host: index.example.org\n      methods: [GET, HEAD]\n      paths: [/simple/**]\n";

#[test]
fn a_yes_is_the_asked_lines_and_a_commit_of_one_file() {
    let desk = Desk::new("yes");
    desk.ask_egress("r-aaaaaaaa");
    let shown = desk.show("r-aaaaaaaa");
    assert_eq!(shown["blocked"], json!(null), "{shown}");
    assert_eq!(shown["edit"]["file"], "bottles/dev.md");
    assert_eq!(
        shown["delta"],
        json!([{ "sign": "+", "what": "reach", "text": "index.example.org:443 GET, HEAD /simple/**" }])
    );
    assert_eq!(desk.file(), DEV, "a look writes nothing");
    let ended = desk.approve("r-aaaaaaaa", &["-o", "json"]).exits(0).json();
    let expected = DEV.replace("    - packages.example.org # why\n", ENTRY);
    assert_eq!(desk.file(), expected);
    let record = &ended["requests"][0];
    assert_eq!(record["state"], "approved");
    assert_eq!(record["decision"]["by"], "op");
    assert_eq!(record["decision"]["review"], shown["review"]);
    assert_eq!(record["edit"]["before"], sha256(DEV));
    assert_eq!(record["edit"]["after"], sha256(&expected));
    assert_eq!(record["edit"]["commit"], desk.head());
    assert_eq!(record["edit"]["branch"], "main");
    assert_eq!(desk.git(&["show", "--name-only", "--format=", "HEAD"]).trim(), "bottles/dev.md");
    assert_eq!(desk.git(&["log", "-1", "--format=%an <%ae>"]).trim(), "Op Erator <op@example.org>");
    let message = desk.git(&["log", "-1", "--format=%B"]);
    assert!(
        message.starts_with(
            "dev: allow index.example.org:443 GET, HEAD /simple/**\n\n    ada says: pip install"
        ),
        "{message}"
    );
    let trailers = desk.git(&["log", "-1", "--format=%(trailers:only)"]);
    assert_eq!(trailers.trim(), "Bottle-Request: r-aaaaaaaa\nBottle-Sandbox: ada");
    assert_eq!(desk.git(&["status", "--porcelain"]), "", "the index knows it, too");
    let audit = std::fs::read_to_string(
        desk.cli.state().join("trees").join(&desk.tree.owner).join("audit.jsonl"),
    )
    .unwrap();
    assert!(
        audit.contains(
            r#""event":"approved","request":"r-aaaaaaaa","sandbox":"ada","by":"op","via":"cli""#
        ),
        "{audit}"
    );
    assert!(!audit.contains("pip install"), "{audit}");
}

#[test]
fn an_undo_is_the_edit_backwards_as_a_new_commit() {
    let desk = Desk::new("undo");
    desk.ask_egress("r-aaaaaaaa");
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    // Somebody goes on writing meanwhile.
    let more = desk.file().replace("packages.example.org # why", "packages.example.org # why not");
    desk.tree.write("bottles/dev.md", &more);
    desk.git(&["commit", "-qam", "later"]);
    desk.requests(&["undo", "r-aaaaaaaa", "--no-apply"]).exits(0);
    assert_eq!(desk.file(), DEV.replace("# why", "# why not"));
    assert_eq!(desk.state("r-aaaaaaaa"), "undone");
    let message = desk.git(&["log", "-1", "--format=%B"]);
    assert!(message.contains("Bottle-Undo: r-aaaaaaaa"), "{message}");
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
    desk.requests(&["undo", "r-aaaaaaaa"]).exits(1);
}

#[test]
fn several_are_one_commit_or_none() {
    let desk = Desk::new("several");
    desk.ask_egress("r-aaaaaaaa");
    desk.ask("r-bbbbbbbb", "grace", "capability", capability("memory", "4G"));
    desk.ask("r-cccccccc", "grace", "capability", capability("package", "ripgrep"));
    let shown = |ids: &[&str]| {
        let mut args = vec!["approve"];
        args.extend(ids);
        args.extend(["--no-apply", "--yes", "--review", "000000000000"]);
        desk.requests(&args).exits(1)
    };
    let stale = shown(&["r-aaaaaaaa", "r-bbbbbbbb"]);
    assert!(
        stale.stderr.contains("what you saw of r-aaaaaaaa has changed: look again"),
        "{}",
        stale.stderr
    );
    let refused = shown(&["r-aaaaaaaa", "r-cccccccc"]);
    assert!(
        refused.stderr.contains("no field of the manifest says `package`"),
        "{}",
        refused.stderr
    );
    assert_eq!((desk.file().as_str(), desk.state("r-aaaaaaaa").as_str()), (DEV, "pending"));
    let args = desk.command(&["approve", "r-aaaaaaaa", "r-bbbbbbbb", "--no-apply"]);
    let mut screen = Screen::open(&desk.cli.command(args), Duration::from_secs(60));
    screen.shows("[y/N]");
    screen.type_in("y\n");
    assert_eq!(screen.ended(), Some(0));
    let expected = DEV
        .replace("    - packages.example.org # why\n", ENTRY)
        .replace("memory: 1G # enough", "memory: 4G # enough");
    assert_eq!(desk.file(), expected);
    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "2");
    let trailers = desk.git(&["log", "-1", "--format=%(trailers:key=Bottle-Request,valueonly)"]);
    assert_eq!(trailers.split_whitespace().collect::<Vec<_>>(), ["r-aaaaaaaa", "r-bbbbbbbb"]);
    // Each of them can be taken back alone.
    desk.requests(&["undo", "r-bbbbbbbb", "--no-apply"]).exits(0);
    assert_eq!(desk.file(), DEV.replace("    - packages.example.org # why\n", ENTRY));
}

#[test]
fn the_operator_narrows_and_widens() {
    for (more, lines) in [
        (
            &["--methods", "GET", "--paths", "/simple/requests/**"][..],
            "    - host: index.example.org\n      methods: [GET]\n      paths: [/simple/requests/**]\n",
        ),
        (&["--whole-host"], "    - host: index.example.org\n      methods: [GET, HEAD]\n"),
    ] {
        let desk = Desk::new("narrow");
        desk.ask_egress("r-aaaaaaaa");
        desk.approve("r-aaaaaaaa", more).exits(0);
        assert!(desk.file().contains(lines), "{}", desk.file());
        assert!(desk.record("r-aaaaaaaa")["decision"]["granted"].is_object());
    }
}

#[test]
fn limits_and_variables_are_set_where_they_stand() {
    let desk = Desk::new("limits");
    for (id, what, value, after) in [
        ("r-aaaaaaaa", "memory", "4G", "  memory: 4G # enough\n"),
        ("r-bbbbbbbb", "cpus", "4", "  memory: 4G # enough\n  cpus: 4\n"),
        ("r-cccccccc", "pids", "1024", "  cpus: 4\n  pids: 1024\n"),
        ("r-dddddddd", "env", "NOTE=a: # b", "env:\n  NOTE: \"a: # b\"\n"),
    ] {
        desk.ask(id, "ada", "capability", capability(what, value));
        desk.approve(id, &[]).exits(0);
        assert!(desk.file().contains(after), "{}", desk.file());
    }
    for id in ["r-dddddddd", "r-cccccccc", "r-bbbbbbbb", "r-aaaaaaaa"] {
        desk.requests(&["undo", id, "--no-apply"]).exits(0);
    }
    assert_eq!(desk.file(), DEV.replace("---\nStays", "env:\n---\nStays"));
}

#[test]
fn a_route_takes_its_tokens_name_from_the_operator() {
    let mut desk = Desk::new("route");
    let ask =
        json!({ "host": "api.example.com", "port": 443, "path": "/v1", "problem": "missing" });
    desk.ask("r-aaaaaaaa", "ada", "credential", ask);
    let shown = desk.show("r-aaaaaaaa");
    assert!(shown["blocked"].as_str().unwrap().contains("--token-ref NAME"), "{shown}");
    // Without the variable every sandbox of the bottle would be held.
    let args = [
        "approve",
        "r-aaaaaaaa",
        "--token-ref",
        "API_TOKEN",
        "--no-apply",
        "--yes",
        "--review",
        "0",
    ];
    let refused = desk.requests(&args).exits(1);
    assert!(refused.stderr.contains("API_TOKEN is not set here"), "{}", refused.stderr);
    assert_eq!(desk.file(), DEV);
    desk.cli.env("API_TOKEN", "correct-horse-battery");
    desk.approve("r-aaaaaaaa", &["--token-ref", "API_TOKEN"]).exits(0);
    let route = "cred_proxy:\n  routes:\n    - path: /api/\n      upstream: https://api.example.com/v1\n      auth_scheme: Bearer\n      token_ref: API_TOKEN\n";
    assert!(desk.file().contains(route), "{}", desk.file());
    assert!(!desk.git(&["log", "-p"]).contains("correct-horse"));
}

#[test]
fn what_was_seen_is_what_is_approved() {
    let desk = Desk::new("stale");
    desk.ask_egress("r-aaaaaaaa");
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    let approve = |token: &str| {
        desk.requests(&["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", token])
    };
    // The file is edited.
    let edited = DEV.replace("# why", "# because");
    desk.tree.write("bottles/dev.md", &edited);
    desk.git(&["commit", "-qam", "later"]);
    let stale = approve(&token).exits(1);
    assert!(
        stale.stderr.contains("what you saw of r-aaaaaaaa has changed: look again"),
        "{}",
        stale.stderr
    );
    assert_eq!((desk.file(), desk.state("r-aaaaaaaa").as_str()), (edited, "pending"));
    // The agent's request is another.
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    let mut other = index();
    other["host"] = json!("evil.example.org");
    desk.ask("r-aaaaaaaa", "ada", "egress", other);
    approve(&token).exits(1);
    // Another sandbox gets it as well.
    desk.ask_egress("r-aaaaaaaa");
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    desk.tree.agent("linus", "dev", "", "You are linus.");
    approve(&token).exits(1);
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    approve(&token).exits(0);
    // It is decided.
    let again = approve(&token).exits(1);
    assert!(again.stderr.contains("r-aaaaaaaa was approved by op, "), "{}", again.stderr);
}

#[test]
fn two_yeses_at_once_are_one() {
    let desk = Desk::new("twice");
    desk.ask_egress("r-aaaaaaaa");
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    let args = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", &token];
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| desk.requests(&args).code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(1)).count(), 3, "{codes:?}");
    assert_eq!(desk.file().matches("index.example.org").count(), 1);
    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "2");
}

#[test]
fn a_grant_that_has_ended_is_removed_by_a_commit() {
    let desk = Desk::new("until");
    desk.ask_egress("r-aaaaaaaa");
    // A time that a script names is the same for the look and for the yes.
    let until = ["--until", "2020-01-01T00:00:00Z"];
    desk.approve("r-aaaaaaaa", &until).exits(0);
    assert!(desk.file().contains("      expires: 2020-01-01T00:00:00Z\n"), "{}", desk.file());
    let grants = desk.requests(&["list", "--all", "-o", "json"]).exits(0).json();
    assert_eq!(grants["requests"][0]["decision"]["until"], "2020-01-01T00:00:00Z");
    desk.ask("r-bbbbbbbb", "ada", "egress", index());
    desk.approve("r-bbbbbbbb", &["--until", "9h"]).exits(0);
    desk.requests(&["tidy"]).exits(0);
    assert!(!desk.file().contains("2020-01-01"), "{}", desk.file());
    assert_eq!(desk.file().matches("index.example.org").count(), 1, "{}", desk.file());
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
    assert!(desk.git(&["log", "-1", "--format=%B"]).starts_with("Remove grants that have ended"));
    desk.requests(&["tidy"]).exits(0);
}
