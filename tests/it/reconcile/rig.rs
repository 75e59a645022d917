//! A backend, a tree on it, and what a test does to both from outside.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{self, Cli, Ended, TempTree};

pub(super) struct Rig {
    pub(super) backend: &'static str,
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
    image: &'static str,
}

impl Rig {
    pub(super) fn native(what: &str) -> Self {
        Self::new("native", what)
    }

    /// `None` where Docker tests are left out.
    pub(super) fn docker(what: &str) -> Option<Self> {
        support::docker(&format!("reconcile::docker::{what}")).then(|| Self::new("docker", what))
    }

    fn new(backend: &'static str, what: &str) -> Self {
        // The owner's name has a limit, and the scenario's name is for people.
        let short: String = what.chars().filter(char::is_ascii_lowercase).take(16).collect();
        let image = if backend == "docker" { "bottle-test-busybox:1" } else { "host" };
        let rig = Self { backend, cli: Cli::new(), tree: TempTree::new(&short), image };
        rig.bottle("");
        rig.tree.skill("greet", "SKILL.md", "say hi\n").skill("greet", "notes.txt", "one\n");
        rig
    }

    /// Another, on the same backend.
    pub(super) fn like(other: &Self) -> Self {
        Self::new(other.backend, "like")
    }

    /// On Docker, with this machine's own programs, git among them; `None` where they are left out.
    pub(super) fn docker_with_git(what: &str) -> Option<Self> {
        let mut rig = Self::docker(what)?;
        rig.image = crate::egress::world::image(&format!("reconcile::docker::{what}"))?;
        rig.bottle("");
        Some(rig)
    }

    pub(super) fn image(&self) -> &'static str {
        self.image
    }

    /// Writes the bottle `dev`: small, on this backend, and what is said beside that.
    pub(super) fn bottle(&self, more: &str) {
        self.bottle_with("memory: 128M", more);
    }

    pub(super) fn bottle_with(&self, limits: &str, more: &str) {
        let (backend, image) = (self.backend, self.image());
        self.tree.bottle(
            "dev",
            &format!(
                "backend: {backend}\nimage: {image}\nresources:\n  pids: 64\n  {limits}\n{more}"
            ),
        );
    }

    pub(super) fn agent(&self, name: &str, prompt: &str) {
        self.tree.agent(name, "dev", "skills: [greet]", prompt);
    }

    pub(super) fn agents(&self, count: usize) -> Vec<String> {
        let names: Vec<String> = (0..count).map(|n| format!("a{n}")).collect();
        for name in &names {
            self.agent(name, &format!("You are {name}."));
        }
        names
    }

    pub(super) fn tree_path(&self) -> String {
        self.tree.path().display().to_string()
    }

    pub(super) fn plan(&self) -> Ended {
        self.cli.run(["-o", "json", "plan", &self.tree_path()])
    }

    pub(super) fn apply_with(&self, more: &[&str]) -> Ended {
        let tree = self.tree_path();
        let mut args = vec!["-o", "json", "apply", &tree, "--yes"];
        args.extend(more);
        self.cli.run(args)
    }

    /// Applies, which must end with `code`, and returns the document.
    #[track_caller]
    pub(super) fn apply(&self, code: i32) -> Value {
        self.apply_with(&[]).exits(code).json()
    }

    /// A command that applies, to be started by the test itself.
    pub(super) fn applier(&self) -> Command {
        let mut command = self.cli.command(["apply", "--yes", "--allow-teardown", "all"]);
        command.arg(self.tree.path());
        command
    }

    pub(super) fn down(&self) -> Ended {
        self.down_with(&[])
    }

    pub(super) fn down_with(&self, more: &[&str]) -> Ended {
        let tree = self.tree_path();
        let mut args = vec!["down", &tree, "--yes", "--allow-teardown", "all"];
        args.extend(more);
        self.cli.run(args)
    }

    #[track_caller]
    pub(super) fn converged(&self) {
        let plan = self.plan().exits(0).json();
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }

    pub(super) fn exec(&self, name: &str, script: &str) -> Ended {
        let tree = self.tree_path();
        self.cli.run(["--tree", &tree, "exec", name, "--", "sh", "-c", script])
    }

    #[track_caller]
    pub(super) fn inside(&self, name: &str, script: &str) -> String {
        self.exec(name, script).exits(0).stdout.trim().to_owned()
    }

    /// The folder of the state folder that belongs to this tree.
    pub(super) fn memory(&self) -> std::path::PathBuf {
        self.cli.state().join("trees").join(&self.tree.owner)
    }

    /// Ends the machine from outside, as a crash or another person would.
    pub(super) fn crash(&self, name: &str) {
        match self.backend {
            "docker" => {
                let container = self.container(name);
                docker(&["kill", &container]);
                // Newer engines answer before they have seen it end.
                docker(&["wait", &container]);
            }
            _ => {
                let pid = self.init_pid(name);
                let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
                assert!(killed.expect("kill can be run").success(), "kill {pid}");
                wait_for("the init to end", || !alive(pid));
            }
        }
    }

    /// The first process of a native sandbox, as the host sees it.
    fn init_pid(&self, name: &str) -> u32 {
        // A process of ours inside says how the host's /proc names its pid namespace.
        let namespace = self.inside(name, "readlink /proc/self/ns/pid");
        for entry in std::fs::read_dir("/proc").expect("/proc can be read") {
            let entry = entry.expect("/proc can be read");
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let same = std::fs::read_link(entry.path().join("ns/pid"))
                .is_ok_and(|link| link.to_string_lossy() == namespace);
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let first = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .is_some_and(|pids| pids.split_whitespace().last() == Some("1"));
            if same && first {
                return pid;
            }
        }
        panic!("no process 1 of {namespace}");
    }

    /// The container of a sandbox.
    pub(super) fn container(&self, name: &str) -> String {
        let sandbox = format!("label=io.bottle.sandbox={name}");
        let machine = "label=io.bottle.resource=machine";
        let ids = self.containers(&["--filter", &sandbox, "--filter", machine]);
        assert_eq!(ids.len(), 1, "containers of {name}: {ids:?}");
        ids[0].clone()
    }

    /// All containers of this tree.
    pub(super) fn containers(&self, more: &[&str]) -> Vec<String> {
        let owner = format!("label=io.bottle.owner={}", self.tree.owner);
        let mut args = vec!["ps", "-aq", "--no-trunc", "--filter", &owner];
        args.extend(more);
        docker(&args).split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let down = self.down_with(&["--discard", "all"]);
        if down.code != Some(0) {
            eprintln!("down of {}: {}", self.tree.owner, down.stderr);
            if self.backend == "docker" {
                for id in self.containers(&[]) {
                    docker(&["rm", "-f", &id]);
                }
            }
            if !std::thread::panicking() {
                panic!("down has failed");
            }
        }
    }
}

fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Runs the docker client, which must succeed.
#[track_caller]
pub(super) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("the docker client can be run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("docker prints UTF-8")
}

/// Looks until it is so; fails after a time that only something broken needs.
#[track_caller]
pub(super) fn wait_for(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// The sandboxes that a plan does something with, and what: `a1 reprovision`.
pub(super) fn verdicts(plan: &Value) -> Vec<String> {
    let mut heaviest: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
    let order = ["keep", "hold", "reprovision", "create", "replace", "teardown"];
    let rank = |verdict: &str| order.iter().position(|known| *known == verdict);
    for change in plan["changes"].as_array().expect("a plan has changes") {
        let sandbox = change["sandbox"].as_str().expect("a change has a sandbox");
        let verdict = change["verdict"].as_str().expect("a change has a verdict");
        let entry = heaviest.entry(sandbox).or_insert(verdict);
        if rank(verdict) > rank(entry) {
            *entry = verdict;
        }
    }
    heaviest
        .into_iter()
        .filter(|(_, verdict)| *verdict != "keep")
        .map(|(sandbox, verdict)| format!("{sandbox} {verdict}"))
        .collect()
}
