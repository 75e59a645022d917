//! A request's body on its way out: held and searched before anything is dialled, as far as that
//! goes, and from there on searched as it passes.
//!
//! What a search has not cleared never goes on, so a secret that begins in one piece and ends in the
//! next is never sent in part.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::case::Case;
use super::limits;
use super::search::{Away, Search, search_whole, unscannable};
use super::state::Loaded;
use crate::sidecar::Code;
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::is_packed;

/// How much of the budget is taken at once, in units of it.
const STEP: usize = 64;
/// A unit of the budget.
const UNIT: usize = 1024;

/// The budget of all bodies that are held.
pub(super) fn budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits::HELD_BODIES / UNIT))
}

/// What an upstream is sent.
pub(super) struct Upload {
    held: BytesMut,
    trailers: Option<HeaderMap>,
    /// The length that the upstream is told.
    length: Option<u64>,
    rest: Option<Box<Rest>>,
    verdict: Verdict,
    /// The share of the first piece that streams, until that is sent.
    first: Option<OwnedSemaphorePermit>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Bytes that keep their share of the budget until they are sent.
struct Sending {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is still to come.
struct Rest {
    incoming: Incoming,
    case: Arc<Case>,
    /// None while it is done aside.
    search: Option<Search>,
    away: Option<Away>,
    /// What has come and is not searched yet.
    arrived: BytesMut,
    idle: Option<Pin<Box<Sleep>>>,
    /// How much has passed since it last paused.
    unpaused: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Why a body ended early.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<Code>>>);

impl Verdict {
    pub(super) fn get(&self) -> Option<Code> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, code: Code) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    }
}

impl Upload {
    /// No body at all.
    pub(super) fn empty() -> Self {
        Self {
            held: BytesMut::new(),
            trailers: None,
            length: None,
            rest: None,
            verdict: Verdict::default(),
            first: None,
            _permit: None,
        }
    }

    /// Why it ended early, if it did.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// Takes a body as far as it is held, and searches it: nothing is dialled for one that is
    /// refused. What is too long to be held streams behind its search.
    pub(super) async fn hold(
        mut incoming: Incoming,
        coding: Result<Vec<Coding>, Unscannable>,
        case: &Arc<Case>,
        loaded: &Arc<Loaded>,
        budget: &Arc<Semaphore>,
    ) -> Result<Self, Code> {
        if incoming.is_end_stream() {
            return Ok(Self::empty());
        }
        let length = incoming.size_hint().exact();
        let codings = match coding {
            Ok(codings) => codings,
            Err(_) => {
                unscannable(case, loaded)?;
                Vec::new()
            }
        };
        // Refused by what it says of its length already, before any of it is asked for.
        let (limit, most) = match codings.is_empty() {
            true => (limits::HELD_BODY, limits::SCANNED_BODY),
            false => (limits::ENCODED_BODY, limits::ENCODED_BODY as u64),
        };
        if length.is_some_and(|length| length > most) {
            unscannable(case, loaded)?;
        }
        let search = Search::new(case, loaded);
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut held = BytesMut::new();
        let mut trailers = None;
        let deadline = tokio::time::sleep(limits::HELD_BODY_TIME);
        tokio::pin!(deadline);
        let ended = loop {
            let frame = tokio::select! {
                frame = incoming.frame() => frame,
                () = &mut deadline => break false,
            };
            let Some(frame) = frame else { break true };
            match frame.map_err(|_| case.broken_off())?.into_data() {
                Ok(data) => {
                    let wanted = (held.len() + data.len()).div_ceil(UNIT);
                    grow(&mut permit, wanted, budget).await?;
                    held.extend_from_slice(&data);
                    if held.len() >= limit {
                        break incoming.is_end_stream();
                    }
                }
                Err(frame) => {
                    if let Ok(fields) = frame.into_trailers() {
                        search.trailers(&fields)?;
                        trailers = Some(fields);
                    }
                }
            }
        };
        let verdict = Verdict::default();
        if ended {
            let held = search_whole(case, loaded, codings, held).await?;
            let length = trailers.is_none().then_some(held.len() as u64);
            let (rest, first) = (None, None);
            return Ok(Self { held, trailers, length, rest, verdict, first, _permit: permit });
        }
        if !codings.is_empty() || is_packed(&held) {
            // What is compressed can be looked into only as a whole.
            if !codings.is_empty() {
                unscannable(case, loaded)?;
            }
            case.unscanned();
        }
        let searched = search.aside(held).await.map_err(|_| Code::DlpUnscannable)?;
        let (search, held, clear) = searched;
        clear?;
        let rest = Some(Box::new(Rest::new(incoming, search)));
        // What streams holds little; the rest of its share is for others as soon as it is sent.
        grow(&mut permit, limits::STREAMED_BODY / UNIT, budget).await?;
        let more = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = more - limits::STREAMED_BODY / UNIT;
        let first = permit.as_mut().and_then(|permit| permit.split(more));
        Ok(Self { held, trailers, length, rest, verdict, first, _permit: permit })
    }
}

async fn grow(
    permit: &mut Option<OwnedSemaphorePermit>,
    wanted: usize,
    budget: &Arc<Semaphore>,
) -> Result<(), Code> {
    let have = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    if wanted <= have {
        return Ok(());
    }
    let more = (wanted - have).next_multiple_of(STEP);
    let more = u32::try_from(more).map_err(|_| Code::DlpUnscannable)?;
    let acquired = Arc::clone(budget).acquire_many_owned(more);
    let more = tokio::time::timeout(limits::HELD_BODIES_WAIT, acquired)
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or(Code::TooManyConnections)?;
    match permit {
        Some(permit) => permit.merge(more),
        none => *none = Some(more),
    }
    Ok(())
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        loop {
            let clear = match &this.rest {
                Some(rest) => rest
                    .search
                    .as_ref()
                    .map_or(0, |search| this.held.len().saturating_sub(search.hold_back())),
                None => this.held.len(),
            };
            if clear > 0 {
                let Some(permit) = this.first.take() else {
                    let piece = this.held.split_to(clear).freeze();
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                };
                // What is held back of it must not keep all of it.
                let rest = BytesMut::from(&this.held[clear..]);
                let mut piece = std::mem::replace(&mut this.held, rest);
                piece.truncate(clear);
                let piece = Sending { bytes: piece.freeze(), _permit: permit };
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))));
            }
            let Some(rest) = &mut this.rest else {
                return Poll::Ready(this.trailers.take().map(|fields| Ok(Frame::trailers(fields))));
            };
            let step = ready!(rest.poll_step(context, &mut this.held, &mut this.trailers));
            match step {
                Ok(true) => {
                    this.rest = None;
                }
                Ok(false) => {}
                Err(code) => {
                    rest.case.deny_later(&code);
                    this.verdict.set(code);
                    this.rest = None;
                    this.held.clear();
                    let error = io::Error::other("the request's body ends here");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.held.is_empty() && self.trailers.is_none()
    }
}

impl Rest {
    fn new(incoming: Incoming, search: Search) -> Self {
        let case = Arc::clone(&search.case);
        Self {
            incoming,
            case,
            search: Some(search),
            away: None,
            arrived: BytesMut::new(),
            idle: None,
            unpaused: 0,
            pause: None,
        }
    }

    /// Takes and searches what comes next. Whether it was the last.
    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        held: &mut BytesMut,
        trailers: &mut Option<HeaderMap>,
    ) -> Poll<Result<bool, Code>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if let Some(away) = &mut self.away {
                let ended = ready!(Pin::new(away).poll(context));
                self.away = None;
                // A panic on the way is no reason to let it pass.
                let Ok((search, piece, clear)) = ended else {
                    return Poll::Ready(Err(Code::DlpUnscannable));
                };
                self.search = Some(search);
                if clear.is_ok() {
                    held.unsplit(piece);
                }
                return Poll::Ready(clear.map(|()| false));
            }
            let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending if !self.arrived.is_empty() => {
                    if self.search_arrived(held)? {
                        return Poll::Ready(Ok(false));
                    }
                    continue;
                }
                Poll::Pending => {
                    let idle = self
                        .idle
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::REQUEST_IDLE)));
                    ready!(idle.as_mut().poll(context));
                    return Poll::Ready(Err(Code::MalformedRequest));
                }
            };
            self.idle = None;
            let last = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.arrived.extend_from_slice(&data);
                        let enough = self.arrived.len() >= limits::SEARCHED_IN_TURN;
                        if enough && self.search_arrived(held)? {
                            return Poll::Ready(Ok(false));
                        }
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                Some(Err(_)) => return Poll::Ready(Err(self.case.broken_off())),
                None => None,
            };
            return Poll::Ready(self.end(last, held, trailers));
        }
    }

    /// Searches what has arrived: now, or aside where that takes long. Whether it is done.
    fn search_arrived(&mut self, held: &mut BytesMut) -> Result<bool, Code> {
        let piece = self.arrived.split();
        let mut search = self.search.take().ok_or(Code::DlpUnscannable)?;
        self.unpaused += piece.len();
        if self.unpaused >= limits::PACED_PIECE {
            self.unpaused = 0;
            self.pause = Some(Box::pin(tokio::time::sleep(limits::PACE)));
        }
        if search.takes_long(piece.len()) {
            self.away = Some(search.aside(piece));
            return Ok(false);
        }
        let clear = search.data(&piece);
        self.search = Some(search);
        clear.map(|()| held.unsplit(piece))?;
        Ok(true)
    }

    /// No more data comes: trailers do, or nothing.
    fn end(
        &mut self,
        last: Option<HeaderMap>,
        held: &mut BytesMut,
        trailers: &mut Option<HeaderMap>,
    ) -> Result<bool, Code> {
        let piece = self.arrived.split();
        let search = self.search.as_mut().ok_or(Code::DlpUnscannable)?;
        search.data(&piece)?;
        held.unsplit(piece);
        let Some(fields) = last else { return search.end().map(|()| true) };
        search.trailers(&fields)?;
        *trailers = Some(fields);
        Ok(false)
    }
}
