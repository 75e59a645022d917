//! A body that comes in pieces: windows of fixed size, wherever the pieces begin and end.

use std::fmt;
use std::sync::Arc;

use time::Date;
use zeroize::Zeroize as _;

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
    /// The body began before `held`.
    open_start: bool,
    found: Vec<Finding>,
}

impl BodyScanner {
    pub(super) fn new(scanner: Arc<Scanner>, host: &str, today: Date) -> Self {
        let host = host.to_owned();
        Self { scanner, host, today, held: Vec::new(), open_start: false, found: Vec::new() }
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

    /// What has been found so far.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.found
    }

    /// How many of the last bytes must not be passed on yet: a secret may have begun in them.
    #[must_use]
    pub const fn hold_back(&self) -> usize {
        self.held.len()
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.held.len() == WINDOW {
                self.search(true);
                self.open_start = true;
                self.held.copy_within(WINDOW - OVERLAP.., 0);
                self.held.truncate(OVERLAP);
            }
            let (now, later) = bytes.split_at(bytes.len().min(WINDOW - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = later;
        }
    }

    fn search(&mut self, open_end: bool) {
        for finding in self.scanner.window(&self.held, self.open_start, open_end) {
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
