//! What is packed in the head of a request.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::names::today;
use super::*;

const VALUE: &str = "zq7Wx9bKp2ivL5tR8wB1nM4cD6fG0hJ3aEpUyS7k";
const SHORT: &str = "k7#Qz!v2w";

fn scan(text: &str) -> Report {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}'\nkeywords = ['ghp_']",
    );
    let known = Known::new([("API_TOKEN", VALUE), ("SHORT", SHORT)]).unwrap();
    let scanner = Scanner::new(Arc::new(rules.unwrap()), Arc::new(known), Vec::new());
    Arc::new(scanner).scan_head("example.com", today(), text.as_bytes())
}

fn percent(bytes: &[u8], all: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() && !all;
    let each = |byte: &u8| match *byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    bytes.iter().map(each).collect()
}

type Writing = (&'static str, fn(&[u8]) -> String);

const WRITINGS: [Writing; 9] = [
    ("base64", |bytes| BASE64_STANDARD.encode(bytes)),
    ("base64url", |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes)),
    ("base64, in percent", |bytes| percent(BASE64_STANDARD.encode(bytes).as_bytes(), false)),
    ("base64 twice", |bytes| BASE64_STANDARD.encode(BASE64_STANDARD.encode(bytes))),
    ("base64 of JSON", |bytes| {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"a\":\"{}\"}}", BASE64_STANDARD.encode(bytes)))
    }),
    ("hex", |bytes| ::hex::encode(bytes)),
    ("capital hex", |bytes| ::hex::encode_upper(bytes)),
    ("percent", |bytes| percent(bytes, false)),
    ("all in percent", |bytes| percent(bytes, true)),
];

#[test]
fn what_is_packed_in_a_head_is_found() {
    let mut missed = Vec::new();
    for (secret, rule) in [(&*token(), "github-token"), (VALUE, "API_TOKEN")] {
        let secret = secret.as_bytes();
        for (packing, packed) in [
            ("gzip", gzip(secret)),
            ("zlib", zlib(secret)),
            ("zstd", zstd(secret)),
            ("zip", zip("a.txt", secret, 8)),
            ("stored zip", zip("a.txt", secret, 0)),
            ("zlib in gzip", gzip(&zlib(secret))),
        ] {
            for (writing, write) in WRITINGS {
                let text = write(&packed);
                for head in [
                    format!("/p?x={text}"),
                    format!("/p?y=1&x={text}&z=2\n\nhost: example.com"),
                    format!("/p/{text}"),
                    format!("/p/word/{text}/tail\n\naccept: */*"),
                    format!("/a-word-{text}"),
                    format!("/\n\ncookie: a=b; session=.{text}.ZzZzZz.aBcDeFgH-_aBcDeFgHiJk; c=d"),
                    format!("/\n\nx-a: {text}\n\nx-forwarded-proto: https"),
                    format!("/\n\nx-a: eAv1_{text}"),
                    format!("/\n\nx-a: {{\"k\":\"{text}\"}}"),
                ] {
                    let found = scan(&head);
                    let rules = found.findings.iter().map(|found| &*found.rule);
                    if rules.collect::<Vec<_>>() != [rule] {
                        missed.push(format!("{rule}: {packing}, {writing}: {head} {found:?}"));
                    }
                }
            }
        }
    }
    assert!(missed.is_empty(), "{}\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn a_short_value_is_found_too() {
    for (writing, write) in WRITINGS {
        for packed in [zlib(SHORT.as_bytes()), gzip(SHORT.as_bytes())] {
            let found = scan(&format!("/\n\nx-a: {}", write(&packed)));
            // In base64 of base64 it is looked for where that is longer.
            if writing != "base64 twice" || packed.len() > 22 {
                assert_eq!(found.findings.len(), 1, "{writing} {found:?}");
            }
        }
    }
}

/// Letters that no generator of tokens would repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

#[test]
fn ordinary_heads_hold_nothing() {
    let page = "<p>a page of some words, and of some more</p>\n".repeat(200);
    for head in [
        String::new(),
        "/a/b-c_d/e.html?x=1&y=%20%78%9c%1f%8b".to_owned(),
        format!("/p?x={}", BASE64_STANDARD.encode(noise(40_000))),
        format!("/p?x={}", BASE64_URL_SAFE_NO_PAD.encode(noise(40_000))),
        format!("/p?x={}", ::hex::encode(noise(30_000))),
        format!("/p?x={}", percent(&noise(20_000), false)),
        // A session as frameworks keep it, and one that was cut off.
        format!(
            "/\n\ncookie: session=.{}.a.b",
            BASE64_URL_SAFE_NO_PAD.encode(zlib(page.as_bytes()))
        ),
        format!("/\n\ncookie: a={}", &BASE64_STANDARD.encode(zlib(page.as_bytes()))[..40]),
    ] {
        assert_eq!(scan(&head), Report::default(), "{head:.80}");
    }
}

#[test]
fn a_head_has_bounds() {
    let bomb = BASE64_STANDARD.encode(gzip(&vec![b'a'; 600 << 10]));
    let broken = BASE64_STANDARD.encode(&gzip(&noise(400))[..300]);
    for (head, reason) in [
        (format!("/p?x={bomb}"), Unscanned::Large),
        (format!("/p/{bomb}"), Unscanned::Large),
        (format!("/p/{}", BASE64_STANDARD.encode(&bomb)), Unscanned::Large),
        (format!("/p?y={broken}"), Unscanned::Broken),
        // What else there is does not hide it.
        (format!("/p?y={broken}&x={bomb}"), Unscanned::Large),
        (format!("/p?x={bomb}&y={broken}"), Unscanned::Large),
        (
            (0..70).map(|at| format!("/{}", BASE64_STANDARD.encode(gzip(&[at; 30])))).collect(),
            Unscanned::Many,
        ),
        (
            format!("/p?x={}", BASE64_STANDARD.encode(gzip(&gzip(&gzip(&noise(100)))))),
            Unscanned::Nested,
        ),
        (
            format!(
                "/p?x={}",
                BASE64_STANDARD.encode(b"BZh91AY&SY and so on, for as long as it takes")
            ),
            Unscanned::Format,
        ),
    ] {
        assert_eq!(scan(&head).unscanned, Some(reason), "{head:.80}");
    }
    // Places at which zlib may begin, and base64 of text behind separators: each costs little, all are bounded.
    for head in [
        "eJw".repeat(21_000),
        "/eJwBAgMEBQYHCAkKCwwNDg8QERITFBU".repeat(1900),
        "/YWJjZGVm".repeat(7000),
    ] {
        assert_eq!(scan(&head).findings, []);
    }
}
