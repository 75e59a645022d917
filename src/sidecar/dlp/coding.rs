//! Content codings, taken off with bounds: gzip, deflate, br and zstd, each on top of the other.
//!
//! What cannot be decoded to its end is an error, and so is what follows that end: a receiver might
//! read what was not looked at here.

use thiserror::Error;

use crate::sidecar::unpack::{Unpacker, Way};

/// More codings on top of each other are no body that somebody meant to send.
const LAYERS: usize = 3;

/// What is decoded at once.
const CHUNK: usize = 4 << 10;

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
    /// It is told of a dictionary that is not here.
    #[error("the body is packed with a dictionary")]
    Dictionary,
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

/// Decodes a body piece by piece.
///
/// # Errors
///
/// Why it cannot be decoded to its end. What came before has gone to the sink.
pub fn decode(
    codings: &[Coding],
    body: &[u8],
    limits: Limits,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<(), Unscannable> {
    let taken = decode_begin(codings, body, limits, sink)?;
    match codings.last() {
        // What follows letters is no part of them.
        Some(coding) if taken < body.len() && !coding.is_writing() => {
            Err(Unscannable::Corrupt(*coding))
        }
        _ => Ok(()),
    }
}

/// The same of what something else may follow; says how much belongs to it.
///
/// # Errors
///
/// Why it cannot be decoded to its end. What came before has gone to the sink.
pub(super) fn decode_begin(
    codings: &[Coding],
    body: &[u8],
    limits: Limits,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<usize, Unscannable> {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let most = limits.output.min(length.saturating_mul(limits.ratio).max(SMALL));
    let mut unpacker = Unpacker::whole(codings, most).ok_or(Unscannable::TooLarge)?;
    let mut all = 0;
    for piece in body.chunks(CHUNK) {
        let taken = unpacker.some(piece, sink)?;
        all += taken;
        if taken < piece.len() {
            break;
        }
    }
    unpacker.end(sink)?;
    Ok(all)
}

#[cfg(test)]
mod tests;
