//! pkt-lines: how git's protocol frames what it says.

use std::io::{self, Read, Write};

/// The longest line, with the four digits that say how long it is.
pub(super) const LONGEST: usize = 65_520;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pkt {
    /// A line, as it came.
    Line(Vec<u8>),
    /// `0000`.
    Flush,
    /// `0001`.
    Delim,
    /// `0002`.
    End,
}

/// How long the frame is whose first four bytes these are; `None`: they begin no frame.
pub(super) fn length(digits: [u8; 4]) -> Option<usize> {
    let text = std::str::from_utf8(&digits).ok()?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(text, 16).ok().filter(|length| *length <= LONGEST && *length != 3)
}

/// Reads one frame of at most `most` bytes. `None`: what is read ended before it.
///
/// # Errors
/// When it is no frame, too long, or breaks off.
pub(super) fn read(from: &mut impl Read, most: usize) -> io::Result<Option<Pkt>> {
    let mut digits = [0; 4];
    let mut have = 0;
    while have < 4 {
        match from.read(&mut digits[have..])? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
    }
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    match length(digits).ok_or_else(|| wrong("it is no pkt-line"))? {
        0 => Ok(Some(Pkt::Flush)),
        1 => Ok(Some(Pkt::Delim)),
        2 => Ok(Some(Pkt::End)),
        length if length > most => Err(wrong("a pkt-line is too long")),
        length => {
            let mut line = vec![0; length - 4];
            from.read_exact(&mut line)?;
            Ok(Some(Pkt::Line(line)))
        }
    }
}

/// Adds a line to what is to be sent.
pub(super) fn line(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() + 4 <= LONGEST);
    out.extend_from_slice(format!("{:04x}", text.len() + 4).as_bytes());
    out.extend_from_slice(text);
}

/// `0000`.
pub(super) const FLUSH: &[u8] = b"0000";
/// `0001`.
pub(super) const DELIM: &[u8] = b"0001";

/// A stream within a side-band: 1 is data, 2 is for a person to read.
pub(super) fn band(to: &mut impl Write, band: u8, bytes: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for piece in bytes.chunks(LONGEST - 5) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(piece);
    }
    to.write_all(&out)
}

/// A line without the line break at its end.
pub(super) fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let mut text = Vec::new();
        line(&mut text, b"hello\n");
        text.extend_from_slice(b"000000010002");
        let mut from = text.as_slice();
        let mut next = || read(&mut from, LONGEST).unwrap();
        assert_eq!(next(), Some(Pkt::Line(b"hello\n".to_vec())));
        assert_eq!((next(), next(), next()), (Some(Pkt::Flush), Some(Pkt::Delim), Some(Pkt::End)));
        assert_eq!(next(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for text in ["GET /", "0003", "ffff", "00", "+00a123456", "0009a", "0xa1"] {
            assert!(read(&mut text.as_bytes(), LONGEST).is_err(), "{text}");
        }
        assert!(read(&mut &b"0010123456789012"[..], 8).is_err(), "longer than is wanted");
    }
}
