//! Encodings of single characters amid plain text: `%41`, `%u0041`, `\u0041`, `\x41`, `\101`, `\/`,
//! `\000041` as in CSS, `&#65;`, `&amp;`, and quoted-printable's `=41` and broken lines.

use std::ops::Range;

use super::{Pieces, blocks, hex};

/// Names of characters that a page cannot hold as they are, of others that tokens have, and of those that
/// show nothing. In order.
const NAMES: [(&str, &str); 60] = [
    ("AMP", "&"),
    ("ApplyFunction", "\u{2061}"),
    ("GT", ">"),
    ("Hat", "^"),
    ("InvisibleComma", "\u{2063}"),
    ("InvisibleTimes", "\u{2062}"),
    ("LT", "<"),
    ("NegativeMediumSpace", "\u{200b}"),
    ("NegativeThickSpace", "\u{200b}"),
    ("NegativeThinSpace", "\u{200b}"),
    ("NegativeVeryThinSpace", "\u{200b}"),
    ("NoBreak", "\u{2060}"),
    ("QUOT", "\""),
    ("UnderBar", "_"),
    ("ZeroWidthSpace", "\u{200b}"),
    ("af", "\u{2061}"),
    ("amp", "&"),
    ("apos", "'"),
    ("ast", "*"),
    ("bsol", "\\"),
    ("colon", ":"),
    ("comma", ","),
    ("commat", "@"),
    ("dash", "-"),
    ("dollar", "$"),
    ("equals", "="),
    ("excl", "!"),
    ("grave", "`"),
    ("gt", ">"),
    ("hyphen", "-"),
    ("ic", "\u{2063}"),
    ("it", "\u{2062}"),
    ("lbrace", "{"),
    ("lbrack", "["),
    ("lcub", "{"),
    ("lowbar", "_"),
    ("lpar", "("),
    ("lrm", "\u{200e}"),
    ("lsqb", "["),
    ("lt", "<"),
    ("midast", "*"),
    ("num", "#"),
    ("percnt", "%"),
    ("period", "."),
    ("plus", "+"),
    ("quest", "?"),
    ("quot", "\""),
    ("rbrace", "}"),
    ("rbrack", "]"),
    ("rcub", "}"),
    ("rlm", "\u{200f}"),
    ("rpar", ")"),
    ("rsqb", "]"),
    ("semi", ";"),
    ("shy", "\u{ad}"),
    ("sol", "/"),
    ("verbar", "|"),
    ("vert", "|"),
    ("zwj", "\u{200d}"),
    ("zwnj", "\u{200c}"),
];

/// No name is longer.
const NAME: usize = 21;

/// So many zeros may stand before the number of a character. A page may have any number of them.
const ZEROS: usize = 64;

/// What may stand behind each of the marks, a bit for each: most of them begin nothing.
const BEHIND: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0_u8;
    loop {
        let digit = at.is_ascii_hexdigit();
        let escaped = matches!(at, b'u' | b'U' | b'x' | b'/' | b'\\' | b'0'..=b'3');
        table[at as usize] = ((digit || at == b'u') as u8 * PERCENT)
            | (escaped as u8 * ESCAPE)
            | ((at == b'#' || at.is_ascii_alphabetic()) as u8 * ENTITY)
            | ((digit && !at.is_ascii_lowercase() || at == b'\r' || at == b'\n') as u8 * QUOTED);
        if at == 255 {
            break table;
        }
        at += 1;
    }
};

const PERCENT: u8 = 1;
const ESCAPE: u8 = 2;
const ENTITY: u8 = 4;
const QUOTED: u8 = 8;

/// A shorter run costs less than to leave it out.
const LONG: usize = 256;

/// Finds them, in order. `runs` of base64 or hex hold none.
pub(super) fn find(bytes: &[u8], runs: &[Range<usize>], pieces: &mut Pieces) {
    let marks = |byte: u8, behind: u8| {
        let mark = (byte == b'%') | (byte == b'\\') | (byte == b'&') | (byte == b'=');
        mark & ((behind.cast_signed() > 0x22) | (behind == b'\n') | (behind == b'\r'))
    };
    let mut done = 0;
    let mut from = 0;
    let long = runs.iter().filter(|run| run.len() >= LONG);
    let ends = long.map(|run| (run.start, run.end)).chain([(bytes.len(), bytes.len())]);
    let gaps = ends.map(|(end, next)| std::mem::replace(&mut from, next)..end);
    let all = gaps.flat_map(|gap| {
        let start = gap.start;
        // The mark and the byte behind it stay together.
        let text = &bytes[start..bytes.len().min(gap.end + 1)];
        blocks::positions(text, marks).map(move |at| start + at)
    });
    for at in all {
        let Some(&behind) = bytes.get(at + 1) else { break };
        let kind = match bytes[at] {
            b'%' => PERCENT,
            b'\\' => ESCAPE,
            b'&' => ENTITY,
            _ => QUOTED,
        };
        if BEHIND[usize::from(behind)] & kind == 0 || at < done {
            continue;
        }
        let from = pieces.text.len();
        let length = match kind {
            PERCENT => percent(&bytes[at..], &mut pieces.text),
            ENTITY => entity(&bytes[at..], &mut pieces.text),
            ESCAPE => escape(&bytes[at..], &mut pieces.text),
            _ => quoted(bytes, at, &mut pieces.text),
        };
        if let Some(length) = length {
            done = at + length;
            pieces.add(at..done, from);
        }
    }
}

/// Quoted-printable: two encoded characters in a row, or a line that is broken within a word. One
/// alone is an assignment as often.
fn quoted(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let character = |at: usize| match bytes.get(at..at + 3) {
        Some([b'=', digits @ ..]) if !digits.iter().any(u8::is_ascii_lowercase) => {
            hex::pair(digits)
        }
        _ => None,
    };
    let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    let broken = match &bytes[at + 1..] {
        [b'\n', ..] => 2,
        [b'\r', b'\n', ..] => 3,
        _ => 0,
    };
    if broken > 0 {
        let within = at > 0 && word(bytes.get(at - 1)) && word(bytes.get(at + broken));
        return within.then_some(broken);
    }
    let (first, second) = (character(at)?, character(at + 3)?);
    out.extend([first, second]);
    let mut length = 6;
    while let Some(next) = character(at + length) {
        out.push(next);
        length += 3;
    }
    Some(length)
}

/// A character of a page, by its number or its name.
fn entity(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let rest = &text[1..];
    let Some(number) = rest.strip_prefix(b"#") else {
        let (plain, length) = named(rest)?;
        out.extend_from_slice(plain.as_bytes());
        return Some(1 + length);
    };
    let (radix, digits) = match number {
        [b'x' | b'X', digits @ ..] => (16, digits),
        digits => (10, digits),
    };
    let zeros = digits.iter().take(ZEROS).take_while(|digit| **digit == b'0').count();
    let digit = |byte: &u8| char::from(*byte).to_digit(radix);
    let digits: Vec<u32> = digits[zeros..].iter().take(8).map_while(digit).collect();
    let code =
        digits.iter().try_fold(0_u32, |code, digit| code.checked_mul(radix)?.checked_add(*digit));
    let char = char::from_u32(code?).filter(|_| zeros + digits.len() > 0)?;
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    let length = text.len() - number.len() + usize::from(radix == 16) + zeros + digits.len();
    Some(length + usize::from(text.get(length) == Some(&b';')))
}

/// What a name stands for, and how long it is with what ends it.
fn named(text: &[u8]) -> Option<(&'static str, usize)> {
    let length = text.iter().take(NAME).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let (name, behind) = text.split_at(length);
    // Of those that show nothing one is read without a semicolon, too.
    let (name, length) = match behind {
        [b';', ..] => (name, length + 1),
        _ if name.starts_with(b"shy") => (&name[..3], 3),
        _ => return None,
    };
    let at = NAMES.binary_search_by(|(other, _)| other.as_bytes().cmp(name)).ok()?;
    Some((NAMES[at].1, length))
}

fn percent(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    if text[1] == b'u' {
        return unicode(&text[2..], out).map(|length| 2 + length);
    }
    out.push(hex::pair(&text[1..])?);
    Some(3)
}

/// Four digits of hex.
fn unicode(digits: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let code = u32::from(hex::pair(digits)?) << 8 | u32::from(hex::pair(digits.get(2..)?)?);
    let char = char::from_u32(code)?;
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    Some(4)
}

/// An escape behind one backslash, or two where JSON stands inside JSON.
fn escape(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let slashes = if text.get(1) == Some(&b'\\') { 2 } else { 1 };
    let rest = text.get(slashes + 1..)?;
    match text[slashes] {
        b'/' => {
            out.push(b'/');
            Some(slashes + 1)
        }
        b'x' => {
            out.push(hex::pair(rest)?);
            Some(slashes + 3)
        }
        b'u' | b'U' => unicode(rest, out).map(|length| slashes + 1 + length),
        b'0' if text[slashes..].starts_with(b"0000") => {
            out.push(hex::pair(text.get(slashes + 4..)?)?);
            // One blank behind it belongs to it.
            let blank = text.get(slashes + 6) == Some(&b' ');
            Some(slashes + 6 + usize::from(blank))
        }
        b'0'..=b'3' => {
            let digits = text.get(slashes..slashes + 3)?;
            let octal = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
            let value = digits.iter().fold(0_u32, |value, digit| value << 3 | u32::from(digit & 7));
            out.push(u8::try_from(value).ok().filter(|value| octal && *value > 0)?);
            Some(slashes + 3)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        for (name, plain) in NAMES {
            let text = format!("{name};x");
            assert_eq!(named(text.as_bytes()), Some((plain, name.len() + 1)));
        }
        assert_eq!(named(b"shyly"), Some(("\u{ad}", 3)));
        assert!(
            [&b"c=d"[..], b"amp", b"none;", b"", b"shiny;"]
                .iter()
                .all(|text| named(text).is_none())
        );
    }
}
