use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::{Known, TooShort};

const VALUE: &str = "q7/Zx+9\"kP2\\vL5tR8wB1nM4";

fn names(text: &[u8]) -> Vec<String> {
    let known = Arc::new(Known::new([("API_TOKEN", VALUE)]).unwrap());
    let mut names: Vec<_> = known.finder().find(text).map(|(name, _)| name.to_owned()).collect();
    names.dedup();
    names
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
fn where_it_stands_is_exact_and_a_short_part_is_not_it() {
    let known = Arc::new(Known::new([("A", VALUE)]).unwrap());
    let text = format!("ab{VALUE}c{VALUE}");
    let finder = known.finder();
    let mut places: Vec<_> = finder.find(text.as_bytes()).map(|(_, range)| range).collect();
    places.dedup();
    let length = VALUE.len();
    assert_eq!(places, [2..2 + length, 3 + length..3 + 2 * length]);
    assert!(names(&VALUE.as_bytes()[..15]).is_empty());
    assert!(names(&VALUE.as_bytes()[length - 15..]).is_empty());
}

#[test]
fn half_of_it_is_as_good_in_any_case_and_encoding() {
    const TOKEN: &str = "zq7Wx9bKp2ivL5tR8wB1nM4cD6fG0hJ3aEpUyS7k";
    let known = Arc::new(Known::new([("API_TOKEN", TOKEN)]).unwrap());
    let finder = known.finder();
    let found = |text: &[u8]| finder.find(text).next().is_some();
    for half in [&TOKEN[..20], &TOKEN[20..], &TOKEN[9..29], &TOKEN[..39], &TOKEN[1..]] {
        for before in 0..5 {
            let text = format!("{}{half}", &"user:"[..before]);
            for form in [
                text.clone(),
                text.to_uppercase(),
                ::hex::encode(&text),
                STANDARD.encode(&text),
                STANDARD.encode(&text).to_lowercase(),
            ] {
                assert!(found(form.as_bytes()), "{form}");
            }
        }
    }
    assert!(!found(&TOKEN.as_bytes()[..19]));
    // The beginning of a JWT is that of many; and what is counted up stands everywhere.
    let jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    let counted = "0123456789abcdefghijklmnopqrstuv";
    let known = Arc::new(Known::new([("JWT", jwt), ("COUNTED", counted)]).unwrap());
    let finder = known.finder();
    assert!(finder.find(&jwt.as_bytes()[..jwt.len() - 1]).next().is_none());
    assert!(finder.find(&counted.as_bytes()[..20]).next().is_none());
    assert!(finder.find(jwt.as_bytes()).next().is_some());
}

#[test]
fn a_short_value_is_refused_by_name_and_nothing_shows_a_value() {
    let error = Known::new([("PIN", "1234567")]).unwrap_err();
    assert_eq!(error, TooShort { name: "PIN".to_owned(), length: 7 });
    assert!(!error.to_string().contains("1234567"));
    let known = Known::new([("A", VALUE)]).unwrap();
    assert_eq!(format!("{known:?}"), "[\"A\"]");
}

/// Whether a part of it looks random decides only whether the part counts: the whole value always does.
#[test]
fn a_value_that_does_not_look_random_is_found_whole() {
    for value in [
        "ghtokenvalue-0123456789abcdef",
        "0123456789abcdef0123456789abcdef",
        "aaaaaaaabbbbbbbbcccccccc",
        "correct-horse-battery-staple",
        "1111222233334444",
    ] {
        let known = Arc::new(Known::new([("API_TOKEN", value)]).unwrap());
        let finder = known.finder();
        let found = |text: &[u8]| finder.find(text).next().is_some();
        assert!(found(format!("x={value}&y=1").as_bytes()), "{value}");
        assert!(found(value.to_uppercase().as_bytes()), "{value}");
        assert!(found(::hex::encode(value).as_bytes()), "{value}");
        for before in 0..3 {
            let text = format!("{}{value} after", &"abc"[..before]);
            assert!(found(STANDARD.encode(&text).as_bytes()), "{value} after {before}");
        }
    }
}
