use time::Month;

use super::*;
use crate::sidecar::breaking::{broken_gzip, unended_zstd};
use crate::sidecar::dlp::{Known, Rules};
use crate::sidecar::packing::{deflate, gzip, zlib};

/// Not written as one word, so that this file is itself no finding.
fn token() -> Vec<u8> {
    format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3").into_bytes()
}

pub(super) fn opener(room: bool, most: fn(u64) -> u64) -> Opener {
    let room: Room = Arc::new(move |_| room.then(|| Box::new(()) as Box<_>));
    Opener::new(room, 17 << 20, most, None)
}

/// Enough for what is not meant to be too much.
pub(super) fn enough(_: u64) -> u64 {
    2 << 20
}

pub(super) fn scanner(opener: Opener) -> BodyScanner {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}'\nkeywords = ['ghp_']",
    );
    let scanner = Scanner::new(Arc::new(rules.unwrap()), Arc::new(Known::default()), Vec::new());
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    Arc::new(scanner).stream("example.com", today).opening(opener)
}

fn text(length: usize) -> Vec<u8> {
    b"nothing to see here, only words\n".iter().copied().cycle().take(length).collect()
}

/// Not packed well, so that what is packed is long.
fn noise(length: usize) -> Vec<u8> {
    let numbers = (0_u32..).map(|number| number.wrapping_mul(0x9e37_79b9));
    let letters = numbers.map(|number| b'a' + u8::try_from(number >> 28).unwrap());
    letters.take(length).collect()
}

/// With a window of 32 KiB.
fn zstd(body: &[u8]) -> Vec<u8> {
    crate::sidecar::packing::zstd(body, 5, 10_000)
}

/// A zip of one member, with a comment behind its directory.
fn zip(body: &[u8], deflated: bool) -> Vec<u8> {
    let data = if deflated { deflate(body) } else { body.to_vec() };
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    let method = if deflated { 8 } else { 0 };
    let common = [&[20, 0, 0, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &length, &length].concat();
    let local = [b"PK\x03\x04", &common[..], &[5, 0, 0, 0], b"a.txt"].concat();
    let mut out = [&local[..], &data].concat();
    out.extend(b"PK\x01\x02\x14\0");
    out.extend(&common);
    out.extend([5, 0]);
    out.extend([0; 16]);
    out.extend(b"a.txt");
    out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0\0\0\0\0\0\0\0\0\x07\0comment");
    out
}

/// What is found in a body in pieces of this size, and why not all of it was looked into.
fn search(opener: Opener, body: &[u8], size: usize) -> (usize, Option<Unscanned>) {
    let mut scanner = scanner(opener);
    for piece in body.chunks(size) {
        let _ = scanner.push(piece);
    }
    scanner.close();
    (scanner.findings().len(), scanner.unscanned())
}

#[track_caller]
fn finds(body: &[u8]) {
    for size in [1000, 50_000, usize::MAX] {
        assert_eq!(search(opener(true, enough), body, size), (1, None), "{size}");
    }
}

#[test]
fn what_is_packed_within_a_body_is_opened() {
    let part = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n";
    let within = [&noise(200_000)[..], b"\n", &token(), b"\n", &noise(100_000)].concat();
    for packed in
        [gzip(&within), zlib(&within), zstd(&within), zip(&within, true), zip(&within, false)]
    {
        finds(&[&part[..], &packed, b"\r\n--b--\r\n"].concat());
        // Behind others of the same and of another kind, and what is behind it is searched too.
        let nothing = noise(150_000);
        finds(&[&part[..], &gzip(&nothing), b"\r\n--b\r\n", &packed, b"\r\n--b--\r\n"].concat());
        finds(&[&part[..], &zip(&nothing, true), b"\r\n--b\r\n", &packed, b"\r\n"].concat());
        finds(&[&packed[..], &zip(&nothing, true), b"\r\n--b\r\n", &packed].concat());
    }
    let clean = gzip(&noise(200_000));
    finds(&[&part[..], &clean, b"\r\n--b\r\n\r\n", &token(), b"\r\n", &clean].concat());
    finds(&[&part[..], &gzip(&zip(&within, true)), b"\r\n--b--\r\n"].concat());
    // As git sends its objects.
    let objects: Vec<u8> = (0..900).flat_map(|_| zlib(&text(100))).collect();
    finds(&[b"PACK\0\0\0\x02", &objects[..], &zlib(&within), &[7; 20]].concat());
}

#[test]
fn what_is_not_opened_has_a_reason() {
    let body = noise(200_000);
    let reason = |body: &[u8]| {
        let (found, reason) = search(opener(true, enough), body, 4096);
        assert_eq!(found, 0);
        reason
    };
    let amid = |packed: &[u8]| [b"part\r\n", packed, b"\r\n", &text(5000)].concat();
    for packed in [gzip(&body), zlib(&body), zstd(&body), zip(&body, true), zip(&body, false)] {
        assert_eq!(reason(&amid(&packed)), None);
        assert_eq!(reason(&amid(&amid(&gzip(&packed)))), None);
        assert_eq!(reason(&amid(&packed[..packed.len() / 2])), Some(Unscanned::Broken));
        assert_eq!(reason(&packed[..packed.len() / 2]), Some(Unscanned::Broken));
        assert_eq!(reason(&amid(&gzip(&gzip(&packed)))), Some(Unscanned::Nested));
    }
    assert_eq!(reason(&amid(b"BZh91AY&SY")), Some(Unscanned::Format));
    let mut encrypted = zip(&body, true);
    encrypted[6] |= 1;
    assert_eq!(reason(&amid(&encrypted)), Some(Unscanned::Encrypted));
    // First bytes that stand there by chance.
    for chance in
        [&b"\x1f\x8b\x08"[..], b"\x1f\x8b\x08\0\0\0\0\0\0\0noise", b"\x28\xb5\x2f\xfd\x04!!!"]
    {
        assert_eq!(reason(&amid(chance)), None);
    }
    // There is no room for it, and more than there may be of all together.
    let packed = amid(&gzip(&body));
    assert_eq!(search(opener(false, enough), &packed, 4096), (0, Some(Unscanned::Streamed)));
    assert_eq!(search(opener(true, |_| 150_000), &packed, 4096), (0, Some(Unscanned::Large)));
    // All together are held to it, not each: what begins anew within what was unpacked once.
    let again: Vec<u8> =
        (0..20).flat_map(|_| [&gzip(&noise(20_000))[..], b"\r\n"].concat()).collect();
    let again = search(opener(true, |_| 150_000), &again, 4096);
    assert_eq!(again, (0, Some(Unscanned::Large)));
}

#[test]
fn what_breaks_is_searched_up_to_there_and_told() {
    let within = [&text(300)[..], &token(), b"\n", &text(300)].concat();
    let broken = (1, Some(Unscanned::Broken));
    let (gzip, zstd) = (broken_gzip(&within), unended_zstd(&within));
    for packed in [&gzip, &zstd] {
        for size in [1000, usize::MAX] {
            let found = |body: &[u8]| search(opener(true, enough), body, size);
            assert_eq!(found(packed), broken);
            assert_eq!(found(&[b"x", &packed[..]].concat()), broken);
            assert_eq!(found(&[b"x", &packed[..], &text(200_000)].concat()), broken);
            let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, packed);
            assert_eq!(found(format!("a={base64}&b=").as_bytes()), broken);
        }
    }
    // The first bytes of zlib stand in noise.
    let mut missummed = zlib(&within);
    *missummed.last_mut().unwrap() ^= 1;
    let cut = &missummed[..missummed.len() - 4];
    for (packed, why) in [(&missummed[..], None), (cut, Some(Unscanned::Broken))] {
        for before in [0, WINDOW - 3, WINDOW - 500, 3 * WINDOW - OVERLAP] {
            let body = [&text(before)[..], b"-", packed, &text(before)].concat();
            assert_eq!(search(opener(true, enough), &body, 5000).0, 1, "{before}");
            let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, packed);
            let body = [&text(before)[..], b"a=", base64.as_bytes()].concat();
            assert_eq!(search(opener(true, enough), &body, 5000), (1, why), "{before}");
        }
    }
    let dictionary = b"-\x28\xb5\x2f\xfd\x21\x07\x10\x79\0\0 some bytes or other";
    let told = search(opener(true, enough), dictionary, 1000);
    assert_eq!(told, (0, Some(Unscanned::Broken)));
    // What it seemed to hold is looked into as far as it is still there, and else that is told.
    let stored = |body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap();
        let head = [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes()].concat();
        [&head[..], body].concat()
    };
    let noise = noise(40_000);
    let far = [b"-x\x9c".to_vec(), stored(&noise), stored(&noise), stored(&noise), stored(&noise)];
    for (begin, told) in [(&far[..2], None), (&far[..], Some(Unscanned::Broken))] {
        let body = [&begin.concat()[..], &[7; 8], &text(1000), &token(), b"\n"].concat();
        assert_eq!(search(opener(true, enough), &body, 5000), (1, told));
    }
    // Empty blocks are no noise.
    let empty = b"\0\0\0\xff\xff".repeat(820);
    let body = [b"-x\x9c", &empty[..], &zlib(&within)[2..]].concat();
    assert_eq!(search(opener(true, enough), &body, 1000), (1, None));
    assert_eq!(
        search(opener(true, enough), &[&body, &text(200_000)[..]].concat(), 1000),
        (1, None)
    );
}

#[test]
fn zlib_in_base64_is_tried_so_often_and_then_told() {
    let fake = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        [&b"x\x9c\x05\0\0\0\0\0"[..], &[0; 24]].concat(),
    );
    let within = [&text(300)[..], &token(), b"\n"].concat();
    let real = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, zlib(&within));
    let few = format!("{}{real} ", format!("{fake} ").repeat(300));
    assert_eq!(search(opener(true, enough), few.as_bytes(), usize::MAX), (1, None));
    let many = format!("{}{real} ", format!("{fake} ").repeat(1200));
    let told = search(opener(true, enough), many.as_bytes(), usize::MAX);
    assert_eq!(told, (0, Some(Unscanned::Many)));
}

/// How much of something packed stands for all up to the end of the token.
fn up_to_token(packed: &[u8], unpack: &dyn Fn(&[u8]) -> Vec<u8>) -> usize {
    let has = |end: usize| memchr::memmem::find(&unpack(&packed[..end]), &token()).is_some();
    let (mut less, mut enough) = (0, packed.len());
    assert!(has(enough));
    while enough - less > 1 {
        let middle = usize::midpoint(less, enough);
        if has(middle) { enough = middle } else { less = middle }
    }
    enough
}

#[test]
fn nothing_goes_before_what_it_unpacks_to_is_searched() {
    use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
    let all = |mut read: &mut dyn std::io::Read| {
        let mut out = Vec::new();
        // It is cut off.
        let _ = std::io::Read::read_to_end(&mut read, &mut out);
        out
    };
    let within = [&noise(120_003)[..], b"\n", &token(), b"\n", &noise(150_000)].concat();
    type Unpack<'u> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'u>;
    let cases: [(Vec<u8>, Unpack<'_>); 4] = [
        (gzip(&within), Box::new(|packed| all(&mut GzDecoder::new(packed)))),
        (zlib(&within), Box::new(|packed| all(&mut ZlibDecoder::new(packed)))),
        (
            zip(&within, true),
            Box::new(|packed| all(&mut DeflateDecoder::new(packed.get(35..).unwrap_or_default()))),
        ),
        (
            zlib(&gzip(&within)),
            Box::new(|packed| all(&mut GzDecoder::new(&all(&mut ZlibDecoder::new(packed))[..]))),
        ),
    ];
    for (packed, unpack) in cases {
        let before = text(140_001);
        let end = before.len() + up_to_token(&packed, &*unpack);
        let body = [&before[..], &packed, &text(9000)].concat();
        for (size, flush) in [(999, false), (999, true), (70_000, false), (70_000, true)] {
            let mut scanner = scanner(opener(true, enough));
            let mut sent = 0;
            for piece in body.chunks(size) {
                let _ = scanner.push(piece);
                if flush {
                    let _ = scanner.flush();
                }
                sent += piece.len();
                let gone = sent - scanner.hold_back();
                assert!(!scanner.findings().is_empty() || gone < end, "{gone} of {end}");
            }
            scanner.close();
            assert!(!scanner.findings().is_empty());
        }
    }
}

#[test]
fn runs_are_looked_for_once_in_each_window() {
    for opens in [true, false] {
        let mut scanner = scanner(opener(true, enough));
        if !opens {
            scanner.opener = None;
        }
        let body = text(3 * WINDOW);
        decode::LOOKED.set(0);
        for piece in body.chunks(50_000) {
            scanner.push(piece).unwrap();
        }
        scanner.close();
        // Each window begins with the end of the one before.
        let windows = 1 + (body.len() - WINDOW).div_ceil(WINDOW - OVERLAP);
        assert_eq!(decode::LOOKED.get(), body.len() + (windows - 1) * OVERLAP);
    }
}

#[test]
fn what_is_only_kept_is_told_from_what_is_searched() {
    let mut scanner = scanner(opener(true, enough));
    let body = text(5 * WINDOW);
    let mut rest = &body[..];
    for length in [1, 1000, WINDOW - 1001, 1, 50_000, 70_000, WINDOW, 5, 40_000, 100_000] {
        let (piece, behind) = rest.split_at(length);
        let searches = scanner.searches(piece.len());
        decode::LOOKED.set(0);
        scanner.push(piece).unwrap();
        assert_eq!(searches, decode::LOOKED.get() > 0, "{length}");
        rest = behind;
    }
}
