//! One automaton over everything that is looked for literally: the keywords of rules, keywords as
//! they stand inside base64 and hex, and pieces of known values. One pass finds them all.

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
    /// A piece of this known value, in this form.
    Known { value: u32, form: u32 },
}

/// A keyword of one rule.
#[derive(Debug)]
struct Keyword {
    rule: u32,
    /// It counts only if it stands there in this case.
    exactly: Option<Box<[u8]>>,
}

/// Parts of a text that are walked in turn.
const LANES: usize = 4;

/// One walk through a part of a text.
#[derive(Debug, Clone, Copy)]
struct Lane {
    state: StateID,
    at: usize,
    /// What ends before this is another lane's.
    from: usize,
}

/// The automaton and what its literals mean.
#[derive(Debug)]
pub(super) struct Matcher {
    automaton: DFA,
    meanings: Vec<Meaning>,
}

/// What one pass found. Kept between passes for its memory.
#[derive(Debug, Default)]
pub(super) struct Hits {
    pub(super) keywords: Vec<Hit>,
    /// Where a keyword stands encoded, and how.
    pub(super) encoded: Vec<(usize, Coding)>,
    /// Indices of known values.
    pub(super) known: Vec<u32>,
}

impl Hits {
    pub(super) fn clear(&mut self) {
        self.keywords.clear();
        self.encoded.clear();
        self.known.clear();
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
        for (keyword, rules) in keywords {
            literals.push(keyword.into_bytes());
            meanings.push(Meaning::Keyword(rules));
        }
        for (value, form, anchor) in known.anchors() {
            literals.push(anchor.to_vec());
            meanings.push(Meaning::Known { value, form });
        }
        let automaton = DFA::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(&literals)
            .expect("rules and values are far smaller than the automaton's limit of 2^31 states");
        Self { automaton, meanings }
    }

    /// Finds every literal in a text.
    ///
    /// Each step of the automaton waits for the one before, so several parts of the text are walked
    /// in turn.
    pub(super) fn search(&self, known: &Known, bytes: &[u8], hits: &mut Hits) {
        let part = bytes.len() / LANES;
        if part <= self.automaton.max_pattern_len() {
            let mut lane = self.lane(0, 0);
            self.walk(&mut lane, bytes.len(), known, bytes, hits);
            return;
        }
        let mut lanes: [Lane; LANES] = std::array::from_fn(|lane| {
            // What ends in this part may begin in the one before.
            let from = lane * part;
            self.lane(from.saturating_sub(self.automaton.max_pattern_len()), from)
        });
        // The first lane is the shortest, for it has nothing before it.
        for _ in 0..part {
            for lane in &mut lanes {
                self.step(lane, known, bytes, hits);
            }
        }
        for (number, lane) in (1..).zip(&mut lanes) {
            let end = if number == LANES { bytes.len() } else { number * part };
            self.walk(lane, end, known, bytes, hits);
        }
    }

    fn lane(&self, at: usize, from: usize) -> Lane {
        let start = self.automaton.start_state(Anchored::No);
        Lane { state: start.expect("it is built for searches that are not anchored"), at, from }
    }

    fn walk(&self, lane: &mut Lane, end: usize, known: &Known, bytes: &[u8], hits: &mut Hits) {
        while lane.at < end {
            self.step(lane, known, bytes, hits);
        }
    }

    #[inline(always)]
    fn step(&self, lane: &mut Lane, known: &Known, bytes: &[u8], hits: &mut Hits) {
        lane.state = self.automaton.next_state(Anchored::No, lane.state, bytes[lane.at]);
        lane.at += 1;
        if self.automaton.is_special(lane.state) && lane.at > lane.from {
            self.found(*lane, known, bytes, hits);
        }
    }

    /// Some literals end here.
    #[cold]
    fn found(&self, lane: Lane, known: &Known, bytes: &[u8], hits: &mut Hits) {
        if !self.automaton.is_match(lane.state) {
            return;
        }
        for index in 0..self.automaton.match_len(lane.state) {
            let pattern = self.automaton.match_pattern(lane.state, index);
            let range = lane.at - self.automaton.pattern_len(pattern)..lane.at;
            self.literal(pattern.as_usize(), range, known, bytes, hits);
        }
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
                    keyword.exactly.as_ref().is_none_or(|exactly| *there == **exactly)
                };
                let rules = rules.iter().filter(counts).map(|keyword| keyword.rule);
                hits.keywords.extend(rules.map(|rule| Hit { rule, start, end }));
            }
            Meaning::Encoded(form) => {
                if form.coding == Coding::Hex || *there == *form.bytes {
                    hits.encoded.push((range.start, form.coding));
                }
            }
            Meaning::Known { value, form } => {
                if known.stands_at(*value, *form, bytes, range.start) {
                    hits.known.push(*value);
                }
            }
        }
    }
}
