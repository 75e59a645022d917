use std::io::Write as _;

use flate2::Compression;

use super::*;
use crate::sidecar::breaking::{broken_deflate, broken_gzip, unended_zstd};
use crate::sidecar::dlp::coding::{self, Limits};
use crate::sidecar::packing::{brotli, deflate, gzip, zlib};

/// With a window of 128 KiB.
fn zstd(body: &[u8]) -> Vec<u8> {
    crate::sidecar::packing::zstd(body, 7, 100_000)
}

/// Text that repeats itself, but not at once.
fn text(length: usize) -> Vec<u8> {
    let words = (0_u32..)
        .flat_map(|number| format!("{} ", number.wrapping_mul(0x9e37_79b9) >> 9).into_bytes());
    words.take(length).collect()
}

fn samples(body: &[u8]) -> Vec<(Coding, Vec<u8>)> {
    vec![
        (Coding::Gzip, gzip(body)),
        (Coding::Deflate, zlib(body)),
        (Coding::Deflate, deflate(body)),
        (Coding::RawDeflate, deflate(body)),
        (Coding::Zstd, zstd(body)),
        (Coding::Brotli, brotli(body)),
    ]
}

/// In pieces of this size.
fn all(codings: &[Coding], body: &[u8], size: usize) -> Result<Vec<u8>, Unscannable> {
    let length = Some(body.len() as u64);
    let unpacker = Unpacker::new(codings, |_| u64::MAX, length, body, usize::MAX);
    let (mut unpacker, _) = unpacker.ok_or(Unscannable::TooLarge)?;
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        unpacker.push(piece, &mut |piece| out.extend_from_slice(piece))?;
    }
    unpacker.end(&mut |piece| out.extend_from_slice(piece))?;
    assert_eq!(unpacker.given(), out.len() as u64);
    Ok(out)
}

#[test]
fn every_coding_comes_off_in_pieces_of_any_size() {
    let body = text(300_000);
    for (coding, encoded) in samples(&body) {
        for size in [1, 7, 4096, 65_536, usize::MAX] {
            assert!(all(&[coding], &encoded, size).unwrap() == body, "{coding:?} {size}");
        }
    }
    let members = [gzip(b"one"), gzip(b"two")].concat();
    assert_eq!(all(&[Coding::Gzip], &members, 5).unwrap(), b"onetwo");
    let frames = [zstd(b"one"), zstd(b"two")].concat();
    assert_eq!(all(&[Coding::Zstd], &frames, 5).unwrap(), b"onetwo");
    for (coding, encoded) in samples(&body) {
        let twice = gzip(&encoded);
        assert!(all(&[coding, Coding::Gzip], &twice, 1000).unwrap() == body, "{coding:?} in gzip");
    }
}

/// What waits in a decoder has been searched by nobody, and its body goes on.
#[test]
fn a_decoder_gives_all_that_it_has_decoded() {
    // Each byte stands for several repeats, which end wherever the decoder's own window does.
    let body = [vec![b'a'; 300_000], text(1000)].concat();
    for (coding, encoded) in samples(&body).into_iter().filter(|one| one.0 != Coding::Zstd) {
        let unpacker = Unpacker::new(&[coding], |_| u64::MAX, None, &encoded, usize::MAX);
        let (mut unpacker, _) = unpacker.unwrap();
        for (at, byte) in encoded.iter().enumerate() {
            unpacker.push(&[*byte], &mut |_| {}).unwrap();
            let before = unpacker.given();
            let _ = unpacker.push(&[], &mut |_| {});
            assert_eq!(unpacker.given(), before, "{coding:?} {at}");
        }
    }
}

/// Also what it has when it finds that something is broken.
#[test]
fn all_that_was_decoded_before_an_error_is_given() {
    let all = |coding: Coding, encoded: &[u8], size: usize| {
        let unpacker = Unpacker::new(&[coding], |_| u64::MAX, None, encoded, usize::MAX);
        let (mut unpacker, mut out) = (unpacker.unwrap().0, Vec::new());
        let pushed = encoded
            .chunks(size)
            .try_for_each(|piece| unpacker.push(piece, &mut |piece| out.extend_from_slice(piece)));
        assert!(
            pushed.is_err() || unpacker.end(&mut |piece| out.extend_from_slice(piece)).is_err()
        );
        out
    };
    for length in [5, 20_000, 32_768, 40_000, 65_535, 70_001, 98_304, 120_000] {
        let body = text(length);
        for size in [100, 4096, usize::MAX] {
            let raw = broken_deflate(&body);
            assert!(all(Coding::RawDeflate, &raw, size) == body, "{length} {size}");
            assert!(all(Coding::Gzip, &broken_gzip(&body), size) == body, "{length} {size}");
            let mut zlib = zlib(&body);
            *zlib.last_mut().unwrap() ^= 1;
            assert!(all(Coding::Deflate, &zlib, size) == body, "{length} {size}");
            let zstd = unended_zstd(&body);
            assert!(all(Coding::Zstd, &zstd, size) == body[..length.min(128 << 10)], "{length}");
            // It has a last block with a byte of padding that is none.
            let mut brotli = brotli(&body);
            *brotli.last_mut().unwrap() = 0x83;
            assert!(all(Coding::Brotli, &brotli, size) == body, "{length} {size}");
        }
    }
}

#[test]
fn what_is_covered_was_given_but_for_a_window() {
    let body = text(200_000);
    // Frames of their own, with a window of 16 KiB.
    let mut encoded = zstd(&body);
    encoded[5] = 4 << 3;
    let length = encoded.len() as u64;
    let (mut unpacker, _) =
        Unpacker::new(&[Coding::Zstd], |_| u64::MAX, None, &encoded, usize::MAX).unwrap();
    unpacker.push(&encoded[..150_000], &mut |_| {}).unwrap();
    // A block of 100,000, of which the last bytes wait; the next one is not whole.
    assert_eq!(unpacker.given(), 100_000 - (16 << 10));
    assert_eq!((unpacker.covered(83_616), unpacker.settled()), (0, 0));
    unpacker.push(&encoded[150_000..], &mut |_| {}).unwrap();
    unpacker.end(&mut |_| {}).unwrap();
    assert_eq!((unpacker.given(), unpacker.covered(99_999)), (200_000, 0));
    assert_eq!((unpacker.covered(200_000), unpacker.settled()), (150_000, length));
}

/// It takes for whole what decoding at once takes for whole, and nothing else.
#[test]
fn it_agrees_with_decoding_at_once() {
    let at_once = |coding: Coding, body: &[u8]| {
        let mut out = Vec::new();
        coding::decode(&[coding], body, Limits::default(), &mut |piece| {
            out.extend_from_slice(piece);
        })
        .map(|()| out)
    };
    for (coding, encoded) in samples(b"some text that is long enough to be cut") {
        for end in 1..encoded.len() {
            let cut = &encoded[..end];
            assert_eq!(
                all(&[coding], cut, 3).is_ok(),
                at_once(coding, cut).is_ok(),
                "{coding:?} {end}"
            );
        }
        for more in [&b"\0"[..], b"and more", &encoded] {
            let more = [&encoded[..], more].concat();
            assert_eq!(all(&[coding], &more, 3).ok(), at_once(coding, &more).ok(), "{coding:?}");
        }
        for at in 0..encoded.len() {
            let mut changed = encoded.clone();
            changed[at] ^= 0x41;
            assert_eq!(
                all(&[coding], &changed, 3).ok(),
                at_once(coding, &changed).ok(),
                "{coding:?} {at}"
            );
        }
    }
}

#[test]
fn a_header_of_gzip_may_hold_a_name_and_a_comment() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("notes.txt")
        .comment("of no matter")
        .extra(b"extra".to_vec())
        .write(Vec::new(), Compression::default());
    encoder.write_all(b"text").unwrap();
    let encoded = encoder.finish().unwrap();
    for size in [1, 20, 1000] {
        assert_eq!(all(&[Coding::Gzip], &encoded, size).unwrap(), b"text");
    }
    let mut endless = encoded[..10].to_vec();
    endless.resize(1 << 20, b'x');
    assert_eq!(all(&[Coding::Gzip], &endless, 4096), Err(Unscannable::Corrupt(Coding::Gzip)));
}

#[test]
fn what_unpacks_to_more_than_may_be_is_too_large() {
    let zeros = gzip(&vec![0; 8 << 20]);
    let too_large = |most: fn(u64) -> u64, length: Option<u64>| {
        let (mut unpacker, _) =
            Unpacker::new(&[Coding::Gzip], most, length, &zeros, usize::MAX).unwrap();
        let ended = zeros.chunks(512).try_for_each(|piece| unpacker.push(piece, &mut |_| {}));
        assert!(unpacker.given() <= most(zeros.len() as u64), "{}", unpacker.given());
        ended == Err(Unscannable::TooLarge)
    };
    assert!(too_large(|_| 4 << 20, None));
    assert!(!too_large(|_| 8 << 20, None));
    // By its ratio: to the length that it says, or else to what has come.
    assert!(too_large(|length| 100 * length, Some(zeros.len() as u64)));
    assert!(!too_large(|length| (1100 * length).max(1 << 20), Some(zeros.len() as u64)));
}

#[test]
fn memory_is_known_beforehand() {
    let needed = |coding: Coding, begin: &[u8]| {
        Unpacker::new(&[coding], |_| 0, None, begin, usize::MAX).map(|(_, needed)| needed)
    };
    assert_eq!(needed(Coding::Gzip, b""), Some(LITTLE));
    // WBITS of 16, 18, 24 and 10.
    for (begin, bits) in [(0, 16), (3, 18), (0x0f, 24), (0x21, 10), (1, 17)] {
        assert_eq!(needed(Coding::Brotli, &[begin]), Some(LITTLE + (1 << bits)), "{begin}");
    }
    let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3];
    assert_eq!(needed(Coding::Zstd, &frame(20)), Some(LITTLE + (2 << 20)));
    assert_eq!(
        needed(Coding::Zstd, &frame(27)),
        None,
        "a window that no receiver may be asked for"
    );
    let (brotli, deep) = (Coding::Brotli, [Coding::Brotli, Coding::Gzip]);
    assert!(Unpacker::new(&[brotli], |_| 0, None, &[0x0f], 8 << 20).is_none());
    assert!(Unpacker::new(&deep, |_| 0, None, b"", 8 << 20).is_none());
    // No later frame gets more than the first one said.
    let frames = [zstd(b"one"), frame(20).to_vec(), vec![1, 0, 0]].concat();
    assert_eq!(all(&[Coding::Zstd], &frames, 100), Err(Unscannable::TooLarge));
}

/// Members of a zip: how each is packed, what its header says, and what is behind it.
fn zip(members: &[(&[u8], bool, Behind)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, deflated, behind) in members {
        let packed = if *deflated { deflate(text) } else { text.to_vec() };
        let later = *behind != Behind::Nothing;
        let large = *behind == Behind::Large;
        let length = u32::try_from(packed.len()).unwrap();
        out.extend(b"PK\x03\x04\x14\0");
        out.extend([if later { 8 } else { 0 }, 0, if *deflated { 8 } else { 0 }, 0]);
        out.extend([0; 8]);
        out.extend(if later { 0 } else { length }.to_le_bytes());
        out.extend([0; 4]);
        out.extend([5, 0, if large { 20 } else { 0 }, 0]);
        out.extend(b"a.txt");
        if large {
            out.extend([1, 0, 16, 0]);
            out.extend([0; 16]);
        }
        out.extend(&packed);
        match behind {
            Behind::Nothing => {}
            Behind::Marked => out.extend(b"PK\x07\x08............"),
            Behind::Bare => out.extend(b"............"),
            Behind::Large => out.extend(b"PK\x07\x08...................."),
        }
    }
    out.extend(b"PK\x01\x02 and all the rest, PK\x05\x06................\x08\0 comment");
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    Marked,
    Bare,
    Large,
}

#[test]
fn the_members_of_a_zip_come_out_as_it_comes() {
    let unzip = |zip: &[u8], size: usize| {
        let (mut unpacker, _) = Unpacker::zip(|_| u64::MAX, None);
        let mut out = Vec::new();
        for piece in zip.chunks(size) {
            unpacker.push(piece, &mut |piece| out.extend_from_slice(piece))?;
        }
        unpacker.end(&mut |piece| out.extend_from_slice(piece))?;
        Ok::<_, Unscannable>((out, unpacker.reason()))
    };
    let (first, second) = (text(100_000), text(30_000).repeat(3));
    let all = zip(&[
        (&first, true, Behind::Nothing),
        (&second, false, Behind::Nothing),
        (b"", false, Behind::Nothing),
        (&second, true, Behind::Marked),
        (&first, true, Behind::Bare),
        (b"", true, Behind::Large),
        (&first, true, Behind::Large),
    ]);
    let whole = unzip(&all, all.len()).unwrap();
    assert_eq!(whole.1, None);
    for part in [&first, &second] {
        let found = memchr::memmem::find_iter(&whole.0, &part[..]).count();
        assert!(found >= 2, "{found}");
    }
    assert!(whole.0.ends_with(b"\x08\0 comment"));
    for size in [1, 7, 4096, 65_536] {
        assert!(unzip(&all, size).unwrap() == whole, "{size}");
    }
    let changed = |at: usize, byte: u8| {
        let mut zip = zip(&[(&first, true, Behind::Nothing), (&second, false, Behind::Nothing)]);
        zip[at] = byte;
        zip
    };
    let reason = |zip: &[u8]| unzip(zip, 1000).unwrap().1;
    assert_eq!(reason(&changed(6, 1)), Some(Unscanned::Encrypted));
    assert_eq!(reason(&changed(8, 12)), Some(Unscanned::Format));
    // Its length is not known before its end; its header is none; it is cut off.
    for broken in [zip(&[(&first, false, Behind::Marked)]), changed(2, 9), all[..50_000].to_vec()] {
        assert_eq!(unzip(&broken, 1000), Err(Unscannable::Corrupt(Coding::RawDeflate)));
    }
}
