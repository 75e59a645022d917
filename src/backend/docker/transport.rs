//! How requests reach an engine: one connection each, and no answer without an end.
//!
//! Whatever listens on a socket may answer for ever, and what reads an answer holds all of it. So it is
//! the connection that counts, below everything that parses.
#![expect(clippy::disallowed_methods, reason = "reads the certificates of the operator's engine")]

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bollard::errors::Error;
use bollard::{BollardRequest, ClientVersion};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// The longest answer to a question. The listing of 10,000 containers has some 30 MiB.
const ANSWER: u64 = 64 << 20;

/// The longest account of how a pull or an import goes, and the most that is heard of events on one
/// connection: the loop makes another.
const ACCOUNT: u64 = 256 << 20;

/// The longest piece of a command's output or of a log. The client holds all of one until it is there: a line
/// without an end, or a frame that says that it has gigabytes. Engines send some ten KiB at once.
const PIECE: u64 = 4 << 20;

/// No bound.
const ANY: u64 = u64::MAX;

/// How much may still be read, and of how much.
#[derive(Default)]
struct Room {
    most: AtomicU64,
    left: AtomicU64,
    exceeded: AtomicBool,
}

impl Room {
    fn set(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.left.store(most, Ordering::Relaxed);
    }

    fn too_long(&self) -> io::Error {
        let most = self.most.load(Ordering::Relaxed);
        let what = if most == PIECE { "a piece of its answer" } else { "its answer" };
        io::Error::other(format!(
            "{what} is longer than {} MiB, which no engine's is: look what listens there",
            most >> 20
        ))
    }
}

/// A stream whose reader says that it was given something.
#[derive(Clone)]
pub(super) struct Pieces(Arc<Room>);

impl Pieces {
    /// A client whose next answer comes in pieces.
    pub(super) fn of(client: &bollard::Docker) -> (Self, bollard::Docker) {
        let pieces = Self(Arc::default());
        let marked = pieces.clone();
        let client = client.clone().with_request_modifier(move |mut request| {
            request.extensions_mut().insert(marked.clone());
            request
        });
        (pieces, client)
    }

    /// There was one: the next may be as long. Or none, and why.
    pub(super) fn next<T>(&self, piece: Result<T, Error>) -> Result<T, Error> {
        if piece.is_ok() {
            self.0.set(PIECE);
        }
        piece.map_err(|error| self.explained(error))
    }

    /// Why there is none: on its way through the client the cause is lost.
    pub(super) fn explained(&self, error: Error) -> Error {
        if self.0.exceeded.load(Ordering::Relaxed) {
            return Error::IOError { err: self.0.too_long() };
        }
        error
    }
}

/// Where an engine is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A socket of this machine.
    Unix(PathBuf),
    /// `host:port`, in the clear.
    Tcp(String),
    /// `host:port`, over TLS with the certificates of this folder.
    Tls(String, PathBuf),
}

impl Place {
    /// A client of the engine there. Nothing is sent yet.
    pub(super) fn client(
        self,
        seconds: u64,
        version: &ClientVersion,
    ) -> Result<bollard::Docker, Error> {
        let (address, tls) = match &self {
            Self::Unix(path) if !path.exists() => {
                return Err(Error::SocketNotFoundError(path.display().to_string()));
            }
            Self::Unix(_) => ("localhost".to_owned(), None),
            Self::Tcp(address) => (address.clone(), None),
            Self::Tls(address, folder) => (address.clone(), Some(trusted(folder)?)),
        };
        let place = Arc::new(self);
        let send = move |request: BollardRequest| {
            let (place, tls) = (place.clone(), tls.clone());
            async move { place.send(request, tls).await }
        };
        let address = format!("http://{address}");
        bollard::Docker::connect_with_custom_transport(send, Some(address), seconds, version)
    }

    async fn send(
        &self,
        request: BollardRequest,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Response<Incoming>, Error> {
        match (self, tls) {
            (Self::Unix(path), _) => over(UnixStream::connect(path).await?, request).await,
            (Self::Tcp(address), _) => over(tcp(address).await?, request).await,
            (Self::Tls(address, _), tls) => {
                let config = tls.ok_or_else(|| io::Error::other("no certificates were read"))?;
                let host = host_of(address);
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let stream = TlsConnector::from(config).connect(name, tcp(address).await?).await?;
                over(stream, request).await
            }
        }
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let with_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let stream = if with_port {
        TcpStream::connect(address).await?
    } else {
        TcpStream::connect((address, 80)).await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = match address.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => address,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn over<S>(stream: S, mut request: BollardRequest) -> Result<Response<Incoming>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let most = most(request.method(), request.uri().path());
    let pieces = request.extensions().get::<Pieces>().cloned();
    // Until it is known that it is what was asked for, it is held as any other.
    let room = pieces.as_ref().map_or_else(Arc::default, |pieces| pieces.0.clone());
    room.set(most.unwrap_or(ANSWER));
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(io::Error::other)?;
    let stream = TokioIo::new(Bounded { stream, room: room.clone() });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    // It ends with the answer, or with whoever waits for that.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await?;
    let as_asked = response.status().is_success() || response.status().is_informational();
    if most.is_none() && as_asked {
        room.set(if pieces.is_some() { PIECE } else { ANY });
    }
    Ok(response)
}

/// How much may be answered. `None`: what goes through as it comes, and is held by nobody, or as [`Pieces`].
fn most(method: &hyper::Method, path: &str) -> Option<u64> {
    let passes = ["/archive", "/logs", "/attach", "/get"].iter().any(|end| path.ends_with(end))
        || (path.starts_with("/exec/") && path.ends_with("/start"));
    if passes && (method == hyper::Method::GET || path.ends_with("/start")) {
        return None;
    }
    match path {
        "/events" | "/images/create" | "/images/load" => Some(ACCOUNT),
        _ => Some(ANSWER),
    }
}

/// A connection that reads so much and no more.
struct Bounded<S> {
    stream: S,
    room: Arc<Room>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let count = (buffer.filled().len() - before) as u64;
        let less = |left: u64| if left == ANY { Some(ANY) } else { left.checked_sub(count) };
        if self.room.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Poll::Ready(Ok(()));
        }
        buffer.set_filled(before);
        self.room.exceeded.store(true, Ordering::Relaxed);
        Poll::Ready(Err(self.room.too_long()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Trust in `ca.pem` and in what this machine trusts, with `cert.pem` and `key.pem` as our own.
fn trusted(folder: &Path) -> Result<Arc<rustls::ClientConfig>, Error> {
    let read = |name: &str| {
        let path = folder.join(name);
        let bytes = std::fs::read(&path);
        bytes.map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
    };
    let wrong = |name: &str, e: &dyn std::fmt::Display| {
        io::Error::other(format!("{}: {e}", folder.join(name).display()))
    };
    let certificates = |name: &str| -> io::Result<Vec<CertificateDer<'static>>> {
        let bytes = read(name)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|e| wrong(name, &e))?;
        if found.is_empty() {
            return Err(wrong(name, &"it holds no certificate"));
        }
        Ok(found)
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(certificates("ca.pem")?);
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    if !folder.join("cert.pem").exists() && !folder.join("key.pem").exists() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let chain = certificates("cert.pem")?;
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?).map_err(|e| wrong("key.pem", &e))?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|e| wrong("cert.pem", &e))?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn answers_are_bounded_and_what_passes_through_is_not() {
        for path in ["/_ping", "/containers/json", "/info", "/networks", "/exec/1/json"] {
            assert_eq!(most(&Method::GET, path), Some(ANSWER), "{path}");
        }
        assert_eq!(most(&Method::PUT, "/containers/x/archive"), Some(ANSWER));
        assert_eq!(most(&Method::POST, "/containers/x/start"), Some(ANSWER));
        assert_eq!(most(&Method::POST, "/images/create"), Some(ACCOUNT));
        assert_eq!(most(&Method::POST, "/exec/1/start"), None);
        assert_eq!(most(&Method::GET, "/containers/x/archive"), None);
    }

    #[tokio::test]
    async fn a_connection_ends_at_its_bound_and_not_before() {
        let of = |left: u64| {
            let room = Room { most: ANSWER.into(), left: left.into(), ..Room::default() };
            Bounded { stream: tokio::io::repeat(7), room: Arc::new(room) }
        };
        let mut bytes = vec![0; 4096];
        of(4096).read_exact(&mut bytes).await.unwrap();
        let error = of(4095).read_exact(&mut bytes).await.unwrap_err().to_string();
        assert!(error.contains("its answer is longer than 64 MiB"), "{error}");
        let pieces = Pieces(Arc::default());
        let mut stream = Bounded { stream: tokio::io::repeat(7), room: pieces.0.clone() };
        for _ in 0..3 {
            pieces.next(Ok(())).unwrap();
            for _ in 0..PIECE / 4096 {
                stream.read_exact(&mut bytes).await.unwrap();
            }
        }
        stream.read_exact(&mut bytes).await.unwrap_err();
        let error = pieces.explained(Error::RequestTimeoutError);
        assert!(
            error.to_string().contains("a piece of its answer is longer than 4 MiB"),
            "{error}"
        );
    }

    #[test]
    fn an_address_names_its_host() {
        for (address, host) in [
            ("far:2376", "far"),
            ("far", "far"),
            ("[2001:db8::1]:2376", "2001:db8::1"),
            ("192.0.2.1:2376", "192.0.2.1"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = trusted(folder.path()).unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
        std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
        let error = trusted(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it holds no certificate"), "{error}");
    }
}
