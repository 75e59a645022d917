//! Hexadecimal digits.

/// What a byte stands for; 255: it is no digit.
const VALUES: [u8; 256] = {
    let mut table = [255; 256];
    let mut at = 0_u8;
    while at < 16 {
        table[b"0123456789abcdef"[at as usize] as usize] = at;
        table[b"0123456789ABCDEF"[at as usize] as usize] = at;
        at += 1;
    }
    table
};

/// The value of a digit.
pub(super) fn value(byte: u8) -> Option<u8> {
    let value = VALUES[usize::from(byte)];
    (value < 16).then_some(value)
}

/// Whether this is a digit.
pub(super) fn member(byte: u8) -> bool {
    VALUES[usize::from(byte)] < 16
}

/// The byte that two digits stand for.
pub(super) fn pair(text: &[u8]) -> Option<u8> {
    match text {
        [high, low, ..] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    }
}

/// Decodes all pairs up to the first that is none.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.chunks_exact(2).map_while(pair));
}
