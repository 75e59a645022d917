//! One connection of the machine, from its first byte to its last.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::ahead::Ahead;
use super::case::Case;
use super::connect::{Switch, http1_builder, tunnel};
use super::framed::{Framed, Wire};
use super::limits;
use super::proxy::{Door, Kind, answer};
use super::serve::Shared;
use super::slots::Slot;
use crate::sidecar::Code;

/// A connection of either kind.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves a connection until it ends, or its place is needed.
pub(super) async fn serve(shared: Arc<Shared>, socket: Socket, slot: Slot) {
    let slot = Arc::new(slot);
    tokio::select! {
        () = slot.evicted() => {}
        () = front(shared, socket, &slot) => {}
    }
}

async fn front(shared: Arc<Shared>, socket: Socket, slot: &Arc<Slot>) {
    let Ok(wire) = Wire::new(Arc::clone(slot)) else { return };
    let door = Arc::new(Door::new(&shared, &wire, Kind::Front));
    let framed = Framed::new(socket, wire);
    let service = service_fn(|request| answer(Arc::clone(&door), request));
    let connection = http1_builder().serve_connection(TokioIo::new(framed), service);
    if let Err(error) = connection.with_upgrades().await {
        if error.is_parse() {
            Case::new(&shared, &door.wire).deny_later(&Code::MalformedRequest);
        }
        return;
    }
    let Some((switch, socket, before)) = door.pending.take::<Socket>().await else { return };
    drop(door);
    let authority = match switch {
        Switch::Tunnel(authority) => authority,
        Switch::WebSocket(session) => return Box::pin(session.run(socket, before)).await,
    };
    let socket = Ahead::rewound(before, socket, limits::READ_AHEAD, Arc::clone(&shared.relaying));
    Box::pin(tunnel(shared, Arc::clone(slot), socket, authority)).await;
}

/// Says that there is no room, and closes.
pub(super) async fn refuse(shared: Arc<Shared>, mut socket: Socket) {
    let id = shared.record.request_id();
    let code = Code::TooManyConnections;
    let text = code.as_str();
    let line = crate::sidecar::record::Line {
        request_id: Some(&id),
        code: Some(&text),
        ..crate::sidecar::record::Line::new(crate::sidecar::record::Event::Deny)
    };
    // It is refused whether or not the log can say so.
    let _ = shared.record.write(&line);
    let about = super::page::About { request_id: &id, ..Default::default() };
    let page = super::page::page(&code, &about, true).into_body();
    let head = format!(
        "HTTP/1.1 {} Service Unavailable\r\nX-Bottle-Block: {text}\r\nX-Bottle-Request-Id: {id}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        code.status(),
        page.len()
    );
    let whole = [head.as_bytes(), &page].concat();
    let written = async {
        socket.write_all(&whole).await?;
        socket.shutdown().await
    };
    // Whoever does not take it is not waited for.
    let _ = tokio::time::timeout(limits::LINGER_IDLE, written).await;
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, out),
            Self::Unix(socket) => Pin::new(socket).poll_read(context, out),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
            Self::Unix(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
