//! The status as a document: what `bottle status -o json` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::gate::RELAY_OPEN;
use crate::model::{BackendKind, Diagnostic, SandboxId, Usage};
use crate::plan::Verdict;
use crate::plan::document::TreeDocument;
use crate::reconcile::LastOutcome;
use crate::reconcile::detached::RunDocument;
use crate::reconcile::requests::Record;
use crate::sidecar::egress::State;
use crate::sidecar::git::keep::State as GateState;
use crate::sidecar::git::mirror::Activity;

/// Every sandbox, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this document's meaning.
    pub version: u32,
    /// The tree.
    pub tree: TreeDocument,
    /// The commit from which the last pass worked.
    pub last_commit: Option<String>,
    /// Declared or existing, by name.
    pub sandboxes: Vec<SandboxStatus>,
    /// What agents ask for: those that wait, the oldest first, then a number of those that were decided, the newest
    /// first.
    #[serde(default)]
    pub requests: Vec<RequestRow>,
    /// The `watch` that works on the tree, where one does.
    #[serde(default)]
    pub watch: Option<WatchStatus>,
    /// What is wrong with the tree.
    pub diagnostics: Vec<Diagnostic>,
}

/// A `watch` that works on the tree. Only what it publishes says more of it than its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// Its process.
    pub pid: u32,
    /// Since when it watches, in seconds since the epoch.
    pub since: Option<u64>,
    /// When it last read the tree and looked at everything, in seconds since the epoch.
    pub last_pass: Option<u64>,
    /// For whom something is being done.
    pub running: Option<Vec<SandboxId>>,
    /// Who has failed and is tried again.
    pub waiting: Option<Vec<Retry>>,
    /// Why there was no plan the last time, where there was none: nothing is touched until there is one.
    pub error: Option<String>,
}

impl WatchStatus {
    /// Of which nothing but its process is known.
    pub(super) fn of(pid: u32) -> Self {
        Self { pid, since: None, last_pass: None, running: None, waiting: None, error: None }
    }
}

/// A sandbox that has failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Which.
    pub sandbox: SandboxId,
    /// How often it has failed in a row.
    pub attempts: u32,
    /// When it is tried again, in seconds since the epoch.
    pub next: u64,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// All that is remembered of it.
    #[serde(flatten)]
    pub record: Record,
    /// What is asked for, in one line in which nothing acts.
    pub asks: String,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its name.
    pub sandbox: SandboxId,
    /// Where it is, or would be.
    pub backend: Option<BackendKind>,
    /// `running`, `completed`, `missing`, `stopped by you`, …
    pub state: String,
    /// The machine's exit code, or its command's.
    pub code: Option<i32>,
    /// Since when it was stopped by the operator, in seconds since the epoch, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<u64>,
    /// Since when its machine runs, or is down, in seconds since the epoch, where that is known.
    #[serde(default)]
    pub since: Option<u64>,
    /// What the next `apply` would do.
    pub verdict: Verdict,
    /// Why, a line each.
    pub drift: Vec<String>,
    /// Seconds since the machine was made.
    pub age: Option<u64>,
    /// When it was made, in seconds since the epoch.
    #[serde(default)]
    pub created: Option<u64>,
    /// How the last pass went that did something for it.
    pub last: Option<LastOutcome>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The last lines of output of what fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// What its agent asks for, where it can ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestsStatus>,
    /// Its detached runs that are remembered, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunDocument>,
    /// What its machine uses, where that runs and its backend tells.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What its sidecar did since it was started, where it has one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarStatus>,
    /// What its git gate did since it was started, where it has one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitStatus>,
}

/// What an agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsStatus {
    /// So many requests wait for the operator.
    pub pending: usize,
}

/// What a git gate did since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitStatus {
    /// Since when it serves, as RFC 3339 has it.
    pub started_at: String,
    /// It knows its upstreams; until then nothing passes.
    pub loaded: bool,
    /// What was refused, by why.
    pub denied: BTreeMap<String, u64>,
    /// By the names that the bottle gives them.
    pub upstreams: BTreeMap<String, Activity>,
    /// Why connections do not come from its engine now, where its relay says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

impl GitStatus {
    pub(super) fn of(state: GateState) -> Self {
        Self {
            loaded: state.generation > 0,
            denied: denied(&state.counts),
            started_at: state.started_at,
            upstreams: state.upstreams,
            relay: state.relay.filter(|how| how != RELAY_OPEN && !how.is_empty()),
        }
    }
}

/// Of the lines of a log what was refused, by why.
fn denied(counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let denied = counts.iter();
    denied
        .filter_map(|(event, count)| Some((event.strip_prefix("deny:")?.to_owned(), *count)))
        .collect()
}

/// What a sidecar did since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarStatus {
    /// Since when it serves, as RFC 3339 has it.
    pub started_at: String,
    /// A policy is in force; until then nothing passes.
    pub loaded: bool,
    /// Requests that were let through.
    pub allowed: u64,
    /// Requests that were let through although a leak rule matched.
    pub warned: u64,
    /// What was taken out of requests that were let through: how many lines of the log say so.
    pub redacted: u64,
    /// Requests and connections that were refused, by why.
    pub denied: BTreeMap<String, u64>,
}

impl SidecarStatus {
    pub(super) fn of(state: State) -> Self {
        let count = |event: &str| state.counts.get(event).copied().unwrap_or(0);
        let all = |begin: &str| -> u64 {
            let counts = state.counts.iter().filter(|(event, _)| event.starts_with(begin));
            counts.map(|(_, count)| count).sum()
        };
        Self {
            loaded: state.generation > 0,
            allowed: count("allow"),
            warned: all("warn:"),
            redacted: all("redacted:"),
            denied: denied(&state.counts),
            started_at: state.started_at,
        }
    }
}

impl SandboxStatus {
    pub(super) fn fails(&self) -> bool {
        let failing = ["failing", "failed", "stopped", "broken"].contains(&self.state.as_str());
        failing && self.code != Some(0)
    }
}
