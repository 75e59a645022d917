//! What is not edited, and what nobody can be talked into.

use serde_json::json;

use super::desk::{DEV, Desk, capability, index};

#[test]
fn a_link_is_not_edited_and_its_patch_applies() {
    let desk = Desk::plain("link");
    let elsewhere = desk.tree.join("dev-itself.md");
    std::fs::rename(desk.tree.join("bottles/dev.md"), &elsewhere).unwrap();
    std::os::unix::fs::symlink("../dev-itself.md", desk.tree.join("bottles/dev.md")).unwrap();
    desk.ask_egress("r-aaaaaaaa");
    let shown = desk.show("r-aaaaaaaa");
    assert_eq!(shown["blocked"], "bottles/dev.md is a link: it is not edited; here is the patch");
    let args = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", "0"];
    let refused = desk.requests(&args).exits(1);
    assert!(refused.stdout.contains("+    - host: index.example.org"), "{}", refused.stdout);
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), DEV);
    assert_eq!(desk.state("r-aaaaaaaa"), "pending");
}

#[test]
fn a_patch_is_for_git_apply() {
    let desk = Desk::new("patch");
    desk.ask_egress("r-aaaaaaaa");
    let patch = desk.requests(&["show", "r-aaaaaaaa", "--patch"]).exits(0).stdout;
    let file = desk.cli.home().join("x.patch");
    std::fs::write(&file, patch).unwrap();
    desk.git(&["apply", file.to_str().unwrap()]);
    assert!(desk.file().contains("    - host: index.example.org\n"));
    // A tree that grants it by itself has nothing left to approve.
    desk.requests(&["list"]).exits(0);
    assert_eq!(desk.state("r-aaaaaaaa"), "applied");
}

#[test]
fn a_value_stays_a_value() {
    let desk = Desk::new("crafted");
    let host = |host: &str| {
        let mut ask = index();
        ask["host"] = json!(host);
        ask
    };
    let path = |path: &str| {
        let mut ask = index();
        ask["paths"] = json!([path]);
        ask
    };
    for (kind, ask) in [
        ("egress", host("a.example.org\n    - evil.example.org")),
        ("egress", host("a.example.org\", evil.example.org")),
        ("egress", host("*.com")),
        ("egress", host("**")),
        ("egress", host("10.0.0.1")),
        ("egress", host("аpi.example.com")),
        ("egress", path("/x\n  dlp_action: warn")),
        ("egress", path("/\u{202e}x")),
        (
            "egress",
            json!({ "host": "a.example.org", "port": 0, "methods": ["CONNECT"], "paths": [] }),
        ),
        ("capability", capability("memory", "4G\nsupervise: false")),
        ("capability", capability("memory", "9999T")),
        ("capability", capability("pids", "1")),
        ("capability", capability("cpus", "1e3")),
        ("capability", capability("env", "supervise: false\n")),
        ("capability", capability("env", "A")),
        ("capability", capability("env", "A=?")),
        ("capability", capability("env", "A=\u{1b}[2J")),
        ("capability", capability("env", "A-B=c")),
        ("capability", capability("image", "evil/image")),
        ("capability", capability("mount", "/")),
        (
            "credential",
            json!({ "host": "a.example.org\", x: \"", "port": 443, "problem": "missing" }),
        ),
    ] {
        desk.ask("r-aaaaaaaa", "ada", kind, ask.clone());
        let shown = desk.requests(&["show", "r-aaaaaaaa", "--token-ref", "PATH", "-o", "json"]);
        let blocked = match kind {
            "credential" => shown.exits(0).json()["blocked"].clone(),
            _ => desk.show("r-aaaaaaaa")["blocked"].clone(),
        };
        assert!(blocked.is_string(), "{ask}: {blocked}");
        let args = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", "0"];
        desk.requests(&args).exits(1);
        assert_eq!(desk.file(), DEV, "{ask}");
    }
    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "1");
}

#[test]
fn an_edit_that_would_change_something_else_is_none() {
    let desk = Desk::new("else");
    desk.ask_egress("r-aaaaaaaa");
    for (text, why) in [
        // Two sections of one name: which of them counts is anybody's guess.
        (DEV.replace("resources:", "egress: {allowlist: [x.example.org]}\nresources:"), "held"),
        (DEV.replace("egress:", "egress: &a"), "held"),
    ] {
        desk.tree.write("bottles/dev.md", &text);
        desk.git(&["commit", "-qam", why]);
        let shown = desk.show("r-aaaaaaaa");
        assert!(shown["blocked"].is_string(), "{shown}");
        let args = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", "0"];
        desk.requests(&args).exits(1);
        assert_eq!(desk.file(), text);
    }
}

#[test]
fn a_word_to_the_agent_is_one_plain_line() {
    let desk = Desk::new("word");
    desk.ask_egress("r-aaaaaaaa");
    let long = "x".repeat(501);
    for message in [long.as_str(), "a\u{1b}[2Jb", "a\nb", "", " ", "a\u{202e}b"] {
        let refused = desk.requests(&["deny", "r-aaaaaaaa", "--message", message]).exits(1);
        assert!(refused.stderr.contains("a word to the agent"), "{}", refused.stderr);
        assert_eq!(desk.state("r-aaaaaaaa"), "pending");
    }
    let plain = "y".repeat(500);
    desk.requests(&["deny", "r-aaaaaaaa", "--message", &plain]).exits(0);
    let record = desk.record("r-aaaaaaaa");
    assert_eq!(
        (record["state"].as_str(), record["decision"]["message"].as_str()),
        (Some("denied"), Some(&*plain))
    );
    let again = desk.requests(&["deny", "r-aaaaaaaa", "--message", "no"]).exits(1);
    assert!(again.stderr.contains("r-aaaaaaaa was denied by op, "), "{}", again.stderr);
    assert_eq!(desk.file(), DEV);
}

#[test]
fn what_no_manifest_says_is_resolved_by_hand() {
    let desk = Desk::new("byhand");
    desk.ask("r-aaaaaaaa", "ada", "capability", capability("package", "ripgrep"));
    let shown = desk.show("r-aaaaaaaa");
    assert!(shown["blocked"].as_str().unwrap().contains("requests resolve r-aaaaaaaa"), "{shown}");
    desk.requests(&["resolve", "r-aaaaaaaa", "--message", "rg is in the image now"]).exits(0);
    assert_eq!(desk.state("r-aaaaaaaa"), "applied");
    desk.ask_egress("r-bbbbbbbb");
    desk.requests(&["resolve", "r-bbbbbbbb", "--message", "done"]).exits(1);
}

#[test]
fn only_one_decides_at_a_time() {
    let desk = Desk::new("lock");
    desk.ask_egress("r-aaaaaaaa");
    let mut options = std::fs::File::options();
    let lock = options.read(true).write(true).create(true).truncate(false).open(desk.lock());
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let busy = desk.requests(&["deny", "r-aaaaaaaa", "--message", "no"]).exits(75);
    assert!(busy.stderr.contains("another bottle is deciding"), "{}", busy.stderr);
    drop(lock);
    desk.requests(&["deny", "r-aaaaaaaa", "--message", "no"]).exits(0);
}

#[test]
fn a_script_approves_what_it_has_seen_or_nothing() {
    let desk = Desk::new("script");
    desk.ask_egress("r-aaaaaaaa");
    let refused = desk.requests(&["approve", "r-aaaaaaaa"]).exits(1);
    assert!(refused.stderr.contains("there is no terminal to ask on"), "{}", refused.stderr);
    desk.requests(&["approve", "r-aaaaaaaa", "--yes"]).exits(2);
    desk.requests(&["approve", "r-zzzzzzzz", "--yes", "--review", "0"]).exits(1);
    desk.requests(&["approve", "../../x", "--yes", "--review", "0"]).exits(2);
    assert_eq!(desk.file(), DEV);
}
