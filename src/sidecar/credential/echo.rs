//! Values that come back in a form that nobody expects: in pieces of it, in another case, with
//! something between the characters, each character written in another way.
//!
//! Text and values are read alike: escapes are undone, and only letters and digits are kept, in one
//! case. What is then in both for long enough is the value.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use crate::sidecar::encodings::{alignments, base32_forms, number_forms};

/// So many characters in a row make it worth to look closer, and to wait for more.
const GRAM: usize = 8;

/// A value with fewer letters and digits is looked for exactly, and no other way.
const LEAST: usize = 16;

/// The bits of the table that rules out most of a text.
const INDEX: u32 = 20;

/// The longest way to write one character: `&#x00000067;`.
const LONGEST: usize = 12;

/// Letters and digits of a text, in one case, and where each stands.
#[derive(Default)]
struct Folded {
    text: Zeroizing<Vec<u8>>,
    places: Vec<(usize, usize)>,
    /// Where an escape begins that the text ends within.
    cut: Option<usize>,
}

/// One way to write a value, folded. Wiped when dropped.
struct Form {
    name: usize,
    text: Zeroizing<Vec<u8>>,
    /// So many characters in a row stand for it.
    part: usize,
}

/// Values to look for in this way.
pub(super) struct Echoes {
    forms: Vec<Form>,
    /// Every few characters of a form, with the form and their place, in order.
    grams: Zeroizing<Vec<(u64, u32, u32)>>,
    /// A bit for each of them, by its hash.
    blocks: Vec<u64>,
}

/// A place of a value: which, and from where to where.
pub(super) struct Echo {
    pub(super) name: usize,
    pub(super) place: Range<usize>,
}

impl Echoes {
    pub(super) fn new<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let mut forms = Vec::new();
        for (name, value) in values.enumerate() {
            let plain = fold_plain(value);
            // The beginning of a JWT is that of many others.
            if plain.len() < LEAST || value.starts_with(b"eyJ") {
                continue;
            }
            for (text, bits) in written(value) {
                let text = fold_plain(&text);
                let part = (plain.len() / 2).max(LEAST) * 8 / bits;
                let part = part.saturating_sub(if bits < 8 { 3 } else { 0 });
                if text.len() >= part.max(GRAM) {
                    forms.push(Form { name, text, part });
                }
            }
        }
        let mut grams = Zeroizing::new(Vec::new());
        let mut blocks = vec![0; 1 << (INDEX - 6)];
        for (form, at) in (0_u32..).zip(&forms) {
            for (place, gram) in (0_u32..).zip(at.text.windows(GRAM)) {
                let gram = gram.iter().fold(0, |gram, byte| gram << 8 | u64::from(*byte));
                let (word, bit) = block(gram);
                blocks[word] |= bit;
                grams.push((gram, form, place));
            }
        }
        grams.sort_unstable();
        Self { forms, grams, blocks }
    }

    /// Every place of a part that counts, and where a rest begins that may become one.
    pub(super) fn find(&self, text: &[u8]) -> (Vec<Echo>, usize) {
        let mut found = Vec::new();
        if self.forms.is_empty() {
            return (found, text.len());
        }
        let folded = fold(text);
        let mut open = folded.cut.unwrap_or(text.len());
        let mut gram = 0_u64;
        let all = &folded.text;
        for (at, byte) in all.iter().enumerate() {
            gram = gram << 8 | u64::from(*byte);
            let (word, bit) = block(gram);
            if at + 1 < GRAM || self.blocks[word] & bit == 0 {
                continue;
            }
            let first = at + 1 - GRAM;
            let from = self.grams.partition_point(|(other, ..)| *other < gram);
            for (_, form, place) in
                self.grams[from..].iter().take_while(|(other, ..)| *other == gram)
            {
                let (form, place) = (&self.forms[*form as usize], *place as usize);
                let same = |(one, other): &(&u8, &u8)| one == other;
                let before = all[..first].iter().rev().zip(form.text[..place].iter().rev());
                let before = before.take_while(same).count();
                // Only from its first gram on: the others belong to the same run.
                if before > 0 && at + 1 < all.len() {
                    continue;
                }
                let after = all[first..].iter().zip(&form.text[place..]);
                let after = after.take_while(same).count();
                let run = first - before..first + after;
                if run.len() >= form.part {
                    let place = folded.places[run.start].0..folded.places[run.end - 1].1;
                    found.push(Echo { name: form.name, place });
                }
                // It may go on behind the text.
                if run.end == all.len() && place + after < form.text.len() {
                    open = open.min(folded.places[run.start].0);
                }
            }
        }
        (found, open)
    }
}

/// Where a gram's bit is.
fn block(gram: u64) -> (usize, u64) {
    let index = gram.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - INDEX);
    let word = usize::try_from(index >> 6).unwrap_or(0);
    (word, 1 << (index & 63))
}

/// The ways to write a value whose letters and digits differ, with the bits of each character.
fn written(value: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, usize)> {
    let each = |how: fn(u8) -> String| -> Zeroizing<Vec<u8>> {
        Zeroizing::new(value.iter().flat_map(|byte| how(*byte).into_bytes()).collect())
    };
    let mut all = vec![
        (Zeroizing::new(value.to_vec()), 8),
        (Zeroizing::new(value.iter().rev().copied().collect()), 8),
        (each(|byte| format!("{byte:02x}")), 4),
        (each(|byte| format!("{byte}")), 4),
        (each(|byte| format!("{byte:03}")), 3),
        (each(|byte| format!("{byte:o}")), 4),
        (each(|byte| format!("{byte:03o}")), 3),
        (each(|byte| format!("{byte:08b}")), 1),
    ];
    let hex = Zeroizing::new(hex::encode(value).into_bytes());
    all.extend(alignments(&hex).map(|(_, text)| (Zeroizing::new(text), 3)));
    for (_, text) in alignments(value) {
        all.extend(alignments(&text).map(|(_, text)| (Zeroizing::new(text), 5)));
        all.push((Zeroizing::new(text), 6));
    }
    all.extend(base32_forms(value).map(|text| (Zeroizing::new(text), 5)));
    all.extend(number_forms(value).map(|(text, bits)| (Zeroizing::new(text), bits)));
    // As the user or the password of a field for both.
    for pair in [[value, b":"].concat(), [&b":"[..], value].concat()] {
        let pair = Zeroizing::new(pair);
        let text = Zeroizing::new(STANDARD_NO_PAD.encode(&pair).into_bytes());
        all.extend(alignments(&text).map(|(_, text)| (Zeroizing::new(text), 5)));
    }
    all
}

fn fold_plain(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let kept = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
    Zeroizing::new(kept.map(u8::to_ascii_lowercase).collect())
}

fn fold(text: &[u8]) -> Folded {
    let mut out = Folded::default();
    out.text.reserve(text.len());
    out.places.reserve(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let marked = *byte == b'0' && text.get(at + 1).is_none_or(|byte| *byte == b'x');
        let length = if byte.is_ascii_alphanumeric() && !marked {
            out.keep(*byte, at, 1);
            1
        } else if matches!(byte, b'%' | b'\\' | b'&' | b'=' | b'0') {
            match character(&text[at..]) {
                Some((value, length)) => {
                    if let Ok(value) = u8::try_from(value) {
                        out.keep(value, at, length);
                    }
                    length
                }
                None => {
                    // Whether it is an escape may be told by what comes.
                    let rest = text.len() - at;
                    let longest = match byte {
                        b'=' => 4,
                        b'0' => 5,
                        _ => LONGEST,
                    };
                    let begun = text[at + 1..]
                        .iter()
                        .all(|b| b"\\#xXu".contains(b) || b.is_ascii_hexdigit());
                    if begun && rest < longest {
                        out.cut = Some(at);
                        break;
                    }
                    out.keep(*byte, at, 1);
                    1
                }
            }
        } else {
            1
        };
        at += length;
    }
    out
}

impl Folded {
    fn keep(&mut self, byte: u8, at: usize, length: usize) {
        if byte.is_ascii_alphanumeric() {
            self.text.push(byte.to_ascii_lowercase());
            self.places.push((at, at + length));
        }
    }
}

/// The character that an escape stands for, and the escape's length.
fn character(text: &[u8]) -> Option<(u32, usize)> {
    let number = |from: usize, count: usize, radix: u32| {
        let digits = text.get(from..from + count)?;
        let digit =
            |value: u32, byte: &u8| Some(value * radix + char::from(*byte).to_digit(radix)?);
        Some((digits.iter().try_fold(0, digit)?, from + count))
    };
    match text {
        [b'%', b'u' | b'U', ..] => number(2, 4, 16),
        // Percent signs that were escaped once more, and again.
        [b'%', b'2', b'5', rest @ ..] => {
            let again = rest.chunks(2).take(3).take_while(|pair| *pair == b"25").count();
            let from = 3 + 2 * again;
            let escaped = match text.get(from) {
                Some(b'u' | b'U') => number(from + 1, 4, 16),
                _ => number(from, 2, 16),
            };
            // What comes may still make it one.
            let whole = text.len() >= from + 2;
            escaped.or_else(|| number(1, 2, 16).filter(|_| whole))
        }
        [b'%', ..] => number(1, 2, 16),
        // One alone is an assignment as often.
        [b'=', _, _, b'=', ..] => number(1, 2, 16),
        [b'0', b'x', ..] => {
            let whole = text.get(4).is_some_and(|byte| !byte.is_ascii_alphanumeric());
            number(2, 2, 16).filter(|_| whole)
        }
        [b'&', b'#', b'x' | b'X', digits @ ..] => {
            let count = digits.iter().take(8).take_while(|byte| byte.is_ascii_hexdigit()).count();
            let (value, end) = number(3, count, 16).filter(|_| count > 0)?;
            Some((value, end + usize::from(text.get(end) == Some(&b';'))))
        }
        [b'&', b'#', digits @ ..] => {
            let count = digits.iter().take(8).take_while(|byte| byte.is_ascii_digit()).count();
            let (value, end) =
                number(2, count, 10).filter(|_| count > 0 && digits.len() > count)?;
            Some((value, end + usize::from(text.get(end) == Some(&b';'))))
        }
        [b'&', name @ ..] => {
            let length = name.iter().take(8).take_while(|byte| byte.is_ascii_alphabetic()).count();
            (length > 1 && name.get(length) == Some(&b';')).then_some((0, length + 2))
        }
        [b'\\', rest @ ..] => {
            let slashes = 1 + rest.iter().take(3).take_while(|byte| **byte == b'\\').count();
            match text.get(slashes)? {
                b'u' | b'U' => match text.get(slashes + 1)? {
                    b'{' => {
                        let digits = &text[slashes + 2..];
                        let count =
                            digits.iter().take(6).take_while(|b| b.is_ascii_hexdigit()).count();
                        number(slashes + 2, count, 16).map(|(value, end)| (value, end + 1))
                    }
                    _ => number(slashes + 1, 4, 16),
                },
                b'x' => number(slashes + 1, 2, 16),
                // As in CSS.
                b'0' if text[slashes..].starts_with(b"0000") => number(slashes + 4, 2, 16),
                b'0' if text.len() < slashes + 4 && text[slashes..].iter().all(|b| *b == b'0') => {
                    None
                }
                b'0'..=b'3' => number(slashes, 3, 8),
                b'n' | b'r' | b't' => Some((0, slashes + 1)),
                _ => None,
            }
        }
        _ => None,
    }
}
