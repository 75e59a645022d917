//! Archives and compressed files in a body: what they hold is scanned too, wherever in it they stand,
//! and in whatever usual way they are written.
//!
//! A tar needs nothing of its own: its members stand in it as they are.

pub(super) mod find;
pub(super) mod part;
mod zip;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use time::Date;

use super::coding::{self, Coding, Limits, Unscannable};
use super::decode;
use super::scanner::{Finding, Scanner};
use find::Tries;
use zip::Member;

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

/// One scan of one body: what it found, and how much it may still decode.
struct Scan<'s> {
    scanner: &'s Arc<Scanner>,
    host: &'s str,
    today: Date,
    limits: Limits,
    left: u64,
    /// How much may still be read that is written in another way.
    rewritten: usize,
    /// How many packed parts may still be opened.
    places: usize,
    /// How often zlib may be tried in what is written in another way, all of it together.
    tries: Rc<Tries>,
    report: Report,
}

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
        let report = Report::default();
        let left = limits.output;
        let (rewritten, places) = (REWRITTEN, PLACES);
        let tries = Rc::default();
        let mut scan =
            Scan { scanner: self, host, today, limits, left, rewritten, places, tries, report };
        let runs = decode::runs(body);
        // What is packed has fields that hold text: the name of a file, a comment.
        scan.text(body, &runs);
        if codings.is_empty() {
            scan.inside(body, &runs, Rc::default(), 0, DEPTH, WRITTEN)?;
        } else {
            drop(runs);
            // A coding is none of the archives in each other.
            scan.encoded(codings, body, DEPTH + 1, WRITTEN)?;
        }
        scan.report.findings.sort();
        scan.report.findings.dedup();
        Ok(scan.report)
    }
}

impl Scan<'_> {
    /// Scans a text as it stands. `runs` are its [`decode::runs()`].
    fn text(&mut self, text: &[u8], runs: &[Range<usize>]) {
        let found = self.scanner.scan_runs(self.host, self.today, text, runs);
        self.report.findings.extend(found);
    }

    fn unscanned(&mut self, reason: Unscanned) {
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
        let mut stream = self.scanner.stream(self.host, self.today);
        let mut kept = Vec::new();
        let mut length = 0;
        let limits = Limits { output: self.left, ..self.limits };
        let decoded = coding::decode(codings, body, limits, &mut |chunk| {
            stream.take(chunk);
            length += chunk.len();
            if length <= INNER {
                kept.extend_from_slice(chunk);
            }
            true
        });
        // What is left of it is searched, and told by the next line.
        let _ = stream.flush();
        if length > INNER {
            kept = Vec::new();
            if stream.holds_packed() {
                self.unscanned(Unscanned::Large);
            }
        }
        self.report.findings.extend_from_slice(stream.findings());
        self.left = self.left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        if decoded != Err(Unscannable::TooLarge) {
            self.unpacked(&kept, depth.saturating_sub(1), written)?;
        }
        decoded
    }

    /// The same for what was packed.
    fn unpacked(&mut self, bytes: &[u8], depth: usize, written: usize) -> Result<(), Unscannable> {
        let runs = if written > 0 { decode::runs(bytes) } else { Vec::new() };
        self.inside(bytes, &runs, Rc::default(), 0, depth, written)
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
        let named = self.parts(bytes, depth, written)?;
        let mut done = 0;
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
            if depth == 0 {
                self.unscanned(Unscanned::Nested);
                break;
            }
            self.places -= 1;
            done = at + self.open(&bytes[at..], kind, at == 0, depth, written)?;
        }
        if written > 0 {
            let tries = Rc::clone(&self.tries);
            for text in find::written(bytes, runs, &tries) {
                let Some(left) = self.rewritten.checked_sub(text.bytes.len()) else {
                    self.unscanned(Unscanned::Large);
                    break;
                };
                self.rewritten = left;
                let tries = Rc::clone(&tries);
                self.inside(&text.bytes, &text.runs, tries, text.from, depth, written - 1)?;
            }
        }
        Ok(())
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
            true
        });
        let runs = decode::runs(&text);
        self.text(&text, &runs);
        self.inside(&text, &runs, Rc::clone(&self.tries), 0, depth, written - 1)
    }

    /// Opens what begins here, and says how long it is, as far as that is known. That bytes follow its
    /// end is no fault unless it is the first of them.
    fn open(
        &mut self,
        bytes: &[u8],
        kind: Kind,
        first: bool,
        depth: usize,
        written: usize,
    ) -> Result<usize, Unscannable> {
        match kind {
            Kind::Opaque | Kind::Layers(_) => self.unscanned(Unscanned::Format),
            Kind::Coded(coding) => match self.encoded(&[coding], bytes, depth, written) {
                Err(Unscannable::TooLarge) if first => return Err(Unscannable::TooLarge),
                // What is no more than a part of a body is no reason to refuse it.
                Err(Unscannable::TooLarge) => self.unscanned(Unscanned::Large),
                Err(_) if first => self.unscanned(Unscanned::Broken),
                Err(_) | Ok(()) => {}
            },
            Kind::Zip => match self.zip(bytes, depth, written) {
                Err(Unscannable::TooLarge) if !first => self.unscanned(Unscanned::Large),
                opened => return opened,
            },
        }
        Ok(1)
    }

    /// Opens every member of a zip.
    fn zip(&mut self, bytes: &[u8], depth: usize, written: usize) -> Result<usize, Unscannable> {
        let zip::Listing { members, names, end } = match zip::listing(bytes) {
            Ok(listing) => listing,
            Err(reason) => {
                self.unscanned(reason);
                return Ok(1);
            }
        };
        self.text(&names, &decode::runs(&names));
        for member in members {
            match member {
                Ok(Member { stored: true, data }) => self.unpacked(data, depth - 1, written)?,
                Ok(Member { stored: false, data }) => {
                    match self.encoded(&[Coding::RawDeflate], data, depth, written) {
                        Err(Unscannable::TooLarge) => return Err(Unscannable::TooLarge),
                        Err(_) => self.unscanned(Unscanned::Broken),
                        Ok(()) => {}
                    }
                }
                Err(reason) => self.unscanned(reason),
            }
        }
        Ok(end)
    }
}

/// Something packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) enum Kind {
    /// In a format that content codings have too.
    Coded(Coding),
    /// Members of their own.
    Zip,
    /// An archive whose format is not read.
    Opaque,
    /// More than one of these, or one that has no first bytes.
    Layers(Layers),
}

/// How something is packed and written: what was applied first stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) struct Layers {
    codings: [Coding; LAYERS],
    length: usize,
    /// It is a zip that is written so.
    pub(in crate::sidecar) zip: bool,
    /// A head says so.
    said: bool,
}

/// Three codings, and how what they give is written.
const LAYERS: usize = 4;

impl Default for Layers {
    fn default() -> Self {
        Self { codings: [Coding::Gzip; LAYERS], length: 0, zip: false, said: false }
    }
}

impl Layers {
    /// Adds one that was applied later. Nothing: there are too many.
    fn push(&mut self, coding: Coding) -> Option<()> {
        *self.codings.get_mut(self.length)? = coding;
        self.length += 1;
        Some(())
    }

    pub(in crate::sidecar) fn codings(&self) -> &[Coding] {
        &self.codings[..self.length]
    }

    /// Whether what looks so may be something else.
    pub(in crate::sidecar::dlp) const fn begins_by_chance(&self) -> bool {
        !self.zip && !self.said
    }

    /// Whether it is packed, and not only written in another way.
    pub(in crate::sidecar) fn is_packed(&self) -> bool {
        self.zip || self.codings().iter().any(|coding| !coding.is_writing())
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
