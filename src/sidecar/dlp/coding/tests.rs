use super::{Coding, Limits, Unscannable, decode};
use crate::sidecar::packing::{brotli, deflate, gzip, zlib};

/// A frame of one raw block: enough of zstd to be a frame.
fn zstd(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(body.len()).unwrap()];
    let block = u32::try_from(body.len()).unwrap() << 3 | 1;
    frame.extend_from_slice(&block.to_le_bytes()[..3]);
    frame.extend_from_slice(body);
    frame
}

fn all(codings: &[Coding], body: &[u8], limits: Limits) -> Result<Vec<u8>, Unscannable> {
    let mut out = Vec::new();
    let done = decode(codings, body, limits, &mut |chunk| {
        out.extend_from_slice(chunk);
    });
    done.map(|()| out)
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

#[test]
fn every_coding_comes_off() {
    let body = b"not a secret at all, only some text that is long enough";
    for (coding, encoded) in samples(body) {
        assert_eq!(all(&[coding], &encoded, Limits::default()).unwrap(), body, "{coding:?}");
    }
    let twice = gzip(&zstd(body));
    let both = all(&[Coding::Zstd, Coding::Gzip], &twice, Limits::default());
    assert_eq!(both.unwrap(), body);
    let members = [gzip(b"one"), gzip(b"two")].concat();
    assert_eq!(all(&[Coding::Gzip], &members, Limits::default()).unwrap(), b"onetwo");
    let frames = [zstd(b"one"), zstd(b"two")].concat();
    assert_eq!(all(&[Coding::Zstd], &frames, Limits::default()).unwrap(), b"onetwo");
}

#[test]
fn what_is_cut_off_or_followed_by_something_is_refused() {
    for (coding, encoded) in samples(b"some text that is long enough to be cut") {
        let corrupt = Err(Unscannable::Corrupt(coding));
        let cut = &encoded[..encoded.len() - 1];
        assert_eq!(all(&[coding], cut, Limits::default()), corrupt, "{coding:?} cut");
        let more = [&encoded[..], b"and more"].concat();
        assert_eq!(all(&[coding], &more, Limits::default()), corrupt, "{coding:?} and more");
        assert_eq!(all(&[coding], b"plain text", Limits::default()), corrupt, "{coding:?} plain");
    }
}

#[test]
fn a_bomb_stops_at_its_ratio_and_at_the_size() {
    let bomb = gzip(&vec![0; 32 << 20]);
    assert!(bomb.len() < 40 << 10);
    assert_eq!(all(&[Coding::Gzip], &bomb, Limits::default()), Err(Unscannable::TooLarge));
    let patient = Limits { output: 16 << 20, ratio: 100_000 };
    assert_eq!(all(&[Coding::Gzip], &bomb, patient), Err(Unscannable::TooLarge));
    let enough = Limits { output: 64 << 20, ratio: 100_000 };
    assert_eq!(all(&[Coding::Gzip], &bomb, enough).unwrap().len(), 32 << 20);
    // The outer layer counts, even if nothing comes of the inner one.
    let nested = gzip(&gzip(b"").repeat(1 << 18));
    let limits = Limits { output: 1 << 20, ratio: 100_000 };
    let coded = all(&[Coding::Gzip, Coding::Gzip], &nested, limits);
    assert_eq!(coded, Err(Unscannable::TooLarge));
}

#[test]
fn a_zstd_frame_may_not_ask_for_a_large_window() {
    // Window descriptor: 2^(10 + 17) bytes.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    assert_eq!(all(&[Coding::Zstd], &frame, Limits::default()), Err(Unscannable::TooLarge));
}

#[test]
fn a_header_names_codings_in_order() {
    assert_eq!(Coding::parse("GZIP , br"), Ok(vec![Coding::Gzip, Coding::Brotli]));
    assert_eq!(Coding::parse("identity"), Ok(Vec::new()));
    assert_eq!(Coding::parse(""), Ok(Vec::new()));
    assert_eq!(Coding::parse("compress"), Err(Unscannable::Coding));
    assert_eq!(Coding::parse("gzip,gzip,gzip,gzip"), Err(Unscannable::Coding));
}
