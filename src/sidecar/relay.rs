//! Connections to the git gate, where the sidecar is in a container and the gate is not: they wait until a command that the
//! gate's relay runs beside the sidecar takes them. Their bytes are not looked at.
//!
//! The command says that it waits, by `take` on the control socket (see [`super::taking`]). It is offered a connection, and
//! is given that only once whoever started it has said that it is there: one that has died without its command's
//! noticing takes nothing away. If nobody takes a connection, git is told so in its own words.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// There is a connection.
pub(super) const OFFERED: u8 = b'?';
/// Whoever started the command is there and takes it.
pub(super) const TAKEN: u8 = b'!';
/// The connection comes with this.
pub(super) const GIVEN: u8 = b'=';

/// For somebody to take a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one to whom it is offered to say that it takes it.
const OFFER: Duration = Duration::from_millis(1500);
/// Connections that wait. The next one is refused at once.
const WAITING: usize = 32;
/// Connections that are carried: each is a process in the sidecar's container.
const CARRIED: usize = 16;
/// Commands that wait. What one that died has left goes first.
const TAKERS: usize = 16;
/// For one that is refused to read why, and how much of what it has to say is read meanwhile.
const PARTING: Duration = Duration::from_secs(2);
const PARTING_BYTES: u64 = 64 * 1024;

/// What git reads where nobody takes a connection.
const NOBODY: &str = "the git gate does not answer: it is on the machine of the operator, which may be down or cut off. \
                      Ask the operator to look at it";
/// The same where there are too many.
const MANY: &str = "too many connections to the git gate at once: try again in a moment";

/// Where connections and commands meet.
#[derive(Debug)]
pub(super) struct Hall {
    takers: Mutex<Vec<UnixStream>>,
    came: Notify,
    waiting: Arc<Semaphore>,
    carried: Arc<Semaphore>,
}

impl Default for Hall {
    fn default() -> Self {
        Self {
            takers: Mutex::default(),
            came: Notify::new(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            carried: Arc::new(Semaphore::new(CARRIED)),
        }
    }
}

impl Hall {
    /// Accepts connections on this listening socket for good. Called within a runtime.
    pub(super) fn listen(self: &Arc<Self>, socket: OwnedFd) -> io::Result<()> {
        let listener = TcpListener::from_std(socket.into())?;
        let hall = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        // It is slower without.
                        let _ = socket.set_nodelay(true);
                        tokio::spawn(pass(Arc::clone(&hall), socket));
                    }
                    // Out of descriptors, most likely: some will be closed.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Ok(())
    }

    /// A command waits for a connection. It ends when this is dropped.
    pub(super) fn wait(&self, taker: UnixStream) {
        let mut takers = self.takers.lock().unwrap_or_else(PoisonError::into_inner);
        if takers.len() >= TAKERS {
            takers.remove(0);
        }
        takers.push(taker);
        drop(takers);
        self.came.notify_waiters();
    }

    /// The one that has waited least, for of those that nobody is behind any more most are older; and room for what it
    /// is to carry.
    async fn next(&self) -> (UnixStream, Option<OwnedSemaphorePermit>) {
        loop {
            let came = self.came.notified();
            // It is never closed.
            let place = Arc::clone(&self.carried).acquire_owned().await.ok();
            let taker = self.takers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(taker) = taker {
                return (taker, place);
            }
            drop(place);
            came.await;
        }
    }

    /// Gives the connection away. Whoever has it holds the other end of what is returned for as long.
    async fn hand(&self, socket: &TcpStream) -> (UnixStream, Option<OwnedSemaphorePermit>) {
        loop {
            let (mut taker, place) = self.next().await;
            if let Ok(Ok(())) = tokio::time::timeout(OFFER, offer(&mut taker, socket)).await {
                return (taker, place);
            }
        }
    }
}

/// Has a connection taken, or says that nobody does.
async fn pass(hall: Arc<Hall>, socket: TcpStream) {
    let Ok(waiting) = Arc::clone(&hall.waiting).try_acquire_owned() else {
        return refuse(socket, MANY).await;
    };
    let handed = tokio::time::timeout(PATIENCE, hall.hand(&socket)).await;
    let Ok((mut taker, place)) = handed else {
        let why = if hall.carried.available_permits() == 0 { MANY } else { NOBODY };
        return refuse(socket, why).await;
    };
    drop((waiting, socket));
    // It says no more, and is closed when the connection is.
    let _ = taker.read_u8().await;
    drop(place);
}

async fn offer(taker: &mut UnixStream, socket: &TcpStream) -> io::Result<()> {
    taker.write_all(&[OFFERED]).await?;
    if taker.read_u8().await? != TAKEN {
        return Err(io::ErrorKind::InvalidData.into());
    }
    taker.writable().await?;
    taker.try_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let socket = [socket.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&socket)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let word = [IoSlice::new(&[GIVEN])];
        rustix::net::sendmsg(&*taker, &word, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    })
}

/// Says why not, in git's own way, which any git prints.
async fn refuse(mut socket: TcpStream, why: &str) {
    let sentence = format!("ERR bottle: {why}");
    let line = format!("{:04x}{sentence}", sentence.len() + 4);
    let part = async {
        socket.write_all(line.as_bytes()).await?;
        socket.shutdown().await?;
        // What it has said and nobody has read would take the answer from it.
        tokio::io::copy(&mut socket.take(PARTING_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever left needs no reason.
    let _ = tokio::time::timeout(PARTING, part).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;
    use crate::sidecar::taking;

    /// A hall, and what connects to it.
    fn open() -> (Arc<Hall>, std::net::SocketAddr) {
        let hall = Arc::new(Hall::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        hall.listen(listener.into()).unwrap();
        (hall, at)
    }

    /// A command that waits: what it is on both sides, beside its process.
    fn taker(hall: &Hall) -> StdUnixStream {
        let (near, far) = StdUnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        hall.wait(UnixStream::from_std(near).unwrap());
        far
    }

    /// The command, for whom whoever started it answers with `answer`; nobody, if that is empty.
    fn command(far: StdUnixStream, answer: &'static [u8]) -> std::thread::JoinHandle<bool> {
        use std::io::{Read as _, Write as _};
        let (stdin, mut to) = StdUnixStream::pair().unwrap();
        let (stdout, mut from) = StdUnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut said = [0];
            if from.read_exact(&mut said).is_ok() && said[0] == crate::model::gate::OFFERED {
                to.write_all(answer).unwrap();
            }
            // Kept: its end would be the end of the command.
            let _ = from.read(&mut said);
            drop(to);
        });
        std::thread::spawn(move || {
            let Ok(Some(mut socket)) = taking::taken(&far, &stdin, &stdout) else { return false };
            let mut asked = [0; 5];
            socket.read_exact(&mut asked).unwrap();
            socket.write_all(&asked).unwrap();
            true
        })
    }

    async fn ask(at: std::net::SocketAddr) -> String {
        let mut socket = TcpStream::connect(at).await.unwrap();
        socket.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_is_given_to_one_that_is_there() {
        let (hall, at) = open();
        // Of these, one has ended, and one has nobody behind it any more.
        drop(taker(&hall));
        let alive = command(taker(&hall), &[TAKEN]);
        let silent = taker(&hall);
        drop(taker(&hall));
        assert_eq!(ask(at).await, "hello");
        assert!(alive.join().unwrap());
        // That one was let go.
        silent.set_nonblocking(false).unwrap();
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut &silent, &mut said).unwrap();
        assert_eq!(said, [OFFERED]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_nobody_takes_it_git_is_told() {
        let (hall, at) = open();
        let refuses = command(taker(&hall), b"x");
        let answer = ask(at).await;
        assert!(answer.starts_with("00"), "{answer}");
        assert!(answer[4..].starts_with("ERR bottle: the git gate does not answer: "), "{answer}");
        assert_eq!(usize::from_str_radix(&answer[..4], 16).unwrap(), answer.len());
        assert!(!refuses.join().unwrap());
        // The next one that waits is given the next connection.
        let (asked, late) = (tokio::spawn(ask(at)), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            command(taker(&hall), &[TAKEN])
        });
        let late = late.await;
        assert_eq!(asked.await.unwrap(), "hello");
        assert!(late.join().unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_that_wait_are_bounded() {
        let (hall, at) = open();
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            waiting.push(tokio::spawn(ask(at)));
        }
        while hall.waiting.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let answer = ask(at).await;
        assert!(answer.contains("too many connections"), "{answer}");
        for waiting in waiting {
            assert!(waiting.await.unwrap().contains("does not answer"));
        }
        let takers: Vec<StdUnixStream> = (0..TAKERS + 3).map(|_| taker(&hall)).collect();
        assert_eq!(hall.takers.lock().unwrap().len(), TAKERS);
        drop(takers);
    }
}
