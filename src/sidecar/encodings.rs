//! The ways to write a value that a plain reader undoes: what is looked for in requests and
//! taken out of responses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::{Zeroize as _, Zeroizing};

/// One way to write a value. Wiped when dropped.
pub(super) struct Encoding {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The case of letters does not matter, as in hex.
    pub(super) fold: bool,
    /// So many bytes of it in a row stand for it, in either case; none: only the whole does.
    pub(super) part: Option<usize>,
}

/// A part of a value that is shorter than this stands in other texts too.
const LEAST_PART: usize = 16;

/// So many bytes in a row are as good as a value: half of it, and never few. The beginning of a JWT is
/// that of others, so that only the whole is one.
fn part(value: &[u8]) -> Option<usize> {
    let least = value.len().div_ceil(2).max(LEAST_PART);
    (value.len() >= LEAST_PART && !value.starts_with(b"eyJ")).then_some(least)
}

/// Every way to write a value, itself first, each once.
pub(super) fn encodings(value: &[u8]) -> Vec<Encoding> {
    let exact = |bytes: Vec<u8>| Encoding { bytes: Zeroizing::new(bytes), fold: false, part: None };
    let folded = |bytes: Vec<u8>| Encoding { bytes: Zeroizing::new(bytes), fold: true, part: None };
    let part = part(value);
    // The characters of a form that depend on that part alone, where eight bits become so many.
    let of_part = |bits: usize| part.map(|part| (part * 8 / bits).saturating_sub(2));
    let mut all = vec![Encoding { part, ..exact(value.to_vec()) }];
    for (_, bytes) in alignments(value) {
        all.push(Encoding { part: of_part(6), ..exact(url_alphabet(&bytes)) });
        all.push(Encoding { part: of_part(6), ..exact(bytes) });
    }
    all.push(Encoding {
        part: part.map(|part| part * 2),
        ..folded(hex::encode(value).into_bytes())
    });
    // Every byte, and only those that a URL cannot hold as they are.
    all.push(folded(written(value, |_| true, |byte| format!("%{byte:02x}"))));
    let reserved = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte);
    all.push(exact(written(value, reserved, |byte| format!("%{byte:02x}"))));
    all.push(exact(written(value, reserved, |byte| format!("%{byte:02X}"))));
    all.push(exact(value.iter().flat_map(|byte| [*byte, 0]).collect()));
    all.push(exact(value.iter().flat_map(|byte| [0, *byte]).collect()));
    // As JSON writes it, with and without what makes it safe within a page.
    let escape = |byte: u8| format!("\\{}", char::from(byte));
    all.push(exact(written(value, |byte| b"\"\\".contains(&byte), escape)));
    all.push(exact(written(value, |byte| b"\"\\/".contains(&byte), escape)));
    let unsafe_in_pages = |byte: u8| b"\"&'+<>\\`".contains(&byte);
    all.push(exact(written(value, unsafe_in_pages, |byte| format!("\\u{byte:04x}"))));
    all.push(exact(written(value, unsafe_in_pages, |byte| format!("\\u{byte:04X}"))));
    all.push(exact(written(
        value,
        |byte| b"\"&'<>".contains(&byte),
        |byte| match byte {
            b'"' => "&quot;".to_owned(),
            b'&' => "&amp;".to_owned(),
            b'<' => "&lt;".to_owned(),
            b'>' => "&gt;".to_owned(),
            other => format!("&#{other};"),
        },
    )));
    let mut reversed = value.to_vec();
    reversed.reverse();
    all.push(Encoding { part, ..exact(reversed) });
    all.extend(base85_forms(value).map(exact));
    let mut kept: Vec<Encoding> = Vec::new();
    for encoding in all {
        if !kept.iter().any(|other| other.bytes == encoding.bytes && other.fold == encoding.fold) {
            kept.push(encoding);
        }
    }
    kept
}

/// The characters of base64 that depend on these bytes alone, for each of three alignments, with
/// how many characters after the beginning of a group of four they stand.
pub(super) fn alignments(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    [(0, 0), (1, 2), (2, 3)].into_iter().map(|(before, skip)| {
        let mut shifted = vec![0; before];
        shifted.extend_from_slice(bytes);
        let mut whole = STANDARD_NO_PAD.encode(&shifted).into_bytes();
        let end = shifted.len() * 8 / 6;
        let own = whole[skip.min(end)..end].to_vec();
        shifted.zeroize();
        whole.zeroize();
        (skip, own)
    })
}

/// A value in base32, in each usual alphabet, behind each number of other bytes.
pub(super) fn base32_forms(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let alphabets: [&[u8; 32]; 4] = [
        b"abcdefghijklmnopqrstuvwxyz234567",
        b"0123456789abcdefghijklmnopqrstuv",
        b"0123456789abcdefghjkmnpqrstvwxyz",
        b"ybndrfg8ejkmcpqxot1uwisza345h769",
    ];
    alphabets
        .into_iter()
        .flat_map(move |alphabet| (0..5).map(move |before| base32(value, before, alphabet)))
}

/// The characters of base32 that depend on these bytes alone, behind so many others.
fn base32(bytes: &[u8], before: usize, alphabet: &[u8; 32]) -> Vec<u8> {
    let end = (before + bytes.len()) * 8 / 5;
    let bit = |at: usize| {
        let byte = (at / 8).checked_sub(before).and_then(|at| bytes.get(at));
        byte.map_or(0, |byte| byte >> (7 - at % 8) & 1)
    };
    let character = |at: usize| {
        let five = (at * 5..at * 5 + 5).fold(0, |value, at| value << 1 | bit(at));
        alphabet[usize::from(five)]
    };
    ((before * 8).div_ceil(5)..end).map(character).collect()
}

/// Fewer groups of base85 stand in other texts too.
const GROUPS: usize = 3;

/// The groups of base85 that depend on a value alone, behind each number of other bytes, in the three
/// usual alphabets.
fn base85_forms(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const ALPHABETS: [&[u8; 85]; 3] = [
        b"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstu",
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#",
    ];
    let wholes = (0..4).map(|skip| value.get(skip..).unwrap_or_default().as_chunks::<4>().0);
    wholes.filter(|groups| groups.len() >= GROUPS).flat_map(|groups| {
        ALPHABETS.into_iter().map(move |alphabet| {
            let digits = |group: &[u8; 4]| {
                let number = usize::try_from(u32::from_be_bytes(*group)).unwrap_or(0);
                [4, 3, 2, 1, 0].map(|power| alphabet[number / 85_usize.pow(power) % 85])
            };
            groups.iter().flat_map(digits).collect()
        })
    })
}

/// A value as one large number, in the digits of base36, of base58, of base62 in two orders and of
/// decimal, each with how many bits a digit holds at most.
pub(super) fn number_forms(value: &[u8]) -> impl Iterator<Item = (Vec<u8>, usize)> {
    let digits: [(&[u8], usize); 5] = [
        (b"0123456789abcdefghijklmnopqrstuvwxyz", 6),
        (b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", 6),
        (b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 6),
        (b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 6),
        (b"0123456789", 4),
    ];
    digits.into_iter().map(|(digits, bits)| (number(value, digits), bits))
}

/// A large number, most significant byte first, in these digits.
fn number(value: &[u8], digits: &[u8]) -> Vec<u8> {
    let mut rest = Zeroizing::new(value.to_vec());
    let mut out = Vec::new();
    while rest.iter().any(|byte| *byte != 0) {
        let mut remainder = 0;
        for byte in rest.iter_mut() {
            let part = remainder << 8 | usize::from(*byte);
            *byte = u8::try_from(part / digits.len()).unwrap_or(u8::MAX);
            remainder = part % digits.len();
        }
        out.push(digits[remainder]);
    }
    out.reverse();
    out
}

/// The same in the alphabet that URLs can hold.
pub(super) fn url_alphabet(base64: &[u8]) -> Vec<u8> {
    let other = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        byte => *byte,
    };
    base64.iter().map(other).collect()
}

fn written(value: &[u8], which: impl Fn(u8) -> bool, how: impl Fn(u8) -> String) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len() * 6);
    for byte in value {
        if which(*byte) {
            let mut escaped = how(*byte).into_bytes();
            text.extend_from_slice(&escaped);
            escaped.zeroize();
        } else {
            text.push(*byte);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_there_once() {
        let all = encodings(br#"a"b+c/<d"#);
        let has = |text: &str| all.iter().filter(|e| **e.bytes == *text.as_bytes()).count();
        for text in [
            r#"a"b+c/<d"#,
            // The second half of `xx` and the value in base64, without what depends on `xx`.
            "YSJiK2MvPG",
            "EiYitjLzxk",
            "hImIrYy88Z",
            "6122622b632f3c64",
            "%61%22%62%2b%63%2f%3c%64",
            "a%22b%2bc%2f%3cd",
            "a%22b%2Bc%2F%3Cd",
            "a\0\"\0b\0+\0c\0/\0<\0d\0",
            r#"a\"b+c/<d"#,
            r#"a\"b+c\/<d"#,
            r"a\u0022b\u002bc/\u003cd",
            r"a\u0022b\u002Bc/\u003Cd",
            "a&quot;b+c/&lt;d",
        ] {
            assert_eq!(has(text), 1, "{text}");
        }
        let plain = encodings(b"ghp_0123456789");
        let itself = |e: &&Encoding| **e.bytes == *b"ghp_0123456789";
        assert_eq!(plain.iter().filter(itself).count(), 1);
    }
}
