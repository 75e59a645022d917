//! What a dashboard shows of the whole tree at one time. Plain data, as it was found: nothing in it is harmless.

use std::collections::BTreeMap;

use crate::model::Moment;
use crate::model::supervise::{Problem, RequestId, Standing};
use crate::plan::Verdict;
use crate::reconcile::status::{RequestRow, SandboxStatus, Status};

/// The tree and all its sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The name of the tree.
    pub tree: String,
    /// `main@ddc9927`, where git tracks it.
    pub commit: Option<String>,
    /// The process of the `bottle watch` that works on it.
    pub watch: Option<u32>,
    /// Every sandbox, by name.
    pub sandboxes: Vec<Sandbox>,
    /// The requests that wait, the oldest first.
    pub requests: Vec<Ask>,
    /// What is wrong with the tree.
    pub problems: Vec<String>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// What makes it; empty where that is not known.
    pub backend: String,
    /// `running`, `stopped by you`, …
    pub state: String,
    /// The exit code of what ended.
    pub code: Option<i32>,
    /// What the next `apply` would do.
    pub verdict: Verdict,
    /// Why.
    pub why: Vec<String>,
    /// When its machine was made, in seconds since the epoch.
    pub made: Option<u64>,
    /// What its sidecar did.
    pub egress: Option<Egress>,
    /// How the last pass went, in words.
    pub last: Option<String>,
    /// What an operator should know.
    pub notes: Vec<String>,
    /// The last lines of output of what fails.
    pub output: Vec<String>,
    /// Its detached runs.
    pub runs: Vec<Run>,
}

/// What a sidecar did since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// So many requests passed.
    pub allowed: u64,
    /// What was refused, by why.
    pub denied: BTreeMap<String, u64>,
}

/// A detached run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub id: String,
    /// `running`, `exited (3)`, …
    pub state: String,
    /// When it began, in seconds since the epoch.
    pub since: u64,
    /// What runs.
    pub command: Vec<String>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its name.
    pub id: RequestId,
    /// Whose agent asks.
    pub sandbox: String,
    /// `egress`, `credential`, `capability`.
    pub kind: &'static str,
    /// What for, in one line.
    pub asks: String,
    /// When it was first asked.
    pub received: Moment,
    /// How often.
    pub asked: u64,
    /// A yes needs the name of a token.
    pub wants_token: bool,
}

/// What is fetched for one sandbox when somebody looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// Its name.
    pub name: String,
    /// What it is: image, limits, user.
    pub machine: Vec<String>,
    /// What it may reach.
    pub policy: Vec<String>,
    /// The last lines of its main process.
    pub log: Vec<String>,
    /// Its system prompt.
    pub prompt: Vec<String>,
    /// Its snapshots, the newest first.
    pub snapshots: Vec<Kept>,
    /// How a command is run in it.
    pub exec: String,
}

/// A snapshot of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub id: String,
    /// Age, size, what it has.
    pub about: String,
}

impl Snapshot {
    /// Of how everything stands.
    #[must_use]
    pub fn of(status: Status) -> Self {
        let waits = |row: &RequestRow| row.record.state == Standing::Pending;
        let commit = status.tree.commit.as_ref().map(|commit| {
            let short = commit.get(..7).unwrap_or(commit);
            let dirty = if status.tree.dirty { "+" } else { "" };
            match &status.tree.branch {
                Some(branch) => format!("{branch}@{short}{dirty}"),
                None => format!("{short}{dirty}"),
            }
        });
        Self {
            tree: status.tree.name,
            commit,
            watch: status.watch.map(|watch| watch.pid),
            sandboxes: status.sandboxes.into_iter().map(Sandbox::of).collect(),
            requests: status.requests.into_iter().filter(waits).map(Ask::of).collect(),
            problems: status
                .diagnostics
                .iter()
                .map(|it| format!("{}:{}: {}", it.file, it.line, it.message))
                .collect(),
        }
    }
}

impl Ask {
    fn of(row: RequestRow) -> Self {
        use crate::model::supervise::Ask as Asked;
        let record = row.record;
        let wants_token =
            matches!(&record.ask, Asked::Credential(ask) if ask.problem == Problem::Missing);
        Self {
            id: record.id,
            sandbox: record.sandbox.to_string(),
            kind: record.ask.kind(),
            asks: row.asks,
            received: record.received,
            asked: record.asked,
            wants_token,
        }
    }
}

impl Sandbox {
    fn of(status: SandboxStatus) -> Self {
        let last = status.last.and_then(|last| last.error);
        Self {
            name: status.sandbox.to_string(),
            backend: status.backend.map(|backend| backend.to_string()).unwrap_or_default(),
            state: status.state,
            code: status.code,
            verdict: status.verdict,
            why: status.drift,
            made: status.created,
            egress: status
                .sidecar
                .map(|sidecar| Egress { allowed: sidecar.allowed, denied: sidecar.denied }),
            last: last.map(|error| format!("the last pass failed: {error}")),
            notes: status.notes,
            output: status.output,
            runs: status
                .runs
                .into_iter()
                .map(|run| Run {
                    id: run.id.clone(),
                    state: run.state(),
                    since: run.since,
                    command: run.command,
                })
                .collect(),
        }
    }

    /// How often something was refused.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.egress.iter().flat_map(|egress| egress.denied.values()).sum()
    }

    /// Whether its machine is down, so that it can be started.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state.starts_with("stopped") || self.state == "created"
    }
}
