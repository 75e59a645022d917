//! What is text, and text in UTF-16.

use super::Pieces;

/// Fewer characters than this are no text in UTF-16 but numbers in a binary format.
const SHORTEST: usize = 8;

/// Printable ASCII and white space.
pub(super) const fn printable(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' '..=b'~')
}

/// Whether decoded bytes look as if something was meant by decoding them: UTF-8, mostly ASCII, or
/// UTF-16. Noise is none of these.
#[must_use]
pub(super) fn looks_like_text(bytes: &[u8]) -> bool {
    let plain = |byte: &&u8| printable(**byte);
    let printables = bytes.iter().filter(plain).count();
    if printables * 20 >= bytes.len() * 17 {
        return true;
    }
    let utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // Cut off in the middle of a character.
        Err(error) => error.error_len().is_none() && error.valid_up_to() > 0,
    };
    if utf8 && bytes.iter().all(|byte| printable(*byte) || *byte >= 0x80) {
        return true;
    }
    [0, 1].into_iter().any(|parity| {
        let zeros = bytes.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
        bytes.len() >= 8 && zeros * 5 >= bytes.len() * 2 && printables * 5 >= bytes.len() * 2
    })
}

/// Finds ASCII text in UTF-16 of either order.
pub(super) fn find_utf16(bytes: &[u8], pieces: &mut Pieces) {
    let mut from = 0;
    while let Some(zero) = memchr::memchr(0, &bytes[from..]).map(|at| from + at) {
        // The text before a zero is its character in little-endian order, the one after in big.
        let little = zero.saturating_sub(1).max(from);
        let candidates = [(little, 0), (zero, 1)].map(|(start, low)| {
            let pairs = bytes[start..].chunks_exact(2);
            let is_text = |pair: &&[u8]| pair[1 - low] == 0 && printable(pair[low]);
            (start, low, pairs.take_while(is_text).count())
        });
        let [one, other] = candidates;
        let (start, low, count) = if one.2 >= other.2 { one } else { other };
        if count >= SHORTEST {
            let text = pieces.text.len();
            let end = start + count * 2;
            pieces.text.extend(bytes[start..end].chunks_exact(2).map(|pair| pair[low]));
            pieces.add(start..end, text);
            from = end;
        } else {
            from = zero + 1;
        }
    }
}
