//! zstd: RFC 8878, block after block.
//!
//! The decoder gives nothing back before as much follows as its window is long, or the frame ends.

use std::io::Read as _;

use ruzstd::decoding::FrameDecoder;

use super::{PIECE, Sink};
use crate::sidecar::dlp::coding::{Coding, Unscannable};

/// RFC 9659: no larger window in a content coding.
const WINDOW: usize = 8 << 20;

/// No block gives more, or is longer.
const BLOCK: u32 = 128 << 10;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An empty block, the last of its frame.
const LAST: [u8; 3] = [1, 0, 0];

/// The window of a body that begins so; `None`: it is larger than there may be.
pub(super) fn window(begin: Option<&[u8]>) -> Option<usize> {
    let Some(begin) = begin else { return Some(WINDOW) };
    match header(begin) {
        Ok(Some((_, window))) => (window <= WINDOW).then_some(window),
        // Whatever it is, it is found out by decoding it.
        Ok(None) | Err(()) => Some(WINDOW),
    }
}

pub(super) struct Zstd {
    decoder: FrameDecoder,
    /// No frame may want a larger one.
    window: usize,
    place: Place,
    /// A sum follows this frame.
    summed: bool,
    frames: usize,
    /// How much this frame has given, and has decoded at most; and its own window.
    given: u64,
    decoded: u64,
    kept: u64,
    /// What has come of a header, of a block, or of the sum behind a frame.
    begin: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Block,
    Sum,
}

impl Zstd {
    pub(super) fn new(window: usize) -> Self {
        let decoder = FrameDecoder::new();
        let place = Place::Header;
        let begin = Vec::new();
        Self {
            decoder,
            window,
            place,
            summed: false,
            frames: 0,
            given: 0,
            decoded: 0,
            kept: 0,
            begin,
        }
    }

    /// How much it may have decoded and not given yet: no more than its window.
    pub(super) fn owes(&self) -> u64 {
        match self.place {
            Place::Block => self.decoded.saturating_sub(self.given).min(self.kept),
            Place::Header | Place::Sum => 0,
        }
    }

    /// Whether all that came is decoded and given.
    pub(super) fn is_settled(&self) -> bool {
        self.begin.is_empty() && self.owes() == 0
    }

    /// Says how much of these bytes belongs to it.
    pub(super) fn push(&mut self, all: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        let corrupt = Unscannable::Corrupt(Coding::Zstd);
        let mut bytes = all;
        loop {
            let wanted = match self.place {
                Place::Header => match header(&self.begin) {
                    // Behind a frame it may be something else that begins.
                    Err(()) if self.frames > 0 => {
                        let taken = all.len() - bytes.len();
                        let taken = taken.saturating_sub(self.begin.len());
                        self.begin.clear();
                        return Ok(taken);
                    }
                    Err(()) => return Err(corrupt),
                    Ok(None) => self.begin.len() + 1,
                    Ok(Some((_, window))) if window > self.window => {
                        return Err(Unscannable::TooLarge);
                    }
                    Ok(Some((length, _)))
                        if self.begin.len() >= length && self.begin[4] & 3 != 0 =>
                    {
                        // By chance the first bytes stand in many a program; a block behind them does not.
                        match self.begin.get(length..length + 3) {
                            None => length + 3,
                            Some(block) => {
                                let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
                                let fits = block >> 1 & 3 != 3 && block >> 3 <= BLOCK;
                                return Err(if fits { Unscannable::Dictionary } else { corrupt });
                            }
                        }
                    }
                    Ok(Some((length, _))) => length,
                },
                Place::Block => match self.begin[..] {
                    [a, b, c, ..] => {
                        let block = u32::from_le_bytes([a, b, c, 0]);
                        if block >> 3 > BLOCK {
                            return Err(corrupt);
                        }
                        // One of a single byte, repeated, has that byte.
                        let size = if block >> 1 & 3 == 1 { 1 } else { block >> 3 };
                        3 + size as usize
                    }
                    _ => 3,
                },
                Place::Sum => 4,
            };
            if self.begin.len() < wanted {
                if bytes.is_empty() {
                    return Ok(all.len());
                }
                let (now, later) = bytes.split_at(bytes.len().min(wanted - self.begin.len()));
                self.begin.extend_from_slice(now);
                bytes = later;
                continue;
            }
            self.step(sink).ok_or_else(|| corrupt.clone())??;
            self.begin.clear();
        }
    }

    /// Works on what is there as a whole.
    fn step(&mut self, sink: Sink<'_>) -> Option<Result<(), Unscannable>> {
        self.place = match self.place {
            Place::Header => {
                self.decoder.reset(&self.begin[..]).ok()?;
                self.summed = self.begin[4] & 4 != 0;
                let (_, window) = header(&self.begin).ok()??;
                (self.given, self.decoded, self.kept) = (0, 0, window as u64);
                Place::Block
            }
            Place::Block => {
                self.decoder.decode_from_to(&self.begin, &mut []).ok()?;
                self.decoded = self.decoded.saturating_add(self.block());
                if let Err(error) = self.rest(sink) {
                    return Some(Err(error));
                }
                match (self.begin[0] & 1 == 1, self.summed) {
                    (false, _) => Place::Block,
                    (true, true) => Place::Sum,
                    (true, false) => self.next_frame(),
                }
            }
            Place::Sum => self.next_frame(),
        };
        Some(Ok(()))
    }

    /// How much the block that is there gives at most.
    fn block(&self) -> u64 {
        let [a, b, c, ..] = self.begin[..] else { return u64::MAX };
        let block = u32::from_le_bytes([a, b, c, 0]);
        // One that is stored, or a single byte repeated, says so. The decoder holds no other to a bound.
        if block >> 1 & 3 < 2 { u64::from(block >> 3) } else { u64::MAX }
    }

    fn next_frame(&mut self) -> Place {
        self.frames += 1;
        Place::Header
    }

    /// Gives what is ready.
    pub(super) fn rest(&mut self, sink: Sink<'_>) -> Result<(), Unscannable> {
        let mut piece = [0; PIECE];
        loop {
            let corrupt = |_| Unscannable::Corrupt(Coding::Zstd);
            match self.decoder.read(&mut piece).map_err(corrupt)? {
                0 => return Ok(()),
                count => {
                    self.given += count as u64;
                    sink(&piece[..count])?;
                }
            }
        }
    }

    /// Gives all that it has decoded of a frame that goes on no further. Of one that has not ended the decoder
    /// keeps its window.
    pub(super) fn spill(&mut self, sink: Sink<'_>) -> Result<(), Unscannable> {
        if self.place == Place::Block {
            // Whatever it says to that, what it has is read next.
            let _ = self.decoder.decode_from_to(&LAST, &mut []);
        }
        self.rest(sink)
    }

    /// It ends behind a frame.
    pub(super) fn is_whole(&self) -> bool {
        self.place == Place::Header && self.begin.is_empty() && self.frames > 0
    }
}

/// How long a header is, and which window it wants, if all of it is there.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    if bytes.iter().zip(&MAGIC).any(|(byte, magic)| byte != magic) {
        return Err(());
    }
    let Some(descriptor) = bytes.get(4) else { return Ok(None) };
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match (descriptor >> 6, single) {
        (0, false) => 0,
        (0, true) => 1,
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let length = 5 + usize::from(!single) + dictionary + size;
    if bytes.len() < length {
        return Ok(None);
    }
    let window = if single {
        let mut number = [0; 8];
        number[..size].copy_from_slice(&bytes[5 + dictionary..length]);
        u64::from_le_bytes(number)
    } else {
        let base = 1_u64 << (10 + (bytes[5] >> 3));
        base + base / 8 * u64::from(bytes[5] & 7)
    };
    Ok(Some((length, usize::try_from(window).unwrap_or(usize::MAX))))
}
