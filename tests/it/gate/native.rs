//! The whole way: a tree with `git`, a native sandbox, plain git inside, and a real `sshd` on the other side.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::upstream::{Repository, Upstream};
use crate::support::{Cli, Ended, TempTree};

/// A sandbox `ada` with the repository `app`.
struct Place {
    cli: Cli,
    tree: TempTree,
    upstream: Upstream,
    app: Repository,
}

/// Of no token that anybody has; in pieces, so that nobody's search finds it here.
fn secret() -> String {
    format!("ghp_{}{}", "x7Kq2LmN9pRs4TvW", "8yZa1BcD3eFg5HjJ6kPq")
}

impl Place {
    /// With more keys of the upstream. `None`, and said, where there is no `sshd`.
    fn new(more: &str) -> Option<Self> {
        let upstream = Upstream::start()?;
        let app = upstream.repository("app.git");
        let place = Self { cli: Cli::new(), tree: TempTree::new("gate"), upstream, app };
        place.tree.agent("ada", "dev", "", "You are Ada.");
        place.write(&place.entry(more));
        Some(place)
    }

    /// The entry of `git`, with more keys.
    fn entry(&self, more: &str) -> String {
        let (url, pin) = (self.url(), self.upstream.host_key());
        let key = self.upstream.path("identity");
        let key = key.display();
        format!(
            "  - Name: app\n    Upstream: {url}\n    IdentityFile: {key}\n    KnownHostKey: {pin}\n{more}"
        )
    }

    /// The URL of the upstream's own repository.
    fn url(&self) -> String {
        self.url_of("app.git")
    }

    fn url_of(&self, name: &str) -> String {
        let (user, port, path) =
            (self.upstream.user(), self.upstream.port, self.upstream.path(name));
        format!("ssh://{user}@127.0.0.1:{port}{}", path.display())
    }

    /// The commit of a branch of the upstream's.
    fn at(&self, branch: &str) -> String {
        self.app.oid(&format!("refs/heads/{branch}"))
    }

    /// The bottle, with these entries of `git`.
    fn write(&self, entries: &str) {
        self.tree.bottle("dev", &format!("backend: native\ngit:\n{entries}"));
    }

    fn run(&self, args: &[&str]) -> Ended {
        let tree = self.tree.path().to_str().unwrap();
        self.cli.run(["--tree", tree].iter().chain(args))
    }

    #[track_caller]
    fn apply(&self) -> String {
        self.run(&["apply", "--yes"]).exits(0).stdout
    }

    /// A line of shell in the sandbox.
    fn sh(&self, script: &str) -> Ended {
        let script = format!(
            "export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.invalid GIT_COMMITTER_NAME=ada \
             GIT_COMMITTER_EMAIL=ada@example.invalid GIT_TERMINAL_PROMPT=0; cd; {script}"
        );
        self.run(&["exec", "ada", "--", "sh", "-c", &script])
    }

    /// What the lines of the gate's record are about.
    fn record(&self) -> String {
        self.run(&["logs", "--git", "ada"]).exits(0).stdout
    }

    /// The process of the gate.
    fn gate(&self) -> i32 {
        let mut runs = Vec::new();
        let mut folders = vec![self.cli.state()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if path.ends_with("gate/native/ada/run.json") {
                    runs.push(path);
                }
            }
        }
        let [run] = &runs[..] else { panic!("{runs:?}") };
        let run: Value = serde_json::from_slice(&std::fs::read(run).unwrap()).unwrap();
        run["process"]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a number")
    }

    #[track_caller]
    fn nothing_to_do(&self) {
        self.run(&["plan"]).exits(0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it is ours");
    let until = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn clone_commit_push_and_go() {
    let Some(place) = Place::new("    Push: [main, 'agent/{sandbox}/*']\n") else {
        return;
    };
    let applied = place.apply();
    assert!(applied.contains("widens: "), "{applied}");
    assert!(applied.contains("by SHA256:") && applied.contains("agent/ada/*"), "{applied}");
    place.nothing_to_do();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app && cat app/README")).exits(0);
    let pushed = place.sh(
        "cd app && echo two >>README && git commit -qam two && git push origin HEAD:main HEAD:agent/ada/x && \
         git rev-parse HEAD origin/main && git remote -v",
    );
    let pushed = pushed.exits(0);
    let head = place.at("main");
    assert_eq!(place.at("agent/ada/x"), head);
    let lines: Vec<&str> = pushed.stdout.lines().collect();
    assert_eq!(lines[..2], [head.as_str(), head.as_str()], "the tracking ref moves");
    assert!(place.record().contains(&head), "{}", place.record());
    let bare = url.trim_end_matches(".git").to_owned();
    place.sh(&format!("git ls-remote {bare} refs/heads/main")).exits(0);
    let page = place.sh("cat /etc/bottle/git.md").exits(0).stdout;
    assert!(page.contains("agent/ada/*") && page.contains(&url), "{page}");
    let pid = place.gate();
    assert!(lives(pid));
    place.nothing_to_do();
    place.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
    assert!(!lives(pid), "a gate goes with its sandbox");
    let mut find = std::process::Command::new("find");
    let left = find.arg(place.cli.state()).args(["-name", "*.git"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "and so do its mirrors");
}

#[test]
fn a_secret_goes_nowhere() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let (url, secret) = (place.url(), secret());
    let before = place.at("main");
    let push = place.sh(&format!(
        "git clone -q {url} app && cd app && mkdir conf && printf 'a\\nb\\ntoken={secret}\\n' >conf/app.env && git add . && \
         git commit -qm x && git rm -qr conf && git commit -qm y && git push origin HEAD:main"
    ));
    assert_ne!(push.code, Some(0), "{push:?}");
    assert!(push.stderr.contains("conf/app.env:3"), "{push:?}");
    assert!(!push.stderr.contains(&secret), "{push:?}");
    assert_eq!(place.at("main"), before);
    assert!(!place.app.holds(&secret));
    assert!(!place.record().contains(&secret));
    // The next one that is clean goes.
    place.sh("cd app && git reset -q --hard origin/main && echo z >z && git add z && git commit -qm z && git push -q origin HEAD:main")
        .exits(0);
    assert_ne!(place.at("main"), before);
}

#[test]
fn what_the_bottle_does_not_allow_is_refused_and_a_change_is_hot() {
    let Some(place) = Place::new("    Push: ['agent/{sandbox}/*']\n") else {
        return;
    };
    place.apply();
    let url = place.url();
    let push = place.sh(&format!(
        "git clone -q {url} app && cd app && echo x >x && git add x && git commit -qm x && git push origin HEAD:main"
    ));
    assert_ne!(push.code, Some(0), "{push:?}");
    assert!(push.stderr.contains("agent/ada/*"), "{push:?}");
    let other = place.sh(&format!("git ls-remote {}", place.url_of("other.git")));
    assert!(
        other.code != Some(0) && other.stderr.contains("none of this sandbox's repositories"),
        "{other:?}"
    );
    let before = place.gate();
    place.write(&place.entry("    Push: ['agent/{sandbox}/*', main]\n"));
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("widens: "), "{planned}");
    place.apply();
    assert_eq!(place.gate(), before, "it was loaded, and not started anew");
    place.sh("cd app && git push -q origin HEAD:main").exits(0);
    place.nothing_to_do();
}

/// G28.
#[test]
fn without_a_pin_nothing_is_sent() {
    let Some(place) = Place::new("") else { return };
    let pin = format!("    KnownHostKey: {}\n", place.upstream.host_key());
    place.write(&place.entry("").replace(&pin, ""));
    let applied = place.run(&["apply", "--yes"]).exits(0);
    assert!(applied.stderr.contains("KnownHostKey") || applied.stdout.contains("KnownHostKey"));
    let url = place.url();
    let asked = place.sh(&format!("git ls-remote {url}"));
    assert!(asked.code != Some(0) && asked.stderr.contains("KnownHostKey"), "{asked:?}");
    // Another host's key is no better.
    let wrong = format!("    KnownHostKey: {}\n", place.upstream.other_host_key());
    place.write(&place.entry("").replace(&pin, &wrong));
    place.apply();
    let asked = place.sh(&format!("git ls-remote {url}"));
    assert!(asked.stderr.contains("another host key"), "{asked:?}");
}

#[test]
fn a_killed_gate_is_repaired_and_a_restart_attaches_again() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let first = place.gate();
    kill(first);
    let asked = place.sh("cd app && timeout 20 git fetch");
    assert_ne!(asked.code, Some(0), "{asked:?}");
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("gate"), "{planned}");
    place.apply();
    assert_ne!(place.gate(), first);
    place.sh("cd app && git fetch && echo x >x && git add x && git commit -qm x && git push -q origin HEAD:main")
        .exits(0);
    place.nothing_to_do();
    place.run(&["restart", "ada"]).exits(0);
    place.sh("cd app && git fetch && git ls-remote origin main").exits(0);
    place.nothing_to_do();
}

/// Also where nothing else is granted, and beside an egress.
#[test]
fn it_stands_beside_a_sidecar() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let connected = place.sh("env | grep -ci proxy").stdout;
    assert_eq!(connected.trim(), "0", "without an egress there is no sidecar");
    let entry = place.entry("");
    let egress = "egress:\n  allowlist: [example.com]\n";
    place.tree.bottle("dev", &format!("backend: native\n{egress}git:\n{entry}"));
    place.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    let url = place.url();
    place.sh(&format!("git ls-remote {url} main")).exits(0);
    place.nothing_to_do();
    place.tree.bottle("dev", &format!("backend: native\n{egress}"));
    place.apply();
    let asked = place.sh(&format!("timeout 20 git ls-remote {url} main; ls /etc/bottle/git.md"));
    assert_ne!(asked.code, Some(0), "{asked:?}");
    assert!(!asked.stdout.contains("git.md"), "{asked:?}");
    place.nothing_to_do();
}
