//! What a rule does not mean although its pattern matches: gitleaks' allowlists.
//!
//! A request has neither a path nor a commit: where an allowlist asks for one it does not hold.

use std::sync::OnceLock;

use aho_corasick::AhoCorasick;

use super::pattern::Pattern;

/// What the regular expressions of an allowlist are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Target {
    /// The secret itself.
    #[default]
    Secret,
    /// All that the rule's pattern matched.
    Match,
    /// The line with the match.
    Line,
}

/// One allowlist.
#[derive(Debug, Default)]
pub(in crate::sidecar::dlp) struct Allow {
    /// Every check must hold, not one.
    pub(super) all: bool,
    /// It names paths or commits as well.
    pub(super) elsewhere: bool,
    pub(super) target: Target,
    pub(super) patterns: Vec<Pattern>,
    /// In lower case.
    pub(super) stopwords: Vec<String>,
    pub(super) search: OnceLock<AhoCorasick>,
}

impl Allow {
    /// Whether this finding is allowed. `line` is called only where it is asked for.
    pub(in crate::sidecar::dlp) fn holds<'a>(
        &self,
        secret: &[u8],
        matched: &[u8],
        any_case: bool,
        line: impl FnOnce() -> &'a [u8],
    ) -> bool {
        if self.all && self.elsewhere {
            return false;
        }
        let pattern = || {
            let target = match self.target {
                Target::Secret => secret,
                Target::Match => matched,
                Target::Line => line(),
            };
            !target.is_empty()
                && self.patterns.iter().any(|pattern| pattern.regex_in(any_case).is_match(target))
        };
        let stopword = || !secret.is_empty() && self.stopword(secret);
        match (self.all, self.patterns.is_empty(), self.stopwords.is_empty()) {
            (_, true, true) => false,
            (true, false, false) => pattern() && stopword(),
            (_, false, true) => pattern(),
            (_, true, false) => stopword(),
            (false, false, false) => pattern() || stopword(),
        }
    }

    fn stopword(&self, secret: &[u8]) -> bool {
        let search = self.search.get_or_init(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .build(&self.stopwords)
                .expect("rules are far smaller than the automaton's limit of 2^31 states")
        });
        search.is_match(secret)
    }
}
