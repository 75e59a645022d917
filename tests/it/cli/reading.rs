//! Commands that need no backend.

use std::process::Stdio;

use serde_json::json;

use crate::support::{Cli, TempTree};

const SKILS: &str = "\
error: unknown key `skils`
  ┌─ agents/ada.md:3:1
3 │ skils: [x]
  │ ^^^^^ did you mean `skills`?
  = allowed: bottle, skills, command, restart, run, suspend, was, name,
    description, tools, disallowedTools, model, permissionMode, maxTurns,
    mcpServers, hooks, memory, background, effort, isolation, color,
    initialPrompt
";

fn good() -> TempTree {
    let tree = TempTree::new("cli");
    tree.bottle("dev", "image: host").agent("ada", "dev", "", "You are ada.");
    tree
}

fn broken() -> TempTree {
    let tree = good();
    tree.agent("ada", "dev", "skils: [x]", "You are ada.");
    tree
}

fn path(tree: &TempTree) -> &str {
    tree.path().to_str().expect("temporary paths are UTF-8")
}

#[test]
fn wrong_usage_exits_2() {
    let cli = Cli::new();
    for args in
        [&[][..], &["frobnicate"], &["exec", "ada"], &["plan", "--jobs", "0"], &["-vq", "plan"]]
    {
        let ended = cli.run(args).exits(2);
        assert_eq!(ended.stdout, "", "{args:?}");
        assert!(ended.stderr.contains("--help"), "{args:?}: {}", ended.stderr);
    }
    assert!(cli.run(["--help"]).exits(0).stdout.contains("Commands:"));
    assert!(cli.run(["--version"]).exits(0).stdout.starts_with("bottle "));
}

#[test]
fn check_of_a_good_tree() {
    let tree = good();
    let ended = Cli::new().run(["check", path(&tree)]).exits(0);
    assert_eq!(ended.stdout, format!("ok: tree {}, 1 agent\n", tree.owner));
    assert_eq!(ended.stderr, "");
}

#[test]
fn check_tells_everything_with_its_place() {
    let tree = broken();
    let ended = Cli::new().run(["check", path(&tree)]).exits(1);
    assert_eq!(ended.stdout, format!("{SKILS}\nwrong: tree {}, 1 agent, 1 error\n", tree.owner));
    let json = Cli::new().run(["-o", "json", "check", path(&tree)]).exits(1).json();
    assert_eq!(json["summary"], json!({ "errors": 1, "warnings": 0 }));
    assert_eq!(json["held"], json!(["ada"]));
    let found = &json["diagnostics"][0];
    assert_eq!((&found["line"], &found["column"]), (&json!(3), &json!(1)));
    assert_eq!(found["file"], "agents/ada.md");
    assert_eq!(found["severity"], "error");
}

#[test]
fn check_tells_what_the_default_backend_could_not_make() {
    let tree = good();
    tree.bottle("dev", "env: {A: b}");
    let settings = tree.path().join("bottle.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}backend: docker\n")).unwrap();
    let json = Cli::new().run(["-o", "json", "check", path(&tree)]).exits(1).json();
    let found = &json["diagnostics"][0];
    assert_eq!((&found["file"], &found["line"]), (&json!("bottles/dev.md"), &json!(1)), "{json}");
    assert!(found["message"].to_string().contains("names no `image`"), "{json}");
}

#[test]
fn a_tree_that_is_not_there_is_an_error_with_a_way_out() {
    let cli = Cli::new();
    let missing = cli.home().join("nowhere");
    let missing = missing.to_str().unwrap();
    let ended = cli.run(["check", missing]).exits(1);
    assert_eq!(ended.stdout, "");
    let expected = format!(
        "error: there is no tree at {missing}\n  hint: `bottle init {missing}` writes a small one \
         to start from\n"
    );
    assert_eq!(ended.stderr, expected);
    let json = cli.run(["-o", "json", "plan", missing]).exits(1).json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["error"]["message"], format!("there is no tree at {missing}"));
    assert_eq!(json["diagnostics"], json!([]));
}

#[test]
fn settings_that_do_not_hold_yield_no_plan() {
    let tree = good();
    tree.write("bottle.yaml", "nam: x\n");
    for command in ["check", "plan", "apply"] {
        let ended = Cli::new().run(["-o", "json", command, path(&tree)]).exits(1);
        let json = ended.json();
        assert_eq!(json["diagnostics"][0]["file"], "bottle.yaml", "{command}");
        assert!(ended.stderr.contains("bottle.yaml:1:1"), "{command}: {}", ended.stderr);
    }
}

#[test]
fn the_tree_is_named_or_in_the_environment_or_at_home() {
    let tree = good();
    let mut cli = Cli::new();
    assert!(cli.run(["check"]).exits(1).stderr.contains(".bottle"));
    cli.env("BOTTLE_TREE", tree.path());
    cli.run(["check"]).exits(0);
    let other = good();
    let ended = cli.run(["--tree", path(&other), "check"]).exits(0);
    assert!(ended.stdout.contains(&other.owner));
    let ended = cli.run(["--tree", path(&other), "check", path(&tree)]).exits(1);
    assert!(ended.stderr.starts_with("error: two trees were named"), "{}", ended.stderr);
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let tree = broken();
    let cli = Cli::new();
    let plain = cli.run(["check", path(&tree)]).exits(1);
    assert!(!plain.stdout.contains('\u{1b}'));
    let coloured = cli.run(["--color", "always", "check", path(&tree)]).exits(1);
    assert!(coloured.stdout.contains('\u{1b}'));
    assert!(cli.run(["--color", "always", "check", "/nowhere"]).stderr.contains('\u{1b}'));
}

#[test]
fn init_writes_a_tree_that_holds_and_overwrites_nothing() {
    let cli = Cli::new();
    let tree = cli.home().join("new");
    let dir = tree.to_str().unwrap();
    let ended = cli.run(["init", dir]).exits(0);
    assert_eq!(ended.stdout.lines().count(), 4, "{}", ended.stdout);
    let ended = cli.run(["check", dir]).exits(0);
    assert!(ended.stdout.starts_with("ok: ") && ended.stdout.ends_with(", 1 agent\n"));
    std::fs::remove_file(tree.join("bottle.yaml")).unwrap();
    let ended = cli.run(["init", dir]).exits(1);
    assert!(ended.stderr.contains("exists; nothing was written"), "{}", ended.stderr);
    assert!(!tree.join("bottle.yaml").exists());
    // Without a name it is the tree that the other commands use.
    cli.run(["init"]).exits(0);
    cli.run(["check"]).exits(0);
}

#[test]
fn init_converts_an_older_layout() {
    let cli = Cli::new();
    let old = cli.home().join("claude-bottle.json");
    let content = json!({
        "bottles": { "dev": { "runtime": "runsc", "image": "node:22" } },
        "agents": { "ada": { "bottle": "dev", "prompt": "You are ada." } },
    });
    std::fs::write(&old, content.to_string()).unwrap();
    // Unconverted it is recognised, and the way out is told.
    assert!(cli.run(["check"]).exits(1).stderr.contains("bottle init --from"));
    let tree = cli.home().join(".bottle");
    let ended = cli.run(["init", "--from", old.to_str().unwrap()]).exits(0);
    assert!(
        ended.stderr.contains("not converted: bottles.dev.runtime: gVisor"),
        "{}",
        ended.stderr
    );
    let ada = std::fs::read_to_string(tree.join("agents/ada.md")).unwrap();
    assert_eq!(ada, "---\nbottle: \"dev\"\n---\n\nYou are ada.\n");
    cli.run(["check"]).exits(0);
    // A folder of the older layout is taken as it is.
    let other = cli.home().join("other");
    let from = tree.to_str().unwrap();
    cli.run(["init", "--from", from, other.to_str().unwrap()]).exits(0);
    assert_eq!(std::fs::read_to_string(other.join("agents/ada.md")).unwrap(), ada);
}

#[test]
fn schemas_are_schemas() {
    let cli = Cli::new();
    for (what, property) in [
        ("bottle", "image"),
        ("agent", "bottle"),
        ("tree", "network_pool"),
        ("plan", "changes"),
        ("report", "outcomes"),
    ] {
        let schema = cli.run(["schema", what]).exits(0).json();
        assert!(schema["$schema"].as_str().is_some_and(|s| s.contains("2020-12")), "{what}");
        assert!(schema["properties"][property].is_object(), "{what}: {schema}");
    }
    // A report is a plan with more to it.
    let report = cli.run(["schema", "report"]).exits(0).json();
    assert!(report["properties"]["changes"].is_object(), "{report}");
}

#[test]
fn every_command_has_a_manual_page() {
    let cli = Cli::new();
    let whole = cli.run(["man"]).exits(0).stdout;
    for command in
        ["init", "check", "plan", "apply", "status", "exec", "run", "attach", "logs", "down"]
    {
        assert!(whole.contains(&format!("bottle\\-{command}")), "{command}");
        let page = cli.run(["man", command]).exits(0).stdout;
        assert!(page.contains(&format!(".TH bottle-{command} 1")), "{command}: {page}");
    }
    cli.run(["man", "frobnicate"]).exits(1);
}

#[test]
fn shells_complete_agents() {
    let tree = good();
    let mut cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cli.run(["completions", shell]).exits(0).stdout;
        assert!(script.contains("BOTTLE_COMPLETE"), "{shell}: {script}");
    }
    cli.env("BOTTLE_COMPLETE", "bash").env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", "4");
    for command in ["exec", "run", "attach", "logs"] {
        let words = ["--", "bottle", "--tree", path(&tree), command, "a"];
        assert_eq!(cli.run(words).exits(0).stdout.trim(), "ada", "{command}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let cli = Cli::new();
    for args in [&["schema", "plan"][..], &["man"], &["completions", "bash"], &["--help"]] {
        let mut child = cli
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary that cargo built can be started");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("our own child can be waited for");
        assert_eq!(ended.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
    }
}

#[test]
fn the_state_folder_cannot_be_made() {
    let tree = good();
    let mut cli = Cli::new();
    cli.env("BOTTLE_STATE_DIR", "/proc/nowhere");
    let ended = cli.run(["apply", path(&tree), "--yes"]).exits(1);
    assert!(ended.stderr.contains("making the folder /proc/nowhere"), "{}", ended.stderr);
    assert!(ended.stderr.contains("caused by: "), "{}", ended.stderr);
}
