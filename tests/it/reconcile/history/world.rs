//! A tree, its sandboxes, and all that is known of what they have written.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use super::dice::Dice;
use super::ledger::Ledger;
use super::look::{self, Snapshots};
use super::tree::{Agent, Fault, Says, WORKSPACE};
use super::witness::Witness;
use crate::reconcile::rig::{Rig, wait_for};
use crate::support::Ended;

/// How many lines of the record of steps a pass writes at most before it is killed.
const LINES: usize = 14;

pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) agents: Vec<Agent>,
    pub(super) ledger: Ledger,
    witness: Witness,
    snapshots: Snapshots,
    lives: usize,
    /// What has happened, for who reads a failure.
    pub(super) told: Vec<String>,
}

impl World {
    /// Two agents with a copy of a folder, and one without; they run.
    pub(super) fn new(mut rig: Rig) -> Self {
        rig.cli.env("HISTORY_TOKEN", "t0ken-of-a-test");
        rig.tree.remove("bottles/dev.md");
        settings(&rig, BOUNDS);
        let backend = rig.backend;
        let witness = Witness::of(&rig);
        let mut world = Self {
            rig,
            agents: Vec::new(),
            ledger: Ledger::default(),
            witness,
            snapshots: Snapshots::default(),
            lives: 0,
            told: Vec::new(),
        };
        for (name, site) in [("ada", Some("one")), ("bob", Some("two")), ("cyd", None)] {
            world.add(name, Says::on(backend, site));
        }
        world.apply(0);
        world
    }

    fn new_life(&mut self) -> usize {
        self.lives += 1;
        self.lives
    }

    /// An agent that was not there.
    pub(super) fn add(&mut self, name: &str, says: Says) {
        let life = self.new_life();
        let agent = Agent {
            name: name.to_owned(),
            bottle: format!("for-{life}"),
            life,
            was: None,
            declared: true,
            stopped: false,
            says,
        };
        agent.write(&self.rig);
        self.agents.push(agent);
    }

    /// Its file goes, and with it the agent.
    pub(super) fn remove(&mut self, index: usize) {
        let mut agent = self.agents.remove(index);
        agent.declared = false;
        agent.write(&self.rig);
        self.lays_down(agent.life);
    }

    /// A machine goes that none follows.
    pub(super) fn lays_down(&mut self, life: usize) {
        self.hear();
        for root in super::ROOTS {
            self.ledger.stays_behind(life, root);
        }
    }

    /// All that is there goes; what comes next are others.
    pub(super) fn all_anew(&mut self) {
        for index in 0..self.agents.len() {
            let life = self.new_life();
            let agent = &mut self.agents[index];
            agent.life = life;
            agent.stopped = false;
        }
    }

    /// Edits what the tree says of an agent.
    pub(super) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Says)) {
        self.hear();
        let agent = &mut self.agents[index];
        let before = agent.says.clone();
        change(&mut agent.says);
        agent.write(&self.rig);
        let (life, now) = (agent.life, agent.says.clone());
        for root in before.keep.difference(&now.keep) {
            self.ledger.give_up(life, *root);
        }
        if before.site != now.site {
            self.ledger.stays_behind(life, WORKSPACE);
        }
    }

    /// Its file has another name.
    pub(super) fn rename(&mut self, index: usize, name: &str, was: bool) {
        if !was {
            let says = self.agents[index].says.clone();
            self.remove(index);
            self.add(name, says);
            // It stands where the other one stood.
            let agent = self.agents.pop().expect("it was just added");
            self.agents.insert(index, agent);
            return;
        }
        let agent = &mut self.agents[index];
        self.rig.tree.remove(&format!("agents/{}.md", agent.name));
        agent.was = Some(std::mem::replace(&mut agent.name, name.to_owned()));
        agent.write(&self.rig);
    }

    pub(super) fn write(&self) {
        self.agents.iter().for_each(|agent| agent.write(&self.rig));
    }

    pub(super) fn order(&self, args: &[&str]) -> Ended {
        let tree = self.rig.tree_path();
        self.rig.cli.run([&["--tree", &tree], args].concat())
    }

    fn hear(&mut self) {
        let said = self.witness.hear(&self.witness.machines());
        self.ledger.hear(said);
    }

    /// The machines that there are.
    pub(super) fn machines(&self) -> BTreeSet<String> {
        self.witness.machines()
    }

    /// The runs of an agent's command that were heard of.
    pub(super) fn runs_of(&self, index: usize) -> BTreeSet<String> {
        self.ledger.runs_of(self.agents[index].life)
    }

    /// Waits until each of those that run has written something since now.
    pub(super) fn at_work(&mut self) {
        self.hear();
        let running = self.agents.iter().filter(|agent| !agent.stopped);
        let before: Vec<(usize, usize)> =
            running.map(|agent| (agent.life, self.ledger.heard_of(agent.life))).collect();
        wait_for("all commands to write", || {
            self.hear();
            before.iter().all(|(life, count)| self.ledger.heard_of(*life) > count + 3)
        });
    }

    /// Applies, which must end with `code`.
    #[track_caller]
    pub(super) fn apply(&mut self, code: i32) {
        self.hear();
        self.rig.apply_with(&["--allow-teardown", "all"]).exits(code);
        self.settle(code == 0);
    }

    /// Applies what cannot be: held, failed, or nothing is done at all.
    #[track_caller]
    pub(super) fn fails(&mut self) {
        self.hear();
        let ended = self.rig.apply_with(&["--allow-teardown", "all"]);
        assert!(matches!(ended.code, Some(1 | 3)), "{ended:?}");
        self.settle(false);
    }

    /// Applies what may fail: whether it did or not, all is somewhere.
    #[track_caller]
    pub(super) fn tries(&mut self) {
        self.hear();
        let ended = self.rig.apply_with(&["--allow-teardown", "all"]);
        assert!(matches!(ended.code, Some(0 | 1 | 3)), "{ended:?}");
        self.settle(false);
    }

    /// Kills what a command begins at some moment.
    pub(super) fn kill(&mut self, dice: &mut Dice, mut command: std::process::Command) {
        self.hear();
        let audit = self.rig.memory().join("audit.jsonl");
        let lines = || std::fs::read_to_string(&audit).map_or(0, |text| text.lines().count());
        let before = lines() + dice.below(LINES);
        let soon = Duration::from_micros(dice.below(40_000) as u64);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while lines() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(300));
        }
        std::thread::sleep(soon);
        child.kill().unwrap();
        child.wait().unwrap();
        self.hear();
    }

    /// After a command of `bottle`: all is where it must be. `done`: it has done all that there was to do.
    #[track_caller]
    pub(super) fn settle(&mut self, done: bool) {
        self.hear();
        if done {
            let there = self.witness.machines();
            let wanted = self.agents.len();
            assert_eq!(there.len(), wanted, "machines {there:?}: {}", self.told.join("; "));
            for index in 0..self.agents.len() {
                let agent = &mut self.agents[index];
                if agent.was.take().is_some() {
                    agent.write(&self.rig);
                }
                // What was written before this pass ended may have come before it read what is kept.
                self.ledger.count(agent.life, &agent.says.keep);
            }
        }
        self.check();
        if done {
            self.rig.converged();
        }
    }

    /// Compares what must be with what is.
    #[track_caller]
    pub(super) fn check(&mut self) {
        let (there, hidden): (Vec<&Agent>, Vec<&Agent>) =
            self.agents.iter().partition(|agent| !agent.stopped);
        let live: BTreeMap<_, _> =
            there.iter().map(|agent| (agent.life, look::inside(&self.rig, agent))).collect();
        let hidden: BTreeSet<usize> = hidden.iter().map(|agent| agent.life).collect();
        let kept = self.snapshots.hold(&self.rig);
        if let Err(wrong) = look::compare(&self.ledger, &live, &hidden, &kept) {
            panic!("{wrong}\nafter: {}", self.told.join("; "));
        }
    }

    /// What makes the next apply fail; whether it does.
    pub(super) fn block(&mut self, index: usize, fault: Fault) -> bool {
        self.hear();
        let mut fails = true;
        let agent = &mut self.agents[index];
        agent.says.fault = Some(fault);
        match fault {
            // What cannot be read is somebody's, too, and takes the room of all.
            Fault::NoRoom => {
                let large = large(&self.rig);
                std::fs::create_dir_all(large.parent().unwrap()).unwrap();
                std::fs::File::create(&large).unwrap().set_len(17 << 20).unwrap();
                settings(&self.rig, "  keep: 1000\n  bytes: 16M\n");
            }
            Fault::NoRecord => {
                let carried = self.rig.memory().join("carried");
                let _ = std::fs::remove_dir(&carried);
                // What is on its way already is not taken away.
                fails = !carried.exists();
                if fails {
                    std::fs::write(&carried, "in the way").unwrap();
                }
            }
            _ => {}
        }
        if matches!(fault, Fault::NoRoom | Fault::NoRecord) {
            agent.says.root = !agent.says.root;
        }
        agent.write(&self.rig);
        fails
    }

    /// The way back.
    pub(super) fn unblock(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        match agent.says.fault.take() {
            Some(Fault::NoRoom) => {
                std::fs::remove_file(large(&self.rig)).unwrap();
                settings(&self.rig, BOUNDS);
            }
            Some(Fault::NoRecord) => {
                let carried = self.rig.memory().join("carried");
                if carried.is_file() {
                    std::fs::remove_file(&carried).unwrap();
                }
            }
            _ => {}
        }
        agent.write(&self.rig);
    }
}

/// None of the snapshots makes room for another.
const BOUNDS: &str = "  keep: 1000\n  bytes: 20G\n";

/// Writes what holds for the whole tree.
pub(super) fn settings(rig: &Rig, snapshots: &str) {
    let text = format!("name: {}\nsnapshots:\n{snapshots}", rig.tree.owner);
    rig.tree.write("bottle.yaml", &text);
}

fn large(rig: &Rig) -> std::path::PathBuf {
    rig.memory().join("snapshots/someone/20200101T000000Z.tar.zst")
}

pub(super) fn other_target(target: &str) -> &'static str {
    if target == "/workspace" { "/work" } else { "/workspace" }
}
