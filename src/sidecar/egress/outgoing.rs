//! A response's body on its way back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::framed::Working;
use super::limits;
use super::relaying::Turn;
use super::state::Loaded;
use super::upstream::{Connection, Target};
use crate::sidecar::credential::Redactor;

/// What a machine is sent.
pub(super) struct Outgoing {
    kind: Kind,
    /// Until it is sent, or dropped, its connection is at work.
    _working: Working,
    /// The room that its request took.
    _room: Option<OwnedSemaphorePermit>,
}

enum Kind {
    Page(Option<Bytes>),
    Relayed(Box<Relayed>),
}

/// What an upstream sends.
pub(super) struct Relayed {
    incoming: Incoming,
    redactor: Option<Redactor>,
    idle: Option<Pin<Box<Sleep>>>,
    /// Ends when a new policy forbids what is being answered.
    revoked: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where the connection goes when the body was read to its end.
    back: Option<(Arc<Loaded>, Target, Connection)>,
    trailers: Option<HeaderMap>,
    ended: bool,
    turn: Turn,
}

impl Outgoing {
    pub(super) fn page(body: Bytes, working: Working) -> Self {
        Self { kind: Kind::Page(Some(body)), _working: working, _room: None }
    }

    pub(super) fn relayed(
        relayed: Relayed,
        working: Working,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { kind: Kind::Relayed(Box::new(relayed)), _working: working, _room: room }
    }
}

impl Relayed {
    pub(super) fn new(
        incoming: Incoming,
        redactor: Option<Redactor>,
        revoked: Pin<Box<dyn Future<Output = ()> + Send>>,
        back: (Arc<Loaded>, Target, Connection),
        turn: Turn,
    ) -> Self {
        Self {
            incoming,
            redactor,
            idle: None,
            revoked,
            back: Some(back),
            trailers: None,
            ended: false,
            turn,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if self.ended {
                let trailers = self.trailers.take().map(|fields| Ok(Frame::trailers(fields)));
                return Poll::Ready(trailers);
            }
            if self.turn.poll_clear(context).is_pending() {
                return self.wait(context);
            }
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Ready(None) => {
                    if let Some(rest) = self.end() {
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle = None;
                    match frame.into_data() {
                        Ok(data) => {
                            let data = match &mut self.redactor {
                                Some(redactor) => redactor.push(data),
                                None => data,
                            };
                            if !data.is_empty() {
                                return Poll::Ready(Some(Ok(Frame::data(self.turn.pass(data)))));
                            }
                        }
                        // What was held back goes before them.
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok().map(|mut fields| {
                                if let Some(redactor) = &self.redactor {
                                    redact(&mut fields, redactor);
                                }
                                fields
                            });
                            if let Some(rest) = self.end() {
                                return Poll::Ready(Some(Ok(Frame::data(rest))));
                            }
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Pending => return self.wait(context),
            }
        }
    }

    /// Nothing moves: until it takes too long, or is forbidden.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let idle =
            self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::RESPONSE_IDLE)));
        let over = idle.as_mut().poll(context).is_ready()
            || self.revoked.as_mut().poll(context).is_ready();
        if !over {
            return Poll::Pending;
        }
        self.ended = true;
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }

    /// The body was read to its end; what of it was held back.
    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.give_back();
        self.redactor.take().map(Redactor::finish).filter(|rest| !rest.is_empty())
    }

    fn give_back(&mut self) {
        if let Some((loaded, target, connection)) = self.back.take()
            && !connection.is_http2()
        {
            loaded.upstreams.keep(&target, connection);
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // A body that is empty, or answers a HEAD, may never be asked for.
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            Kind::Page(page) => Poll::Ready(page.take().map(|page| Ok(Frame::data(page)))),
            Kind::Relayed(relayed) => relayed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Page(page) => page.is_none(),
            Kind::Relayed(relayed) => match &relayed.redactor {
                None => relayed.incoming.is_end_stream(),
                Some(_) => relayed.ended,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Page(page) => {
                SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64))
            }
            Kind::Relayed(relayed) if relayed.redactor.is_none() => relayed.incoming.size_hint(),
            Kind::Relayed(_) => SizeHint::default(),
        }
    }
}

/// Takes known values out of fields.
pub(super) fn redact(headers: &mut HeaderMap, redactor: &Redactor) {
    for value in headers.values_mut() {
        let mut redactor = redactor.again();
        let mut text = redactor.push(Bytes::copy_from_slice(value.as_bytes())).to_vec();
        text.extend_from_slice(&redactor.finish());
        if text != value.as_bytes() {
            *value = HeaderValue::from_bytes(&text)
                .unwrap_or_else(|_| HeaderValue::from_static("<redacted>"));
        }
    }
}
