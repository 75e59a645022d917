//! Rules in gitleaks' format: what a secret looks like.

mod allow;
mod parse;
pub(super) mod pattern;

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

pub(super) use allow::Allow;
use pattern::{Pattern, Reach};

/// A match longer than this is looked for in a whole window, not around its keyword.
const LONG: usize = 4096;

/// A set of rules, ready to search with.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
    /// Allowlists of every rule.
    pub(super) allow: Vec<Arc<Allow>>,
}

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    /// What it looks like. A rule about file names alone has none.
    pub(super) pattern: Option<Arc<Pattern>>,
    /// It is about files with certain names only, and a request has no name.
    pub(super) nowhere: bool,
    /// Those names.
    pub(super) path: Option<Arc<Pattern>>,
    /// The capture group with the secret; 0: the first one that is not empty.
    pub(super) secret_group: usize,
    pub(super) entropy: f64,
    /// As the file spells them; they are looked for in any case. Without any, the pattern is tried
    /// everywhere.
    pub(super) keywords: Vec<String>,
    pub(super) allow: Vec<Arc<Allow>>,
    pub(super) required: Vec<Required>,
    /// Serves other rules only.
    pub(super) quiet: bool,
    /// How matches lie around keywords, where each match has one and an end.
    pub(super) reach: Option<Reach>,
}

/// Another rule that must have found something nearby.
#[derive(Debug, Clone)]
pub(super) struct Required {
    pub(super) rule: Arc<str>,
    pub(super) within_lines: Option<usize>,
    pub(super) within_columns: Option<usize>,
}

/// Why rules cannot be used.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("line {line}: {}{what}", .rule.as_ref().map(|id| format!("rule `{id}`: ")).unwrap_or_default())]
pub struct RulesError {
    /// The line of the file, from 1.
    pub line: usize,
    /// The rule's id, where it is one rule that is wrong.
    pub rule: Option<String>,
    /// What was found, what was expected, what to do.
    pub what: String,
}

impl Rules {
    /// Reads a file of rules in gitleaks' format (its version 8).
    ///
    /// `extend.useDefault` puts them on top of the built-in ones.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, and its line.
    pub fn from_toml(text: &str) -> Result<Self, RulesError> {
        parse::read(text, Pattern::new)
    }

    /// Reads the built-in rules, whose patterns are known to compile.
    pub(super) fn from_trusted(text: &str) -> Result<Self, RulesError> {
        parse::read(text, Pattern::trusted)
    }

    /// These rules and those: where both have a rule of one id, that of `other` counts.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let own: BTreeSet<&str> = other.ids().collect();
        let kept = self.rules.iter().filter(|rule| !own.contains(&*rule.id));
        Self {
            rules: kept.chain(&other.rules).cloned().collect(),
            allow: self.allow.iter().chain(&other.allow).cloned().collect(),
        }
    }

    /// The ids of all rules.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.id)
    }

    /// How many rules there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    /// Completes what follows from the rest.
    fn finish(&mut self) {
        let reach = self.pattern.as_ref().and_then(|pattern| pattern.reach(&self.keywords));
        self.reach = reach.filter(|reach| reach.longest <= LONG);
    }
}

#[cfg(test)]
mod tests;
