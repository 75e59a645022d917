//! Archives and compressed files in a body: what they hold is scanned too, wherever in it they stand,
//! and in whatever usual way they are written.
//!
//! A tar needs nothing of its own: its members stand in it as they are.

pub(super) mod find;
mod head;
mod kind;
mod open;
pub(super) mod part;
mod zip;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use time::Date;

use super::coding::{self, Coding, Limits, Unscannable};
use super::decode;
use super::scanner::{Finding, Scanner};
use find::{Rewritten, Tries};
pub(in crate::sidecar) use kind::{Kind, Layers};
use open::begin;

/// Archives within archives.
pub(super) const DEPTH: usize = 2;

/// Ways of writing on top of each other, such as base64 in base64, below which archives are looked for.
const WRITTEN: usize = 3;

/// What is unpacked is looked into for further archives up to this size.
const INNER: usize = 4 << 20;

/// Packed parts of one body that are looked into.
const PLACES: usize = 64;

/// What is written in another way is read up to here, in all.
const REWRITTEN: usize = 64 << 20;

/// Why something was not looked into. The text stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscanned {
    /// An archive of a format, or a member compressed in a way, that is not read.
    Format,
    /// A member is encrypted.
    Encrypted,
    /// Not what its first bytes say, or cut off.
    Broken,
    /// Archives in archives, too many on top of each other.
    Nested,
    /// Too many archives, or members of one.
    Many,
    /// Too large.
    Large,
    /// An archive within a body that is searched as it passes, where it is not opened.
    Streamed,
    /// The content coding cannot be taken off.
    Coding,
}

impl Unscanned {
    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Format => "archive_format",
            Self::Encrypted => "archive_encrypted",
            Self::Broken => "archive_broken",
            Self::Nested => "archive_nested",
            Self::Many => "archive_many",
            Self::Large => "too_large",
            Self::Streamed => "archive_streamed",
            Self::Coding => "content_coding",
        }
    }
}

/// What a whole body holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What must not leave, each once.
    pub findings: Vec<Finding>,
    /// Why something in it could not be looked into: the first reason.
    pub unscanned: Option<Unscanned>,
}

/// What became of something packed.
struct Decoded {
    /// How much it was decoded to.
    given: u64,
    /// How much belongs to it, if it has an end.
    taken: Option<usize>,
    /// Whether that is also the end of what it is in.
    ended: Result<(), Unscannable>,
}

/// How far the scan of a body goes.
pub(in crate::sidecar) struct Bounds<'b> {
    pub(in crate::sidecar) limits: Limits,
    /// Nobody waits for it any more, so that it need not go on.
    pub(in crate::sidecar) over: &'b AtomicBool,
}

/// One scan of one body: what it found, and how much it may still decode.
struct Scan<'s> {
    scanner: &'s Arc<Scanner>,
    host: &'s str,
    today: Date,
    limits: Limits,
    over: &'s AtomicBool,
    left: u64,
    /// How much may still be read that is written in another way.
    rewritten: usize,
    /// How many packed parts may still be opened.
    places: usize,
    /// How often zlib may be tried in what is written in another way, all of it together.
    tries: Rc<Tries>,
    /// The same of what is unpacked.
    unpacked: Rc<Tries>,
    /// What is looked into is what was sent, or what base64 or hex in it stands for. Of what escapes stand
    /// for some may be none.
    exact: bool,
    /// It is within something packed that is whole.
    quiet: bool,
    /// How what was opened in what is exact begins.
    begins: Vec<[u8; BEGIN]>,
    /// It is the head of a request: of letters alone, so that what is packed may begin amid others.
    head: bool,
    report: Report,
}

/// By so much of its begin something packed is known again.
const BEGIN: usize = 12;

/// What gives less before it breaks only looked packed.
pub(super) const CHANCE: u64 = 48;

impl Scanner {
    /// Everything in a whole body that must not leave, its codings taken off, archives opened.
    ///
    /// # Errors
    ///
    /// A coding that cannot be taken off, or decoded text without end.
    pub fn scan_body(
        self: &Arc<Self>,
        host: &str,
        today: Date,
        codings: &[Coding],
        body: &[u8],
        limits: Limits,
    ) -> Result<Report, Unscannable> {
        let bounds = Bounds { limits, over: &AtomicBool::new(false) };
        let (report, scanned) = self.scan_as_far(host, today, codings, body, bounds);
        scanned.map(|()| report)
    }

    /// What is within what is packed in a body, and not what the body is as it stands.
    pub(in crate::sidecar) fn scan_packed(
        self: &Arc<Self>,
        host: &str,
        today: Date,
        body: &[u8],
        bounds: Bounds<'_>,
    ) -> (Report, Result<(), Unscannable>) {
        let mut scan = Scan::new(self, host, today, bounds);
        let runs = decode::runs(body);
        let scanned = scan.inside(body, &runs, Rc::default(), 0, DEPTH, WRITTEN);
        scan.report.findings.sort();
        scan.report.findings.dedup();
        (scan.report, scanned)
    }

    /// The same, and what was found up to where it goes no further.
    pub(in crate::sidecar) fn scan_as_far(
        self: &Arc<Self>,
        host: &str,
        today: Date,
        codings: &[Coding],
        body: &[u8],
        bounds: Bounds<'_>,
    ) -> (Report, Result<(), Unscannable>) {
        let mut scan = Scan::new(self, host, today, bounds);
        let runs = decode::runs(body);
        // What is packed has fields that hold text: the name of a file, a comment.
        scan.text(body, &runs);
        let scanned = if codings.is_empty() {
            scan.inside(body, &runs, Rc::default(), 0, DEPTH, WRITTEN)
        } else {
            drop(runs);
            // A coding is none of the archives in each other.
            scan.encoded(codings, body, DEPTH + 1, WRITTEN)
        };
        scan.report.findings.sort();
        scan.report.findings.dedup();
        (scan.report, scanned)
    }
}

impl<'s> Scan<'s> {
    fn new(scanner: &'s Arc<Scanner>, host: &'s str, today: Date, bounds: Bounds<'s>) -> Self {
        let Bounds { limits, over } = bounds;
        Scan {
            scanner,
            host,
            today,
            limits,
            over,
            left: limits.output,
            rewritten: REWRITTEN,
            places: PLACES,
            tries: Rc::default(),
            unpacked: Rc::default(),
            exact: true,
            quiet: false,
            begins: Vec::new(),
            head: false,
            report: Report::default(),
        }
    }

    /// Scans a text as it stands. `runs` are its [`decode::runs()`].
    fn text(&mut self, text: &[u8], runs: &[Range<usize>]) {
        let found = self.scanner.scan_runs(self.host, self.today, text, runs);
        self.report.findings.extend(found);
    }

    fn unscanned(&mut self, reason: Unscanned) {
        // Of a head that is too large another reason must not hide it.
        if self.head && reason == Unscanned::Large {
            self.report.unscanned = Some(reason);
        }
        self.report.unscanned.get_or_insert(reason);
    }

    /// Scans what is encoded, and opens what is packed in it.
    fn encoded(
        &mut self,
        codings: &[Coding],
        body: &[u8],
        depth: usize,
        written: usize,
    ) -> Result<(), Unscannable> {
        self.decoded(codings, body, depth, written).ended
    }

    /// The same, and how far that went.
    fn decoded(
        &mut self,
        codings: &[Coding],
        body: &[u8],
        depth: usize,
        written: usize,
    ) -> Decoded {
        let mut stream = self.scanner.stream(self.host, self.today);
        let mut kept = Vec::new();
        let mut length = 0;
        let limits = Limits { output: self.left, ..self.limits };
        let taken = coding::decode_begin(codings, body, limits, &mut |chunk| {
            if !self.over.load(Ordering::Relaxed) {
                stream.take(chunk);
            }
            length += chunk.len();
            if length <= INNER {
                kept.extend_from_slice(chunk);
            }
        });
        // What is left of it is searched, and told by the next line.
        let _ = stream.flush();
        let packed = stream.holds_packed();
        if length > INNER {
            kept = Vec::new();
            if packed {
                self.unscanned(Unscanned::Large);
            }
        }
        self.report.findings.extend_from_slice(stream.findings());
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(length);
        let decoded = match (&taken, codings.last()) {
            (Ok(taken), Some(last)) if *taken < body.len() && !last.is_writing() => {
                Err(Unscannable::Corrupt(*last))
            }
            (taken, _) => taken.clone().map(drop),
        };
        let within = match (&decoded, depth) {
            (Err(Unscannable::TooLarge), _) => Ok(()),
            (_, 0) => {
                if packed {
                    self.unscanned(Unscanned::Nested);
                }
                Ok(())
            }
            _ => self.unpacked(&kept, depth - 1, written),
        };
        Decoded { given: length, taken: taken.ok(), ended: within.and(decoded) }
    }

    /// The same for what was packed.
    fn unpacked(&mut self, bytes: &[u8], depth: usize, written: usize) -> Result<(), Unscannable> {
        let runs = if written > 0 { decode::runs(bytes) } else { Vec::new() };
        self.inside(bytes, &runs, Rc::clone(&self.unpacked), 0, depth, written)
    }

    /// Opens what is packed in a text that was scanned as it stands, however it is written there. `runs` are
    /// its [`decode::runs()`]; what is packed as it stands is looked for `from` there on, and zlib tried
    /// so often.
    fn inside(
        &mut self,
        bytes: &[u8],
        runs: &[Range<usize>],
        tries: Rc<Tries>,
        from: usize,
        depth: usize,
        written: usize,
    ) -> Result<(), Unscannable> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let named = self.parts(bytes, depth, written)?;
        let (mut done, mut within) = (0, 0);
        for place in find::places(bytes, from, tries) {
            let Some((at, kind)) = place.filter(|_| self.places > 0) else {
                self.unscanned(Unscanned::Many);
                if self.places == 0 {
                    break;
                }
                continue;
            };
            if at < done || named.binary_search(&at).is_ok() {
                continue;
            }
            if let Kind::Layers(layers) = kind
                && layers.is_cut()
            {
                // It may be noise: what comes of it is searched, and nothing is told.
                let decoded = self.decoded(layers.codings(), &bytes[at..], depth, written);
                if decoded.ended == Err(Unscannable::TooLarge) {
                    self.unscanned(Unscanned::Large);
                }
                continue;
            }
            if depth == 0 {
                self.unscanned(Unscanned::Nested);
                break;
            }
            self.places -= 1;
            if self.exact {
                self.begins.push(begin(&bytes[at..]));
            }
            // What is packed well stands in it as it is, up to where a block of it ends.
            let quiet = self.quiet;
            self.quiet |= at < within;
            // No head is packed as a whole.
            let first = at == 0 && !self.head;
            let opened = self.open(&bytes[at..], kind, first, depth, written);
            self.quiet = quiet;
            let (own, well) = opened?;
            (done, within) = (at + own, within.max(at + well));
        }
        if written > 0 {
            let tries = Rc::clone(&self.tries);
            for text in find::written(bytes, runs, &tries, self.head) {
                if !self.within(&text, depth, written)? {
                    break;
                }
            }
            if self.head {
                self.anywhere(bytes, runs, depth, written)?;
            }
        }
        Ok(())
    }

    /// Opens what is packed in a text that was written in another way. Whether there was room for it.
    fn within(
        &mut self,
        text: &Rewritten,
        depth: usize,
        written: usize,
    ) -> Result<bool, Unscannable> {
        let Some(left) = self.rewritten.checked_sub(text.bytes.len()) else {
            self.unscanned(Unscanned::Large);
            return Ok(false);
        };
        self.rewritten = left;
        let exact = self.exact;
        self.exact &= text.exact;
        let tries = Rc::clone(&self.tries);
        let inside = self.inside(&text.bytes, &text.runs, tries, text.from, depth, written - 1);
        self.exact = exact;
        inside.map(|()| true)
    }

    /// Opens the parts of a form whose own head says how they are packed or written. Says where those begin
    /// that are packed.
    fn parts(
        &mut self,
        bytes: &[u8],
        depth: usize,
        written: usize,
    ) -> Result<Vec<usize>, Unscannable> {
        let mut named = Vec::new();
        for part in part::parts(bytes) {
            let Some(part) = part.filter(|_| self.places > 0) else {
                self.unscanned(Unscanned::Many);
                break;
            };
            let Some(layers) = part.layers else {
                // Where escapes were undone that were none, it is not what was sent.
                if written == WRITTEN {
                    self.unscanned(Unscanned::Format);
                }
                continue;
            };
            // Where it ends is looked for in all that follows: not for one that is not read.
            if !layers.is_packed() && (self.rewritten == 0 || written == 0) {
                self.unscanned(Unscanned::Large);
                break;
            }
            let body = part.body(bytes);
            if !layers.is_packed() {
                self.rewritten(layers, body, depth, written)?;
                continue;
            }
            named.push(part.start);
            if depth == 0 {
                self.unscanned(Unscanned::Nested);
                continue;
            }
            self.places -= 1;
            match self.encoded(layers.codings(), body, depth, written) {
                Err(Unscannable::TooLarge) => self.unscanned(Unscanned::Large),
                // Where escapes were undone that were none, it is not what was sent.
                Err(_) if written < WRITTEN => {}
                Err(_) => self.unscanned(Unscanned::Broken),
                Ok(()) => {}
            }
        }
        Ok(named)
    }

    /// Scans a part that says how it is written.
    fn rewritten(
        &mut self,
        layers: Layers,
        body: &[u8],
        depth: usize,
        written: usize,
    ) -> Result<(), Unscannable> {
        let left = self.rewritten.checked_sub(body.len()).filter(|_| written > 0);
        let Some(left) = left else {
            self.rewritten = 0;
            self.unscanned(Unscanned::Large);
            return Ok(());
        };
        self.rewritten = left;
        let mut text = Vec::new();
        // What is written so has no end of its own that could be missing.
        let _ = coding::decode(layers.codings(), body, self.limits, &mut |piece| {
            text.extend_from_slice(piece);
        });
        let runs = decode::runs(&text);
        self.text(&text, &runs);
        self.inside(&text, &runs, Rc::clone(&self.tries), 0, depth, written - 1)
    }
}

/// Whether these are the first bytes of something in which other files are packed.
#[must_use]
pub fn is_packed(bytes: &[u8]) -> bool {
    find::kind(bytes).is_some()
}

/// What these are the first bytes of, if other files are packed in it.
pub(in crate::sidecar) fn packing(bytes: &[u8]) -> Option<Kind> {
    find::kind(bytes)
}

#[cfg(test)]
mod tests;
