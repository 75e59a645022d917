#![expect(clippy::disallowed_methods, reason = "starts the relay")]
//! The relay of a gate whose machine is on an engine: it brings the machine's connections.
//!
//! It is a process of its own, `bottle gate relay`: it has the way to the engine and no identity, as the keeper has the
//! identity and no way to an engine. It connects to a socket in the gate's folder, on which the worker accepts, and
//! dies with the keeper. Where it ends, it is started again.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;

use super::jail;

/// The socket's name in the gate's folder.
const SOCKET: &str = "relay";
/// Before it is started again: longer each time, unless it has run for so long.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(20)];
const WELL: Duration = Duration::from_secs(60);
/// What is read of a line in which it says how it is.
const LINE: u64 = 2048;

/// What a relay is to do. What it is told is between it and whoever gives this order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// Its environment.
    env: BTreeMap<String, String>,
    relay: serde_json::Value,
}

/// Reads an order.
pub(super) fn parse(text: &[u8]) -> Result<Order, String> {
    serde_json::from_slice(text).map_err(|error| format!("the order cannot be read: {error}"))
}

/// What a relay does. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Relayed {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    now: Mutex<Now>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    stop: bool,
    /// Its process.
    process: Option<OwnedFd>,
    /// In its own words.
    how: Option<String>,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long, or until it is to end.
    fn pause(&self, pause: Duration) {
        let now = self.now();
        // However it ends, it is looked at again.
        drop(self.stopped.wait_timeout_while(now, pause, |now| !now.stop));
    }
}

/// A socket in this folder on which connections come in, and the process with which it ends: this one.
pub(super) fn door(folder: &Path) -> io::Result<[OwnedFd; 2]> {
    // The path may be longer than the address of a socket can be.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(folder, flags, Mode::empty())?;
    match std::fs::remove_file(folder.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd()))?;
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok([listener.into(), own])
}

impl Relayed {
    /// Starts a relay, and again whenever it ends. `tell` is told how it is when that changes.
    pub(super) fn begin(
        folder: PathBuf,
        order: Order,
        tell: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of = Arc::clone(&shared);
        // It dies with this thread, which lives as long as it is wanted.
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let mut pause = PAUSES[0];
            while !of.now().stop {
                let begun = Instant::now();
                let how = match run(&of, &folder, &order, &tell) {
                    Ok(how) => how,
                    Err(error) => format!("starting it: {error}"),
                };
                if of.now().stop {
                    return;
                }
                heard(&of, &how, &tell);
                pause = if begun.elapsed() > WELL { PAUSES[0] } else { pause };
                of.pause(pause);
                pause = (pause * 2).min(PAUSES[1]);
            }
        })?;
        Ok(Self { shared })
    }

    /// How it is, in its own words.
    pub(super) fn how(&self) -> Option<String> {
        self.shared.now().how.clone()
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let mut now = self.shared.now();
        now.stop = true;
        if let Some(process) = &now.process {
            // It may have ended by itself.
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        }
        drop(now);
        self.shared.stopped.notify_all();
    }
}

fn heard(shared: &Shared, how: &str, tell: &impl Fn(&str)) {
    let mut now = shared.now();
    if now.how.as_deref() == Some(how) {
        return;
    }
    now.how = Some(how.to_owned());
    drop(now);
    tell(how);
}

/// Runs it to its end, and says what that was.
fn run(shared: &Shared, folder: &Path, order: &Order, tell: &impl Fn(&str)) -> io::Result<String> {
    let mut child = start(folder, order)?;
    let pid = Pid::from_child(&child);
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    {
        let mut now = shared.now();
        if now.stop {
            let _ = child.kill();
        }
        now.process = Some(process);
    }
    let told = child.stdin.as_mut().map_or(Ok(()), |stdin| {
        let mut line = serde_json::to_vec(&order.relay)?;
        line.push(b'\n');
        stdin.write_all(&line)
    });
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        while lines.by_ref().take(LINE).read_line(&mut line).is_ok_and(|count| count > 0) {
            heard(shared, &super::sentence::harmless(line.trim().as_bytes()), tell);
            line.clear();
        }
    }
    let status = child.wait()?;
    shared.now().process = None;
    told?;
    Ok(format!("it ended: {status}"))
}

fn start(folder: &Path, order: &Order) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "bottle".into()));
    command.args(["gate", "relay", "--to", SOCKET]).env_clear().envs(&order.env);
    command.current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    jail::before_exec(&mut command, jail::die_with_parent);
    command.spawn()
}
