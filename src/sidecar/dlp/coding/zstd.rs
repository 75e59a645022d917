//! zstd: frame after frame, each with a window that a receiver of HTTP may be asked for.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// RFC 9659: no larger window in a content coding.
const WINDOW: u64 = 8 << 20;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

type Source<'r> = BufReader<Box<dyn Read + 'r>>;
type Frame<'r> = StreamingDecoder<Chain<Cursor<Vec<u8>>, Source<'r>>, FrameDecoder>;

/// All frames of a body.
pub(super) struct Frames<'r> {
    state: State<'r>,
}

enum State<'r> {
    /// At the beginning of a frame, or at the end.
    Between(Source<'r>),
    Within(Box<Frame<'r>>),
    /// After an error.
    Broken,
}

impl<'r> Frames<'r> {
    pub(super) const fn new(source: Source<'r>) -> Self {
        Self { state: State::Between(source) }
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Broken => return Err(io::ErrorKind::InvalidData.into()),
                State::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        self.state = State::Between(source);
                        return Ok(0);
                    }
                    let header = header(&mut source)?;
                    let frame = StreamingDecoder::new(Cursor::new(header).chain(source));
                    self.state = State::Within(Box::new(frame.map_err(io::Error::other)?));
                }
                State::Within(mut frame) => {
                    let length = frame.read(buffer)?;
                    if length > 0 || buffer.is_empty() {
                        self.state = State::Within(frame);
                        return Ok(length);
                    }
                    self.state = State::Between(frame.into_inner().into_inner().1);
                }
            }
        }
    }
}

/// Reads the header of a frame, which says how much memory it wants.
fn header(source: &mut Source<'_>) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 5];
    source.read_exact(&mut header)?;
    if header[..4] != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let descriptor = header[4];
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match (descriptor >> 6, single) {
        (0, false) => 0,
        (0, true) => 1,
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let mut rest = vec![0; usize::from(!single) + dictionary + size];
    source.read_exact(&mut rest)?;
    let window = if single {
        let mut number = [0; 8];
        number[..size].copy_from_slice(&rest[dictionary..]);
        u64::from_le_bytes(number)
    } else {
        let base = 1_u64 << (10 + (rest[0] >> 3));
        base + base / 8 * u64::from(rest[0] & 7)
    };
    if window > WINDOW {
        return Err(io::Error::other(super::Unscannable::TooLarge));
    }
    header.extend_from_slice(&rest);
    Ok(header)
}
