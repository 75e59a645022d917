//! Encoded text inside a text, decoded in place: percent, escapes of JSON and pages, quoted-printable,
//! hex, base64, UTF-16 and UTF-32, and characters that only look like others.
//!
//! One call takes off one layer. What was encoded keeps its surroundings, because many rules need
//! the name before a value; far from anything encoded the text is left out, for it has been
//! searched as it stands.

mod alike;
mod base64;
mod blocks;
mod hex;
pub(super) mod local;
mod runs;
mod soft;
mod text;
mod units;

pub(in crate::sidecar::dlp) use runs::after_escape;

use std::ops::Range;

/// So much of the surroundings is kept on either side: more than the pattern of a rule takes up
/// beside its secret.
const CONTEXT: usize = 512;

/// Something encoded, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    encoded: Range<usize>,
    /// Where in [`Pieces::text`] its meaning is.
    decoded: Range<usize>,
}

/// All that was found in one text.
#[derive(Debug, Default)]
struct Pieces {
    list: Vec<Piece>,
    text: Vec<u8>,
}

impl Pieces {
    /// Adds what was pushed to `text` since `from`, as the meaning of a range. Pieces without a gap
    /// between them become one.
    fn add(&mut self, encoded: Range<usize>, from: usize) {
        let decoded = from..self.text.len();
        match self.list.last_mut() {
            Some(last) if last.encoded.end == encoded.start && last.decoded.end == from => {
                last.encoded.end = encoded.end;
                last.decoded.end = decoded.end;
            }
            _ => self.list.push(Piece { encoded, decoded }),
        }
    }
}

/// A text with one layer taken off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) bytes: Vec<u8>,
    /// Which parts of it were encoded, in order.
    pub(super) parts: Vec<Range<usize>>,
}

/// Runs of base64 and hex that were decoded from their first character on, in order.
#[derive(Debug, Default)]
pub(super) struct Covered(Vec<(Range<usize>, usize)>);

impl Covered {
    /// Takes a run whose characters were decoded in groups of so many.
    fn add(&mut self, run: Range<usize>, step: usize) {
        self.0.push((run, step));
    }

    /// Whether what is encoded here was decoded with it.
    pub(super) fn holds(&self, at: usize, coding: local::Coding) -> bool {
        let (step, skip) = coding.grouping();
        let first = self.0.partition_point(|(run, _)| run.end <= at);
        self.0.get(first).is_some_and(|(run, of)| {
            let group = at.checked_sub(skip).and_then(|group| group.checked_sub(run.start));
            step == *of && group.is_some_and(|group| group.is_multiple_of(step))
        })
    }
}

/// Whether this is a character of base64, in either alphabet.
pub(super) const fn is_member(byte: u8) -> bool {
    base64::is_member(byte)
}

/// What may be base64 or hex: all that is long enough and holds nothing else, in order. To find it takes a
/// tenth of a search, so whoever looks into a text in several ways asks once.
pub(super) fn runs(bytes: &[u8]) -> Vec<Range<usize>> {
    #[cfg(test)]
    LOOKED.set(LOOKED.get() + bytes.len());
    blocks::runs(bytes, base64::is_member)
}

/// The [`runs()`] of a part of a text, by those of all of it.
pub(super) fn runs_in(all: &[Range<usize>], part: &Range<usize>) -> Vec<Range<usize>> {
    let first = all.partition_point(|run| run.end <= part.start);
    let inside = all[first..].iter().take_while(|run| run.start < part.end);
    let cut = inside
        .map(|run| run.start.max(part.start) - part.start..run.end.min(part.end) - part.start);
    // What is left of one at an end may be too short.
    cut.filter(|run| run.len() >= blocks::RUN).collect()
}

#[cfg(test)]
thread_local! {
    /// How many bytes were looked through for [`runs()`] by this thread.
    pub(super) static LOOKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Takes one layer off, in up to four ways: characters that are encoded one by one, amid text that
/// is not; runs that are encoded as a whole; look-alikes; and wider units. Apart from each other, because
/// what looks like a run may be a token that must stay as it is.
///
/// `at` are its [`runs()`]. `open_start`: the text began earlier, perhaps in the middle of something
/// encoded.
pub(super) fn decode(
    bytes: &[u8],
    at: &[Range<usize>],
    open_start: bool,
) -> (impl Iterator<Item = Decoded>, Covered) {
    let mut characters = Pieces::default();
    soft::find(bytes, at, &mut characters);
    let mut runs = Pieces::default();
    let mut covered = Covered::default();
    runs::find(bytes, at, open_start, &characters.list, &mut runs, &mut covered);
    let mut plain = Pieces::default();
    alike::find(bytes, &mut plain);
    let pieces = [characters, runs, plain].into_iter().chain(units::find(bytes));
    let pieces = pieces.filter(|pieces| !pieces.list.is_empty());
    let texts = pieces.map(|mut pieces| {
        pieces.list.sort_by_key(|piece| piece.encoded.start);
        assemble(bytes, &pieces)
    });
    (texts, covered)
}

/// Puts the decoded pieces into their surroundings.
fn assemble(bytes: &[u8], pieces: &Pieces) -> Decoded {
    let mut out = Decoded::default();
    // How much of the text has been taken over.
    let mut done = 0;
    for piece in &pieces.list {
        let Range { start, end } = piece.encoded;
        if start < done {
            continue; // it overlaps the one before
        }
        let after = done.saturating_add(CONTEXT).min(start);
        let before = start.saturating_sub(CONTEXT);
        if out.parts.is_empty() {
            out.bytes.extend_from_slice(&bytes[before..start]);
        } else if after < before {
            out.bytes.extend_from_slice(&bytes[done..after]);
            out.bytes.push(b'\n');
            out.bytes.extend_from_slice(&bytes[before..start]);
        } else {
            out.bytes.extend_from_slice(&bytes[done..start]);
        }
        let from = out.bytes.len();
        out.bytes.extend_from_slice(&pieces.text[piece.decoded.clone()]);
        out.parts.push(from..out.bytes.len());
        done = end;
    }
    out.bytes.extend_from_slice(&bytes[done..bytes.len().min(done.saturating_add(CONTEXT))]);
    out
}

#[cfg(test)]
mod tests;
