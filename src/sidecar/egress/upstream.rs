#![expect(clippy::disallowed_methods, reason = "connections are kept for a time")]
//! Connections to upstreams: verified, and kept for the next request.
//!
//! A connection that is kept remembers the address that was checked; the next request that would use
//! it checks that address again, by its own grant. All of them belong to one loaded document, so a
//! new policy begins with none.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::ahead::{Ahead, Gathered};
use super::dial::{checked, dial};
use super::heedless::Heedless;
use super::limits;
use super::relaying::Relaying;
use super::resolve::Resolver;
use super::trouble::Trouble;
use super::upload::Upload;
use super::verified::{Verifier, failed};
use super::via::{Proxy, Way};
use crate::sidecar::{Authority, CheckedAddr, Cidr, Code, Host};

/// Which upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// What was decided about; also the name that its certificate has to be for.
    pub(super) authority: Authority,
    /// TLS or not.
    pub(super) secure: bool,
    /// HTTP/2 is offered, because the client speaks it. A client of HTTP/1 is served over HTTP/1:
    /// what need not be translated is neither slower nor misread.
    pub(super) http2: bool,
}

/// What may be dialled for one request.
pub(super) struct Reach<'a> {
    /// Private networks that the grant opens.
    pub(super) exceptions: &'a [Cidr],
    /// What nothing opens.
    pub(super) forbidden: &'a [IpAddr],
    /// The port of the host's loopback that is granted, and nothing else.
    pub(super) service: Option<u16>,
    /// What it has to share memory with.
    pub(super) relaying: &'a Arc<Relaying>,
}

/// All upstreams of one loaded document.
pub(super) struct Upstreams {
    resolver: Resolver,
    /// With HTTP/2 offered, and without.
    tls: [TlsConnector; 2],
    kept: Mutex<HashMap<Target, Vec<Kept>>>,
    proxy: Option<Proxy>,
    route: Box<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>,
}

/// An open connection.
pub(super) struct Connection {
    /// Where it leads; not known of a name that the network's proxy resolves.
    address: Option<CheckedAddr>,
    by_proxy: bool,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

struct Kept {
    since: Instant,
    connection: Connection,
}

/// Why a request was not answered.
pub(super) enum Unanswered {
    /// The upstream had closed the connection before anything of the request was sent.
    Unsent(Box<Request<Upload>>),
    /// The connection failed with the request under way.
    Failed,
    /// The head of the answer is larger than what is read of one.
    HeadTooLarge,
}

impl Upstreams {
    pub(super) fn new(
        resolver: Resolver,
        tls: ClientConfig,
        proxy: Option<Proxy>,
        route: Box<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>,
    ) -> Self {
        let mut http1 = tls.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = [tls, http1].map(|config| Arc::new(config).into());
        Self { resolver, tls, kept: Mutex::default(), proxy, route }
    }

    /// A connection that is open already, whose address passes the check of this request.
    pub(super) fn kept(&self, target: &Target, reach: &Reach<'_>) -> Option<Connection> {
        // Nothing is left half-done under this lock, so its poison says nothing.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_target = kept.get_mut(target)?;
        of_target.retain_mut(|kept| kept.usable(reach));
        let shared = of_target.iter().find_map(|kept| kept.connection.share());
        shared.or_else(|| of_target.pop().map(|kept| kept.connection))
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, target: &Target, connection: Connection) {
        let since = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = kept.values().map(Vec::len).sum();
        if all >= limits::ALL_IDLE_UPSTREAMS {
            kept.retain(|_, of_target| {
                of_target.retain_mut(Kept::open);
                !of_target.is_empty()
            });
        }
        let of_target = kept.entry(target.clone()).or_default();
        if of_target.len() < limits::IDLE_UPSTREAMS && all < limits::ALL_IDLE_UPSTREAMS {
            of_target.push(Kept { since, connection });
        }
    }

    /// Closes what was not used for a while.
    pub(super) fn sweep(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, of_target| {
            of_target.retain_mut(Kept::open);
            !of_target.is_empty()
        });
    }

    /// Resolves, checks every address, dials one that passed or has the network's proxy do so, and verifies
    /// who answers.
    pub(super) async fn connect(
        &self,
        target: &Target,
        reach: &Reach<'_>,
    ) -> Result<Connection, Trouble> {
        let (stream, address) = match reach.service {
            // It is this machine's own, to which no proxy leads.
            Some(port) => {
                let service = [CheckedAddr::of_service(port)];
                let (stream, address) =
                    dial(&service, |address| (self.route)(address.get())).await?;
                (Way::Left(stream), Some((address, false)))
            }
            None => self.way(&target.authority, reach).await?,
        };
        let by_proxy = address.is_none_or(|(_, by_proxy)| by_proxy);
        let address = address.map(|(address, _)| address);
        let sender = if target.secure {
            let name = target.authority.host().to_string();
            let name = ServerName::try_from(name).map_err(|_| Code::UpstreamTls)?;
            let [both, http1] = &self.tls;
            let tls = if target.http2 { both } else { http1 };
            let handshake = tls.connect(
                name,
                Ahead::new(stream, limits::UPSTREAM_READ_AHEAD, Arc::clone(reach.relaying)),
            );
            let stream = tokio::time::timeout(limits::UPSTREAM_HANDSHAKE, handshake)
                .await
                .map_err(|_| Code::UpstreamTimeout)?
                .map_err(|error| failed(&error, by_proxy))?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = Gathered::new(stream, Arc::clone(reach.relaying));
            if http2 { http2_over(stream).await? } else { http1_over(stream).await? }
        } else {
            http1_over(stream).await?
        };
        let connection = Connection { address, by_proxy, sender };
        if let Some(shared) = connection.share() {
            self.keep(target, shared);
        }
        Ok(connection)
    }

    /// A way to an upstream, with the address where it leads and whether by the proxy; without one where the
    /// proxy resolves the name.
    async fn way(
        &self,
        authority: &Authority,
        reach: &Reach<'_>,
    ) -> Result<(Way, Option<(CheckedAddr, bool)>), Trouble> {
        let Host::Name(name) = authority.host() else { return Err(Code::SsrfDenied.into()) };
        let proxy = self.proxy.as_ref().filter(|proxy| !proxy.is_passed_by(name.as_str()));
        if let Some(proxy) = proxy.filter(|proxy| proxy.resolves()) {
            let way = proxy.tunnel(&authority.to_string(), &self.resolver).await?;
            return Ok((way, None));
        }
        let found = self.resolver.addresses(name.as_str()).await;
        let found = found.map_err(|trouble| match proxy {
            Some(_) => trouble.where_a_proxy_may_know(),
            None => trouble,
        })?;
        let mut addresses = checked(&found, authority.port(), reach.exceptions, reach.forbidden)?;
        if let Some(proxy) = proxy {
            let direct = proxy.passed_by(&addresses);
            if direct.is_empty() {
                let (way, address) = proxy.reach(&addresses, &self.resolver).await?;
                return Ok((way, Some((address, true))));
            }
            addresses = direct;
        }
        let dialled = dial(&addresses, |address| (self.route)(address.get())).await;
        let (stream, address) = dialled.map_err(|code| match self.proxy {
            Some(_) => Trouble::not_by_proxy(code),
            None => code.into(),
        })?;
        Ok((Way::Left(stream), Some((address, false))))
    }
}

async fn http1_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Sender, Code> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(limits::READ_BUFFER)
        .handshake(TokioIo::new(Heedless::new(stream)))
        .await
        .map_err(|_| Code::UpstreamUnreachable)?;
    // How it ends is seen by whoever waits for the answer.
    tokio::spawn(connection.with_upgrades().map(drop));
    Ok(Sender::Http1(sender))
}

async fn http2_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Sender, Code> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::UPSTREAM_STREAM_WINDOW)
        .initial_connection_window_size(limits::UPSTREAM_CONNECTION_WINDOW)
        .max_header_list_size(limits::UPSTREAM_HEADER_LIST)
        .max_send_buf_size(limits::SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Code::UpstreamUnreachable)?;
    tokio::spawn(connection.map(drop));
    Ok(Sender::Http2(sender))
}

impl Connection {
    /// Whether requests on it are HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Whether it goes by the network's proxy.
    pub(super) fn is_by_proxy(&self) -> bool {
        self.by_proxy
    }

    /// The same connection for another request, where it takes several at once.
    fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                address: self.address,
                by_proxy: self.by_proxy,
                sender: Sender::Http2(sender.clone()),
            }),
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let unanswered = |mut error: TrySendError<Request<Upload>>| match error.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request)),
            None if is_too_large(error.error()) => Unanswered::HeadTooLarge,
            None => Unanswered::Failed,
        };
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await.map_err(unanswered),
            Sender::Http2(sender) => {
                if sender.ready().await.is_err() {
                    return Err(Unanswered::Unsent(Box::new(request)));
                }
                sender.try_send_request(request).await.map_err(unanswered)
            }
        }
    }
}

/// Whether an answer was given up because of the size of its head.
fn is_too_large(error: &hyper::Error) -> bool {
    error.is_parse_too_large()
}

impl Kept {
    fn open(&mut self) -> bool {
        let fresh = self.since.elapsed() < limits::UPSTREAM_IDLE;
        match &mut self.connection.sender {
            Sender::Http1(sender) => {
                fresh && !sender.is_closed() && {
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    !matches!(pin!(sender.ready()).poll(&mut context), Poll::Ready(Err(_)))
                }
            }
            // Its time begins anew with every stream; what is open stays open.
            Sender::Http2(sender) => fresh && !sender.is_closed(),
        }
    }

    fn usable(&mut self, reach: &Reach<'_>) -> bool {
        let passes = match (reach.service, self.connection.address) {
            (Some(port), address) => address == Some(CheckedAddr::of_service(port)),
            (None, Some(address)) => {
                CheckedAddr::check(address.get(), reach.exceptions, reach.forbidden).is_ok()
            }
            (None, None) => true,
        };
        self.open() && passes
    }
}

/// How upstreams are verified. There is no way to leave it out.
pub(super) fn client_config(
    roots: &[Vec<u8>],
    more: &[Vec<u8>],
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    if roots.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let (_, ignored) = store.add_parsable_certificates(roots.iter().cloned().map(Into::into));
    let (_, unread) = store.add_parsable_certificates(more.iter().cloned().map(Into::into));
    if unread > 0 {
        return Err(format!("`more_roots`: {unread} of its certificates cannot be read"));
    }
    if store.is_empty() {
        return Err(format!("`roots` holds no certificate: none of {ignored} can be read"));
    }
    let trusted = store.subjects();
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider))
        .build()
        .map(|verifier| Verifier::new(verifier, trusted))
        .map_err(|error| format!("setting up TLS: {error}"))?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("setting up TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::in_memory_sessions(limits::ALL_IDLE_UPSTREAMS);
    Ok(config)
}
