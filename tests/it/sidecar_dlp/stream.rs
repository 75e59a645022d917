//! A body in pieces is the body as a whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::{BUILT_IN, HOST, Noise, found, github_token, today};

/// Feeds pieces; says what was found, and how much had been let through by then.
fn fed<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> (Vec<String>, usize) {
    let mut stream = BUILT_IN.stream(HOST, today());
    let (mut taken, mut passed) = (0, None);
    for piece in pieces {
        taken += piece.len();
        let before = taken - piece.len() - stream.hold_back().min(taken - piece.len());
        if stream.push(piece).is_err() {
            passed.get_or_insert(before);
        }
    }
    let passed = passed.unwrap_or(taken - stream.hold_back());
    let mut rules: Vec<String> = stream.end().into_iter().map(|finding| finding.rule).collect();
    rules.sort();
    (rules, passed)
}

/// A text, with a secret in some form in its middle.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let token = github_token();
    let forms = vec![
        token.clone(),
        STANDARD.encode(format!("a token is in here: {token} and more")),
        hex::encode(&token),
        token.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        token.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
        String::new(),
    ];
    let text = "[ -~\\n]{0,400}";
    (text, prop::sample::select(forms), text)
        .prop_map(|(before, form, after)| format!("{before} {form} {after}").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_split_finds_the_same(body in body(), cuts in prop::collection::vec(1..60_usize, 1..40)) {
        let whole = found(&BUILT_IN, &body);
        let mut cuts = cuts.iter().cycle();
        let mut rest = &body[..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(&fed(pieces.into_iter()).0, &whole);
        prop_assert_eq!(&fed(body.chunks(1)).0, &whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_it(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[A-Za-z0-9+/=_-]{0,80}".prop_map(String::into_bytes),
                "[0-9a-f]{0,80}".prop_map(String::into_bytes),
                "(%[0-9A-Fa-f]{0,2}|\\\\{1,3}[ux/]?[0-9a-f]{0,4}){0,9}".prop_map(String::into_bytes),
                "([ -~]\0){0,20}".prop_map(String::into_bytes),
                prop::sample::select(vec!["ghp_", "Z2hwX", "6768705f", "AKIA", "PRIVATE KEY", "sk-"])
                    .prop_map(|keyword| keyword.as_bytes().to_vec()),
            ],
            0..30,
        ),
    ) {
        let body = pieces.concat();
        prop_assert_eq!(&fed(body.chunks(7)).0, &found(&BUILT_IN, &body));
    }
}

#[test]
fn a_secret_is_found_wherever_windows_end_and_none_of_it_passes_before() {
    let token = github_token();
    let encoded = STANDARD.encode(format!("it is in here: {token}, and there is more"));
    let wide: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut noise = Noise(7);
    let filler: Vec<u8> =
        (0..300 << 10).map(|_| b"abcdefgh ijklm.\n"[noise.next() as usize % 16]).collect();
    // Around the borders of windows, and of what two of them share.
    for border in [112 << 10, 128 << 10, 224 << 10, 240 << 10] {
        for shift in [0, 1, 17, 39, 40, 77, 120] {
            for secret in [&token, &encoded, &wide] {
                let at = border - shift;
                let mut body = filler.clone();
                body[at] = b' ';
                body[at + 1..=at + secret.len()].copy_from_slice(secret.as_bytes());
                body[at + 1 + secret.len()] = b' ';
                let (rules, passed) = fed(body.chunks(4093));
                assert_eq!(rules, ["github-token"], "at {at}");
                assert!(passed <= at + 1, "{passed} bytes passed, and the secret is at {at}");
            }
        }
    }
}

#[test]
fn a_long_encoded_text_keeps_its_alignment_over_windows() {
    let mut text = "a line of a log that says nothing in particular\n".repeat(9000);
    text.insert_str(300_000, &github_token());
    text.insert(300_000, ' ');
    for before in 0..4 {
        let body = format!("{}{}", "=".repeat(before), STANDARD.encode(&text));
        let (rules, _) = fed(body.as_bytes().chunks(10_007));
        assert_eq!(rules, ["github-token"], "{before}");
        assert_eq!(found(&BUILT_IN, body.as_bytes()), rules);
    }
}

#[test]
fn memory_is_that_of_one_window() {
    let mut stream = BUILT_IN.stream(HOST, today());
    let piece = vec![b' '; 10_000];
    for _ in 0..60 {
        stream.push(&piece).unwrap();
        assert!(stream.hold_back() <= 128 << 10);
    }
    stream.finish().unwrap();
}

/// Flushed at any place, a stream holds nothing back and still finds what goes on behind it.
#[test]
fn a_secret_around_a_flush_is_found() {
    let token = github_token();
    for before in [0, 1, 4000, 20_000, 140_000] {
        for cut in [1, 7, token.len() - 1] {
            let mut stream = BUILT_IN.stream(HOST, today());
            let text = format!("{} {}", "word ".repeat(before / 5), &token[..cut]);
            assert!(stream.push(text.as_bytes()).is_ok());
            assert!(stream.flush().is_ok());
            assert_eq!(stream.hold_back(), 0);
            let rest = format!("{} ", &token[cut..]);
            assert!(stream.push(rest.as_bytes()).is_ok());
            assert_eq!(stream.hold_back(), rest.len(), "only what is new is held back");
            assert!(stream.flush().is_err(), "{before} {cut}");
        }
    }
}
