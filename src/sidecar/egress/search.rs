//! The search of a request's body, as a whole or as it passes.
//!
//! What takes long is done aside, by threads that give way to all others: what a machine has sent to
//! be searched keeps neither its other requests nor the host waiting. Where none of its requests but
//! uploads moves, pieces of them are searched as soon as anything else on the machine: a client that
//! waits for nothing else keeps a processor busy, and would be all that ran.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use hyper::HeaderMap;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::case::Case;
use super::limits;
use super::packed::{MEMORY, Packed};
use super::scan::unpacked_archive;
use super::share::Budget;
use super::state::Loaded;
use crate::sidecar::Code;
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::{BodyScanner, Finding, Opener, Room, Unscanned};
use crate::sidecar::framing::may_be_late;

/// By how much a thread that searches gives way, in the steps of `nice`.
#[cfg(target_os = "linux")]
const GIVES_WAY: i32 = 10;

thread_local! {
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Begins work that takes long. On Linux it gives way; a thread has a priority of its own there.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        #[cfg(target_os = "linux")]
        if !GAVE_WAY.replace(true) {
            // Without it the work is as urgent as any other: that is no reason not to do it.
            let _ = rustix::process::nice(GIVES_WAY);
        }
        work()
    })
}

/// Begins work that takes a moment, beside which nothing else moves. A thread that once gave way does so for
/// good, so these are others.
fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(limits::THREADS).build().ok()
    });
    match threads {
        Some(threads) => threads.spawn_blocking(work),
        None => aside(work),
    }
}

/// A search that is done aside, with what it searches.
pub(super) type Away = JoinHandle<(Search, BytesMut, Result<(), Code>)>;

/// A search of all that has come.
pub(super) enum Flushed {
    Now(Box<Search>, Result<(), Code>),
    Later(Away),
}

/// The search of one body that passes.
pub(super) struct Search {
    pub(super) case: Arc<Case>,
    loaded: Arc<Loaded>,
    opener: Opener,
    scanner: Option<BodyScanner>,
    /// What takes its codings off, if it has any.
    packed: Option<Box<Packed>>,
    /// The search of what is packed as it stands, beside that of what it holds.
    raw: Option<Box<BodyScanner>>,
    /// How many of its findings were told, and of those of what is packed as it stands.
    told: [usize; 2],
    seen: u64,
}

impl Search {
    /// Of a body that is so long, if it says so.
    pub(super) fn new(
        case: &Arc<Case>,
        loaded: &Arc<Loaded>,
        budget: &Arc<Budget>,
        length: Option<u64>,
    ) -> Self {
        let opener = opener(budget, length);
        let scanner = Some(loaded.scan.body(case.host()).opening(opener.clone()));
        let (case, loaded) = (Arc::clone(case), Arc::clone(loaded));
        Self { case, loaded, opener, scanner, packed: None, raw: None, told: [0; 2], seen: 0 }
    }

    /// The same of a body that is compressed.
    pub(super) fn unpacking(mut self, packed: Packed) -> Self {
        // What is packed has fields that hold text, such as the name of a file.
        let body = || self.loaded.scan.body(self.case.host());
        self.raw = Some(Box::new(body()));
        if packed.is_unnamed() {
            // What is in it is one archive deep already, and it is itself opened once.
            self.scanner = Some(body().opening(self.opener.deeper()));
        }
        self.packed = Some(Box::new(packed));
        self
    }

    /// It cannot be searched: it passes as it is, or not at all.
    pub(super) fn give_up(&mut self, reason: Unscanned) -> Result<(), Code> {
        (self.scanner, self.packed, self.raw) = (None, None, None);
        unscannable(&self.case, &self.loaded, reason)
    }

    /// Searches the next piece.
    pub(super) fn data(&mut self, data: &[u8]) -> Result<(), Code> {
        self.seen += data.len() as u64;
        self.opener.comes(data.len());
        if self.seen > limits::SCANNED_BODY && self.scanner.is_some() {
            self.give_up(Unscanned::Large)?;
        }
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        let Some(packed) = &mut self.packed else {
            // What is new among what was found is looked at below.
            let _ = scanner.push(data);
            return self.judge_new();
        };
        let unnamed = packed.is_unnamed();
        if let Some(raw) = &mut self.raw {
            let _ = raw.push(data);
        }
        let unpacked = packed.data(data, scanner);
        if let Some(reason) = packed.reason() {
            self.case.unscanned(reason);
        }
        match unpacked {
            Ok(()) => self.judge_new(),
            Err(error) if !unnamed || error == Unscannable::TooLarge => {
                self.judge_new()?;
                self.give_up(reason(&error))
            }
            Err(_) => {
                // The rest is searched as it stands, as what came before was.
                self.case.unscanned(Unscanned::Broken);
                self.judge_new()?;
                (self.scanner, self.packed) = (self.raw.take().map(|raw| *raw), None);
                self.told[0] = self.told[1];
                Ok(())
            }
        }
    }

    /// Searches all that has come, so that none of it is held back.
    fn flush(&mut self) -> Result<(), Code> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        let _ = scanner.flush();
        if let Some(packed) = &mut self.packed {
            packed.flushed(scanner);
        }
        if let Some(raw) = &mut self.raw {
            let _ = raw.flush();
        }
        self.judge_new()
    }

    /// What was found since this was asked last.
    fn judge_new(&mut self) -> Result<(), Code> {
        let Some(scanner) = &self.scanner else { return Ok(()) };
        if let Some(reason) = scanner.unscanned() {
            self.case.unscanned(reason);
        }
        let all = [Some(scanner), self.raw.as_deref()];
        let mut new = Vec::new();
        for (scanner, told) in all.into_iter().flatten().zip(&mut self.told) {
            let found = scanner.findings();
            new.extend_from_slice(&found[*told..]);
            *told = found.len();
        }
        self.judge(new)
    }

    /// The same, aside if there is so much that it takes long.
    pub(super) fn flushed(mut self) -> Flushed {
        if self.hold_back() > limits::SEARCHED_AT_ONCE {
            return Flushed::Later(aside(move || {
                let clear = self.flush();
                (self, BytesMut::new(), clear)
            }));
        }
        let clear = self.flush();
        Flushed::Now(Box::new(self), clear)
    }

    /// Searches a piece aside. It has the piece meanwhile, and gives both back.
    pub(super) fn aside(mut self, piece: BytesMut) -> Away {
        let alone = !self.case.shared.activity.is_recent();
        // What is packed may become large.
        let short = self.packed.is_none() && piece.len() <= 2 * limits::SEARCHED_IN_TURN;
        let work = move || {
            let clear = self.data(&piece);
            (self, piece, clear)
        };
        if alone && short { at_once(work) } else { aside(work) }
    }

    /// Searches a piece, aside if that takes long.
    pub(super) async fn piece(
        mut self,
        piece: BytesMut,
    ) -> Result<(Self, BytesMut, Result<(), Code>), tokio::task::JoinError> {
        if self.takes_long(piece.len()) {
            return self.aside(piece).await;
        }
        let clear = self.data(&piece);
        Ok((self, piece, clear))
    }

    /// Whether a piece of this size takes long.
    pub(super) fn takes_long(&self, size: usize) -> bool {
        let Some(scanner) = &self.scanner else { return false };
        // Nobody knows how large it becomes.
        let at_once = if self.packed.is_some() { 0 } else { limits::SEARCHED_AT_ONCE };
        size > at_once && (self.packed.is_some() || scanner.searches(size))
    }

    /// Searches what comes behind the body.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Result<(), Code> {
        if !trailers.keys().all(|name| may_be_late(name.as_str())) {
            return Err(Code::AmbiguousFraming);
        }
        self.judge(self.loaded.scan.head(self.case.host(), "", trailers))
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Result<(), Code> {
        if let (Some(packed), Some(scanner)) = (&mut self.packed, &mut self.scanner) {
            let whole = packed.end(scanner);
            let unnamed = packed.is_unnamed();
            self.judge_new()?;
            match whole {
                Ok(()) => {}
                Err(error) if !unnamed || error == Unscannable::TooLarge => {
                    return self.give_up(reason(&error));
                }
                Err(_) => self.case.unscanned(Unscanned::Broken),
            }
        }
        for scanner in [self.scanner.as_mut(), self.raw.as_deref_mut()].into_iter().flatten() {
            scanner.close();
        }
        self.judge_new()?;
        (self.scanner, self.raw) = (None, None);
        Ok(())
    }

    /// How many of the last bytes may be the begin of a secret.
    pub(super) fn hold_back(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, |raw| raw.hold_back());
        match (&self.scanner, &self.packed) {
            (None, _) => 0,
            (Some(scanner), None) => scanner.hold_back(),
            (Some(_), Some(packed)) => packed.hold_back().max(raw),
        }
    }

    fn judge(&self, findings: Vec<Finding>) -> Result<(), Code> {
        findings.into_iter().try_for_each(|finding| self.case.judge(&self.loaded, finding))
    }
}

/// What opens what is packed within a body as it passes. It waits for no memory: another body that waits
/// to be searched may have it.
fn opener(budget: &Arc<Budget>, length: Option<u64>) -> Opener {
    let budget = Arc::clone(budget);
    let room: Room = Arc::new(move |bytes| Some(Box::new(budget.decoders_now(bytes)?)));
    Opener::new(room, MEMORY, unpacked_archive, length)
}

/// A body that cannot be searched is refused, or passed on with a word about it.
pub(super) fn unscannable(case: &Case, loaded: &Loaded, reason: Unscanned) -> Result<(), Code> {
    if loaded.scan.blocks() {
        return Err(Code::DlpUnscannable);
    }
    case.unscanned(reason);
    Ok(())
}

/// Why a body that cannot be unpacked is not searched.
const fn reason(error: &Unscannable) -> Unscanned {
    match error {
        Unscannable::TooLarge => Unscanned::Large,
        _ => Unscanned::Coding,
    }
}

/// Searches a whole body. What takes long goes beside what else there is to do.
pub(super) async fn search_whole(
    case: &Arc<Case>,
    loaded: &Arc<Loaded>,
    codings: Vec<Coding>,
    held: BytesMut,
) -> Result<BytesMut, Code> {
    let small = held.len() <= limits::SEARCHED_AT_ONCE;
    let search = {
        let (case, loaded) = (Arc::clone(case), Arc::clone(loaded));
        move || match loaded.scan.whole_body(case.host(), &codings, &held) {
            Ok(report) => {
                if let Some(reason) = report.unscanned {
                    case.unscanned(reason);
                }
                let mut findings = report.findings.into_iter();
                findings.try_for_each(|finding| case.judge(&loaded, finding)).map(|()| held)
            }
            Err(error) => unscannable(&case, &loaded, reason(&error)).map(|()| held),
        }
    };
    if small {
        return search();
    }
    // A panic on the way is no reason to let it pass.
    aside(search).await.unwrap_or(Err(Code::DlpUnscannable))
}
