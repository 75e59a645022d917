//! One secret, the ways to send it.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle::sidecar::dlp::coding::{Coding, Limits, Unscannable};
use bottle::sidecar::dlp::{Finding, Known, Rules, Scanner, Suppression};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{BUILT_IN, HOST, found, github_token, today};

#[track_caller]
fn blocked(text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    assert_eq!(found(&BUILT_IN, text), ["github-token"], "{}", String::from_utf8_lossy(text));
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn in_a_query_a_path_a_header_a_cookie() {
    let token = github_token();
    blocked(format!("/v1/items?k={token}&page=2"));
    blocked(format!("/v1/{token}/items"));
    blocked(format!("x-data: {token}\r\nhost: {HOST}\r\n"));
    blocked(format!("cookie: a=b; session={token}"));
    blocked(format!("authorization: Basic {}", STANDARD.encode(format!("user:{token}"))));
    let id = ["AK", "IA", "Z7QXW3LMN2PR5TKV"].concat();
    assert_eq!(found(&BUILT_IN, format!("/?k={id}").as_bytes()), ["aws-access-key-id"]);
}

#[test]
fn in_every_kind_of_body() {
    let token = github_token();
    blocked(&token);
    blocked(format!("{{\"a\": {{\"token\": \"{token}\"}}}}"));
    // The letter of an escape stands right before it.
    blocked(format!("{{\"file\": \"A=1\\n{token}\\nB=2\"}}"));
    blocked(format!("{{\"json\": \"{{\\\"file\\\": \\\"A=1\\\\n{token}\\\\n\\\"}}\"}}"));
    blocked(format!("name=x&token={token}&y=z"));
    blocked(format!(
        "--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n{token}\r\n--b--\r\n"
    ));
    blocked([b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", token.as_bytes(), b"\0\xff\xfe"].concat());
    blocked([b"\x0a\x28\x0a\x04", token.as_bytes(), b"\x12\x00"].concat());
}

#[test]
fn encoded_once_and_more_than_once() {
    let token = github_token();
    let percent: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let some = token.replace('g', "%67").replace('p', "%70");
    let escaped: String = token.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let forms = [
        STANDARD.encode(&token),
        URL_SAFE_NO_PAD.encode(&token),
        hex::encode(&token),
        percent,
        some,
    ];
    for form in &forms {
        blocked(format!("/?k={form}"));
        blocked(format!("{{\"k\":\"{form}\"}}"));
        blocked(format!("k%3D{form}%26"));
    }
    blocked(format!("{{\"k\":\"{escaped}\"}}"));
    blocked(hex::encode_upper(&token));
    blocked(STANDARD.encode(STANDARD.encode(&token)));
    blocked(STANDARD.encode(hex::encode(&token)));
    blocked(format!("/?k={}", STANDARD.encode(STANDARD.encode(&token)).replace('=', "%3D")));
    for before in 0..8 {
        // At any alignment, within bytes that are no text, behind a path.
        let bytes = [&vec![0xf7; before][..], token.as_bytes(), &[0x80; 5]].concat();
        blocked(format!("/upload/{}", URL_SAFE_NO_PAD.encode(&bytes)));
        blocked(hex::encode(&bytes));
    }
    let wrapped = STANDARD.encode(format!("{}{token}", "some words before it. ".repeat(2)));
    let (first, second) = wrapped.split_at(76);
    blocked(format!("{first}\r\n{second}\r\n"));
}

#[test]
fn in_another_character_set() {
    let token = github_token();
    let little: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = token.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for text in [&little, &big] {
        blocked(text);
        blocked([b"\xff\xfe", &text[..]].concat());
        blocked(STANDARD.encode(text));
    }
    blocked(format!("\u{feff}{token}"));
    blocked([b"\xe9\xe8", token.as_bytes()].concat());
}

#[test]
fn compressed_and_in_archives() {
    let body = |codings: &[Coding], body: &[u8]| {
        BUILT_IN.scan_body(HOST, today(), codings, body, Limits::default())
    };
    let text = format!("first\n{}\nlast", github_token());
    for (codings, bytes) in [
        (&[][..], text.clone().into_bytes()),
        (&[Coding::Gzip][..], gzip(text.as_bytes())),
        (&[Coding::Gzip, Coding::Gzip][..], gzip(&gzip(text.as_bytes()))),
        (&[][..], gzip(text.as_bytes())),
    ] {
        let report = body(codings, &bytes).unwrap();
        assert_eq!(report.findings.len(), 1, "{codings:?}");
        assert_eq!(report.unscanned, None);
    }
    let bomb = gzip(&vec![0; 300 << 20]);
    assert_eq!(body(&[Coding::Gzip], &bomb), Err(Unscannable::TooLarge));
}

#[test]
fn a_known_value_is_found_in_every_form_and_nothing_excuses_it() {
    let value = "Wq8-zR3+kT6/vB1nX5cM9pL2";
    let suppression = |rule: &str| Suppression {
        rule: rule.to_owned(),
        host: HOST.to_owned(),
        reason: "a test".to_owned(),
        expires: None,
    };
    let known = Arc::new(Known::new([("API_TOKEN", value)]).unwrap());
    let rules = Arc::new(Rules::builtin().merge(&Rules::default()));
    let excused = vec![suppression("API_TOKEN"), suppression("github-token")];
    let scanner = Scanner::new(rules, known, excused);
    let percent: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let some = value.replace('+', "%2b").replace('/', "%2F");
    let utf16: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json = value.replace('/', r"\/").replace('-', r"\u002d");
    for form in [
        value.to_owned(),
        STANDARD.encode(value),
        URL_SAFE_NO_PAD.encode(format!("x{value}")),
        hex::encode_upper(value),
        percent,
        some,
        json,
        STANDARD.encode(STANDARD.encode(value)),
        STANDARD.encode(utf16),
    ] {
        let expected = vec![Finding { rule: "API_TOKEN".to_owned(), known: true }];
        assert_eq!(
            scanner.scan(HOST, today(), format!("a={form};").as_bytes()),
            expected,
            "{form}"
        );
    }
    assert!(found(&scanner, github_token().as_bytes()).is_empty(), "this one is excused");
    let elsewhere = scanner.scan("example.org", today(), github_token().as_bytes());
    assert_eq!(elsewhere.len(), 1);
}

#[test]
fn a_finding_never_shows_what_was_found() {
    let token = github_token();
    let found = BUILT_IN.scan(HOST, today(), token.as_bytes());
    assert!(!format!("{found:?}").contains(&token[4..]));
    let mut stream = BUILT_IN.stream(HOST, today());
    stream.push(token.as_bytes()).unwrap();
    assert!(!format!("{stream:?}").contains(&token[4..]), "nor does what is held back");
}

#[test]
fn a_comment_of_the_sender_excuses_nothing() {
    blocked(format!("{} # gitleaks:allow", github_token()));
}
