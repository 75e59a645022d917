//! A response's body on its way back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::course::Course;
use super::framed::Working;
use super::limits;
use super::relaying::Turn;
use super::state::Loaded;
use super::upload::Revoked;
use super::upstream::{Connection, Target};
use super::waiting::Waiting;
use crate::sidecar::credential::Redactor;

/// What a machine is sent.
pub(super) struct Outgoing {
    kind: Kind,
    /// Until it is sent, or dropped, its connection is at work.
    _working: Working,
    /// The room that its request took.
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

enum Kind {
    Page(Option<Bytes>),
    Relayed(Box<Relayed>),
    Waiting(Box<Waiting>),
}

/// What an upstream sends.
pub(super) struct Relayed {
    incoming: Incoming,
    redactor: Option<Redactor>,
    idle: Option<Pin<Box<Sleep>>>,
    /// Ends when a new policy forbids what is being answered.
    revoked: Revoked,
    /// Where the connection goes when the body was read to its end.
    back: Option<(Arc<Loaded>, Target, Connection)>,
    /// How the request's body fares.
    course: Course,
    /// What was taken of it before its head went on.
    first: Option<Bytes>,
    /// Until what the redactor holds back goes on.
    release: Option<Pin<Box<Sleep>>>,
    trailers: Option<HeaderMap>,
    ended: bool,
    turn: Turn,
}

impl Outgoing {
    pub(super) fn page(body: Bytes, working: Working) -> Self {
        Self { kind: Kind::Page(Some(body)), _working: working, _room: None }
    }

    pub(super) fn waiting(
        waiting: Waiting,
        working: Working,
        room: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Self {
        Self { kind: Kind::Waiting(Box::new(waiting)), _working: working, _room: room }
    }

    pub(super) fn relayed(
        relayed: Relayed,
        working: Working,
        room: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Self {
        Self { kind: Kind::Relayed(Box::new(relayed)), _working: working, _room: room }
    }
}

impl Relayed {
    pub(super) fn new(
        incoming: Incoming,
        redactor: Option<Redactor>,
        revoked: Revoked,
        back: (Arc<Loaded>, Target, Connection, Course),
        turn: Turn,
    ) -> Self {
        let (loaded, target, connection, course) = back;
        Self {
            incoming,
            redactor,
            idle: None,
            revoked,
            back: Some((loaded, target, connection)),
            course,
            first: None,
            release: None,
            trailers: None,
            ended: false,
            turn,
        }
    }

    /// Whether it is searched for credentials.
    pub(super) fn is_redacted(&self) -> bool {
        self.redactor.is_some()
    }

    /// Takes all of it, if it says that it is small and comes at once; then its length is known.
    pub(super) async fn gather(&mut self) -> Result<Option<usize>, ()> {
        let small =
            self.incoming.size_hint().exact().is_some_and(|l| l <= limits::GATHERED_RESPONSE);
        let Some(redactor) = self.redactor.as_mut().filter(|_| small && !self.turn.is_crowded())
        else {
            return Ok(None);
        };
        let mut first = BytesMut::new();
        let deadline = tokio::time::sleep(limits::GATHER);
        tokio::pin!(deadline);
        let ended = loop {
            let frame = tokio::select! {
                frame = self.incoming.frame() => frame,
                () = &mut deadline => break false,
            };
            match frame {
                None => break true,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => first.extend_from_slice(&redactor.push(data)),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok().map(|mut fields| {
                            redact(&mut fields, redactor);
                            fields
                        });
                    }
                },
                Some(Err(_)) => return Err(()),
            }
        };
        if ended && let Some(rest) = self.end() {
            first.extend_from_slice(&rest);
        }
        let length = first.len();
        self.first = Some(first.freeze()).filter(|first| !first.is_empty());
        Ok((ended && self.trailers.is_none()).then_some(length))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(self.turn.pass(first)))));
        }
        loop {
            if self.ended {
                let trailers = self.trailers.take().map(|fields| Ok(Frame::trailers(fields)));
                return Poll::Ready(trailers);
            }
            // Also while there is always something to pass on.
            let over = self.revoked.as_mut().poll(context).is_ready();
            if over || self.course.verdict().is_some() {
                self.ended = true;
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
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
                    (self.idle, self.release) = (None, None);
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
                Poll::Pending => {
                    if let Some(rest) = self.released(context) {
                        return Poll::Ready(Some(Ok(Frame::data(self.turn.pass(rest)))));
                    }
                    return self.wait(context);
                }
            }
        }
    }

    /// What was held back for long enough, if that tells nothing.
    fn released(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let redactor = self.redactor.as_mut().filter(|redactor| redactor.is_holding())?;
        let release =
            self.release.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::RELEASE)));
        if release.as_mut().poll(context).is_pending() {
            return None;
        }
        self.release = None;
        Some(redactor.release()).filter(|rest| !rest.is_empty())
    }

    /// Nothing moves: until it takes too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let idle =
            self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::RESPONSE_IDLE)));
        if idle.as_mut().poll(context).is_pending() {
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
            && self.course.is_done()
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
            Kind::Waiting(waiting) => waiting.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Page(page) => page.is_none(),
            Kind::Waiting(waiting) => waiting.is_over(),
            // Trailers may still wait behind what was held back.
            Kind::Relayed(relayed) => {
                relayed.trailers.is_none()
                    && relayed.first.is_none()
                    && match &relayed.redactor {
                        None => relayed.ended || relayed.incoming.is_end_stream(),
                        Some(_) => relayed.ended,
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Page(page) => {
                SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64))
            }
            Kind::Relayed(relayed) if relayed.ended && relayed.trailers.is_none() => {
                SizeHint::with_exact(relayed.first.as_ref().map_or(0, |first| first.len() as u64))
            }
            Kind::Relayed(relayed) if relayed.redactor.is_none() => relayed.incoming.size_hint(),
            Kind::Relayed(_) | Kind::Waiting(_) => SizeHint::default(),
        }
    }
}

/// Takes known values out of fields. A field whose name is one goes.
pub(super) fn redact(headers: &mut HeaderMap, redactor: &Redactor) {
    let named = |name: &&HeaderName| redactor.holds(name.as_str().as_bytes());
    for name in headers.keys().filter(named).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        let mut redactor = redactor.again();
        let mut text = redactor.push(Bytes::copy_from_slice(value.as_bytes())).to_vec();
        text.extend_from_slice(&redactor.finish());
        if text.is_empty() && !value.is_empty() {
            // It stood there in a form that cannot be taken out.
            *value = HeaderValue::from_static("<redacted>");
        } else if text != value.as_bytes() {
            *value = HeaderValue::from_bytes(&text)
                .unwrap_or_else(|_| HeaderValue::from_static("<redacted>"));
        }
    }
}
