//! Telling a sidecar what to do: one message a connection, over the unix socket in its folder.
//!
//! A message is one line of JSON, with descriptors or bytes that belong to it; the answer is one line
//! too. The other side is `sidecar::control`, in another process.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

use super::process::Process;

/// Name of the socket in the sidecar's own folder.
pub(super) const SOCKET: &str = "control";

/// For one message, and its answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// For an answer that takes no work at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors in one message.
const MOST: usize = 2;

/// No answer is longer.
const LONGEST: u64 = 4 << 20;

/// What came of asking whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    /// It said something.
    Answered,
    /// It said nothing in time.
    Silent,
}

/// Nothing came within this many seconds.
#[derive(Debug)]
struct Silence(u64);

impl std::fmt::Display for Silence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "it does not answer within {} s", self.0)
    }
}

impl std::error::Error for Silence {}

/// The way to one running sidecar.
pub(in crate::backend) struct Control {
    folder: File,
    process: Process,
}

impl Control {
    /// To the sidecar that `process` is, by its own folder. That may lie deeper than the address of a
    /// socket is long, so it is gone to by its descriptor.
    pub(super) fn of(own: &Path, process: &Process) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = File::from(rustix::fs::open(own, flags, Mode::empty())?);
        Ok(Self { folder, process: process.clone() })
    }

    /// The process that listens on the socket in `own`, whichever it is.
    pub(super) fn listener(own: &Path) -> io::Result<Option<Process>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        let folder = match rustix::fs::open(own, flags, Mode::empty()) {
            Ok(folder) => File::from(folder),
            Err(error) if gone(&error.into()) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())) {
            Ok(stream) => {
                let pid = rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_pid();
                Process::with_pid(pid)
            }
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects, to this very process and no other.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let path = format!("/proc/self/fd/{}/{SOCKET}", self.folder.as_raw_fd());
        let stream = UnixStream::connect(path)?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_pid();
        if peer != self.process.pid {
            let own = self.process.pid;
            let text = format!("process {peer} answers on its socket, and it is process {own}");
            return Err(io::Error::other(text));
        }
        Ok(stream)
    }

    /// Whether it answers.
    pub(super) fn answers(&self) -> io::Result<bool> {
        match self.connect() {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it says anything at all within [`PATIENCE`]; one that is stopped or stuck does not.
    ///
    /// # Errors
    /// When it cannot be asked, or breaks off: that says nothing about whether it hangs.
    pub(super) fn ping(&self) -> anyhow::Result<Ping> {
        match self.call_within(PATIENCE, &json!({ "op": "state" }), &[], &[]) {
            Ok(_) => Ok(Ping::Answered),
            Err(error) if error.is::<Silence>() => Ok(Ping::Silent),
            Err(error) => Err(error),
        }
    }

    /// Has it work by another document.
    pub(super) fn load(&self, document: &[u8]) -> anyhow::Result<()> {
        let message = json!({ "op": "load", "length": document.len() });
        self.call(&message, document, &[]).map(drop)
    }

    /// What it says of itself.
    pub(super) fn state(&self) -> anyhow::Result<Value> {
        self.call(&json!({ "op": "state" }), &[], &[])
    }

    /// Has it accept the machine's connections on `listener`, and on no socket that it was given
    /// before, until the machine's process, a pidfd, ends.
    pub(in crate::backend) fn attach(
        &self,
        listener: BorrowedFd<'_>,
        machine: BorrowedFd<'_>,
    ) -> anyhow::Result<()> {
        self.call(&json!({ "op": "attach" }), &[], &[listener, machine]).map(drop)
    }

    /// Has it accept the flows of a microVM on `listener`, which begin with `token` in hexadecimal,
    /// and on no socket that it was given before.
    pub(in crate::backend) fn intercept(
        &self,
        listener: BorrowedFd<'_>,
        token: &str,
    ) -> anyhow::Result<()> {
        self.call(&json!({ "op": "intercept", "token": token }), &[], &[listener]).map(drop)
    }

    /// Has a relay bring it its machine's connections, and nobody else.
    pub(in crate::backend) fn relay(&self, order: &[u8]) -> anyhow::Result<()> {
        let message = json!({ "op": "relay", "length": order.len() });
        self.call(&message, order, &[]).map(drop)
    }

    /// Has it close the listening sockets that it was given.
    pub(in crate::backend) fn detach(&self) -> anyhow::Result<()> {
        self.call(&json!({ "op": "detach" }), &[], &[]).map(drop)
    }

    fn call(
        &self,
        message: &Value,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<Value> {
        self.call_within(DEADLINE, message, payload, descriptors)
    }

    fn call_within(
        &self,
        deadline: Duration,
        message: &Value,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<Value> {
        let mut stream = self.connect().context("connecting to it")?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        let line = format!("{message}\n");
        let mut answer = Vec::new();
        // One that refuses may do so before it has read all of it.
        let sent = send(&stream, line.as_bytes(), descriptors)
            .and_then(|()| stream.write_all(payload))
            .and_then(|()| stream.shutdown(Shutdown::Write));
        let read = (&stream).take(LONGEST).read_to_end(&mut answer);
        if answer.is_empty() {
            sent.context("talking to it")?;
        }
        if let Err(error) = read {
            // The system's word for it is "Resource temporarily unavailable".
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(Silence(deadline.as_secs()).into());
            }
            return Err(error).context("waiting for its answer");
        }
        let mut answer: Value = serde_json::from_slice(&answer).context("reading its answer")?;
        match (answer.get_mut("state").map(Value::take), answer.get("error")) {
            (Some(state), _) => Ok(state),
            (None, Some(Value::String(why))) => anyhow::bail!("it refuses: {why}"),
            _ => anyhow::bail!("its answer is neither a state nor an error"),
        }
    }
}

/// Sends a line with descriptors. It fits into the buffer of a socket on which nothing was sent yet.
fn send(stream: &UnixStream, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other(format!("more than {MOST} descriptors in one message")));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
