//! Text in UTF-16 and UTF-32, of either order: ASCII, and what is [read as ASCII or as nothing](super::alike),
//! which stays as it is for the next layer.
//!
//! Where a unit begins and in which order its bytes stand is not known, so each way is tried by itself: a
//! text that can be read in one of them does not hide what can be read in another.

use std::ops::Range;

use super::text::printable;
use super::{Piece, Pieces, alike, blocks};

/// Fewer characters that show something are no text but numbers in a binary format.
const SHORTEST: usize = 8;

/// So many texts that lie over each other are kept apart. Two do where nobody means to deceive.
const LISTS: usize = 4;

/// The same of texts with a break where letters meet that may not belong together.
const BREAKS: usize = 2;

/// In so many of ten units there is text, or what they are units of is none.
const MOST: usize = 8;

/// A way to read bytes.
#[derive(Debug, Clone, Copy)]
struct Reading {
    width: usize,
    big: bool,
}

const UTF16: [Reading; 2] = [Reading { width: 2, big: false }, Reading { width: 2, big: true }];
const UTF32: [Reading; 2] = [Reading { width: 4, big: false }, Reading { width: 4, big: true }];

/// The higher bytes of all characters of two bytes that count, and of the first halves of others.
const HIGH: [bool; 256] = {
    let mut table = [false; 256];
    let all = [0, 3, 4, 5, 6, 0x11, 0x17, 0x18, 0x20, 0x22, 0x24, 0x31, 0xd8, 0xdb, 0xfe, 0xff];
    let mut at = 0;
    while at < all.len() {
        table[all[at]] = true;
        at += 1;
    }
    table
};

/// The lower bytes of characters whose higher byte is 255.
const HALF: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 1;
    while at < 256 {
        table[at] = at <= 0x5e || at == 0xa0 || (at >= 0xf9 && at <= 0xfb);
        at += 1;
    }
    table
};

/// Whether a character is part of a text: then whether it shows anything.
#[inline]
fn counts(code: u32) -> Option<bool> {
    match u8::try_from(code) {
        Ok(ascii) if printable(ascii) => Some(true),
        Ok(..0x80) => None,
        _ => alike::shows(code),
    }
}

impl Reading {
    /// The unit of two bytes that begins here, if it may count.
    #[inline]
    fn pair(self, bytes: &[u8], at: usize) -> Option<u16> {
        let pair = *bytes.get(at..)?.first_chunk()?;
        Some(if self.big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
    }

    /// The character that begins here, if it counts: whether it shows anything, and how long it is.
    #[inline]
    fn character(self, bytes: &[u8], at: usize) -> Option<(u32, bool, usize)> {
        let (code, length) = if self.width == 4 {
            let four = *bytes.get(at..)?.first_chunk()?;
            (if self.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }, 4)
        } else {
            let unit = self.pair(bytes, at)?;
            if !HIGH[usize::from(unit >> 8)] {
                return None;
            }
            match unit {
                0xd800..=0xdbff => {
                    let low = self.pair(bytes, at + 2).filter(|low| low >> 10 == 0xdc00 >> 10)?;
                    (0x10000 + (u32::from(unit & 0x3ff) << 10 | u32::from(low & 0x3ff)), 4)
                }
                unit => (u32::from(unit), 2),
            }
        };
        counts(code).map(|shows| (code, shows, length))
    }

    /// Where the character begins that ends here, if it counts.
    fn before(self, bytes: &[u8], end: usize) -> Option<usize> {
        let halves = |start: usize| {
            self.width == 2
                && self.pair(bytes, start).is_some_and(|unit| unit >> 10 == 0xdc00 >> 10)
        };
        let start = end.checked_sub(self.width)?;
        let start = if halves(start) { start.checked_sub(2)? } else { start };
        self.character(bytes, start).filter(|(.., length)| start + length == end).map(|_| start)
    }

    /// Which of the ways it is, with the place in a unit at which it is.
    const fn way(self, at: usize) -> usize {
        let first = if self.width == 2 { 0 } else { 4 };
        first + if self.big { self.width } else { 0 } + at % self.width
    }
}

/// Text that can be read in one way.
#[derive(Debug, Clone)]
struct Run {
    reading: Reading,
    bytes: Range<usize>,
    shown: usize,
    /// All of it is in the lowest byte of each unit.
    low: bool,
    /// Characters that show nothing stand before it, and behind it. Their bytes may be letters.
    beside: [bool; 2],
}

impl Run {
    /// All text that goes through this place, from the first character that shows something to the last; and
    /// where it would end with what shows nothing. Nothing is looked for before `from`.
    fn through(reading: Reading, bytes: &[u8], at: usize, from: usize) -> Option<(Self, usize)> {
        let mut run = Self { reading, bytes: at..at, shown: 0, low: true, beside: [false; 2] };
        let mut end = at;
        while let Some((code, shows, length)) = reading.character(bytes, end) {
            end += length;
            if shows {
                run.shown += 1;
                run.bytes.end = end;
            }
            run.low &= code < 0x100;
        }
        if end == at {
            return None;
        }
        let mut start = at;
        let before = |start: usize| reading.before(bytes, start).filter(|before| *before >= from);
        while let Some(place) = before(start) {
            let (code, shows, _) = reading.character(bytes, place)?;
            start = place;
            if shows {
                run.shown += 1;
                run.bytes.start = place;
            }
            run.low &= code < 0x100;
        }
        run.beside = [start < run.bytes.start, run.bytes.end < end];
        Some((run, end))
    }

    /// Whether it is the same as a part of another, which is read in the other order: zeros stand on either
    /// side of each of its bytes.
    fn is_within(&self, other: &Self, bytes: &[u8]) -> bool {
        let zeros = self.reading.width - 1;
        let (start, end) = (self.bytes.start, self.bytes.end);
        let moved = if self.reading.big {
            Some((start + zeros, end + zeros, end..end + zeros))
        } else {
            start.checked_sub(zeros).map(|before| (before, end - zeros, before..start))
        };
        self.low
            && moved.is_some_and(|(start, end, beside)| {
                start >= other.bytes.start
                    && end <= other.bytes.end
                    && bytes.get(beside).is_some_and(|all| all.iter().all(|byte| *byte == 0))
            })
    }

    fn write(&self, bytes: &[u8], breaks: Breaks, pieces: &mut Pieces) {
        let from = pieces.text.len();
        let outside = breaks == Breaks::Outside;
        pieces.text.extend((outside || self.beside[0]).then_some(b'\n'));
        let mut at = self.bytes.start;
        while at < self.bytes.end
            && let Some((code, _, length)) = self.reading.character(bytes, at)
        {
            let first = at == self.bytes.start;
            at += length;
            let within = breaks == Breaks::Inside;
            if within && self.reading.big && at == self.bytes.end {
                pieces.text.push(b'\n');
            }
            if let Some(char) = char::from_u32(code) {
                pieces.text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
            if within && !self.reading.big && first {
                pieces.text.push(b'\n');
            }
        }
        pieces.text.extend((outside || self.beside[1]).then_some(b'\n'));
        pieces.list.push(Piece { encoded: self.bytes.clone(), decoded: from..pieces.text.len() });
    }

    /// Whether letters may meet here that do not belong together, so that what begins or ends there is no
    /// word: those of bytes beside it and its own; or its first one and the next, where what was sent is a
    /// letter of one byte and text of the other order behind it, or the same at its end.
    fn meets(&self, bytes: &[u8], breaks: Breaks) -> bool {
        let word = |at: Option<usize>| {
            let byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
            byte.is_ascii_alphanumeric() || byte == b'_'
        };
        match breaks {
            Breaks::None => true,
            Breaks::Outside => {
                word(self.bytes.start.checked_sub(1)) && self.begins_long(bytes)
                    || word(Some(self.bytes.end)) && self.ends_long(bytes)
            }
            Breaks::Inside if self.reading.big => self.ends_long(bytes),
            Breaks::Inside => self.begins_long(bytes),
        }
    }

    /// Whether its first word is as long as a secret.
    fn begins_long(&self, bytes: &[u8]) -> bool {
        let mut at = self.bytes.start;
        let long = std::iter::from_fn(|| {
            let (code, _, length) = self.reading.character(bytes, at)?;
            at += length;
            (at <= self.bytes.end).then_some(code)
        });
        long.take(SHORTEST).take_while(|code| is_graphic(*code)).count() == SHORTEST
    }

    /// The same of its last one.
    fn ends_long(&self, bytes: &[u8]) -> bool {
        let mut at = self.bytes.end;
        let long = std::iter::from_fn(|| {
            at = self.reading.before(bytes, at).filter(|at| *at >= self.bytes.start)?;
            self.reading.character(bytes, at).map(|(code, ..)| code)
        });
        long.take(SHORTEST).take_while(|code| is_graphic(*code)).count() == SHORTEST
    }
}

/// Where a break is put that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaks {
    None,
    /// Before it and behind it.
    Outside,
    /// Behind its first letter, or before its last: the one that is there in the other order, too.
    Inside,
}

const fn is_graphic(code: u32) -> bool {
    code > 0x20 && code != 0x7f
}

/// Whether a character of one byte may count.
const fn low(byte: u8) -> bool {
    printable(byte) || byte >= 0xad
}

/// Whether a character of these three bytes may count, the highest first.
const fn long(high: u8, middle: u8, lowest: u8) -> bool {
    match (high, middle) {
        (0, 0) => low(lowest),
        (0, _) => HIGH[middle as usize],
        (1, 0xd4..=0xd7) | (0xe, 0..=0xf) => true,
        _ => false,
    }
}

/// All text in UTF-16 and UTF-32. Of what lies over each other each is in a list of its own.
pub(super) fn find(bytes: &[u8]) -> Vec<Pieces> {
    let mut runs = Runs::default();
    // In ASCII only zeros can belong to any. Elsewhere there are the higher bytes of full width and of letters
    // in circles, too.
    let ascii = bytes.is_ascii();
    let next = |rest: &[u8]| {
        if ascii { memchr::memchr(0, rest) } else { memchr::memchr3(0, 0xff, b'$', rest) }
    };
    let mut from = 0;
    while let Some(at) = bytes.get(from..).and_then(next) {
        let at = from + at;
        from = at + 1;
        let byte = |at: Option<usize>| at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        let (before, behind) = (byte(at.checked_sub(1)), byte(Some(at + 1)));
        match bytes[at] {
            0 => {
                // Of many zeros only the last can belong to text.
                let many = if behind == 0 { blocks::zeros(&bytes[at..]) } else { 1 };
                if many > 6 {
                    from = at + many - 3;
                    continue;
                }
                // Most zeros are no part of any, which these few bytes tell.
                let [little, big] = UTF16;
                let [long_little, long_big] = UTF32;
                if low(before) {
                    runs.look(little, bytes, at);
                }
                if low(behind) {
                    runs.look(big, bytes, at);
                }
                if long(before, byte(at.checked_sub(2)), byte(at.checked_sub(3))) {
                    runs.look(long_little, bytes, at);
                }
                if long(behind, byte(Some(at + 2)), byte(Some(at + 3))) {
                    runs.look(long_big, bytes, at);
                }
            }
            b'$' if before.max(behind) < 0x80 => {}
            0xff if ![before, behind].into_iter().any(|low| HALF[usize::from(low)]) => {}
            _ => UTF16.into_iter().for_each(|reading| runs.look(reading, bytes, at)),
        }
    }
    if ascii {
        return runs.lists(bytes);
    }
    // The first halves of letters of mathematics. They stand in texts that may have been found by others.
    runs.done = Default::default();
    let [little, big] = UTF16;
    for at in memchr::memchr_iter(0xd8, bytes) {
        if bytes[..at].ends_with(&[0x35]) {
            runs.look(little, bytes, at);
        }
        if bytes.get(at + 1) == Some(&0x35) {
            runs.look(big, bytes, at);
        }
    }
    runs.lists(bytes)
}

#[derive(Default)]
struct Runs {
    all: Vec<Run>,
    /// How far each way was tried: what was no text once is not read again.
    done: [usize; 12],
    /// The last one of each reading.
    last: [Option<usize>; 4],
}

impl Runs {
    /// Looks for text in whose first unit this is the highest byte, or in a later one.
    fn look(&mut self, reading: Reading, bytes: &[u8], at: usize) {
        let start = if reading.big { Some(at) } else { at.checked_sub(reading.width - 1) };
        let Some(start) = start else { return };
        let done = &mut self.done[reading.way(start)];
        if start < *done {
            return;
        }
        let Some((run, end)) = Run::through(reading, bytes, start, *done) else { return };
        *done = end;
        if run.shown < SHORTEST {
            return;
        }
        let index = |big: bool| usize::from(big) + if reading.width == 2 { 0 } else { 2 };
        if let Some(other) = self.last[index(!reading.big)].map(|other| &mut self.all[other]) {
            if run.is_within(other, bytes) {
                return;
            }
            if other.is_within(&run, bytes) {
                other.shown = 0;
            }
        }
        self.last[index(reading.big)] = Some(self.all.len());
        self.all.push(run);
    }

    fn lists(mut self, bytes: &[u8]) -> Vec<Pieces> {
        self.all.retain(|run| run.shown > 0);
        self.all.sort_by_key(|run| {
            (run.bytes.start, run.bytes.end, run.reading.width, run.reading.big)
        });
        self.all.dedup_by_key(|run| (run.bytes.clone(), run.reading.width, run.reading.big));
        // Those with breaks are apart from the others, for they hold the same once more.
        let all = [(Breaks::None, LISTS), (Breaks::Outside, BREAKS), (Breaks::Inside, BREAKS)];
        all.into_iter().flat_map(|(breaks, most)| self.with(bytes, breaks, most)).collect()
    }

    /// All that is read with these breaks, in no more lists than so many.
    fn with(&self, bytes: &[u8], breaks: Breaks, most: usize) -> Vec<Pieces> {
        let mut lists: Vec<Pieces> = Vec::new();
        for run in self.all.iter().filter(|run| run.meets(bytes, breaks)) {
            let over = |list: &Pieces| {
                list.list.last().is_some_and(|last| last.encoded.end > run.bytes.start)
            };
            let free = lists.iter().position(|list| !over(list));
            if let Some(free) = free {
                run.write(bytes, breaks, &mut lists[free]);
            } else if lists.len() < most {
                let mut list = Pieces::default();
                run.write(bytes, breaks, &mut list);
                lists.push(list);
            }
        }
        lists
    }
}

/// Whether most of the begin of something can be read so.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let high = |byte: &&u8| matches!(**byte, 0 | 0xff | 0xd8 | b'$');
    if bytes.len() < 8 || bytes.iter().filter(high).count() * 8 < bytes.len() {
        return false;
    }
    UTF16.into_iter().chain(UTF32).any(|reading| {
        (0..reading.width).any(|phase| {
            let (mut at, mut all, mut text) = (phase, 0, 0);
            while at + reading.width <= bytes.len() {
                let character = reading.character(bytes, at);
                at += character.map_or(reading.width, |(.., length)| length);
                all += 1;
                text += usize::from(character.is_some());
            }
            text * 10 >= all * MOST && all > 1
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_that_counts_is_left_out_by_its_higher_byte() {
        for code in 0..0x11_0000 {
            if counts(code).is_none() {
                continue;
            }
            let Some(char) = char::from_u32(code) else { panic!("{code:x}") };
            let mut units = [0; 2];
            let first = char.encode_utf16(&mut units)[0];
            assert!(HIGH[usize::from(first >> 8)], "{code:x}");
            let [highest, high, middle, lowest] = code.to_be_bytes();
            assert!(highest == 0 && long(high, middle, lowest), "{code:x}");
            assert!(code >= 0x100 || low(lowest), "{code:x}");
            assert!(code >> 8 != 0xff || HALF[usize::from(lowest)], "{code:x}");
        }
    }
}
