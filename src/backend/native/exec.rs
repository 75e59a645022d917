//! Running a command in a sandbox, seen from the caller.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use rustix::termios::{OptionalActions, Termios};

use super::call::Helper;
use super::in_memory;
use super::wire::{Answer, Exec, Request, Target};
use crate::backend::{Attach, BackendError, ExecOutput, ExecSpec, ExecUser};

/// Where the thread that waits for a command leaves the way to end it.
pub(super) type Slot = Arc<Mutex<Option<UnixStream>>>;

/// Ends a command whose caller has lost interest: the future that waits for it is dropped, the
/// thread that does is not.
#[derive(Default)]
pub(super) struct Cancel(Slot);

impl Cancel {
    pub(super) fn slot(&self) -> Slot {
        self.0.clone()
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(socket) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A command for the sandbox `target`, whose init is `init`.
pub(super) struct Command<'a> {
    pub(super) helper: &'a Helper,
    pub(super) what: String,
    pub(super) target: Target,
    pub(super) init: OwnedFd,
    pub(super) spec: ExecSpec,
    pub(super) slot: Slot,
}

/// How much of each stream is kept.
const KEPT: usize = 1 << 20;

impl Command<'_> {
    fn begin(self, tty: bool, stdio: [OwnedFd; 3]) -> Result<super::call::Call, BackendError> {
        let Self { helper, what, target, init, spec, slot } = self;
        let request = Request::Exec(Box::new(Exec {
            target,
            argv: spec.argv,
            env: spec.env,
            workdir: spec.workdir,
            values: spec.values,
            as_root: spec.user == ExecUser::Root,
            tty,
        }));
        let [stdin, stdout, stderr] = &stdio;
        let fds = [init.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let call = helper.begin(&what, &request, &fds, None, None)?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = call.socket().try_clone().ok();
        Ok(call)
    }

    /// With these bytes as its stdin; what it says is kept, up to a bound.
    pub(super) fn captured(self, stdin: &[u8]) -> Result<ExecOutput, BackendError> {
        let what = self.what.clone();
        let failed = |error: io::Error| BackendError::failed(&what, error);
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
        let stdin = in_memory(stdin).map_err(failed)?;
        let ((stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?);
        let call = self.begin(false, [stdin.into(), theirs_out, theirs_err])?;
        let mut outputs = [Kept::new(stdout), Kept::new(stderr)];
        read_until_answer(call.socket(), &mut outputs).map_err(failed)?;
        let code = exited(call.answer()?, &what)?;
        let [stdout, stderr] = outputs.map(|output| output.bytes);
        Ok(ExecOutput { code, stdout, stderr })
    }

    /// On the caller's own stdio.
    pub(super) fn attached(self, attach: Attach) -> Result<i32, BackendError> {
        let what = self.what.clone();
        let failed = |error: io::Error| BackendError::failed(&what, error);
        let stdin = if attach.stdin || attach.tty {
            io::stdin().as_fd().try_clone_to_owned()
        } else {
            in_memory(&[]).map(OwnedFd::from)
        };
        let stdio = [
            stdin.map_err(failed)?,
            io::stdout().as_fd().try_clone_to_owned().map_err(failed)?,
            io::stderr().as_fd().try_clone_to_owned().map_err(failed)?,
        ];
        // Restored on every way out.
        let _raw = attach.tty.then(RawTerminal::enter).flatten();
        let call = self.begin(attach.tty, stdio)?;
        exited(call.answer()?, &what)
    }
}

fn exited(answer: Answer, what: &str) -> Result<i32, BackendError> {
    match answer {
        Answer::Exited(code) => Ok(code),
        other => Err(BackendError::failed(what, anyhow::anyhow!("unexpected answer {other:?}"))),
    }
}

/// One stream, read to its end and kept up to a bound.
struct Kept {
    from: Option<File>,
    bytes: Vec<u8>,
}

impl Kept {
    fn new(from: OwnedFd) -> Self {
        Self { from: Some(from.into()), bytes: Vec::new() }
    }

    fn step(&mut self) {
        let mut buffer = [0; 32 * 1024];
        let Some(from) = &self.from else { return };
        match rustix::io::read(from, &mut buffer) {
            Ok(length) if length > 0 => {
                let room = KEPT - self.bytes.len();
                self.bytes.extend_from_slice(&buffer[..length.min(room)]);
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => self.from = None,
        }
    }
}

/// Reads both streams until the helper has answered and they have ended. The helper alone holds the
/// other ends, so they end with it; one that is being broken off is not waited for.
fn read_until_answer(socket: &UnixStream, outputs: &mut [Kept; 2]) -> io::Result<()> {
    let grace = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut answered = false;
    loop {
        let watched: Vec<usize> = (0..2).filter(|at| outputs[*at].from.is_some()).collect();
        if answered && watched.is_empty() {
            return Ok(());
        }
        let mut polled: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|at| outputs[*at].from.as_ref())
            .map(|from| PollFd::new(from, PollFlags::IN))
            .collect();
        if !answered {
            polled.push(PollFd::new(socket, PollFlags::IN));
        }
        let ready = match rustix::event::poll(&mut polled, answered.then_some(&grace)) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if ready == 0 {
            return Ok(());
        }
        let happened: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        answered |= happened.get(watched.len()).is_some_and(|happened| *happened);
        for (at, happened) in watched.into_iter().zip(happened) {
            if happened {
                outputs[at].step();
            }
        }
    }
}

/// The caller's terminal in raw mode, until dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
