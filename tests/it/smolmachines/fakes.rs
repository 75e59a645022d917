//! A `smolvm` that hangs, prints garbage, dies, is of another version or is not there: a clear
//! error within its deadline, everything else goes on, and nothing is removed.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bottle::backend::docker::Docker;
use bottle::backend::smolmachines::{Settings, Smolmachines};
use bottle::backend::{Backend, Depth, Scope};
use bottle::model::{OwnerId, ResourceSpec};

use crate::support::{Cli, Ended, TempTree};

/// What a program of the right version does that has one machine of each kind of ours: none.
const WELL: &str = r#"case "$*" in
--version) echo 'smolvm 1.32.2' ;;
'machine ls --json') echo '[]' ;;
*) echo '{"error":{"code":"SMOLVM_ERROR","message":"out of order"}}' >&2; exit 1 ;;
esac"#;

/// A tree with one sandbox on native and one on smolmachines, and the fake.
struct Rig {
    cli: Cli,
    tree: TempTree,
}

impl Rig {
    fn new() -> Self {
        let rig = Self { cli: Cli::new(), tree: TempTree::new("fakes") };
        let resources = "resources:\n  memory: 128M\n  pids: 64";
        rig.tree.bottle("near", &format!("backend: native\nimage: host\n{resources}"));
        rig.tree.bottle("far", &format!("backend: smolmachines\n{resources}"));
        rig.tree.agent("ada", "near", "", "You are ada.");
        rig.tree.agent("bob", "far", "", "You are bob.");
        rig
    }

    fn program(&self) -> PathBuf {
        self.cli.home().join("smolvm")
    }

    /// Writes the program, which notes each of its calls.
    fn fake(&mut self, script: &str) -> &mut Self {
        let path = self.program();
        let calls = self.cli.home().join("calls");
        let text = format!("#!/bin/sh\necho \"$*\" >>'{}'\n{script}\n", calls.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.named(path)
    }

    fn named(&mut self, path: PathBuf) -> &mut Self {
        self.cli.env("BOTTLE_SMOLVM", path);
        self
    }

    fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run(all)
    }

    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.cli.home().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The one on native is made, the other one is held or has failed, for a reason that is said.
    #[track_caller]
    fn converges_but_for(&self, reason: &str) {
        let begun = Instant::now();
        let applied = self.run(&["apply", "--yes"]).exits(3);
        assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
        let said = format!("{}{}", applied.stdout, applied.stderr);
        assert!(applied.stdout.contains("✓ ada"), "{said}");
        assert!(said.contains(reason), "{reason:?} is not in:\n{said}");
        assert!(said.len() < 16 * 1024, "{} bytes were printed", said.len());
        let removed = self.calls().into_iter().find(|call| call.contains("delete"));
        assert_eq!(removed, None, "nothing is to be removed");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

#[test]
fn one_that_is_missing() {
    let mut rig = Rig::new();
    let path = rig.cli.home().join("nowhere");
    rig.named(path);
    rig.converges_but_for("which does not exist");
}

#[test]
fn one_that_is_not_executable() {
    let mut rig = Rig::new();
    rig.fake(WELL);
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(rig.program(), mode).unwrap();
    rig.converges_but_for("is not an executable file");
}

#[test]
fn one_that_cannot_be_started() {
    let mut rig = Rig::new();
    rig.fake("");
    std::fs::write(rig.program(), "#!/nonexistent/interpreter\n").unwrap();
    rig.converges_but_for("cannot be run");
}

#[test]
fn one_that_hangs() {
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("echo '[]'", "exec sleep 1000"));
    rig.converges_but_for("did not end within 15 s");
    let mut rig = Rig::new();
    rig.fake("exec sleep 1000");
    rig.converges_but_for("did not end within 10 s");
}

#[test]
fn one_that_prints_garbage() {
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("echo '[]'", r"printf 'panic: \033[31m\000\377 at line 7\n'"));
    rig.converges_but_for("printed no JSON");
    let mut rig = Rig::new();
    rig.fake("echo hello");
    rig.converges_but_for("is not smolvm");
}

#[test]
fn one_that_prints_megabytes() {
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("echo '[]'", "head -c 80000000 /dev/zero; echo oops >&2"));
    rig.converges_but_for("printed more than");
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("echo '[]'", "head -c 20000000 /dev/zero >&2; exit 1"));
    rig.converges_but_for("smolvm ended with 1");
}

#[test]
fn one_that_dies_by_a_signal() {
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("echo '[]'", "kill -SEGV $$"));
    rig.converges_but_for("was ended by signal 11");
}

#[test]
fn one_of_another_age() {
    for (version, said) in
        [("1.8.3", "it shows no labels"), ("3.0.0", "newer than what this bottle knows")]
    {
        let mut rig = Rig::new();
        rig.fake(&WELL.replace("1.32.2", version));
        rig.converges_but_for(said);
    }
    // This one is old, and will do.
    let mut rig = Rig::new();
    rig.fake(&WELL.replace("1.32.2", "1.9.2"));
    let planned = rig.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("plan: 2 create"), "{planned}");
}

#[test]
fn the_callers_shell_has_no_say() {
    let mut rig = Rig::new();
    rig.fake(&format!("env | cut -d= -f1 >>\"{}.env\"\n{WELL}", rig.program().display()));
    for name in [
        "SMOLVM_MACHINE_NAME",
        "SMOLVM_ALLOW_HOST_LOOPBACK",
        "SMOLVM_EGRESS_FLOOR",
        "SMOLVM_EGRESS_ALLOW_PRIVATE",
        "SMOLVM_PUBLISH_ADDR",
    ] {
        rig.cli.env(name, "1");
    }
    // The operator's credentials are none of its business: a machine's process keeps its environment.
    for name in ["CANARY", "GITHUB_TOKEN", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY"] {
        rig.cli.env(name, "secret");
    }
    // Where things are, and how images are fetched.
    let passed = ["SMOLVM_DATA_DIR", "DOCKER_CONFIG", "https_proxy"];
    for name in passed {
        rig.cli.env(name, "/nonexistent/data");
    }
    rig.run(&["plan"]).exits(2);
    let seen = std::fs::read_to_string(rig.cli.home().join("smolvm.env")).unwrap();
    let mut seen: std::collections::BTreeSet<&str> = seen.lines().collect();
    for name in passed {
        assert!(seen.remove(name), "{name} is not in {seen:?}");
    }
    // What tests are run with, and what a shell sets for itself.
    for name in ["PATH", "HOME", "RUST_BACKTRACE", "PWD", "OLDPWD", "SHLVL", "_"] {
        seen.remove(name);
    }
    assert_eq!(seen, std::collections::BTreeSet::new());
}

#[test]
fn nobody_hears_of_a_program_that_nobody_needs() {
    let mut rig = Rig::new();
    rig.tree.remove("agents/bob.md");
    let path = rig.cli.home().join("nowhere");
    rig.named(path);
    for args in [&["plan"][..], &["apply", "--yes"], &["status"], &["plan"]] {
        let ended = rig.run(args);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains("smol"), "{args:?}: {said}");
    }
    rig.run(&["plan"]).exits(0);
}

#[test]
fn a_plan_costs_one_call() {
    let mut rig = Rig::new();
    rig.fake(WELL);
    rig.run(&["plan"]).exits(2);
    assert_eq!(rig.calls(), ["--version", "machine ls --json"], "the version is asked for once");
    rig.run(&["plan"]).exits(2);
    assert_eq!(rig.calls()[2..], ["machine ls --json"]);
}

/// Where the process below finds the program, and may keep what it needs.
const FOLDER: &str = "BOTTLE_TEST_ORPHAN";

fn in_folder(folder: &std::path::Path) -> (Smolmachines, Scope) {
    let program = Some(folder.join("smolvm"));
    let settings = Settings { program, path: std::env::var_os("PATH"), ..Settings::default() };
    let scope = Scope {
        owner: OwnerId::new("tests").unwrap(),
        state: "here".to_owned(),
        adopted: BTreeSet::new(),
        data: folder.join("state"),
        hidden: Vec::new(),
        places: Default::default(),
    };
    (Smolmachines::new(settings, Docker::from_env()), scope)
}

/// Not a test by itself: started by the one below, and killed while it waits for the program.
#[tokio::test]
async fn makes_a_machine_and_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (backend, scope) = in_folder(folder.as_ref());
    let spec = ResourceSpec::Machine(super::real::machine("ada"));
    let made = backend.create(&scope, &spec).await;
    panic!("it was not killed: {made:?}");
}

/// The program goes on with what a killed `bottle` has asked it for. The next one looks after that.
#[tokio::test]
async fn what_a_killed_run_began_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("smolvm");
    let calls = folder.path().join("calls");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>'{0}'\ncase \"$*\" in\n--version) echo 'smolvm 1.32.2' ;;\n\
         'machine ls --json') echo '[]' ;;\n'machine create '*) sleep 5; echo made >>'{0}' ;;\nesac\n",
        calls.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let calls = || -> Vec<String> {
        let calls = std::fs::read_to_string(&calls).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    };
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "smolmachines::fakes::makes_a_machine_and_is_killed"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !calls().iter().any(|call| call.starts_with("machine create")) {
        assert!(begun.elapsed() < Duration::from_secs(20) && maker.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    maker.kill().unwrap();
    maker.wait().unwrap();
    let before = calls();
    assert!(!before.iter().any(|call| call == "made"), "it was killed in time: {before:?}");
    let (backend, scope) = in_folder(folder.path());
    for expected in [&["made", "machine ls --json"][..], &["machine ls --json"]] {
        let before = calls().len();
        backend.settle(&scope).await;
        backend.observe(&scope, Depth::Listing).await.unwrap();
        assert_eq!(calls()[before..], *expected, "first it ends, then it is looked at");
    }
}
