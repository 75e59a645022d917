//! The head of a request: what is packed in its target and its fields, written in letters.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use time::Date;

use super::coding::{Limits, Unscannable};
use super::{Bounds, DEPTH, Report, Scan, Unscanned, WRITTEN, decode, find};
use crate::sidecar::dlp::Scanner;

/// What is unpacked of a head in all. One of 64 KiB in which all is base64 of text packed ten to one gives no
/// more, and to search so much takes a few milliseconds.
const OUTPUT: u64 = 512 << 10;

/// What of it is written in another way is read up to here: many times as much as a head has.
const REWRITTEN: usize = 2 << 20;

impl Scanner {
    /// Everything in a head that must not leave, what is packed in it opened. Where it holds more than is
    /// looked into, that is the reason in the report, whatever else there is.
    pub(in crate::sidecar) fn scan_head(
        self: &Arc<Self>,
        host: &str,
        today: Date,
        text: &[u8],
    ) -> Report {
        let limits = Limits { output: OUTPUT, ..Limits::default() };
        let over = AtomicBool::new(false);
        let mut scan = Scan::new(self, host, today, Bounds { limits, over: &over });
        (scan.head, scan.rewritten) = (true, REWRITTEN);
        let runs = decode::runs(text);
        scan.text(text, &runs);
        let tries = Rc::clone(&scan.tries);
        if scan.inside(text, &runs, tries, 0, DEPTH, WRITTEN).is_err() {
            scan.unscanned(Unscanned::Large);
        }
        scan.report.findings.sort();
        scan.report.findings.dedup();
        scan.report
    }
}

impl Scan<'_> {
    /// Opens what is packed and written in base64 or hex behind letters that are no part of it.
    pub(super) fn anywhere(
        &mut self,
        bytes: &[u8],
        runs: &[Range<usize>],
        depth: usize,
        written: usize,
    ) -> Result<(), Unscannable> {
        let tries = Rc::clone(&self.tries);
        for text in find::anywhere(bytes, runs, &tries) {
            let Some(text) = text else {
                self.unscanned(Unscanned::Many);
                break;
            };
            // Where its letters begin is not where those of the run do, so it was not read as a text yet.
            self.text(&text.bytes, &text.runs);
            if !self.within(&text, depth, written)? {
                break;
            }
        }
        Ok(())
    }
}
