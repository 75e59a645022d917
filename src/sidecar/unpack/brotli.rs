//! Brotli: RFC 7932.

use brotli_decompressor::{
    BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper as _, StandardAlloc,
};

use super::{PIECE, Sink};
use crate::sidecar::dlp::coding::{Coding, Unscannable};

/// The largest window there is.
const LARGEST: usize = 16 << 20;

/// The memory of a decoder, by how a body begins.
pub(super) fn window(begin: Option<&[u8]>) -> usize {
    let Some([first, ..]) = begin else { return LARGEST };
    let bits = match (first & 1, first >> 1 & 7, first >> 4 & 7) {
        (0, _, _) => 16,
        (_, 0, 0) => 17,
        (_, 0, bits) => 8 + bits,
        (_, bits, _) => 17 + bits,
    };
    1 << bits
}

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

pub(super) struct Brotli {
    state: State,
    ended: bool,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: State::new(alloc(), alloc(), alloc()), ended: false }
    }

    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// What it has decoded and not given: behind an error it gives no more.
    fn unwritten(&self) -> &[u8] {
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let (size, position) = (count(self.state.ringbuffer_size), count(self.state.pos));
        let all = self.state.rb_roundtrips * size + position.min(size);
        let given = self.state.partial_pos_out;
        let from = given & count(self.state.ringbuffer_mask);
        let end = from + all.saturating_sub(given);
        self.state.ringbuffer.slice().get(from..end).unwrap_or_default()
    }

    pub(super) fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        let corrupt = Unscannable::Corrupt(Coding::Brotli);
        let mut piece = [0; PIECE];
        let (mut left, mut at) = (bytes.len(), 0);
        loop {
            if self.ended {
                return Ok(bytes.len() - left);
            }
            let (mut room, mut given, mut all) = (piece.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                bytes,
                &mut room,
                &mut given,
                &mut piece,
                &mut all,
                &mut self.state,
            );
            if given > 0 {
                sink(&piece[..given])?;
            }
            match result {
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::NeedsMoreOutput => {}
                // It also says so when it has more to give than there was room for, up to its window. Until
                // that is given nobody has searched it.
                BrotliResult::NeedsMoreInput if left == 0 && room > 0 => return Ok(bytes.len()),
                BrotliResult::NeedsMoreInput => {}
                BrotliResult::ResultFailure => {
                    sink(self.unwritten())?;
                    return Err(corrupt);
                }
            }
        }
    }
}
