//! What is kept of a request on the host: one file each, `requests/<id>.json` in the tree's state folder.

use serde::{Deserialize, Serialize};

use crate::manifest::edit::Edit;
use crate::model::supervise::{Ask, Evidence, Request, RequestId, Standing, Tool, What};
use crate::model::text::spelled_line;
use crate::model::{BackendKind, Desired, Moment, SandboxId};

/// The version of the files.
pub const VERSION: u32 = 1;

/// A request, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this file.
    pub version: u32,
    /// Its name.
    pub id: RequestId,
    /// Whose agent asks: that of the sidecar that it was asked of, and never what the agent said.
    pub sandbox: SandboxId,
    /// The bottle that it was in.
    pub bottle: String,
    /// Where it was.
    pub backend: BackendKind,
    /// By what the agent asked.
    pub tool: Tool,
    /// What is asked for: `kind` and `ask`.
    #[serde(flatten)]
    pub ask: Ask,
    /// The agent's words, as they came. Whoever shows them makes them harmless.
    pub reason: String,
    /// What the sidecar has seen.
    pub evidence: Evidence,
    /// How often the same was asked.
    pub asked: u64,
    /// When it was first asked.
    pub received: Moment,
    /// When it was last asked.
    pub last: Moment,
    /// How it stands.
    pub state: Standing,
    /// Who decided, and how.
    pub decision: Option<Decision>,
    /// What was changed for it.
    pub edit: Option<Made>,
    /// What was changed to take that back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Made>,
    /// Why it could not be applied.
    pub error: Option<String>,
}

/// A decision of a person's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The user's name, as far as it is known; `hand`: the manifest says so by itself.
    pub by: String,
    /// The user.
    pub uid: u32,
    /// Through what: `cli`.
    pub via: String,
    /// When.
    pub at: Moment,
    /// The word to the agent.
    pub message: Option<String>,
    /// Until when it is granted.
    pub until: Option<Moment>,
    /// The token of what was seen.
    pub review: Option<String>,
    /// What was granted, where that is not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Ask>,
}

/// An edit of the tree, written down before it is made: whoever finds it half done can go on, or back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// This request's file, by its path in the tree.
    pub file: String,
    /// The SHA-256 of what it held.
    pub before: String,
    /// And of what it holds then.
    pub after: String,
    /// The commit, where the tree is tracked.
    pub commit: Option<String>,
    /// The branch; none where none was checked out.
    pub branch: Option<String>,
    /// What was checked out before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Why there is no commit, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<String>,
    /// The fields that change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// The edits of this request.
    pub edits: Vec<Edit>,
    /// What takes them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<Edit>,
    /// All files that are edited together.
    pub files: Vec<File>,
    /// It is in the files, and committed.
    #[serde(default)]
    pub done: bool,
}

/// A file that is edited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path in the tree.
    pub file: String,
    /// The SHA-256 of what it held.
    pub before: String,
    /// And of what it holds then.
    pub after: String,
    /// All edits of it, also those of other requests that are granted together.
    pub edits: Vec<Edit>,
}

impl Record {
    /// Of a request that a sidecar holds.
    #[must_use]
    pub fn of(request: Request, sandbox: SandboxId, bottle: String, backend: BackendKind) -> Self {
        Self {
            version: VERSION,
            id: request.id,
            sandbox,
            bottle,
            backend,
            tool: request.tool,
            ask: request.ask,
            reason: request.reason,
            evidence: request.evidence,
            asked: request.asked,
            received: request.first,
            last: request.last,
            state: Standing::Pending,
            decision: None,
            edit: None,
            undo: None,
            error: None,
        }
    }

    /// What is granted, or would be.
    #[must_use]
    pub fn granted(&self) -> &Ask {
        let decided = self.decision.as_ref().and_then(|decision| decision.granted.as_ref());
        decided.unwrap_or(&self.ask)
    }

    /// When it was decided; of one that waits, when it was asked.
    #[must_use]
    pub fn at(&self) -> Moment {
        self.decision.as_ref().map_or(self.received, |decision| decision.at)
    }

    /// What is asked for, in one line in which nothing acts.
    #[must_use]
    pub fn asks(&self, desired: Option<&Desired>) -> String {
        let text = match &self.ask {
            Ask::Capability(ask) => {
                let limits = desired
                    .and_then(|desired| desired.sandboxes.get(&self.sandbox))
                    .map(|spec| spec.resources.fields());
                let path = format!("resources.{}", ask.what.as_str());
                let now = limits.as_ref().and_then(|limits| limits.0.get(&path));
                match (ask.what, now) {
                    (What::Memory | What::Cpus | What::Pids, Some(now)) => {
                        format!("{path} {now} → {}", ask.value)
                    }
                    _ => format!("{} {}", ask.what.as_str(), ask.value),
                }
            }
            ask => ask.to_string(),
        };
        spelled_line(&text)
    }
}
