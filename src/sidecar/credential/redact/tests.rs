use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

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
