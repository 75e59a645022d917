//! Content codings: what a compressed body holds, within bounds.

use std::io::{self, Read};

use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Identity,
    /// In one way that can be undone here.
    Known(Known),
    /// In another way, or in several.
    Unknown,
}

/// A coding that can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// What the head says about the body.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.as_bytes().split(|byte| *byte == b',') {
                let coding = match name.trim_ascii().to_ascii_lowercase().as_slice() {
                    b"" | b"identity" => continue,
                    b"gzip" | b"x-gzip" => Self::Known(Known::Gzip),
                    b"deflate" => Self::Known(Known::Deflate),
                    b"br" => Self::Known(Known::Brotli),
                    b"zstd" => Self::Known(Known::Zstd),
                    _ => Self::Unknown,
                };
                found = if found == Self::Identity { coding } else { Self::Unknown };
            }
        }
        found
    }
}

/// Undoes a coding piece by piece, up to `limit` bytes.
///
/// # Errors
/// What `each` says, or `None` where the body cannot be undone, or becomes too large.
pub(super) fn decode<E>(
    coding: Known,
    body: &[u8],
    limit: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), Option<E>> {
    let mut reader: Box<dyn Read + '_> = match coding {
        Known::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
        // By name it is zlib's format; some send the bare one.
        Known::Deflate if body.first().is_some_and(|first| first & 0x0f == 8) => {
            Box::new(flate2::read::ZlibDecoder::new(body))
        }
        Known::Deflate => Box::new(flate2::read::DeflateDecoder::new(body)),
        Known::Brotli => Box::new(brotli_decompressor::Decompressor::new(body, 4096)),
        Known::Zstd => Box::new(Frames { rest: body, frame: None }),
    };
    let mut piece = vec![0; 16 * 1024];
    let mut all = 0_u64;
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(None),
        };
        all += count as u64;
        if all > limit {
            return Err(None);
        }
        each(&piece[..count]).map_err(Some)?;
    }
}

/// The largest window that is kept of what was decoded. A frame may ask for a hundred megabytes.
const ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// All frames of a body, one after the other.
struct Frames<'b> {
    rest: &'b [u8],
    frame: Option<Box<FrameDecoder>>,
}

impl Read for Frames<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let decoder = match &mut self.frame {
                Some(decoder) => decoder,
                None if self.rest.is_empty() => return Ok(0),
                none => {
                    if zstd_window(self.rest).is_none_or(|window| window > ZSTD_WINDOW) {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    let mut decoder = Box::new(FrameDecoder::new());
                    decoder.init(&mut self.rest).map_err(io::Error::other)?;
                    none.insert(decoder)
                }
            };
            if decoder.can_collect() == 0 && !decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(out.len());
                decoder.decode_blocks(&mut self.rest, strategy).map_err(io::Error::other)?;
            }
            let count = decoder.read(out)?;
            if count > 0 {
                return Ok(count);
            }
            if decoder.is_finished() {
                self.frame = None;
            }
        }
    }
}

/// The window that a frame asks for, as RFC 8878 writes it.
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = frame else { return None };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    if descriptor & 0x20 == 0 {
        let window = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * (window & 7));
    }
    // One segment: the window is the content.
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut number = [0; 8];
    number.get_mut(..length)?.copy_from_slice(rest.get(dictionary..dictionary + length)?);
    Some(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn whole(coding: Known, body: &[u8], limit: u64) -> Result<Vec<u8>, Option<()>> {
        let mut all = Vec::new();
        decode(coding, body, limit, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn each_coding_is_undone() {
        let text = b"correct horse battery staple".repeat(1000);
        let both = [gzip(&text[..100]), gzip(&text[100..])].concat();
        assert_eq!(whole(Known::Gzip, &both, 1 << 20).unwrap(), text);
        let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&text).unwrap();
        assert_eq!(whole(Known::Deflate, &writer.finish().unwrap(), 1 << 20).unwrap(), text);
        let mut writer =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&text).unwrap();
        assert_eq!(whole(Known::Deflate, &writer.finish().unwrap(), 1 << 20).unwrap(), text);
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let frame = ruzstd::encoding::compress_to_vec(text.as_slice(), level);
        let both = [frame.clone(), frame].concat();
        assert_eq!(whole(Known::Zstd, &both, 1 << 20).unwrap(), text.repeat(2));
        // `correct horse`, uncompressed, as brotli writes it.
        let brotli = b"\x0b\x06\x80correct horse\x03";
        assert_eq!(whole(Known::Brotli, brotli, 1 << 20).unwrap(), b"correct horse");
    }

    #[test]
    fn what_becomes_too_large_or_cannot_be_undone_is_refused() {
        let bomb = gzip(&vec![0; 4 << 20]);
        assert_eq!(whole(Known::Gzip, &bomb, 1 << 20), Err(None));
        assert_eq!(whole(Known::Gzip, &bomb[..bomb.len() - 9], 8 << 20), Err(None));
        for coding in [Known::Gzip, Known::Deflate, Known::Brotli, Known::Zstd] {
            assert_eq!(whole(coding, b"\xff\xffnot encoded at all", 1 << 20), Err(None));
        }
        // A window of 100 MiB.
        assert_eq!(whole(Known::Zstd, b"\x28\xb5\x2f\xfd\x00\x84", 1 << 20), Err(None));
        assert_eq!(decode(Known::Gzip, &gzip(b"x"), 9, |_| Err("no")), Err(Some("no")));
    }

    #[test]
    fn what_the_head_says() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            Coding::of(&headers)
        };
        assert_eq!(of(&[]), Coding::Identity);
        assert_eq!(of(&["identity"]), Coding::Identity);
        assert_eq!(of(&["GZip"]), Coding::Known(Known::Gzip));
        assert_eq!(of(&["identity, br"]), Coding::Known(Known::Brotli));
        for several in [&["gzip, br"][..], &["gzip", "gzip"], &["compress"], &["gzip;x"]] {
            assert_eq!(of(several), Coding::Unknown, "{several:?}");
        }
    }
}
