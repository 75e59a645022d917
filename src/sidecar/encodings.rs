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
}

/// Every way to write a value, itself first, each once.
pub(super) fn encodings(value: &[u8]) -> Vec<Encoding> {
    let exact = |bytes: Vec<u8>| Encoding { bytes: Zeroizing::new(bytes), fold: false };
    let folded = |bytes: Vec<u8>| Encoding { bytes: Zeroizing::new(bytes), fold: true };
    let mut all = vec![exact(value.to_vec())];
    for (_, bytes) in alignments(value) {
        all.push(exact(url_alphabet(&bytes)));
        all.push(exact(bytes));
    }
    all.push(folded(hex::encode(value).into_bytes()));
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
