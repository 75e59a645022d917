//! Commands that make, use and remove sandboxes, on the native backend.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cli, Ended, TempTree};

/// A tree of host sandboxes, torn down with the test.
pub(super) struct Rig {
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
}

impl Rig {
    pub(super) fn new() -> Self {
        let rig = Self { cli: Cli::new(), tree: TempTree::new("cli") };
        rig.bottle("");
        rig
    }

    pub(super) fn bottle(&self, more: &str) {
        let resources = "resources:\n  memory: 128M\n  pids: 64";
        self.tree.bottle("dev", &format!("backend: native\nimage: host\n{resources}\n{more}"));
    }

    pub(super) fn path(&self) -> &str {
        self.tree.path().to_str().expect("temporary paths are UTF-8")
    }

    /// Runs a command on this tree.
    pub(super) fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.path()];
        all.extend(args);
        self.cli.run(all)
    }

    pub(super) fn json(&self, args: &[&str], code: i32) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        self.run(&all).exits(code).json()
    }

    /// Holds the tree's lock, as another `bottle` would.
    pub(super) fn hold_lock(&self) -> std::fs::File {
        let dir = self.cli.state().join("trees").join(&self.tree.owner);
        // As bottle makes it: nobody else may look into a state folder.
        let private = &mut std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(private, 0o700);
        private.recursive(true).create(&dir).unwrap();
        let path = dir.join("lock");
        std::fs::write(&path, r#"{"pid":4242,"command":"watch","since":1}"#).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.lock().unwrap();
        file
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Also after a failure, and of a tree that the test broke; it must not hide the test's own.
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

/// A child that ends with the test.
pub(super) struct Running(pub(super) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.0.kill().expect("our own child can be killed");
            self.0.wait().expect("our own child can be waited for");
        }
    }
}

/// The text without what differs from run to run.
fn steady(rig: &Rig, text: &str) -> String {
    let text = text.replace(&rig.tree.owner, "TREE").replace(rig.path(), "PATH");
    let words = text.split_inclusive(char::is_whitespace);
    let time = |word: &str| word.trim().parse::<f64>().is_ok() && word.contains('.');
    words.map(|word| if time(word) { "0.00 ".to_owned() } else { word.to_owned() }).collect()
}

#[test]
fn from_nothing_to_nothing() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "run: [echo, hello]", "You are ada.");
    rig.tree.agent("bob", "dev", "", "You are bob.");

    let plan = rig.run(&["plan"]).exits(2);
    let shown = "\
tree TREE · 2 sandboxes on native

  + ada  create  native  bottle dev, image host
  + bob  create  native  bottle dev, image host

plan: 2 create
";
    assert_eq!(steady(&rig, &plan.stdout), shown);
    assert_eq!(plan.stderr, "");

    let refused = rig.run(&["apply"]).exits(1);
    assert_eq!(steady(&rig, &refused.stdout), shown);
    assert_eq!(
        refused.stderr,
        "error: there is no terminal to ask on; nothing was changed\n  \
         hint: `bottle apply --yes` does not ask\n"
    );
    let document = rig.json(&["apply"], 1);
    assert_eq!(document["error"]["kind"], "refused");
    assert_eq!(document["summary"]["create"], 2);

    let applied = rig.run(&["apply", "--yes", "--jobs", "1"]).exits(0);
    let report = "
  ✓ ada  created  0.00 s
  ✓ bob  created  0.00 s
2 of 2 done.
";
    let stdout = steady(&rig, &applied.stdout);
    let told: String = stdout.replace("created    ", "created  ");
    assert!(told.starts_with(shown), "{told}");
    assert!(told.contains(report.trim_start_matches('\n')), "{told}");
    assert!(applied.stderr.contains("ada: create machine: done in"), "{}", applied.stderr);
    assert_eq!(rig.run(&["apply", "--yes", "-q"]).exits(0).stderr, "");

    // With nothing to do nobody is asked.
    let nothing = rig.run(&["apply"]).exits(0);
    let quiet = "\
tree TREE · 2 sandboxes on native

no changes: 2 sandboxes are as they should be
";
    assert_eq!(steady(&rig, &nothing.stdout), quiet);
    rig.run(&["plan"]).exits(0);

    let status = rig.json(&["status"], 0);
    assert_eq!(status["sandboxes"][0]["sandbox"], "ada");
    assert_eq!(status["sandboxes"][0]["state"], "running");
    assert_eq!(status["sandboxes"][0]["verdict"], "keep");
    assert_eq!(status["sandboxes"][0]["last"]["verdict"], "create");
    let text = rig.run(&["status"]).exits(0).stdout;
    let head = text.lines().nth(2).unwrap();
    assert_eq!(head, "NAME  BACKEND  STATE    AGE  LAST        DRIFT");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    assert_eq!(rig.run(&["run", "ada"]).exits(0).stdout, "hello\n");
    assert_eq!(rig.run(&["run", "ada", "--", "-n", "x"]).exits(0).stdout, "hello -n x\n");

    let down = rig.run(&["down"]).exits(1);
    assert!(down.stderr.contains("`bottle down --yes` does not ask"), "{}", down.stderr);
    let down = rig.run(&["down", "--yes"]).exits(0);
    assert!(down.stdout.contains("down: 2 teardown\n"), "{}", down.stdout);
    assert!(down.stdout.ends_with("2 of 2 done.\n"), "{}", down.stdout);
    let receipts = rig.cli.state().join("trees").join(&rig.tree.owner).join("receipts");
    assert_eq!(std::fs::read_dir(receipts).unwrap().count(), 0);
    assert!(rig.run(&["down"]).exits(0).stdout.contains("there is nothing to do"));
}

#[test]
fn exec_is_the_command() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let missing = rig.run(&["exec", "ada", "--", "true"]).exits(125);
    assert!(missing.stderr.contains("`bottle apply` makes it"), "{}", missing.stderr);
    rig.run(&["apply", "--yes"]).exits(0);
    let ended = rig.run(&["exec", "ada", "--", "sh", "-c", "echo out; echo err >&2; exit 37"]);
    let ended = ended.exits(37);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    let args = ["--tree", rig.path(), "exec", "-i", "ada", "--", "wc", "-c"];
    let fed = rig.cli.run_with(args, &vec![b'x'; 300_000]).exits(0);
    assert_eq!(fed.stdout.trim(), "300000");
    // Without -i there is nothing to read.
    let args = ["--tree", rig.path(), "exec", "ada", "--", "wc", "-c"];
    assert_eq!(rig.cli.run_with(args, b"abc").exits(0).stdout.trim(), "0");
    assert_eq!(rig.run(&["exec", "ada", "-w", "/usr", "--", "pwd"]).exits(0).stdout, "/usr\n");
    rig.run(&["exec", "ada", "--", "no-such-program"]).exits(127);
    rig.run(&["exec", "ada", "--", "/etc/passwd"]).exits(126);
    let unknown = rig.run(&["exec", "zed", "--", "true"]).exits(125);
    assert_eq!(unknown.stderr, "error: there is no sandbox zed; there are: ada\n");
    rig.run(&["exec", "No", "--", "true"]).exits(125);
}

#[test]
fn a_backend_that_cannot_be_reached_is_not_one_without_sandboxes() {
    let rig = Rig::new();
    rig.tree.bottle("far", "backend: docker\nimage: busybox");
    rig.tree.agent("bob", "far", "", "You are bob.");
    for args in [["exec", "bob", "--", "true"].as_slice(), &["logs", "bob"]] {
        let args = [&["--tree", rig.path()], args].concat();
        let mut command = rig.cli.command(args);
        let output = command.env("DOCKER_HOST", "unix:///nowhere/docker.sock").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("bob is to be on docker, which cannot be reached"), "{told}");
    }
}

#[test]
fn what_is_held_is_told_and_the_rest_is_done() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.tree.agent("bob", "dev", "skils: []", "You are bob.");
    let applied = rig.json(&["apply", "--yes"], 3);
    assert_eq!(
        applied["summary"],
        json!({
            "create": 1, "reprovision": 0, "replace": 0, "teardown": 0, "hold": 1, "keep": 0
        })
    );
    let outcomes = applied["outcomes"].as_array().unwrap();
    assert!(!outcomes.is_empty() && outcomes.iter().all(|o| o["outcome"] == "done"), "{applied}");
    // Nothing to do, but something is held.
    let held = rig.run(&["plan"]).exits(3);
    assert!(held.stdout.contains("  ! bob  hold  agents/bob.md:3:1 (below)\n"), "{}", held.stdout);
    assert!(held.stdout.contains("error: unknown key `skils`"), "{}", held.stdout);
    assert!(held.stdout.ends_with("no changes: 1 sandbox is as it should be, 1 held\n"));
    rig.run(&["apply"]).exits(3);
    // Suspended is not held.
    rig.tree.agent("bob", "dev", "suspend: true", "You are bob.");
    rig.run(&["plan"]).exits(0);
    // Told by name, only some are looked at; names that nobody knows are a mistake.
    rig.tree.agent("bob", "dev", "skils: []", "You are bob.");
    rig.run(&["plan", "--only", "ada"]).exits(0);
    let unknown = rig.run(&["plan", "--only", "ada", "zed"]).exits(1);
    assert_eq!(unknown.stderr, "error: there is no sandbox zed\n  hint: there are: ada, bob\n");
    assert_eq!(rig.run(&["run", "bob"]).exits(125).stdout, "");
}

#[test]
fn a_failure_is_partly_done() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.tree.bottle("bad", "backend: native\nimage: ./missing.tar");
    rig.tree.write("bottles/missing.tar", "this is no tar");
    rig.tree.agent("bob", "bad", "", "You are bob.");
    let applied = rig.run(&["apply", "--yes"]).exits(3);
    assert!(applied.stdout.contains("  ✓ ada"), "{}", applied.stdout);
    assert!(applied.stdout.contains("  ✗ bob  create failed"), "{}", applied.stdout);
    let last = applied.stdout.lines().last().unwrap();
    assert_eq!(last, "1 of 2 done, 1 failed. Next: set right what failed, then `bottle apply`.");
    let status = rig.run(&["status"]).exits(0).stdout;
    assert!(status.contains("\nfailed: bob, "), "{status}");
}

#[test]
fn a_saved_plan_is_void_once_something_moved() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let file = rig.cli.home().join("plan.json");
    let file = file.to_str().unwrap();
    rig.run(&["plan", "--out", file]).exits(2);
    let other = rig.cli.run(["apply", file, "--only", "ada"]).exits(1);
    assert!(other.stderr.contains("a saved plan carries"), "{}", other.stderr);
    rig.tree.agent("ada", "dev", "", "You are somebody else.");
    let moved = rig.cli.run(["apply", file, "--yes"]).exits(1);
    assert!(moved.stderr.contains("has moved since this plan was saved"), "{}", moved.stderr);
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.cli.run(["apply", file, "--yes"]).exits(0);
    rig.run(&["plan"]).exits(0);
    rig.cli.run(["apply", file, "--yes"]).exits(1);
    std::fs::write(file, "{}").unwrap();
    assert!(rig.cli.run(["apply", file]).exits(1).stderr.contains("is no saved plan"));
}

#[test]
fn the_lock_names_its_holder() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let lock = rig.hold_lock();
    for command in ["apply", "down"] {
        let locked = rig.run(&[command, "--yes", "--lock-timeout", "0"]).exits(75);
        assert!(locked.stderr.contains("`bottle watch`, process 4242, for "), "{}", locked.stderr);
    }
    let waited = rig.run(&["apply", "--yes", "--lock-timeout", "1"]).exits(75);
    assert!(waited.stderr.contains("; waiting up to 1 s\n"), "{}", waited.stderr);
    // What only looks needs no lock.
    rig.run(&["plan"]).exits(2);
    rig.run(&["status"]).exits(0);
    drop(lock);
    rig.run(&["apply", "--yes"]).exits(0);
}

#[test]
fn a_name_belongs_to_one_tree() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    let other = TempTree::new("cli");
    other.write("bottle.yaml", &format!("name: {}\n", rig.tree.owner));
    let path = other.path().to_str().unwrap();
    for command in ["apply", "down"] {
        let taken = rig.cli.run([command, path, "--yes"]).exits(1);
        assert!(taken.stderr.contains("belongs to the tree"), "{}", taken.stderr);
        assert!(taken.stderr.contains("--adopt"), "{}", taken.stderr);
    }
    rig.run(&["exec", "ada", "--", "true"]).exits(0);
}

#[test]
fn a_tree_without_agents_removes_nothing() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    rig.tree.remove("agents/ada.md");
    assert!(rig.run(&["plan"]).exits(2).stdout.contains("refused: "));
    let refused = rig.run(&["apply", "--yes"]).exits(1);
    assert!(refused.stderr.contains("nothing was changed"), "{}", refused.stderr);
    assert!(refused.stderr.contains("`--allow-teardown 1`"), "{}", refused.stderr);
    rig.run(&["exec", "ada", "--", "true"]).exits(0);
    rig.run(&["apply", "--yes", "--allow-teardown", "1"]).exits(0);
    rig.run(&["exec", "ada", "--", "true"]).exits(125);
}

#[test]
fn down_of_a_tree_that_is_broken_or_gone() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    for damage in ["broken", "gone"] {
        rig.tree.write("bottle.yaml", &format!("name: {}\n", rig.tree.owner));
        rig.run(&["apply", "--yes"]).exits(0);
        match damage {
            "broken" => drop(rig.tree.write("bottle.yaml", "nam: [")),
            _ => std::fs::remove_dir_all(rig.tree.path()).unwrap(),
        }
        let down = rig.run(&["down", "--yes"]).exits(0);
        assert!(down.stdout.contains("✓ ada  torn down"), "{damage}: {}", down.stdout);
    }
    std::fs::create_dir(rig.tree.path()).unwrap();
}

#[test]
fn logs_of_a_command() {
    let rig = Rig::new();
    rig.tree.agent(
        "ada",
        "dev",
        "command: [sh, -c, 'echo one; echo two; exit 7']\nrestart: never",
        "",
    );
    rig.run(&["apply", "--yes"]).exits(0);
    let mut status = Value::Null;
    for _ in 0..100 {
        status = rig.json(&["status"], 0);
        if status["sandboxes"][0]["state"] == "failed" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(status["sandboxes"][0]["code"], 7, "{status}");
    assert_eq!(status["sandboxes"][0]["output"], json!(["one", "two"]), "{status}");
    assert_eq!(rig.run(&["logs", "ada"]).exits(0).stdout, "one\ntwo\n");
    assert_eq!(rig.run(&["logs", "ada", "--tail", "1"]).exits(0).stdout, "two\n");
    let sidecar = rig.run(&["logs", "ada", "--sidecar"]).exits(1);
    assert!(sidecar.stderr.contains("ada has no sidecar"), "{}", sidecar.stderr);
}

#[test]
fn watch_tells_of_every_pass_and_holds_the_lock() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let out = rig.cli.home().join("passes.jsonl");
    let watch = rig
        .cli
        .command(["--tree", rig.path(), "-o", "json", "watch", "--debounce", "50ms"])
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut watch = Running(watch);
    let passes = || -> Vec<Value> {
        let text = std::fs::read_to_string(&out).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let wait = |what: &str, there: &dyn Fn(&[Value]) -> bool| {
        for _ in 0..400 {
            if there(&passes()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("no {what}: {:?}", passes());
    };
    wait("first pass", &|passes| !passes.is_empty());
    let first = &passes()[0];
    assert_eq!(first["causes"], json!(["start"]));
    assert_eq!(first["summary"]["create"], 1);
    assert_eq!(first["outcomes"][0]["outcome"], "done");
    let locked = rig.run(&["apply", "--yes", "--lock-timeout", "0"]).exits(75);
    assert!(locked.stderr.contains(&format!("process {}", watch.0.id())), "{}", locked.stderr);
    rig.tree.write("bottle.yaml", "nam: [\n");
    wait("broken tree", &|passes| passes.iter().any(|pass| pass["error"].is_object()));
    rig.tree.write("bottle.yaml", &format!("name: {}\n", rig.tree.owner));
    rig.tree.agent("ada", "dev", "", "You are somebody else.");
    wait("edit", &|passes| passes.iter().any(|pass| pass["summary"]["reprovision"] == 1));
    let pid = watch.0.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(watch.0.wait().unwrap().code(), Some(0));
    rig.run(&["plan"]).exits(0);
}
