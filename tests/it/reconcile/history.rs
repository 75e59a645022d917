//! Random histories: whatever the tree says next and whenever `bottle` is killed, an agent's work is never lost.
//!
//! Each sandbox's command writes numbered lines under all kept paths, all the time, and says what it has written. A
//! history is a row of edits, orders, failures and kills. After each step every line is in its sandbox, or, where
//! no machine followed that takes it on, in a snapshot; nothing is in two sandboxes; and a second apply is empty.
//!
//! `BOTTLE_TEST_SEED=<n>` lives one history again, and `BOTTLE_TEST_CHAOS=<n>` that many on each backend.

mod beside;
#[cfg(target_os = "linux")]
mod cases;
mod dice;
mod ledger;
mod look;
mod step;
mod tree;
mod witness;
mod world;
mod writer;

use dice::Dice;
use world::World;

use super::chaos::rounds;
use super::rig::Rig;
use crate::support::say;

const ROOTS: [char; 3] = [tree::WORKSPACE, tree::HOME, tree::NAMED];

/// One in so many percent of the steps is killed first.
const KILLED: usize = 35;

/// Lives one, and returns how many lines had to be somewhere in the end.
fn live(rig: Rig, seed: u64, steps: usize) -> usize {
    let mut dice = Dice::of(seed);
    let mut world = World::new(rig);
    for _ in 0..steps {
        let step = step::draw(&mut dice, &world);
        let killed = dice.chance(KILLED);
        let name = |index: usize| world.agents.get(index).map_or("", |agent| &agent.name);
        let who: Vec<String> =
            (0..world.agents.len()).map(|i| format!("{i}={}", name(i))).collect();
        let after = if killed { " after a kill" } else { "" };
        let told = format!("[{}] {step:?}{after}", who.join(" "));
        println!("{seed}: {told}");
        world.told.push(told);
        step::carry_out(&mut world, &mut dice, step, killed);
    }
    // What is stopped is looked at, too.
    world.rig.apply_with(&["--start", "--allow-teardown", "all"]).exits(0);
    world.agents.iter_mut().for_each(|agent| agent.stopped = false);
    world.told.push("all are started".to_owned());
    world.settle(true);
    let lines = world.ledger.len();
    assert!(lines > 20 * steps, "only {lines} lines were written");
    lines
}

/// Lives as many as are asked for; says each seed that fails, and goes on.
fn histories(usual: usize, steps: usize, rig: impl Fn(&str) -> Option<Rig>) {
    let seeds = match std::env::var("BOTTLE_TEST_SEED") {
        Ok(seed) if !seed.is_empty() => {
            vec![seed.parse().unwrap_or_else(|_| panic!("BOTTLE_TEST_SEED is no number: {seed}"))]
        }
        _ => (1..=rounds(usual) as u64).collect(),
    };
    let mut failed = Vec::new();
    for seed in &seeds {
        let Some(rig) = rig("history") else { return };
        let backend = rig.backend;
        let lived = std::panic::AssertUnwindSafe(|| live(rig, *seed, steps));
        match std::panic::catch_unwind(lived) {
            Ok(lines) => say(&format!("{backend}: history {seed}: {lines} lines, none lost")),
            Err(_) => {
                say(&format!("{backend}: history {seed} has failed"));
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "BOTTLE_TEST_SEED of those that failed: {failed:?}");
}

mod native {
    use super::{Rig, beside};

    #[test]
    fn no_work_is_lost() {
        super::histories(2, 8, |what| Some(Rig::native(what)));
    }

    #[test]
    fn a_replace_that_fails_again_and_again() {
        beside::a_replace_that_fails_again_and_again(Rig::native("fails_again"));
    }

    #[test]
    fn a_rename_in_the_same_pass() {
        beside::a_rename_in_the_same_pass(Rig::native("same_pass"));
    }

    #[test]
    fn a_mounted_workspace_stays_where_it_is() {
        beside::a_mounted_workspace_stays_where_it_is(Rig::native("mount_stays"));
    }

    #[test]
    fn another_tree_of_the_same_state_folder() {
        let rigs = [Rig::native("one_of_two"), Rig::native("two_of_two")];
        let [one, two] = rigs;
        beside::another_tree_of_the_same_state_folder(one, two);
    }
}

#[cfg(target_os = "linux")]
mod processes {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    use super::{Rig, cases};
    use crate::support::left_out;

    #[test]
    fn a_full_disk() {
        if !rustix::process::geteuid().is_root() {
            return left_out("a full disk", "as an ordinary user: no file system can be mounted");
        }
        for megabytes in [48, 80] {
            cases::a_full_disk(Rig::native("full_disk"), megabytes);
        }
    }

    /// Lives the same histories as uid 1000, when they are root's now.
    #[test]
    fn of_an_ordinary_user() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(folder.path());
        let copy = |from: &std::path::Path, name: &str| {
            let to = folder.path().join(name);
            std::fs::copy(from, &to).unwrap();
            open(&to);
            to
        };
        let tests = copy(&std::env::current_exe().unwrap(), "tests");
        let program = copy(&crate::native::program(), "bottle");
        let ended = std::process::Command::new(tests)
            .args(["--exact", "reconcile::history::native::no_work_is_lost", "--nocapture"])
            .env("HOME", "/tmp")
            .env("BOTTLE_TEST_PROGRAM", program)
            .env_remove("BOTTLE_TEST_DOCKER")
            .current_dir("/tmp")
            .uid(1000)
            .gid(1000)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let [out, err] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(ended.status.success() && out.contains("1 passed"), "{out}\n{err}");
    }
}

mod docker {
    use super::{Rig, beside};

    #[test]
    fn no_work_is_lost() {
        super::histories(1, 6, Rig::docker);
    }

    #[test]
    fn a_replace_that_fails_again_and_again() {
        if let Some(rig) = Rig::docker("fails_again") {
            beside::a_replace_that_fails_again_and_again(rig);
        }
    }

    #[test]
    fn a_rename_in_the_same_pass() {
        if let Some(rig) = Rig::docker("same_pass") {
            beside::a_rename_in_the_same_pass(rig);
        }
    }

    #[test]
    fn a_mounted_workspace_stays_where_it_is() {
        if let Some(rig) = Rig::docker("mount_stays") {
            beside::a_mounted_workspace_stays_where_it_is(rig);
        }
    }

    #[test]
    fn another_tree_of_the_same_state_folder() {
        if let (Some(one), Some(two)) = (Rig::docker("one_of_two"), Rig::docker("two_of_two")) {
            beside::another_tree_of_the_same_state_folder(one, two);
        }
    }
}
