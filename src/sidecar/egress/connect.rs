//! A CONNECT, and what is said inside it.
//!
//! The tunnel ends here: the sidecar is the server that the client asked for, under a leaf of the
//! sandbox's own authority. What is no TLS handshake, or names no host or another one, is closed.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use hyper::Uri;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ahead::Ahead;
use super::case::Case;
use super::framed::{Framed, Wire};
use super::limits;
use super::proxy::{Door, Kind, answer};
use super::relaying::Paced;
use super::serve::Shared;
use super::slots::Slot;
use super::state::Loaded;
use super::websocket::Session;
use crate::sidecar::record::{Event, Line};
use crate::sidecar::{Authority, Code, Host, Transport, decide_connect};

/// What a connection becomes when its last answer was sent.
pub(super) enum Switch {
    /// The tunnel of a CONNECT that was granted.
    Tunnel(Authority),
    /// A WebSocket to which the upstream has agreed.
    WebSocket(Box<Session>),
}

/// What a connection was granted to become, until it does.
#[derive(Default)]
pub(super) struct Pending(Mutex<Option<(Switch, OnUpgrade)>>);

impl Pending {
    pub(super) fn set(&self, switch: Switch, upgrade: OnUpgrade) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((switch, upgrade));
    }

    /// What it becomes, with the connection itself, and what was received beyond its last request.
    pub(super) async fn take<S>(&self) -> Option<(Switch, S, BytesMut)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (switch, upgrade) = pending?;
        let parts = upgrade.await.ok()?.downcast::<TokioIo<Framed<S>>>().ok()?;
        // The parser had nothing beyond that request: the filter lets nothing pass after it.
        let (socket, mut before) = parts.io.into_inner().into_tunnel();
        if !parts.read_buf.is_empty() {
            let mut whole = BytesMut::from(&*parts.read_buf);
            whole.unsplit(before);
            before = whole;
        }
        Some((switch, socket, before))
    }
}

/// Whether a CONNECT is granted. Nothing is resolved or dialled for it: what it is for is known with
/// its first request.
pub(super) fn grant(case: &Case, loaded: Option<&Loaded>, uri: &Uri) -> Result<Authority, Code> {
    let raw = uri.authority().ok_or(Code::MalformedAuthority)?;
    let authority = Authority::parse(raw.as_str().as_bytes(), None)?;
    case.is_for(&authority, loaded);
    let loaded = loaded.ok_or(Code::NotReady)?;
    decide_connect(&loaded.policy, &authority)?;
    if loaded.ca.is_none() {
        return Err(Code::NotReady);
    }
    Ok(authority)
}

/// Serves what is inside a tunnel, until it ends or a new policy forbids it.
pub(super) async fn tunnel<S>(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    socket: Ahead<S>,
    authority: Authority,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let forbidden = {
        let authority = authority.clone();
        shared.until(0, move |loaded| decide_connect(&loaded.policy, &authority).is_err())
    };
    tokio::select! {
        () = served(&shared, slot, socket, &authority) => {}
        () = forbidden => {
            let name = authority.host().to_string();
            let secret = shared.loaded().is_some_and(|now| now.scan.name_holds_secret(&name));
            let host = (!secret).then(|| authority.to_string());
            let line = Line { host: host.as_deref(), ..Line::new(Event::Revoked) };
            // It is closed whether or not the log can say so.
            let _ = shared.record.write(&line);
        }
    }
}

async fn served<S>(
    shared: &Arc<Shared>,
    slot: Arc<Slot>,
    mut socket: Ahead<S>,
    authority: &Authority,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Ok(wire) = Wire::new(Arc::clone(&slot)) else { return };
    let case = Case::new(shared, &wire);
    let loaded = shared.loaded();
    case.is_for(authority, loaded.as_deref());
    let Some(loaded) = loaded else { return };
    let _ = case.method.set("CONNECT".to_owned());
    let _ = case.generation.set(loaded.generation);
    if loaded.policy.is_service(authority) && speaks_plainly(&mut socket).await {
        drop((case, loaded));
        let kind = Kind::Tunnel(authority.clone(), Transport::Http);
        let door = Arc::new(Door::new(shared, &wire, kind));
        return serve_http1(socket, door).await;
    }
    let handshake = tokio::time::timeout(limits::HEAD, handshake(&loaded, socket, authority));
    let stream = match handshake.await.unwrap_or(Err(NoTunnel::Refused(Code::NotTls))) {
        Ok(stream) => stream,
        Err(NoTunnel::Refused(code)) => return case.deny_later(&code),
        Err(NoTunnel::Gone) => return,
        Err(NoTunnel::Untrusted(detail)) => return case.trouble(&detail),
    };
    drop((case, loaded));
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let door = Door::new(shared, &wire, Kind::Tunnel(authority.clone(), Transport::Https));
    let door = Arc::new(door);
    let stream = Paced::new(stream, Arc::clone(&shared.relaying));
    if http2 { Box::pin(serve_http2(stream, door)).await } else { serve_http1(stream, door).await }
}

/// Whether what is said to a service is no TLS. Clients differ in whether they put a tunnel around plain HTTP.
async fn speaks_plainly<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Ahead<S>) -> bool {
    /// The first byte of a handshake.
    const HANDSHAKE: u8 = 0x16;
    let begins = tokio::time::timeout(limits::CLIENT_HELLO, socket.begins()).await;
    begins.unwrap_or(false) && socket.first() != Some(HANDSHAKE)
}

enum NoTunnel {
    Refused(Code),
    /// The client went away before it said anything.
    Gone,
    /// The client does not like what it is shown.
    Untrusted(String),
}

async fn handshake<S>(
    loaded: &Loaded,
    mut socket: Ahead<S>,
    authority: &Authority,
) -> Result<TlsStream<Ahead<S>>, NoTunnel>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = async {
        if !socket.begins().await {
            return Err(NoTunnel::Gone);
        }
        let acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
        acceptor.await.map_err(|_| NoTunnel::Refused(Code::NotTls))
    };
    let hello = tokio::time::timeout(limits::CLIENT_HELLO, hello).await;
    let start = hello.unwrap_or(Err(NoTunnel::Refused(Code::NotTls)))?;
    let named =
        start.client_hello().server_name().and_then(|name| Host::parse(name.as_bytes()).ok());
    let (Some(name), true) = (authority.host().name(), named.as_ref() == Some(authority.host()))
    else {
        return Err(NoTunnel::Refused(Code::SniMismatch));
    };
    let ca = loaded.ca.as_ref().ok_or(NoTunnel::Refused(Code::NotReady))?;
    let config =
        ca.leaf(name, limits::LEAVES).map_err(|error| NoTunnel::Untrusted(error.to_string()))?;
    start.into_stream(config).await.map_err(|error| match error.get_ref() {
        Some(tls) if tls.is::<rustls::Error>() => NoTunnel::Untrusted(tls.to_string()),
        _ => NoTunnel::Gone,
    })
}

async fn serve_http1<S>(stream: S, door: Arc<Door>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let framed = Framed::new(stream, Arc::clone(&door.wire));
    let service = service_fn(|request| answer(Arc::clone(&door), request));
    let connection = http1_builder().serve_connection(TokioIo::new(framed), service);
    match connection.with_upgrades().await {
        Ok(()) => {}
        Err(error) if error.is_parse() => {
            return Case::new(&door.shared, &door.wire).deny_later(&Code::MalformedRequest);
        }
        Err(_) => return,
    }
    // No other is set within a tunnel.
    if let Some((Switch::WebSocket(session), socket, before)) = door.pending.take::<S>().await {
        Box::pin(session.run(socket, before)).await;
    }
}

/// How HTTP/1 is served, in a tunnel and outside.
pub(super) fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The filter in front has deadlines of its own.
        .header_read_timeout(None)
        .max_buf_size(limits::READ_BUFFER)
        .max_headers(limits::FIELDS);
    builder
}

async fn serve_http2<S>(stream: S, door: Arc<Door>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = {
        let door = Arc::clone(&door);
        service_fn(move |request| answer(Arc::clone(&door), request))
    };
    // Until it ends: a connection keeps the windows that it was begun with.
    let wide = Arc::clone(&door.shared.wide).try_acquire_owned().ok();
    let (stream_window, connection_window, frame) = match wide {
        Some(_) => (limits::WIDE_WINDOW, limits::WIDE_WINDOW, Some(limits::WIDE_FRAME)),
        None => (limits::STREAM_WINDOW, limits::CONNECTION_WINDOW, None),
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS)
        .max_local_error_reset_streams(limits::ERROR_RESETS)
        .max_header_list_size(limits::HEADER_LIST)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(frame)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    let mut idle = Box::pin(idle(&door.wire).fuse());
    loop {
        tokio::select! {
            // How it ends is of no matter to anybody else.
            _ = &mut connection => return,
            () = &mut idle => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Waits until nothing was asked for a while.
async fn idle(wire: &Wire) {
    let mut quiet = false;
    loop {
        tokio::time::sleep(limits::KEEP_ALIVE).await;
        if quiet && !wire.is_working() {
            return;
        }
        quiet = !wire.is_working();
    }
}
