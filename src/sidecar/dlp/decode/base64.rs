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

/// The same by comparing, for many bytes at once.
#[inline(always)]
pub(super) const fn is_member(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let digit = byte.wrapping_sub(b'/') < 11;
    letter | digit | (byte == b'+') | (byte == b'-') | (byte == b'_')
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
        let mut rest = text;
        // Whole groups of characters need not be counted one by one.
        while let Some((group, behind)) = rest.split_first_chunk::<4>()
            && self.count == 0
        {
            let values = group.map(|byte| VALUES[usize::from(byte)]);
            if values.iter().any(|value| *value >= 64) {
                let (first, behind) = rest.split_at(1);
                self.push_each(first, out);
                rest = behind;
                continue;
            }
            let bits = values.iter().fold(0, |bits, value| bits << 6 | u32::from(*value));
            let [_, bytes @ ..] = bits.to_be_bytes();
            out.extend_from_slice(&bytes);
            rest = behind;
        }
        self.push_each(rest, out);
    }

    fn push_each(&mut self, text: &[u8], out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use super::Decoder;

    #[test]
    fn groups_are_decoded_as_their_characters_are() {
        let text = b"c2Vj+/cm-V0_c2Vj.cmV0\nc2V*jcmV0c2VjcmV0YWJj?ZA==";
        for from in 0..text.len() {
            for cut in from..text.len() {
                let (mut whole, mut each) = (Vec::new(), Vec::new());
                let (mut one, mut other) = (Decoder::default(), Decoder::default());
                for piece in [&text[from..cut], &text[cut..]] {
                    one.push(piece, &mut whole);
                    other.push_each(piece, &mut each);
                }
                assert_eq!(whole, each, "{from} {cut}");
            }
        }
    }

    #[test]
    fn both_ways_to_see_a_member_agree() {
        assert!((0..=255).all(|byte| super::member(byte) == super::is_member(byte)));
    }
}
