//! The body of a request whose length is not known beforehand.

use super::field::Field;
use super::{Code, Limits, line};

/// Fields that mean something to whoever frames, routes, authenticates or decodes a request.
/// In a trailer they come after that was decided.
const NEVER_LATE: [&str; 27] = [
    "api-key",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "private-token",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-forwarded-host",
];

/// Where in the chunks the connection is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Bytes and fields of trailers so far.
    trailers: (usize, usize),
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

impl Chunks {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.at, At::Done)
    }

    /// How many bytes pass: of a chunk what is there, of a line all or nothing.
    pub(super) fn push(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Code> {
        match &mut self.at {
            At::Data(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    self.at = At::DataEnd;
                }
                Ok(length)
            }
            At::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.at = At::Size;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Code::AmbiguousFraming),
            },
            At::Size => {
                let Some(end) = whole(bytes, limits.chunk_line, Code::AmbiguousFraming)? else {
                    return Ok(0);
                };
                self.at = match self.size(&bytes[..end - 2], limits)? {
                    0 => At::Trailer,
                    size => At::Data(size),
                };
                Ok(end)
            }
            At::Trailer => {
                let left = limits.trailers.saturating_sub(self.trailers.0);
                let Some(end) = whole(bytes, left, Code::HeaderTooLarge)? else { return Ok(0) };
                self.trailers.0 += end;
                self.trailer(&bytes[..end - 2], limits)?;
                Ok(end)
            }
            At::Done => Ok(0),
        }
    }

    /// Reads `size[;extensions]`.
    fn size(&mut self, text: &[u8], limits: &Limits) -> Result<u64, Code> {
        let end = memchr::memchr(b';', text).unwrap_or(text.len());
        let (digits, extensions) = text.split_at(end);
        let plain = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let visible = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        self.extensions += extensions.len();
        if !plain || !extensions.iter().all(visible) || self.extensions > limits.chunk_extensions {
            return Err(Code::AmbiguousFraming);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| Code::AmbiguousFraming)?;
        u64::from_str_radix(digits, 16).map_err(|_| Code::AmbiguousFraming)
    }

    fn trailer(&mut self, text: &[u8], limits: &Limits) -> Result<(), Code> {
        if text.is_empty() {
            self.at = At::Done;
            return Ok(());
        }
        self.trailers.1 += 1;
        if self.trailers.1 > limits.trailer_fields {
            return Err(Code::HeaderTooLarge);
        }
        let field = Field::parse(text)?;
        if is_never_late(field.name) {
            return Err(Code::AmbiguousFraming);
        }
        Ok(())
    }
}

/// Whether a field may not stand in a trailer.
pub(super) fn is_never_late(name: &[u8]) -> bool {
    NEVER_LATE.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
        || std::str::from_utf8(name).is_ok_and(super::asks_for_a_part)
}

/// Where the first line ends, if it ends within the bound.
fn whole(bytes: &[u8], bound: usize, refusal: Code) -> Result<Option<usize>, Code> {
    match line(&bytes[..bytes.len().min(bound)], 0).map_err(|_| Code::AmbiguousFraming)? {
        Some(end) => Ok(Some(end)),
        None if bytes.len() >= bound => Err(refusal),
        None => Ok(None),
    }
}
