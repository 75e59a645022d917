//! How `bottle` and its helper talk: one socket, which is the helper's stdin.
//!
//! `bottle` sends one request with the descriptors that it is about, the helper one answer. Nothing
//! is said by arguments or environment: both can be read in `/proc`, also by a sandbox. (But for its
//! mark, which is there to be read.)

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::state::{Record, Run};

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Start the sandbox in this folder. Answer: [`Answer::Started`].
    Start {
        /// Its folder.
        folder: PathBuf,
        /// What a sandbox may not see even where it is shown the folders around it.
        hidden: Vec<PathBuf>,
        /// The first argument of the helper, and so of its init.
        mark: String,
    },
    /// Run a command in a sandbox. Descriptors: its init (a pidfd), stdin, stdout, stderr; with a
    /// terminal, stdin is the caller's terminal. Answer: [`Answer::Exited`].
    Exec(Box<Exec>),
    /// Wipe, make folders, unpack. Descriptors: its init, the tar. Answer: [`Answer::Done`].
    CopyIn {
        /// Where.
        target: Target,
        /// What is removed first.
        wipe: Vec<String>,
        /// What is made, parents first: path, owner, group, mode.
        dirs: Vec<(String, u32, u32, u32)>,
    },
    /// Unpack a tar that comes through a pipe. Descriptors: its init, the pipe. Answer: [`Answer::Done`].
    StreamIn {
        /// Where.
        target: Target,
    },
    /// Write a tar. Descriptors: its init, where to. Answer: [`Answer::Done`].
    CopyOut {
        /// From where.
        target: Target,
        /// What.
        path: String,
        /// How many bytes at most.
        limit: u64,
    },
    /// Unpack an image's layer into this folder. Descriptors: the tar. Answer: [`Answer::Done`].
    Unpack {
        /// It comes out of an archive, which may hold far more than it takes.
        archived: bool,
        /// The folder.
        folder: PathBuf,
    },
    /// Listen where a way out of the sandbox is. Descriptors: its init, and a socket that the listening one
    /// goes through. Answer: [`Answer::Done`].
    Listen {
        /// Where.
        target: Target,
        /// At which port of its loopback.
        port: u16,
    },
    /// Connect to a port of the sandbox's loopback. Descriptors: its init, and a socket that the connection goes
    /// through, if something listens there. Answer: [`Answer::Done`].
    Connect {
        /// Where.
        target: Target,
        /// The port.
        port: u16,
    },
    /// Enter a container of an engine; wipe, make folders, unpack. Descriptors: its mount namespace,
    /// the tar, its user namespace where it has one. Answer: [`Answer::Done`], [`Answer::Outside`].
    VisitPut {
        /// What is removed first.
        wipe: Vec<String>,
        /// What is made, parents first: path, owner, group, mode.
        dirs: Vec<(String, u32, u32, u32)>,
        /// Of these, the one that may be there with another owner.
        own: Option<String>,
        /// As whom, and where.
        visit: Visit,
    },
    /// Enter a container of an engine; unpack a tar as it comes. Descriptors and answers as above.
    VisitStream {
        /// As whom, and where.
        visit: Visit,
    },
    /// Enter a container of an engine; write a tar. Descriptors as above, the second is where to.
    VisitGet {
        /// As whom, and where.
        visit: Visit,
        /// What.
        path: String,
        /// How many bytes at most.
        limit: u64,
    },
    /// Try to make namespaces. Answer: [`Answer::Done`].
    Probe,
}

/// As whom files of a container are touched, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Visit {
    /// The guest's user: id and group.
    pub(super) user: (u32, u32),
    /// With that user's rights and no more; else with all that files need.
    pub(super) as_guest: bool,
    /// The mounts that may be entered, beside the one that the container's `/` is on.
    pub(super) mounts: Vec<u64>,
}

/// A running sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Target {
    /// What it was made from.
    pub(super) record: Record,
    /// Which run of it.
    pub(super) run: Run,
}

/// A command for a sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exec {
    pub(super) target: Target,
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) workdir: Option<String>,
    /// With the values that were put into the machine.
    pub(super) values: bool,
    pub(super) as_root: bool,
    pub(super) tty: bool,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It was done.
    Done,
    /// The sandbox runs.
    Started(Run),
    /// The command ended, with this code.
    Exited(i32),
    /// It could not be entered, and nothing was done: why.
    Outside(String),
    /// The text of an error.
    Failed(String),
}

/// At most so many descriptors go with a request.
const MAX_FDS: usize = 4;
/// No message is longer than this: argument lists of the kernel are shorter.
const MAX_LENGTH: u32 = 16 << 20;

/// Sends a message with descriptors.
pub(super) fn send<T: Serialize>(
    socket: &mut UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors"));
    }
    // Four bytes always fit: the descriptors travel with them.
    let sent = retry_on_intr(|| {
        let parts = &[IoSlice::new(&length)];
        rustix::net::sendmsg(&*socket, parts, &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.write_all(&body)
}

/// Receives a message with its descriptors.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(
    socket: &mut UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // A wait with a deadline is broken off by any signal of the caller's, also one that is handled.
    let received = retry_on_intr(|| {
        let parts = &mut [IoSliceMut::new(&mut length)];
        rustix::net::recvmsg(&*socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let length = u32::from_le_bytes(length);
    if length > MAX_LENGTH {
        return Err(io::Error::other("a message is too long"));
    }
    let mut body = Vec::new();
    socket.take(u64::from(length)).read_to_end(&mut body)?;
    Ok((serde_json::from_slice(&body).map_err(io::Error::other)?, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&mut near, &Answer::Exited(7), &[write.as_fd()]).unwrap();
        drop(write);
        let (answer, fds): (Answer, _) = receive(&mut far).unwrap();
        assert!(matches!(answer, Answer::Exited(7)));
        rustix::io::write(&fds[0], b"x").unwrap();
        drop(fds);
        assert_eq!(rustix::io::read(&read, &mut [0; 4]).unwrap(), 1);
        drop(near);
        assert!(receive::<Answer>(&mut far).is_err());
    }
}
