//! What every test file shares: names, trees, the binary, and what is left out where.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

mod command;
#[cfg(target_os = "linux")]
pub(crate) mod ears;
#[cfg(target_os = "linux")]
mod far;
#[cfg(target_os = "linux")]
pub(crate) mod proxy;
mod screen;
mod tree;

#[allow(unused_imports)] // as in main.rs: it should be ready
pub(crate) use command::{Cli, Ended};
#[allow(unused_imports)]
pub(crate) use far::Far;
#[allow(unused_imports)]
#[cfg(target_os = "linux")]
pub(crate) use screen::Screen;
#[allow(unused_imports)]
pub(crate) use tree::TempTree;

/// A program for Python 3: see its first line. Its argument is the folder, else `/workspace`.
#[allow(dead_code)] // as in main.rs
pub(crate) const SET_ID: &str = include_str!("set_id.py");

/// This run of the tests. `tests/run` names it, and removes by that name what a killed test left.
pub(crate) fn run_id() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| match std::env::var("BOTTLE_TEST_RUN") {
        Ok(run) if !run.is_empty() => run,
        _ => format!("{:08x}", fastrand()),
    })
}

/// A name that no other test uses, and by which `tests/run` knows ours: `test-<run>-<n>-<what>`.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}-{}-{what}", run_id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn fastrand() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    // Keyed by the system's randomness: as random as a name must be.
    let random = RandomState::new().hash_one(std::process::id());
    (random ^ random >> 32) as u32
}

/// Says, once, what this run leaves out, past the capture of the test harness.
pub(crate) fn left_out(what: &str, why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("left out: {what}: {why}\n");
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
        std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
    }
}

/// A process leaves no core, and nobody but root looks into it.
#[track_caller]
pub(crate) fn keeps_to_itself(pid: impl std::fmt::Display) {
    use std::os::unix::fs::MetadataExt as _;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(4).collect();
    assert_eq!(words, ["0", "0", "bytes"], "{line}");
    // What is of a process that is not dumpable is root's, whoever it runs as.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    let owner = std::fs::metadata(format!("/proc/{pid}/maps")).unwrap().uid();
    assert_eq!(owner, 0, "it is of user {uid}");
}

/// A second mount of a folder, which goes also when its test fails.
pub(crate) struct Alias(std::path::PathBuf);

impl Alias {
    /// `None`, and said, where this user cannot mount.
    pub(crate) fn new(of: &std::path::Path, at: &std::path::Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            left_out("a folder that is mounted twice", "only root mounts");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        rustix::mount::mount_bind(of, at).unwrap();
        Some(Self(at.to_owned()))
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Says how far a long test is, past the capture of the test harness.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("stderr takes a line");
}

/// Whether `what`, which needs a Docker engine, is to run: yes where `BOTTLE_TEST_DOCKER` says that
/// one is there (`tests/run` does), and then it must answer. Else `what` is said to be left out.
pub(crate) fn docker(what: &str) -> bool {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    if std::env::var_os("BOTTLE_TEST_DOCKER").is_none_or(|value| value.is_empty()) {
        left_out(what, "it needs a Docker engine; tests/run brings one");
        return false;
    }
    let answer = ANSWER.get_or_init(|| {
        let version = std::process::Command::new("docker")
            .args(["version", "--format", "{{.Server.Version}}"])
            .output()
            .map_err(|error| format!("docker: {error}"))?;
        let said = String::from_utf8_lossy(&version.stderr).trim().to_owned();
        version.status.success().then_some(()).ok_or(said)
    });
    if let Err(error) = answer {
        panic!("BOTTLE_TEST_DOCKER is set, and the engine does not answer: {error}");
    }
    true
}

/// The `smolvm` on which `what`, which boots microVMs, is to run: the one that `BOTTLE_TEST_SMOLVM`
/// names (`tests/run` and `tests/smolvm-host` do). Else `what` is said to be left out.
pub(crate) fn smolvm(what: &str) -> Option<std::path::PathBuf> {
    let program = std::env::var_os("BOTTLE_TEST_SMOLVM").filter(|value| !value.is_empty());
    if program.is_none() {
        left_out(what, "it boots microVMs; tests/run brings a host for them");
    }
    program.map(Into::into)
}

/// A real `smolvm` that need not boot anything: the one that `BOTTLE_TEST_SMOLVM_CLI` names
/// (`tests/support/smolvm.sh` fetches it, and `tests/run` calls that).
pub(crate) fn smolvm_cli(what: &str) -> Option<std::path::PathBuf> {
    let program = std::env::var_os("BOTTLE_TEST_SMOLVM_CLI").filter(|value| !value.is_empty());
    if program.is_none() {
        left_out(what, "it needs the smolvm program; tests/run brings one");
    }
    program.map(Into::into)
}
