//! What is in a sandbox that goes is looked at before, and said in the plan.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::copies::{COMMITS, git, repository};
use super::rig::{Rig, wait_for};

fn work(document: &Value, name: &str) -> Value {
    let mut changes = document["changes"].as_array().unwrap().iter();
    let machine = changes.find(|c| c["sandbox"] == name && c["resource"] == "machine").unwrap();
    assert!(machine.as_object().unwrap().contains_key("work"), "{machine}");
    machine["work"].clone()
}

fn text(rig: &Rig) -> String {
    let plan = rig.cli.run(["plan", &rig.tree_path()]).exits(2).stdout;
    plan.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A folder that is no repository, in a machine that may have no git.
pub(super) fn what_goes_is_looked_at(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    std::fs::write(folder.join("b"), "two\n").unwrap();
    let workspace = format!("workspace:\n  path: {}\n", folder.display());
    rig.bottle(&workspace);
    rig.agents(2);
    // What is older than a second is no work of an agent's that is copied within it.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    rig.apply(0);
    // A plan that removes nothing asks nobody.
    rig.agent("a1", "You are another.");
    let plan = rig.plan().exits(2).json();
    assert!(!plan.to_string().contains("\"work\""), "{plan}");
    rig.apply(0);
    rig.inside("a0", "echo changed > /workspace/a; echo 12345 > /workspace/new");
    rig.tree.remove("agents/a0.md");
    let plan = rig.plan().exits(2).json();
    let found = json!({ "changed": 2, "untracked": 0, "unpushed": 0, "stashes": 0, "running": false, "bytes": 14 });
    assert_eq!(work(&plan, "a0"), found);
    assert_eq!(plan["changes"].to_string().matches("\"work\"").count(), 1, "only of one that goes");
    let says = text(rig);
    assert!(says.contains("has 2 files changed (14 B)"), "{says}");
    // A replace, and something that runs.
    rig.agent("a0", "You are a0.");
    rig.bottle(&format!("{workspace}user: root\n"));
    rig.inside("a1", "(sleep 10000 >/dev/null 2>&1 &)");
    let plan = rig.plan().exits(2).json();
    assert_eq!(work(&plan, "a0"), found);
    let none = json!({ "changed": 0, "untracked": 0, "unpushed": 0, "stashes": 0, "running": true, "bytes": 0 });
    assert_eq!(work(&plan, "a1"), none);
    let says = text(rig);
    assert!(says.contains("has no changed files in its workspace; a program runs"), "{says}");

    // What cannot be looked at is not nothing, and goes all the same.
    rig.crash("a0");
    rig.tree.remove("agents/a0.md");
    let plan = rig.plan().exits(2).json();
    assert_eq!(work(&plan, "a0"), Value::Null);
    let says = text(rig);
    assert!(says.contains("what it has is not known (below)"), "{says}");
    assert!(says.contains("a0: what is in it could not be looked at: it does not run"), "{says}");
    let done = rig.apply_with(&["--allow-teardown", "all"]).exits(0).json();
    assert_eq!(work(&done, "a0"), Value::Null);
    rig.converged();
}

/// A repository, by the guest's git.
pub(super) fn a_repository_that_goes_is_counted(rig: &Rig) {
    let folder: PathBuf = repository(rig);
    git(&folder, &["commit", "-q", "--allow-empty", "-m", "after the copy"]);
    let script = format!(
        "{COMMITS} && echo 1 > c1 && git add c1 && git commit -qm c1 && git checkout -qb side && echo 2 > c2 && \
         git add c2 && git commit -qm c2 && echo x >> a && git stash -q && echo dirty >> a && echo new > n1 && \
         : > \"$(printf 'n\\n2')\" && echo c1 > .gitignore && git add .gitignore"
    );
    rig.inside("a0", &script);
    rig.tree.remove("agents/a0.md");
    rig.agent("a9", "You are a9.");
    let plan = rig.plan().exits(2).json();
    let found = json!({ "changed": 2, "untracked": 2, "unpushed": 2, "stashes": 1, "running": false, "bytes": 14 });
    assert_eq!(work(&plan, "a0"), found, "{plan}");
    let says = text(rig);
    let line = "has 2 files changed, 2 untracked, 2 commits not pushed, 1 stash (14 B)";
    assert!(says.contains(line), "{says}");
    // What `sync` has brought is not lost: the operator's repository has it.
    rig.sync(&[]).exits(0);
    let found = work(&rig.plan().exits(2).json(), "a0");
    assert_eq!((&found["unpushed"], &found["stashes"]), (&json!(0), &json!(1)), "{found}");

    // What a guest plants in its repository runs nowhere, and one that hangs is given up.
    let planted = "cd /workspace && printf '#!/bin/sh\\ntouch /tmp/ran\\n' > /tmp/hook && chmod +x /tmp/hook && \
                   git config core.fsmonitor /tmp/hook && git config core.hooksPath /tmp";
    rig.inside("a0", planted);
    assert_eq!(work(&rig.plan().exits(2).json(), "a0"), found);
    assert_eq!(rig.exec("a0", "test -e /tmp/ran").code, Some(1));
    rig.inside("a0", "cd /workspace && rm .git/HEAD && mkfifo .git/HEAD");
    let begun = std::time::Instant::now();
    let plan = rig.plan().exits(2).json();
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    let told = plan["changes"].to_string();
    // git may take it for no repository, or wait.
    let known = work(&plan, "a0");
    assert!(known.is_object() || told.contains("it gave no answer in 5 s"), "{told}");
}

/// Of a sandbox without a copy of a workspace there is only what runs in it.
pub(super) fn what_runs_is_seen_beside_no_workspace(rig: &Rig) {
    rig.bottle("workspace: { mode: none }\n");
    rig.agents(1);
    rig.tree.agent("busy", "dev", "", "You are busy.");
    rig.tree.agent(
        "job",
        "dev",
        "command: [sh, -c, \"touch /tmp/on; sleep 10000; exit\"]",
        "You are a job.",
    );
    rig.apply(0);
    rig.inside("busy", "(sleep 10000 >/dev/null 2>&1 &)");
    wait_for("the command", || rig.exec("job", "test -e /tmp/on").code == Some(0));
    for name in ["a0", "busy", "job"] {
        rig.tree.remove(&format!("agents/{name}.md"));
    }
    rig.tree.agent("other", "dev", "", "You are another.");
    let plan = rig.plan().exits(2).json();
    for (name, running) in [("a0", false), ("busy", true), ("job", true)] {
        let found = work(&plan, name);
        assert_eq!(
            (&found["running"], &found["changed"]),
            (&json!(running), &json!(0)),
            "{name}: {found}"
        );
    }
}
