//! What the tests pack, in each coding: those of the library, and those of the program, which read this file
//! as one of theirs.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A frame of stored blocks of this size, with a window of so many KiB, by its exponent.
pub(crate) fn zstd(body: &[u8], window: u8, block: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window << 3];
    let pieces: Vec<&[u8]> = body.chunks(block).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let last = u32::from(number + 1 == pieces.len());
        let head = u32::try_from(piece.len()).unwrap() << 3 | last;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.extend_from_slice(piece);
    }
    frame
}

/// Stored meta-blocks, with a window of 64 KiB, and an empty last one.
pub(crate) fn brotli(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, piece) in body.chunks(60_000).enumerate() {
        // WBITS 16 (one bit 0) first; then ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1.
        let bits = (u32::try_from(piece.len()).unwrap() - 1) << 3 | 1 << 19;
        let bits = if number == 0 { bits << 1 } else { bits };
        out.extend_from_slice(&bits.to_le_bytes()[..3]);
        out.extend_from_slice(piece);
    }
    out.push(3);
    out
}
