//! What the worker has written down, a line each: names and codes, never values.

use serde::{Deserialize, Serialize};

/// One line of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// `fetch`, `push`, `deny`, `sync`, `relay` or `error`.
    pub(super) event: String,
    /// The upstream's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    /// What is pushed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refs: Vec<RefEntry>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) findings: Vec<FindingEntry>,
    /// Objects that were searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) objects: Option<u64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// Of those, how many could not be looked into, such as archives that are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unscanned: Option<u64>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ms: Option<u64>,
    /// In words of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
}

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefEntry {
    pub(super) name: String,
    pub(super) old: String,
    pub(super) new: String,
    /// `ok`, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<String>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FindingEntry {
    pub(super) rule: String,
    pub(super) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    pub(super) fingerprint: String,
    /// Why it passes, if it does: `known_upstream` or `allowed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) passes: Option<String>,
}
