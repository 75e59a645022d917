//! A compressed body that is searched as it passes: what of it may go on.
//!
//! What goes on is compressed, and what is searched is not. So each decoder remembers what it had
//! unpacked what came to, given or not yet, and what came goes on when all of that is searched.

use super::limits;
use super::scan::{unpacked, unpacked_archive};
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::{BodyScanner, Kind, Unscanned};
use crate::sidecar::unpack::Unpacker;

/// What decoders may take.
pub(super) const MEMORY: usize = limits::DECODERS - limits::HELD_PACKED - limits::SEARCHED_BESIDE;

/// The codings of one body.
pub(super) struct Packed {
    unpacker: Unpacker,
    /// How much waits at most.
    most: u64,
    taken: u64,
    /// So much of it may go on.
    free: u64,
    /// It is the body itself that is packed, and not its head that says so.
    unnamed: bool,
}

impl Packed {
    /// For a body that begins so; and how much memory that takes. `None`: more than there is for all.
    pub(super) fn new(
        codings: &[Coding],
        length: Option<u64>,
        begin: &[u8],
    ) -> Option<(Self, usize)> {
        let unpacker = Unpacker::new(codings, unpacked, length, begin, MEMORY)?;
        Some(Self::of(unpacker, false))
    }

    /// The same for a body that is an archive. An error: why it is not looked into.
    pub(super) fn archive(
        kind: Kind,
        length: Option<u64>,
        begin: &[u8],
    ) -> Result<(Self, usize), Unscanned> {
        let unpacker = match kind {
            Kind::Opaque | Kind::Layers(_) => return Err(Unscanned::Format),
            Kind::Zip => Unpacker::zip(unpacked_archive, length),
            Kind::Coded(coding) => {
                Unpacker::new(&[coding], unpacked_archive, length, begin, MEMORY)
                    .ok_or(Unscanned::Large)?
            }
        };
        Ok(Self::of(unpacker, true))
    }

    fn of((unpacker, needed): (Unpacker, usize), unnamed: bool) -> (Self, usize) {
        let needed = needed + limits::HELD_PACKED + limits::SEARCHED_BESIDE;
        let packed = Self { unpacker, most: needed as u64, taken: 0, free: 0, unnamed };
        (packed, needed)
    }

    /// Whether it is the body itself that is packed: what is broken in it is no reason to refuse it.
    pub(super) const fn is_unnamed(&self) -> bool {
        self.unnamed
    }

    /// Why part of it was not looked into.
    pub(super) fn reason(&self) -> Option<Unscanned> {
        self.unpacker.reason()
    }

    /// Unpacks the next bytes into a search.
    pub(super) fn data(
        &mut self,
        data: &[u8],
        scanner: &mut BodyScanner,
    ) -> Result<(), Unscannable> {
        for step in data.chunks(limits::UNPACKED_IN_TURN) {
            self.unpacker.push(step, &mut |piece| {
                // What is found is asked for afterwards.
                let _ = scanner.push(piece);
            })?;
            self.taken += step.len() as u64;
            let searched = self.unpacker.given() - scanner.hold_back() as u64;
            self.free = self.free.max(self.unpacker.covered(searched));
            if self.taken - self.free > self.most {
                return Err(Unscannable::TooLarge);
            }
        }
        Ok(())
    }

    /// All that was unpacked is searched, but for what waits in what is packed within that.
    pub(super) fn flushed(&mut self, scanner: &BodyScanner) {
        let free = match scanner.hold_back() as u64 {
            0 => self.unpacker.settled(),
            waits => self.unpacker.covered(self.unpacker.given() - waits),
        };
        self.free = self.free.max(free);
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, scanner: &mut BodyScanner) -> Result<(), Unscannable> {
        self.unpacker.end(&mut |piece| {
            let _ = scanner.push(piece);
        })
    }

    /// How much of what was taken may not go on yet.
    pub(super) fn hold_back(&self) -> usize {
        usize::try_from(self.taken - self.free).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests;
