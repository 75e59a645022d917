//! The scanner: one text, layer by layer of encoding, against rules and known values.

use std::sync::Arc;

use time::Date;

use super::decode::{self, local};
use super::engine::{View, detect};
use super::known::Known;
use super::matcher::{Hits, Matcher};
use super::rules::Rules;
use super::stream::{BodyScanner, OVERLAP, WINDOW};
use super::suppress::Suppression;

/// So many layers of encoding are taken off unless it is said otherwise.
pub const DEPTH: usize = 3;

/// Something that must not leave. It never carries what was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The rule's id, or the name of a known value.
    pub rule: String,
    /// It is a known value: nothing suppresses it.
    pub known: bool,
}

/// Rules, known values and exceptions, ready to search with. Cheap to share.
#[derive(Debug)]
pub struct Scanner {
    rules: Arc<Rules>,
    known: Arc<Known>,
    matcher: Matcher,
    suppressions: Vec<Suppression>,
    depth: usize,
}

impl Scanner {
    /// Prepares a search.
    #[must_use]
    pub fn new(rules: Arc<Rules>, known: Arc<Known>, suppressions: Vec<Suppression>) -> Self {
        let matcher = Matcher::new(&rules, &known);
        Self { rules, known, matcher, suppressions, depth: DEPTH }
    }

    /// The same, but taking off so many layers of encoding.
    #[must_use]
    pub const fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// Everything in a text that must not leave for this host today, each once.
    #[must_use]
    pub fn scan(&self, host: &str, today: Date, text: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut rest = text;
        let mut open_start = false;
        // The same windows as in a stream, so that both find the same.
        while rest.len() > WINDOW {
            found.extend(self.window(&rest[..WINDOW], open_start, true));
            rest = &rest[WINDOW - OVERLAP..];
            open_start = true;
        }
        found.extend(self.window(rest, open_start, false));
        found.sort();
        found.dedup();
        found.retain(|finding| !self.suppressed(finding, host, today));
        found
    }

    /// A scanner for a body that comes in pieces.
    #[must_use]
    pub fn stream(self: &Arc<Self>, host: &str, today: Date) -> BodyScanner {
        BodyScanner::new(Arc::clone(self), host, today)
    }

    pub(super) fn suppressed(&self, finding: &Finding, host: &str, today: Date) -> bool {
        !finding.known && self.suppressions.iter().any(|one| one.holds(&finding.rule, host, today))
    }

    /// Searches one window of a text, which may go on on either side.
    pub(super) fn window(&self, text: &[u8], open_start: bool, open_end: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut hits = Hits::default();
        let view = View { bytes: text, decoded: None, open_start, open_end };
        self.layer(view, self.depth, &mut hits, &mut found);
        found
    }

    /// Searches one text, and what is encoded in it.
    fn layer(&self, view: View<'_>, depth: usize, hits: &mut Hits, found: &mut Vec<Finding>) {
        self.plain(view, hits, found);
        if depth == 0 {
            return;
        }
        self.around_encoded(view.bytes, hits, found);
        for decoded in decode::decode(view.bytes, view.open_start) {
            let view = View { bytes: &decoded.bytes, decoded: Some(&decoded.parts), ..view };
            self.layer(view, depth - 1, hits, found);
        }
    }

    /// Searches around keywords that stand in a text encoded.
    fn around_encoded(&self, bytes: &[u8], hits: &mut Hits, found: &mut Vec<Finding>) {
        let mut encoded = std::mem::take(&mut hits.encoded);
        encoded.sort_unstable_by_key(|(at, coding)| (*coding, *at));
        let mut done = None;
        for (at, coding) in encoded {
            if done.is_some_and(|(end, of)| of == coding && at < end) {
                continue;
            }
            let (decoded, end) = local::neighbourhood(bytes, at, coding);
            done = Some((end, coding));
            let view = View { bytes: &decoded, decoded: None, open_start: true, open_end: false };
            self.plain(view, hits, found);
        }
    }

    /// Searches one text as it stands.
    fn plain(&self, view: View<'_>, hits: &mut Hits, found: &mut Vec<Finding>) {
        hits.clear();
        self.matcher.search(&self.known, view.bytes, hits);
        hits.known.sort_unstable();
        hits.known.dedup();
        let names = hits.known.iter().map(|&value| self.known.name(value).to_owned());
        found.extend(names.map(|rule| Finding { rule, known: true }));
        for index in detect(&self.rules, &mut hits.keywords, view) {
            let rule = self.rules.rules[index].id.to_string();
            found.push(Finding { rule, known: false });
        }
    }
}
