use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use time::{Date, Month};

use crate::sidecar::dlp::stream::{OVERLAP, WINDOW};
use crate::sidecar::dlp::{Known, Rules, Scanner};

static SCANNER: LazyLock<Scanner> = LazyLock::new(|| {
    let known = Known::new([("API_TOKEN", VALUE)]).unwrap();
    Scanner::new(Arc::new(Rules::builtin().clone()), Arc::new(known), Vec::new())
});

const VALUE: &str = "zq7Wx9bKp2ivL5tR8wB1nM4cD6fG0hJ3";

fn found(text: &[u8]) -> Vec<String> {
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    SCANNER.scan("example.com", today, text).into_iter().map(|finding| finding.rule).collect()
}

/// Bytes that look random and are the same each time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

/// Not written as one word, so that this file is itself no finding.
fn crates() -> String {
    format!("cio{}", "Zk3mQ9xT2vB7nL4pR8sW1yD6fH5jK0cG")
}

fn bedrock() -> String {
    let rest = BASE64_STANDARD.encode(noise(120, 7)).replace(['+', '/'], "x");
    format!("ABSK{}", &rest[..109])
}

/// Puts a text over another.
fn over(text: &str, at: usize, what: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at..at + what.len()].copy_from_slice(what.as_bytes());
    bytes
}

fn lines(text: &str, end: &str) -> String {
    text.as_bytes()
        .chunks(76)
        .map(|line| format!("{}{end}", str::from_utf8(line).unwrap()))
        .collect()
}

#[test]
fn what_stands_in_a_picture_by_chance_is_none() {
    let text = BASE64_STANDARD.encode(noise(300 << 10, 1));
    assert_eq!(found(text.as_bytes()), [""; 0], "what all of this is based on");
    let accidents = [format!("/{}/", crates()), format!("+{}+", bedrock())];
    // In the middle, and around each edge of a window.
    let step = WINDOW - OVERLAP;
    let edges = [step, WINDOW, 2 * step, 2 * step + OVERLAP];
    let around = |edge: usize| (0..20).map(move |more| edge - 160 + more * 16);
    for accident in &accidents {
        for at in [1000, 100_000].into_iter().chain(edges.into_iter().flat_map(around)) {
            assert_eq!(found(&over(&text, at, accident)), [""; 0], "{accident} at {at}");
        }
        let urls = text[..2000].replace('+', "-").replace('/', "_");
        let inside = accident.replace(['+', '/'], "-");
        assert_eq!(found(&over(&urls, 1000, &inside)), [""; 0], "{inside}");
        let php = text[..2000].replace('/', "\\/");
        let at = 1000 + php[1000..].find('/').unwrap();
        let slashes = accident.replace('+', "/");
        assert_eq!(found(&over(&php, at, &slashes)), [""; 0], "{slashes}");
        // A picture in base64 twice.
        let twice = BASE64_STANDARD.encode(over(&text[..3000], 1500, accident));
        assert_eq!(found(twice.as_bytes()), [""; 0], "{accident}");
    }
    for end in ["\r\n", "\n", "\\n", "\\r\\n"] {
        for at in 0..(76 - 37) {
            let line = 10 * (76 + end.len());
            let accident = over(&lines(&text[..2000], end), line + at, &accidents[0]);
            assert_eq!(found(&accident), [""; 0], "{end:?} {at}");
            // Where a line begins is a boundary too.
            let accident = over(&lines(&text[..2000], end), line, &accidents[0][1..]);
            assert_eq!(found(&accident), [""; 0], "{end:?}");
        }
    }
}

#[test]
fn what_somebody_wrote_is_one() {
    let text = BASE64_STANDARD.encode(noise(3000, 1));
    for (token, rule) in [(crates(), "crates-io-token"), (bedrock(), "aws-bedrock-api-key")] {
        let all = |before: &str, after: &str| found(format!("{before}{token}{after}").as_bytes());
        for (before, after) in [
            (format!("{text}\n"), "\n".to_owned()),
            (format!("{text}\""), format!("\"{text}")),
            (format!("{text} "), format!(" {text}")),
            (format!("{text}="), format!("&{text}")),
            (
                format!("https://example.com/{}/", &text[..60].replace(['+', '/'], "x")),
                String::new(),
            ),
            ("/a/longer/path/of/some/project/with/many/parts".repeat(9) + "/", String::new()),
            ("https://example.com/".to_owned(), format!("/{text}")),
            (format!("{}/", &text[..200]), String::new()),
        ] {
            assert_eq!(all(&before, &after), [rule], "{before}…{after}");
        }
        // A list of them, one a line.
        let list = format!("{token}\n").repeat(40);
        assert_eq!(found(list.as_bytes()), [rule]);
        // Behind a list of names, and behind base64 without an end of its own, also in JSON.
        let names: String = (0..40)
            .map(|n| format!("Some_Name{n}{}\n", &text[n..n + n % 7].replace(['+', '/'], "Z")))
            .collect();
        for before in [names, lines(&text[..760], "\n")] {
            let listed = format!("{before}{token}\n");
            assert_eq!(found(listed.as_bytes()), [rule], "{listed}");
            let listed = listed.replace('\n', "\\n");
            assert_eq!(
                found(format!("{{\"content\":\"{listed}\"}}").as_bytes()),
                [rule],
                "{listed}"
            );
        }
        // Encoded as a whole.
        let whole = BASE64_STANDARD.encode(format!("{{\"token\":\"{token}\"}}"));
        assert_eq!(found(format!("{text} {whole} {text}").as_bytes()), [rule]);
        let whole = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"token\":\"{token}\"}}"));
        assert_eq!(found(whole.as_bytes()), [rule]);
    }
    // A token with characters that this noise has not.
    let token = format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3");
    assert_eq!(found(format!("{text}/{token}/{text}").as_bytes()), ["github-token"]);
    // Known values count wherever they are.
    assert_eq!(found(&over(&text, 1000, &format!("/{VALUE}/"))), ["API_TOKEN"]);
}
