//! Text in UTF-16 and UTF-32 that is written in another way besides, and ordinary text in them.

use super::*;

/// An encoding of characters.
type Encoding = (&'static str, fn(&str) -> Vec<u8>);

const ENCODINGS: [Encoding; 4] = [
    ("UTF-16", |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
    ("UTF-16, big", |text| text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
    ("UTF-32", |text| text.chars().flat_map(|char| u32::from(char).to_le_bytes()).collect()),
    ("UTF-32, big", |text| text.chars().flat_map(|char| u32::from(char).to_be_bytes()).collect()),
];

#[test]
fn every_way_to_write_it_is_undone_within_wider_units() {
    let scanner = scanner();
    let mut missed = Vec::new();
    for (secret, rule) in [(token(), "github-token"), (VALUE.to_owned(), "API_TOKEN")] {
        for (name, text) in texts(&secret) {
            for (encoding, encode) in ENCODINGS {
                let bodies = [
                    ("alone", encode(&text)),
                    ("with a mark", encode(&format!("\u{feff}{text}"))),
                    ("in a line", encode(&format!("key: {text}\nnext"))),
                    ("in JSON", encode(&format!("{{\"k\": \"{text}\"}}"))),
                    ("amid other letters", encode(&format!("слово {text} и 数据 слово"))),
                    ("amid text of bytes", [b"key: ", &encode(&text)[..], b" and more"].concat()),
                    ("behind one byte", [b"\xff", &encode(&text)[..]].concat()),
                    ("amid zeros", [&[0; 9][..], &encode(&text), &[0; 9]].concat()),
                    ("behind an escape", [b"%4", &encode(&format!("1 {text}"))[..]].concat()),
                    ("in base64", BASE64_STANDARD.encode(encode(&text)).into_bytes()),
                    ("in hex", ::hex::encode(encode(&text)).into_bytes()),
                ];
                for (place, body) in bodies {
                    if found(&scanner, &body) != [rule] {
                        missed.push(format!("{rule}: {name}, {encoding}, {place}"));
                    }
                }
            }
        }
    }
    assert_eq!(missed, [""; 0], "{}", missed.len());
}

/// A letter of one byte right before a text or behind it is no letter of its first word, or of its last.
#[test]
fn a_letter_beside_wider_units_hides_nothing() {
    let key = ["AKIA", "QYLPMN5HHHFPZAM2"].concat();
    let rules = Arc::new(Rules::builtin().clone());
    let scanner = Scanner::new(rules, Arc::new(Known::default()), Vec::new());
    let mut missed = Vec::new();
    for (secret, rule) in [(token(), "github"), (key, "aws-access-key-id")] {
        for (encoding, encode) in ENCODINGS {
            let text = encode(&secret);
            for (before, behind) in [
                (&b""[..], &b""[..]),
                (b"x", b""),
                (b"", b"x"),
                (b"x", b"x"),
                (b"x", b"\0"),
                (b"x", b"\0\0\0\0"),
                (b"\0", b"x"),
                (b"\0\0\0\0", b"x"),
                (b"a word", b"another word"),
                (b"_", b"_"),
                (b"-9", b"9-"),
                (b"\n", b"\xff"),
            ] {
                let body = [before, &text, behind].concat();
                let found = found(&scanner, &body);
                if found.len() != 1 || !found[0].starts_with(rule) {
                    missed.push(format!("{encoding} {before:?} {behind:?} {found:?}"));
                }
                let body = BASE64_STANDARD.encode(&body);
                if self::found(&scanner, body.as_bytes()).len() != 1 {
                    missed.push(format!("{encoding} {before:?} {behind:?} in base64"));
                }
            }
        }
        // Where the units are of one width with what stands before, a word that goes on is a word.
        for (encoding, encode) in ENCODINGS {
            for text in [format!("a word xyz{secret}"), format!("{secret}xyz and so on")] {
                let plain = found(&scanner, text.as_bytes());
                assert_eq!(found(&scanner, &encode(&text)), plain, "{encoding} {text}");
            }
        }
    }
    assert!(missed.is_empty(), "{}\n{}", missed.len(), missed.join("\n"));
}

/// What can be read in two ways is read in both: here every other unit is an accent in the one, and a
/// letter in the other.
#[test]
fn a_text_of_one_order_does_not_hide_one_of_the_other() {
    let scanner = scanner();
    let value = VALUE.to_ascii_lowercase();
    let known = Known::new([("LOWER", &value)]).unwrap();
    let lower = Scanner::new(Arc::new(Rules::default()), Arc::new(known), Vec::new());
    for accent in ["\u{341}", "\u{361}", "\u{320}"] {
        for (encoding, encode) in ENCODINGS {
            let decoy = encode(&"decoys ".repeat(20));
            let body = encode(&between(&value, accent));
            for shift in 0..4 {
                let body = [&decoy[..], &[0; 4][..shift], &body].concat();
                assert_eq!(found(&lower, &body), ["LOWER"], "{encoding} {accent:?} {shift}");
            }
        }
    }
    let [(_, little), (_, big), ..] = ENCODINGS;
    for (one, other) in [(little, big), (big, little)] {
        let body = [one(&"decoys ".repeat(20)), vec![0], other(&wide(&token()))].concat();
        assert_eq!(found(&scanner, &body), ["github-token"]);
    }
}

#[test]
fn ordinary_texts_in_wider_units_hold_nothing() {
    let known = Known::new([("API_TOKEN", VALUE)]).unwrap();
    let scanner = Scanner::new(Arc::new(Rules::builtin().clone()), Arc::new(known), Vec::new());
    let source = include_str!("wide.rs");
    for text in SCRIPTS.into_iter().chain([source]) {
        let long = format!("{text}\n").repeat(100);
        for (encoding, encode) in ENCODINGS {
            for text in [encode(&long), [b"\0", &encode(&long)[..]].concat()] {
                assert_eq!(found(&scanner, &text), [""; 0], "{encoding}");
            }
        }
    }
    // Numbers of a binary format: samples of sound, offsets, flags.
    let samples = (0..200_000_u32).map(|at| (at.wrapping_mul(at) / 7 % 2000) as u16);
    let offsets = (0..100_000_u32).flat_map(|at| (at * 48).to_le_bytes());
    let flags = (0..100_000_u32).flat_map(|at| [0, 0, (at % 3) as u8, b'A' + (at % 20) as u8]);
    for text in [
        samples.flat_map(u16::to_le_bytes).collect::<Vec<u8>>(),
        offsets.collect(),
        flags.collect(),
    ] {
        assert_eq!(found(&scanner, &text), [""; 0]);
    }
}
