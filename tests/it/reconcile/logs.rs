//! `bottle logs` of several sandboxes, and by time.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::rig::{Rig, wait_for};
use crate::support::Ended;

impl Rig {
    fn logs(&self, args: &[&str]) -> Ended {
        let tree = self.tree_path();
        let mut all = vec!["--tree", &tree, "logs"];
        all.extend(args);
        self.cli.run(all)
    }

    fn says(&self, name: &str, script: &str) {
        let command = serde_json::to_string(&["sh", "-c", script]).unwrap();
        let more = format!("command: {command}\nrestart: never");
        self.tree.agent(name, "dev", &more, "You work.");
    }
}

pub(super) fn several_stand_beside_each_other(rig: &Rig) {
    rig.says("ada", "echo one; echo two; printf 'no end'; sleep 600");
    rig.says("bobby", "echo \"b $$\"; exit 3");
    rig.apply(0);
    wait_for("both to have written", || {
        let all = rig.logs(&[]).exits(0).stdout;
        all.contains("two") && all.contains("bobby")
    });
    let all = rig.logs(&[]).exits(0).stdout;
    // An engine keeps a line to itself until it ends.
    let lines: Vec<&str> = all.lines().filter(|line| !line.contains("no end")).collect();
    assert_eq!(lines[..2], ["ada   | one", "ada   | two"], "{all}");
    assert!(lines[2].starts_with("bobby | b ") && lines.len() == 3, "{all}");
    let last = rig.logs(&["bobby", "ada", "--tail", "2"]).exits(0).stdout;
    let lines: Vec<&str> = last.lines().collect();
    assert!(lines[0].starts_with("bobby | b ") && lines[1].starts_with("ada   | "), "{last}");
    // One alone is as it was written.
    assert!(rig.logs(&["ada"]).exits(0).stdout.starts_with("one\ntwo\n"));
    for names in [&["ada", "eve"][..], &["eve"]] {
        let unknown = rig.logs(names).exits(1);
        assert!(unknown.stderr.contains("there is no sandbox eve"), "{}", unknown.stderr);
        assert_eq!(unknown.stdout, "", "an error is said before anything is shown");
    }
    let none = rig.logs(&["ada", "bobby", "--sidecar"]).exits(1);
    assert!(none.stderr.contains("ada has no sidecar"), "{}", none.stderr);
    // One that is stopped has a log all the same, and its end is the end of following.
    let tree = rig.tree_path();
    rig.cli.run(["--tree", &tree, "stop", "ada", "bobby"]).exits(0);
    let all = rig.logs(&["-f"]).exits(0).stdout;
    assert!(all.contains("ada   | no end\n") && all.contains("bobby | b "), "{all}");
}

pub(super) fn lines_have_times(rig: &Rig) {
    rig.says("ada", "echo early; sleep 3; echo late; sleep 600");
    rig.says("bob", "echo other; sleep 600");
    rig.apply(0);
    wait_for("the last line", || rig.logs(&["ada"]).exits(0).stdout.contains("late"));
    assert_eq!(rig.logs(&["ada"]).exits(0).stdout, "early\nlate\n", "the log has no times in it");
    let timed = rig.logs(&["ada", "--timestamps"]).exits(0).stdout;
    let lines: Vec<(&str, &str)> = timed.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["early", "late"]);
    for (time, _) in &lines {
        assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{timed}");
    }
    assert!(lines[0].0 < lines[1].0, "{timed}");
    let late = lines[1].0;
    assert_eq!(rig.logs(&["ada", "--since", late]).exits(0).stdout, "late\n");
    assert_eq!(rig.logs(&["ada", "--since", lines[0].0]).exits(0).stdout, "early\nlate\n");
    assert_eq!(rig.logs(&["ada", "--since", "1h"]).exits(0).stdout, "early\nlate\n");
    assert_eq!(rig.logs(&["ada", "--since", "9999-01-01T00:00:00Z"]).exits(0).stdout, "");
    let tail = rig.logs(&["ada", "--since", late, "--tail", "2", "--timestamps"]).exits(0).stdout;
    assert_eq!(tail, format!("{late} late\n"));
    let beside = rig.logs(&["--since", late, "--timestamps"]).exits(0).stdout;
    assert_eq!(beside, format!("ada | {late} late\n"));
    let wrong = rig.logs(&["ada", "--since", "yesterday"]).exits(2).stderr;
    assert!(wrong.contains("RFC 3339"), "{wrong}");
}

/// One never ends its line, and writes more of it than anybody would keep.
pub(super) fn a_line_without_an_end_holds_no_other_up(rig: &Rig) {
    rig.says(
        "ada",
        "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
    );
    rig.says("bob", "i=0; while :; do echo \"line $i\"; i=$((i+1)); sleep 0.2; done");
    rig.apply(0);
    let tree = rig.tree_path();
    let mut command = rig.cli.command(["--tree", &tree, "logs", "-f", "--tail", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let (mut pieces, mut lines) = (0, Vec::new());
    let mut line = String::new();
    while lines.len() < 5 || pieces < 5 {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended after {pieces}, {lines:?}");
        assert!(line.len() < 17_000, "a line of {}", line.len());
        if let Some(text) = line.strip_prefix("bob | ") {
            lines.push(text.trim_end().to_owned());
        } else {
            assert!(line.starts_with("ada | x"), "{line}");
            pieces += 1;
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(peak < 96 << 10, "{peak} kB");
}
