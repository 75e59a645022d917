use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use time::{Date, Month};

use super::*;
use crate::sidecar::dlp::{Known, Rules, Scanner};

/// Not written as one word, so that this file is itself no finding.
fn token() -> Vec<u8> {
    format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3").into_bytes()
}

fn scanner() -> BodyScanner {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}'\nkeywords = ['ghp_']",
    );
    let scanner = Scanner::new(Arc::new(rules.unwrap()), Arc::new(Known::default()), Vec::new());
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    Arc::new(scanner).stream("example.com", today)
}

fn text(length: usize) -> Vec<u8> {
    b"nothing to see here, only words\n".iter().copied().cycle().take(length).collect()
}

// Every encoder below stores what it is given: so it is known which bytes are those of the token.

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// With a window of 32 KiB.
fn zstd(body: &[u8]) -> Vec<u8> {
    crate::sidecar::packing::zstd(body, 5, 10_000)
}

/// Bits of brotli, the lowest first.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, count: usize, value: u32) {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
    }

    /// A meta-block of stored bytes.
    fn stored(&mut self, bytes: &[u8]) {
        // ISLAST, MNIBBLES, MLEN - 1, ISUNCOMPRESSED.
        self.put(3, 0);
        self.put(16, u32::try_from(bytes.len() - 1).unwrap());
        self.put(1, 1);
        self.0.resize(self.0.len().next_multiple_of(8), false);
        for byte in bytes {
            self.put(8, u32::from(*byte));
        }
    }

    /// A meta-block of a byte that is repeated, in some sixteen bytes.
    fn repeated(&mut self, byte: u8, count: u32) {
        self.put(3, 0);
        self.put(16, count - 1);
        self.put(1, 0);
        // One type of block of each kind; NPOSTFIX and NDIRECT; the mode of a context; one tree of each.
        self.put(3 + 6 + 2 + 2, 0);
        // Codes of a single symbol: the byte; an insert of 22,594 bytes and more; a distance.
        for (width, symbol) in [(8, u32::from(byte)), (10, 504), (6, 0)] {
            self.put(4, 1);
            self.put(width, symbol);
        }
        self.put(24, count - 22_594);
    }

    fn bytes(mut self) -> Vec<u8> {
        // ISLAST, ISLASTEMPTY.
        self.put(2, 3);
        self.0.resize(self.0.len().next_multiple_of(8), false);
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        self.0.chunks(8).map(byte).collect()
    }
}

/// With a window of 64 KiB.
fn brotli(body: &[u8]) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(1, 0);
    for piece in body.chunks(60_000) {
        bits.stored(piece);
    }
    bits.bytes()
}

/// Sends a body in pieces of this size: before the token is found, the whole of it never goes on. With
/// `flush`, what is held back is let go after each piece.
#[track_caller]
fn holds(codings: &[Coding], body: &[u8], size: usize, flush: bool) {
    let token = token();
    let end = memchr::memmem::find(body, &token).expect("it is stored") + token.len();
    let (mut packed, _) = Packed::new(codings, Some(body.len() as u64), body).unwrap();
    let mut scanner = scanner();
    let mut sent = 0;
    for piece in body.chunks(size) {
        packed.data(piece, &mut scanner).unwrap();
        if flush {
            let _ = scanner.flush();
            packed.flushed(&scanner);
        }
        sent += piece.len();
        let gone = sent - packed.hold_back();
        let found = !scanner.findings().is_empty();
        assert!(found || gone < end, "{codings:?}, {size}: {gone} have gone, to {end} it is");
        if found {
            return;
        }
    }
    packed.end(&mut scanner).unwrap();
    let _ = scanner.flush();
    assert_eq!(scanner.findings().len(), 1, "{codings:?}, {size}");
}

/// A coding, and what applies it.
type Encoder = (Coding, fn(&[u8]) -> Vec<u8>);

const ENCODERS: [Encoder; 4] =
    [(Coding::Gzip, gzip), (Coding::Deflate, zlib), (Coding::Zstd, zstd), (Coding::Brotli, brotli)];

#[test]
fn no_token_goes_before_what_it_unpacks_to_is_searched() {
    let (before, after) = (text(20_003), text(150_000));
    let body = [&before[..], &token(), b"\n", &after].concat();
    for (coding, encode) in ENCODERS {
        for flush in [false, true] {
            for size in [4096, 65_536] {
                holds(&[coding], &encode(&body), size, flush);
            }
        }
        for (outer, also) in ENCODERS {
            holds(&[coding, outer], &also(&encode(&body)), 65_536, true);
        }
    }
}

#[test]
fn no_token_goes_in_pieces_of_a_byte() {
    let body = [&text(703)[..], &token(), b"\n", &text(300)].concat();
    for (coding, encode) in ENCODERS {
        for flush in [false, true] {
            holds(&[coding], &encode(&body), 1, flush);
        }
    }
}

/// A decoder of brotli that is asked for so much at once keeps what it has beyond that, and says that it
/// wants more to come.
#[test]
fn what_a_decoder_has_not_given_yet_is_not_searched() {
    for (repeats, size) in [(1, 4096), (3, 4096), (3, 65_536), (4, 50)] {
        let mut bits = Bits::default();
        // A window of 256 KiB.
        bits.put(4, 3);
        for _ in 0..repeats {
            bits.repeated(b'a', 60_000);
        }
        bits.stored(&[&b"\n"[..], &token(), b"\n"].concat());
        bits.stored(&text(8000));
        let body = bits.bytes();
        for flush in [false, true] {
            holds(&[Coding::Brotli], &body, size, flush);
            holds(&[Coding::Brotli, Coding::Gzip], &gzip(&body), size, flush);
        }
    }
}
