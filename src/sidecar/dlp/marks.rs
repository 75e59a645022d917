//! What was found, so that it is known again: by its rule and a digest of its value, with its line.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use time::Date;
use zeroize::Zeroize as _;

use super::decode;
use super::engine::View;
use super::scanner::{Finding, Scanner};
use super::stream::{OVERLAP, WINDOW};

/// Something that was found. It never carries the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The rule's id, or the name of a known value.
    pub rule: String,
    /// It is a known value.
    pub known: bool,
    /// SHA-256 of the rule, a zero byte and the value.
    pub digest: [u8; 32],
    /// The line that it begins in, from 1, where it stands in the text as it is.
    pub line: Option<u64>,
}

impl Mark {
    /// By what people call it: twelve hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.digest)
    }

    /// What stands for a value that cannot be taken out of what holds it.
    #[must_use]
    pub fn of_whole(finding: &Finding, name: &str) -> Self {
        let Finding { rule, known } = finding.clone();
        Self { digest: digest(&rule, name.as_bytes()), rule, known, line: None }
    }
}

fn fingerprint(digest: &[u8; 32]) -> String {
    hex::encode(&digest[..6])
}

fn digest(rule: &str, value: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(rule.as_bytes());
    hash.update([0]);
    hash.update(value);
    hash.finalize().into()
}

/// Rules that look for the begin of something, which many of its kind have alike.
const BEGINNINGS: [&str; 2] = ["private-key", "putty-private-key"];
/// What follows such a begin, up to its end, is no longer.
const FOLLOWS: usize = 16 << 10;

/// What a value is known again by: all of it, also where a rule looks for a part alone. Two values that differ
/// anywhere are two.
fn whole(rule: &str, text: &[u8], found: Range<usize>) -> Range<usize> {
    if BEGINNINGS.contains(&rule) {
        let most = text.len().min(found.start + FOLLOWS);
        let ends = memchr::memmem::find(&text[found.start..most], b"-----END");
        return found.start..ends.map_or(most, |at| found.start + at).max(found.end);
    }
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+/.~%".contains(byte);
    let before = text[..found.start].iter().rev().take_while(|byte| is_part(byte)).count();
    let after = text[found.end..].iter().take_while(|byte| is_part(byte) || **byte == b'=').count();
    found.start - before..found.end + after
}

/// What was found in one window.
pub(super) struct Located {
    /// Where the window's first byte is, and how long it is: what is decoded has no place in it.
    window: (*const u8, usize),
    found: BTreeMap<(String, [u8; 32]), (bool, Option<usize>)>,
}

impl Located {
    fn of(window: &[u8]) -> Self {
        Self { window: (window.as_ptr(), window.len()), found: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, rule: &str, view: View<'_>, secret: Range<usize>) {
        let as_it_is = (view.bytes.as_ptr(), view.bytes.len()) == self.window;
        let place = as_it_is.then_some(secret.start);
        self.add(rule, false, &view.bytes[whole(rule, view.bytes, secret)], place);
    }

    pub(super) fn add(&mut self, rule: &str, known: bool, value: &[u8], place: Option<usize>) {
        let kept =
            self.found.entry((rule.to_owned(), digest(rule, value))).or_insert((known, place));
        kept.1 = match (kept.1, place) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}

/// Finds them in a text that comes in pieces, in constant memory.
pub struct Marks {
    scanner: Arc<Scanner>,
    host: String,
    today: Date,
    held: Vec<u8>,
    open_start: bool,
    /// Line breaks before what is held.
    lines: u64,
    found: BTreeMap<(String, [u8; 32]), (bool, Option<u64>)>,
}

/// No more are told apart.
const MOST: usize = 4096;

impl Marks {
    pub(super) fn new(scanner: Arc<Scanner>, host: &str, today: Date) -> Self {
        Self {
            scanner,
            host: host.to_owned(),
            today,
            held: Vec::new(),
            open_start: false,
            lines: 0,
            found: BTreeMap::new(),
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.held.len() == WINDOW {
                self.search(true);
                self.open_start = true;
                let done = WINDOW - OVERLAP;
                self.lines += memchr::memchr_iter(b'\n', &self.held[..done]).count() as u64;
                self.held.copy_within(done.., 0);
                self.held.truncate(OVERLAP);
            }
            let (now, later) = bytes.split_at(bytes.len().min(WINDOW - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = later;
        }
    }

    /// All that was found, in order of rules. `None`: it is too much to be told apart.
    #[must_use]
    pub fn end(mut self) -> Option<Vec<Mark>> {
        self.search(false);
        let found = std::mem::take(&mut self.found);
        let mark = |((rule, digest), (known, line))| Mark { rule, known, digest, line };
        (found.len() < MOST).then(|| found.into_iter().map(mark).collect())
    }

    fn search(&mut self, open_end: bool) {
        let runs = decode::runs(&self.held);
        let mut located = Located::of(&self.held);
        self.scanner.window_into(&self.held, &runs, (self.open_start, open_end), &mut located);
        for ((rule, digest), (known, place)) in located.found {
            let finding = Finding { rule, known };
            if self.found.len() >= MOST || self.scanner.suppressed(&finding, &self.host, self.today)
            {
                continue;
            }
            let line = place.map(|place| {
                1 + self.lines + memchr::memchr_iter(b'\n', &self.held[..place]).count() as u64
            });
            let kept = self.found.entry((finding.rule, digest)).or_insert((known, line));
            kept.1 = kept.1.or(line);
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

impl Scanner {
    /// Finds what [`Scanner::scan`] finds, so that it is known again.
    #[must_use]
    pub fn marks(self: &Arc<Self>, host: &str, today: Date) -> Marks {
        Marks::new(Arc::clone(self), host, today)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::sidecar::dlp::{Known, Rules};

    fn token(last: &str) -> String {
        format!(
            "ghp_{}{last}",
            "k3J9dQ2xW7bN5mT1vR8cY4zL6hF0sPgA2eU9iO".get(..36 - last.len()).unwrap()
        )
    }

    fn marks(text: &[u8]) -> Vec<Mark> {
        let known = Known::new(std::iter::empty::<(&str, &str)>()).unwrap();
        let scanner =
            Arc::new(Scanner::new(Arc::new(Rules::builtin().clone()), Arc::new(known), Vec::new()));
        let today = Date::from_calendar_date(2030, time::Month::March, 1).unwrap();
        let mut marks = scanner.marks("example.com", today);
        for piece in text.chunks(1000) {
            marks.push(piece);
        }
        marks.end().unwrap()
    }

    #[test]
    fn a_value_is_known_again_wherever_it_stands() {
        let one = marks(format!("a\nb\nkey = {}\n", token("a1")).as_bytes());
        assert_eq!((one.len(), one[0].line), (1, Some(3)), "{one:?}");
        let far = format!("{}key = {}\n", "filler line\n".repeat(40_000), token("a1"));
        let far = marks(far.as_bytes());
        assert_eq!((far.len(), far[0].digest, far[0].line), (1, one[0].digest, Some(40_001)));
        let other = marks(format!("key = {}", token("b2")).as_bytes());
        assert_ne!(other[0].digest, one[0].digest);
        assert_eq!(other[0].fingerprint().len(), 12);
    }

    #[test]
    fn a_key_is_known_again_by_all_of_it() {
        let body = |seed: u8| -> String {
            let bytes: Vec<u8> =
                (0..210_u8).map(|n| n.wrapping_mul(151) ^ seed.wrapping_mul(n)).collect();
            let text = base64::prelude::BASE64_STANDARD.encode(
                [
                    b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01\0\0\0"
                        .as_slice(),
                    &bytes,
                ]
                .concat(),
            );
            let lines: Vec<&str> =
                (0..text.len()).step_by(70).map(|at| &text[at..text.len().min(at + 70)]).collect();
            lines.join("\n")
        };
        let key = |seed: u8| {
            let word = "OPENSSH PRIVATE KEY";
            format!("-----BEGIN {word}-----\n{}\n-----END {word}-----\n", body(seed))
        };
        let digests = |text: &str| -> Vec<String> {
            marks(text.as_bytes())
                .iter()
                .map(|mark| format!("{} {}", mark.rule, mark.fingerprint()))
                .collect()
        };
        let own = digests(&key(3));
        assert_eq!(own.len(), 1, "{own:?}");
        assert_eq!(digests(&format!("# edited\n{}", key(3))), own);
        assert_ne!(digests(&key(7)), own);
    }

    #[test]
    fn what_is_encoded_has_no_line() {
        let text = base64::prelude::BASE64_STANDARD.encode(format!("key = {}", token("a1")));
        let found = marks(format!("x\n{text}\n").as_bytes());
        assert_eq!((found.len(), found[0].line), (1, None));
        assert_eq!(found[0].digest, marks(format!("key = {}", token("a1")).as_bytes())[0].digest);
    }
}
