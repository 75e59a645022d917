//! What keeper and worker say to each other: whole messages over stream sockets, with descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

/// No message is longer.
const LONGEST: usize = 8 << 20;
/// Descriptors in one message.
const DESCRIPTORS: usize = 8;

/// One end of a channel.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Both ends of a new one.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = sockets()?;
        Ok((Self(one.into()), Self(other.into())))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Says something, and waits for the answer.
    pub(super) fn call(&self, message: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        self.send(message, with)?;
        let (answer, _) = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(answer)
    }

    pub(super) fn send(&self, message: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::Error::other("too many descriptors in one message"));
        }
        let mut sent = rustix::io::retry_on_intr(|| {
            let slices = [IoSlice::new(&length)];
            rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)
        })?;
        while sent < length.len() {
            sent += (&self.0).write(&length[sent..])?;
        }
        (&self.0).write_all(message)
    }

    /// The next message; `None`: the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut length = [0; 4];
        let mut have = 0;
        let mut with = Vec::new();
        while have < length.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::io::retry_on_intr(|| {
                let mut slices = [IoSliceMut::new(&mut length[have..])];
                rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
            })?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    with.extend(descriptors);
                }
            }
            match received.bytes {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(io::Error::other("a message is too long"));
        }
        let mut message = vec![0; length];
        (&self.0).read_exact(&mut message)?;
        Ok(Some((message, with)))
    }
}

/// Two sockets that are connected to each other.
pub(super) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_and_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (mine, theirs) = sockets().unwrap();
        let long = vec![b'x'; 1 << 20];
        let text = long.clone();
        let sender = std::thread::spawn(move || {
            one.send(b"first", &[theirs.as_fd()]).unwrap();
            one.send(&text, &[]).unwrap();
        });
        let (first, with) = other.receive().unwrap().unwrap();
        assert_eq!((first.as_slice(), with.len()), (&b"first"[..], 1));
        assert_eq!(other.receive().unwrap().unwrap().0, long);
        sender.join().unwrap();
        assert!(other.receive().unwrap().is_none());
        rustix::io::write(&with[0], b"!").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&mine, &mut byte).unwrap(), 1);
    }
}
