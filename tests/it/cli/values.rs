//! Asked-for values, by the command line, on the native backend: a command never starts with a part
//! of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Cli, Ended, TempTree};

struct Rig {
    cli: Cli,
    tree: TempTree,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

impl Rig {
    fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run(all)
    }

    fn with(&self, values: &str, args: &[&str]) -> Ended {
        let file = self.cli.home().join("values");
        std::fs::write(&file, values).unwrap();
        let mut all = args.to_vec();
        all.extend(["--env-file", file.to_str().unwrap()]);
        self.run(&all)
    }

    fn said(&self) -> String {
        self.run(&["logs", "ada"]).stdout
    }

    fn says_in_time(&self, line: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.said().contains(line) {
            assert!(Instant::now() < until, "{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn find(folder: &Path, end: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with(end) {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !path.ends_with("upper") {
            folders.push(path);
        }
    }
    folders.iter().find_map(|folder| find(folder, end))
}

#[test]
fn a_command_waits_for_all_of_its_values_after_a_restart() {
    let rig = Rig { cli: Cli::new(), tree: TempTree::new("values") };
    rig.tree.bottle(
        "near",
        "backend: native\nimage: host\nresources:\n  memory: 128M\n  pids: 64\n\
         env:\n  AAA: \"?\"\n  BBB: \"?\"",
    );
    let command = "command: [sh, -c, 'echo \"have <$AAA> <$BBB>\"; sleep 600']";
    rig.tree.agent("ada", "near", command, "You are ada.");
    rig.with("AAA=one\nBBB=two\n", &["apply", "--yes"]).exits(0);
    rig.says_in_time("have <one> <two>");

    // What was delivered is gone with the run of the machine that it was delivered into.
    let receipt = find(&rig.cli.state(), "native/ada/run.json").unwrap();
    let run: serde_json::Value = serde_json::from_slice(&std::fs::read(receipt).unwrap()).unwrap();
    let init = i32::try_from(run["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::read_link(format!("/proc/{init}/exe")).is_ok() {
        assert!(Instant::now() < until, "{init} lives");
        std::thread::sleep(Duration::from_millis(25));
    }

    // Half of them: whatever the passes do, the command does not start, and the plan says why.
    let lines = rig.said().lines().count();
    for _ in 0..3 {
        rig.with("AAA=one\n", &["apply", "--yes"]);
        let plan = rig.with("AAA=one\n", &["plan"]);
        assert!(plan.stdout.contains("waits for a value of BBB"), "{}", plan.stdout);
        assert!(!plan.stdout.contains("value of AAA"), "{}", plan.stdout);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(rig.said().lines().count(), lines, "it waits: {}", rig.said());
    }
    rig.with("AAA=one\nBBB=three\n", &["apply", "--yes"]).exits(0);
    rig.says_in_time("have <one> <three>");
    assert!(!rig.said().contains("<>"), "{}", rig.said());
    rig.with("AAA=one\nBBB=three\n", &["plan"]).exits(0);
}
