//! What looks like a token and is an accident of base64.
//!
//! A picture of 3 MiB in base64 is four million random letters. `+` and `/` are no letters of a word, so that
//! between two of them stands, once in some hundred megabytes, what a rule with a short prefix takes for a
//! token. A token that somebody wrote stands behind something else than such noise.

use std::ops::Range;

use super::engine::View;

/// So many letters of noise right before a match make it one of them.
const NOISE: usize = 256;

/// So many different letters there are at least among them; of 64 that are drawn at random some 63.
const DIFFERENT: u32 = 40;

/// Of [`NOISE`] letters of base64 eight are no letters of a word. In a path there are more.
const BETWEEN: std::ops::RangeInclusive<usize> = 1..=20;

/// Whether what stands at `secret` is part of a run of noise in base64, of either alphabet, also in lines.
pub(super) fn is_accident(view: View<'_>, secret: Range<usize>) -> bool {
    let bytes = view.bytes;
    let letter = |at: usize| bytes.get(at).copied().is_some_and(is_letter);
    let text = &bytes[..secret.start];
    // A line by itself is a token in a list. The letter of an escape is a break of lines, as JSON writes it.
    let begins = text.ends_with(b"\\n")
        || text.ends_with(b"\\r")
        || !text.last().copied().is_some_and(is_letter);
    if begins && !letter(secret.end) {
        return false;
    }
    let mut sample = Sample::default();
    let begun = sample.back(text);
    // The window before this one has seen all that ends in both.
    if sample.letters < NOISE && view.open_start && begun == 0 {
        sample.forth(&bytes[secret.end..]);
    }
    sample.is_noise() && sample.has_alphabet_of(&bytes[secret])
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_standard(byte) || is_for_urls(byte)
}

const fn is_standard(byte: u8) -> bool {
    matches!(byte, b'+' | b'/')
}

const fn is_for_urls(byte: u8) -> bool {
    matches!(byte, b'-' | b'_')
}

/// Letters of base64 that stand in a row.
#[derive(Debug, Default)]
struct Sample {
    letters: usize,
    /// How many of them are in the line that is read, and were in the one before. Lines of base64 are of one
    /// length, those of a list of names are not.
    line: usize,
    lines: Option<usize>,
    /// A bit for each of them.
    seen: u128,
    /// `+` and `/`, `-` and `_`.
    between: [usize; 2],
}

impl Sample {
    fn take(&mut self, byte: u8) {
        self.letters += 1;
        self.line += 1;
        self.seen |= 1 << byte;
        self.between[0] += usize::from(is_standard(byte));
        self.between[1] += usize::from(is_for_urls(byte));
    }

    /// Goes over a break of lines backwards. Whether the one that was read may be one of base64: the first of them
    /// is the begin of the line of the match.
    fn breaks(&mut self, first: bool) -> bool {
        let length = std::mem::take(&mut self.line);
        let fits = first || length == 0 || self.lines.is_none_or(|lines| lines == length);
        if !first && length > 0 {
            self.lines = Some(length);
        }
        fits
    }

    /// Takes letters from the end of a text, over breaks of lines, until it has enough or there is something
    /// else; where it stopped.
    fn back(&mut self, text: &[u8]) -> usize {
        let (mut at, mut first) = (text.len(), true);
        while self.letters < NOISE && at > 0 {
            let escape = at.checked_sub(2).map(|before| text[before]);
            let over = match (text[at - 1], escape) {
                (b'n' | b'r', Some(b'\\')) => 2,
                (b'\n' | b'\r', _) => 1,
                _ => 0,
            };
            if over > 0 {
                if !self.breaks(first) {
                    break;
                }
                first = false;
                at -= over;
                continue;
            }
            match (text[at - 1], escape) {
                // An escape of JSON.
                (b'/', Some(b'\\')) => {
                    self.take(b'/');
                    at -= 2;
                }
                (byte, _) if is_letter(byte) => {
                    self.take(byte);
                    at -= 1;
                }
                _ => break,
            }
        }
        at
    }

    /// The same from the start of a text.
    fn forth(&mut self, text: &[u8]) {
        let mut rest = text;
        while self.letters < NOISE {
            match rest {
                [b'\\', b'n' | b'r', after @ ..] | [b'\n' | b'\r', after @ ..] => rest = after,
                [b'\\', b'/', after @ ..] => {
                    self.take(b'/');
                    rest = after;
                }
                [byte, after @ ..] if is_letter(*byte) => {
                    self.take(*byte);
                    rest = after;
                }
                _ => break,
            }
        }
    }

    fn is_noise(&self) -> bool {
        let [standard, for_urls] = self.between;
        self.letters >= NOISE
            && self.seen.count_ones() >= DIFFERENT
            && (standard == 0 || for_urls == 0)
            && BETWEEN.contains(&(standard + for_urls))
    }

    /// Whether a text could be more of the same.
    fn has_alphabet_of(&self, text: &[u8]) -> bool {
        let others = if self.between[0] == 0 { is_standard } else { is_for_urls };
        text.iter().all(|byte| is_letter(*byte) && !others(*byte))
    }
}

#[cfg(test)]
mod tests;
