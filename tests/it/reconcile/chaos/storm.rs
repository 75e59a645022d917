//! A storm of `git checkout` under `bottle watch`: the set of sandboxes does not change, so none may
//! be torn down or replaced, whatever half of a checkout a pass sees.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{full, rounds};
use crate::reconcile::rig::{Rig, wait_for};
use crate::reconcile::watch::Watch;

const AGENTS: usize = 200;

fn git(rig: &Rig, args: &[&str]) {
    let ended = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gc.auto=0"])
        .args(args)
        .current_dir(rig.tree.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", rig.cli.home())
        .output()
        .expect("git can be run");
    assert!(ended.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Each sandbox's machine, by what changes when it is made anew.
fn machines(rig: &Rig) -> BTreeMap<String, String> {
    let native = rig.memory().join("native");
    let mut machines = BTreeMap::new();
    for entry in std::fs::read_dir(native).unwrap() {
        let entry = entry.unwrap();
        let Ok(text) = std::fs::read_to_string(entry.path().join("machine.json")) else { continue };
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let name = entry.file_name().into_string().unwrap();
        machines.insert(name, record["id"].as_str().unwrap().to_owned());
    }
    machines
}

/// Removals that were begun, by the audit record and the one before it.
fn teardowns(rig: &Rig) -> usize {
    let read = |name: &str| std::fs::read_to_string(rig.memory().join(name)).unwrap_or_default();
    let all = read("audit.jsonl.1") + &read("audit.jsonl");
    all.lines().filter(|line| line.contains("teardown")).count()
}

pub(in crate::reconcile) fn a_storm_of_checkouts_tears_nothing_down(rig: &Rig) {
    let names: Vec<String> = (0..AGENTS).map(|n| format!("a{n}")).collect();
    // Every file of the tree differs between the branches, and no machine does.
    let write = |branch: &str| {
        rig.bottle(&format!("# as it is on {branch}\n"));
        rig.tree.skill("greet", "SKILL.md", &format!("{branch}\n"));
        for name in &names {
            rig.agent(name, &format!("You are {name}, on {branch}."));
        }
    };
    git(rig, &["init", "-q", "-b", "one"]);
    write("one");
    git(rig, &["add", "-A"]);
    git(rig, &["commit", "-qm", "one"]);
    rig.apply(0);
    git(rig, &["checkout", "-qb", "two"]);
    write("two");
    git(rig, &["commit", "-qam", "two"]);
    // What a change of everything takes where nothing else goes on.
    let begun = Instant::now();
    rig.apply(0);
    let alone = begun.elapsed();
    let before = machines(rig);
    assert_eq!(before.len(), AGENTS);

    let mut watch = Watch::start(rig);
    let checkouts = rounds(20);
    for round in 0..checkouts {
        git(rig, &["checkout", "-q", if round % 2 == 0 { "one" } else { "two" }]);
        // From at once to longer than a burst of events is waited for.
        std::thread::sleep(Duration::from_millis((round as u64 * 7919) % 400));
    }
    git(rig, &["checkout", "-q", "two"]);
    git(rig, &["checkout", "-q", "one"]);
    let quiet = Instant::now();
    wait_for("the storm to have passed", || {
        Instant::now() > quiet + Duration::from_millis(500) && rig.plan().code == Some(0)
    });
    let took = quiet.elapsed();
    println!("{checkouts} checkouts, converged after {took:?}; alone a change takes {alone:?}");
    assert_eq!(teardowns(rig), 0, "something was torn down");
    assert_eq!(machines(rig), before, "a machine was made anew");
    let bound = Duration::from_secs(5) + if full() { Duration::ZERO } else { alone * 3 };
    assert!(took <= bound, "converged after {took:?}, and not within {bound:?}");
    assert_eq!(watch.stop(), Some(0));
    rig.converged();
}
