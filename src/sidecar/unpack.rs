//! Content codings taken off a body that comes in pieces, with bounds: what [`super::dlp::coding`] does
//! for a body that is there as a whole.
//!
//! What comes in is decoded as far as it goes, so that a body can be searched as it passes. As there,
//! what cannot be decoded to its end is an error, and so is what follows that end.

mod brotli;
mod inflate;
mod letters;
mod zip;
mod zstd;

use std::borrow::Cow;
use std::collections::VecDeque;

use self::brotli::Brotli;
use self::inflate::{Gzip, Inflate};
pub(super) use self::letters::{Letters, Way};
use self::zip::Zip;
use self::zstd::Zstd;
use super::dlp::coding::{Coding, Unscannable};
use super::dlp::{Layers, Unscanned};

/// The window that a body in zstd asks for, if it is no larger than there may be.
pub(super) fn zstd_window(begin: &[u8]) -> Option<usize> {
    zstd::window(Some(begin))
}

/// What is decoded at once.
const PIECE: usize = 16 << 10;

/// What a decoder keeps that has no window worth the word.
const LITTLE: usize = 64 << 10;

/// Takes what was decoded.
type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<(), Unscannable>;

/// One coding taken off.
enum Layer {
    Gzip(Box<Gzip>),
    /// `deflate`, whose first bytes say which kind it is.
    Deflate {
        begin: Vec<u8>,
    },
    Inflate(Box<Inflate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
    /// An archive that is the whole of a body.
    Zip(Box<Zip>),
    /// Base64, hex or quoted-printable.
    Letters(Box<Letters>),
}

/// All codings of one body.
pub(super) struct Unpacker {
    /// The one that was applied last comes first.
    stages: Vec<Stage>,
    most: Most,
    /// How long the body is, if it says so.
    length: Option<u64>,
    taken: u64,
    given: u64,
}

/// How much each coding of a body may give.
#[derive(Clone, Copy)]
enum Most {
    /// Of one that is so long.
    Of(fn(u64) -> u64),
    Bytes(u64),
}

/// One coding, and how far it is.
struct Stage {
    layer: Layer,
    coding: Coding,
    taken: u64,
    given: u64,
    /// What came before the first of each was unpacked to no more than the second.
    steps: VecDeque<(u64, u64)>,
    /// All that what came before this was unpacked to is known to be searched.
    covered: u64,
}

/// Steps are told apart down to so many bytes.
const STEP: u64 = 1024;

impl Unpacker {
    /// For a body of these codings, which begins so; and how much memory that takes. `None`: more than
    /// `memory`.
    pub(super) fn new(
        codings: &[Coding],
        most: fn(u64) -> u64,
        length: Option<u64>,
        begin: &[u8],
        memory: usize,
    ) -> Option<(Self, usize)> {
        Self::within(codings, Most::Of(most), length, begin, memory)
    }

    /// For a body that is there as a whole, each of whose codings may give so much.
    pub(super) fn whole(codings: &[Coding], most: u64) -> Option<Self> {
        Some(Self::within(codings, Most::Bytes(most), None, &[], usize::MAX)?.0)
    }

    fn within(
        codings: &[Coding],
        most: Most,
        length: Option<u64>,
        begin: &[u8],
        memory: usize,
    ) -> Option<(Self, usize)> {
        let mut needed = 0;
        let mut stages = Vec::new();
        let mut begin = Some(Cow::Borrowed(begin));
        for coding in codings.iter().rev() {
            // Of what is packed nothing is known yet.
            let outer = begin.take();
            if let Some(way) = coding.way() {
                let known =
                    |begin: Cow<'_, [u8]>| Letters::begin(way, &begin[..begin.len().min(256)]);
                begin = outer.map(|begin| Cow::Owned(known(begin)));
                needed += LITTLE;
                stages.push(Stage::new(Layer::Letters(Box::new(Letters::new(way))), *coding));
                continue;
            }
            let begin = outer.as_deref();
            let layer = match coding {
                Coding::Gzip => Layer::Gzip(Box::default()),
                Coding::Deflate => Layer::Deflate { begin: Vec::new() },
                Coding::RawDeflate => Layer::Inflate(Box::new(Inflate::new(false))),
                Coding::Brotli => {
                    needed += brotli::window(begin);
                    Layer::Brotli(Box::new(Brotli::new()))
                }
                _ => {
                    let window = zstd::window(begin)?;
                    // It also gives nothing before its window is full, so that so much waits.
                    needed += 2 * window;
                    Layer::Zstd(Box::new(Zstd::new(window)))
                }
            };
            needed += LITTLE;
            stages.push(Stage::new(layer, *coding));
        }
        let unpacker = Self { stages, most, length, taken: 0, given: 0 };
        (needed <= memory).then_some((unpacker, needed))
    }

    /// The same for what is packed and written so.
    pub(super) fn layers(
        layers: Layers,
        most: fn(u64) -> u64,
        length: Option<u64>,
        begin: &[u8],
        memory: usize,
    ) -> Option<(Self, usize)> {
        let (mut unpacker, mut needed) = Self::new(layers.codings(), most, length, begin, memory)?;
        if layers.zip {
            unpacker.stages.push(Stage::new(Layer::Zip(Box::default()), Coding::RawDeflate));
            needed += LITTLE;
        }
        Some((unpacker, needed))
    }

    /// For a body that is a zip; and how much memory that takes.
    pub(super) fn zip(most: fn(u64) -> u64, length: Option<u64>) -> (Self, usize) {
        let stages = vec![Stage::new(Layer::Zip(Box::default()), Coding::RawDeflate)];
        (Self { stages, most: Most::Of(most), length, taken: 0, given: 0 }, LITTLE)
    }

    /// Why a member of a zip was not looked into.
    pub(super) fn reason(&self) -> Option<Unscanned> {
        self.stages.iter().find_map(|stage| match &stage.layer {
            Layer::Zip(zip) => zip.reason(),
            _ => None,
        })
    }

    /// How many bytes it has given.
    pub(super) const fn given(&self) -> u64 {
        self.given
    }

    /// Up to where all that the body is unpacked to is among the first so many bytes that were given.
    pub(super) fn covered(&mut self, searched: u64) -> u64 {
        self.stages.iter_mut().rev().fold(searched, |given, stage| stage.covered(given))
    }

    /// The same when all that was given is searched, and what comes next may be long in coming. What goes
    /// on so has at its end no more than a part of a symbol that is not decoded yet.
    pub(super) fn settled(&mut self) -> u64 {
        self.stages.iter_mut().rev().fold(self.given, |given, stage| stage.settled(given))
    }

    /// Decodes the next bytes.
    ///
    /// # Errors
    /// Why they cannot be decoded. Also if something else follows the end of a coding.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Unscannable> {
        let taken = self.some(bytes, sink)?;
        let Some(stage) = self.stages.first_mut() else { return Ok(()) };
        match &stage.layer {
            _ if taken == bytes.len() => Ok(()),
            Layer::Zip(_) => {
                // What is behind a zip is given as it stands.
                let rest = &bytes[taken..];
                self.given += rest.len() as u64;
                stage.given += rest.len() as u64;
                stage.step(stage.given);
                sink(rest);
                Ok(())
            }
            _ => Err(Unscannable::Corrupt(stage.coding)),
        }
    }

    /// Decodes as much of the next bytes as belongs to what is packed; says how much that is.
    ///
    /// # Errors
    /// Why they cannot be decoded.
    pub(super) fn some(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, Unscannable> {
        self.taken += bytes.len() as u64;
        let most = self.most();
        let given = &mut self.given;
        let taken = through(&mut self.stages, most, bytes, &mut |piece| {
            *given += piece.len() as u64;
            sink(piece);
            Ok(())
        });
        if taken.is_err() {
            self.spill(sink);
        }
        taken
    }

    /// What decoders keep is given, too, where they go on no further: who reads what is broken may have it.
    fn spill(&mut self, sink: &mut dyn FnMut(&[u8])) {
        // That it is too much by now, or broken, is known.
        let _ = self.each(sink, |layer, _, sink| layer.spill(sink));
    }

    /// The body is at its end.
    ///
    /// # Errors
    /// It ends before its codings do.
    pub(super) fn end(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), Unscannable> {
        let ended = self.each(sink, |layer, coding, sink| layer.end(coding, sink));
        if ended.is_err() {
            self.spill(sink);
        }
        ended
    }

    /// Asks each layer for more, the outer ones first.
    fn each(
        &mut self,
        sink: &mut dyn FnMut(&[u8]),
        mut more: impl FnMut(&mut Layer, Coding, Sink<'_>) -> Result<(), Unscannable>,
    ) -> Result<(), Unscannable> {
        let most = self.most();
        let mut all = Ok(());
        for index in 0..self.stages.len() {
            let (own, inner) = self.stages[index..].split_at_mut(1);
            let [own] = own else { continue };
            let given = &mut self.given;
            let mut last = |piece: &[u8]| {
                *given += piece.len() as u64;
                sink(piece);
                Ok(())
            };
            let own_given = &mut own.given;
            let gave = more(&mut own.layer, own.coding, &mut |piece| {
                count(own_given, piece, most)?;
                all_through(inner, most, piece, &mut last)
            });
            all = all.and(gave);
        }
        all
    }

    /// How much each layer may have given by now.
    fn most(&self) -> u64 {
        match self.most {
            Most::Of(most) => most(self.length.unwrap_or(0).max(self.taken)),
            Most::Bytes(most) => most,
        }
    }
}

fn count(given: &mut u64, piece: &[u8], most: u64) -> Result<(), Unscannable> {
    *given += piece.len() as u64;
    if *given > most { Err(Unscannable::TooLarge) } else { Ok(()) }
}

/// Sends bytes through all of these layers; says how many of them belong to the first.
fn through(
    stages: &mut [Stage],
    most: u64,
    bytes: &[u8],
    sink: Sink<'_>,
) -> Result<usize, Unscannable> {
    let Some((stage, inner)) = stages.split_first_mut() else {
        return sink(bytes).map(|()| bytes.len());
    };
    stage.push(bytes, most, &mut |piece| all_through(inner, most, piece, sink))
}

/// The same of bytes that all have to belong to it.
fn all_through(
    stages: &mut [Stage],
    most: u64,
    bytes: &[u8],
    sink: Sink<'_>,
) -> Result<(), Unscannable> {
    let taken = through(stages, most, bytes, sink)?;
    match stages.first() {
        Some(stage) if taken < bytes.len() => Err(Unscannable::Corrupt(stage.coding)),
        _ => Ok(()),
    }
}

impl Stage {
    fn new(layer: Layer, coding: Coding) -> Self {
        Self { layer, coding, taken: 0, given: 0, steps: VecDeque::new(), covered: 0 }
    }

    fn push(&mut self, bytes: &[u8], most: u64, sink: Sink<'_>) -> Result<usize, Unscannable> {
        let before = (self.given, self.layer.owes());
        let given = &mut self.given;
        let taken = self.layer.push(self.coding, bytes, &mut |piece| {
            count(given, piece, most)?;
            sink(piece)
        })?;
        let owes = self.layer.owes();
        if (self.given, owes) != before {
            // The end of these bytes may be the begin of something that comes out with the next ones.
            self.step(self.given + owes);
        }
        self.taken += bytes.len() as u64;
        Ok(taken)
    }

    /// What came before now was unpacked to no more than so much.
    fn step(&mut self, given: u64) {
        while self.steps.pop_back_if(|(_, other)| *other >= given).is_some() {}
        // What comes in bytes is not kept in steps as small.
        let near = |(taken, _): &(u64, u64)| self.taken < taken + STEP;
        let last = self.steps.len().checked_sub(2).and_then(|at| self.steps.get(at));
        if last.is_some_and(near) {
            self.steps.pop_back();
        }
        self.steps.push_back((self.taken, given));
    }

    fn covered(&mut self, searched: u64) -> u64 {
        while let Some((taken, _)) = self.steps.pop_front_if(|(_, given)| *given <= searched) {
            self.covered = self.covered.max(taken);
        }
        self.covered
    }

    fn settled(&mut self, searched: u64) -> u64 {
        if searched == self.given && self.layer.is_settled() {
            self.taken
        } else {
            self.covered(searched)
        }
    }
}

impl Layer {
    /// How much it may have decoded and not given yet, at most.
    fn owes(&self) -> u64 {
        match self {
            Self::Zstd(zstd) => zstd.owes(),
            _ => 0,
        }
    }

    /// Whether nothing of what came waits in it, but for a part of a symbol or of a header.
    fn is_settled(&self) -> bool {
        match self {
            Self::Zstd(zstd) => zstd.is_settled(),
            _ => true,
        }
    }

    fn push(&mut self, coding: Coding, bytes: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        let corrupt = Unscannable::Corrupt(coding);
        match self {
            Self::Gzip(gzip) => gzip.push(bytes, sink),
            Self::Deflate { begin } => {
                let before = begin.len();
                begin.extend_from_slice(bytes);
                let [first, second, ..] = begin[..] else { return Ok(bytes.len()) };
                // The check of zlib's own header.
                let zlib =
                    first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
                let mut inflate = Inflate::new(zlib);
                let begin = std::mem::take(begin);
                let taken = inflate.push(&begin, sink, &corrupt);
                *self = Self::Inflate(Box::new(inflate));
                Ok(taken?.saturating_sub(before))
            }
            Self::Inflate(inflate) => inflate.push(bytes, sink, &corrupt),
            Self::Brotli(brotli) => brotli.push(bytes, sink),
            Self::Zstd(zstd) => zstd.push(bytes, sink),
            Self::Zip(zip) => zip.push(bytes, sink),
            Self::Letters(letters) => letters.push(bytes, sink),
        }
    }

    fn spill(&mut self, sink: Sink<'_>) -> Result<(), Unscannable> {
        match self {
            Self::Zstd(zstd) => zstd.spill(sink),
            _ => Ok(()),
        }
    }

    fn end(&mut self, coding: Coding, sink: Sink<'_>) -> Result<(), Unscannable> {
        let whole = match self {
            Self::Gzip(gzip) => gzip.is_whole(),
            Self::Deflate { .. } => false,
            Self::Inflate(inflate) => inflate.ended(),
            Self::Brotli(brotli) => brotli.ended(),
            Self::Zstd(zstd) => {
                zstd.rest(sink)?;
                zstd.is_whole()
            }
            Self::Zip(zip) => zip.is_whole(),
            Self::Letters(letters) => {
                letters.end(sink)?;
                true
            }
        };
        if whole { Ok(()) } else { Err(Unscannable::Corrupt(coding)) }
    }
}

#[cfg(test)]
mod tests;
