//! `kill -9` of apply at many moments, each followed by one apply that converges.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::chaos::rounds;
use super::rig::{Rig, docker};

/// One of so many is before the first step; the others are spread over the steps.
const EARLY: u32 = 8;

/// A change of everything at once: a prompt, a skill, limits, an agent that goes and one that comes.
fn change(rig: &Rig, round: u32) {
    rig.bottle_with(&format!("memory: {}M", 128 + round % 7), "");
    rig.agent("a0", &format!("Round {round}."));
    rig.tree.skill("greet", "notes.txt", &format!("{round}\n"));
    for (name, there) in [("odd", round % 2 == 1), ("even", round.is_multiple_of(2))] {
        if there {
            rig.tree.agent(name, "other", "", "You come and go.");
        } else if rig.tree.join(&format!("agents/{name}.md")).exists() {
            rig.tree.remove(&format!("agents/{name}.md"));
        }
    }
}

/// X19: on each backend.
pub(super) fn killed_at_fifty_moments_and_converged_each_time(rig: &Rig) {
    let moments = u32::try_from(rounds(50)).expect("so many kills take years");
    let early = moments / EARLY;
    let image = rig.image();
    rig.tree.bottle("other", &format!("backend: {}\nimage: {image}", rig.backend));
    rig.agents(2);
    rig.tree.agent("stays", "other", "skills: [greet]", "You stay.");
    change(rig, 0);
    rig.apply(0);
    rig.inside("stays", "echo mine > /var/tmp/mine");
    change(rig, 1);
    let audit = rig.memory().join("audit.jsonl");
    let lines = || std::fs::read_to_string(&audit).unwrap().lines().count();
    let start = || rig.applier().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // One whole run, measured: what comes before its first step, and how much it records.
    let before = lines();
    let begun = Instant::now();
    let mut applier = start();
    while lines() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    let loading = begun.elapsed();
    assert!(applier.wait().unwrap().success());
    let recorded = lines() - before;
    let mut inside = 0;
    for moment in 0..moments {
        change(rig, moment + 2);
        let before = lines();
        let mut applier = start();
        if moment < early {
            std::thread::sleep(loading * moment / early);
        } else {
            // The record of begun and ended steps says where the run is, however fast it is.
            let so_far = recorded * (moment - early) as usize / (moments - early) as usize;
            while lines() <= before + so_far && applier.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(u64::from(moment) * 7919 % 2000));
        }
        applier.kill().unwrap();
        applier.wait().unwrap();
        let record = std::fs::read_to_string(&audit).unwrap();
        let open = record.lines().skip(before).fold(0_i32, |open, line| {
            open + if line.contains(r#""event":"started""#) { 1 } else { -1 }
        });
        inside += u32::from(open > 0);
        rig.apply_with(&["--allow-teardown", "all"]).exits(0);
        rig.converged();
        nothing_is_left_over(rig);
        // Nothing of this one changes but its skill.
        assert_eq!(rig.inside("stays", "cat /var/tmp/mine"), "mine", "after {moment} kills");
    }
    // Seen in the output of a failing or verbose run; the assertion is what counts.
    println!("{}: killed {moments} times, {inside} of them inside a step", rig.backend);
    assert!(inside * 5 >= moments * 3, "only {inside} of {moments} kills were inside a step");
}

fn nothing_is_left_over(rig: &Rig) {
    let receipts = std::fs::read_dir(rig.memory().join("receipts")).unwrap();
    let receipts: Vec<String> =
        receipts.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(receipts.len(), 4, "{receipts:?}");
    assert!(receipts.iter().all(|name| name.ends_with(".json")), "{receipts:?}");
    if rig.backend == "docker" {
        assert_eq!(rig.containers(&[]).len(), 4);
        let owner = format!("label=io.bottle.owner={}", rig.tree.owner);
        for kind in ["network", "volume"] {
            assert_eq!(docker(&[kind, "ls", "-q", "--filter", &owner]).trim(), "");
        }
    }
}
