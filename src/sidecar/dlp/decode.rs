//! Encoded text inside a text, decoded in place: percent, escapes of JSON, hex, base64, UTF-16.
//!
//! One call takes off one layer. What was encoded keeps its surroundings, because many rules need
//! the name before a value; far from anything encoded the text is left out, for it has been
//! searched as it stands.

mod base64;
mod hex;
pub(super) mod local;
mod runs;
mod soft;
mod text;

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

/// Takes one layer off, in one of two ways or in both: characters that are encoded one by one,
/// amid text that is not; and runs that are encoded as a whole. Apart from each other, because
/// what looks like a run may be a token that must stay as it is.
///
/// `open_start`: the text began earlier, perhaps in the middle of something encoded.
pub(super) fn decode(bytes: &[u8], open_start: bool) -> impl Iterator<Item = Decoded> {
    let mut characters = Pieces::default();
    soft::find(bytes, &mut characters);
    let mut runs = Pieces::default();
    runs::find(bytes, open_start, &characters.list, &mut runs);
    text::find_utf16(bytes, &mut characters);
    [characters, runs].into_iter().filter(|pieces| !pieces.list.is_empty()).map(|mut pieces| {
        pieces.list.sort_by_key(|piece| piece.encoded.start);
        assemble(bytes, &pieces)
    })
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
