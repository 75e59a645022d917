//! Something packed that is written in escapes: percent, quoted-printable, those of JSON.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

/// Whether something packed begins in a text that is written in escapes. By its first bytes alone.
pub(in crate::sidecar::dlp) fn begins_in_escapes(bytes: &[u8]) -> bool {
    SURE.is_match(bytes)
}

/// First bytes as they look when they are escaped. Those of zlib are last, and stand in other texts.
const FIRST: [&[u8]; 22] = [
    b"%1f%8b%08",
    b"pk%03%04",
    b"(%b5/%fd",
    b"%28%b5%2f%fd",
    b"=1f=8b=08",
    b"pk=03=04",
    b"(=b5/=fd",
    b"\\u001f\\u008b",
    b"\\u001f\xc2\x8b",
    b"pk\\u0003\\u0004",
    b"\\x1f\\x8b",
    b"pk\\x03\\x04",
    b"x%01",
    b"x%9c",
    b"x%da",
    b"x=01",
    b"x=9c",
    b"x=da",
    b"x\\u0001",
    b"x\\u009c",
    b"x\\u00da",
    b"x\xc2\x9c",
];

/// Those that stand in no other text, as they are usually written: so they are found fast.
const SURELY: [&[u8]; 18] = [
    b"%1f%8b%08",
    b"%1F%8B%08",
    b"PK%03%04",
    b"(%b5/%fd",
    b"(%B5/%FD",
    b"%28%b5%2f%fd",
    b"%28%B5%2F%FD",
    b"=1F=8B=08",
    b"PK=03=04",
    b"(=B5/=FD",
    b"\\u001f\\u008b",
    b"\\u001F\\u008B",
    b"\\u001f\xc2\x8b",
    b"\\u001F\xc2\x8b",
    b"PK\\u0003\\u0004",
    b"\\x1f\\x8b",
    b"\\x1F\\x8B",
    b"PK\\x03\\x04",
];

static SURE: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let builder = &mut AhoCorasick::builder();
    builder.match_kind(MatchKind::LeftmostFirst).build(SURELY).expect("a few literals")
});

static ESCAPED: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder().ascii_case_insensitive(true).build(FIRST).expect("a few literals")
});

/// Whether something packed may begin here that is escaped. What marks an escape stands in every text, and
/// so does most of what follows it: few places are worth a closer look.
pub(super) fn begins_escaped(bytes: &[u8]) -> bool {
    let near = |at: usize| &bytes[at.saturating_sub(2)..bytes.len().min(at + 14)];
    let looks = |at: usize| match bytes.get(at..at + 3) {
        Some([b'\\', next, _]) => matches!(next | 0x20, b'u' | b'x'),
        Some([_, high, low]) => matches!(
            [high | 0x20, low | 0x20],
            [b'1', b'f']
                | [b'0', b'3' | b'1']
                | [b'2', b'8']
                | [b'9', b'c']
                | [b'b', b'5']
                | [b'd', b'a']
        ),
        _ => false,
    };
    let mut marks = memchr::memchr3_iter(b'%', b'=', b'\\', bytes);
    marks.any(|at| looks(at) && ESCAPED.is_match(near(at)))
        || memchr::memmem::find(bytes, b"x\xc2\x9c").is_some()
}

/// Writes a text with escapes of one kind undone, each as one byte. Whether there were any.
pub(super) fn unescape(bytes: &[u8], mark: u8, out: &mut Vec<u8>) -> bool {
    if memchr::memchr(mark, bytes).is_none() {
        return false;
    }
    let hex = |at: usize| {
        let digits = bytes.get(at..at + 2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()
    };
    out.reserve(bytes.len());
    let (mut at, mut any) = (0, false);
    while at < bytes.len() {
        let Some(next) = memchr::memchr(mark, &bytes[at..]).map(|next| at + next) else { break };
        latin(&bytes[at..next], mark, out);
        let escaped = match (mark, bytes.get(next + 1)) {
            (b'=', Some(b'\n')) => Some((None, 2)),
            (b'=', Some(b'\r')) => Some((None, 3)),
            (b'%' | b'=', _) => hex(next + 1).map(|byte| (Some(byte), 3)),
            (_, Some(b'u')) if bytes.get(next + 2..next + 4) == Some(b"00") => {
                hex(next + 4).map(|byte| (Some(byte), 6))
            }
            (_, Some(b'x')) => hex(next + 2).map(|byte| (Some(byte), 4)),
            (_, Some(b'b')) => Some((Some(8), 2)),
            (_, Some(b'f')) => Some((Some(12), 2)),
            (_, Some(b'n')) => Some((Some(b'\n'), 2)),
            (_, Some(b'r')) => Some((Some(b'\r'), 2)),
            (_, Some(b't')) => Some((Some(b'\t'), 2)),
            (_, Some(byte @ (b'/' | b'"' | b'\\'))) => Some((Some(*byte), 2)),
            _ => None,
        };
        let (byte, length) = escaped.unwrap_or((Some(mark), 1));
        any |= escaped.is_some();
        out.extend(byte);
        at = (next + length).min(bytes.len());
    }
    latin(&bytes[at..], mark, out);
    any
}

/// In JSON a byte beyond ASCII is a character of two.
fn latin(text: &[u8], mark: u8, out: &mut Vec<u8>) {
    if mark != b'\\' || text.is_ascii() {
        return out.extend_from_slice(text);
    }
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (0xc2 | 0xc3, [second @ 0x80..=0xbf, more @ ..]) => {
                out.push(first << 6 | second & 0x3f);
                rest = more;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_begin_is_found_wherever_it_stands() {
        for first in FIRST {
            for before in ["", "a", "100%", "x = %\\", "%%%%%%%%%%%%%%%%%%"] {
                let text = [before.as_bytes(), first, b" and more"].concat();
                assert!(begins_escaped(&text), "{}", String::from_utf8_lossy(&text));
                assert!(begins_escaped(&[before.as_bytes(), first].concat()));
                let mut upper = text.clone();
                upper.make_ascii_uppercase();
                // Only the letters that stand for themselves have a case of their own.
                assert!(
                    begins_escaped(&upper) || !first.starts_with(b"%") && !first.starts_with(b"=")
                );
            }
        }
        for text in ["", "%", "\\", "x=", "a = b; c %d \\n %s \\x00 50% = 1f", "width=100%25"] {
            assert!(!begins_escaped(text.as_bytes()), "{text}");
        }
    }
}
