#![expect(clippy::disallowed_methods, reason = "deadlines are kept by the clock")]
//! Streams with deadlines, which end also when the guest that they are read for has left.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

/// Until when something may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn within(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this one and one within that time.
    pub(super) fn or_within(self, duration: Duration) -> Self {
        Self(self.0.min(Instant::now() + duration))
    }
}

/// What waiting for a descriptor came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Ready,
    /// The guest has closed its end.
    Left,
    Over,
}

/// Waits until one of these is ready, or the guest leaves.
pub(super) fn wait(
    descriptor: BorrowedFd<'_>,
    flags: PollFlags,
    guest: Option<BorrowedFd<'_>>,
    deadline: Deadline,
) -> io::Result<Waited> {
    loop {
        let left = deadline.left();
        let mut fds = vec![PollFd::from_borrowed_fd(descriptor, flags)];
        fds.extend(guest.map(|guest| PollFd::from_borrowed_fd(guest, PollFlags::RDHUP)));
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(Waited::Over),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Waited::Ready),
            Ok(_) => return Ok(Waited::Left),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the guest has closed its end.
pub(super) fn has_left(guest: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(guest, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// A stream that is read until then.
pub(super) struct Wire<'a> {
    pub(super) from: BorrowedFd<'a>,
    pub(super) deadline: Deadline,
    /// Whom it is read for, where that is somebody else.
    pub(super) guest: Option<BorrowedFd<'a>>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match wait(self.from, PollFlags::IN, self.guest, self.deadline)? {
            Waited::Ready => {
                Ok(rustix::io::retry_on_intr(|| rustix::io::read(self.from, &mut *buffer))?)
            }
            Waited::Left => Err(io::ErrorKind::ConnectionAborted.into()),
            Waited::Over => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A socket that is written to until then.
pub(super) struct Out<'a> {
    pub(super) to: BorrowedFd<'a>,
    pub(super) deadline: Deadline,
    pub(super) guest: Option<BorrowedFd<'a>>,
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match wait(self.to, PollFlags::OUT, self.guest, self.deadline)? {
                Waited::Ready => {}
                Waited::Left => return Err(io::ErrorKind::ConnectionAborted.into()),
                Waited::Over => return Err(io::ErrorKind::TimedOut.into()),
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(self.to, bytes, flags) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The guest's end of a connection.
#[derive(Debug)]
pub(super) struct Guest(pub(super) OwnedFd);

impl Guest {
    pub(super) fn reading(&self, deadline: Deadline) -> Wire<'_> {
        Wire { from: self.0.as_fd(), deadline, guest: None }
    }

    pub(super) fn writing(&self, deadline: Deadline) -> Out<'_> {
        Out { to: self.0.as_fd(), deadline, guest: None }
    }

    /// Says no more, and lets the guest say what it has to say, so that it reads what it was told.
    pub(super) fn part(&self, most: u64, deadline: Deadline) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
        let mut from = self.reading(deadline).take(most);
        let _ = io::copy(&mut from, &mut io::sink());
    }
}
