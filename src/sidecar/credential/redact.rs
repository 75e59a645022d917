//! Known values in what comes back: each is replaced by `<redacted:NAME>`.

use std::cmp::Reverse;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use bytes::Bytes;

use super::echo::{Echo, Echoes};
use super::packed::Packed;
use super::sieve::Sieve;
use crate::sidecar::dlp::any_within;
use crate::sidecar::encodings::{Encoding, encodings};

/// So many bytes from the middle of a form are in the automaton, which cannot be wiped. The rest
/// is compared with what can.
const ANCHOR: usize = 6;

/// So many bytes of the beginning of a form, at most, tell nothing of the value; and no more than this
/// part of the form.
const LITTLE: usize = 4;
/// See [`LITTLE`].
const SHARE: usize = 4;

/// The values to take out, in every encoding. Wiped when dropped; there is no `Debug`.
pub struct Redactions {
    names: Vec<Box<str>>,
    forms: Vec<Form>,
    /// Rules out most of a text before the automaton is asked.
    sieve: Sieve,
    anchors: AhoCorasick,
    /// The forms that begin with a byte, by that byte.
    beginning: Box<[Vec<usize>; 256]>,
    longest: usize,
    /// The values again, in forms that nobody expects.
    echoes: Echoes,
}

struct Form {
    name: usize,
    encoding: Encoding,
    /// Where its anchor begins.
    anchor: usize,
}

/// A place in a text: what stands there is part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    start: usize,
    end: Reverse<usize>,
    name: usize,
}

impl Form {
    fn text(&self) -> &[u8] {
        &self.encoding.bytes
    }

    fn anchor(&self) -> &[u8] {
        &self.text()[self.anchor..self.text().len().min(self.anchor + ANCHOR)]
    }

    fn same(&self, own: &[u8], other: &[u8]) -> bool {
        if self.encoding.fold { own.eq_ignore_ascii_case(other) } else { own == other }
    }
}

impl Redactions {
    /// Takes values, each with its name. Empty ones are nowhere to be found.
    ///
    /// # Errors
    /// When they are too many for an automaton, which says nothing of them.
    pub fn new<'v>(
        values: impl IntoIterator<Item = (&'v str, &'v [u8])>,
    ) -> Result<Self, BuildError> {
        let (mut names, mut forms) = (Vec::new(), Vec::new());
        let values: Vec<_> = values.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let echoes = Echoes::new(values.iter().map(|(_, value)| *value));
        for (name, value) in values {
            for encoding in encodings(value) {
                // A value of one or two bytes leaves nothing of its own in base64.
                if encoding.bytes.is_empty() {
                    continue;
                }
                let anchor = encoding.bytes.len().saturating_sub(ANCHOR) / 2;
                forms.push(Form { name: names.len(), encoding, anchor });
            }
            names.push(name.into());
        }
        let mut beginning = Box::new([const { Vec::new() }; 256]);
        for (index, form) in forms.iter().enumerate() {
            let first = form.text()[0];
            beginning[usize::from(first)].push(index);
            let other = first ^ 0x20;
            if form.encoding.fold && first.is_ascii_alphabetic() {
                beginning[usize::from(other)].push(index);
            }
        }
        let anchors = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(forms.iter().map(Form::anchor))?;
        let longest = forms.iter().map(|form| form.text().len()).max().unwrap_or(0);
        let sieve = Sieve::new(forms.iter().map(Form::text));
        Ok(Self { names, forms, sieve, anchors, beginning, longest, echoes })
    }

    /// Whether there is nothing to take out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// A whole text without the values; `None` if it holds none.
    #[must_use]
    pub fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        let spans = self.spans(text);
        (!spans.is_empty()).then(|| self.replace(text, &spans, text.len(), 0).0)
    }

    /// Whether a short text holds a value, or most of one, in any form.
    #[must_use]
    pub fn holds(&self, text: &[u8]) -> bool {
        !self.spans(text).is_empty() || !self.echoes.find(text).0.is_empty()
    }

    /// The name of the value that a short text holds, or most of one, in any form.
    #[must_use]
    pub fn name_in(&self, text: &[u8]) -> Option<&str> {
        let echoes = self.echoes.find(text).0.into_iter().map(|echo| echo.name);
        let first = self.spans(text).into_iter().map(|span| span.name).chain(echoes).next()?;
        self.names.get(first).map(|name| &**name)
    }

    /// The places of echoes, and where one may have begun, in a text behind another that has passed.
    fn echoes(&self, passed: &[u8], text: &[u8], spans: &mut Vec<Span>) -> usize {
        let (found, open) = self.echoes.find(&[passed, text].concat());
        let inside = |at: usize| at.saturating_sub(passed.len());
        let span = |Echo { name, place }: Echo| Span {
            start: inside(place.start),
            end: Reverse(inside(place.end)),
            name,
        };
        spans.extend(found.into_iter().filter(|echo| echo.place.end > passed.len()).map(span));
        spans.sort_unstable();
        inside(open)
    }

    /// Every place of a form, in order.
    fn spans(&self, text: &[u8]) -> Vec<Span> {
        let mut spans = Vec::new();
        for region in self.sieve.regions(text) {
            for found in self.anchors.find_overlapping_iter(&text[region.clone()]) {
                let form = &self.forms[found.pattern().as_usize()];
                let anchor = region.start + found.start();
                let Some(start) = anchor.checked_sub(form.anchor) else { continue };
                let end = start + form.text().len();
                if text.get(start..end).is_some_and(|there| form.same(form.text(), there)) {
                    spans.push(Span { start, end: Reverse(end), name: form.name });
                }
            }
        }
        spans.sort_unstable();
        spans
    }

    /// Where the longest rest of the text begins that may be the beginning of a form.
    fn begun(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(self.longest.saturating_sub(1));
        let begins = |at: &usize| {
            let rest = &text[*at..];
            self.beginning[usize::from(rest[0])].iter().any(|index| {
                let form = &self.forms[*index];
                form.text().get(..rest.len()).is_some_and(|begin| form.same(begin, rest))
                    && form.text().len() > rest.len()
            })
        };
        (first..text.len()).find(begins).unwrap_or(text.len())
    }

    /// The text up to `until`, with the places replaced that begin before it. The first `covered`
    /// bytes were replaced already. Also how many of the bytes after `until` are.
    fn replace(
        &self,
        text: &[u8],
        spans: &[Span],
        until: usize,
        covered: usize,
    ) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(until + 32);
        // Up to where the text is written or replaced.
        let mut at = covered;
        for span in spans.iter().take_while(|span| span.start < until) {
            // Those that overlap are replaced together, under the first one's name.
            if span.start >= at {
                out.extend_from_slice(&text[at..span.start]);
                out.extend_from_slice(b"<redacted:");
                out.extend_from_slice(self.names[span.name].as_bytes());
                out.push(b'>');
            }
            at = at.max(span.end.0);
        }
        out.extend_from_slice(text.get(at..until).unwrap_or_default());
        (out, at.saturating_sub(until))
    }
}

/// Takes values out of a text that comes in pieces. It holds back only what may be the beginning
/// of a value, so an event of a stream goes on when it comes.
pub struct Redactor {
    redactions: Arc<Redactions>,
    /// What was held back.
    held: Vec<u8>,
    /// So many bytes of it are part of a value that was replaced already.
    covered: usize,
    /// What answers a request that had a credential may repeat it in any form.
    thorough: bool,
    /// The end of what has passed: an echo may have begun in it.
    passed: Vec<u8>,
    /// More of it: a text may have begun in it that is written or packed within this one.
    before: Vec<u8>,
    /// Such a text held a value, so nothing more passes.
    ended: bool,
    /// What is looked into as it passes, where the text is packed.
    packed: Packed,
}

/// So much of what has passed is kept.
const PASSED: usize = 96;

/// So much is kept for texts within a text.
const BEFORE: usize = 8 << 10;

/// What may become part of an unexpected form is held back up to here.
const HELD: usize = 16 << 10;

impl Redactor {
    /// Begins a text.
    #[must_use]
    pub fn new(redactions: Arc<Redactions>) -> Self {
        let packed = Packed::default();
        Self {
            redactions,
            held: Vec::new(),
            covered: 0,
            thorough: false,
            passed: Vec::new(),
            before: Vec::new(),
            ended: false,
            packed,
        }
    }

    /// Begins another text with the same values.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { thorough: self.thorough, ..Self::new(Arc::clone(&self.redactions)) }
    }

    /// The same, for what answers a request that had a credential: parts of it and unexpected forms go
    /// too, also in what is packed.
    #[must_use]
    pub const fn thorough(mut self) -> Self {
        self.thorough = true;
        self
    }

    /// Whether a short text holds a value, or most of one, in any form.
    #[must_use]
    pub fn holds(&self, text: &[u8]) -> bool {
        self.redactions.holds(text)
    }

    /// What goes on, unless a value stands in a text within it: nothing but the end of the text keeps that
    /// back.
    fn passed_on(&mut self, out: Bytes) -> Bytes {
        if !self.thorough || out.is_empty() {
            return out;
        }
        let holds = |text: &[u8]| self.redactions.holds(text);
        let open = !self.before.is_empty();
        self.before.extend_from_slice(&out);
        self.ended = !self.packed.passes(&out, holds) || any_within(&self.before, open, &holds);
        // By whole groups of base64, so that it keeps its alignment.
        let old = self.before.len().saturating_sub(BEFORE) / 4 * 4;
        self.before.drain(..old);
        if self.ended {
            self.held.clear();
            return Bytes::new();
        }
        out
    }

    /// Takes a piece, and gives what can go on.
    #[must_use]
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        if self.ended {
            return Bytes::new();
        }
        let text = if self.held.is_empty() {
            piece
        } else {
            self.held.extend_from_slice(&piece);
            Bytes::from(std::mem::take(&mut self.held))
        };
        let mut until = self.redactions.begun(&text);
        let mut spans = self.redactions.spans(&text);
        if self.thorough {
            let open = self.redactions.echoes(&self.passed, &text, &mut spans);
            if text.len() - open <= HELD {
                until = until.min(open);
            }
        }
        if self.thorough {
            self.passed.extend_from_slice(&text[until.saturating_sub(PASSED)..until]);
            let old = self.passed.len().saturating_sub(PASSED);
            self.passed.drain(..old);
        }
        self.held.extend_from_slice(&text[until..]);
        let out = if spans.is_empty() && self.covered == 0 {
            text.slice(..until)
        } else {
            let (out, covered) = self.redactions.replace(&text, &spans, until, self.covered);
            self.covered = covered;
            out.into()
        };
        self.passed_on(out)
    }

    /// What is held back, where it is too little to tell anything of a value: whoever waits for it gets
    /// it. If the rest of a value follows, that is taken out all the same.
    #[must_use]
    pub fn release(&mut self) -> Bytes {
        let held = &self.held;
        let tells = |form: &Form| {
            let begins = form.text().get(..held.len());
            held.len() * SHARE > form.text().len()
                && begins.is_some_and(|begin| form.same(begin, held))
        };
        if held.len() > LITTLE || self.redactions.forms.iter().any(tells) {
            return Bytes::new();
        }
        let rest = held.get(self.covered..).unwrap_or_default();
        let rest = Bytes::copy_from_slice(rest);
        self.covered = self.covered.max(held.len());
        self.passed_on(rest)
    }

    /// Whether something is held back that may be released.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held.len() > self.covered && self.held.len() <= LITTLE
    }

    /// What was held back, at the end of the text.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        let mut spans = self.redactions.spans(&self.held);
        if self.thorough {
            self.redactions.echoes(&self.passed, &self.held, &mut spans);
        }
        let out = self.redactions.replace(&self.held, &spans, self.held.len(), self.covered).0;
        if self.ended { Bytes::new() } else { self.passed_on(out.into()) }
    }
}

#[cfg(test)]
mod tests;
