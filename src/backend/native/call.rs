//! Starting the helper, and waiting for it: no longer than it may take.

#![expect(clippy::disallowed_methods, reason = "the helper is a process")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::state::Mode;
use super::wire::{self, Answer, Request};
use super::{landlock, sealed};
use crate::backend::BackendError;

/// The first argument by which this program knows that it is the helper.
pub(super) const WORD: &str = "__native";
/// The second, by which it first enters a user namespace: then its memory belongs to that one, and
/// may be looked into from outside by who made it, and not from inside.
pub(super) const ROOTLESS: &str = "rootless";

/// What the kernel's ETOOMANYREFS means here.
const TOO_MANY_IN_FLIGHT: &str = "this user has too many descriptors on their way through sockets: \
    the kernel counts those of an ordinary user's sandboxes as that user's own, so one of them may hold \
    them all; `bottle down` it, raise the limit (`ulimit -Hn`), or run bottle as root, where sandboxes \
    have users of their own";

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Raises the soft limit of descriptors to the hard one, once. The kernel lets as many travel through
/// sockets as the sender may have open; sandboxes may have half as many (`limits`), so one that has sent
/// all that it may does not keep an ordinary user's `bottle` from talking to its helpers.
pub(super) fn raise_descriptors() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    });
}

/// The program that is the helper: this one.
#[derive(Debug)]
pub(super) struct Helper {
    program: PathBuf,
    /// A copy of it, made where that is needed.
    sealed: OnceLock<OwnedFd>,
}

impl Helper {
    /// The running program, also when its file was replaced since.
    pub(super) fn this_program() -> Self {
        Self::at(Path::new("/proc/self/exe"))
    }

    /// Another build of it, for tests: the running program is theirs.
    pub(super) fn at(path: &Path) -> Self {
        Self { program: path.to_owned(), sealed: OnceLock::new() }
    }

    /// Has a helper do something, and waits for its answer until `deadline` (none: for ever).
    /// `within` is the mode whose user namespace it has to be in from its start.
    pub(super) fn call(
        &self,
        what: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        within: Option<Mode>,
        deadline: Option<Duration>,
    ) -> Result<Answer, BackendError> {
        self.begin(what, request, fds, within, deadline)?.answer()
    }

    /// The same, without waiting yet.
    pub(super) fn begin(
        &self,
        what: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        within: Option<Mode>,
        deadline: Option<Duration>,
    ) -> Result<Call, BackendError> {
        let failed = |error: io::Error| BackendError::failed(what, error);
        let (mut socket, theirs) = UnixStream::pair().map_err(failed)?;
        let name = match request {
            Request::Start { mark, .. } => mark,
            _ => "bottle",
        };
        let child = Ended(self.spawn(name, theirs.into(), within).map_err(failed)?);
        socket.set_read_timeout(deadline).map_err(failed)?;
        socket.set_write_timeout(deadline).map_err(failed)?;
        raise_descriptors();
        match wire::send(&mut socket, request, fds) {
            Ok(()) => {}
            // One that could not even read it has its reason to say.
            Err(error) if is_gone(&error) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                return Err(BackendError::failed(what, anyhow::Error::msg(TOO_MANY_IN_FLIGHT)));
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Call { child, socket, what: what.to_owned(), deadline })
    }

    fn spawn(&self, name: &str, stdin: OwnedFd, within: Option<Mode>) -> io::Result<Child> {
        // Its child has a descriptor of the same number, until it is the copy.
        let program = match self.sealed()? {
            Some(copy) => format!("/proc/self/fd/{}", copy.as_raw_fd()).into(),
            None => self.program.clone(),
        };
        let mut command = Command::new(program);
        command.arg0(name).arg(WORD);
        if within == Some(Mode::Rootless) {
            command.arg(ROOTLESS);
        }
        command
            .env_clear()
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    /// What is executed in place of the file where nothing else keeps a sandbox from that.
    fn sealed(&self) -> io::Result<Option<&OwnedFd>> {
        if landlock::available() {
            return Ok(None);
        }
        if self.sealed.get().is_none() {
            let copy = sealed::copy(&self.program)?;
            let _ = self.sealed.set(copy);
        }
        Ok(self.sealed.get())
    }
}

/// A helper at work.
pub(super) struct Call {
    child: Ended,
    socket: UnixStream,
    what: String,
    deadline: Option<Duration>,
}

impl Call {
    /// Becomes readable with the answer. Shutting it down ends the helper, and what it runs.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Waits for the answer.
    pub(super) fn answer(self) -> Result<Answer, BackendError> {
        let what = self.what.clone();
        self.answer_if_any()?
            .map_err(|silence| BackendError::failed(what, anyhow::Error::msg(silence)))
    }

    /// Waits for the answer; or for the end of a helper that gives none, and tells of that.
    pub(super) fn answer_if_any(mut self) -> Result<Result<Answer, String>, BackendError> {
        let failed = |error: io::Error| BackendError::failed(&self.what, error);
        match wire::receive::<Answer>(&mut self.socket) {
            Ok((Answer::Failed(text), _)) => {
                Err(BackendError::failed(&self.what, anyhow::Error::msg(text)))
            }
            Ok((answer, _)) => {
                // It ends by itself now; waiting for it leaves no zombie.
                let _ = self.child.0.wait();
                Ok(Ok(answer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let seconds = self.deadline.unwrap_or_default().as_secs();
                Err(BackendError::Deadline { what: self.what.clone(), seconds })
            }
            Err(error) => {
                let _ = self.child.0.kill();
                let status = self.child.0.wait().map_err(failed)?;
                Ok(Err(format!("the helper ended without an answer ({status}): {error}")))
            }
        }
    }
}

/// A child that does not outlive its caller's interest in it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
