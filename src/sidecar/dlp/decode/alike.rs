//! Characters that look like others, or like nothing: read as the plain ones that they stand for.

use super::Pieces;
use super::blocks::{BLOCK, mask};

/// What a character is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alike {
    /// It shows nothing.
    Nothing,
    /// A compatibility form of this: no word is written with it.
    Form(u8),
    /// A letter of another script that looks like this.
    Letter(u8),
}

/// Letters of other scripts that are drawn like those of ASCII.
const LETTERS: [(char, u8); 44] = [
    ('а', b'a'),
    ('е', b'e'),
    ('о', b'o'),
    ('р', b'p'),
    ('с', b'c'),
    ('у', b'y'),
    ('х', b'x'),
    ('ѕ', b's'),
    ('і', b'i'),
    ('ј', b'j'),
    ('һ', b'h'),
    ('ԁ', b'd'),
    ('ԛ', b'q'),
    ('ԝ', b'w'),
    ('ӏ', b'l'),
    ('к', b'k'),
    ('А', b'A'),
    ('В', b'B'),
    ('Е', b'E'),
    ('К', b'K'),
    ('М', b'M'),
    ('Н', b'H'),
    ('О', b'O'),
    ('Р', b'P'),
    ('С', b'C'),
    ('Т', b'T'),
    ('Х', b'X'),
    ('Ѕ', b'S'),
    ('І', b'I'),
    ('Ј', b'J'),
    ('ο', b'o'),
    ('ν', b'v'),
    ('Α', b'A'),
    ('Β', b'B'),
    ('Ε', b'E'),
    ('Ζ', b'Z'),
    ('Η', b'H'),
    ('Ι', b'I'),
    ('Κ', b'K'),
    ('Μ', b'M'),
    ('Ν', b'N'),
    ('Ο', b'O'),
    ('Ρ', b'P'),
    ('Τ', b'T'),
];

/// The letters by their numbers, which are close together; 0: none.
const FIRST: u32 = 0x391;
const TABLE: [u8; 0x51e - FIRST as usize] = {
    let mut table = [0; 0x51e - FIRST as usize];
    let mut at = 0;
    while at < LETTERS.len() {
        let (letter, plain) = LETTERS[at];
        table[(letter as u32 - FIRST) as usize] = plain;
        at += 1;
    }
    table
};

/// Finds them. A letter of another script counts where it stands beside ASCII, with only others of
/// these between: words of that script are left alone. So are dashes amid white space.
pub(super) fn find(bytes: &[u8], pieces: &mut Pieces) {
    let (mut base, mut done) = (0, 0);
    while base < bytes.len() {
        let mut left = candidates(bytes, base);
        while left != 0 {
            let at = base + left.trailing_zeros() as usize;
            left &= left - 1;
            if at >= done {
                done = chain(bytes, at, done, pieces);
            }
        }
        base += BLOCK;
    }
}

/// Where in the block that begins here one of these may begin: one of two bytes beside ASCII, or any
/// longer one. None is missed, and most of what is none is left out.
#[inline(always)]
fn candidates(bytes: &[u8], base: usize) -> u64 {
    let end = bytes.len().min(base + BLOCK);
    if bytes[base..end].is_ascii() {
        return 0;
    }
    // The block, one byte before it and two behind it.
    let whole = base.checked_sub(1).and_then(|from| bytes.get(from..)?.first_chunk());
    if let Some(around) = whole {
        return candidates_in(around);
    }
    let mut around = [0_u8; BLOCK + 3];
    let (from, to) = (base.saturating_sub(1), bytes.len().min(base + BLOCK + 2));
    around[from + 1 - base..to + 1 - base].copy_from_slice(&bytes[from..to]);
    candidates_in(&around)
}

#[inline(always)]
fn candidates_in(around: &[u8; BLOCK + 3]) -> u64 {
    mask(|at| {
        let (before, lead, next, after) =
            (around[at], around[at + 1], around[at + 2], around[at + 3]);
        let two = (lead.wrapping_sub(0xcc) < 9) | (lead == 0xc2) | (lead == 0xd8) | (lead == 0xd9);
        let more = (lead.wrapping_sub(0xe1) < 3) | (lead == 0xef) | (lead == 0xf0) | (lead == 0xf3);
        let touches = may_be_word(before) | may_be_word(after);
        continues(next) & ((more & continues(after)) | (two & touches))
    })
}

/// Not the first byte of a character.
#[inline(always)]
const fn continues(byte: u8) -> bool {
    byte.cast_signed() < -64
}

/// ASCII, but no white space, quote, comma nor round bracket.
#[inline(always)]
const fn may_be_word(byte: u8) -> bool {
    byte.cast_signed() > 0x2c
}

#[inline(always)]
const fn is_word(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    letter | (byte.wrapping_sub(b'0') < 10) | (byte == b'_') | (byte == b'-')
}

/// Reads all of these around one, without a gap. Says where they end.
fn chain(bytes: &[u8], at: usize, done: usize, pieces: &mut Pieces) -> usize {
    let Some(first) = read(&bytes[at..]) else { return at + 1 };
    let mut start = at;
    while let Some(before) = before(bytes, start).filter(|before| *before >= done) {
        start = before;
    }
    let mut end = at + first.1;
    while let Some((_, length)) = bytes.get(end..).and_then(read) {
        end += length;
    }
    // What stands on either side says what of it counts.
    let sides = [start.checked_sub(1), Some(end)].map(|at| at.and_then(|at| bytes.get(at)));
    let touches = |is: fn(u8) -> bool| sides.iter().flatten().any(|byte| is(**byte));
    let all = || {
        let mut at = start;
        std::iter::from_fn(move || {
            let (alike, length) = read(&bytes[at..end])?;
            at += length;
            Some((alike, at - length..at))
        })
    };
    let only_letters = all().all(|(alike, _)| matches!(alike, Alike::Letter(_)));
    let counts = touches(is_word)
        || !only_letters && touches(|byte| byte.is_ascii_graphic())
        || all().any(|(alike, _)| matches!(alike, Alike::Form(plain) if plain != b'-'));
    if counts {
        for (alike, range) in all() {
            let from = pieces.text.len();
            if let Alike::Form(plain) | Alike::Letter(plain) = alike {
                pieces.text.push(plain);
            }
            pieces.add(range, from);
        }
    }
    end
}

/// Where the character begins that ends here, if it is one of these.
fn before(bytes: &[u8], end: usize) -> Option<usize> {
    (2..=4).find_map(|length| {
        let start = end.checked_sub(length)?;
        (read(&bytes[start..])?.1 == length).then_some(start)
    })
}

/// The character that begins here, if it is one of these, and how long it is.
fn read(bytes: &[u8]) -> Option<(Alike, usize)> {
    let rest = |at: usize| {
        bytes.get(at).filter(|byte| **byte & 0xc0 == 0x80).map(|byte| u32::from(byte & 0x3f))
    };
    let lead = u32::from(*bytes.first()?);
    let (length, code) = match lead {
        0xc2 | 0xcc..=0xd4 | 0xd8 | 0xd9 => (2, (lead & 0x1f) << 6 | rest(1)?),
        0xe1 | 0xe2 | 0xe3 | 0xef => (3, (lead & 0xf) << 12 | rest(1)? << 6 | rest(2)?),
        0xf0 | 0xf3 => (4, (lead & 7) << 18 | rest(1)? << 12 | rest(2)? << 6 | rest(3)?),
        _ => return None,
    };
    Some((of(code)?, length))
}

/// Whether a character is one of these: then whether it shows anything.
pub(super) fn shows(code: u32) -> Option<bool> {
    of(code).map(|alike| alike != Alike::Nothing)
}

fn of(code: u32) -> Option<Alike> {
    Some(match code {
        // Soft hyphen, accents by themselves, joiners, directions, invisible operators, fillers,
        // selectors, annotations, tags.
        0xad
        | 0x300..=0x36f
        | 0x61c
        | 0x115f
        | 0x1160
        | 0x17b4
        | 0x17b5
        | 0x180b..=0x180f
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x206f
        | 0x3164
        | 0xfe00..=0xfe0f
        | 0xfeff
        | 0xffa0
        | 0xfff9..=0xfffb
        | 0xe0000..=0xe0fff => Alike::Nothing,
        0x2010..=0x2015 | 0x2212 => Alike::Form(b'-'),
        // Above and below the line.
        0xb2 | 0xb3 => form(code - 0xb2 + 0x32),
        0xb9 => form(0x31),
        0x2070 | 0x2074..=0x2079 => form(code - 0x2070 + 0x30),
        0x2080..=0x2089 => form(code - 0x2080 + 0x30),
        // Digits of Arabic.
        0x660..=0x669 => form(code - 0x660 + 0x30),
        // Full width.
        0xff01..=0xff5e => form(code - 0xff01 + 0x21),
        // In circles.
        0x24b6..=0x24cf => form(code - 0x24b6 + 0x41),
        0x24d0..=0x24e9 => form(code - 0x24d0 + 0x61),
        // Thirteen alphabets of mathematics, each of capital and small letters.
        0x1d400..=0x1d6a3 => {
            let place = (code - 0x1d400) % 52;
            form(if place < 26 { place + 0x41 } else { place - 26 + 0x61 })
        }
        0x1d7ce..=0x1d7ff => form((code - 0x1d7ce) % 10 + 0x30),
        _ => {
            let place = usize::try_from(code.checked_sub(FIRST)?).ok()?;
            Alike::Letter(*TABLE.get(place).filter(|plain| **plain != 0)?)
        }
    })
}

fn form(plain: u32) -> Alike {
    u8::try_from(plain).map_or(Alike::Nothing, Alike::Form)
}
