//! Encodings of single characters amid plain text: `%41`, `\u0041`, `\x41`, `\/`.

use super::{Pieces, hex};

/// Finds them, in order.
pub(super) fn find(bytes: &[u8], pieces: &mut Pieces) {
    for at in memchr::memchr2_iter(b'%', b'\\', bytes) {
        if pieces.list.last().is_some_and(|last| at < last.encoded.end) {
            continue;
        }
        let from = pieces.text.len();
        let length = match bytes[at] {
            b'%' => percent(&bytes[at..], &mut pieces.text),
            _ => escape(&bytes[at..], &mut pieces.text),
        };
        if let Some(length) = length {
            pieces.add(at..at + length, from);
        }
    }
}

fn percent(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    out.push(hex::pair(&text[1..])?);
    Some(3)
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
        b'u' | b'U' => {
            let code = u32::from(hex::pair(rest)?) << 8 | u32::from(hex::pair(rest.get(2..)?)?);
            let char = char::from_u32(code)?;
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            Some(slashes + 5)
        }
        _ => None,
    }
}
