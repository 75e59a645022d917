//! Base64, hex and quoted-printable as they come within another text: up to the first byte that is none
//! of theirs.

use super::Sink;
use crate::sidecar::dlp::coding::Unscannable;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) enum Way {
    /// Either alphabet, over lines or not, within JSON or a form, too.
    Base64,
    Hex,
    /// RFC 2045.
    Quoted,
}

/// What the last byte was part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Letters,
    /// At the start of a line. Two dashes there begin the boundary of a form, although they are letters.
    Line,
    Dash,
    Padding,
    /// Behind a backslash.
    Escape,
    /// Within the digits of an escape: so many are to come, of this value.
    Digits(u8, u8),
    /// Within `=` and two digits: what has come of them.
    Mark,
    MarkDigit(u8),
    /// Behind `=` and a carriage return.
    MarkLine,
}

/// One text that is written so.
#[derive(Debug)]
pub(in crate::sidecar) struct Letters {
    way: Way,
    place: Place,
    bits: u32,
    count: u32,
    /// A line break, and a dash behind it, before which quoted-printable may end.
    held: Vec<u8>,
    out: Vec<u8>,
    ended: bool,
}

/// So much is given at once.
const PIECE: usize = 16 << 10;

impl Letters {
    pub(in crate::sidecar) const fn new(way: Way) -> Self {
        Self {
            way,
            place: Place::Line,
            bits: 0,
            count: 0,
            held: Vec::new(),
            out: Vec::new(),
            ended: false,
        }
    }

    /// Decodes as much of these bytes as belongs to it; says how much that is.
    pub(in crate::sidecar) fn push(
        &mut self,
        bytes: &[u8],
        sink: Sink<'_>,
    ) -> Result<usize, Unscannable> {
        let mut taken = 0;
        for piece in bytes.chunks(PIECE) {
            for byte in piece {
                if self.ended || !self.byte(*byte) {
                    self.ended = true;
                    break;
                }
                taken += 1;
            }
            if !self.out.is_empty() {
                sink(&self.out)?;
                self.out.clear();
            }
        }
        Ok(taken)
    }

    /// Nothing more comes.
    pub(in crate::sidecar) fn end(&mut self, sink: Sink<'_>) -> Result<(), Unscannable> {
        let held = std::mem::take(&mut self.held);
        if self.ended || held.is_empty() { Ok(()) } else { sink(&held) }
    }

    /// What the begin of a text stands for.
    pub(in crate::sidecar) fn begin(way: Way, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let _ = Self::new(way).push(bytes, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        out
    }

    /// Takes a byte. Whether it is part of it.
    fn byte(&mut self, byte: u8) -> bool {
        if self.way == Way::Quoted {
            return self.quoted(byte);
        }
        match self.place {
            Place::Letters | Place::Line => self.letter(byte),
            Place::Dash if byte == b'-' => false,
            Place::Dash => {
                self.place = Place::Letters;
                self.letter(b'-') && self.letter(byte)
            }
            Place::Padding => matches!(byte, b'=' | b'\r' | b'\n' | b' ' | b'\t'),
            Place::Escape => match byte {
                b'\\' => true,
                b'n' | b'r' | b't' => self.at(Place::Line),
                b'u' => self.at(Place::Digits(4, 0)),
                b'/' => {
                    self.place = Place::Letters;
                    self.letter(b'/')
                }
                _ => false,
            },
            Place::Digits(left, value) => {
                let Some(digit) = digit(byte) else { return false };
                let value = value << 4 | digit;
                if left > 1 {
                    return self.at(Place::Digits(left - 1, value));
                }
                self.place = Place::Letters;
                // One that stands for an escape is none.
                !matches!(value, b'\\' | b'%') && self.letter(value)
            }
            Place::Mark | Place::MarkDigit(_) | Place::MarkLine => false,
        }
    }

    #[inline]
    fn letter(&mut self, byte: u8) -> bool {
        let value = match self.way {
            Way::Hex => digit(byte),
            _ => six(byte),
        };
        if let Some(value) = value {
            if byte == b'-' && self.place == Place::Line {
                return self.at(Place::Dash);
            }
            self.place = Place::Letters;
            self.add(value, if self.way == Way::Hex { 4 } else { 6 });
            return true;
        }
        match byte {
            b'\r' | b'\n' | b' ' | b'\t' => self.at(Place::Line),
            b'=' => self.at(Place::Padding),
            b'\\' => self.at(Place::Escape),
            b'%' => self.at(Place::Digits(2, 0)),
            _ => false,
        }
    }

    fn add(&mut self, value: u8, width: u32) {
        self.bits = self.bits << width | u32::from(value);
        self.count += width;
        if self.count >= 8 {
            self.count -= 8;
            self.out.push((self.bits >> self.count & 0xff) as u8);
        }
    }

    fn quoted(&mut self, byte: u8) -> bool {
        match self.place {
            Place::Mark => match (byte, digit(byte)) {
                (b'\r', _) => self.at(Place::MarkLine),
                (b'\n', _) => self.at(Place::Line),
                (_, Some(high)) => self.at(Place::MarkDigit(high)),
                _ => {
                    self.out.push(b'=');
                    self.plain(byte)
                }
            },
            Place::MarkDigit(high) => {
                self.place = Place::Letters;
                if let Some(low) = digit(byte) {
                    self.out.push(high << 4 | low);
                    return true;
                }
                self.out.extend([b'=', b"0123456789ABCDEF"[usize::from(high)]]);
                self.plain(byte)
            }
            Place::MarkLine if byte == b'\n' => self.at(Place::Line),
            _ => self.plain(byte),
        }
    }

    /// A byte of quoted-printable as it stands, or the begin of what is not.
    fn plain(&mut self, byte: u8) -> bool {
        self.place = Place::Letters;
        match (&self.held[..], byte) {
            ([.., b'-'], b'-') => return false,
            ([], b'\r' | b'\n') | ([b'\r'], b'\n') | ([.., b'\n'], b'-') => {
                self.held.push(byte);
                return true;
            }
            _ => self.out.append(&mut self.held),
        }
        match byte {
            b'=' => self.at(Place::Mark),
            b'\r' | b'\n' => {
                self.held.push(byte);
                true
            }
            _ => {
                self.out.push(byte);
                true
            }
        }
    }

    const fn at(&mut self, place: Place) -> bool {
        self.place = place;
        true
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The six bits of a letter of base64, in either alphabet.
const fn six(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    /// What a text stands for, in pieces of this size, and how much of it that is.
    fn read(way: Way, text: &[u8], size: usize) -> (Vec<u8>, usize) {
        let (mut letters, mut out, mut taken) = (Letters::new(way), Vec::new(), 0);
        for piece in text.chunks(size) {
            taken += letters
                .push(piece, &mut |piece| {
                    out.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
        }
        let _ = letters.end(&mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        (out, taken)
    }

    #[test]
    fn every_way_to_write_it_is_read_to_its_end_in_pieces_of_any_size() {
        let plain: Vec<u8> = (0..=255).cycle().take(2000).collect();
        let base64 = BASE64_STANDARD.encode(&plain);
        let lines = |width: usize, with: &str| {
            let lines = base64.as_bytes().chunks(width);
            let lines: Vec<&str> = lines.map(|line| std::str::from_utf8(line).unwrap()).collect();
            lines.join(with)
        };
        let hex = ::hex::encode(&plain);
        let quoted: Vec<String> = plain
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' if *byte != b'=' => char::from(*byte).to_string(),
                byte => format!("={byte:02X}"),
            })
            .collect();
        let soft: Vec<String> = quoted.chunks(25).map(|line| line.concat()).collect();
        for (way, text, behind) in [
            (Way::Base64, base64.clone(), "\", \"a\": 1}"),
            (Way::Base64, lines(76, "\r\n"), "\r\n--b--\r\n"),
            (Way::Base64, lines(75, "\n    "), "\n--b--"),
            (Way::Base64, lines(64, "\\n"), "\"}"),
            (Way::Base64, lines(60, "\\r\\n"), "\"}"),
            (Way::Base64, lines(60, "\\\\n"), "\\\"}"),
            (Way::Base64, base64.replace('/', "\\/").replace('+', "\\u002B"), "\"}"),
            (Way::Base64, base64.replace('+', "%2B").replace('/', "%2f"), "&a=b"),
            (Way::Base64, BASE64_URL_SAFE_NO_PAD.encode(&plain), "&a=b"),
            (Way::Hex, hex, "\""),
            (Way::Quoted, quoted.concat(), "\r\n--b--"),
            (Way::Quoted, soft.join("=\r\n"), "\r\n--b--"),
        ] {
            let all = format!("{text}{behind}");
            for size in [1, 2, 3, 7, 1000, all.len()] {
                let (out, taken) = read(way, all.as_bytes(), size);
                assert!(out == plain, "{way:?} {size} {behind:?} {text}");
                assert!(taken >= text.len() && taken < all.len(), "{way:?} {size} {behind:?}");
            }
        }
        let (out, _) = read(Way::Quoted, b"a=3\r\n-b =zz\r\n", 1);
        assert_eq!(out, b"a=3\r\n-b =zz\r\n");
    }
}
