//! Known values: credentials that are looked for, raw and in every usual encoding, whole or in parts
//! that are long enough to be nothing else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::sidecar::encodings::{Encoding, encodings};

/// A shorter value would be found in texts that have nothing to do with it.
pub const SHORTEST: usize = 8;

/// So many bytes of a form are in the automaton, which cannot be wiped; the rest is compared with
/// what can.
const ANCHOR: usize = 6;

/// Values to look for. Wiped when dropped; they have no `Debug`.
#[derive(Default)]
pub struct Known {
    values: Vec<Value>,
}

struct Value {
    name: String,
    /// Itself first.
    forms: Vec<Form>,
}

/// One way to write a value.
struct Form {
    bytes: Zeroizing<Vec<u8>>,
    /// Case does not matter, as in hex.
    fold: bool,
    /// So many bytes of it in a row count, in either case; none: only the whole does.
    part: Option<usize>,
}

/// A value that cannot be looked for.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error(
    "the value of {name} has {length} bytes: fewer than {SHORTEST} cannot be told from other text; use a longer one"
)]
pub struct TooShort {
    /// The variable.
    pub name: String,
    /// How long its value is.
    pub length: usize,
}

impl Known {
    /// Takes values with the names under which findings report them.
    ///
    /// # Errors
    ///
    /// A value that is too short, by name.
    pub fn new<N, V>(values: impl IntoIterator<Item = (N, V)>) -> Result<Self, TooShort>
    where
        N: Into<String>,
        V: AsRef<[u8]>,
    {
        let values = values.into_iter().map(|(name, value)| {
            let (name, value) = (name.into(), value.as_ref());
            if value.len() < SHORTEST {
                return Err(TooShort { name, length: value.len() });
            }
            Ok(Value { name, forms: forms(value) })
        });
        Ok(Self { values: values.collect::<Result<_, _>>()? })
    }

    /// The name of a value.
    pub(super) fn name(&self, value: u32) -> &str {
        self.values.get(value as usize).map_or("", |value| &value.name)
    }

    /// What to look for, to find a form: its value, itself, where in it a piece begins, and the piece.
    pub(super) fn anchors(&self) -> impl Iterator<Item = (u32, u32, u32, &[u8])> {
        (0_u32..).zip(&self.values).flat_map(|(value, of)| {
            (0_u32..).zip(&of.forms).flat_map(move |(form, of)| {
                of.anchors().map(move |at| {
                    let place = u32::try_from(at).unwrap_or(u32::MAX);
                    (value, form, place, &of.bytes[at..at + ANCHOR])
                })
            })
        })
    }

    /// Where a form stands around a place at which one of its pieces was found, if it does.
    pub(super) fn stands_at(
        &self,
        (value, form, place): (u32, u32, u32),
        text: &[u8],
        anchor: usize,
    ) -> Option<Range<usize>> {
        let form = self.values.get(value as usize).and_then(|of| of.forms.get(form as usize))?;
        form.around(text, anchor, place as usize)
    }

    /// The length of the longest form of any value.
    #[must_use]
    pub fn longest(&self) -> usize {
        let forms = self.values.iter().flat_map(|value| &value.forms);
        forms.map(|form| form.bytes.len()).max().unwrap_or(0)
    }

    /// Something that finds these values, each with its name: for texts that are passed on.
    #[must_use]
    pub fn finder(self: &Arc<Self>) -> Finder {
        let anchors: Vec<_> = self.anchors().collect();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(anchors.iter().map(|(.., anchor)| anchor))
            .expect("a few pieces of a few bytes");
        let meanings =
            anchors.into_iter().map(|(value, form, place, _)| (value, form, place)).collect();
        Finder { known: Arc::clone(self), automaton, meanings }
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.iter().map(|value| &value.name)).finish()
    }
}

/// Finds known values in texts.
pub struct Finder {
    known: Arc<Known>,
    automaton: AhoCorasick,
    meanings: Vec<(u32, u32, u32)>,
}

impl Finder {
    /// Every place of a known value in any form, or of a part that counts, with its name. A place comes
    /// once for each of its pieces.
    pub fn find<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (&'t str, Range<usize>)> {
        self.automaton.find_overlapping_iter(text).filter_map(|found| {
            let (value, form, place) = self.meanings[found.pattern().as_usize()];
            let of = &self.known.values[value as usize];
            let range = of.forms[form as usize].around(text, found.start(), place as usize)?;
            Some((&*of.name, range))
        })
    }
}

impl Form {
    /// Where pieces begin: one in its middle, or so close to each other that every part that counts
    /// has one.
    fn anchors(&self) -> impl Iterator<Item = usize> + use<> {
        let last = self.bytes.len() - ANCHOR;
        let (first, step) = match self.part {
            Some(part) => (0, part + 1 - ANCHOR),
            None => (last / 2, last + 1),
        };
        (first..=last).step_by(step)
    }

    /// Where it stands, if it does, or a part that counts.
    fn around(&self, text: &[u8], anchor: usize, place: usize) -> Option<Range<usize>> {
        let Some(part) = self.part else {
            let start = anchor.checked_sub(place)?;
            let range = start..start + self.bytes.len();
            let there = text.get(range.clone())?;
            let same = if self.fold {
                there.eq_ignore_ascii_case(&self.bytes)
            } else {
                *there == **self.bytes
            };
            return same.then_some(range);
        };
        let same = |(one, other): &(&u8, &u8)| one.eq_ignore_ascii_case(other);
        let before = text[..anchor].iter().rev().zip(self.bytes[..place].iter().rev());
        let start = anchor - before.take_while(same).count();
        let length = text[anchor..].iter().zip(&self.bytes[place..]).take_while(same).count();
        let range = start..anchor + length;
        let whole = range.len() == self.bytes.len();
        (whole || range.len() >= part && is_random(&text[range.clone()])).then_some(range)
    }
}

/// Whether neighbours differ, most of them: `0123456789abcdef` stands in many texts.
fn is_random(text: &[u8]) -> bool {
    let far = text.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 1).count();
    far * 2 >= text.len()
}

fn forms(value: &[u8]) -> Vec<Form> {
    let form = |Encoding { bytes, fold, part }| Form { bytes, fold, part };
    encodings(value).into_iter().map(form).collect()
}

impl Drop for Value {
    fn drop(&mut self) {
        self.forms.iter_mut().for_each(|form| form.bytes.zeroize());
    }
}

#[cfg(test)]
mod tests;
