use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::sidecar::packing::{deflate, gzip, zlib};

const TOKEN: &str = "ghp_Zm9vYmFy+/0123456789=";
const OTHER: &str = "sk-other\"secret\\with<escapes>&";

fn redactions() -> Arc<Redactions> {
    let values = [("GH_TOKEN", TOKEN.as_bytes()), ("OTHER", OTHER.as_bytes())];
    Arc::new(Redactions::new(values).unwrap())
}

/// The text in pieces of these lengths, then the rest.
fn stream(redactions: &Arc<Redactions>, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut redactor = Redactor::new(Arc::clone(redactions));
    let (mut out, mut rest) = (Vec::new(), text);
    for cut in cuts {
        let (piece, later) = rest.split_at((*cut).min(rest.len()));
        out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(piece)));
        rest = later;
    }
    out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(rest)));
    out.extend_from_slice(&redactor.finish());
    out
}

fn redact(text: &str) -> String {
    String::from_utf8(stream(&redactions(), text.as_bytes(), &[])).unwrap()
}

#[test]
fn every_encoding_is_replaced() {
    let percent = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
    assert_eq!(redact(&format!("a {TOKEN} b")), "a <redacted:GH_TOKEN> b");
    assert_eq!(redact(TOKEN), "<redacted:GH_TOKEN>");
    assert_eq!(redact(&TOKEN.repeat(2)), "<redacted:GH_TOKEN><redacted:GH_TOKEN>");
    assert_eq!(redact(&format!("{TOKEN}{OTHER}")), "<redacted:GH_TOKEN><redacted:OTHER>");
    for text in [
        hex::encode(TOKEN),
        hex::encode_upper(TOKEN),
        percent(TOKEN),
        percent(TOKEN).to_lowercase(),
        "ghp_Zm9vYmFy%2B%2f0123456789%3D".replace("%2f", "%2F"),
        TOKEN.replace('/', "\\/"),
        TOKEN.replace('+', "\\u002b"),
        TOKEN.replace('+', "\\u002B"),
    ] {
        assert_eq!(redact(&format!("[{text}]")), "[<redacted:GH_TOKEN>]", "{text}");
    }
    let page = OTHER.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let page = format!("\"{}\"", page.replace('>', "&gt;"));
    for text in [serde_json::to_string(OTHER).unwrap(), page, format!("\"{OTHER}\"")] {
        assert_eq!(redact(&text), "\"<redacted:OTHER>\"", "{text}");
    }
    // At every alignment; what stands around shares a character with it.
    for before in ["", "x", "xx", "user:", "x-access-token:"] {
        for after in ["", "y", "yy"] {
            for engine in [&BASE64_STANDARD, &BASE64_URL_SAFE_NO_PAD] {
                let text = engine.encode(format!("{before}{TOKEN}{after}"));
                let out = redact(&text);
                assert!(out.contains("<redacted:GH_TOKEN>"), "{text} {out}");
                let left = out.replace("<redacted:GH_TOKEN>", "");
                assert!(left.len() <= 4 + BASE64_STANDARD.encode(format!("{before}{after}")).len());
            }
        }
    }
}

#[test]
fn what_is_no_value_stays_and_goes_on_at_once() {
    let mut redactor = Redactor::new(redactions());
    for event in
        ["data: {\"x\": 1}\n\n", "data: {\"y\": \"gh\"}\n\n", "data: ghp_Zm9v\n\n", ":\n\n"]
    {
        assert_eq!(redactor.push(event.into()), event);
    }
    // Only the beginning of a value is held back, until it is none.
    assert_eq!(redactor.push("abc ghp_Zm".into()), "abc ");
    assert_eq!(redactor.push("8".into()), "ghp_Zm8");
    assert_eq!(redactor.push("ghp_Zm9vYmFy+/".into()), "");
    assert_eq!(redactor.push("0123456789= !".into()), "<redacted:GH_TOKEN> !");
    assert_eq!(redactor.push("tail ghp_".into()), "tail ");
    assert_eq!(redactor.finish(), "ghp_");
    assert!(redactions().redact(b"nothing").is_none());
    let empty = Arc::new(Redactions::new([("NONE", &b""[..])]).unwrap());
    assert!(empty.is_empty());
    assert_eq!(stream(&empty, b"anything", &[3]), b"anything");
}

#[test]
fn values_within_and_across_each_other() {
    let values = [("SHORT", &b"abcabcab"[..]), ("LONG", b"abcabcabcabd"), ("END", b"abdefghi")];
    let redactions = Arc::new(Redactions::new(values).unwrap());
    for (text, expected) in [
        ("abcabcab", "<redacted:SHORT>"),
        ("abcabcabx", "<redacted:SHORT>x"),
        ("abcabcabcabd", "<redacted:LONG>"),
        ("xabcabcabcabcabcaby", "x<redacted:SHORT>y"),
        // They share `abd`: nothing of either stays.
        ("abcabcabcabdefghi", "<redacted:LONG>"),
        ("abcabcabcabdefgh", "<redacted:LONG>efgh"),
        ("abcabcababcabcab", "<redacted:SHORT><redacted:SHORT>"),
    ] {
        let whole = stream(&redactions, text.as_bytes(), &[]);
        assert_eq!(String::from_utf8_lossy(&whole), expected);
        assert_eq!(stream(&redactions, text.as_bytes(), &[1; 64]), whole, "{text}");
    }
    // What is held back does not grow with a text that matches everywhere.
    let values = [("SAME", &b"aaaaaaaa"[..])];
    let mut redactor = Redactor::new(Arc::new(Redactions::new(values).unwrap()));
    for _ in 0..100 {
        let _ = redactor.push("a".repeat(100).into());
        assert!(redactor.held.len() < redactor.redactions.longest);
    }
}

/// Texts that hold values, encoded or not, whole or begun.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(TOKEN.to_owned()),
        Just(OTHER.to_owned()),
        Just(hex::encode_upper(TOKEN)),
        "[a-z]{0,3}".prop_map(|text| BASE64_STANDARD.encode(format!("{text}{TOKEN}{text}"))),
        "[a-z]{0,3}".prop_map(|text| BASE64_URL_SAFE_NO_PAD.encode(format!("{text}{OTHER}"))),
        (0..TOKEN.len()).prop_map(|end| TOKEN[..end].to_owned()),
        (0..TOKEN.len()).prop_map(|start| TOKEN[start..].to_owned()),
        (0..OTHER.len()).prop_map(|end| OTHER[..end].to_owned()),
        "[a-z \n]{0,9}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_no_difference_and_nothing_remains(
        text in texts(),
        cuts in prop::collection::vec(0_usize..20, 0..60),
    ) {
        let redactions = redactions();
        let whole = stream(&redactions, &text, &[]);
        prop_assert_eq!(&stream(&redactions, &text, &cuts), &whole);
        prop_assert_eq!(&stream(&redactions, &text, &vec![1; text.len()]), &whole);
        prop_assert_eq!(redactions.redact(&text).unwrap_or(text), whole.clone());
        for form in &redactions.forms {
            let found = whole.windows(form.text().len()).any(|there| form.same(form.text(), there));
            prop_assert!(!found);
        }
    }
}

#[test]
fn what_tells_nothing_is_released_and_its_value_still_taken_out() {
    let mut redactor = Redactor::new(redactions());
    let push = |redactor: &mut Redactor, text: &str| redactor.push(Bytes::from(text.to_owned()));
    assert_eq!(push(&mut redactor, "a gh"), "a ");
    assert!(redactor.is_holding());
    assert_eq!(redactor.release(), "gh");
    assert!(!redactor.is_holding() && redactor.release().is_empty());
    // What follows is another word after all.
    assert_eq!(push(&mut redactor, "ost"), "ost");
    // What follows is the rest of a value: not one more byte of it goes on.
    assert_eq!(push(&mut redactor, " ghp_Z"), " ");
    assert!(!redactor.is_holding(), "five bytes are too many");
    assert!(redactor.release().is_empty());
    let mut redactor = Redactor::new(redactions());
    assert_eq!(push(&mut redactor, "ghp"), "");
    assert_eq!(redactor.release(), "ghp");
    assert_eq!(push(&mut redactor, &TOKEN[3..10]), "");
    let rest = push(&mut redactor, &format!("{} end", &TOKEN[10..]));
    assert_eq!([rest, redactor.finish()].concat(), b" end");
    // Half of a short value tells too much.
    let short = Arc::new(Redactions::new([("PIN", &b"12345678"[..])]).unwrap());
    let mut redactor = Redactor::new(short);
    assert_eq!(push(&mut redactor, "x123"), "x");
    assert!(redactor.release().is_empty());
}
/// In parts, so that this file is itself no finding.
const VALUE: &str = concat!("ghp", "_zq7Wx9bKp2ivL5tR8wB1nM4cD6fG0hJ3aEpU");

/// A value in a form, thoroughly redacted, in pieces of this length.
fn thorough(text: &[u8], piece: usize) -> Vec<u8> {
    let values = [("GH_TOKEN", VALUE.as_bytes())];
    let redactions = Arc::new(Redactions::new(values).unwrap());
    let mut redactor = Redactor::new(redactions).thorough();
    let mut out = Vec::new();
    for piece in text.chunks(piece) {
        out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&redactor.finish());
    out
}

/// Bytes as one decimal number.
fn decimal_of(bytes: &[u8]) -> String {
    let mut digits = vec![0_u32];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 10;
            carry /= 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().map(u32::to_string).collect()
}

#[test]
fn an_echo_in_an_unexpected_form_is_replaced() {
    let each = |how: &dyn Fn(u8) -> String| VALUE.bytes().map(how).collect::<String>();
    let mixed = |bytes: (usize, u8)| match bytes {
        (at, byte) if at % 3 == 0 => format!("%{byte:02X}"),
        (_, byte) => char::from(byte).to_string(),
    };
    let wrapped = BASE64_STANDARD.encode(format!("Authorization: Bearer {VALUE} and more"));
    let wrapped: Vec<_> = wrapped.as_bytes().chunks(20).map(String::from_utf8_lossy).collect();
    let forms = [
        ("cut", VALUE[..39].to_owned()),
        ("cut more", VALUE[..30].to_owned()),
        ("begun later", VALUE[5..].to_owned()),
        ("upper", VALUE.to_uppercase()),
        ("lower", VALUE.to_lowercase()),
        ("twice", BASE64_STANDARD.encode(BASE64_STANDARD.encode(VALUE))),
        ("wrapped", wrapped.join("\r\n")),
        ("wrapped in JSON", wrapped.join("\\n")),
        ("hex", each(&|byte| format!("{byte:02x}:"))),
        ("hex with marks", each(&|byte| format!("0x{byte:02x}, "))),
        ("mixed", VALUE.bytes().enumerate().map(mixed).collect()),
        ("JSON", each(&|byte| format!("\\u{byte:04x}"))),
        ("decimal entities", each(&|byte| format!("&#{byte};"))),
        ("hex entities", each(&|byte| format!("&#x{byte:X};"))),
        ("quoted-printable", each(&|byte| format!("={byte:02X}"))),
        ("broken lines", format!("{}=\r\n{}", &VALUE[..13], &VALUE[13..])),
        ("octal", each(&|byte| format!("\\{byte:03o}"))),
        ("UTF-32", each(&|byte| format!("{}\0\0\0", char::from(byte)))),
        ("spaced", each(&|byte| format!("{} ", char::from(byte)))),
        ("decimal", each(&|byte| format!("{byte}, "))),
        ("one number", decimal_of(VALUE.as_bytes())),
        ("one number, grouped", {
            let number = decimal_of(VALUE.as_bytes());
            let groups = number.as_bytes().chunks(3).map(String::from_utf8_lossy);
            groups.collect::<Vec<_>>().join(",")
        }),
        ("base32", "M5UHAX32OE3VO6BZMJFXAMTJOZGDK5CSHB3UEMLOJU2GGRBWMZDTA2CKGNQUK4CV".to_owned()),
    ];
    for (name, form) in forms {
        let text = format!("{{\"echo\": \"{form}\"}} and what follows");
        for piece in [text.len(), 7, 1] {
            let out = String::from_utf8(thorough(text.as_bytes(), piece)).unwrap();
            assert!(out.contains("<redacted:GH_TOKEN>"), "{name} by {piece}: {out}");
            assert!(out.ends_with(" and what follows"), "{name} by {piece}: {out}");
            let left = out.len() - "{\"echo\": \"\"} and what follows<redacted:GH_TOKEN>".len();
            assert!(
                name.starts_with("wrapped") || left * 3 <= form.len(),
                "{name} by {piece}: {out}"
            );
        }
    }
    for text in ["data: {\"x\": 1}\n\n", "event: \\u00e4 &amp; 100%\n\n", "ghp_zq7W"] {
        assert_eq!(thorough(text.as_bytes(), 1), text.as_bytes());
    }
}

#[test]
fn a_packed_echo_does_not_pass_and_other_packed_answers_do() {
    use std::io::Write as _;

    let other = gzip("an archive of some package ".repeat(2000).as_bytes());
    let echo = gzip(format!("{{\"authorization\": \"Bearer {VALUE}\"}}").as_bytes());
    for piece in [1, 100, 100_000] {
        assert_eq!(thorough(&other, piece), other, "{piece}");
        let out = thorough(&echo, piece);
        let mut text = Vec::new();
        let mut decoder = flate2::write::GzDecoder::new(&mut text);
        let _ = decoder.write_all(&out);
        let _ = decoder.flush();
        drop(decoder);
        assert!(!String::from_utf8_lossy(&text).contains("bKp2ivL5tR8wB1nM"), "{piece}");
    }
}

/// Texts that an echo stands in, written or packed within another: none of them passes whole.
#[test]
fn an_echo_within_another_text_is_taken_out_or_ends_it() {
    let each = |how: &dyn Fn(usize, char) -> String| {
        VALUE.char_indices().map(|(at, char)| how(at, char)).collect::<String>().into_bytes()
    };
    let mixed = |how: &'static dyn Fn(u32) -> String| {
        each(&move |at, char| if at % 3 == 0 { how(char.into()) } else { char.to_string() })
    };
    let echo =
        format!("{{\"headers\": {{\"Authorization\": \"Bearer {VALUE}\"}}, \"url\": \"/x\"}}");
    let echo = echo.as_bytes();
    let (zlib, deflate) = (zlib(echo), deflate(echo));
    let mut zip = b"PK\x03\x04\x14\0\0\0\x08\0".to_vec();
    zip.extend([0; 16]);
    zip.extend([5, 0, 0, 0]);
    zip.extend(b"x.txt");
    zip.extend(&deflate);
    let part = |body: &[u8]| {
        let head = b"--sep\r\nContent-Type: application/octet-stream\r\n\r\n";
        [&head[..], body, b"\r\n--sep--\r\n"].concat()
    };
    let base64 = |text: &[u8]| BASE64_STANDARD.encode(text).into_bytes();
    let wide =
        |_: usize, char: char| char::from_u32(u32::from(char) - 0x21 + 0xff01).unwrap().to_string();
    let decimal = each(&|_, char| format!("&#{}", u32::from(char)));
    let base85 = |alphabet: &[u8; 85], text: &[u8]| -> Vec<u8> {
        let groups = text.as_chunks::<4>().0.iter().map(|group| u32::from_be_bytes(*group));
        let digits = |number: u32| [4, 3, 2, 1, 0].map(|power| number / 85_u32.pow(power) % 85);
        groups.flat_map(digits).map(|digit| alphabet[digit as usize]).collect()
    };
    let ascii85: [u8; 85] = std::array::from_fn(|digit| u8::try_from(digit).unwrap() + b'!');
    let git =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    let number = |digits: &[u8]| {
        let mut rest = VALUE.as_bytes().to_vec();
        let mut out = Vec::new();
        while rest.iter().any(|byte| *byte != 0) {
            let mut remainder = 0;
            for byte in &mut rest {
                let part = remainder << 8 | usize::from(*byte);
                *byte = u8::try_from(part / digits.len()).unwrap();
                remainder = part % digits.len();
            }
            out.insert(0, digits[remainder]);
        }
        out
    };
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("gzip behind a byte", [b"x", &gzip(echo)[..]].concat()),
        ("gzip in a part", part(&gzip(echo))),
        ("zlib behind other bytes", [b"some text\n", &zlib[..]].concat()),
        ("zlib in a part", part(&zlib)),
        ("raw deflate", deflate.clone()),
        ("a zip", zip.clone()),
        ("gzip in gzip", gzip(&gzip(echo))),
        ("base64 of gzip", base64(&gzip(echo))),
        ("base64 of zlib", base64(&zlib)),
        ("base64 of a zip", base64(&zip)),
        ("hex of gzip", hex::encode(gzip(echo)).into_bytes()),
        ("gzip of base64", gzip(&base64(echo))),
        ("base64 of gzip of base64", base64(&gzip(&base64(echo)))),
        ("base64 three times", base64(&base64(&base64(VALUE.as_bytes())))),
        ("base64 four times", base64(&base64(&base64(&base64(VALUE.as_bytes()))))),
        ("full width", each(&wide)),
        ("zero width", each(&|_, char| format!("{char}\u{200b}"))),
        ("decimal entities without an end", decimal),
        ("hex entities without an end", each(&|_, char| format!("&#x{:x}", u32::from(char)))),
        ("CSS", each(&|_, char| format!("\\{:06x}", u32::from(char)))),
        ("short CSS", each(&|_, char| format!("\\{:x} ", u32::from(char)))),
        ("percent u", each(&|_, char| format!("%u{:04x}", u32::from(char)))),
        ("percent twice", each(&|_, char| format!("%25{:02x}", u32::from(char)))),
        ("percent twice, mixed", mixed(&|char| format!("%25{char:02X}"))),
        ("percent thrice, mixed", mixed(&|char| format!("%2525{char:02x}"))),
        ("percent of entities", mixed(&|char| format!("%26%23{char}%3B"))),
        ("CSS, mixed", mixed(&|char| format!("\\{char:06x}"))),
        ("percent u, mixed", mixed(&|char| format!("%u{char:04X}"))),
        ("ascii85", base85(&ascii85, VALUE.as_bytes())),
        ("base85", base85(git, format!("Bearer {VALUE}!!").as_bytes())),
        ("base58", number(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")),
        ("base36", number(b"0123456789abcdefghijklmnopqrstuvwxyz")),
        ("reversed", VALUE.bytes().rev().collect()),
        ("cut and reversed", VALUE[..30].bytes().rev().collect()),
    ];
    let contains = |out: &[u8], form: &[u8]| out.windows(form.len()).any(|there| there == form);
    for (name, form) in &forms {
        for piece in [usize::MAX, 64, 7, 1] {
            let out = thorough(form, piece);
            assert!(!contains(&out, form), "{name} by {piece}");
            // In the middle of a longer text, of which what stands before it passes.
            let head = b"HTTP is spoken here, and what comes next is \"";
            let text = [head, &form[..], b"\", and so on.\n"].concat();
            if *name != "raw deflate" {
                let out = thorough(&text, piece);
                assert!(!contains(&out, form), "{name} amid text by {piece}");
                assert!(piece > 1 || out.starts_with(&head[..10]), "{name} by {piece}");
            }
        }
    }
}

#[test]
fn what_holds_no_value_passes_as_it_is() {
    let mut noise = Vec::new();
    let mut seed = 1_u64;
    while noise.len() < 300_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&seed.to_be_bytes()[..4]);
    }
    let sources = include_str!("../redact.rs").repeat(5);
    let archive = gzip(sources.as_bytes());
    let base64 = BASE64_STANDARD.encode(&noise[..100_000]).into_bytes();
    let page =
        format!("<p>&#103;&amp; %20%2520 \\000020 \\u00e4 {}</p>", hex::encode(&noise[..999]));
    let many = [&archive[..], &noise[..1000], &archive, b"text", &archive].concat();
    for text in [&noise, sources.as_bytes(), &archive, &base64, page.as_bytes(), &many] {
        for piece in [text.len(), 65_536, 4096] {
            assert!(thorough(text, piece) == text, "{} by {piece}", text.len());
        }
        assert!(thorough(&text[..text.len().min(3000)], 1) == text[..text.len().min(3000)]);
    }
}
