//! Starting a process that outlives its starter, so that there is never one that no record names.
//!
//! `bottle` starts itself with [`WORD`]: that waits at a gate, which is its stdin. Its starter writes
//! the record of the process, and only then opens the gate; where the starter dies before, the gate
//! closes and the process ends. Behind the gate it becomes `bottle sidecar serve`, or `bottle gate keep`, by `exec`: it is
//! the same process, which the record names.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::pipe::PipeFlags;

use super::process::{Process, kill, lives};
use super::program::Program;

/// The first argument by which this program knows what it was started for.
const WORD: &str = "__sidecar";

/// What opens the gate.
const GO: u8 = b'g';

/// How much is read of what a process says that does not come up.
const COMPLAINT: u64 = 4096;

/// How long one that is killed may take.
const DYING: Duration = Duration::from_secs(10);

/// Waits at the gate and becomes a sidecar, if this process was started for that; returns how it ends
/// where that cannot be. Called before there is a second thread.
#[must_use]
pub fn main_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|word| word == WORD)?;
    let error = pass(arguments);
    // Nobody is left to be told when this fails too.
    let _ = writeln!(io::stderr(), "{error}");
    Some(ExitCode::FAILURE)
}

fn pass(arguments: impl Iterator<Item = std::ffi::OsString>) -> io::Error {
    // A session of its own: no terminal, and no signal that is meant for its starter's group.
    if let Err(error) = rustix::process::setsid() {
        return error.into();
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut word = [0];
    match io::stdin().read_exact(&mut word) {
        Ok(()) if word == [GO] => {}
        _ => return io::Error::other("nobody opened the gate"),
    }
    // The mark that it was started with stays on it.
    std::process::Command::new("/proc/self/exe")
        .arg0(std::env::args_os().next().unwrap_or_else(|| "bottle".into()))
        .args(arguments)
        .stdin(Stdio::null())
        .exec()
}

/// A process at the gate. Dropped, the gate is closed for good, and the process ends.
pub(super) struct Waiting {
    gate: OwnedFd,
    complaints: OwnedFd,
    /// Who it is.
    pub(super) process: Process,
    pidfd: OwnedFd,
}

/// Starts a process that waits at the gate, in the working directory `folder`, and bears this mark. It
/// inherits nothing.
pub(super) fn launch(
    program: &Program,
    folder: &Path,
    mark: &str,
    arguments: &[String],
) -> anyhow::Result<Waiting> {
    let (gate_end, gate) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (complaints, complaints_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // tokio's, for it waits for children that nobody waits for any more.
    let mut command = tokio::process::Command::new(program.path());
    command.arg0(mark).arg(WORD).args(arguments).env_clear().current_dir(folder);
    command.stdin(gate_end).stdout(Stdio::null()).stderr(complaints_end);
    let child = command.spawn().context("starting this program again")?;
    // It holds the other ends too.
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = pid.and_then(|pid| Process::with_pid(pid).transpose()).transpose()?;
    let process = process.context("it ended at once")?;
    let pidfd = process.pidfd()?.context("it ended at once")?;
    Ok(Waiting { gate, complaints, process, pidfd })
}

impl Waiting {
    /// Lets it go on, and waits until `ready` says that it serves.
    pub(super) fn admit(
        self,
        deadline: Duration,
        mut ready: impl FnMut() -> io::Result<bool>,
    ) -> anyhow::Result<()> {
        rustix::io::write(&self.gate, &[GO]).context("letting it start")?;
        drop(self.gate);
        let until = Instant::now() + deadline;
        let outcome = loop {
            match ready() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => break format!("it cannot be reached: {error}"),
            }
            if !lives(&self.pidfd) {
                break "it ended".to_owned();
            }
            if Instant::now() > until {
                break format!("it was not ready within {} s", deadline.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        kill(&self.pidfd, DYING)?;
        let mut words = String::new();
        // Whoever else holds the other end is not waited for.
        rustix::io::ioctl_fionbio(&self.complaints, true)?;
        let _ = File::from(self.complaints).take(COMPLAINT).read_to_string(&mut words);
        match words.trim() {
            "" => anyhow::bail!(outcome),
            words => anyhow::bail!("{outcome}: {words}"),
        }
    }
}
