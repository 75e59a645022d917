//! `bottle run -d`, `attach`, `run --list`: a run that lives on by itself, and how it ends.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::rig::{Rig, wait_for};
use crate::support::{Ended, Screen};

/// Longer than a healthy answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What runs: it says so, answers what it is told, and ends as it is told.
const TALK: &str = "echo begun; while read -r line; do case $line in end*) exit ${line#end };; \
                    size) stty size;; *) echo \"heard $line\";; esac; done";

impl Rig {
    fn words<'a>(tree: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        ["--tree", tree].into_iter().chain(args.iter().copied()).collect()
    }

    fn bottle_run(&self, args: &[&str]) -> Ended {
        self.cli.run(Self::words(&self.tree_path(), args))
    }

    /// Starts a run and returns its id.
    fn detach(&self, name: &str) -> String {
        self.bottle_run(&["run", "-d", name]).exits(0).stdout.trim().to_owned()
    }

    /// A run as the list has it.
    fn listed(&self, id: &str) -> Value {
        let list = self.bottle_run(&["-o", "json", "run", "--list"]).exits(0).json();
        let runs = list["runs"].as_array().expect("a list has runs");
        runs.iter().find(|run| run["id"] == id).unwrap_or_else(|| panic!("no {id}: {list}")).clone()
    }

    /// Waits until a run is in such a state, and returns it.
    #[track_caller]
    fn becomes(&self, id: &str, state: &str) -> Value {
        wait_for(&format!("the run to be {state}"), || self.listed(id)["state"] == state);
        self.listed(id)
    }

    fn run_folder(&self, id: &str) -> PathBuf {
        self.memory().join("runs").join(id)
    }

    fn log_of(&self, id: &str) -> String {
        let log = std::fs::read(self.run_folder(id).join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    #[track_caller]
    fn writes(&self, id: &str, text: &str) {
        wait_for(text, || self.log_of(id).contains(text));
    }

    fn screen(&self, args: &[&str]) -> Screen {
        Screen::open(&self.cli.command(Self::words(&self.tree_path(), args)), PATIENCE)
    }

    /// Of the two processes that hold a run, the one of this command.
    fn process(&self, id: &str, command: &str) -> u32 {
        let folder = self.run_folder(id).canonicalize().unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            let of = words.iter().any(|word| *word == folder.as_os_str().as_encoded_bytes());
            if of && words.contains(&command.as_bytes()) {
                found.push(entry.file_name().to_str().unwrap().parse().unwrap());
            }
        }
        assert_eq!(found.len(), 1, "{command} of {id}");
        found[0]
    }

    /// How many processes in the sandbox are of a run.
    fn running_inside(&self, name: &str) -> usize {
        // The letters in brackets are no part of what looks for them.
        let count = "grep -ls '[b]egun' /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
        self.inside(name, count).parse().unwrap()
    }
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// A sandbox whose program talks.
fn talking(rig: &Rig) {
    let run = serde_json::to_string(&["sh", "-c", TALK]).unwrap();
    rig.tree.agent("ada", "dev", &format!("run: {run}"), "You are ada.");
    rig.apply(0);
}

pub(super) fn it_lives_on_and_can_be_come_back_to(rig: &Rig) {
    talking(rig);
    // Started on a terminal that closes, by a process that ends.
    let mut screen = rig.screen(&["run", "-d", "ada"]);
    screen.shows("comes back to it");
    assert_eq!(screen.ended(), Some(0));
    drop(screen);
    let list = rig.bottle_run(&["run", "--list", "--json"]).exits(0).json();
    let id = list["runs"][0]["id"].as_str().unwrap().to_owned();
    rig.writes(&id, "begun");

    let mut first = rig.screen(&["attach", "ada"]);
    first.shows("begun");
    first.type_in("one\r");
    first.shows("heard one");
    first.resize(41, 123);
    wait_for("the size to be followed", || {
        first.type_in("size\r");
        rig.log_of(&id).contains("41 123")
    });
    // A second one sees what was, and both see what comes.
    let second = rig.screen(&["attach", "ada", &id[..4]]);
    second.shows("heard one");
    second.type_in("two\r");
    second.shows("heard two");
    first.shows("heard two");
    first.type_in("\x10");
    first.type_in("\x11");
    first.shows("goes on by itself");
    assert_eq!(first.ended(), Some(0));
    // A terminal that closes is no end of it, either.
    drop(second);
    let status = rig.bottle_run(&["status"]).exits(0).stdout;
    assert!(status.contains(&format!("ada: {id} running")), "{status}");

    let mut third = rig.screen(&["attach", "ada"]);
    third.shows("heard two");
    third.type_in("end 7\r");
    third.shows("ended with 7");
    assert_eq!(third.ended(), Some(7), "its exit code is passed on");
    let run = rig.becomes(&id, "exited");
    assert_eq!((&run["exit_code"], &run["sandbox"]), (&Value::from(7), &Value::from("ada")));
    let over = rig.bottle_run(&["attach", "ada"]).exits(125).stderr;
    let log = rig.run_folder(&id).join("log");
    assert!(over.contains("ended with 7") && over.contains(log.to_str().unwrap()), "{over}");
    let shown = rig.bottle_run(&["run", "--list", "ada"]).exits(0).stdout;
    assert!(shown.contains(&id) && shown.contains("exited (7)"), "{shown}");
    let status = rig.bottle_run(&["status"]).exits(0).stdout;
    assert!(status.contains(&format!("ada: {id} exited (7)")), "{status}");
}

pub(super) fn what_is_not_there_is_said(rig: &Rig) {
    talking(rig);
    let none = rig.bottle_run(&["attach", "ada"]).exits(125).stderr;
    assert!(none.contains("no detached run of ada") && none.contains("run -d ada"), "{none}");
    for args in [&["run", "-d", "eve"][..], &["attach", "eve"], &["run", "--list", "eve"]] {
        let unknown = rig.bottle_run(args).exits(125).stderr;
        assert!(unknown.contains("there is no sandbox eve"), "{unknown}");
    }
    assert!(rig.bottle_run(&["run", "--list"]).exits(0).stderr.contains("no detached run"));
    let id = rig.detach("ada");
    let wrong = rig.bottle_run(&["attach", "ada", "zz"]).exits(125).stderr;
    assert!(wrong.contains("no run zz of ada"), "{wrong}");
    let other = rig.detach("ada");
    let several = rig.bottle_run(&["attach", "ada"]).exits(125).stderr;
    assert!(several.contains(&id) && several.contains(&other), "{several}");
    rig.bottle_run(&["stop", "ada"]).exits(0);
    let stopped = rig.bottle_run(&["run", "-d", "ada"]).exits(125).stderr;
    assert!(stopped.contains("stopped") && stopped.contains("bottle start"), "{stopped}");
}

/// No terminal anywhere: from a script.
pub(super) fn a_script_can_talk_to_it(rig: &Rig) {
    talking(rig);
    let id = rig.detach("ada");
    rig.writes(&id, "begun");
    let tree = rig.tree_path();
    // The end of stdin is no end of it: what comes then is still shown.
    let ended = rig.cli.run_with(Rig::words(&tree, &["attach", "ada"]), b"one\rend 3\r").exits(3);
    assert!(ended.stdout.contains("heard one"), "{}", ended.stdout);
    let missing = rig.tree.agent("bob", "dev", "run: [no-such-program]", "").path().to_owned();
    assert!(missing.is_dir());
    rig.apply(0);
    let id = rig.detach("bob");
    let run = rig.becomes(&id, "exited");
    assert_eq!(run["exit_code"], 127);
    assert!(rig.log_of(&id).contains("bottle exec bob"), "{}", rig.log_of(&id));
}

/// The processes of `bottle` that hold it are killed: one, the other, and both.
pub(super) fn nothing_runs_on_unseen_when_what_holds_it_is_killed(rig: &Rig) {
    talking(rig);
    let run =
        serde_json::to_string(&["sh", "-c", "trap '' HUP; echo begun; while :; do sleep 1; done"]);
    rig.tree.agent("bob", "dev", &format!("run: {}", run.unwrap()), "You are bob.");
    rig.apply(0);
    let known = rig.detach("ada");
    for kills in [&["hold"][..], &["session"], &["hold", "session"], &["session", "hold"]] {
        let id = rig.detach("bob");
        rig.writes(&id, "begun");
        assert!(rig.running_inside("bob") > 0);
        let mut screen = rig.screen(&["attach", "bob"]);
        screen.shows("begun");
        let pids: Vec<u32> = kills.iter().map(|command| rig.process(&id, command)).collect();
        pids.into_iter().for_each(kill);
        // Whoever was attached is told, and hangs nowhere.
        assert_eq!(screen.ended(), Some(125), "{kills:?}");
        let run = rig.becomes(&id, "lost");
        assert!(run["why"].as_str().unwrap().contains("killed"), "{run}");
        wait_for("what ran to end", || rig.running_inside("bob") == 0);
        let over = rig.bottle_run(&["attach", "bob"]).exits(125).stderr;
        assert!(over.contains("was lost"), "{over}");
    }
    // No other was touched.
    assert_eq!(rig.listed(&known)["state"], "running");
    assert!(rig.running_inside("ada") > 0);
}

pub(super) fn what_is_done_in_place_ends_none_and_what_ends_one_says_so(rig: &Rig) {
    talking(rig);
    let id = rig.detach("ada");
    rig.writes(&id, "begun");
    let run = serde_json::to_string(&["sh", "-c", TALK]).unwrap();
    rig.bottle_with("memory: 160M", "env:\n  NEW: value\n");
    rig.tree.agent("ada", "dev", &format!("run: {run}\nskills: [greet]"), "You are another.");
    let plan = rig.plan().exits(2).json();
    assert!(!plan.to_string().contains(&id), "nothing ends it: {plan}");
    rig.apply(0);
    assert_eq!(rig.listed(&id)["state"], "running");
    let screen = rig.screen(&["attach", "ada"]);
    screen.type_in("still\r");
    screen.shows("heard still");
    drop(screen);

    let told = format!("ends its detached run {id}");
    rig.bottle_with("memory: 160M", "env:\n  HOME: /tmp\n");
    let replace = rig.plan().exits(2).json();
    let machine = replace["changes"].as_array().unwrap().iter().find(|c| c["verdict"] == "replace");
    let machine = machine.unwrap_or_else(|| panic!("no replace: {replace}"));
    assert!(machine["notes"].to_string().contains(&told), "{machine}");
    assert_eq!(machine["work"]["running"], true, "{machine}");
    rig.bottle_with("memory: 160M", "env:\n  NEW: value\n");
    let stopped = rig.bottle_run(&["stop", "ada"]).exits(0);
    assert!(stopped.stderr.contains(&format!("ends the detached run {id}")), "{}", stopped.stderr);
    wait_for("it to end", || rig.listed(&id)["ended"].is_u64());
    rig.bottle_run(&["start", "ada"]).exits(0);
    assert_eq!(rig.running_inside("ada"), 0);
}

/// More output than anybody reads or keeps, with nobody attached, and with one who does not read.
pub(super) fn much_output_holds_nobody_up_and_is_bounded(rig: &Rig) {
    let script = "i=0; while [ $i -lt 400 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done; \
                  echo; echo all-written; read -r line";
    let run = serde_json::to_string(&["sh", "-c", script]).unwrap();
    rig.tree.agent("ada", "dev", &format!("run: {run}"), "You are ada.");
    rig.apply(0);
    let id = rig.detach("ada");
    let tree = rig.tree_path();
    let silent = rig
        .cli
        .command(Rig::words(&tree, &["attach", "ada"]))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut silent = silent.unwrap();
    rig.writes(&id, "all-written");
    for name in ["log", "log.1"] {
        let length = std::fs::metadata(rig.run_folder(&id).join(name)).unwrap().len();
        assert!(length <= 2 << 20, "{name}: {length}");
    }
    let holder = rig.process(&id, "hold");
    let status = std::fs::read_to_string(format!("/proc/{holder}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(peak < 64 << 10, "{peak} kB");
    silent.kill().unwrap();
    silent.wait().unwrap();
    assert_eq!(rig.listed(&id)["state"], "running");
    let tree = rig.tree_path();
    rig.cli.run_with(Rig::words(&tree, &["attach", "ada"]), b"go\r").exits(0);
}
