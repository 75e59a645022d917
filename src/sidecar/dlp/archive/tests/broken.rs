//! What breaks is searched as far as it goes, and told.

use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::sidecar::breaking::{broken_deflate, broken_gzip, unended_zstd};
use crate::sidecar::dlp::Bounds;

/// What is found, and why not all of it was looked into.
#[track_caller]
fn outcome(body: &[u8]) -> (usize, Option<Unscanned>) {
    let report = scan(&[], body).unwrap();
    (report.findings.len(), report.unscanned)
}

const BROKEN: (usize, Option<Unscanned>) = (1, Some(Unscanned::Broken));

fn broken_zlib(text: &[u8]) -> Vec<u8> {
    [b"x\x9c", &broken_deflate(text)[..]].concat()
}

/// Zlib with a sum that is not its own.
fn missummed(text: &[u8]) -> Vec<u8> {
    let mut zlib = zlib(text);
    *zlib.last_mut().unwrap() ^= 1;
    zlib
}

#[test]
fn what_breaks_is_searched_up_to_there_and_told() {
    let text = text();
    let gzip = broken_gzip(&text);
    // As much as is worth a code of its own for each letter.
    let numbers = (0..3000_u32).map(|number| number.wrapping_mul(0x9e37_79b9) >> 9);
    let long: String = numbers.map(|number| format!("{number} ")).collect();
    let zstd = unended_zstd(&[long.as_bytes(), &text].concat());
    for (name, packed) in [("gzip", &gzip), ("zstd", &zstd)] {
        assert!(memchr::memmem::find(packed, b"ghp_").is_none(), "{name}");
        assert_eq!(outcome(packed), BROKEN, "{name}");
        assert_eq!(outcome(&[b"x", &packed[..]].concat()), BROKEN, "{name} behind a byte");
        let base64 = BASE64_STANDARD.encode([b"x", &packed[..]].concat());
        assert_eq!(outcome(base64.as_bytes()), BROKEN, "{name} in base64");
        let inner = super::zip("a.bin", packed, 8);
        assert_eq!(outcome(&inner), BROKEN, "{name} in a zip");
    }
    // The first bytes of zlib are so short that noise begins so: it is searched, and that is all.
    for packed in [missummed(&text), broken_zlib(&text), broken_zlib(token().as_bytes())] {
        assert_eq!(outcome(&[b"x", &packed[..]].concat()), (1, None));
        let cut = &packed[..packed.len() - 4];
        assert_eq!(outcome(&[b"x", cut].concat()).0, 1);
    }
    let long = [&text[..], &noise(20_000)].concat();
    assert_eq!(outcome(&[b"x", &broken_zlib(&long)[..]].concat()), (1, None));
    // One with a dictionary, of which nothing comes.
    let frame = b"\x28\xb5\x2f\xfd\x21\x07\x10\x79\0\0 some bytes or other".to_vec();
    assert_eq!(outcome(&[b"x", &frame[..]].concat()), (0, Some(Unscanned::Broken)));
}

#[test]
fn what_a_body_in_a_coding_was_decoded_to_is_searched_where_it_breaks() {
    let text = text();
    let raw = broken_deflate(&text);
    let cases = [
        (vec![Coding::Gzip], broken_gzip(&text)),
        (vec![Coding::Deflate], raw),
        (vec![Coding::Zstd], unended_zstd(&text)),
        (vec![Coding::Brotli], [&brotli(&text)[..], b"x"].concat()),
        (vec![Coding::Zstd, Coding::Gzip], broken_gzip(&unended_zstd(&text))),
    ];
    for (codings, body) in cases {
        let scanner = names::scanner();
        let bounds = Bounds { limits: Limits::default(), over: &AtomicBool::new(false) };
        let (report, ended) =
            scanner.scan_as_far("example.com", names::today(), &codings, &body, bounds);
        assert!(ended.is_err(), "{codings:?}");
        assert_eq!(report.findings.len(), 1, "{codings:?}");
    }
}

#[test]
fn zlib_may_begin_with_blocks_that_are_empty() {
    let text = text();
    for count in [100, 820, 3000] {
        let empty = b"\0\0\0\xff\xff".repeat(count);
        let body = [b"x\x9c", &empty[..], &zlib(&text)[2..]].concat();
        assert_eq!(outcome(&[b"-", &body[..]].concat()), (1, None), "{count}");
        let base64 = BASE64_STANDARD.encode(&body);
        assert_eq!(outcome(format!("a={base64}").as_bytes()), (1, None), "{count} in base64");
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut seed = 7_u64;
    let next = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    (0..length).map(next).collect()
}

/// A zip whose directory names its one member so often.
fn again(zip: &[u8], count: u16) -> Vec<u8> {
    let end = zip.len() - 22;
    let start = u32::from_le_bytes(zip[end + 16..end + 20].try_into().unwrap());
    let (members, entry) = zip[..end].split_at(usize::try_from(start).unwrap());
    let directory = entry.repeat(usize::from(count));
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    let counts = [count.to_le_bytes(), count.to_le_bytes()].concat();
    [members, &directory, b"PK\x05\x06\0\0\0\0", &counts, &size, &start.to_le_bytes(), &[0; 2]]
        .concat()
}

#[test]
fn members_that_are_stored_take_of_what_may_be_unpacked() {
    let zip = super::zip("a.txt", &b"words ".repeat(20_000), 0);
    assert_eq!(outcome(&again(&zip, 10)), (0, None));
    assert_eq!(scan(&[], &again(&zip, 10_000)), Err(Unscannable::TooLarge));
    // It looks like zlib until its codes are read.
    let fakes = super::zip("a.txt", &b"x\x9c\x05\0\0\0\0\0\0 ".repeat(100), 0);
    find::TRIED.set(0);
    assert_eq!(outcome(&again(&fakes, 1000)), (0, Some(Unscanned::Many)));
    assert!(find::TRIED.get() <= 1100, "{}", find::TRIED.get());
}

#[test]
fn base64_that_begins_like_hex_is_none() {
    let packed = [b"x", &gzip(&text())[..]].concat();
    let base64 = BASE64_STANDARD.encode(&packed);
    assert!(base64.starts_with("eB+"));
    assert_eq!(outcome(base64.as_bytes()), (1, None));
}

#[test]
fn what_stands_before_or_behind_hides_nothing() {
    // The last digit of the first is no part of the mark of a number.
    let hex = |text: &str| ::hex::encode(text);
    let body = format!("{}x{}", hex("words and words and words, up"), hex(&token()));
    assert_eq!(outcome(body.as_bytes()), (1, None));
    // What looks like the begin of an escape is none.
    let base64 = BASE64_STANDARD.encode([b"-", &gzip(&text())[..], b"--"].concat());
    let body = format!("a=%0A {}% and more", base64.trim_end_matches('='));
    assert_eq!(outcome(body.as_bytes()), (1, None));
}

#[test]
fn noise_is_told_of_nothing() {
    let noise = noise(2 << 20);
    for (number, piece) in noise.chunks(1 << 20).enumerate() {
        let (body, last) = piece.split_at(piece.len() - 4000);
        assert_eq!(outcome(body), (0, None), "{number}");
        assert_eq!(outcome(&gzip(body)), (0, None), "whose escapes are none");
        assert_eq!(outcome(&super::zip("a", body, 0)), (0, None));
        assert_eq!(outcome(&gzip(&gzip(last))), (0, None));
    }
}
