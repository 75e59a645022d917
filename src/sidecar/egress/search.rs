//! The search of a request's body, as a whole or as it passes.
//!
//! What takes long is done aside, by threads that give way to all others: what a machine has sent to
//! be searched keeps neither its other requests nor the host waiting. Where none of its requests but
//! uploads moves, pieces of them are searched as soon as anything else on the machine: a client that
//! waits for nothing else keeps a processor busy, and would be all that ran.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aside::{Gone, Work, aside, at_once};
use super::case::Case;
use super::limits;
use super::packed::{MEMORY, Packed};
use super::scan::unpacked_archive;
use super::share::{Budget, Share};
use super::state::Loaded;
use super::trouble::Trouble;
use crate::sidecar::Code;
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::{BodyScanner, Finding, Opener, Room, Taken, Unscanned, Written};
use crate::sidecar::framing::may_be_late;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;

/// A search that is done aside, with what it searches.
pub(super) type Away = Work<(Search, BytesMut, Result<(), Code>)>;

/// What a search takes of what all share. Whoever it was for may be gone long before it has ended.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

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
    /// Nobody waits for it any more.
    gone: Gone,
    kept: Option<Kept>,
}

impl Search {
    /// Of a body that is so long, if it says so.
    pub(super) fn new(
        case: &Arc<Case>,
        loaded: &Arc<Loaded>,
        budget: &Arc<Budget>,
        length: Option<u64>,
    ) -> Self {
        let gone = Gone::default();
        let opener = opener(budget, length).until(gone.flag());
        let scanner = Some(loaded.scan.body(case.host()).opening(opener.clone()));
        let (case, loaded) = (Arc::clone(case), Arc::clone(loaded));
        let (packed, raw, kept) = (None, None, None);
        let told = [0; 2];
        Self { case, loaded, opener, scanner, packed, raw, told, seen: 0, gone, kept }
    }

    /// Keeps this, too, for as long as it goes on.
    pub(super) fn keeping(mut self, kept: Kept) -> Self {
        self.kept = Some(kept);
        self
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
                // What was unpacked before that may have been read so, too.
                scanner.close();
                self.judge_new()?;
                self.give_up(reason(&error))
            }
            Err(_) => {
                // The rest is searched as it stands, as what came before was.
                self.case.unscanned(Unscanned::Broken);
                scanner.close();
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
        let Some(scanner) = self.scanner.as_ref().filter(|_| !self.opener.is_over()) else {
            return Ok(());
        };
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
            return Flushed::Later(aside(self.gone.clone(), move || {
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
        let gone = self.gone.clone();
        let work = move || {
            let clear = self.data(&piece);
            (self, piece, clear)
        };
        if alone && short { at_once(gone, work) } else { aside(gone, work) }
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
        let at_once =
            if self.packed.is_some() || scanner.opens() { 0 } else { limits::SEARCHED_AT_ONCE };
        size > at_once && (self.packed.is_some() || scanner.searches(size))
    }

    /// Searches what comes behind the body.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Result<(), Code> {
        if !trailers.keys().all(|name| may_be_late(name.as_str())) {
            return Err(Code::AmbiguousFraming);
        }
        let report = self.loaded.scan.head(self.case.host(), "", trailers);
        self.judge(report.findings)?;
        unsearched(&self.case, &self.loaded, report.unscanned)
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Result<(), Code> {
        if let (Some(packed), Some(scanner)) = (&mut self.packed, &mut self.scanner) {
            let whole = packed.end(scanner);
            let unnamed = packed.is_unnamed();
            if whole.is_err() {
                scanner.close();
            }
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

/// A head in which something packed cannot be looked into: refused if it is too much, else told.
pub(super) fn unsearched(
    case: &Case,
    loaded: &Loaded,
    reason: Option<Unscanned>,
) -> Result<(), Code> {
    match reason {
        Some(Unscanned::Large) => unscannable(case, loaded, Unscanned::Large)
            .map_err(|_| case.explained(Trouble::packed_head())),
        Some(reason) => {
            case.unscanned(reason);
            Ok(())
        }
        None => Ok(()),
    }
}

/// Why a body that cannot be unpacked is not searched.
const fn reason(error: &Unscannable) -> Unscanned {
    match error {
        Unscannable::TooLarge => Unscanned::Large,
        _ => Unscanned::Coding,
    }
}

/// How a body may be read.
pub(super) struct Reading {
    /// What is to be taken off.
    pub(super) codings: Vec<Coding>,
    /// How it is written, if what must not leave is to be taken out of it.
    pub(super) written: Option<Written>,
}

/// Searches a whole body, and what is sent in its place, if something was taken out of it. What takes long goes
/// beside what else there is to do.
pub(super) async fn search_whole(
    case: &Arc<Case>,
    loaded: &Arc<Loaded>,
    reading: Reading,
    mut held: BytesMut,
    kept: Share,
) -> Result<(BytesMut, Share), Code> {
    let gone = Gone::default();
    let flag = gone.flag();
    let small = held.len() <= limits::SEARCHED_AT_ONCE;
    let search = {
        let (case, loaded) = (Arc::clone(case), Arc::clone(loaded));
        move || {
            let Reading { codings, written } = reading;
            let (mut taken, mut rounds) = (Taken::new(), 0);
            // What was found is taken out, or refused: it does not vanish because something beside it went.
            let mut found = BTreeSet::new();
            loop {
                let (report, scanned) = loaded.scan.whole_body(case.host(), &codings, &held, &flag);
                if flag.load(Ordering::Relaxed) {
                    // There is nobody to be refused anything.
                    return Err(Code::DlpUnscannable);
                }
                if let Err(error) = scanned {
                    unscannable(&case, &loaded, reason(&error))?;
                }
                if !report.findings.is_empty()
                    && rounds < limits::REDACTIONS
                    && let Some(written) = &written
                    && let Some(new) = loaded.scan.take_out(case.host(), written, &held, &mut taken)
                {
                    // Markers are longer than what they stand for may be.
                    if new.len() > 2 * limits::REDACTED_BODY {
                        return Err(Code::DlpUnscannable);
                    }
                    found.extend(report.findings);
                    held = Bytes::from(new).into();
                    rounds += 1;
                    continue;
                }
                // A known value goes in no mode, whatever it stands in.
                report.findings.into_iter().try_for_each(|finding| case.judge(&loaded, finding))?;
                found
                    .into_iter()
                    .filter(|finding| !taken.contains_key(finding))
                    .try_for_each(|finding| case.judge(&loaded, finding))?;
                if let Some(reason) = report.unscanned {
                    case.unscanned(reason);
                }
                case.redacted(taken)?;
                return Ok((held, kept));
            }
        }
    };
    if small {
        return search();
    }
    // A panic on the way is no reason to let it pass.
    aside(gone, search).await.unwrap_or(Err(Code::DlpUnscannable))
}
