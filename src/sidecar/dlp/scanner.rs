//! The scanner: one text, layer by layer of encoding, against rules and known values.

use std::ops::Range;
use std::sync::Arc;

use time::Date;

use super::decode::{self, local};
use super::engine::{Hit, View, detect, locate};
use super::known::Known;
use super::marks::Located;
use super::matcher::{Hits, Matcher};
use super::rules::Rules;
use super::stream::{BodyScanner, OVERLAP, WINDOW};
use super::suppress::Suppression;

/// So many layers of encoding are taken off unless it is said otherwise.
pub const DEPTH: usize = 6;

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
    matcher: Arc<Matcher>,
    suppressions: Vec<Suppression>,
    depth: usize,
}

impl Scanner {
    /// Prepares a search.
    #[must_use]
    pub fn new(rules: Arc<Rules>, known: Arc<Known>, suppressions: Vec<Suppression>) -> Self {
        let matcher = Arc::new(Matcher::new(&rules, &known));
        Self { rules, known, matcher, suppressions, depth: DEPTH }
    }

    /// The same with other exceptions. What takes memory and time to make is shared.
    #[must_use]
    pub fn with_suppressions(&self, suppressions: Vec<Suppression>) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
            known: Arc::clone(&self.known),
            matcher: Arc::clone(&self.matcher),
            suppressions,
            depth: self.depth,
        }
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
        self.scan_runs(host, today, text, &decode::runs(text))
    }

    /// The same with the [`decode::runs()`] of the text.
    pub(super) fn scan_runs(
        &self,
        host: &str,
        today: Date,
        text: &[u8],
        runs: &[Range<usize>],
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut from = 0;
        // The same windows as in a stream, so that both find the same.
        loop {
            let end = text.len().min(from + WINDOW);
            let (part, open_end) = (from..end, end < text.len());
            let runs = decode::runs_in(runs, &part);
            found.extend(self.window(&text[part], &runs, from > 0, open_end));
            if !open_end {
                break;
            }
            from = end - OVERLAP;
        }
        found.sort();
        found.dedup();
        found.retain(|finding| !self.suppressed(finding, host, today));
        found
    }

    /// What rules find in a text whose letters may have lost their case, as those of a host's name have:
    /// many tokens are in capitals. What is encoded in it is not looked into.
    #[must_use]
    pub fn scan_in_any_case(&self, host: &str, today: Date, text: &[u8]) -> Vec<Finding> {
        let (mut hits, mut found) = (Hits::in_any_case(), Vec::new());
        self.plain(View { any_case: true, ..whole(text) }, &[], &mut hits, &mut found);
        found.retain(|finding| !self.suppressed(finding, host, today));
        found
    }

    /// A scanner for a body that comes in pieces.
    #[must_use]
    pub fn stream(self: &Arc<Self>, host: &str, today: Date) -> BodyScanner {
        BodyScanner::new(Arc::clone(self), host, today)
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The same with other rules.
    pub(super) fn with_rules(&self, rules: Rules) -> Self {
        let known = Arc::new(Known::default());
        let matcher = Arc::new(Matcher::new(&rules, &known));
        let (suppressions, depth) = (self.suppressions.clone(), self.depth);
        Self { rules: Arc::new(rules), known, matcher, suppressions, depth }
    }

    pub(super) fn suppressed(&self, finding: &Finding, host: &str, today: Date) -> bool {
        !finding.known && self.suppressions.iter().any(|one| one.holds(&finding.rule, host, today))
    }

    /// Searches one window of a text, which may go on on either side. `runs` are its [`decode::runs()`].
    pub(super) fn window(
        &self,
        text: &[u8],
        runs: &[Range<usize>],
        open_start: bool,
        open_end: bool,
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        self.window_into(text, runs, (open_start, open_end), &mut found);
        found
    }

    /// The same; `open`: it goes on before it, and after it.
    pub(super) fn window_into(
        &self,
        text: &[u8],
        runs: &[Range<usize>],
        (open_start, open_end): (bool, bool),
        found: &mut impl Sink,
    ) {
        let mut hits = Hits::default();
        let view = View { bytes: text, decoded: None, open_start, open_end, any_case: false };
        self.layer(view, runs, self.depth, &mut hits, found);
    }

    /// Searches one text, and what is encoded in it.
    fn layer(
        &self,
        view: View<'_>,
        runs: &[Range<usize>],
        depth: usize,
        hits: &mut Hits,
        found: &mut impl Sink,
    ) {
        if depth == 0 {
            self.plain(view, &[], hits, found);
            return;
        }
        self.plain(view, runs, hits, found);
        let (texts, covered) = decode::decode(view.bytes, runs, view.open_start);
        // What is decoded as a whole is searched as a whole.
        hits.encoded.retain(|(at, coding)| !covered.holds(*at, *coding));
        self.around_encoded(view.bytes, hits, found);
        for decoded in texts {
            let view = View { bytes: &decoded.bytes, decoded: Some(&decoded.parts), ..view };
            let runs = if depth > 1 { decode::runs(view.bytes) } else { Vec::new() };
            self.layer(view, &runs, depth - 1, hits, found);
        }
    }

    /// Searches around keywords that stand in a text encoded.
    fn around_encoded(&self, bytes: &[u8], hits: &mut Hits, found: &mut impl Sink) {
        let mut encoded = std::mem::take(&mut hits.encoded);
        encoded.sort_unstable_by_key(|(at, coding)| (*coding, *at));
        let mut done = None;
        for (at, coding) in encoded {
            if done.is_some_and(|(end, of)| of == coding && at < end) {
                continue;
            }
            let (decoded, end) = local::neighbourhood(bytes, at, coding);
            done = Some((end, coding));
            let view = View { open_start: true, ..whole(&decoded) };
            self.plain(view, &[], hits, found);
        }
    }

    /// Searches one text as it stands, and what may be encoded of it for encoded keywords.
    fn plain(&self, view: View<'_>, runs: &[Range<usize>], hits: &mut Hits, found: &mut impl Sink) {
        hits.clear();
        self.matcher.search(&self.known, view.bytes, runs, hits);
        hits.known.sort_unstable();
        hits.known.dedup();
        for &value in &hits.known {
            found.known(self.known.name(value));
        }
        found.of_rules(&self.rules, &mut hits.keywords, view);
    }
}

/// Where findings go.
pub(super) trait Sink {
    /// A known value stands in a text.
    fn known(&mut self, name: &str);
    /// Keywords of rules stand in a text: whether the rules find something there.
    fn of_rules(&mut self, rules: &Rules, hits: &mut [Hit], view: View<'_>);
}

impl Sink for Vec<Finding> {
    fn known(&mut self, name: &str) {
        self.push(Finding { rule: name.to_owned(), known: true });
    }

    fn of_rules(&mut self, rules: &Rules, hits: &mut [Hit], view: View<'_>) {
        for index in detect(rules, hits, view) {
            self.push(Finding { rule: rules.rules[index].id.to_string(), known: false });
        }
    }
}

impl Sink for Located {
    fn known(&mut self, name: &str) {
        self.add(name, true, name.as_bytes(), None);
    }

    fn of_rules(&mut self, rules: &Rules, hits: &mut [Hit], view: View<'_>) {
        for (index, secret) in locate(rules, hits, view) {
            self.take(&rules.rules[index].id, view, secret);
        }
    }
}

impl Scanner {
    /// Where in a text as it stands something is that must not leave, which may go on on either side. What is
    /// encoded in it is not looked into.
    pub(super) fn places(
        &self,
        host: &str,
        today: Date,
        view: View<'_>,
    ) -> Vec<(Range<usize>, Finding)> {
        let mut hits = Hits::default();
        self.matcher.search(&self.known, view.bytes, &[], &mut hits);
        let known = hits.as_they_are.into_iter().map(|(value, range)| {
            (range, Finding { rule: self.known.name(value).to_owned(), known: true })
        });
        let mut places: Vec<_> = known.collect();
        let rules = locate(&self.rules, &mut hits.keywords, view).map(|(index, range)| {
            let rule = self.rules.rules[index].id.to_string();
            (range, Finding { rule, known: false })
        });
        places.extend(rules.filter(|(_, finding)| !self.suppressed(finding, host, today)));
        places
    }
}

/// A text of which all is there.
const fn whole(bytes: &[u8]) -> View<'_> {
    View { bytes, decoded: None, open_start: false, open_end: false, any_case: false }
}

#[cfg(test)]
mod tests;
