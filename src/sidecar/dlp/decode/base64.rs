//! Base64 as it is found, not as it should be: either alphabet, padded or not, begun anywhere.

/// What a byte stands for; 255: it is no character of base64.
const VALUES: [u8; 256] = {
    let mut table = [255; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut at = 0;
    while at < alphabet.len() {
        #[expect(clippy::cast_possible_truncation, reason = "64 characters")]
        let value = at as u8;
        table[alphabet[at] as usize] = value;
        at += 1;
    }
    table[b'-' as usize] = 62;
    table[b'_' as usize] = 63;
    table
};

/// The six bits of a character.
pub(super) fn value(byte: u8) -> Option<u8> {
    let value = VALUES[usize::from(byte)];
    (value < 64).then_some(value)
}

/// Whether this is a character of either alphabet.
pub(super) fn member(byte: u8) -> bool {
    VALUES[usize::from(byte)] < 64
}

/// Decodes pieces of one run. Bytes of no alphabet are passed over.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bits: u32,
    count: u32,
}

impl Decoder {
    pub(super) fn push(&mut self, text: &[u8], out: &mut Vec<u8>) {
        out.reserve(text.len() / 4 * 3 + 3);
        for value in text.iter().filter_map(|byte| value(*byte)) {
            self.bits = self.bits << 6 | u32::from(value);
            self.count += 6;
            if self.count >= 8 {
                self.count -= 8;
                out.push((self.bits >> self.count & 0xff) as u8);
            }
        }
    }
}
