//! Content codings, taken off with bounds: gzip, deflate, br and zstd, each on top of the other.
//!
//! What cannot be decoded to its end is an error, and so is what follows that end: a receiver might
//! read what was not looked at here.

mod zstd;

use std::io::{self, BufReader, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use thiserror::Error;

use crate::sidecar::unpack::{Letters, Way};

/// More codings on top of each other are no body that somebody meant to send.
const LAYERS: usize = 3;

/// What is decoded at once.
const CHUNK: usize = 32 << 10;

/// The format of an encoded body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and RFC 1951 as some send it by mistake.
    Deflate,
    /// RFC 1951: what a zip holds. No name in HTTP.
    RawDeflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// A way to write bytes, as the next two: no names in HTTP but for parts of a form.
    Base64,
    /// Two digits for each byte.
    Hex,
    /// Quoted-printable.
    Quoted,
}

/// How much decoding may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Decoded bytes in all.
    pub output: u64,
    /// Decoded bytes for each encoded one. Does not count up to a megabyte.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // Text seldom shrinks to less than a fiftieth, and a body has 4 MiB at most.
        Self { output: 64 << 20, ratio: 200 }
    }
}

/// Below this, any ratio is let through: a small bomb is none.
const SMALL: u64 = 1 << 20;

/// Why a body cannot be looked into.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum Unscannable {
    /// A coding that is not known, or too many.
    #[error(
        "the content coding is none of gzip, deflate, br and zstd, or there are more than three"
    )]
    Coding,
    /// Not what the coding says, cut off, or followed by something else.
    #[error("the body is not {0:?} from its first to its last byte")]
    Corrupt(Coding),
    /// It would be larger than is allowed.
    #[error("the decoded body is larger than is allowed")]
    TooLarge,
}

impl Coding {
    /// Whether it packs nothing, but writes it otherwise.
    pub(in crate::sidecar) const fn is_writing(self) -> bool {
        self.way().is_some()
    }

    /// How it writes bytes, if it does no more.
    pub(in crate::sidecar) const fn way(self) -> Option<Way> {
        match self {
            Self::Base64 => Some(Way::Base64),
            Self::Hex => Some(Way::Hex),
            Self::Quoted => Some(Way::Quoted),
            _ => None,
        }
    }

    /// Reads a `Content-Encoding`: the codings in the order in which they were applied.
    ///
    /// # Errors
    ///
    /// A coding that is not known, or more than three.
    pub fn parse(header: &str) -> Result<Vec<Self>, Unscannable> {
        let mut codings = Vec::new();
        for name in header.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.to_ascii_lowercase().as_str() {
                "identity" => {}
                "gzip" | "x-gzip" => codings.push(Self::Gzip),
                "deflate" => codings.push(Self::Deflate),
                "br" => codings.push(Self::Brotli),
                "zstd" => codings.push(Self::Zstd),
                _ => return Err(Unscannable::Coding),
            }
        }
        if codings.len() > LAYERS { Err(Unscannable::Coding) } else { Ok(codings) }
    }
}

/// Decodes a body piece by piece. The sink stops it by returning false.
///
/// # Errors
///
/// Why it cannot be decoded to its end. What came before has gone to the sink.
pub fn decode(
    codings: &[Coding],
    body: &[u8],
    limits: Limits,
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<(), Unscannable> {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let most = limits.output.min(length.saturating_mul(limits.ratio).max(SMALL));
    let mut reader: Box<dyn Read + '_> = Box::new(body);
    for coding in codings.iter().rev() {
        reader = Box::new(Bounded { inner: layer(*coding, reader), coding: *coding, left: most });
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) if sink(&chunk[..length]) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let last = codings.first().copied().unwrap_or(Coding::Gzip);
                return Err(unscannable(&error).unwrap_or(Unscannable::Corrupt(last)));
            }
        }
    }
}

/// The reason that one of our own errors carries.
fn unscannable(error: &io::Error) -> Option<Unscannable> {
    error.get_ref()?.downcast_ref::<Unscannable>().cloned()
}

/// One coding taken off.
fn layer<'r>(coding: Coding, reader: Box<dyn Read + 'r>) -> Box<dyn Read + 'r> {
    let mut reader = BufReader::with_capacity(CHUNK, reader);
    if let Some(way) = coding.way() {
        return Box::new(Written { reader, letters: Letters::new(way), out: Vec::new(), at: 0 });
    }
    match coding {
        Coding::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Coding::Zstd => Box::new(zstd::Frames::new(reader)),
        Coding::Brotli => {
            let decoder = brotli_decompressor::Decompressor::new(reader, 4096);
            Box::new(Whole { decoder, rest: |decoder| decoder.get_mut() })
        }
        Coding::Deflate if is_zlib(&mut reader) => {
            Box::new(Whole { decoder: ZlibDecoder::new(reader), rest: |decoder| decoder.get_mut() })
        }
        _ => Box::new(Whole {
            decoder: DeflateDecoder::new(reader),
            rest: |decoder| decoder.get_mut(),
        }),
    }
}

/// Whether a zlib header stands here, by its own check.
fn is_zlib(reader: &mut BufReader<Box<dyn Read + '_>>) -> bool {
    use std::io::BufRead as _;
    match reader.fill_buf() {
        Ok([first, second, ..]) => {
            first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0
        }
        // Too short for either, or broken: then the decoder says so.
        _ => true,
    }
}

/// A decoder after whose end nothing may come.
struct Whole<D> {
    decoder: D,
    rest: fn(&mut D) -> &mut dyn Read,
}

impl<D: Read> Read for Whole<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        if length > 0 || buffer.is_empty() {
            return Ok(length);
        }
        // That of brotli tells of what is left only when it is asked once more.
        let more = self.decoder.read(buffer)? + (self.rest)(&mut self.decoder).read(&mut [0])?;
        if more > 0 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(0) }
    }
}

/// What is written in letters, up to its end. What follows that is no part of it.
struct Written<'r> {
    reader: BufReader<Box<dyn Read + 'r>>,
    letters: Letters,
    out: Vec<u8>,
    at: usize,
}

impl Read for Written<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::io::BufRead as _;
        while self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            let out = &mut self.out;
            let mut sink = |piece: &[u8]| {
                out.extend_from_slice(piece);
                Ok(())
            };
            let bytes = self.reader.fill_buf()?;
            let (length, ended) = (bytes.len(), bytes.is_empty());
            let taken = self.letters.push(bytes, &mut sink).map_err(io::Error::other)?;
            self.reader.consume(taken);
            if ended || taken < length {
                self.letters.end(&mut sink).map_err(io::Error::other)?;
                if self.out.is_empty() {
                    return Ok(0);
                }
            }
        }
        let length = buffer.len().min(self.out.len() - self.at);
        buffer[..length].copy_from_slice(&self.out[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A decoder that gives so much and no more, and whose errors are told apart.
struct Bounded<'r> {
    inner: Box<dyn Read + 'r>,
    coding: Coding,
    left: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer).map_err(|error| {
            let reason = unscannable(&error).unwrap_or(Unscannable::Corrupt(self.coding));
            io::Error::other(reason)
        })?;
        let given = u64::try_from(length).unwrap_or(u64::MAX);
        self.left =
            self.left.checked_sub(given).ok_or_else(|| io::Error::other(Unscannable::TooLarge))?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
