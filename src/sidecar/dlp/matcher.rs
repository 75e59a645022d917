//! Automata over everything that is looked for literally: the keywords of rules, keywords as they
//! stand inside base64 and hex, and pieces of known values. One pass finds them all. Where little of a
//! text may be base64 or hex, encoded keywords are looked for there alone.

use std::collections::BTreeMap;

use std::ops::Range;

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind};

use super::decode::local::{Coding, Form, forms};
use super::engine::Hit;
use super::known::Known;
use super::rules::Rules;

/// What a literal stands for.
#[derive(Debug)]
enum Meaning {
    /// A keyword of these rules.
    Keyword(Vec<Keyword>),
    /// A keyword as it looks when encoded.
    Encoded(Form),
    /// A piece of this known value, in this form, that begins so far in it.
    Known { value: u32, form: u32, place: u32 },
}

/// A keyword of one rule.
#[derive(Debug)]
struct Keyword {
    rule: u32,
    /// It counts only if it stands there in this case.
    exactly: Option<Box<[u8]>>,
}

/// Parts of a text that are walked in turn, where a step often waits for memory.
const LANES: usize = 8;

/// The same where it seldom does.
const FEWER_LANES: usize = 4;

/// The automata and what their literals mean.
#[derive(Debug)]
pub(super) struct Matcher {
    /// Everything.
    all: DFA,
    /// All but encoded keywords: a fifth of the size, so that most of it stays near the core.
    plain: DFA,
    /// Those of encoded keywords first.
    meanings: Vec<Meaning>,
    /// How many those are.
    encoded: usize,
}

/// What one pass found. Kept between passes for its memory.
#[derive(Debug, Default)]
pub(super) struct Hits {
    pub(super) keywords: Vec<Hit>,
    /// Where a keyword stands encoded, and how.
    pub(super) encoded: Vec<(usize, Coding)>,
    /// Indices of known values.
    pub(super) known: Vec<u32>,
    /// Where they stand as they are, in no other form.
    pub(super) as_they_are: Vec<(u32, Range<usize>)>,
    /// Keywords count in any case.
    any_case: bool,
}

impl Hits {
    pub(super) fn in_any_case() -> Self {
        Self { any_case: true, ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        self.keywords.clear();
        self.encoded.clear();
        self.known.clear();
        self.as_they_are.clear();
    }
}

impl Matcher {
    pub(super) fn new(rules: &Rules, known: &Known) -> Self {
        let mut keywords: BTreeMap<String, Vec<Keyword>> = BTreeMap::new();
        for (index, rule) in (0_u32..).zip(&rules.rules) {
            let exactly = rule.reach.is_some_and(|reach| reach.exactly);
            for keyword in rule.keywords.iter().filter(|keyword| !keyword.is_empty()) {
                keywords.entry(keyword.to_ascii_lowercase()).or_default().push(Keyword {
                    rule: index,
                    exactly: exactly.then(|| keyword.as_bytes().into()),
                });
            }
        }
        let mut literals: Vec<Vec<u8>> = Vec::new();
        let mut meanings = Vec::new();
        let spelled = rules.rules.iter().flat_map(|rule| &rule.keywords);
        for form in forms(spelled.map(String::as_str)) {
            literals.push(form.bytes.clone());
            meanings.push(Meaning::Encoded(form));
        }
        let encoded = literals.len();
        for (keyword, rules) in keywords {
            literals.push(keyword.into_bytes());
            meanings.push(Meaning::Keyword(rules));
        }
        for (value, form, place, anchor) in known.anchors() {
            literals.push(anchor.to_vec());
            meanings.push(Meaning::Known { value, form, place });
        }
        let (all, plain) = (automaton(&literals), automaton(&literals[encoded..]));
        Self { all, plain, meanings, encoded }
    }

    /// Finds every literal in a text. `runs` is what of it may be base64 or hex, in order.
    pub(super) fn search(
        &self,
        known: &Known,
        bytes: &[u8],
        runs: &[Range<usize>],
        hits: &mut Hits,
    ) {
        let length: usize = runs.iter().map(Range::len).sum();
        if length > bytes.len() / 4 {
            walk::<LANES>(&self.all, bytes, |literal, range| {
                self.literal(literal, range, known, bytes, hits);
            });
            return;
        }
        walk::<FEWER_LANES>(&self.plain, bytes, |literal, range| {
            self.literal(self.encoded + literal, range, known, bytes, hits);
        });
        if length == 0 {
            return;
        }
        let mut text = Vec::with_capacity(length + runs.len());
        let mut places = Vec::with_capacity(runs.len());
        for run in runs {
            places.push((text.len(), run.start));
            text.extend_from_slice(&bytes[run.clone()]);
            text.push(b'\n');
        }
        walk::<LANES>(&self.all, &text, |literal, range| {
            let Some(Meaning::Encoded(form)) = self.meanings.get(literal) else { return };
            if form.stands_in(&text[range.clone()]) {
                let (from, run) =
                    places[places.partition_point(|(from, _)| *from <= range.start) - 1];
                hits.encoded.push((run + range.start - from, form.coding));
            }
        });
    }

    /// A literal stands here.
    fn literal(
        &self,
        literal: usize,
        range: Range<usize>,
        known: &Known,
        bytes: &[u8],
        hits: &mut Hits,
    ) {
        let there = &bytes[range.clone()];
        match &self.meanings[literal] {
            Meaning::Keyword(rules) => {
                let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                let (start, end) = (place(range.start), place(range.end));
                let counts = |keyword: &&Keyword| {
                    hits.any_case
                        || keyword.exactly.as_ref().is_none_or(|exactly| *there == **exactly)
                };
                let rules = rules.iter().filter(counts).map(|keyword| keyword.rule);
                hits.keywords.extend(rules.map(|rule| Hit { rule, start, end }));
            }
            Meaning::Encoded(form) => {
                if form.stands_in(there) {
                    hits.encoded.push((range.start, form.coding));
                }
            }
            Meaning::Known { value, form, place } => {
                if let Some(place) = known.stands_at((*value, *form, *place), bytes, range.start) {
                    hits.known.push(*value);
                    if *form == 0 {
                        hits.as_they_are.push((*value, place));
                    }
                }
            }
        }
    }
}

fn automaton(literals: &[Vec<u8>]) -> DFA {
    DFA::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .prefilter(false)
        .build(literals)
        .expect("rules and values are far smaller than the automaton's limit of 2^31 states")
}

/// Walks an automaton through a text, and tells where which of its literals stands.
///
/// Each step of the automaton waits for the one before, so several parts of the text are walked
/// in turn.
fn walk<const LANES: usize>(
    automaton: &DFA,
    bytes: &[u8],
    mut tell: impl FnMut(usize, Range<usize>),
) {
    let start = automaton.start_state(Anchored::No);
    let mut states = [start.expect("it is built for searches that are not anchored"); LANES];
    let part = bytes.len() / LANES;
    let longest = automaton.max_pattern_len();
    let mut from = 0;
    if part > longest {
        let parts: [&[u8]; LANES] =
            std::array::from_fn(|lane| &bytes[lane * part..(lane + 1) * part]);
        // What ends in a part may begin in the one before.
        for (before, state) in parts.iter().zip(&mut states[1..]) {
            for byte in &before[part - longest..] {
                *state = automaton.next_state(Anchored::No, *state, *byte);
            }
        }
        #[expect(clippy::needless_range_loop, reason = "one place in each of several parts")]
        for at in 0..part {
            for lane in 0..LANES {
                states[lane] = automaton.next_state(Anchored::No, states[lane], parts[lane][at]);
                if automaton.is_special(states[lane]) {
                    found(automaton, states[lane], lane * part + at + 1, &mut tell);
                }
            }
        }
        from = LANES * part;
    }
    let mut state = states[LANES - 1];
    for (at, byte) in (from..).zip(&bytes[from..]) {
        state = automaton.next_state(Anchored::No, state, *byte);
        if automaton.is_special(state) {
            found(automaton, state, at + 1, &mut tell);
        }
    }
}

/// Some literals end here.
#[cold]
fn found(automaton: &DFA, state: StateID, end: usize, tell: &mut impl FnMut(usize, Range<usize>)) {
    if !automaton.is_match(state) {
        return;
    }
    for index in 0..automaton.match_len(state) {
        let pattern = automaton.match_pattern(state, index);
        tell(pattern.as_usize(), end - automaton.pattern_len(pattern)..end);
    }
}
