//! A tree in a repository, and requests of its agents.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Cli, Ended, TempTree};

/// What the bottle says.
pub(super) const DEV: &str = "---\n# what it is for\nbackend: native\nimage: host\nsupervise: true\negress:\n  # mirrors\n  allowlist:\n    - packages.example.org # why\nresources:\n  memory: 1G # enough\n---\nStays as it is.\n";

/// The operator's place.
pub(super) struct Desk {
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
}

impl Desk {
    /// A tree that git does not know.
    pub(super) fn plain(what: &str) -> Self {
        let mut desk = Self { cli: Cli::new(), tree: TempTree::new(what) };
        desk.cli.env("USER", "op");
        // Nothing of whoever runs the tests says how to commit.
        desk.cli.env("GIT_CONFIG_NOSYSTEM", "1");
        std::fs::write(
            desk.cli.home().join(".gitconfig"),
            "[user]\n\tname = Op Erator\n\temail = op@example.org\n[init]\n\tdefaultBranch = main\n",
        )
        .unwrap();
        desk.tree.write("bottles/dev.md", DEV);
        desk.tree.agent("ada", "dev", "", "You are ada.");
        desk.tree.agent("grace", "dev", "", "You are grace.");
        // The state folder is made by whoever uses it first.
        desk.requests(&[]).exits(0);
        std::fs::create_dir_all(desk.folder()).unwrap();
        desk
    }

    /// One whose files are committed.
    pub(super) fn new(what: &str) -> Self {
        let desk = Self::plain(what);
        desk.git(&["init", "-q"]);
        desk.git(&["add", "."]);
        desk.git(&["commit", "-q", "-m", "begin"]);
        desk
    }

    pub(super) fn path(&self) -> &Path {
        self.tree.path()
    }

    fn folder(&self) -> PathBuf {
        self.cli.state().join("trees").join(&self.tree.owner).join("requests")
    }

    /// Puts a request there, as a pass does that found it.
    pub(super) fn ask(&self, id: &str, sandbox: &str, kind: &str, ask: Value) {
        self.ask_with(id, sandbox, kind, ask, "pip install requests fails");
    }

    pub(super) fn ask_with(&self, id: &str, sandbox: &str, kind: &str, ask: Value, reason: &str) {
        let tool = match kind {
            "egress" => "pipelock-block",
            "credential" => "cred-proxy-block",
            _ => "capability-block",
        };
        let at = bottle::reconcile::requests::now().in_seconds();
        let record = json!({
            "version": 1, "id": id, "sandbox": sandbox, "bottle": "dev", "backend": "native",
            "tool": tool, "kind": kind, "ask": ask, "reason": reason,
            "evidence": { "denied": 14, "codes": { "host_not_allowed": 14 } },
            "asked": 2, "received": at, "last": at, "state": "pending",
            "decision": null, "edit": null, "error": null,
        });
        std::fs::write(self.folder().join(format!("{id}.json")), record.to_string()).unwrap();
    }

    /// The usual one.
    pub(super) fn ask_egress(&self, id: &str) {
        self.ask(id, "ada", "egress", index());
    }

    pub(super) fn record(&self, id: &str) -> Value {
        let text = std::fs::read_to_string(self.folder().join(format!("{id}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) fn state(&self, id: &str) -> String {
        self.record(id)["state"].as_str().unwrap().to_owned()
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.folder().join("lock")
    }

    pub(super) fn requests(&self, args: &[&str]) -> Ended {
        self.cli.run(self.command(args))
    }

    pub(super) fn command<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let tree = self.path().to_str().unwrap();
        ["--tree", tree, "requests"].iter().copied().chain(args.iter().copied()).collect()
    }

    pub(super) fn show(&self, id: &str) -> Value {
        self.requests(&["show", id, "-o", "json"]).exits(0).json()
    }

    pub(super) fn token(&self, ids: &[&str], more: &[&str]) -> String {
        assert_eq!(ids.len(), 1, "a token of several is what approve itself says");
        let mut args = vec!["show", ids[0], "-o", "json"];
        args.extend(more.iter().filter(|it| !["--no-commit", "-o", "json"].contains(*it)));
        let shown = self.requests(&args).exits(0).json();
        shown["review"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned()
    }

    /// Approves as a script does, and has nothing applied.
    pub(super) fn approve(&self, id: &str, more: &[&str]) -> Ended {
        let token = self.token(&[id], more);
        let mut args = vec!["approve", id, "--no-apply", "--yes", "--review", &token];
        args.extend(more);
        self.requests(&args)
    }

    pub(super) fn file(&self) -> String {
        std::fs::read_to_string(self.tree.join("bottles/dev.md")).unwrap()
    }

    /// git as the operator runs it.
    pub(super) fn try_git(&self, args: &[&str]) -> (bool, String) {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.cli.home());
        git.env("GIT_CONFIG_NOSYSTEM", "1").arg("-C").arg(self.path()).args(args);
        let output = git.output().expect("git can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }

    #[track_caller]
    pub(super) fn git(&self, args: &[&str]) -> String {
        let (done, said) = self.try_git(args);
        assert!(done, "git {args:?}: {said}");
        said
    }

    pub(super) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }
}

/// What pip wants.
pub(super) fn index() -> Value {
    json!({
        "host": "index.example.org", "port": 443,
        "methods": ["GET", "HEAD"], "paths": ["/simple/**"],
    })
}

pub(super) fn capability(what: &str, value: &str) -> Value {
    json!({ "what": what, "value": value })
}

pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
