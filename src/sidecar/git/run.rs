#![expect(clippy::disallowed_methods, reason = "starts git")]
//! git, started in a jail and with an environment of ours.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::jail::{self, Files, Layer};
use super::wire::{Deadline, Wire};

/// What is read of what git says.
const WORDS: u64 = 64 << 10;

/// git as it is on this host.
#[derive(Debug, Clone)]
pub(super) struct Git {
    program: PathBuf,
    folder: PathBuf,
}

/// Where git works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The repository.
    pub(super) repository: &'a Path,
    /// Where the objects are that are not yet in it.
    pub(super) incoming: Option<&'a Path>,
    /// It allocates no more at once.
    pub(super) most: u64,
}

impl Git {
    /// Finds it, and asks it where its parts are. Before anything is given up.
    pub(super) fn find() -> io::Result<Self> {
        let program = jail::find("git").ok_or_else(|| io::Error::other("git is not installed"))?;
        let said = |argument: &str| {
            let output =
                Command::new(&program).arg(argument).env_clear().stdin(Stdio::null()).output()?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = said("--version")?;
        if !is_new_enough(&version) {
            return Err(io::Error::other(format!(
                "git 2.39 or newer is needed, and this is {version}"
            )));
        }
        let folder = std::fs::canonicalize(said("--exec-path")?)?;
        Ok(Self { program, folder })
    }

    /// What of the host's files it needs.
    pub(super) fn files(&self) -> Files {
        let mut execute = vec![self.program.clone(), self.folder.clone()];
        execute.extend(jail::loader(&self.program));
        Files { execute, read: jail::libraries(), write: Vec::new() }
    }

    /// A command of git's.
    pub(super) fn command(&self, place: Place<'_>, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        command.envs([
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C.UTF-8"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "fd"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_ADVICE", "0"),
            ("GIT_COMMITTER_NAME", "bottle"),
            ("GIT_COMMITTER_EMAIL", "bottle@localhost"),
        ]);
        command.env("GIT_EXEC_PATH", &self.folder);
        command.env("GIT_DIR", place.repository);
        command.env("GIT_ALLOC_LIMIT", place.most.to_string());
        if let Some(incoming) = place.incoming {
            command.env("GIT_OBJECT_DIRECTORY", incoming);
            command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", place.repository.join("objects"));
            command.env("GIT_QUARANTINE_PATH", incoming);
        }
        command.current_dir(place.repository);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn is_new_enough(version: &str) -> bool {
    let numbers = version.strip_prefix("git version ").unwrap_or_default();
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 39)
}

/// What a command came to.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) ok: bool,
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Output {
    /// Its output, if it went well.
    pub(super) fn well(self, what: &str) -> io::Result<Vec<u8>> {
        if self.ok {
            Ok(self.stdout)
        } else {
            Err(io::Error::other(format!("{what}: {}", self.stderr)))
        }
    }
}

/// Runs a command to its end, with this on its stdin. Its stdout, if it is piped, may have so many bytes.
pub(super) fn run(
    mut command: Command,
    layer: &Layer,
    hand: &[BorrowedFd<'_>],
    input: &[u8],
    most: u64,
    deadline: Deadline,
    guest: Option<BorrowedFd<'_>>,
) -> io::Result<Output> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut jailed = jail::start(command, layer, hand)?;
    let child = jailed.child();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            // One that ends early says why itself.
            stdin.map(|mut stdin| stdin.write_all(input))
        });
        let complaints = scope.spawn(move || stderr.map(|stderr| words(stderr, deadline)));
        let mut out = Vec::new();
        let read = stdout.as_ref().map_or(Ok(0), |stdout| {
            let from = Wire { from: stdout.as_fd(), deadline, guest };
            from.take(most.saturating_add(1)).read_to_end(&mut out)
        });
        let over = out.len() as u64 > most;
        drop(stdout);
        let ended = match read {
            Ok(_) if !over => jailed.wait(guest, deadline),
            Ok(_) => Err(io::Error::other("git says too much")),
            Err(error) => Err(error),
        };
        // Else the other threads wait for what it holds.
        let ended = match ended {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(super::wire::Waited::Left)) => Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(Err(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        };
        drop(jailed);
        let _ = writer.join();
        let stderr = complaints.join().ok().flatten().unwrap_or_default();
        let status = ended?;
        Ok(Output { ok: status.success(), code: status.code(), stdout: out, stderr })
    })
}

/// What a program complains of: the begin of it.
pub(super) fn words(stderr: std::process::ChildStderr, deadline: Deadline) -> String {
    let mut text = Vec::new();
    let mut from = Wire { from: stderr.as_fd(), deadline, guest: None };
    let _ = (&mut from).take(WORDS).read_to_end(&mut text);
    // It goes on whether or not it is listened to.
    let _ = io::copy(&mut from, &mut io::sink());
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(is_new_enough("git version 2.39.2") && is_new_enough("git version 3.0"));
        assert!(
            !is_new_enough("git version 2.38.9") && !is_new_enough("git") && !is_new_enough("")
        );
    }
}
