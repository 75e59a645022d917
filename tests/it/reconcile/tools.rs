//! Programs of the operator's `PATH` in native sandboxes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::rig::{Rig, verdicts, wait_for};

/// A version of a program, and of what runs it, as a version manager keeps them.
fn version(rig: &Rig, version: &str) -> PathBuf {
    let prefix = rig.cli.home().join(".nvm/versions/node").join(version);
    let package = prefix.join("lib/node_modules/agent");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::create_dir_all(&package).unwrap();
    let runs = "#!/bin/sh\nfile=$1\nshift\n. \"$(readlink -f \"$file\")\"\n".to_owned();
    let agent = format!(
        "#!/usr/bin/env node\necho agent {version} \"$@\" \"$(cat \"${{file%/*}}/part\" 2>&1 || cat {}/part)\"\n",
        package.display()
    );
    for (path, text) in [(prefix.join("bin/node"), runs), (package.join("cli.js"), agent)] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(package.join("part"), "whole\n").unwrap();
    symlink("../lib/node_modules/agent/cli.js", prefix.join("bin/agent")).unwrap();
    prefix
}

fn path_with(prefix: &std::path::Path) -> String {
    let rest = std::env::var("PATH").unwrap_or_default();
    format!("{}:{rest}", prefix.join("bin").display())
}

pub(super) fn tools_of_the_operator_run_inside(rig: &mut Rig) {
    let first = version(rig, "v1");
    rig.cli.env("PATH", path_with(&first));
    fs::write(rig.cli.home().join(".nvm/secret"), "not yours").unwrap();
    rig.bottle("tools: [agent, node]");
    rig.tree.agent("a0", "dev", "run: [agent, now]", "hello");
    rig.tree.agent("a1", "dev", "command: [agent, at-once]\nrestart: never", "hello");
    rig.apply(0);
    rig.converged();
    let tree = rig.tree_path();
    let run = |rig: &Rig| rig.cli.run(["--tree", &tree, "run", "a0"]).exits(0).stdout;
    assert!(run(rig).starts_with("agent v1 now"), "{}", run(rig));
    assert!(run(rig).contains("whole"), "{}", run(rig));
    assert_eq!(rig.inside("a0", "command -v agent"), "/etc/bottle/tools/agent");
    wait_for("the command's output", || {
        rig.cli.run(["--tree", &tree, "logs", "a1"]).stdout.contains("agent v1 at-once")
    });
    // What lies beside it is not shown, and nothing of it can be changed.
    let home = rig.cli.home().display().to_string();
    let seen =
        rig.inside("a0", &format!("ls -A {home}/.nvm {home}; cat {home}/.nvm/secret 2>&1 || true"));
    assert!(!seen.contains("not yours") && !seen.contains("secret\n"), "{seen}");
    let shown = first.display();
    let changes = format!(
        "touch {shown}/x 2>&1; echo x > /etc/bottle/tools/agent; rm /etc/bottle/tools/node; true"
    );
    rig.inside("a0", &changes);
    assert!(!first.join("x").exists());
    assert!(run(rig).starts_with("agent v1"));

    // A new version moves it: in place, and shown at the next start.
    let second = version(rig, "v2");
    rig.cli.env("PATH", path_with(&second));
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["a0 reprovision", "a1 reprovision"], "{plan}");
    assert!(plan.to_string().contains("agent has moved"), "{plan}");
    assert!(plan.to_string().contains("\"hot\""), "{plan}");
    rig.inside("a0", "echo mine > /tmp/mine");
    rig.apply(0);
    rig.converged();
    assert!(run(rig).starts_with("agent v1"), "what runs goes on");
    rig.cli.run(["--tree", &tree, "restart", "a0"]).exits(0);
    assert!(run(rig).starts_with("agent v2"), "{}", run(rig));
    rig.converged();

    // Where what is shown is gone, another machine is made, with the work.
    rig.inside("a0", "echo mine > ~/mine");
    let third = version(rig, "v3");
    fs::remove_dir_all(&second).unwrap();
    rig.cli.env("PATH", path_with(&third));
    let plan = rig.plan().exits(2).json();
    assert!(verdicts(&plan).contains(&"a0 replace".to_owned()), "{plan}");
    assert!(plan.to_string().contains("which is gone"), "{plan}");
    rig.apply(0);
    rig.converged();
    assert!(run(rig).starts_with("agent v3"), "{}", run(rig));
    assert_eq!(rig.inside("a0", "cat ~/mine"), "mine");

    // Inside, the home folder may be at the same path: it is the user's, and so is what leads to a tool.
    rig.bottle(&format!("tools: [agent, node]\nenv: {{HOME: {home}}}"));
    rig.apply(0);
    assert!(run(rig).starts_with("agent v3"), "{}", run(rig));
    rig.inside("a0", "cd && mkdir .mine .nvm/mine && touch x .nvm/versions/node/y");
    rig.apply(0);
    rig.bottle("tools: [agent, node]");
    rig.apply(0);

    // A program that is not found holds, and says so; so does one whose interpreter is not named.
    rig.bottle("tools: [agent]");
    let held = rig.plan().json();
    assert!(
        held.to_string().contains("tools: [agent, node]") || held.to_string().contains("is run by"),
        "{held}"
    );
    rig.bottle("tools: [agent, node, no-such-program]");
    let held = rig.plan().json();
    assert_eq!(verdicts(&held), ["a0 hold", "a1 hold"], "{held}");
    rig.bottle("tools: [agent, node]");
    rig.converged();
}

pub(super) fn a_program_that_is_not_inside_says_where_it_was_looked_for(rig: &Rig) {
    rig.tree.agent("a0", "dev", "run: [no-such-program]", "hello");
    rig.tree.agent("a1", "dev", "command: [no-such-program]\nrestart: never", "hello");
    rig.apply(0);
    let tree = rig.tree_path();
    let ended = rig.cli.run(["--tree", &tree, "run", "a0"]).exits(127);
    let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("may not have `no-such-program`, which was looked for on PATH, `/"),
        "{said}"
    );
    let brings = match rig.backend {
        "native" => "`tools: [no-such-program]` in bottles/dev.md",
        _ => "`image: {build: ./FOLDER}` in bottles/dev.md",
    };
    assert!(said.contains(brings), "{said}");
    wait_for("the status of the command", || {
        let shown = rig.cli.run(["--tree", &tree, "status"]).stdout;
        let status = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        status.contains("failed (127)") && status.contains(brings)
    });
}
