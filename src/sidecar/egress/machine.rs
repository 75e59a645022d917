//! The machine that a sidecar on a host serves: sockets that are handed in for it, and taken back.
//!
//! A namespace's socket is made inside it, and holds the network of a machine that has ended; no end
//! of file says so. So the machine's process comes with it, as a pidfd, and the socket is closed when
//! that ends. A microVM's socket is one of the host's loopback, where anybody may connect: its
//! connections begin with a token that only `smolvm` was told, and with where the machine meant to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::limits;
use super::serve::{Listener, Shared, Sidecar, State, accept};
use crate::model::access::{MICROVM_GATEWAY, PROXY_PORT};
use crate::sidecar::Code;
use crate::sidecar::record::{Event, Line};

/// What is attached now.
#[derive(Default)]
pub(super) struct Machine(Mutex<Option<Attached>>);

struct Attached {
    until: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Machine {
    /// Closes the socket that was handed in, before it returns.
    async fn detach(&self) {
        if let Some(attached) = self.0.lock().await.take() {
            attached.close().await;
        }
    }

    async fn attach(&self, attached: Attached) {
        if let Some(before) = self.0.lock().await.replace(attached) {
            before.close().await;
        }
    }
}

impl Attached {
    fn new(shared: &Arc<Shared>, listener: Listener, token: Option<Arc<Token>>) -> Self {
        let until = shared.stopping().child_token();
        let accepting = tokio::spawn(accept(Arc::clone(shared), listener, until.clone(), token));
        Self { until, accepting }
    }

    async fn close(self) {
        self.until.cancel();
        // A task that panicked has dropped its socket too.
        let _ = self.accepting.await;
    }
}

impl Sidecar {
    /// Accepts connections on the first of these, a listening socket, until the second, a pidfd, says
    /// that the machine has ended; and on no socket that came so before.
    ///
    /// # Errors
    /// What is wrong with them; then what was attached stays.
    pub async fn attach(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        let [listener, process] = <[OwnedFd; 2]>::try_from(sockets).map_err(|sockets| {
            format!("expected a listening socket and a pidfd, got {} descriptors", sockets.len())
        })?;
        let listener = Listener::new(listener)?;
        let process =
            watch(process).map_err(|error| format!("watching the machine's process: {error}"))?;
        let attached = Attached::new(self.shared(), listener, None);
        let until = attached.until.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                // What cannot be watched counts as ended: nothing may outlive its machine.
                _ = process.readable() => until.cancel(),
            }
        });
        self.shared().machine().attach(attached).await;
        Ok(self.state())
    }

    /// Accepts the connections of a microVM on this listening socket, those that begin with `token`;
    /// and on no socket that came so before.
    ///
    /// # Errors
    /// What is wrong with them; then what was attached stays.
    pub async fn intercept(&self, sockets: Vec<OwnedFd>, token: &str) -> Result<State, String> {
        let [listener] = <[OwnedFd; 1]>::try_from(sockets).map_err(|sockets| {
            format!("expected one listening socket, got {} descriptors", sockets.len())
        })?;
        let token = Token::parse(token)?;
        let listener = Listener::new(listener)?;
        let attached = Attached::new(self.shared(), listener, Some(Arc::new(token)));
        self.shared().machine().attach(attached).await;
        Ok(self.state())
    }

    /// Closes the socket that was attached.
    pub async fn detach(&self) -> State {
        self.shared().machine().detach().await;
        self.state()
    }
}

/// Becomes readable when the process behind this pidfd has ended.
#[expect(unsafe_code, reason = "the runtime has no safe way to wait for a descriptor")]
fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, and is not replaced or closed before the value that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?)
}

/// By what a microVM's connections are known. It is never shown.
pub(super) struct Token(Zeroizing<[u8; Token::LENGTH]>);

impl Token {
    const LENGTH: usize = 32;

    fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = Zeroizing::new([0; Self::LENGTH]);
        hex::decode_to_slice(text, &mut *bytes)
            .map_err(|_| "the token is not 64 hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }

    /// Compares without telling, by the time it takes, how much of it was right.
    fn is(&self, other: &[u8; Self::LENGTH]) -> bool {
        let different = self.0.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(different) == 0
    }
}

/// What a connection begins with, and the version of that.
const HELLO: &[u8; 9] = b"SMOLICPT\x01";
/// The kinds of addresses.
const V4: u8 = 4;
const V6: u8 = 6;
/// The answers: go on, or the number of an error that the machine sees.
const GO: u8 = 0;
const REFUSED: u8 = 111;

/// Why a connection is not one to the sidecar.
enum Not {
    /// It is none of the machine's.
    Ours,
    /// The machine meant it for another address.
    Here(SocketAddr),
}

/// Reads how a microVM's connection begins, and answers it. `true`: what follows is for the sidecar.
pub(super) async fn admit(
    shared: &Shared,
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    token: &Token,
) -> bool {
    let read = tokio::time::timeout(limits::HEAD, hello(socket, token)).await;
    let Ok(Ok(said)) = read else { return false };
    let not = match said {
        Ok(()) => return socket.write_all(&[GO]).await.is_ok(),
        Err(not) => not,
    };
    let id = shared.record.request_id();
    let code = Code::HostNotAllowed;
    let text = code.as_str();
    let line = Line { request_id: Some(&id), code: Some(&text), ..Line::new(Event::Deny) };
    // It is refused whether or not the log can say so.
    let _ = match not {
        // Whoever it is is told nothing, not even that this is no web server.
        Not::Ours => {
            shared.record.write(&line.detail("a connection of another program of the host"))
        }
        Not::Here(address) => {
            let host = address.to_string();
            let line = Line { host: Some(&host), ..line };
            let written = shared.record.write(&line.detail("a connection past the sidecar"));
            let _ = socket.write_all(&[REFUSED]).await;
            written
        }
    };
    false
}

async fn hello(
    socket: &mut (impl AsyncRead + Unpin),
    token: &Token,
) -> io::Result<Result<(), Not>> {
    let mut begin = [0; HELLO.len()];
    socket.read_exact(&mut begin).await?;
    let mut said = [0; Token::LENGTH];
    if begin == *HELLO {
        socket.read_exact(&mut said).await?;
    }
    if begin != *HELLO || !token.is(&said) {
        return Ok(Err(Not::Ours));
    }
    let family = socket.read_u8().await?;
    let port = socket.read_u16().await?;
    let address = match family {
        V4 => IpAddr::V4(Ipv4Addr::from(socket.read_u32().await?)),
        V6 => IpAddr::V6(Ipv6Addr::from(socket.read_u128().await?)),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let here: Option<IpAddr> = MICROVM_GATEWAY.parse().ok();
    if here == Some(address) && port == PROXY_PORT {
        Ok(Ok(()))
    } else {
        Ok(Err(Not::Here(SocketAddr::new(address, port))))
    }
}

#[cfg(test)]
mod tests;
