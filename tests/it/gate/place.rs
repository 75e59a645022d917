//! A tree with `git`, a sandbox on some backend, and a real `sshd` on the other side.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::upstream::{Repository, Upstream};
use crate::support::{Cli, Ended, TempTree};

/// How a bottle on native begins.
pub(super) const NATIVE: &str = "backend: native\n";

/// A sandbox `ada` with the repository `app`.
pub(super) struct Place {
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
    pub(super) upstream: Upstream,
    pub(super) app: Repository,
    /// The lines of the bottle that say where it is, each a backend and what it needs.
    begins: String,
}

/// Of no token that anybody has; in pieces, so that nobody's search finds it here.
pub(super) fn secret() -> String {
    format!("ghp_{}{}", "x7Kq2LmN9pRs4TvW", "8yZa1BcD3eFg5HjJ6kPq")
}

impl Place {
    /// On native, with more keys of the upstream. `None`, and said, where there is no `sshd`.
    pub(super) fn new(more: &str) -> Option<Self> {
        Self::on(NATIVE, more)
    }

    /// On a backend, as its bottle says that.
    pub(super) fn on(begins: &str, more: &str) -> Option<Self> {
        let upstream = Upstream::start()?;
        let app = upstream.repository("app.git");
        let begins = begins.to_owned();
        let place = Self { cli: Cli::new(), tree: TempTree::new("gate"), upstream, app, begins };
        place.tree.agent("ada", "dev", "", "You are Ada.");
        place.write(&place.entry(more));
        Some(place)
    }

    /// From the next bottle that is written on, it is there.
    pub(super) fn moves(&mut self, begins: &str) {
        begins.clone_into(&mut self.begins);
    }

    /// The entry of `git`, with more keys.
    pub(super) fn entry(&self, more: &str) -> String {
        let (url, pin) = (self.url(), self.upstream.host_key());
        let key = self.upstream.path("identity");
        let key = key.display();
        format!(
            "  - Name: app\n    Upstream: {url}\n    IdentityFile: {key}\n    KnownHostKey: {pin}\n{more}"
        )
    }

    /// The URL of the upstream's own repository.
    pub(super) fn url(&self) -> String {
        self.url_of("app.git")
    }

    pub(super) fn url_of(&self, name: &str) -> String {
        let (user, port, path) =
            (self.upstream.user(), self.upstream.port, self.upstream.path(name));
        format!("ssh://{user}@127.0.0.1:{port}{}", path.display())
    }

    /// The commit of a branch of the upstream's.
    pub(super) fn at(&self, branch: &str) -> String {
        self.app.oid(&format!("refs/heads/{branch}"))
    }

    /// The bottle, with these entries of `git`.
    pub(super) fn write(&self, entries: &str) {
        self.write_with("", entries);
    }

    /// The same, with more of the bottle.
    pub(super) fn write_with(&self, more: &str, entries: &str) {
        self.tree.bottle("dev", &format!("{}{more}git:\n{entries}", self.begins));
    }

    pub(super) fn run(&self, args: &[&str]) -> Ended {
        let tree = self.tree.path().to_str().unwrap();
        self.cli.run(["--tree", tree].iter().chain(args))
    }

    #[track_caller]
    pub(super) fn apply(&self) -> String {
        self.run(&["apply", "--yes"]).exits(0).stdout
    }

    /// A line of shell in the sandbox.
    pub(super) fn sh(&self, script: &str) -> Ended {
        let script = format!(
            "export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.invalid GIT_COMMITTER_NAME=ada \
             GIT_COMMITTER_EMAIL=ada@example.invalid GIT_TERMINAL_PROMPT=0; cd; {script}"
        );
        self.run(&["exec", "ada", "--", "sh", "-c", &script])
    }

    /// What the lines of the gate's record are about.
    pub(super) fn record(&self) -> String {
        self.run(&["logs", "--git", "ada"]).exits(0).stdout
    }

    /// The process of the gate.
    pub(super) fn gate(&self) -> i32 {
        let mut runs = Vec::new();
        let mut folders = vec![self.cli.state()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if path.ends_with("ada/run.json") && path.iter().any(|part| part == "gate") {
                    runs.push(path);
                }
            }
        }
        let [run] = &runs[..] else { panic!("{runs:?}") };
        let run: Value = serde_json::from_slice(&std::fs::read(run).unwrap()).unwrap();
        run["process"]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a number")
    }

    #[track_caller]
    pub(super) fn nothing_to_do(&self) {
        self.run(&["plan"]).exits(0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

pub(super) fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

pub(super) fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it is ours");
    let until = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
