//! What is packed is opened, and told where it is not what it looked.

use super::coding::{Coding, Unscannable};
use super::zip::Member;
use super::{BEGIN, CHANCE, Decoded, Kind, Scan, Unscanned, decode, zip};

impl Scan<'_> {
    /// What begins so is broken: told, but where it is so only because escapes were undone that were none.
    fn broken(&mut self, bytes: &[u8]) {
        if !self.quiet && (self.exact || !self.begins.contains(&begin(bytes))) {
            self.unscanned(Unscanned::Broken);
        }
    }

    /// Opens what begins here, and says how much of it needs no further look, and how long it is if it is
    /// whole. That bytes follow its end is no fault unless it is the first of them.
    pub(super) fn open(
        &mut self,
        bytes: &[u8],
        kind: Kind,
        first: bool,
        depth: usize,
        written: usize,
    ) -> Result<(usize, usize), Unscannable> {
        match kind {
            Kind::Opaque | Kind::Layers(_) => self.unscanned(Unscanned::Format),
            Kind::Coded(coding) => {
                let Decoded { given, taken, ended } =
                    self.decoded(&[coding], bytes, depth, written);
                let sure = first || taken.is_none() && is_sure(coding, given);
                match ended {
                    Err(Unscannable::TooLarge) if first => return Err(Unscannable::TooLarge),
                    // What is no more than a part of a body is no reason to refuse it.
                    Err(Unscannable::TooLarge) => self.unscanned(Unscanned::Large),
                    Err(Unscannable::Dictionary) => self.broken(bytes),
                    Err(_) if sure => self.broken(bytes),
                    Err(_) | Ok(()) => {}
                }
                return Ok((1, taken.unwrap_or(1)));
            }
            Kind::Zip => match self.zip(bytes, depth, written) {
                Err(Unscannable::TooLarge) if !first => self.unscanned(Unscanned::Large),
                opened => return opened.map(|end| (end, end)),
            },
        }
        Ok((1, 1))
    }

    /// Opens every member of a zip.
    fn zip(&mut self, bytes: &[u8], depth: usize, written: usize) -> Result<usize, Unscannable> {
        let zip::Listing { members, names, end } = match zip::listing(bytes) {
            Ok(listing) => listing,
            Err(Unscanned::Broken) => {
                self.broken(bytes);
                return Ok(1);
            }
            Err(reason) => {
                self.unscanned(reason);
                return Ok(1);
            }
        };
        self.text(&names, &decode::runs(&names));
        for member in members {
            match member {
                Ok(Member { stored: true, data }) => {
                    // Many may name the same bytes.
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.left = self.left.checked_sub(length).ok_or(Unscannable::TooLarge)?;
                    self.unpacked(data, depth - 1, written)?;
                }
                Ok(Member { stored: false, data }) => {
                    match self.encoded(&[Coding::RawDeflate], data, depth, written) {
                        Err(Unscannable::TooLarge) => return Err(Unscannable::TooLarge),
                        Err(_) => self.unscanned(Unscanned::Broken),
                        Ok(()) => {}
                    }
                }
                Err(reason) => self.unscanned(reason),
            }
        }
        Ok(end)
    }
}

pub(super) fn begin(bytes: &[u8]) -> [u8; BEGIN] {
    let mut begin = [0; BEGIN];
    let length = bytes.len().min(BEGIN);
    begin[..length].copy_from_slice(&bytes[..length]);
    begin
}

/// Whether what broke was of this coding, by what it gave before that. The first bytes of zlib are so short
/// that noise has them, and gives as much: all of it is searched, and what seemed to be in it is looked into.
fn is_sure(coding: Coding, given: u64) -> bool {
    match coding {
        Coding::Deflate => false,
        Coding::Zstd => given > 0,
        _ => given >= CHANCE,
    }
}
