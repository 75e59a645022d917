//! What people type by habit, and what they are told then.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::process::{Command, Stdio};

use serde_json::Value;

use super::working::Rig;
use crate::support::{self, Cli, TempTree};

/// What `check` says of a tree with this bottle and this agent.
fn said(bottle: &str, agent: &str) -> String {
    let tree = TempTree::new("answers");
    tree.bottle("dev", bottle).agent("ada", "dev", agent, "You are ada.");
    let text = Cli::new().run(["check", tree.path().to_str().unwrap()]).stdout;
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_key_that_another_tool_has_or_that_stands_elsewhere_is_answered() {
    for (bottle, answer) in [
        ("ports: [8080:80]", "opens no port of this machine"),
        ("volumes: [a:b]", "use `workspace` for the folder to work on"),
        ("memory: 1G", "belongs under `resources`"),
        ("allowlist: [a.example]", "belongs under `egress`"),
        ("resources:\n  image: x", "write it further out"),
        ("workspace:\n  path: /tmp/x\n  memory: 1G", "write it below `resources`"),
        ("command: [sleep, \"5\"]", "write it in a file of agents/"),
        ("snapshots: off", "write it in bottle.yaml, for the whole tree"),
        ("egress:\n  allowlist:\n    - *.example.org", "quote it: \"*.example.org\""),
        ("backend: native\nimage: node:22", "has to be fetched"),
        ("healthcheck: {test: x}", "`bottle status` says whether `command` runs"),
    ] {
        let said = said(bottle, "");
        assert!(said.contains(answer), "{bottle}: {said}");
        let word = bottle.split(':').next().unwrap();
        assert!(!said.contains("allowed:") || word == "resources", "{bottle}: {said}");
    }
    for (agent, answer) in [
        ("command: \"sleep 5\"", "write [sleep, \"5\"]"),
        ("image: x", "write it in a file of bottles/"),
        ("memory: 2G", "is a key of Claude Code, and limits nothing"),
    ] {
        assert!(said("image: host", agent).contains(answer), "{agent}");
    }
    // Claude Code's own word there is no amount.
    assert!(!said("image: host", "memory: project").contains("limits nothing"));
    // One mistake, one finding.
    let pattern = said("egress:\n  allowlist:\n    - *.example.org", "");
    assert!(pattern.contains("1 error") && pattern.contains("holds ada"), "{pattern}");
}

#[test]
fn an_agent_that_is_named_in_the_place_of_a_tree_is_seen() {
    let tree = TempTree::new("named");
    tree.bottle("dev", "image: host").agent("ada", "dev", "", "You are ada.");
    let mut cli = Cli::new();
    cli.env("BOTTLE_TREE", tree.path());
    for command in ["status", "plan", "check", "apply", "watch", "down"] {
        let told = cli.run([command, "ada"]).exits(1).stderr;
        assert!(told.contains("ada is an agent of"), "{command}: {told}");
        assert!(told.contains("`--only ada` names it"), "{command}: {told}");
        assert!(!told.contains("bottle init"), "{command}: {told}");
    }
    // Nothing of the tree that is not there is written down.
    assert!(!cli.state().join("trees").exists());
    let told = cli.run(["status", "bob"]).exits(1).stderr;
    assert!(told.contains("`bottle init"), "{told}");
    let told = cli.run(["status", "--only", "bob"]).exits(1).stderr;
    assert!(told.contains("there are: ada"), "{told}");
}

#[test]
fn help_is_a_command_as_well() {
    let cli = Cli::new();
    let said = cli.run(["help", "exec"]).exits(0).stdout;
    assert_eq!(said, cli.run(["exec", "--help"]).exits(0).stdout);
    assert!(cli.run(["help"]).exits(0).stdout.contains("Commands:"));
    assert!(cli.run(["exec", "ada", "sh"]).exits(2).stderr.contains("`bottle exec ada -- sh`"));
}

#[test]
fn a_line_of_an_env_file_that_is_no_value_is_refused_before_it_is_needed() {
    let tree = TempTree::new("lines");
    tree.bottle("dev", "image: host").agent("ada", "dev", "", "You are ada.");
    let cli = Cli::new();
    let file = cli.home().join("env");
    std::fs::write(&file, "A=1\nAPI_KEY: hunter2\n").unwrap();
    let (tree, file) = (tree.path().to_str().unwrap(), file.to_str().unwrap());
    for command in [&["check"][..], &["plan"], &["apply", "--yes"]] {
        let told = cli.run([command, &[tree, "--env-file", file]].concat()).exits(1).stderr;
        assert!(told.contains("line 2: expected NAME=value"), "{command:?}: {told}");
        assert!(!told.contains("hunter2"), "{command:?}: {told}");
    }
    std::fs::write(file, "A=1\n").unwrap();
    cli.run(["check", tree, "--env-file", file]).exits(0);
}

/// The reason for which a plan holds a sandbox.
fn held(plan: &Value) -> &str {
    assert_eq!(plan["summary"]["hold"], 1, "{plan}");
    assert_eq!(plan["changes"][0]["reason"]["kind"], "impossible", "{plan}");
    plan["changes"][0]["reason"]["why"].as_str().unwrap()
}

#[test]
fn a_plan_says_where_a_setting_forbids_sandboxes() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let bottle = rig.cli.command(["--tree", rig.path(), "-o", "json", "plan"]);
    let script = "echo 0 >/proc/sys/user/max_user_namespaces || exit 99; exec \"$@\"";
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(bottle.get_program());
    shell.args(bottle.get_args()).env_clear().stdin(Stdio::null());
    shell.envs(bottle.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let Ok(ended) = shell.output() else {
        return support::left_out("a setting that forbids sandboxes", "there is no unshare");
    };
    if ended.status.code() == Some(99) {
        return support::left_out("a setting that forbids sandboxes", "/proc/sys is read-only");
    }
    assert_eq!(ended.status.code(), Some(3), "{}", String::from_utf8_lossy(&ended.stderr));
    let plan: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(held(&plan).contains("user.max_user_namespaces is 0"), "{plan}");
}

#[test]
fn a_plan_says_where_no_sidecar_can_be_made() {
    if !support::docker("cli::answers::a_plan_says_where_no_sidecar_can_be_made") {
        return;
    }
    let tree = TempTree::new("linked");
    tree.bottle(
        "dev",
        "backend: docker\nimage: bottle-test-busybox:1\negress: {allowlist: [a.example]}",
    );
    tree.agent("ada", "dev", "", "You are ada.");
    let mut cli = Cli::new();
    // Linked to libraries, as what `cargo build` makes of bottle.
    cli.env("BOTTLE_SIDECAR_PROGRAM", "/bin/sh");
    let path = tree.path().to_str().unwrap();
    let plan = cli.run(["-o", "json", "plan", path]).exits(3).json();
    let why = held(&plan);
    for part in ["its sidecar cannot be made", "linked to libraries", "BOTTLE_SIDECAR_PROGRAM"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(plan["steps"], Value::Array(Vec::new()));
    cli.run(["apply", path, "--yes"]).exits(3);
    // A bottle that grants nothing needs none.
    tree.bottle("dev", "backend: docker\nimage: bottle-test-busybox:1");
    cli.run(["plan", path]).exits(2);
}

#[test]
fn a_state_folder_on_which_no_sandbox_can_be_made_is_named() {
    if !rustix::process::geteuid().is_root() {
        return support::left_out("a state folder on an overlay", "only root mounts one");
    }
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let stage = rig.cli.home().join("stage");
    let script = "mkdir \"$1\" && mount -t tmpfs none \"$1\" && cd \"$1\" && mkdir l u w m &&
        mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m || exit 99
        stage=$1; shift; export BOTTLE_STATE_DIR=$stage/m/state
        \"$@\" apply --yes; code=$?
        \"$@\" doctor; \"$@\" down --yes >/dev/null; exit $code";
    let bottle = rig.cli.command(["--tree", rig.path()]);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", script, "sh"]).arg(&stage).arg(bottle.get_program());
    shell.args(bottle.get_args()).env_clear().stdin(Stdio::null());
    shell.envs(bottle.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = shell.output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_ne!(ended.status.code(), Some(99), "{said}");
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("the state folder lies on overlay"), "{said}");
    assert!(said.contains("on overlay, where no native sandbox can be made"), "{said}");
}
