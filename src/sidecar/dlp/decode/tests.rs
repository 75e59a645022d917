use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::{decode, runs, runs_in};

/// Every text that one layer less gives.
fn decoded(text: &[u8]) -> Vec<String> {
    let runs = runs(text);
    let texts = decode(text, &runs, false).0.map(|decoded| decoded.bytes);
    texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[test]
fn one_layer_comes_off_in_place() {
    let plain = "token: the quick brown fox?~";
    for (text, meaning) in [
        ("a%3Db%20c".to_owned(), "a=b c"),
        (r"k\u003dv\/w\x41\\u0042".to_owned(), "k=v/wAB"),
        (format!("x={}&y", STANDARD.encode(plain)), "x=token: the quick brown fox?~&y"),
        (format!("\"{}\"", URL_SAFE_NO_PAD.encode(plain)), "\"token: the quick brown fox?~\""),
        (format!("'{}'", ::hex::encode(plain)), "'token: the quick brown fox?~'"),
        (format!("0x{}", ::hex::encode_upper(plain)), "token: the quick brown fox?~"),
        (format!("a{}", ::hex::encode(plain)), "atoken: the quick brown fox?~"),
    ] {
        assert_eq!(decoded(text.as_bytes()), [meaning], "{text}");
    }
}

#[test]
fn wrapped_lines_are_one_text() {
    let plain = "a line that is long enough to be wrapped, with a word across the border of lines";
    let encoded = STANDARD.encode(plain);
    for gap in ["\n", "\r\n", r"\n", r"\r\n"] {
        let (first, second) = encoded.split_at(76);
        assert_eq!(decoded(format!("{first}{gap}{second}").as_bytes()), [plain], "{gap:?}");
    }
}

#[test]
fn utf16_is_read_in_either_order() {
    let plain = "a text of some length";
    let little: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = plain.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (mark, text) in [([0xff, 0xfe], &little), ([0xfe, 0xff], &big)] {
        assert_eq!(decoded(text), [plain]);
        let all = decoded(&[&mark[..], text].concat());
        assert!(all[0].ends_with(plain), "{all:?}");
        let framed = decoded(&[b"xy\0\0\0\0", &text[..], b"\0\0\0yz"].concat());
        assert!(framed[0].contains(plain), "{framed:?}");
    }
}

#[test]
fn what_is_no_text_stays() {
    for text in [
        "plain words",
        "100% of it, 5%zz",
        r"C:\users\name",
        "sha512-WFc7HoQNZJSbG5hoVzFYcGbBLYlrUYLLp5mfBVsB3fNTZPJQuhcGWo5gKlfzn6WtPNgVVMcMjqGFlxZ1lNK5nA==",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "some_long_identifier_of_a_program",
    ] {
        assert_eq!(decoded(text.as_bytes()), Vec::<String>::new(), "{text}");
    }
    assert_eq!(decoded(&[0; 64]), Vec::<String>::new());
}

#[test]
fn far_text_is_left_out_and_near_text_kept() {
    let far = "z".repeat(5000);
    let text = format!("{far} near%41near {far} other%42 end");
    let all = decoded(text.as_bytes());
    assert!(all[0].contains("nearAnear"));
    assert!(all[0].contains("otherB end"));
    assert!(all[0].len() < 2500, "{}", all[0].len());
}

#[test]
fn a_run_that_begins_before_the_text_is_read_at_any_phase() {
    let encoded = STANDARD.encode("words that were encoded together, one after the other");
    for cut in 1..9 {
        let rest = &encoded.as_bytes()[cut..];
        let all: Vec<_> = decode(rest, &runs(rest), true).0.collect();
        let text = String::from_utf8_lossy(&all[0].bytes).into_owned();
        assert!(text.contains("encoded together"), "{cut}: {text}");
    }
}

#[test]
fn only_what_is_decoded_from_its_first_character_is_done_with() {
    use super::local::Coding;
    let first =
        STANDARD.encode("harmless words that are long enough, so that they alone are looked at.!");
    // Behind it another that begins in the middle of a group.
    let text = format!("x={first}a{}", STANDARD.encode("ghp_"));
    let runs = runs(text.as_bytes());
    let (_, covered) = decode(text.as_bytes(), &runs, false);
    assert!(covered.holds(2, Coding::Base64(0)));
    assert!(covered.holds(8, Coding::Base64(2)));
    assert!(!covered.holds(2 + first.len() + 1, Coding::Base64(0)));
    assert!(!covered.holds(2, Coding::Hex));
    assert!(!covered.holds(0, Coding::Base64(0)));
}

#[test]
fn the_runs_of_a_part_are_those_of_the_whole() {
    let word = |length: usize| "aB3/".chars().cycle().take(length).collect::<String>();
    let lengths = [1, 15, 16, 17, 40, 3, 16, 200, 15, 64];
    let text = lengths.map(word).join(".").into_bytes();
    let all = runs(&text);
    for start in 0..text.len() {
        for end in [start, start + 15, start + 16, start + 63, start + 90, text.len()] {
            let part = start..end.clamp(start, text.len());
            assert_eq!(runs_in(&all, &part), runs(&text[part.clone()]), "{part:?}");
        }
    }
}
