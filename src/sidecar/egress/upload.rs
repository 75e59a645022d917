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
use super::coding::{Coding, decode};
use super::limits;
use super::state::Loaded;
use crate::sidecar::Code;
use crate::sidecar::dlp::{BodyScanner, Finding};

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
    /// All of it was searched, and found to be clean.
    clear: bool,
    trailers: Option<HeaderMap>,
    /// The length that the upstream is told.
    length: Option<u64>,
    rest: Option<Box<Rest>>,
    verdict: Verdict,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What is still to come.
struct Rest {
    incoming: Incoming,
    search: Search,
    idle: Option<Pin<Box<Sleep>>>,
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

/// The search of one body.
struct Search {
    case: Arc<Case>,
    loaded: Arc<Loaded>,
    scanner: Option<BodyScanner>,
    /// How many of its findings were told.
    told: usize,
    seen: u64,
}

impl Search {
    fn new(case: &Arc<Case>, loaded: &Arc<Loaded>, host: &str) -> Self {
        Self {
            case: Arc::clone(case),
            loaded: Arc::clone(loaded),
            scanner: Some(loaded.scan.body(host)),
            told: 0,
            seen: 0,
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<(), Code> {
        self.seen += data.len() as u64;
        if self.seen > limits::SCANNED_BODY && self.scanner.is_some() {
            self.unscannable()?;
        }
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        if scanner.push(data).is_ok() {
            return Ok(());
        }
        let found = scanner.findings();
        let new = found[self.told..].to_vec();
        self.told = found.len();
        self.judge(new)
    }

    fn as_it_stands(&self, data: &[u8]) -> Result<(), Code> {
        let mut scanner = self.loaded.scan.body(self.case.host());
        // What it finds is told at its end.
        let _ = scanner.push(data);
        self.judge(scanner.end())
    }

    fn trailers(&self, trailers: &HeaderMap, host: &str) -> Result<(), Code> {
        self.judge(self.loaded.scan.head(host, "", trailers))
    }

    fn end(&mut self) -> Result<(), Code> {
        let Some(scanner) = self.scanner.take() else { return Ok(()) };
        self.judge(scanner.end().split_off(self.told))
    }

    fn hold_back(&self) -> usize {
        self.scanner.as_ref().map_or(0, BodyScanner::hold_back)
    }

    fn judge(&self, findings: Vec<Finding>) -> Result<(), Code> {
        findings.into_iter().try_for_each(|finding| self.case.judge(&self.loaded, finding))
    }

    /// A body that cannot be searched is refused, or passed on with a word about it.
    fn unscannable(&mut self) -> Result<(), Code> {
        if self.loaded.scan.blocks() {
            return Err(Code::DlpUnscannable);
        }
        self.scanner = None;
        self.case.unscanned();
        Ok(())
    }
}

impl Upload {
    /// No body at all.
    pub(super) fn empty() -> Self {
        Self {
            held: BytesMut::new(),
            clear: true,
            trailers: None,
            length: None,
            rest: None,
            verdict: Verdict::default(),
            _permit: None,
        }
    }

    /// Why it ended early, if it did.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// Takes a body as far as it is held, and searches it.
    pub(super) async fn hold(
        mut incoming: Incoming,
        coding: Coding,
        case: &Arc<Case>,
        loaded: &Arc<Loaded>,
        budget: &Arc<Semaphore>,
    ) -> Result<Self, Code> {
        if incoming.is_end_stream() {
            return Ok(Self::empty());
        }
        let length = incoming.size_hint().exact();
        let mut search = Search::new(case, loaded, case.host());
        let limit = match coding {
            Coding::Identity => limits::HELD_BODY,
            Coding::Known(_) => limits::ENCODED_BODY,
            Coding::Unknown => {
                search.unscannable()?;
                limits::HELD_BODY
            }
        };
        // Refused by what it says of its length already, before any of it is asked for.
        let most = if matches!(coding, Coding::Known(_)) {
            limits::ENCODED_BODY as u64
        } else {
            limits::SCANNED_BODY
        };
        if length.is_some_and(|length| length > most) {
            search.unscannable()?;
        }
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
            let frame = frame.map_err(|_| case.broken_off())?;
            match frame.into_data() {
                Ok(data) => {
                    if !matches!(coding, Coding::Known(_)) {
                        search.data(&data)?;
                    }
                    let wanted = (held.len() + data.len()).div_ceil(UNIT);
                    grow(&mut permit, wanted, budget).await?;
                    held.extend_from_slice(&data);
                    if held.len() >= limit {
                        break incoming.is_end_stream();
                    }
                }
                Err(frame) => {
                    if let Ok(fields) = frame.into_trailers() {
                        search.trailers(&fields, case.host())?;
                        trailers = Some(fields);
                    }
                }
            }
        };
        if let Coding::Known(coding) = coding {
            if ended && search.scanner.is_some() {
                search = search_encoded(search, coding, held.clone().freeze()).await?;
            } else {
                search.unscannable()?;
            }
        }
        let rest = if ended {
            search.end()?;
            None
        } else {
            Some(Box::new(Rest { incoming, search, idle: None }))
        };
        let length = match &rest {
            None if trailers.is_none() => Some(held.len() as u64),
            _ => length,
        };
        // What streams holds little; its share is for others.
        let permit = if rest.is_some() { None } else { permit };
        let verdict = Verdict::default();
        Ok(Self { held, clear: ended, trailers, length, rest, verdict, _permit: permit })
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

/// Searches what a compressed body holds, beside what else there is to do; and it as it stands, for
/// something may follow the end of what is compressed.
async fn search_encoded(
    mut search: Search,
    coding: super::coding::Known,
    body: Bytes,
) -> Result<Search, Code> {
    let shared = Arc::clone(&search.case.shared);
    let _turn = shared.decoding.acquire().await.map_err(|_| Code::DlpUnscannable)?;
    let searched = tokio::task::spawn_blocking(move || {
        search.as_it_stands(&body)?;
        let decoded = decode(coding, &body, limits::SCANNED_BODY, |piece| search.data(piece));
        match decoded {
            Ok(()) => Ok(search),
            Err(Some(code)) => Err(code),
            Err(None) => search.unscannable().map(|()| search),
        }
    });
    // A panic on the way is no reason to let it pass.
    searched.await.unwrap_or(Err(Code::DlpUnscannable))
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
            let held_back = match &this.rest {
                Some(rest) => rest.search.hold_back(),
                None => 0,
            };
            let clear = this.held.len().saturating_sub(held_back);
            if clear > 0 {
                let piece = this.held.split_to(clear).freeze();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(rest) = &mut this.rest else {
                return Poll::Ready(this.trailers.take().map(|fields| Ok(Frame::trailers(fields))));
            };
            let step = match Pin::new(&mut rest.incoming).poll_frame(context) {
                Poll::Ready(frame) => {
                    rest.idle = None;
                    rest.take(frame, &mut this.held, &mut this.trailers)
                }
                Poll::Pending => {
                    let idle = rest
                        .idle
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::REQUEST_IDLE)));
                    ready!(idle.as_mut().poll(context));
                    Err(Code::MalformedRequest)
                }
            };
            match step {
                Ok(true) => {
                    this.rest = None;
                    this.clear = true;
                }
                Ok(false) => {}
                Err(code) => {
                    rest.search.case.deny_later(&code);
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
    /// Takes the next frame. Whether it was the last.
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
        held: &mut BytesMut,
        trailers: &mut Option<HeaderMap>,
    ) -> Result<bool, Code> {
        let frame = match frame {
            None => return self.search.end().map(|()| true),
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(self.search.case.broken_off()),
        };
        match frame.into_data() {
            Ok(data) => {
                self.search.data(&data)?;
                held.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    self.search.trailers(&fields, self.search.case.host())?;
                    *trailers = Some(fields);
                }
            }
        }
        Ok(false)
    }
}
