//! A native sandbox with a policy, by the command line: made, used, killed in parts, repaired by the
//! next pass, changed in place, taken away.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Cli, Ended, Far, TempTree};

struct Rig {
    cli: Cli,
    tree: TempTree,
}

impl Rig {
    fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run(all)
    }

    fn allow(&self, hosts: &str) {
        let resources = "resources:\n  memory: 128M\n  pids: 64";
        let egress = format!("egress:\n  allowlist: [{hosts}]");
        self.tree.bottle("near", &format!("backend: native\nimage: host\n{resources}\n{egress}"));
    }

    /// What a request from inside is answered.
    fn get(&self, host: &str) -> String {
        let url = format!("http://{host}/");
        let get = ["exec", "ada", "--", "curl", "-sS", "-m", "10", "-w", "%{http_code}", &url];
        self.run(&get).stdout.trim().replace('\n', " ")
    }

    /// The process that a record of the state folder names.
    fn process(&self, record: &str) -> i32 {
        let path = find(&self.cli.state(), record).expect("it is recorded");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let pid = run["pid"].as_i64().or_else(|| run["process"]["pid"].as_i64()).unwrap();
        i32::try_from(pid).unwrap()
    }
}

const SIDECAR: &str = "sidecars/native/ada/run.json";
const MACHINE: &str = "native/ada/run.json";

/// The file whose path ends so.
fn find(folder: &Path, end: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with(end) && !(end == MACHINE && path.ends_with(SIDECAR)) {
            return Some(path);
        }
        // Not into the sandbox's own files.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && !["root", "upper", "work"].iter().any(|name| path.ends_with(name))
            && let Some(found) = find(&path, end)
        {
            return Some(found);
        }
    }
    None
}

/// Kills it and waits until it is dead: reaped, or waiting for that.
fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    for _ in 0..400 {
        if !alive(pid) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{pid} lives");
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']) && !rest.is_empty())
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

#[test]
fn a_life() {
    let far = Far::new();
    let mut rig = Rig { cli: Cli::new(), tree: TempTree::new("wayout") };
    rig.cli.env("BOTTLE_TEST_SIDECAR_DOCUMENT", far.overlay());
    rig.allow("\"allowed.test:80\"");
    rig.tree.agent("ada", "near", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert!(rig.get("denied.test").ends_with("403"));
    rig.run(&["plan"]).exits(0);

    // Each part is killed: the next pass sets it right, and nothing else.
    let (sidecar, machine) = (rig.process(SIDECAR), rig.process(MACHINE));
    kill(sidecar);
    assert!(rig.get("allowed.test").ends_with("000"));
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert_ne!(rig.process(SIDECAR), sidecar);
    assert_eq!(rig.process(MACHINE), machine);
    let sidecar = rig.process(SIDECAR);
    kill(machine);
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert_eq!(rig.process(SIDECAR), sidecar);

    // A change of policy is loaded into what runs.
    let machine = rig.process(MACHINE);
    rig.allow("\"other.test:80\"");
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.get("other.test"), "far other.test 200");
    assert!(rig.get("allowed.test").ends_with("403"));
    assert_eq!((rig.process(SIDECAR), rig.process(MACHINE)), (sidecar, machine));
    rig.run(&["plan"]).exits(0);

    rig.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert!(!alive(sidecar) && !alive(machine));
    assert_eq!(find(&rig.cli.state(), SIDECAR), None);
    assert_eq!(find(&rig.cli.state(), "own/control"), None);
}

/// A laptop that changes networks: what is true now reaches what runs, and nothing is restarted.
#[test]
fn the_hosts_name_servers_are_loaded_when_they_change() {
    let (home, office) = (Far::new(), Far::new());
    let mut rig = Rig { cli: Cli::new(), tree: TempTree::new("moving") };
    rig.cli.env("BOTTLE_TEST_SIDECAR_DOCUMENT", home.overlay());
    rig.allow("\"allowed.test:80\", \"printer.test:80\"");
    rig.tree.agent("ada", "near", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert!(!home.seen().is_empty());
    rig.run(&["plan"]).exits(0);
    let (sidecar, machine) = (rig.process(SIDECAR), rig.process(MACHINE));

    rig.cli.env("BOTTLE_TEST_SIDECAR_DOCUMENT", office.overlay());
    let plan = rig.run(&["plan"]).exits(2);
    assert!(plan.stdout.contains("host_names"), "{}", plan.stdout);
    rig.run(&["apply", "--yes"]).exits(0);
    rig.run(&["plan"]).exits(0);
    home.seen();
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert!(!office.seen().is_empty(), "the server of now is asked");
    assert!(home.seen().is_empty(), "and the one of before is not");

    // The same for the file of hosts.
    let mut overlay: serde_json::Value = serde_json::from_str(&office.overlay()).unwrap();
    overlay["hosts"] = "192.0.2.7 printer.test".into();
    rig.cli.env("BOTTLE_TEST_SIDECAR_DOCUMENT", overlay.to_string());
    rig.run(&["plan"]).exits(2);
    rig.run(&["apply", "--yes"]).exits(0);
    rig.run(&["plan"]).exits(0);
    assert_eq!(rig.get("allowed.test"), "far allowed.test 200");
    assert_eq!((rig.process(SIDECAR), rig.process(MACHINE)), (sidecar, machine));
}

/// Its key goes when the sidecar goes, also when the run that took it away was killed half-way.
#[test]
fn the_key_of_a_ca_goes_with_its_sidecar() {
    let far = Far::new();
    let mut rig = Rig { cli: Cli::new(), tree: TempTree::new("key") };
    rig.cli.env("BOTTLE_TEST_SIDECAR_DOCUMENT", far.overlay());
    rig.allow("\"allowed.test:80\"");
    rig.tree.agent("ada", "near", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    let key = find(&rig.cli.state(), "ca/ada.json").expect("it has a CA");
    let memory = key.parent().unwrap().parent().unwrap().to_owned();
    let content = std::fs::read(&key).unwrap();
    let receipts = |memory: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let all = std::fs::read_dir(memory.join("receipts")).unwrap().flatten();
        all.map(|entry| (entry.path(), std::fs::read(entry.path()).unwrap())).collect()
    };
    let before = receipts(&memory);
    assert!(!before.is_empty());

    rig.tree.bottle("near", "backend: native\nimage: host\nresources:\n  memory: 128M\n  pids: 64");
    rig.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    assert_eq!(find(&rig.cli.state(), SIDECAR), None);
    assert!(!key.exists(), "egress was switched off");

    // As a kill between the removal and what is written of it leaves it.
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, &content).unwrap();
    let now: Vec<PathBuf> = receipts(&memory).into_iter().map(|(path, _)| path).collect();
    for (path, text) in before.iter().filter(|(path, _)| !now.contains(path)) {
        std::fs::write(path, text).unwrap();
    }
    rig.run(&["apply", "--yes"]).exits(0);
    assert!(!key.exists(), "the next run removes it");

    rig.allow("\"allowed.test:80\"");
    rig.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    let key = find(&rig.cli.state(), "ca/ada.json").expect("it has one again");
    rig.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert!(!key.exists());
}
