//! One automaton over everything that is looked for literally: the keywords of rules, keywords as
//! they stand inside base64 and hex, and pieces of known values. One pass finds them all.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

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

/// The automaton and what its literals mean.
#[derive(Debug)]
pub(super) struct Matcher {
    automaton: AhoCorasick,
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
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&literals)
            .expect("rules and values are far smaller than the automaton's limit of 2^31 states");
        Self { automaton, meanings }
    }

    /// Finds every literal in a text.
    pub(super) fn search(&self, known: &Known, bytes: &[u8], hits: &mut Hits) {
        for found in self.automaton.find_overlapping_iter(bytes) {
            match &self.meanings[found.pattern().as_usize()] {
                Meaning::Keyword(rules) => {
                    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                    let (start, end) = (place(found.start()), place(found.end()));
                    let there = &bytes[found.range()];
                    let counts = |keyword: &&Keyword| {
                        keyword.exactly.as_ref().is_none_or(|exactly| *there == **exactly)
                    };
                    let rules = rules.iter().filter(counts).map(|keyword| keyword.rule);
                    hits.keywords.extend(rules.map(|rule| Hit { rule, start, end }));
                }
                Meaning::Encoded(form) => {
                    if form.coding == Coding::Hex || bytes[found.range()] == *form.bytes {
                        hits.encoded.push((found.start(), form.coding));
                    }
                }
                Meaning::Known { value, form } => {
                    if known.stands_at(*value, *form, bytes, found.start()) {
                        hits.known.push(*value);
                    }
                }
            }
        }
    }
}
