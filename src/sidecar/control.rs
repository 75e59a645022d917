//! How a running sidecar is told what to do: one message a connection, over a unix socket that only
//! its own user reaches.
//!
//! A message is one line of JSON, `{"op":"state"}`, and what belongs to it:
//!
//! | op | with it | does |
//! |---|---|---|
//! | `load` | `"length":N`, and N bytes after the line: a [`Document`](super::document::Document) | validates all of it, then works by it; on an error nothing changes |
//! | `state` | | nothing |
//! | `listen` | listening sockets, as `SCM_RIGHTS` | accepts the machine's connections on them too |
//! | `attach` | a listening socket and a pidfd | accepts the machine's connections there until that process ends, and on none that was attached before |
//! | `intercept` | `"token":"…"`, a listening socket | accepts the connections of a microVM there, see `egress::machine`, and on none that was attached before |
//! | `detach` | | closes what was attached |
//! | `relay` | `"length":N`, and N bytes after the line | of a git gate: has a relay bring connections, see `git::relayed`, and no other |
//! | `stop` | | ends the sidecar |
//!
//! The answer is one line too: `{"state":{…}}` or `{"error":"…"}`. Neither holds a credential. To `take` nothing is
//! answered: whoever says that waits for a connection to the git gate, see `relay`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::egress::{Sidecar, State, limits};

/// For one message, and its answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long one that is to end may take to say how it is.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The line of a message.
const LINE: usize = 1024;
/// Sockets in one message.
const SOCKETS: usize = 8;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Message {
    Load { length: u64 },
    State {},
    Listen {},
    Attach {},
    Intercept { token: String },
    Detach {},
    Relay { length: u64 },
    Take {},
    Stop {},
}

/// The answer to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<S> {
    State(S),
    Error(String),
}

/// What is told what to do: a sidecar, or a git gate.
pub(super) trait Served: Clone + Send + Sync + 'static {
    /// How it is.
    type State: Serialize + Send;

    /// Works by another document. It may take a while, and has a thread of its own.
    fn load(&self, document: &[u8]) -> Result<Self::State, String>;
    /// Says how it is.
    fn state(&self) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Accepts connections on these too.
    fn listen(
        &self,
        sockets: Vec<OwnedFd>,
    ) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Accepts connections until a process ends.
    fn attach(
        &self,
        sockets: Vec<OwnedFd>,
    ) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Accepts those of a microVM.
    fn intercept(
        &self,
        sockets: Vec<OwnedFd>,
        token: String,
    ) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Closes what was attached.
    fn detach(&self) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Has a relay bring connections.
    fn relay(&self, order: &[u8]) -> impl Future<Output = Result<Self::State, String>> + Send;
    /// Somebody waits for a connection to the git gate.
    fn take(&self, waiting: UnixStream);
    /// Ends.
    fn stop(&self);
}

impl Served for Sidecar {
    type State = State;

    fn load(&self, document: &[u8]) -> Result<State, String> {
        Self::load(self, document)
    }

    async fn state(&self) -> Result<State, String> {
        Ok(Self::state(self))
    }

    async fn listen(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        Self::listen(self, sockets)
    }

    async fn attach(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        Self::attach(self, sockets).await
    }

    async fn intercept(&self, sockets: Vec<OwnedFd>, token: String) -> Result<State, String> {
        Self::intercept(self, sockets, &token).await
    }

    async fn detach(&self) -> Result<State, String> {
        Ok(Self::detach(self).await)
    }

    async fn relay(&self, _: &[u8]) -> Result<State, String> {
        Err("a sidecar has no relay".to_owned())
    }

    fn take(&self, waiting: UnixStream) {
        self.hall().wait(waiting);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}

/// Why a sidecar did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no sidecar answers at {path}")]
    Unreachable {
        /// The socket.
        path: std::path::PathBuf,
        /// What connecting to it says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talking to the sidecar")]
    Broken(#[from] io::Error),
    /// It answered with something else.
    #[error("the sidecar's answer cannot be read")]
    Answer(#[from] serde_json::Error),
    /// It refused, and goes on as before.
    #[error("the sidecar refuses: {0}")]
    Refused(String),
}

/// Has the sidecar work by another document.
///
/// # Errors
/// When it cannot be reached, or refuses the document.
pub async fn load<S: DeserializeOwned>(path: &Path, document: &[u8]) -> Result<S, ControlError> {
    let length = document.len() as u64;
    call(path, &Message::Load { length }, document, &[]).await
}

/// Asks the sidecar how it is.
///
/// # Errors
/// When it cannot be reached.
pub async fn state<S: DeserializeOwned>(path: &Path) -> Result<S, ControlError> {
    call(path, &Message::State {}, &[], &[]).await
}

/// Hands listening sockets to the sidecar.
///
/// # Errors
/// When it cannot be reached, or cannot use them.
pub async fn listen<S: DeserializeOwned>(
    path: &Path,
    sockets: &[BorrowedFd<'_>],
) -> Result<S, ControlError> {
    call(path, &Message::Listen {}, &[], sockets).await
}

/// Ends the sidecar.
///
/// # Errors
/// When it cannot be reached.
pub async fn stop<S: DeserializeOwned>(path: &Path) -> Result<S, ControlError> {
    call(path, &Message::Stop {}, &[], &[]).await
}

async fn call<S: DeserializeOwned>(
    path: &Path,
    message: &Message,
    payload: &[u8],
    sockets: &[BorrowedFd<'_>],
) -> Result<S, ControlError> {
    let mut stream = UnixStream::connect(path)
        .await
        .map_err(|source| ControlError::Unreachable { path: path.to_owned(), source })?;
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || send(&stream, &line, sockets))?;
    stream.write_all(payload).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match serde_json::from_slice(&answer)? {
        Answer::State(state) => Ok(state),
        Answer::Error(why) => Err(ControlError::Refused(why)),
    }
}

/// Sends a line with sockets. It fits into the buffer of a socket on which nothing was sent yet.
fn send(stream: &UnixStream, line: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other(format!("more than {SOCKETS} sockets in one message")));
    }
    let sent =
        rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Answers messages until the sidecar stops.
pub(super) async fn serve<T: Served>(listener: UnixListener, served: T) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Whoever else may reach the socket's folder: only its own user, and root, say anything.
        let own = rustix::process::geteuid().as_raw();
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
            let served = served.clone();
            tokio::spawn(async move {
                // Whoever went away needs no answer.
                let _ = tokio::time::timeout(DEADLINE, answer(stream, &served)).await;
            });
        }
    }
}

async fn answer<T: Served>(mut stream: UnixStream, served: &T) -> io::Result<()> {
    let (result, stop) = match receive(&mut stream).await {
        Ok((Message::Load { .. }, payload, _)) => {
            // Compiling patterns takes a while, and others are served meanwhile.
            (load_aside(served.clone(), payload).await, false)
        }
        Ok((Message::State {}, ..)) => (served.state().await, false),
        Ok((Message::Listen {}, _, sockets)) => (served.listen(sockets).await, false),
        Ok((Message::Attach {}, _, sockets)) => (served.attach(sockets).await, false),
        Ok((Message::Intercept { token }, _, sockets)) => {
            (served.intercept(sockets, token).await, false)
        }
        Ok((Message::Detach {}, ..)) => (served.detach().await, false),
        Ok((Message::Relay { .. }, order, _)) => (served.relay(&order).await, false),
        Ok((Message::Take {}, ..)) => {
            served.take(stream);
            return Ok(());
        }
        Ok((Message::Stop {}, ..)) => {
            // It ends also where it cannot say how it is.
            let state = tokio::time::timeout(LAST_WORDS, served.state()).await;
            (state.unwrap_or_else(|_| Err("it does not say how it is, and ends".into())), true)
        }
        Err(error) => (Err(format!("reading the message: {error}")), false),
    };
    let answer = match result {
        Ok(state) => Answer::State(state),
        Err(why) => Answer::Error(why),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    let written = stream.write_all(&line).await;
    // Whoever says so sees the end of the connection when nothing is served any more.
    if stop {
        served.stop();
    }
    written?;
    stream.shutdown().await
}

/// Loads a document by a thread of its own: those that search uploads may all be at work, and a document that
/// forbids something must not wait for them.
async fn load_aside<T: Served>(served: T, payload: Zeroizing<Vec<u8>>) -> Result<T::State, String> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        let _within = runtime.enter();
        // Whoever asked may be gone.
        let _ = tell.send(served.load(&payload));
    });
    thread.map_err(|error| format!("starting a thread that loads the document: {error}"))?;
    let failed = |_| Err("loading the document ended in a mistake of the sidecar's".into());
    told.await.unwrap_or_else(failed)
}

/// Reads one message: its line, its sockets, and what comes after the line.
async fn receive(
    stream: &mut UnixStream,
) -> io::Result<(Message, Zeroizing<Vec<u8>>, Vec<OwnedFd>)> {
    // Wiped, for a payload may have come along; and never grown beyond this, for the same reason.
    let mut line = Zeroizing::new(Vec::with_capacity(2 * LINE));
    let mut bytes = Zeroizing::new([0; LINE]);
    let mut sockets = Vec::new();
    let end = loop {
        stream.readable().await?;
        let received =
            stream.try_io(Interest::READABLE, || receive_some(stream, &mut bytes, &mut sockets));
        match received {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => line.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if let Some(end) = memchr::memchr(b'\n', &line) {
            break end;
        }
        if line.len() >= LINE {
            return Err(io::Error::other("its line is too long"));
        }
    };
    let payload = &line[end + 1..];
    let message = serde_json::from_slice(&line[..end]).map_err(|_| {
        io::Error::other(
            "it is none of load, state, listen, attach, intercept, detach, relay, take, stop",
        )
    })?;
    let expected = match message {
        Message::Load { length } | Message::Relay { length } => length,
        _ => 0,
    };
    if expected > limits::DOCUMENT {
        let limit = limits::DOCUMENT;
        return Err(io::Error::other(format!("a document has at most {limit} bytes")));
    }
    let expected = usize::try_from(expected).unwrap_or(usize::MAX);
    // Never grown while it is filled: what a growing vector leaves behind is not wiped.
    let begun = payload.len();
    let mut whole = Zeroizing::new(vec![0; expected.max(begun)]);
    whole[..begun].copy_from_slice(payload);
    if begun < expected {
        stream.read_exact(&mut whole[begun..]).await?;
    } else if begun > expected {
        return Err(io::Error::other("there is more after it"));
    }
    Ok((message, whole, sockets))
}

fn receive_some(
    stream: &UnixStream,
    bytes: &mut [u8; LINE],
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            sockets.extend(fds);
        }
    }
    Ok(received.bytes)
}
