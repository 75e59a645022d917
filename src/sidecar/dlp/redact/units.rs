//! Characters as they are written, and what they stand for.

use std::ops::Range;

/// How characters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// With the escapes of a string of JSON.
    Escapes,
    /// As a form writes them: with percent signs, and `+` for a space.
    Form,
}

/// One character as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) length: usize,
    /// What it stands for, where that is not itself.
    means: Option<([u8; 4], usize)>,
}

/// The first character of a text that is not empty.
pub(super) fn unit(text: &[u8], way: Way) -> Unit {
    let escaped = match (way, text[0]) {
        (Way::Escapes, b'\\') => escape(text),
        (Way::Form, b'%') => percent(text),
        (Way::Form, b'+') => Some((1, u32::from(b' '))),
        _ => None,
    };
    match escaped {
        Some((length, byte)) if way == Way::Form => {
            let byte = u8::try_from(byte).unwrap_or(b'?');
            Unit { length, means: Some(([byte, 0, 0, 0], 1)) }
        }
        Some((length, character)) => {
            let mut means = [0; 4];
            // Half of a pair stands for no character.
            let character = char::from_u32(character).unwrap_or(char::REPLACEMENT_CHARACTER);
            let count = character.encode_utf8(&mut means).len();
            Unit { length, means: Some((means, count)) }
        }
        None => {
            let length = match text[0] {
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0.. => 4,
                _ => 1,
            };
            Unit { length: length.min(text.len()), means: None }
        }
    }
}

/// How long an escape is, and what it stands for.
fn escape(text: &[u8]) -> Option<(usize, u32)> {
    let of = |byte: u8| Some((2, u32::from(byte)));
    match text.get(1)? {
        b'"' => of(b'"'),
        b'\\' => of(b'\\'),
        b'/' => of(b'/'),
        b'b' => of(8),
        b'f' => of(12),
        b'n' => of(b'\n'),
        b'r' => of(b'\r'),
        b't' => of(b'\t'),
        b'u' => {
            let high = digits(text.get(2..6)?)?;
            let low = text
                .get(6..12)
                .filter(|low| low.starts_with(b"\\u"))
                .and_then(|low| digits(&low[2..]));
            match (high, low) {
                (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                    Some((12, 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)))
                }
                _ => Some((6, high)),
            }
        }
        _ => None,
    }
}

fn percent(text: &[u8]) -> Option<(usize, u32)> {
    Some((3, digits(text.get(1..3)?)?))
}

/// Digits of hex, all of them.
fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

/// Something that is written in another way: where it stands, and where what it stands for does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    from: Range<usize>,
    to: Range<usize>,
}

/// What a text stands for, and all that is not itself in it.
pub(super) fn decoded(text: &[u8], way: Way) -> (Vec<u8>, Vec<Piece>) {
    let (mut out, mut pieces) = (Vec::with_capacity(text.len()), Vec::new());
    let mut at = 0;
    while at < text.len() {
        let Unit { length, means } = unit(&text[at..], way);
        let begin = out.len();
        match means {
            None => out.extend_from_slice(&text[at..at + length]),
            Some((means, count)) => {
                out.extend_from_slice(&means[..count]);
                pieces.push(Piece { from: at..at + length, to: begin..out.len() });
            }
        }
        at += length;
    }
    (out, pieces)
}

/// Where a part of what a text stands for is written in it.
pub(super) fn origin(range: Range<usize>, pieces: &[Piece]) -> Range<usize> {
    let before = |at: usize| {
        let count = pieces.partition_point(|piece| piece.to.start <= at);
        count.checked_sub(1).map(|last| &pieces[last])
    };
    let beyond = |piece: &Piece, at: usize| piece.from.end + (at - piece.to.end);
    let start = match before(range.start) {
        None => range.start,
        Some(piece) if range.start < piece.to.end => piece.from.start,
        Some(piece) => beyond(piece, range.start),
    };
    let end = match before(range.end) {
        None => range.end,
        Some(piece) if range.end == piece.to.start => piece.from.start,
        Some(piece) if range.end < piece.to.end => piece.from.end,
        Some(piece) => beyond(piece, range.end),
    };
    start..end
}
