//! The command that takes one connection to the git gate out of a sidecar's container, see `relay`. Its stdin and
//! stdout are whoever started it: their end is its end.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::relay::{GIVEN, TAKEN};
use crate::model::gate::{OFFERED, TAKES};

/// Waits for a connection. `None`: whoever started this, or the sidecar, has ended. For as long as the other that is
/// returned is open, the sidecar counts the connection.
///
/// # Errors
/// When the sidecar cannot be reached.
pub fn take(control: &Path) -> io::Result<Option<(TcpStream, UnixStream)>> {
    let mut sidecar = UnixStream::connect(control)?;
    sidecar.write_all(b"{\"op\":\"take\"}\n")?;
    let socket = taken(&sidecar, &rustix::stdio::stdin(), &rustix::stdio::stdout())?;
    Ok(socket.map(|socket| (socket, sidecar)))
}

/// The same, of a command that has these.
pub(super) fn taken(
    sidecar: &UnixStream,
    stdin: &impl AsFd,
    stdout: &impl AsFd,
) -> io::Result<Option<TcpStream>> {
    let ended = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
        )
    };
    match exchange(sidecar, stdin, stdout) {
        Err(error) if ended(&error) => Ok(None),
        result => result,
    }
}

fn exchange(
    mut sidecar: &UnixStream,
    stdin: &impl AsFd,
    stdout: &impl AsFd,
) -> io::Result<Option<TcpStream>> {
    loop {
        let mut both = [PollFd::new(stdin, PollFlags::IN), PollFd::new(sidecar, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // Nothing is said before there is a connection: it is its end.
        if !both[0].revents().is_empty() {
            return Ok(None);
        }
        if !both[1].revents().is_empty() {
            break;
        }
    }
    let mut word = [0];
    sidecar.read_exact(&mut word)?;
    rustix::io::retry_on_intr(|| rustix::io::write(stdout, &[OFFERED]))?;
    if rustix::io::retry_on_intr(|| rustix::io::read(stdin, &mut word[..]))? != 1
        || word[0] != TAKES
    {
        return Ok(None);
    }
    sidecar.write_all(&[TAKEN])?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut word = [IoSliceMut::new(&mut word)];
        rustix::net::recvmsg(sidecar, &mut word, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes != 1 || word[0] != GIVEN {
        return Ok(None);
    }
    let given = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let Some(socket) = given else { return Ok(None) };
    let socket = TcpStream::from(socket);
    // The sidecar does not wait for it, and this does nothing else.
    socket.set_nonblocking(false)?;
    Ok(Some(socket))
}
