//! A replace makes the new machine beside the old one: where it fails, the old one runs on, or again.

use serde_json::Value;

use super::rig::{Rig, verdicts, wait_for};

const COMMAND: &str = "command: [sh, -c, 'echo x >> $HOME/runs; exec sleep 100000']";

/// What identifies the machine of `ada`.
fn id(rig: &Rig) -> String {
    if rig.backend == "docker" {
        return rig.container("ada");
    }
    let folder = rig.memory().join("native");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let machines = names.filter(|name| !name.to_string_lossy().starts_with('.')).count();
    assert_eq!(machines, 1, "in {}", folder.display());
    let record = std::fs::read_to_string(folder.join("ada/machine.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

fn at_work(rig: &Rig) -> String {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    says(rig, "");
    rig.tree.agent("ada", "dev", &format!("skills: [greet]\n{COMMAND}"), "You are ada.");
    rig.apply(0);
    wait_for("the command", || rig.exec("ada", "test -s $HOME/runs").code == Some(0));
    rig.inside(
        "ada",
        "echo mine > /workspace/a; echo mine > $HOME/mine; echo mine > /var/tmp/mine",
    );
    id(rig)
}

fn says(rig: &Rig, more: &str) {
    let folder = rig.cli.home().join("site");
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n{more}", folder.display()));
}

fn runs(rig: &Rig) -> usize {
    rig.inside("ada", "wc -l < $HOME/runs").trim().parse().unwrap()
}

/// The old machine is there, with all that is in it, and runs its command.
fn runs_on(rig: &Rig, old: &str) {
    assert_eq!(id(rig), old);
    assert_eq!(rig.inside("ada", "cat /workspace/a $HOME/mine /var/tmp/mine"), "mine\nmine\nmine");
    wait_for("its command", || rig.inside("ada", "cat /run/bottle/main") == "running");
}

/// Applies what cannot be; returns what the steps came to, by action.
fn fails(rig: &Rig) -> Vec<(String, String)> {
    let ended = rig.apply(3);
    assert_eq!(verdicts(&ended), ["ada replace"], "{ended}");
    let outcomes = ended["outcomes"].as_array().unwrap();
    let of = |outcome: &Value| {
        let step = &ended["steps"][outcome["step"].as_u64().unwrap() as usize];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        (word(&step["action"]), word(&outcome["outcome"]))
    };
    outcomes.iter().map(of).collect()
}

fn has(outcomes: &[(String, String)], action: &str, outcome: &str) -> bool {
    outcomes.iter().any(|(a, o)| (a.as_str(), o.as_str()) == (action, outcome))
}

/// What is put into the new machine cannot be: it goes, and the old one runs again. Again and again, until the
/// tree says something else.
pub(super) fn one_that_cannot_be_provisioned_leaves_the_old_machine(rig: &Rig) {
    let old = at_work(rig);
    assert_eq!(runs(rig), 1);
    // Nobody makes a folder there.
    says(rig, "env:\n  HOME: /proc/1\n");
    for round in 2..4 {
        let outcomes = fails(rig);
        assert!(has(&outcomes, "set_aside", "done"), "{outcomes:?}");
        assert!(has(&outcomes, "bring_back", "done"), "{outcomes:?}");
        runs_on(rig, &old);
        wait_for("its command", || runs(rig) == round);
    }
    let tree = rig.tree_path();
    let told = rig.cli.run(["apply", "--yes", &tree]).exits(3);
    assert!(told.stdout.contains("the old one runs again"), "{}", told.stdout);
    // Taken back, it is as it was.
    says(rig, "");
    rig.converged();
    runs_on(rig, &old);
    // What can be made takes over, with the work and not with the rest.
    says(rig, "  target: /work\n");
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["ada replace"]);
    assert_ne!(id(rig), old);
    let look = "cat /work/a $HOME/mine; ls /var/tmp/mine 2>/dev/null; echo end";
    assert_eq!(rig.inside("ada", look), "mine\nmine\nend");
    let actions: Vec<&str> =
        done["steps"].as_array().unwrap().iter().filter_map(|s| s["action"].as_str()).collect();
    let at = |action: &str| actions.iter().position(|known| *known == action).unwrap();
    let order = ["prepare", "keep", "set_aside", "create", "teardown"].map(at);
    assert!(order.is_sorted(), "{actions:?}");
    rig.converged();
}

/// Natively nothing is copied: the folders themselves come to lie in the new machine, or in the old one again.
pub(super) fn what_is_kept_is_moved_where_it_can_be(rig: &Rig) {
    if rig.backend != "native" {
        return;
    }
    let old = at_work(rig);
    rig.inside(
        "ada",
        "chmod 777 /workspace; cd; mkdir -m 750 d; echo deep > d/f; touch -d 2001-02-03 d d/f; ln -s /gone l",
    );
    let look =
        "cd; stat -c '%n %i %u %a %Y' /workspace /workspace/a . mine d d/f; stat -c %i l; cat d/f";
    let before = rig.inside("ada", look);
    let shown = rig.cli.home().join("shown");
    std::fs::create_dir(&shown).unwrap();
    let paths = format!("host_paths: [{}]\n", shown.display());
    says(rig, &paths);
    assert_eq!(verdicts(&rig.apply(0)), ["ada replace"]);
    let new = id(rig);
    assert_ne!(new, old);
    assert_eq!(rig.inside("ada", look), before);
    assert_eq!(rig.inside("ada", "ls /var/tmp/mine 2>/dev/null; echo end"), "end");
    wait_for("its command", || runs(rig) == 2);
    assert!(!rig.memory().join("snapshots/ada").exists(), "nothing was copied");
    rig.inside("ada", "echo mine > /var/tmp/mine");
    rig.converged();
    // The one that follows cannot be made: all of it is where it was.
    says(rig, &format!("{paths}setup: [[sh, -c, 'echo half > /workspace/half; exit 3']]\n"));
    let outcomes = fails(rig);
    assert!(has(&outcomes, "provision", "failed"), "{outcomes:?}");
    assert!(has(&outcomes, "bring_back", "done"), "{outcomes:?}");
    runs_on(rig, &new);
    assert_eq!(rig.inside("ada", look).lines().nth(1), before.lines().nth(1));
    assert_eq!(
        rig.inside("ada", "cat /workspace/half"),
        "half",
        "what was written meanwhile came back"
    );
    says(rig, &paths);
    rig.converged();
    runs_on(rig, &new);
}

/// What can be looked at before is: nothing of the old machine is touched.
pub(super) fn one_whose_image_cannot_be_had_touches_nothing(rig: &Rig) {
    if rig.backend != "docker" {
        return;
    }
    let old = at_work(rig);
    rig.tree.bottle("dev", "backend: docker\nimage: docker:bottle-test-nowhere:1\n");
    let outcomes = fails(rig);
    assert!(has(&outcomes, "prepare", "failed"), "{outcomes:?}");
    assert!(has(&outcomes, "set_aside", "skipped"), "{outcomes:?}");
    assert!(!outcomes.iter().any(|(action, _)| action == "bring_back"), "{outcomes:?}");
    runs_on(rig, &old);
    assert_eq!(runs(rig), 1, "its command was not stopped");
    says(rig, "");
    rig.converged();
}
