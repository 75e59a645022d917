//! A request's body on its way out: held and searched before anything is dialled, as far as that
//! goes, and from there on searched as it passes.
//!
//! A body that arrives at once is searched as a whole. One that does not is sent as it comes, for its
//! sender may wait for an answer to what it has sent: what may be the begin of a secret is held back
//! for as long as more comes, and a little longer; then it goes on, and is searched again with what
//! follows.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::arriving::Arriving;
use super::case::Case;
use super::course::Course;
use super::limits;
use super::packed::Packed;
use super::search::{Away, Flushed, Reading, Search, search_whole, unscannable};
use super::share::{Budget, Share};
use super::state::Loaded;
use crate::sidecar::Code;
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::{Unscanned, Written, is_packed, packing};

/// What an upstream is sent.
pub(super) struct Upload {
    held: BytesMut,
    trailers: Option<HeaderMap>,
    /// The length that the upstream is told.
    length: Option<u64>,
    /// How much of it was sent.
    sent: u64,
    rest: Option<Box<Rest>>,
    course: Course,
    /// The share of the first piece that streams, until that is sent.
    first: Option<Arc<OwnedSemaphorePermit>>,
    /// The memory of what takes its codings off.
    #[expect(dead_code, reason = "held until it is dropped")]
    decoders: Option<Arc<OwnedSemaphorePermit>>,
    #[expect(dead_code, reason = "held until it is dropped")]
    share: Option<Arc<Share>>,
}

/// Bytes that keep their share of the budget until they are sent.
struct Sending {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Ends when a new policy forbids what is under way.
pub(super) type Revoked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A piece of this size is not the last of what comes at once.
const BULK: usize = 4 * 1024;

/// A piece of a body, or its end.
type Came = Option<Result<Frame<Bytes>, hyper::Error>>;

/// What is still to come.
struct Rest {
    incoming: Arriving,
    revoked: Revoked,
    case: Arc<Case>,
    course: Course,
    /// None while it is done aside.
    search: Option<Search>,
    away: Option<Away>,
    /// What has come and is not searched yet.
    arrived: BytesMut,
    /// What came next while there was enough to be searched.
    next: Option<Came>,
    idle: Option<Pin<Box<Sleep>>>,
    /// Until what is held back goes on.
    flush: Option<Pin<Box<Sleep>>>,
    /// How much has passed since it last paused.
    unpaused: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How long a body may take, in all and between two pieces, to be held as far as bodies are.
fn hold_time(codings: &[Coding], length: Option<u64>) -> [Duration; 2] {
    // Nobody waits for an answer to a part of what is compressed as a whole.
    match (length, codings) {
        (None, []) => limits::OPEN_BODY_TIME,
        _ => limits::HELD_BODY_TIME,
    }
}

/// The share of the budget that a body begins with, of which so much is held at most.
async fn share(length: Option<u64>, most: usize, budget: &Arc<Budget>) -> Result<Share, Code> {
    let length = length.and_then(|length| usize::try_from(length).ok());
    let whole = length.map_or(limits::HELD_BODY, |length| length.min(most));
    let mut share = budget.take(whole.min(limits::STREAMED_BODY)).await?;
    if length.is_some() {
        // Without it, less of it is held.
        budget.grow(&mut share, whole);
    }
    Ok(share)
}

impl Upload {
    /// No body at all.
    pub(super) fn empty() -> Self {
        let course = Course::new();
        course.done();
        Self {
            held: BytesMut::new(),
            trailers: None,
            length: None,
            sent: 0,
            rest: None,
            course,
            first: None,
            decoders: None,
            share: None,
        }
    }

    /// Whether it is too long, or too slow, to be held as a whole.
    pub(super) fn streams(&self) -> bool {
        self.rest.is_some()
    }

    /// How it fares.
    pub(super) fn course(&self) -> Course {
        self.course.clone()
    }

    /// Takes a body as far as it is held, and searches it: nothing is dialled for one that is
    /// refused. What is not held streams behind its search.
    pub(super) async fn hold(
        mut incoming: Arriving,
        coding: Result<Vec<Coding>, Unscannable>,
        written: Option<Written>,
        case: &Arc<Case>,
        loaded: &Arc<Loaded>,
        budget: &Arc<Budget>,
        revoked: impl Fn() -> Revoked,
    ) -> Result<Self, Code> {
        if incoming.is_end_stream() {
            return Ok(Self::empty());
        }
        let length = incoming.length();
        let codings = match coding {
            Ok(codings) => codings,
            Err(_) => {
                unscannable(case, loaded, Unscanned::Coding)?;
                Vec::new()
            }
        };
        // Refused by what it says of its length already, before any of it is asked for.
        if length.is_some_and(|length| length > limits::SCANNED_BODY) {
            unscannable(case, loaded, Unscanned::Large)?;
        }
        let most = match written {
            Some(_) => limits::REDACTED_BODY,
            None => limits::HELD_BODY,
        };
        let mut share = share(length, most, budget).await?;
        let mut search = Search::new(case, loaded, budget, length);
        // As large as it may become, so that it never moves: what is not used of it takes no memory.
        let mut held = match length {
            Some(length) if length >= most as u64 => {
                BytesMut::with_capacity(most + limits::READ_BUFFER)
            }
            Some(length) => BytesMut::with_capacity(usize::try_from(length).unwrap_or(0)),
            None => BytesMut::new(),
        };
        let mut trailers = None;
        let [all, mut between] = match &written {
            // Nor to a part of a value, or of a form.
            Some(Written::Json | Written::Form | Written::Parts(_)) => limits::HELD_BODY_TIME,
            Some(Written::Text) | None => hold_time(&codings, length),
        };
        let deadline = tokio::time::sleep(all);
        tokio::pin!(deadline);
        let mut waited = !codings.is_empty();
        let ended = loop {
            let Some(body) = incoming.get() else { break true };
            let frame = tokio::select! {
                frame = tokio::time::timeout(between, body.frame()) => frame.ok(),
                () = &mut deadline => None,
            };
            let Some(frame) = frame else {
                // Nobody waits for an answer to a part of an archive.
                if waited || !is_packed(&held) {
                    break false;
                }
                waited = true;
                deadline.set(tokio::time::sleep(limits::WHOLE_BODY_TIME[0]));
                between = limits::WHOLE_BODY_TIME[1];
                continue;
            };
            let Some(frame) = frame else { break true };
            match frame.map_err(|_| case.broken_off())?.into_data() {
                Ok(data) => {
                    let wanted = held.len() + data.len();
                    held.extend_from_slice(&data);
                    if held.len() >= most || !budget.grow(&mut share, wanted) {
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
        let course = Course::new();
        if ended {
            let reading = Reading { codings, written };
            let (held, share) = search_whole(case, loaded, reading, held, share).await?;
            let length = trailers.is_none().then_some(held.len() as u64);
            let (rest, first, decoders) = (None, None, None);
            let share = Some(Arc::new(share));
            let sent = 0;
            return Ok(Self { held, trailers, length, sent, rest, course, first, decoders, share });
        }
        let mut decoders = None;
        if !codings.is_empty() {
            match Packed::new(&codings, length, &held) {
                Some((packed, needed)) => {
                    decoders = Some(Arc::new(budget.decoders(needed).await?));
                    search = search.unpacking(packed);
                }
                None => search.give_up(Unscanned::Large)?,
            }
        } else if let Some(kind) = packing(&held) {
            match Packed::archive(kind, length, &held) {
                Ok((packed, needed)) => {
                    decoders = Some(Arc::new(budget.decoders(needed).await?));
                    search = search.unpacking(packed);
                }
                Err(reason) => case.unscanned(reason),
            }
        }
        // What streams holds little; the rest of its share is for others as soon as it is sent.
        let first = share.beyond(limits::STREAMED_BODY).map(Arc::new);
        let share = Arc::new(share);
        // Whoever is gone meanwhile leaves the search behind, with all that it takes.
        let keeps = (Arc::clone(&share), decoders.clone());
        let search = search.keeping(Arc::new((keeps.clone(), first.clone())));
        let (search, held, clear) = search.piece(held).await.map_err(|_| Code::DlpUnscannable)?;
        clear?;
        let search = search.keeping(Arc::new(keeps));
        let mut rest = Box::new(Rest::new(incoming, revoked(), search, course.clone()));
        rest.begin_flush();
        let (sent, rest, share) = (0, Some(rest), Some(share));
        Ok(Self { held, trailers, length, sent, rest, course, first, decoders, share })
    }
}

impl Upload {
    /// How much of what is held may go on.
    fn clear(&self) -> usize {
        let Some(rest) = &self.rest else { return self.held.len() };
        // While it is searched aside, nothing does.
        let Some(search) = &rest.search else { return 0 };
        let left = self.length.map(|length| length.saturating_sub(self.sent));
        may_go(self.held.len(), search.hold_back(), left)
    }

    /// Says so, if all of it was given.
    fn is_done(&self) {
        if self.is_end_stream() {
            self.course.done();
        }
    }
}

/// How much of what is held goes on before its end is searched. `left`: how much is still to be sent, if
/// that is known. Whoever is told a length has the whole of it with its last byte, whatever its end turns
/// out to be: so that one waits for it.
fn may_go(held: usize, hold_back: usize, left: Option<u64>) -> usize {
    let most = left.map_or(u64::MAX, |left| left.saturating_sub(1));
    held.saturating_sub(hold_back).min(usize::try_from(most).unwrap_or(usize::MAX))
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
            let clear = this.clear();
            if clear > 0 {
                this.course.moved();
                this.sent += clear as u64;
                let Some(permit) = this.first.take() else {
                    let piece = this.held.split_to(clear).freeze();
                    this.is_done();
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
                let trailers = this.trailers.take();
                this.is_done();
                return Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))));
            };
            // Also while there is always more to send, and when the answer has ended already.
            let code = if rest.revoked.as_mut().poll(context).is_ready() {
                Code::HostNotAllowed
            } else {
                match ready!(rest.poll_step(context, &mut this.held, &mut this.trailers)) {
                    Ok(last) => {
                        if last {
                            this.rest = None;
                        }
                        continue;
                    }
                    Err(code) => {
                        rest.case.deny_later(&code);
                        code
                    }
                }
            };
            this.course.refused(code);
            this.rest = None;
            this.held.clear();
            let error = io::Error::other("the request's body ends here");
            return Poll::Ready(Some(Err(error)));
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
    fn new(incoming: Arriving, revoked: Revoked, search: Search, course: Course) -> Self {
        let case = Arc::clone(&search.case);
        Self {
            incoming,
            revoked,
            case,
            course,
            search: Some(search),
            away: None,
            arrived: BytesMut::new(),
            next: None,
            idle: None,
            flush: None,
            unpaused: 0,
            pause: None,
        }
    }

    /// What is held back goes on after a while, whatever comes until then.
    fn begin_flush(&mut self) {
        if self.flush.is_none() && self.holds_back() {
            self.flush = Some(Box::pin(tokio::time::sleep(limits::FLUSH)));
        }
    }

    fn holds_back(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.hold_back() > 0)
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
                let Poll::Ready(ended) = Pin::new(away).poll(context) else {
                    self.read_ahead(context);
                    return Poll::Pending;
                };
                self.away = None;
                // A panic on the way is no reason to let it pass.
                let Ok((search, piece, clear)) = ended else {
                    return Poll::Ready(Err(Code::DlpUnscannable));
                };
                self.search = Some(search);
                if clear.is_ok() {
                    held.unsplit(piece);
                    self.begin_flush();
                }
                return Poll::Ready(clear.map(|()| false));
            }
            if self.is_enough() {
                // What was read ahead goes first, so that no more than that waits.
                if self.search_arrived(held)? {
                    return Poll::Ready(Ok(false));
                }
                continue;
            }
            let frame = match self.poll_next(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending if !self.arrived.is_empty() => {
                    if self.search_arrived(held)? {
                        return Poll::Ready(Ok(false));
                    }
                    continue;
                }
                Poll::Pending => {
                    if let Some(flush) = &mut self.flush
                        && flush.as_mut().poll(context).is_ready()
                    {
                        self.flush = None;
                        return Poll::Ready(self.flush_now().map(|()| false));
                    }
                    ready!(self.poll_idle(context));
                    return Poll::Ready(Err(Code::MalformedRequest));
                }
            };
            self.idle = None;
            let last = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.arrives(data);
                        continue;
                    }
                    // They are behind what has arrived, which may be long to search.
                    Err(frame) if !self.arrived.is_empty() => {
                        self.next = Some(Some(Ok(frame)));
                        if self.search_arrived(held)? {
                            return Poll::Ready(Ok(false));
                        }
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                Some(Err(_)) => return Poll::Ready(Err(self.case.broken_off())),
                None if !self.arrived.is_empty() => {
                    if self.search_arrived(held)? {
                        return Poll::Ready(Ok(false));
                    }
                    continue;
                }
                None => None,
            };
            return Poll::Ready(self.end(last, trailers));
        }
    }

    /// What comes next.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Came> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        match self.incoming.get() {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    /// Takes what comes while a piece is searched aside, up to the next piece: so one processor decrypts
    /// and the other searches.
    fn read_ahead(&mut self, context: &mut Context<'_>) {
        while self.next.is_none() && !self.is_enough() {
            let Poll::Ready(came) = self.poll_next(context) else { return };
            match came {
                Some(Ok(frame)) if frame.is_data() => {
                    if let Ok(data) = frame.into_data() {
                        self.arrives(data);
                    }
                }
                // Its turn is behind what has arrived.
                other => self.next = Some(other),
            }
        }
    }

    /// Takes some more, as much as may be searched together: what is over comes next.
    fn arrives(&mut self, mut data: Bytes) {
        let room = (2 * limits::SEARCHED_IN_TURN).saturating_sub(self.arrived.len());
        if data.len() > room {
            self.next = Some(Some(Ok(Frame::data(data.split_off(room)))));
        }
        if self.arrived.is_empty() && data.len() >= BULK {
            // It grows to that, and would be copied each time.
            self.arrived.reserve(limits::SEARCHED_IN_TURN + data.len());
        }
        self.arrived.extend_from_slice(&data);
    }

    /// Whether as much has arrived as is searched together.
    fn is_enough(&self) -> bool {
        self.arrived.len() >= limits::SEARCHED_IN_TURN
    }

    /// Waits until nothing has come for too long. Once there is an answer, its end is waited for too.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let time = match self.course.is_answered() {
            true => limits::RESPONSE_IDLE,
            false => limits::REQUEST_IDLE,
        };
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        ready!(idle.as_mut().poll(context));
        if time == limits::REQUEST_IDLE && self.course.is_answered() {
            // It was answered meanwhile.
            self.idle = None;
            return self.poll_idle(context);
        }
        Poll::Ready(())
    }

    /// Lets go on what is held back.
    fn flush_now(&mut self) -> Result<(), Code> {
        let search = self.search.take().ok_or(Code::DlpUnscannable)?;
        match search.flushed() {
            Flushed::Now(search, clear) => {
                self.search = Some(*search);
                clear
            }
            Flushed::Later(away) => {
                self.away = Some(away);
                Ok(())
            }
        }
    }

    /// Searches what has arrived: now, or aside where that takes long. Whether it is done.
    fn search_arrived(&mut self, held: &mut BytesMut) -> Result<bool, Code> {
        let piece = self.arrived.split();
        let mut search = self.search.take().ok_or(Code::DlpUnscannable)?;
        self.unpaused += piece.len();
        if self.unpaused >= limits::PACED_PIECE {
            self.unpaused = 0;
        }
        if self.unpaused == 0 && self.case.shared.activity.is_recent() {
            self.pause = Some(Box::pin(tokio::time::sleep(limits::PACE)));
        }
        if search.takes_long(piece.len()) {
            self.away = Some(search.aside(piece));
            return Ok(false);
        }
        let clear = search.data(&piece);
        self.search = Some(search);
        clear.map(|()| held.unsplit(piece))?;
        self.begin_flush();
        Ok(true)
    }

    /// No more data comes, and all that did was searched: trailers come, or nothing.
    fn end(
        &mut self,
        last: Option<HeaderMap>,
        trailers: &mut Option<HeaderMap>,
    ) -> Result<bool, Code> {
        let search = self.search.as_mut().ok_or(Code::DlpUnscannable)?;
        let Some(fields) = last else { return search.end().map(|()| true) };
        search.trailers(&fields)?;
        *trailers = Some(fields);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_waits_for_the_end_of_the_search() {
        assert_eq!(may_go(100, 30, None), 70);
        assert_eq!(may_go(100, 0, None), 100, "chunks and frames have an end of their own");
        assert_eq!(may_go(100, 0, Some(500)), 100);
        assert_eq!(may_go(100, 0, Some(100)), 99);
        assert_eq!(may_go(100, 30, Some(100)), 70);
        assert_eq!([may_go(1, 0, Some(1)), may_go(1, 2, Some(1)), may_go(0, 0, Some(0))], [0; 3]);
    }
}
