//! What is taken out of texts, and that what is left is what it was.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{Date, Month};

use super::units::{Way, decoded, origin};
use super::{Taken, Written};
use crate::sidecar::dlp::{Known, Rules, Scanner};

const VALUE: &str = "zq7Wx9b/p2ivL5tR8wB1nM4cD6fG0hJ3aEpUyS7k";

fn token() -> String {
    format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3")
}

fn scanner() -> Scanner {
    let rules = "\
        [[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}\\b'\nkeywords = ['ghp_']\n\
        [[rules]]\nid = 'secret-word'\nregex = 'password\\W{1,5}(\\S{6,40}?)[\\s&\"\\\\]'\nkeywords = ['password']\n\
        [[rules]]\nid = 'key'\nregex = 'BEGIN KEY[\\s\\S]{20,400}?END KEY'\nkeywords = ['begin key']\n";
    let known = Known::new([("API_TOKEN", VALUE)]).unwrap();
    Scanner::new(Arc::new(Rules::from_toml(rules).unwrap()), Arc::new(known), Vec::new())
}

fn today() -> Date {
    Date::from_calendar_date(2030, Month::May, 1).unwrap()
}

/// What is left when nothing more can be taken out, and what was.
fn all_out(written: &Written, text: &[u8]) -> (Option<Vec<u8>>, Vec<(String, u64)>) {
    let scanner = scanner();
    let (mut taken, mut out) = (Taken::new(), None);
    for _ in 0..8 {
        let now = out.as_deref().unwrap_or(text);
        if scanner.scan("example.com", today(), now).is_empty() {
            break;
        }
        match scanner.take_out("example.com", today(), written, now, &mut taken) {
            Some(new) => out = Some(new),
            None => break,
        }
    }
    (out, taken.into_iter().map(|(finding, count)| (finding.rule, count)).collect())
}

/// All of it is taken out.
#[track_caller]
fn clean(written: &Written, text: &str) -> String {
    let (out, _) = all_out(written, text.as_bytes());
    let out = out.unwrap_or_else(|| panic!("nothing was taken out of {text}"));
    assert_eq!(
        scanner().scan("example.com", today(), &out),
        [],
        "{}",
        String::from_utf8_lossy(&out)
    );
    String::from_utf8(out).unwrap()
}

/// Not all of it is.
#[track_caller]
fn stays(written: &Written, text: &[u8]) {
    let (out, _) = all_out(written, text);
    let left = out.as_deref().unwrap_or(text);
    assert_ne!(
        scanner().scan("example.com", today(), left),
        [],
        "{}",
        String::from_utf8_lossy(left)
    );
}

#[test]
fn a_conversation_keeps_all_else() {
    let (token, marker) = (token(), "<redacted:github-token>");
    let of = |secret: &str, known: &str| {
        json!({ "model": "m", "messages": [
            { "role": "user", "content": format!("é \"{secret}\"\n{known}\tüñ 😀 {secret}") },
            { "role": "assistant", "content": [{ "type": "tool_use", "input": { "cmd": format!("echo {secret}") },
              "arguments": json!({ "a": { "b": format!("x\n{secret}\n"), "c": known } }).to_string() }] },
        ], "stream": true, "n": [1, 2.5e3, null] })
    };
    let (out, taken) = all_out(&Written::Json, of(&token, VALUE).to_string().as_bytes());
    let out: Value = serde_json::from_slice(&out.unwrap()).unwrap();
    assert_eq!(out, of(marker, "<redacted:API_TOKEN>"));
    assert_eq!(taken, [("API_TOKEN".to_owned(), 2), ("github-token".to_owned(), 4)]);
}

#[test]
fn escapes_go_as_a_whole() {
    let token = token();
    let escaped: String = token.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    for (text, left) in [
        (format!(r#"{{"a":"\n{token}\t."}}"#), r#"{"a":"\n<redacted:github-token>\t."}"#),
        (format!(r#"{{"a":"{escaped}\\"}}"#), r#"{"a":"<redacted:github-token>\\"}"#),
        (format!(r#"{{"a":"\u0067{} x"}}"#, &token[1..]), r#"{"a":"<redacted:github-token> x"}"#),
        (format!(r#"{{"a":"{}"}}"#, VALUE.replace('/', "\\/")), r#"{"a":"<redacted:API_TOKEN>"}"#),
        (
            format!(r#"{{"a":"\"{}\""}}"#, VALUE.replace('/', r"\\/")),
            r#"{"a":"\"<redacted:API_TOKEN>\""}"#,
        ),
        (
            format!(r#"{{"{token}":"\ud83d\ude00"}}"#),
            r#"{"<redacted:github-token>":"\ud83d\ude00"}"#,
        ),
        (format!("\"{token}\"\n{{\"b\":1}}\n"), "\"<redacted:github-token>\"\n{\"b\":1}\n"),
    ] {
        assert_eq!(clean(&Written::Json, &text), left);
        assert_eq!(clean(&Written::Text, &text), left, "it is JSON, whatever its type says");
    }
}

#[test]
fn json_stays_json() {
    // A match that goes over several strings is taken out of each.
    let lines = r#"{"k":["BEGIN KEY","aaaaaaaaaaaaaaaaaaaa",1,"END KEY more"]}"#;
    let mark = "<redacted:key>";
    let left = json!({ "k": [mark, mark, 1, format!("{mark} more")] });
    assert_eq!(serde_json::from_str::<Value>(&clean(&Written::Json, lines)).unwrap(), left);
    // What is none passes as text, but not where its type says that it is some.
    let broken = format!("{{\"a\":\"{}\",}}", token());
    stays(&Written::Json, broken.as_bytes());
    assert_eq!(clean(&Written::Text, &broken), "{\"a\":\"<redacted:github-token>\",}");
}

#[test]
fn a_marker_is_no_secret() {
    let text = "password = hunter2hunter2 and\npassword: other-one ";
    let left = clean(&Written::Text, text);
    assert_eq!(left, "password = <redacted:secret-word> and\npassword: <redacted:secret-word> ");
    let left = clean(&Written::Form, "password=hunter2hunter2&b=1");
    assert_eq!(left, "password=%3Credacted%3Asecret-word%3E&b=1");
    let left = clean(&Written::Form, "password=%3Credacted%3Ahunter2%3E&b=1");
    assert_eq!(left, "password=%3Credacted%3Asecret-word%3E&b=1", "no rule is called so");
}

#[test]
fn forms_are_read_as_forms() {
    let token = token();
    let percent: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let value = VALUE.replace('/', "%2F");
    let text = format!("a=1+2&b={token}&c={percent}&d={value}&e=%C3%A9");
    let mark = "%3Credacted%3Agithub-token%3E";
    let left = format!("a=1+2&b={mark}&c={mark}&d=%3Credacted%3AAPI_TOKEN%3E&e=%C3%A9");
    assert_eq!(clean(&Written::Form, &text), left);
    // JSON in a form, with an escape.
    let json = format!("payload=%7B%22a%22%3A%22x%5Cn{token}%22%7D");
    assert_eq!(clean(&Written::Form, &json), format!("payload=%7B%22a%22%3A%22x%5Cn{mark}%22%7D"));
}

#[test]
fn parts_of_a_form_are_texts_of_their_own() {
    let token = token();
    let part = |head: &str, body: &str| format!("--xY\r\n{head}\r\n\r\n{body}\r\n");
    let form = |secret: &str| {
        [
            part("Content-Disposition: form-data; name=\"a\"", &format!("one {secret}\r\ntwo")),
            part("Content-Disposition: form-data; name=\"e\"", ""),
            part(
                "Content-Type: application/json",
                &json!({ "x": format!("\n{secret}") }).to_string(),
            ),
            part("content-type: text/plain; charset=utf-8\r\nX-A: b", "nothing"),
            "--xY--\r\n".to_owned(),
        ]
        .concat()
    };
    let written = Written::of_type(b"multipart/form-data; boundary=\"xY\"").unwrap();
    assert_eq!(written, Written::Parts(Box::from(*b"xY")));
    assert_eq!(clean(&written, &form(&token)), form("<redacted:github-token>"));
    for head in [
        "Content-Type: application/octet-stream",
        "Content-Type: text/xml",
        "Content-Encoding: identity",
        "Content-Transfer-Encoding: quoted-printable",
        "no field",
    ] {
        stays(&written, format!("{}--xY--", part(head, &token)).as_bytes());
    }
    let head = format!("Content-Disposition: form-data; name=\"{token}\"");
    stays(&written, format!("{}--xY--", part(&head, "x")).as_bytes());
    stays(&written, part("A: b", &token).as_bytes());
    stays(&Written::Parts(Box::from(*b"other")), form(&token).as_bytes());
}

#[test]
fn what_is_encoded_or_no_text_stays() {
    use base64::Engine as _;
    let encoded = base64::prelude::BASE64_STANDARD.encode(format!("token: {} and more", token()));
    stays(&Written::Text, encoded.as_bytes());
    let both = json!({ "a": token(), "b": encoded }).to_string();
    stays(&Written::Json, both.as_bytes());
    stays(&Written::Json, json!({ "a": hex::encode(VALUE) }).to_string().as_bytes());
    stays(&Written::Text, format!("{}\0", token()).as_bytes());
    stays(&Written::Text, &[token().as_bytes(), b" \xff"].concat());
}

/// Far apart, and astride the windows in which it is looked for.
#[test]
fn long_texts_are_read_as_a_whole() {
    let token = token();
    let filler = "line of a file\\n\\u00e9 \\\"quoted\\\" ".repeat(9_000);
    let of = |secret: &str| {
        let pieces = (0..40).map(|at| format!("{}{secret}\\n", &filler[at..at + 14_000 + at * 37]));
        format!("[\"{}\"]", pieces.collect::<Vec<_>>().join(" "))
    };
    // Wherever a piece was cut, an escape may be.
    let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
    let text = of(&format!(" {token}"));
    let left = clean(&if is_json(&text) { Written::Json } else { Written::Text }, &text);
    assert_eq!(left, of(" <redacted:github-token>"));
}

#[test]
fn types_that_are_texts() {
    for (kind, written) in [
        ("application/json", Some(Written::Json)),
        ("Application/JSON ; charset=UTF-8", Some(Written::Json)),
        ("application/vnd.api+json", Some(Written::Json)),
        ("application/x-ndjson", Some(Written::Json)),
        ("text/plain", Some(Written::Text)),
        ("text/markdown;charset=iso-8859-1", Some(Written::Text)),
        ("application/x-www-form-urlencoded", Some(Written::Form)),
        ("text/plain; charset=utf-16", None),
        ("text/html", None),
        ("application/soap+xml", None),
        ("application/octet-stream", None),
        ("application/grpc", None),
        ("application/x-git-receive-pack-request", None),
        ("multipart/form-data", None),
        ("image/png", None),
        ("", None),
    ] {
        assert_eq!(Written::of_type(kind.as_bytes()), written, "{kind}");
    }
}

#[test]
fn a_place_is_found_where_it_is_written() {
    let text = br#"ab\u0063\nd\\\ud83d\ude00e"#;
    let (out, pieces) = decoded(text, Way::Escapes);
    assert_eq!(out, "abc\nd\\😀e".as_bytes());
    assert_eq!(origin(0..2, &pieces), 0..2);
    assert_eq!(origin(2..3, &pieces), 2..8);
    assert_eq!(origin(1..5, &pieces), 1..11);
    assert_eq!(origin(4..5, &pieces), 10..11);
    // A part of a character is all of it.
    assert_eq!(origin(7..8, &pieces), 13..25);
    assert_eq!(origin(10..11, &pieces), 25..26);
}

/// With the rules that everybody has: nothing of a secret is left in what leaves, however much of it its rule finds.
#[test]
fn nothing_of_a_whole_secret_is_left() {
    let scanner = Scanner::new(
        Arc::new(Rules::builtin().clone()),
        Arc::new(Known::new::<&str, &str>([]).unwrap()),
        Vec::new(),
    );
    let random = |count: usize| -> String {
        let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            letters[(state % letters.len() as u64) as usize]
        };
        (0..count).map(|_| next()).collect()
    };
    let lines: Vec<String> = (0..26).map(|line| random(64 + line)[line..].to_owned()).collect();
    let key = |kind: &str| {
        let (begin, end) = (format!("-----BEGIN {kind}"), format!("-----END {kind}"));
        format!("{begin} KEY-----\n{}\n{end} KEY-----\n", lines.join("\n"))
    };
    let secrets = [
        key("PRIVATE"),
        key("RSA PRIVATE"),
        key("OPENSSH PRIVATE"),
        format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3"),
        format!("sntrys_eyJ{}_{}", random(90), random(43)),
        format!("pypi-AgEIcHlwaS5vcmc{}", random(180)),
        format!("ops_eyJ{}", random(400)),
        format!("sk-ant-{}-{}AA", "api03", random(93)),
    ];
    let mut found = 0;
    for secret in &secrets {
        for written in [Written::Json, Written::Text] {
            let text = match written {
                Written::Json => json!({ "content": format!("it is {secret} .") }).to_string(),
                _ => format!("it is {secret} ."),
            };
            let (mut taken, mut now) = (Taken::new(), text.clone().into_bytes());
            for _ in 0..8 {
                match scanner.take_out("example.com", today(), &written, &now, &mut taken) {
                    Some(new) => now = new,
                    None => break,
                }
            }
            let leaves = scanner.scan("example.com", today(), &now).is_empty();
            if !leaves || now == text.as_bytes() {
                // Refused, or none of these rules finds it.
                continue;
            }
            found += 1;
            let now = String::from_utf8(now).unwrap();
            let whole = secret.replace('\n', "");
            let left =
                (0..whole.len().saturating_sub(16)).find(|at| now.contains(&whole[*at..at + 16]));
            assert_eq!(left, None, "{secret}: {now}");
        }
    }
    assert!(found >= 4, "only {found} were taken out");
    let pem = json!({ "content": key("PRIVATE") }).to_string();
    let mut taken = Taken::new();
    let none = scanner.take_out("example.com", today(), &Written::Json, pem.as_bytes(), &mut taken);
    assert_eq!(none, None, "a private key is refused");
    assert!(!scanner.scan("example.com", today(), pem.as_bytes()).is_empty());
}
