//! Zlib, whose first bytes are so short that what follows them is tried.

use std::cell::Cell;

use crate::sidecar::dlp::archive::{CHANCE, Kind, Layers};
use crate::sidecar::dlp::coding::Coding;

/// How often zlib may still be tried. Its first bytes stand everywhere by chance, some sixty times in a
/// megabyte of noise, and each try takes a decoder.
#[derive(Debug)]
pub(in crate::sidecar::dlp) struct Tries(Cell<usize>);

/// So often it is tried in one text, and in all texts together that are made of one.
const TRIES: usize = 1000;

impl Default for Tries {
    fn default() -> Self {
        Self(Cell::new(TRIES))
    }
}

impl Tries {
    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

/// Whether zlib may stand here, by how its first block begins: for most it shows that it is none.
pub(super) fn begins_zlib(bytes: &[u8]) -> bool {
    match bytes.get(2).map(|first| (first >> 1 & 3, first >> 3)) {
        Some((0, _)) => {
            bytes.get(3..7).is_some_and(|sizes| sizes[0] == !sizes[2] && sizes[1] == !sizes[3])
        }
        Some((1, _)) => true,
        Some((2, literals)) => literals < 30,
        _ => false,
    }
}

#[cfg(test)]
thread_local! {
    /// How often zlib was tried by this thread.
    pub(in crate::sidecar::dlp::archive) static TRIED: Cell<usize> = const { Cell::new(0) };
}

/// So much of what may be zlib is tried.
pub(in crate::sidecar::dlp::archive) const TRIED_BYTES: usize = 4096;

/// Less that comes of it is worth no search.
const WORTH: u64 = 8;

/// What comes of what may be zlib.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inflates {
    /// Nothing, or too little to be a secret.
    No,
    /// Something, but it breaks or ends soon: noise gives as much.
    Soon,
    Well,
}

/// Whether zlib stands here: its first bytes by themselves would be found by chance.
pub(super) fn inflates(bytes: &[u8]) -> Inflates {
    if !begins_zlib(bytes) {
        return Inflates::No;
    }
    #[cfg(test)]
    TRIED.set(TRIED.get() + 1);
    let mut out = [0; 64];
    let mut decoder = flate2::Decompress::new(true);
    let text = &bytes[..bytes.len().min(TRIED_BYTES)];
    let ended = decoder.decompress(text, &mut out, flate2::FlushDecompress::None);
    let given = decoder.total_out();
    match ended {
        Ok(flate2::Status::StreamEnd) if given > WORTH => Inflates::Well,
        Ok(flate2::Status::StreamEnd) => Inflates::No,
        // Blocks may be empty, and noise is none for so long.
        Ok(_) if given >= CHANCE || text.len() == TRIED_BYTES => Inflates::Well,
        Ok(_) | Err(_) if given > WORTH => Inflates::Soon,
        Ok(_) | Err(_) => Inflates::No,
    }
}

/// Zlib that breaks soon, and how it is written.
pub(super) fn soon(way: Option<Coding>) -> Option<Kind> {
    let mut layers = Layers { cut: true, ..Layers::default() };
    layers.push(Coding::Deflate)?;
    way.map_or(Some(()), |way| layers.push(way))?;
    Some(Kind::Layers(layers))
}
