//! A replace, and what goes on beside it: tries that fail again and again, renames, mounts, another tree.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;

use super::dice::Dice;
use super::tree::{Fault, HOME, NAMED, WORKSPACE, site};
use super::world::{World, other_target, settings};
use crate::reconcile::rig::{Rig, wait_for};
use crate::reconcile::watch::Watch;

/// The events of a sandbox's steps of this action, with their seconds.
fn events(world: &World, name: &str, action: &str) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(world.rig.memory().join("audit.jsonl")).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["sandbox"] == name && line["action"] == action)
        .map(|line| (line["event"].as_str().unwrap().to_owned(), line["at"].as_u64().unwrap()))
        .collect()
}

/// The snapshots that were handed on, or were to be.
fn handed_on(world: &World, name: &str) -> usize {
    let listed = world.order(&["-o", "json", "snapshot", "list", name]).exits(0).json();
    let all = listed["snapshots"].as_array().unwrap().clone();
    all.iter().filter(|one| one["why"] == "replace").count()
}

/// A replace that cannot be done is tried again, ever more rarely; each time the old machine runs on with all that was
/// written, what is kept of the tries is bounded, and nobody else notices.
pub(super) fn a_replace_that_fails_again_and_again(rig: Rig) {
    let mut world = World::new(rig);
    settings(&world.rig, "  keep: 2\n");
    world.apply(0);
    world.at_work();
    let before = world.machines();
    let runs = world.runs_of(1);
    let mut watch = Watch::start(&world.rig);
    world.block(0, Fault::NoHome);
    let done = |world: &World| {
        events(world, "ada", "bring_back").iter().filter(|(event, _)| event == "done").count()
    };
    for tries in 1..=3 {
        wait_for("the next try to fail", || done(&world) >= tries);
        assert!(handed_on(&world, "ada") <= 2, "after {tries} tries");
        world.at_work();
    }
    let keeps: Vec<u64> = events(&world, "ada", "keep")
        .into_iter()
        .filter_map(|(event, at)| (event == "started").then_some(at))
        .collect();
    let ends: Vec<u64> = events(&world, "ada", "bring_back")
        .into_iter()
        .filter_map(|(event, at)| (event == "done").then_some(at))
        .collect();
    // Seconds are cut off, and a quarter of the delay is luck.
    for (n, (end, next)) in ends.iter().zip(keeps.iter().skip(1)).enumerate() {
        let least = (1_u64 << n) * 3 / 4;
        assert!(next + 1 >= end + least, "try {n} ended at {end}, and the next began at {next}");
    }
    assert_eq!(watch.stop(), Some(0));
    assert_eq!(world.machines(), before, "all are the machines that they were");
    assert_eq!(world.runs_of(1), runs, "who is not meant runs on");
    world.unblock(0);
    world.apply(0);
    world.at_work();
    world.check();
}

/// The name changes in the same pass in which the machine does; also where the new one cannot be made.
pub(super) fn a_rename_in_the_same_pass(rig: Rig) {
    let mut world = World::new(rig);
    let mut dice = Dice::of(1);
    world.at_work();
    world.rename(0, "dan", true);
    world.edit(0, |says| says.target = other_target(says.target));
    world.apply(0);
    world.at_work();
    let before = world.machines();
    world.rename(0, "eve", true);
    world.block(0, Fault::NoHome);
    world.apply(3);
    assert_eq!(world.machines(), before, "the old one runs on");
    world.at_work();
    world.check();
    world.unblock(0);
    world.apply(0);
    assert_eq!(world.machines(), before);
    // Killed somewhere between the two, and the name is taken by another at once.
    for (old, new) in [("eve", "fay"), ("fay", "gus")] {
        world.at_work();
        world.rename(0, new, true);
        world.edit(0, |says| {
            says.target = other_target(says.target);
            says.root = !says.root;
        });
        let applier = world.rig.applier();
        world.kill(&mut dice, applier);
        world.apply(0);
        let says = world.agents[1].says.clone();
        world.add(old, says);
        world.apply(0);
    }
}

/// A folder of the host's that is mounted stays what it is, and the rest comes along; so does what a copy of it had.
pub(super) fn a_mounted_workspace_stays_where_it_is(rig: Rig) {
    let mut world = World::new(rig);
    world.edit(0, |says| {
        says.site = Some("mounted");
        says.mounted = true;
    });
    world.apply(0);
    world.at_work();
    let folder = site(&world.rig, "mounted");
    let lines = || std::fs::read_to_string(folder.join("lines")).unwrap();
    for target in ["/work", "/workspace"] {
        world.edit(0, |says| says.target = target);
        world.apply(0);
        world.at_work();
        world.check();
    }
    assert!(lines().lines().count() > 6);
    // What is written to the folder is no snapshot's.
    let life = world.agents[0].life;
    world.ledger.give_up(life, WORKSPACE);
    world.remove(0);
    let there = lines();
    world.apply(0);
    assert!(lines().starts_with(&there), "nothing of it is lost");
    let kept: BTreeSet<char> = world
        .ledger
        .all()
        .filter(|(_, (of, _), _)| *of == life)
        .map(|(_, (_, root), _)| root)
        .collect();
    assert_eq!(kept, BTreeSet::from([HOME, NAMED]));
}

/// Another tree of the same state folder has agents of the same names, and replaces them at the same time.
pub(super) fn another_tree_of_the_same_state_folder(rig: Rig, mut other: Rig) {
    std::os::unix::fs::symlink(rig.cli.state(), other.cli.state()).unwrap();
    std::fs::create_dir_all(rig.cli.state()).unwrap();
    other.cli.env("BOTTLE_STATE_DIR", rig.cli.state());
    let mut dice = Dice::of(2);
    let mut one = World::new(rig);
    let mut two = World::new(other);
    for round in 0..3 {
        for world in [&mut one, &mut two] {
            world.at_work();
            world.edit(0, |says| says.target = other_target(says.target));
            world.edit(2, |says| says.root = !says.root);
        }
        let beside = one.rig.applier().stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut beside = beside.unwrap();
        if round == 1 {
            let applier = two.rig.applier();
            two.kill(&mut dice, applier);
        }
        two.apply(0);
        assert!(beside.wait().unwrap().success());
        one.settle(true);
    }
    two.remove(0);
    two.apply(0);
    one.at_work();
    one.check();
}
