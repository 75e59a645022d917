//! Answers that are compressed although nothing says so, or that hold something compressed: it is looked
//! into as it passes.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::sidecar::dlp::begins_packed;

/// So much is looked into; more is a download and no answer that repeats a request.
const LOOKED_INTO: usize = 64 << 20;

/// So much of the text before is kept, for a value that is in two pieces.
const KEPT: usize = 2 << 10;

/// What is known of a text from its first bytes.
#[derive(Default)]
enum State {
    /// So few came that nothing is known.
    #[default]
    Begin,
    /// Nothing compressed is under way.
    Plain,
    Gzip(Box<MultiGzDecoder<Text>>),
    Zlib(Box<ZlibDecoder<Text>>),
    /// Without first bytes to tell it by, so only a text may be it that is it from its beginning.
    Raw(Box<DeflateDecoder<Text>>),
    /// A value is in it: nothing more of it passes.
    Held,
}

/// What looks into a text, if it is packed.
#[derive(Default)]
pub(super) struct Packed {
    state: State,
    begin: Vec<u8>,
    /// How much came out of all that was looked into.
    all: usize,
}

/// Unpacked text, of which only what was not looked at is kept.
#[derive(Default)]
struct Text {
    new: Vec<u8>,
    /// How much came since that was asked last.
    all: usize,
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever writes looks at it after each piece; a piece that unpacks to more is cut there.
        let room = (1_usize << 20).saturating_sub(self.new.len()).min(bytes.len());
        self.new.extend_from_slice(&bytes[..room]);
        self.all += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes given to a decoder at once: even at the highest ratio they unpack to less than is kept.
const STEP: usize = 512;

impl State {
    /// What a text is that begins so.
    fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(Text::default()))),
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
                Self::Zlib(Box::new(ZlibDecoder::new(Text::default())))
            }
            _ => Self::Raw(Box::new(DeflateDecoder::new(Text::default()))),
        }
    }

    /// Unpacks more; whether that went well, and what came out. Nothing: there is nothing to unpack.
    fn push(&mut self, step: &[u8]) -> Option<(bool, &mut Text)> {
        let (written, text) = match self {
            Self::Gzip(decoder) => {
                (decoder.write_all(step).and_then(|()| decoder.flush()), decoder.get_mut())
            }
            Self::Zlib(decoder) => {
                (decoder.write_all(step).and_then(|()| decoder.flush()), decoder.get_mut())
            }
            Self::Raw(decoder) => {
                (decoder.write_all(step).and_then(|()| decoder.flush()), decoder.get_mut())
            }
            Self::Begin | Self::Plain | Self::Held => return None,
        };
        Some((written.is_ok(), text))
    }
}

impl Packed {
    /// Takes the next piece. Whether it may pass.
    pub(super) fn passes(&mut self, piece: &[u8], holds: impl Fn(&[u8]) -> bool) -> bool {
        let begun;
        let mut piece = piece;
        if matches!(self.state, State::Begin) {
            self.begin.extend_from_slice(piece);
            if let [] | [0x1f | 0x78] = self.begin[..] {
                return true;
            }
            self.state = State::of(&self.begin);
            begun = std::mem::take(&mut self.begin);
            piece = &begun;
        }
        while !piece.is_empty() {
            if matches!(self.state, State::Held) {
                return false;
            }
            if matches!(self.state, State::Plain) {
                let Some(at) = begins_packed(piece).filter(|_| self.all < LOOKED_INTO) else {
                    return true;
                };
                piece = &piece[at..];
                self.state = State::of(piece);
            }
            let whole = piece;
            for step in whole.chunks(STEP) {
                piece = &piece[step.len()..];
                let Some((went_on, text)) = self.state.push(step) else { break };
                let found = holds(&text.new);
                let old = text.new.len().saturating_sub(KEPT);
                text.new.drain(..old);
                self.all += std::mem::take(&mut text.all);
                if found {
                    self.state = State::Held;
                    return false;
                }
                if !went_on || self.all > LOOKED_INTO {
                    // It is no such thing, or is at its end, or is too long.
                    let raw = matches!(self.state, State::Raw(_));
                    self.state = State::Plain;
                    // What is no raw deflate has been read for nothing.
                    piece = if raw { whole } else { piece };
                    break;
                }
            }
        }
        true
    }
}
