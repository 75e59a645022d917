//! zstd, as layers of images are compressed with it: one frame after another, some to be skipped.

use std::io::{self, BufRead, Cursor, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// How a frame begins.
pub const MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

type Frame<R> = StreamingDecoder<io::Chain<Cursor<[u8; 4]>, R>, FrameDecoder>;

/// The content of all frames. The decoder itself bounds the window that a frame may ask for.
pub enum Frames<R: Read> {
    /// Before a frame, or at the end.
    Between(R),
    /// In one.
    Within(Box<Frame<R>>),
    /// After an error.
    Broken,
}

impl<R: BufRead> Frames<R> {
    /// Those of a file, a stream, a part of either.
    pub const fn new(source: R) -> Self {
        Self::Between(source)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Broken) {
                Self::Broken => return Err(io::ErrorKind::InvalidData.into()),
                Self::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        *self = Self::Between(source);
                        return Ok(0);
                    }
                    let mut magic = [0; 4];
                    source.read_exact(&mut magic)?;
                    // Tools keep a table of contents in frames that a decoder skips.
                    if magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18] {
                        let mut length = [0; 4];
                        source.read_exact(&mut length)?;
                        let length = u64::from(u32::from_le_bytes(length));
                        io::copy(&mut source.by_ref().take(length), &mut io::sink())?;
                        *self = Self::Between(source);
                        continue;
                    }
                    let frame = StreamingDecoder::new(Cursor::new(magic).chain(source));
                    *self = Self::Within(Box::new(frame.map_err(io::Error::other)?));
                }
                Self::Within(mut frame) => {
                    let length = frame.read(buffer)?;
                    if length > 0 || buffer.is_empty() {
                        *self = Self::Within(frame);
                        return Ok(length);
                    }
                    *self = Self::Between(frame.into_inner().into_inner().1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with one block that is not compressed.
    fn frame(content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let header =
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, length], &[1 | length << 3, length >> 5, 0][..]];
        [&header.concat(), content].concat()
    }

    #[test]
    fn frames_follow_each_other_and_some_are_skipped() {
        let skipped = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let all = [frame(b"one "), skipped.to_vec(), frame(b"two")].concat();
        let mut text = String::new();
        Frames::new(all.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        assert!(Frames::new(&all[..7]).read_to_string(&mut text).is_err());
    }
}
