//! What the tests pack that breaks, or goes on where it ends.

use flate2::{Compress, Compression, FlushCompress};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// DEFLATE that breaks behind all of a body.
pub(crate) fn broken_deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(2 * body.len() + 100);
    encoder.compress_vec(body, &mut out, FlushCompress::Sync).unwrap();
    // A block of a type that there is not.
    out.push(7);
    out
}

/// The same as a file of gzip.
pub(crate) fn broken_gzip(body: &[u8]) -> Vec<u8> {
    [b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &broken_deflate(body)[..]].concat()
}

/// A frame of zstd with a packed block, that goes on behind it.
pub(crate) fn unended_zstd(body: &[u8]) -> Vec<u8> {
    let mut frame = compress_to_vec(body, CompressionLevel::Fastest);
    let descriptor = frame[4];
    let single = descriptor & 0x20 != 0;
    let size = [usize::from(single), 2, 4, 8][usize::from(descriptor >> 6)];
    let block = 5 + usize::from(!single) + size;
    frame[block] &= !1;
    let length = u32::from_le_bytes([frame[block], frame[block + 1], frame[block + 2], 0]) >> 3;
    frame.truncate(block + 3 + length as usize);
    frame
}
