//! What is run once in a new machine.

use super::rig::{Rig, verdicts, wait_for};

fn error_of(done: &serde_json::Value) -> String {
    let outcomes = done["outcomes"].as_array().into_iter().flatten();
    outcomes.filter_map(|outcome| outcome["error"].as_str()).collect::<Vec<_>>().join("; ")
}

/// As root, in order, before the command, and once.
pub(super) fn a_setup_is_run_once(rig: &Rig) {
    rig.bottle(
        "env: {WORD: plain}\nsetup:\n  - echo \"$WORD\" >> /etc/ran; id -u >> /etc/ran\n  - [sh, -c, 'echo \"$0\" >> /etc/ran', \"two words\"]",
    );
    rig.agents(1);
    rig.tree.agent("b0", "dev", "command: [cat, /etc/ran]\nrestart: never", "hello");
    rig.apply(0);
    rig.converged();
    let ran = "plain\n0\ntwo words";
    assert_eq!(rig.inside("a0", "cat /etc/ran"), ran);
    let tree = rig.tree_path();
    wait_for("the output of the command", || {
        rig.cli.run(["--tree", &tree, "logs", "b0"]).stdout.trim() == ran
    });
    // Nothing of it again: not in place, and not at another start.
    rig.agent("a0", "You are another.");
    rig.apply(0);
    rig.cli.run(["--tree", &tree, "restart", "a0"]).exits(0);
    rig.converged();
    assert_eq!(rig.inside("a0", "cat /etc/ran"), ran);
    // Where it stands in the file says nothing.
    rig.bottle(
        "# moved\nenv: {WORD: plain}\nsetup:\n  - echo \"$WORD\" >> /etc/ran; id -u >> /etc/ran\n  - [sh, -c, 'echo \"$0\" >> /etc/ran', \"two words\"]",
    );
    rig.converged();
    // Another setup is another machine, with the work of the old one.
    rig.inside("a0", "echo mine > ~/mine");
    rig.bottle("env: {WORD: plain}\nsetup: [echo other >> /etc/ran]");
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["a0 replace", "b0 replace"], "{plan}");
    assert_eq!(plan["changes"][0]["fields"][0]["path"], "setup.01", "{plan}");
    rig.apply(0);
    rig.converged();
    assert_eq!(rig.inside("a0", "cat /etc/ran ~/mine"), "other\nmine");
}

/// The place, the code and the last words are told; the command does not start; what did not end is run again.
pub(super) fn a_setup_that_fails_is_told_and_run_again(rig: &Rig) {
    rig.bottle("setup:\n- echo first >> /etc/ran\n- test -e /etc/again || { touch /etc/again; echo the reason >&2; exit 7; }");
    rig.tree.agent("a0", "dev", "command: [sh, -c, 'echo it runs; sleep 1000']", "hello");
    let error = error_of(&rig.apply(3));
    let line = std::fs::read_to_string(rig.tree.join("bottles/dev.md")).unwrap();
    let line = line.lines().position(|line| line.contains("again")).unwrap() + 1;
    let told = format!(
        "bottles/dev.md:{line}: command 2 of `setup` ended with 7; its last lines: the reason"
    );
    assert!(error.contains(&told), "{error}");
    let tree = rig.tree_path();
    let status = rig.cli.run(["--tree", &tree, "status"]).stdout;
    let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.contains("waiting") && status.contains("ended with 7"), "{status}");
    assert!(!rig.cli.run(["--tree", &tree, "logs", "a0"]).stdout.contains("it runs"));
    let before = rig.inside("a0", "cat /etc/ran");
    assert_eq!(before, "first");
    // It is a new machine of which not all is known: the next run goes on with it.
    rig.apply(0);
    rig.converged();
    assert_eq!(rig.inside("a0", "cat /etc/ran"), "first\nfirst");
    wait_for("the command", || {
        rig.cli.run(["--tree", &tree, "logs", "a0"]).stdout.contains("it runs")
    });
    // Where another one fails in a replace, the old machine stays.
    rig.bottle("setup: [exit 3]");
    let error = error_of(&rig.apply(3));
    assert!(error.contains("command 1 of `setup` ended with 3"), "{error}");
    assert_eq!(rig.inside("a0", "cat /etc/ran"), "first\nfirst");
    // A program that is not there.
    rig.bottle("setup: [[no-such-program, now]]");
    let error = error_of(&rig.apply(3));
    assert!(error.contains("command 1 of `setup` ended with 127"), "{error}");
}
