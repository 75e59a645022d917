//! Every way to write a secret that is undone, for rules and for known values; and texts that hold none.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use time::{Date, Month};

mod wide;
mod wrapped;

use super::Scanner;
use crate::sidecar::dlp::{Known, Rules};
use crate::sidecar::not_words;

const VALUE: &str = "zq7Wx9bKp2ivL5tR8wB1nM4cD6fG0hJ3aEpUyS7k";

/// Not written as one word, so that this file is itself no finding.
fn token() -> String {
    format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3")
}

fn scanner() -> Scanner {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = '\\bghp_[0-9A-Za-z]{36}\\b'\nkeywords = ['ghp_']",
    );
    let known = Known::new([("API_TOKEN", VALUE)]).unwrap();
    Scanner::new(Arc::new(rules.unwrap()), Arc::new(known), Vec::new())
}

fn found(scanner: &Scanner, text: &[u8]) -> Vec<String> {
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    scanner.scan("example.com", today, text).into_iter().map(|finding| finding.rule).collect()
}

/// Something written behind each character.
fn between(text: &str, what: &str) -> String {
    text.chars().map(|char| format!("{char}{what}")).collect()
}

fn each(text: &str, how: impl Fn(char) -> String) -> String {
    text.chars().map(how).collect()
}

/// Letters of another script in the place of those that look like them.
fn alike(text: &str, others: &str) -> String {
    let pairs: Vec<char> = others.chars().collect();
    each(text, |char| {
        let pair = pairs.chunks(2).find(|pair| pair[0] == char);
        pair.map_or(char, |pair| pair[1]).to_string()
    })
}

fn wide(text: &str) -> String {
    each(text, |char| char::from_u32(u32::from(char) - 0x21 + 0xff01).unwrap().to_string())
}

fn moved(text: &str, capital: u32, small: u32, digit: u32) -> String {
    each(text, |char| {
        let from =
            |first: u32, base: char| char::from_u32(first + u32::from(char) - u32::from(base));
        match char {
            'A'..='Z' => from(capital, 'A').unwrap().to_string(),
            'a'..='z' => from(small, 'a').unwrap().to_string(),
            '0'..='9' if digit > 0 => from(digit, '0').unwrap().to_string(),
            other => other.to_string(),
        }
    })
}

/// Each way that is a text, with its name.
fn texts(text: &str) -> Vec<(&'static str, String)> {
    vec![
        ("zero width space", between(text, "\u{200b}")),
        ("zero width joiner", between(text, "\u{200d}")),
        ("word joiner", between(text, "\u{2060}")),
        ("byte order mark", between(text, "\u{feff}")),
        ("soft hyphen", between(text, "\u{ad}")),
        ("Arabic letter mark", between(text, "\u{61c}")),
        ("combining grapheme joiner", between(text, "\u{34f}")),
        ("accents", between(text, "\u{301}")),
        ("annotations", between(text, "\u{fff9}")),
        ("selectors", between(text, "\u{fe0f}")),
        ("tags", between(text, "\u{e0041}")),
        ("one of each", between(text, "\u{200b}\u{ad}\u{e0020}\u{301}")),
        ("full width", wide(text)),
        ("circles", moved(text, 0x24b6, 0x24d0, 0)),
        ("mathematics", moved(text, 0x1d400, 0x1d41a, 0x1d7ce)),
        (
            "superscripts",
            each(text, |char| match char {
                '1' => "\u{b9}".to_owned(),
                '2' | '3' => char::from_u32(u32::from(char) - 0x32 + 0xb2).unwrap().to_string(),
                '0' | '4'..='9' => {
                    char::from_u32(u32::from(char) - 0x30 + 0x2070).unwrap().to_string()
                }
                other => other.to_string(),
            }),
        ),
        ("Cyrillic", alike(text, "aаeеoоpрcсyуxхAАBВEЕKКMМHНOОPРCСTТXХSЅjј")),
        ("Greek", alike(text, "oοvνAΑBΒEΕZΖHΗIΙKΚMΜNΝOΟPΡTΤ")),
        ("entities", each(text, |char| format!("&#{};", u32::from(char)))),
        ("entities in hex", each(text, |char| format!("&#x{:X};", u32::from(char)))),
        ("named spaces without a width", between(text, "&ZeroWidthSpace;")),
        ("named soft hyphens", between(text, "&shy;")),
        ("soft hyphens without a semicolon", between(text, "&shy")),
        ("named joiners", between(text, "&zwj;&zwnj;")),
        ("other names of nothing", between(text, "&NoBreak;&lrm;&rlm;&ic;&InvisibleTimes;&af;")),
        ("numbers of nothing", between(text, "&#173;&#x200B;&#8205;")),
        ("numbers of nothing with zeros", between(text, "&#0000000000173;&#x000000000200b;")),
        ("named entities", text.replace('_', "&lowbar;").replace('k', "&#107;")),
        ("octal", each(text, |char| format!("\\{:03o}", u32::from(char)))),
        ("hex escapes", each(text, |char| format!("\\x{:02x}", u32::from(char)))),
        ("unicode escapes", each(text, |char| format!("\\u{:04X}", u32::from(char)))),
        ("percent", each(text, |char| format!("%{:02x}", u32::from(char)))),
        ("quoted-printable", each(text, |char| format!("={:02X}", u32::from(char)))),
        ("broken lines", format!("{}=\r\n{}", &text[..17], &text[17..])),
        ("base64", BASE64_STANDARD.encode(text)),
        ("hex", ::hex::encode(text)),
    ]
}

/// Each way, with its name.
fn ways(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<_> =
        texts(text).into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    all.push(("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()));
    all.push(("UTF-16, big", text.encode_utf16().flat_map(u16::to_be_bytes).collect()));
    all.push(("UTF-32", text.chars().flat_map(|char| u32::from(char).to_le_bytes()).collect()));
    all.push((
        "UTF-32, big",
        text.chars().flat_map(|char| u32::from(char).to_be_bytes()).collect(),
    ));
    all
}

#[test]
fn every_way_to_write_it_is_undone_for_rules_and_for_known_values() {
    let scanner = scanner();
    for (secret, rule) in [(token(), "github-token"), (VALUE.to_owned(), "API_TOKEN")] {
        for (name, text) in ways(&secret) {
            for (before, after) in
                [("key: ", "\nnext"), ("{\"k\": \"", "\"}"), ("слово ", " слово")]
            {
                let text = [before.as_bytes(), &text, after.as_bytes()].concat();
                assert_eq!(found(&scanner, &text), [rule], "{name}: {}", text.escape_ascii());
            }
        }
    }
}

#[test]
fn six_layers_come_off_and_ways_may_be_mixed() {
    let scanner = scanner();
    for (secret, rule) in [(token(), "github-token"), (VALUE.to_owned(), "API_TOKEN")] {
        let stack =
            |depth: usize| (0..depth).fold(secret.clone(), |text, _| BASE64_STANDARD.encode(text));
        for depth in [1, 2, 3, 4, 5, 6] {
            assert_eq!(
                found(&scanner, format!("k={}", stack(depth)).as_bytes()),
                [rule],
                "{depth}"
            );
        }
        let json = |text: &str| each(text, |char| format!("\\u{:04x}", u32::from(char)));
        let percent = |text: &str| each(text, |char| format!("%{:02X}", u32::from(char)));
        let page = |text: &str| each(text, |char| format!("&#{};", u32::from(char)));
        for mixed in [
            percent(&BASE64_STANDARD.encode(percent(&::hex::encode(&secret)))),
            json(&percent(&BASE64_STANDARD.encode(between(&secret, "\u{200b}")))),
            page(&json(&percent(
                &wide(&secret).escape_unicode().to_string().replace("\\u{", "\\u").replace('}', ""),
            ))),
            BASE64_STANDARD.encode(page(&::hex::encode(json(&BASE64_STANDARD.encode(&secret))))),
            between(&BASE64_STANDARD.encode(&secret), "\u{ad}"),
            alike(&::hex::encode(&secret), "aаeеcс"),
        ] {
            assert_eq!(found(&scanner, format!("k: {mixed} ;").as_bytes()), [rule], "{mixed}");
        }
    }
}

/// Texts that hold nothing, in many scripts.
const SCRIPTS: [&str; 6] = [
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ключ API — в настройках, пароль: см. ниже.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Το κλειδί API βρίσκεται στις ρυθμίσεις, ο κωδικός είναι εκεί.",
    "数据库连接的密码在配置文件里,令牌(token)每三十天更换一次。日本語のテキスト、ＡＢＣ１２３と全角文字。",
    "fn main() { println!(\"🎉 готово ✅ — 完了 👩‍👩‍👧‍👦 ❤️\"); } // naïve café, H₂O, x² + y³, «да»",
    "مفتاح واجهة البرمجة موجود في الإعدادات، الرقم ١٢٣٤٥٦٧٨٩٠. שלום עולם, המפתח בהגדרות.",
    "Die Straße nach Łódź: cafe\u{301}, e\u{301}te\u{301}; Ångström, Œuvre, ﬁn, soft\u{ad}hyphen\u{ad}ated.",
];

#[test]
fn texts_of_other_scripts_hold_nothing() {
    let known = Known::new([("API_TOKEN", VALUE)]).unwrap();
    let scanner = Scanner::new(Arc::new(Rules::builtin().clone()), Arc::new(known), Vec::new());
    for text in SCRIPTS {
        let long = format!("{text}\n").repeat(2000);
        assert_eq!(found(&scanner, long.as_bytes()), [""; 0], "{text}");
    }
}

/// What the built-in rules find in the name of a host.
fn named(name: &str) -> Vec<String> {
    static BUILT_IN: LazyLock<Scanner> = LazyLock::new(|| {
        let rules = Arc::new(Rules::builtin().clone());
        Scanner::new(rules, Arc::new(Known::default()), Vec::new())
    });
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    let found = BUILT_IN.scan_in_any_case(name, today, not_words(name).as_bytes());
    found.into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_token_in_a_name_is_found_in_any_case() {
    // Each in two parts, so that this file is itself no finding.
    for (rule, start, rest) in [
        ("aws-access-key-id", "AKIA", "QYLPMN5HHHFPZAM2"),
        ("aws-access-key-id", "ASIA", "7XQLZMN5KHFPYAM2"),
        ("alibaba-access-key-id", "LTAI", "5tQ7x2WmZ9bK4vR8sD1f"),
        ("google-api-key", "AIza", "SyB3nQ8vX1cM6zL5kJ2hG7fD4sA9pO0iUyT"),
        ("github-token", "ghp_", "x7Qv2LmZ9cR4tB6nK1wY8sD3fG5hJ0aEpU4i"),
    ] {
        let token = format!("{start}{rest}");
        for token in [token.to_ascii_lowercase(), token.to_ascii_uppercase(), token] {
            for name in [
                format!("{token}.wild.test"),
                format!("a.{token}.b.wild.test"),
                format!("{}.{}.wild.test", &token[..15], &token[15..]),
            ] {
                assert_eq!(named(&name), [rule], "{name}");
            }
        }
    }
}

#[test]
fn ordinary_names_of_hosts_are_clean() {
    let hosts = include_str!("hosts.txt");
    assert!(hosts.lines().count() > 200);
    for host in hosts.lines() {
        assert_eq!(named(host), [""; 0], "{host}");
    }
}
