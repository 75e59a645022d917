//! One sandbox fills the disk of the state folder; the others' requests are decided on, and what has to
//! be written down is.

use std::process::Command;

use crate::support::{Cli, TempTree, left_out};

/// A file system of the test's own, that is gone with it.
pub(crate) struct Small(tempfile::TempDir);

impl Small {
    pub(crate) fn new(megabytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        let mount = ["-t", "tmpfs", "-o", &size, "bottle-test"];
        let done = Command::new("mount").args(mount).arg(folder.path()).status().unwrap();
        assert!(done.success());
        Self(folder)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What still runs on it keeps it until it has ended.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The folder of a workspace is no repository: what it held is nowhere else.
#[test]
fn changed_files_that_do_not_fit_leave_the_old_ones() {
    if !rustix::process::geteuid().is_root() {
        return left_out("a full disk", "as an ordinary user: no file system can be mounted");
    }
    let (small, cli, tree) = (Small::new(2), Cli::new(), TempTree::new("small"));
    let site = small.0.path().canonicalize().unwrap().join("site");
    std::fs::create_dir(&site).unwrap();
    let old = |number: u32| format!("old {number}\n").repeat(1000);
    for number in 1..=6 {
        std::fs::write(site.join(format!("f{number}")), old(number)).unwrap();
    }
    tree.bottle("plain", &format!("backend: native\nworkspace:\n  path: {}", site.display()));
    tree.agent("ada", "plain", "", "You are ada.");
    let path = tree.path().display().to_string();
    let run = |words: &[&str]| {
        let mut all = vec!["--tree", path.as_str()];
        all.extend(words);
        cli.run(all)
    };
    run(&["apply", "--yes"]).exits(0);
    let write = "for n in 1 2 3 4 5 6; do head -c 600000 /dev/urandom > /workspace/f$n; done; echo x > /workspace/new";
    run(&["exec", "ada", "--", "sh", "-c", write]).exits(0);
    let failed = run(&["sync", "ada", "--files", "--yes"]).exits(1);
    assert!(failed.stderr.contains("nothing was changed"), "{}", failed.stderr);
    let mut names: Vec<_> =
        std::fs::read_dir(&site).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["f1", "f2", "f3", "f4", "f5", "f6"]);
    for number in 1..=6 {
        let now = std::fs::read_to_string(site.join(format!("f{number}"))).unwrap();
        assert!(now == old(number), "f{number} is another");
    }
    run(&["down", "--yes"]).exits(0);
}

#[test]
fn others_are_decided_on_and_records_are_written() {
    if !rustix::process::geteuid().is_root() {
        return left_out("a full disk", "as an ordinary user: no file system can be mounted");
    }
    let (small, mut cli, tree) = (Small::new(96), Cli::new(), TempTree::new("full"));
    let state = small.0.path().join("state");
    cli.env("BOTTLE_STATE_DIR", &state);
    let limits = "resources:\n  pids: 64\n  memory: 256M";
    tree.bottle("plain", &format!("backend: native\n{limits}"));
    tree.bottle(
        "linked",
        &format!("backend: native\n{limits}\negress:\n  allowlist: [example.com]"),
    );
    tree.agent("ada", "plain", "", "You are ada.");
    tree.agent("bob", "linked", "", "You are bob.");
    let path = tree.path().display().to_string();
    let run = |words: &[&str]| {
        let mut all = vec!["--tree", path.as_str()];
        all.extend(words);
        cli.run(all)
    };
    run(&["apply", "--yes"]).exits(0);
    let said = run(&["status"]).exits(0);
    assert!(!said.stdout.contains("MiB are free"), "{}", said.stdout);

    // Whoever fills it tries again and again.
    let fill = "cat /dev/zero >~/fill; for n in 1 2 3 4 5; do cat /dev/zero >>~/fill; done; exit 0";
    run(&["exec", "ada", "--", "sh", "-c", fill]).exits(0);
    let ask =
        "for n in $(seq 200); do curl -s -o /dev/null -w '%{http_code} ' http://other.test/; done";
    let codes = run(&["exec", "bob", "--", "sh", "-c", ask]).exits(0).stdout;
    let refused: Vec<&str> = codes.split_whitespace().filter(|code| *code != "403").collect();
    assert_eq!((codes.split_whitespace().count(), refused.len()), (200, 0), "{refused:?}");
    // Each of them is in the record.
    let log = std::fs::read_to_string(
        state.join("trees").join(&tree.owner).join("sidecars/native/bob/own/log"),
    );
    assert_eq!(log.unwrap().matches("other.test").count(), 200);

    // It is said, and who is killed is started again: its receipt finds room.
    for words in [&["status"][..], &["plan"][..]] {
        let said = run(words);
        assert!(format!("{}{}", said.stdout, said.stderr).contains("MiB are free"), "{said:?}");
    }
    let receipt = state.join("trees").join(&tree.owner).join("native/ada/run.json");
    let pid =
        |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"].clone();
    let before = pid(std::fs::read_to_string(&receipt).unwrap());
    let killed = Command::new("kill").arg("-9").arg(before.to_string()).status();
    assert!(killed.unwrap().success());
    run(&["apply", "--yes"]);
    let after = pid(std::fs::read_to_string(&receipt).unwrap());
    assert_ne!(before, after);
    run(&["exec", "ada", "--", "sh", "-c", "rm ~/fill"]).exits(0);
    run(&["apply", "--yes"]).exits(0);
    run(&["plan"]).exits(0);
    run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
}

/// What a run writes is lost to its log, and nothing else: it goes on, and its end is remembered.
#[test]
fn a_detached_run_goes_on() {
    if !rustix::process::geteuid().is_root() {
        return left_out("a full disk", "as an ordinary user: no file system can be mounted");
    }
    let (small, cli, tree) = (Small::new(48), Cli::new(), TempTree::new("small"));
    let state = small.0.path().join("state").display().to_string();
    tree.bottle("plain", "backend: native");
    let run = "run: [sh, -c, 'while read -r line; do case $line in end) exit 5;; *) echo heard $line;; esac; done']";
    tree.agent("ada", "plain", run, "You are ada.");
    let path = tree.path().display().to_string();
    let words = |words: &[&str]| -> Vec<String> {
        let globals = ["--tree", &path, "--state-dir", &state];
        globals.iter().chain(words).map(|word| (*word).to_owned()).collect()
    };
    cli.run(words(&["apply", "--yes"])).exits(0);
    let id = cli.run(words(&["run", "-d", "ada"])).exits(0).stdout.trim().to_owned();
    let filler = small.0.path().join("filler");
    let mut full = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut full, &[0; 4096]).is_ok() {}
    // Enough for more than what is left of the log's last page.
    let many = format!("{}end\r", format!("{}\r", "x".repeat(3000)).repeat(6));
    let ended = cli.run_with(words(&["attach", "ada"]), many.as_bytes()).exits(5);
    assert_eq!(ended.stdout.matches("heard x").count(), 6);
    let list = cli.run(words(&["-o", "json", "run", "--list"])).exits(0).json();
    let found = list["runs"].as_array().unwrap().iter().find(|run| run["id"] == id.as_str());
    assert_eq!(found.unwrap()["exit_code"], 5, "{list}");
    std::fs::remove_file(&filler).unwrap();
    cli.run(words(&["down", "--yes", "--discard", "all"])).exits(0);
}
