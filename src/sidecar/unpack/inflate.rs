//! DEFLATE, by itself, in zlib and in gzip.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::Sink;
use crate::sidecar::dlp::coding::{Coding, Unscannable};

/// The decoder keeps so much, in a ring.
const WINDOW: usize = 32 << 10;

/// One stream of it.
pub(super) struct Inflate {
    state: Decompress,
    ended: bool,
}

impl Inflate {
    pub(super) fn new(zlib: bool) -> Self {
        Self { state: Decompress::new(zlib), ended: false }
    }

    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// Decodes as much of these bytes as belongs to the stream; says how much that is.
    pub(super) fn some(
        &mut self,
        bytes: &[u8],
        sink: Sink<'_>,
        corrupt: &Unscannable,
    ) -> Result<usize, Unscannable> {
        let mut piece = [0; WINDOW];
        let mut at = 0;
        while !self.ended {
            let before = (self.state.total_in(), self.state.total_out());
            let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(0);
            // It decodes up to the end of its ring at once. With room for just that, all that it has decoded
            // comes out, also where it breaks: behind an error it gives no more.
            let room = WINDOW - moved(before.1 % WINDOW as u64, 0);
            let status =
                self.state.decompress(&bytes[at..], &mut piece[..room], FlushDecompress::None);
            let taken = moved(self.state.total_in(), before.0);
            let given = moved(self.state.total_out(), before.1);
            at += taken;
            if given > 0 {
                sink(&piece[..given])?;
            }
            // What came before an error is decoded by others, too.
            self.ended = status.map_err(|_| corrupt.clone())? == Status::StreamEnd;
            if taken == 0 && given == 0 {
                break;
            }
        }
        Ok(at)
    }

    /// The same, and an error if it takes less of them before it ends.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        sink: Sink<'_>,
        corrupt: &Unscannable,
    ) -> Result<usize, Unscannable> {
        let taken = self.some(bytes, sink, corrupt)?;
        if taken < bytes.len() && !self.ended { Err(corrupt.clone()) } else { Ok(taken) }
    }
}

/// Member after member of a gzip file.
pub(super) struct Gzip {
    place: Place,
    members: usize,
}

enum Place {
    /// What has come of a header.
    Header(Vec<u8>),
    Body(Box<(Inflate, Crc)>),
    /// What has come of the sums behind a member, and what they should be.
    Trailer(Vec<u8>, [u8; 8]),
}

/// A header of more bytes, with a name and a comment in it, is none that somebody meant to send.
const HEADER: usize = 64 << 10;

impl Default for Gzip {
    fn default() -> Self {
        Self { place: Place::Header(Vec::new()), members: 0 }
    }
}

impl Gzip {
    /// Says how much of these bytes belongs to it.
    pub(super) fn push(&mut self, all: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        let corrupt = Unscannable::Corrupt(Coding::Gzip);
        let mut bytes = all;
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Header(begin) => {
                    let before = begin.len();
                    begin.extend_from_slice(&bytes[..bytes.len().min(HEADER)]);
                    let Ok(end) = header(begin) else {
                        begin.clear();
                        // Behind a member it may be something else that begins.
                        let behind = self.members > 0;
                        return if behind { Ok(all.len() - bytes.len()) } else { Err(corrupt) };
                    };
                    let Some(end) = end else {
                        if begin.len() > HEADER {
                            return Err(corrupt);
                        }
                        return Ok(all.len());
                    };
                    bytes = &bytes[end - before..];
                    self.place = Place::Body(Box::new((Inflate::new(false), Crc::new())));
                }
                Place::Body(body) => {
                    let (inflate, crc) = &mut **body;
                    let taken = inflate.some(
                        bytes,
                        &mut |piece| {
                            crc.update(piece);
                            sink(piece)
                        },
                        &corrupt,
                    )?;
                    bytes = &bytes[taken..];
                    if inflate.ended {
                        let mut sums = [0; 8];
                        sums[..4].copy_from_slice(&crc.sum().to_le_bytes());
                        sums[4..].copy_from_slice(&crc.amount().to_le_bytes());
                        self.place = Place::Trailer(Vec::new(), sums);
                    } else if taken == 0 {
                        return Err(corrupt);
                    }
                }
                Place::Trailer(begin, sums) => {
                    let (now, later) = bytes.split_at(bytes.len().min(8 - begin.len()));
                    begin.extend_from_slice(now);
                    bytes = later;
                    if begin.len() == 8 {
                        if begin != sums {
                            return Err(corrupt);
                        }
                        self.members += 1;
                        self.place = Place::Header(Vec::new());
                    }
                }
            }
        }
        Ok(all.len())
    }

    /// It ends behind a member.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&self.place, Place::Header(begin) if begin.is_empty()) && self.members > 0
    }
}

/// Where a header ends, if all of it is there.
fn header(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let known = [0x1f, 0x8b, 8];
    if bytes.iter().zip(&known).any(|(byte, known)| byte != known) {
        return Err(());
    }
    let Some(flags) = bytes.get(3) else { return Ok(None) };
    if flags & 0xe0 != 0 {
        return Err(());
    }
    let mut at = 10;
    if flags & 4 != 0 {
        let Some([low, high]) = bytes.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([*low, *high]));
    }
    // A name and a comment, each to a zero.
    for flag in [8, 16] {
        if flags & flag != 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(end) = memchr::memchr(0, rest) else { return Ok(None) };
            at += end + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    Ok((at <= bytes.len()).then_some(at))
}
