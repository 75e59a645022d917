//! What is text.

use super::units;

/// Printable ASCII and white space.
pub(super) const fn printable(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' '..=b'~')
}

/// Whether decoded bytes look as if something was meant by decoding them: UTF-8, mostly ASCII,
/// UTF-16 or UTF-32. Noise is none of these.
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
    units::is_text(bytes)
}
