//! Something packed within a body that passes, opened as it comes.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::{BodyScanner, WINDOW};
use crate::sidecar::dlp::archive::{CHANCE, DEPTH};
use crate::sidecar::dlp::coding::{Coding, Unscannable};
use crate::sidecar::dlp::{Kind, Layers, Unscanned};
use crate::sidecar::unpack::Unpacker;

/// So much is unpacked together, at least: in steps as small as this what is packed goes on.
const STEP: usize = 4 << 10;

/// What breaks soon does so within this, however it is written.
const SOON: usize = 16 << 10;

/// How much that is packed waits at most, beyond what its decoder keeps.
const WAITS: usize = 256 << 10;

/// Packed parts of one body that are opened. A push of git has one for each object.
const PLACES: usize = 10_000;

/// Memory that is given back when this is dropped.
type Memory = Box<dyn Any + Send + Sync>;

/// What opening takes of what all bodies share. It never waits.
pub(in crate::sidecar) type Room = Arc<dyn Fn(usize) -> Option<Memory> + Send + Sync>;

/// How what is packed within a body is opened, and how much of that there may still be.
#[derive(Clone)]
pub(in crate::sidecar) struct Opener {
    room: Room,
    /// No decoder may want more.
    memory: usize,
    /// How much something may give that is so long: each, and all in a body together.
    most: fn(u64) -> u64,
    /// How long what it is in is, if that is known.
    length: Option<u64>,
    depth: usize,
    /// How many there may still be in the body, at all depths together.
    places: Arc<AtomicUsize>,
    work: Arc<Work>,
    /// Nobody waits for it any more.
    over: Arc<AtomicBool>,
}

/// What all that is packed in one body has given, and how long the body is.
#[derive(Default)]
struct Work {
    given: AtomicU64,
    length: u64,
    come: AtomicU64,
}

impl Opener {
    /// For a body that is so long, if it says so.
    pub(in crate::sidecar) fn new(
        room: Room,
        memory: usize,
        most: fn(u64) -> u64,
        length: Option<u64>,
    ) -> Self {
        let work = Work { length: length.unwrap_or(0), ..Work::default() };
        let (places, work) = (Arc::new(PLACES.into()), Arc::new(work));
        let over = Arc::default();
        Self { room, memory, most, length, depth: DEPTH, places, work, over }
    }

    /// The same, which need not go on when this is set.
    #[must_use]
    pub(in crate::sidecar) fn until(self, over: Arc<AtomicBool>) -> Self {
        Self { over, ..self }
    }

    /// Whether nobody waits for it any more.
    pub(in crate::sidecar) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// So much more of the body has come.
    pub(in crate::sidecar) fn comes(&self, bytes: usize) {
        self.work.come.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what was unpacked. Whether it may be so much.
    fn gives(&self, bytes: u64) -> bool {
        let Work { given, length, come } = &*self.work;
        let given = given.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let length = (*length).max(come.load(Ordering::Relaxed));
        given <= (self.most)(length) && !self.is_over()
    }

    /// The same for what is within something packed.
    pub(in crate::sidecar) fn deeper(&self) -> Self {
        Self { depth: self.depth.saturating_sub(1), length: None, ..self.clone() }
    }

    /// Whether there may be something packed in it.
    pub(super) const fn goes_deeper(&self) -> bool {
        self.depth > 0
    }

    /// Unpacks what breaks soon, as far as that goes. Why not, if it is too much. Its decoder is gone by the
    /// next such, so that it takes none of the room that all bodies share.
    pub(super) fn cut(
        &self,
        layers: Layers,
        bytes: &[u8],
        scanner: &mut BodyScanner,
    ) -> Option<Unscanned> {
        // Each may hold a thousand more: together they have what the body may unpack to.
        if !self.gives(0) {
            return Some(Unscanned::Large);
        }
        let bytes = &bytes[..bytes.len().min(SOON)];
        let (mut unpacker, _) =
            Unpacker::layers(layers, self.most, self.length, bytes, self.memory)?;
        let ended = unpacker.some(bytes, &mut |piece| scanner.take(piece));
        scanner.close();
        let large = !self.gives(unpacker.given()) || ended == Err(Unscannable::TooLarge);
        large.then_some(Unscanned::Large)
    }

    /// Opens what begins so, for a scanner of what is in it. An error: why it is not looked into.
    pub(super) fn open(
        &self,
        kind: Kind,
        begin: &[u8],
        start: u64,
        scanner: impl FnOnce(Self) -> BodyScanner,
    ) -> Result<Opened, Unscanned> {
        if self.depth == 0 {
            return Err(Unscanned::Nested);
        }
        if !self.gives(0) {
            return Err(Unscanned::Large);
        }
        let (unpacker, needed) = match kind {
            Kind::Opaque => return Err(Unscanned::Format),
            Kind::Zip => Unpacker::zip(self.most, self.length),
            Kind::Coded(coding) => {
                Unpacker::new(&[coding], self.most, self.length, begin, self.memory)
                    .ok_or(Unscanned::Large)?
            }
            Kind::Layers(layers) => {
                Unpacker::layers(layers, self.most, self.length, begin, self.memory)
                    .ok_or(Unscanned::Large)?
            }
        };
        let one_less = |places: usize| places.checked_sub(1);
        let place = self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        place.map_err(|_| Unscanned::Many)?;
        let needed = needed + WAITS;
        let memory = (self.room)(needed + WINDOW).ok_or(Unscanned::Streamed)?;
        Ok(Opened {
            unpacker,
            scanner: Box::new(scanner(self.deeper())),
            start,
            fed: 0,
            covered: 0,
            most: needed as u64,
            opener: self.clone(),
            kind,
            _memory: memory,
        })
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("depth", &self.depth).finish_non_exhaustive()
    }
}

/// Something packed that has begun and not ended.
pub(super) struct Opened {
    unpacker: Unpacker,
    pub(super) scanner: Box<BodyScanner>,
    /// Where in the body it begins.
    pub(super) start: u64,
    fed: u64,
    /// So much of it may go on.
    covered: u64,
    /// How much of it waits at most.
    most: u64,
    opener: Opener,
    kind: Kind,
    _memory: Memory,
}

/// What became of it.
pub(super) enum Fed {
    /// It goes on.
    On,
    /// It has ended, before this place of the body.
    Ended(u64),
    /// It is not what it looked, or too much.
    Broken(Option<Unscanned>),
}

impl Opened {
    /// Unpacks what comes next, and searches it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        for step in bytes.chunks(STEP) {
            let before = self.unpacker.given();
            let scanner = &mut self.scanner;
            let taken = self.unpacker.some(step, &mut |piece| scanner.take(piece));
            let given = self.unpacker.given();
            if !self.opener.gives(given - before) {
                return Fed::Broken(Some(Unscanned::Large));
            }
            match taken {
                Ok(taken) => {
                    self.fed += taken as u64;
                    if taken < step.len() {
                        return Fed::Ended(self.start + self.fed);
                    }
                }
                Err(Unscannable::TooLarge) => return Fed::Broken(Some(Unscanned::Large)),
                // The first bytes of zlib are so short that noise has them, and unpacks for a while. All of
                // that is searched, and what it seemed to hold is looked into again.
                Err(Unscannable::Corrupt(_)) if self.is_zlib() => return Fed::Broken(None),
                Err(error) => return Fed::Broken(self.broken(&error)),
            }
            let searched = given - self.scanner.hold_back() as u64;
            self.covered = self.covered.max(self.unpacker.covered(searched));
            if self.fed - self.covered > self.most {
                return Fed::Broken(Some(Unscanned::Large));
            }
        }
        Fed::On
    }

    /// Searches all that was unpacked, so that none of it is held back.
    pub(super) fn flush(&mut self) {
        let _ = self.scanner.flush();
        let covered = match self.scanner.hold_back() as u64 {
            0 => self.unpacker.settled(),
            waits => self.unpacker.covered(self.unpacker.given() - waits),
        };
        self.covered = self.covered.max(covered);
    }

    /// The body ends here. Why it was not looked into to its end, if it was not.
    pub(super) fn end(&mut self) -> Option<Unscanned> {
        let scanner = &mut self.scanner;
        match self.unpacker.end(&mut |piece| scanner.take(piece)) {
            Ok(()) => None,
            Err(Unscannable::TooLarge) => Some(Unscanned::Large),
            Err(error) => self.broken(&error),
        }
    }

    /// Why something in it was not looked into.
    pub(super) fn reason(&self) -> Option<Unscanned> {
        self.unpacker.reason().or_else(|| self.scanner.unscanned())
    }

    /// How many of the last bytes, up to this place of the body, may not go on yet.
    pub(super) fn hold_back(&self, position: u64) -> usize {
        usize::try_from(position - self.start - self.covered).unwrap_or(usize::MAX)
    }

    fn is_zlib(&self) -> bool {
        match self.kind {
            Kind::Coded(coding) => coding == Coding::Deflate,
            Kind::Layers(layers) => {
                layers.begins_by_chance() && layers.codings().first() == Some(&Coding::Deflate)
            }
            Kind::Zip | Kind::Opaque => false,
        }
    }

    /// The first bytes of a kind stand by chance in what is not of it. Those of a zip are sure enough, and what
    /// has none is what its head says.
    fn broken(&self, error: &Unscannable) -> Option<Unscanned> {
        let given = self.unpacker.given();
        let sure = match self.kind {
            Kind::Layers(layers) if !layers.begins_by_chance() => true,
            Kind::Coded(Coding::Zstd) if given > 0 => true,
            kind => kind == Kind::Zip || given >= CHANCE || *error == Unscannable::Dictionary,
        };
        sure.then_some(Unscanned::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::dlp::stream::tests::{enough, opener, scanner};
    use crate::sidecar::packing::deflate;

    /// Many heads of zlib, each of which stands in all that come before it, and one body of all of them.
    fn heads(count: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for left in (0..count).rev() {
            let length = left * 7;
            out.extend([0x78, 0x9c, 0]);
            out.extend(length.to_le_bytes());
            out.extend((!length).to_le_bytes());
        }
        // No sum: each breaks.
        [out, deflate(body), vec![7; 4]].concat()
    }

    #[test]
    fn what_breaks_soon_gives_no_more_than_a_body_may() {
        let nested = heads(40, &heads(40, &heads(40, &[b'a'; 30_000])));
        let opener = opener(true, enough);
        let mut scanner = scanner(opener.clone());
        let _ = scanner.push(&nested);
        scanner.close();
        let given = opener.work.given.load(Ordering::Relaxed);
        assert!(given > enough(0), "{given}: the first of them go on");
        assert!(given < enough(0) + (1 << 20), "{given}");
        assert_eq!(scanner.unscanned(), Some(Unscanned::Large));
    }
}
