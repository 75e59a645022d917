//! A body that comes in pieces: windows of fixed size, wherever the pieces begin and end.

mod opened;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use time::Date;
use zeroize::Zeroize as _;

use self::opened::{Fed, Opened};
pub(in crate::sidecar) use self::opened::{Opener, Room};
use super::archive::find::{begins_in, begins_in_escapes, streamed};
use super::archive::{Kind, Layers, Unscanned};
use super::decode;
use super::scanner::{Finding, Scanner};

/// The text that is searched at once.
pub(super) const WINDOW: usize = 128 << 10;

/// So much of a window is searched again with the next one: a secret that is no longer than this,
/// encoded, is whole in one of them. A multiple of four, so that base64 keeps its alignment.
pub(super) const OVERLAP: usize = 16 << 10;

/// Scans one body as it passes, in constant memory.
pub struct BodyScanner {
    scanner: Arc<Scanner>,
    host: String,
    today: Date,
    /// What has come and is not yet done with.
    held: Vec<u8>,
    /// So many of its first bytes were passed on by [`Self::flush`].
    passed: usize,
    /// The body began before `held`.
    open_start: bool,
    found: Vec<Finding>,
    /// Something packed began in it that was not opened.
    packed: bool,
    /// How much has come.
    position: u64,
    /// How much of that came before what is held.
    base: u64,
    /// What opens what is packed in it, if it is opened.
    opener: Option<Opener>,
    opened: Option<Opened>,
    /// How many findings of that are among those of this.
    told: usize,
    /// What is packed is looked for from here on.
    looked: u64,
    /// Why something packed in it was not looked into: the first reason.
    unscanned: Option<Unscanned>,
}

impl BodyScanner {
    pub(super) fn new(scanner: Arc<Scanner>, host: &str, today: Date) -> Self {
        let host = host.to_owned();
        Self {
            scanner,
            host,
            today,
            held: Vec::new(),
            passed: 0,
            open_start: false,
            found: Vec::new(),
            packed: false,
            position: 0,
            base: 0,
            opener: None,
            opened: None,
            told: 0,
            looked: 0,
            unscanned: None,
        }
    }

    /// The same, and what is packed in it is opened as it comes.
    #[must_use]
    pub(in crate::sidecar) fn opening(mut self, opener: Opener) -> Self {
        self.opener = Some(opener);
        self
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// The first new thing that must not leave. Scanning may go on after it, where a finding is
    /// only told.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Finding> {
        let before = self.found.len();
        self.take(bytes);
        self.found.get(before).map_or(Ok(()), |finding| Err(finding.clone()))
    }

    /// The body is at its end.
    ///
    /// # Errors
    ///
    /// The first new thing that must not leave.
    pub fn finish(mut self) -> Result<(), Finding> {
        let before = self.found.len();
        self.search(false);
        self.found.get(before).map_or(Ok(()), |finding| Err(finding.clone()))
    }

    /// The body is at its end: everything that was found in it.
    #[must_use]
    pub fn end(mut self) -> Vec<Finding> {
        self.search(false);
        std::mem::take(&mut self.found)
    }

    /// Searches all that has come as if nothing followed, so that it can go on: whoever is to answer it
    /// waits for it. The end of it is kept, and searched again with what comes next.
    ///
    /// # Errors
    ///
    /// The first new thing that must not leave.
    pub fn flush(&mut self) -> Result<(), Finding> {
        let before = self.found.len();
        self.search(false);
        if let Some(opened) = &mut self.opened {
            opened.flush();
        }
        self.hear();
        // By whole groups of base64, so that it keeps its alignment.
        let done = self.held.len().saturating_sub(OVERLAP) / 4 * 4;
        if done > 0 {
            self.held.drain(..done);
            self.open_start = true;
        }
        self.passed = self.held.len();
        self.found.get(before).map_or(Ok(()), |finding| Err(finding.clone()))
    }

    /// What has been found so far.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.found
    }

    /// Whether something packed began in what was searched so far, and was not opened.
    #[must_use]
    pub const fn holds_packed(&self) -> bool {
        self.packed
    }

    /// Why something packed in it was not looked into, if so: the first reason.
    #[must_use]
    pub fn unscanned(&self) -> Option<Unscanned> {
        self.unscanned.or_else(|| self.packed.then_some(Unscanned::Streamed))
    }

    /// How many of the last bytes must not be passed on yet: a secret may have begun in them, or in what
    /// they are unpacked to.
    #[must_use]
    pub fn hold_back(&self) -> usize {
        let own = self.held.len() - self.passed;
        self.opened.as_ref().map_or(own, |opened| own.max(opened.hold_back(self.position)))
    }

    /// Whether so many more bytes make it search. Else they are only kept.
    pub(in crate::sidecar) fn searches(&self, more: usize) -> bool {
        self.opened.is_some() || self.held.len() + more > WINDOW
    }

    /// Whether something packed in it is open, so that nobody knows how large the next piece becomes.
    pub(in crate::sidecar) const fn opens(&self) -> bool {
        self.opened.is_some()
    }

    /// The body is at its end: searches all of it, also of what is packed in it.
    pub(in crate::sidecar) fn close(&mut self) {
        self.search(false);
        if let Some(mut opened) = self.opened.take() {
            let reason = opened.end();
            self.done(opened, reason);
        }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.held.len() == WINDOW {
                self.search(true);
                self.open_start = true;
                self.held.copy_within(WINDOW - OVERLAP.., 0);
                self.held.truncate(OVERLAP);
                self.passed = self.passed.saturating_sub(WINDOW - OVERLAP);
            }
            let (now, later) = bytes.split_at(bytes.len().min(WINDOW - self.held.len()));
            self.held.extend_from_slice(now);
            self.position += now.len() as u64;
            self.base = self.position - self.held.len() as u64;
            self.feed(now);
            bytes = later;
        }
        self.hear();
    }

    /// Unpacks what comes next of what is packed.
    fn feed(&mut self, bytes: &[u8]) {
        let Some(mut opened) = self.opened.take() else { return };
        match opened.feed(bytes) {
            Fed::On => self.opened = Some(opened),
            Fed::Ended(place) => {
                self.looked = place;
                let reason = opened.end();
                self.done(opened, reason);
            }
            Fed::Broken(reason) => {
                // Another one may begin in it, as far as that is still there.
                self.looked = opened.start + 1;
                let gone = (self.looked < self.base).then_some(Unscanned::Broken);
                self.done(opened, reason.or(gone));
            }
        }
    }

    /// Takes over what was found in something packed that is over.
    fn done(&mut self, mut opened: Opened, reason: Option<Unscanned>) {
        opened.scanner.close();
        self.opened = Some(opened);
        self.hear();
        (self.opened, self.told) = (None, 0);
        self.unscanned = self.unscanned.or(reason);
    }

    /// Takes over what was found so far in what is packed.
    fn hear(&mut self) {
        let Some(opened) = &self.opened else { return };
        self.unscanned = self.unscanned.or_else(|| opened.reason());
        let found = opened.scanner.findings();
        let new = found[self.told..].iter().filter(|finding| !self.found.contains(finding));
        let new: Vec<Finding> = new.cloned().collect();
        self.told = found.len();
        self.found.extend(new);
    }

    /// Opens what is packed in what has come, as far as it goes. `runs` are the [`decode::runs()`] of that.
    fn open(&mut self, runs: &[Range<usize>]) {
        let Some(opener) = self.opener.clone() else {
            self.packed = self.packed || begins_in(&self.held, runs);
            return;
        };
        if self.opened.is_some() {
            return;
        }
        let base = self.position - self.held.len() as u64;
        self.base = base;
        let held = std::mem::take(&mut self.held);
        // What is opened is not looked into for escapes.
        let place_in =
            |place: u64| usize::try_from(place.saturating_sub(base)).unwrap_or(0).min(held.len());
        let mut from = place_in(self.looked);
        for place in streamed(&held, runs) {
            if self.opened.is_some() {
                break;
            }
            let Some((at, kind)) = place else {
                self.unscanned.get_or_insert(Unscanned::Many);
                continue;
            };
            let start = base + at as u64;
            if start < self.looked {
                continue;
            }
            if let Kind::Layers(layers) = kind
                && layers.is_cut()
            {
                self.cut(&opener, layers, &held[at..]);
                continue;
            }
            let scanner = |opener| {
                Self::new(Arc::clone(&self.scanner), &self.host, self.today).opening(opener)
            };
            match opener.open(kind, &held[at..], start, scanner) {
                Ok(opened) => {
                    self.packed = self.packed || begins_in_escapes(&held[from.min(at)..at]);
                    self.opened = Some(opened);
                    self.feed(&held[at..]);
                    from = place_in(self.looked);
                }
                Err(reason) => {
                    self.unscanned.get_or_insert(reason);
                    self.looked = start + 1;
                }
            }
        }
        if self.opened.is_none() {
            self.packed = self.packed || begins_in_escapes(&held[from..]);
        }
        self.held = held;
    }

    /// Searches what comes of something that breaks soon, and may be noise.
    fn cut(&mut self, opener: &Opener, layers: Layers, bytes: &[u8]) {
        let mut scanner = Self::new(Arc::clone(&self.scanner), &self.host, self.today);
        // No deeper than that: what unpacks to itself would go on for ever.
        scanner.opener = opener.goes_deeper().then(|| opener.deeper());
        let reason = opener.cut(layers, bytes, &mut scanner);
        self.unscanned = self.unscanned.or(reason).or_else(|| scanner.unscanned());
        let new = scanner.findings().iter().filter(|finding| !self.found.contains(finding));
        let new: Vec<Finding> = new.cloned().collect();
        self.found.extend(new);
    }

    fn search(&mut self, open_end: bool) {
        if self.opener.as_ref().is_some_and(Opener::is_over) {
            return;
        }
        let runs = decode::runs(&self.held);
        self.open(&runs);
        for finding in self.scanner.window(&self.held, &runs, self.open_start, open_end) {
            let new = !self.found.contains(&finding);
            if new && !self.scanner.suppressed(&finding, &self.host, self.today) {
                self.found.push(finding);
            }
        }
    }
}

impl fmt::Debug for BodyScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.len();
        f.debug_struct("BodyScanner").field("held", &held).field("found", &self.found).finish()
    }
}

impl Drop for BodyScanner {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}
