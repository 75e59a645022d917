use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::{Known, TooShort};

const VALUE: &str = "q7/Zx+9\"kP2\\vL5tR8wB1nM4";

fn names(text: &[u8]) -> Vec<String> {
    let known = Arc::new(Known::new([("API_TOKEN", VALUE)]).unwrap());
    known.finder().find(text).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_usual_form_is_found() {
    let percent: String = VALUE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut forms: Vec<Vec<u8>> = vec![
        VALUE.into(),
        ::hex::encode(VALUE).into(),
        ::hex::encode_upper(VALUE).into(),
        percent.into(),
        serde_json::to_vec(VALUE).unwrap(),
        VALUE.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        VALUE.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ];
    for before in 0..7 {
        let text = format!("{}{VALUE} after", "u:é"[..].repeat(before));
        forms.push(STANDARD.encode(&text).into());
        forms.push(URL_SAFE.encode(&text).into());
    }
    for form in forms {
        let text = [b"before ", &form[..], b" after"].concat();
        assert_eq!(names(&text), ["API_TOKEN"], "{}", String::from_utf8_lossy(&form));
    }
}

#[test]
fn where_it_stands_is_exact_and_a_part_is_not_it() {
    let known = Arc::new(Known::new([("A", VALUE)]).unwrap());
    let text = format!("ab{VALUE}c{VALUE}");
    let finder = known.finder();
    let places: Vec<_> = finder.find(text.as_bytes()).map(|(_, range)| range).collect();
    let length = VALUE.len();
    assert_eq!(places, [2..2 + length, 3 + length..3 + 2 * length]);
    assert!(names(&VALUE.as_bytes()[1..]).is_empty());
    assert!(names(VALUE.to_lowercase().as_bytes()).is_empty());
}

#[test]
fn a_short_value_is_refused_by_name_and_nothing_shows_a_value() {
    let error = Known::new([("PIN", "1234567")]).unwrap_err();
    assert_eq!(error, TooShort { name: "PIN".to_owned(), length: 7 });
    assert!(!error.to_string().contains("1234567"));
    let known = Known::new([("A", VALUE)]).unwrap();
    assert_eq!(format!("{known:?}"), "[\"A\"]");
}
