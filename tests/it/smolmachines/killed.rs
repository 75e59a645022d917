//! `kill -9` of apply at ten random moments on real microVMs, each followed by one apply that
//! converges and leaves nothing over.

use std::hash::{BuildHasher, RandomState};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::rig::Rig;
use crate::contract::docker::images;

/// What an apply is killed in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Comes,
    Prompt,
    Memory,
    Goes,
}

/// So that every one of them is met in the state in which it does most.
const ROUNDS: [Change; 10] = [
    Change::Prompt,
    Change::Memory,
    Change::Goes,
    Change::Comes,
    Change::Prompt,
    Change::Memory,
    Change::Memory,
    Change::Goes,
    Change::Comes,
    Change::Goes,
];

fn make(rig: &Rig, change: Change, round: usize) {
    match change {
        Change::Comes | Change::Prompt => {
            rig.tree.agent("ada", "kept", "", &format!("You are ada, {round}."));
        }
        Change::Memory => {
            let image = format!("image: {}", images().join("busybox.tar").display());
            rig.bottle("kept", &format!("{}M", 256 + round), &image);
        }
        Change::Goes => drop(rig.tree.remove("agents/ada.md")),
    }
}

#[test]
fn ten_times_and_converged_each_time() {
    let Some(rig) = Rig::new("apply killed on microVMs") else { return };
    // One that nobody touches, beside the one that changes.
    rig.bottle("dev", "256M", "");
    rig.tree.agent("bob", "dev", "", "You are bob.");
    make(&rig, Change::Memory, 0);
    make(&rig, Change::Comes, 0);
    let apply = ["apply", "--yes", "--allow-teardown", "all", "--jobs", "1"];
    rig.run(&apply).exits(0);
    let bob = rig.machine("bob");
    // How long each kind of change takes, measured as they come; the first of a kind is a guess.
    let mut takes = std::collections::HashMap::new();
    let audit = rig.cli.state().join("trees").join(&rig.tree.owner).join("audit.jsonl");
    let open = |since: usize| {
        let record = std::fs::read_to_string(&audit).unwrap();
        record.lines().skip(since).fold(0_i32, |open, line| {
            open + if line.contains(r#""event":"started""#) { 1 } else { -1 }
        })
    };
    let lines = || std::fs::read_to_string(&audit).unwrap().lines().count();
    let mut inside = 0;
    for (round, change) in ROUNDS.into_iter().enumerate() {
        make(&rig, change, round + 1);
        let guess = takes.get(&(change as u8)).copied().unwrap_or(Duration::from_secs(6));
        let moment = Duration::from_secs_f64(guess.as_secs_f64() * random());
        let before = lines();
        let mut command = rig.cli.command(rig.args(&apply));
        let mut applier = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Some die while they still look; of the others the moment counts from their first step on.
        while round % 4 != 0 && lines() == before && applier.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let begun = Instant::now();
        while begun.elapsed() < moment && applier.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        applier.kill().unwrap();
        applier.wait().unwrap();
        let within = open(before);
        inside += u32::from(within > 0);
        let said = format!("round {round}, {change:?}, after {moment:?}, {within} steps open");
        crate::support::say(&format!("killed: {said}"));
        let begun = Instant::now();
        rig.run(&apply).exits(0);
        takes.insert(change as u8, begun.elapsed());
        rig.run(&["plan"]).exits(0);
        let there = if change == Change::Goes { 1 } else { 2 };
        let machines = rig.machines();
        assert_eq!(machines.len(), there, "{said}: {machines:#?}");
        assert!(machines.iter().all(|row| row["state"] == "running"), "{said}: {machines:#?}");
        assert_eq!(rig.machine("bob")["pid"], bob["pid"], "{said}");
        if change != Change::Goes {
            let prompt = rig.say("ada", "cat /etc/bottle/prompt.md");
            assert!(prompt.starts_with("You are ada, "), "{said}: {prompt}");
        }
        rig.nothing_is_left_over();
    }
    assert!(inside >= 3, "only {inside} of {} kills were inside a step", ROUNDS.len());
    rig.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert!(rig.machines().is_empty());
    rig.nothing_is_left_over();
}

/// Anything from 0 to 1.
fn random() -> f64 {
    let random = RandomState::new().hash_one(std::process::id());
    f64::from(u32::try_from(random >> 32).unwrap()) / f64::from(u32::MAX)
}
