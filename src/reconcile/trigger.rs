//! What makes the loop run a pass. The cause is logged and never given to the planner.

use std::fmt;

use crate::model::{BackendKind, SandboxId};

/// Why a pass is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// The loop has just begun.
    Start,
    /// A file of the tree moved.
    Files(String),
    /// A backend says that something moved, or that it is back.
    Backend(BackendKind, String),
    /// It is time to look again, whatever was or was not said.
    Resync,
    /// A sandbox that failed is due again.
    Retry,
    /// What a reading wants removed is read once more before it goes.
    Removal,
    /// The operator has stopped or started a sandbox.
    Order,
    /// An agent asks for something.
    Request(SandboxId),
    /// Something was decided about a request.
    Decision,
    /// A sandbox that was worked on when something was to be done for it is free again.
    Free(SandboxId),
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Files(path) => write!(f, "{path} changed"),
            Self::Backend(kind, what) => write!(f, "{kind}: {what}"),
            Self::Resync => f.write_str("resync"),
            Self::Retry => f.write_str("retry"),
            Self::Removal => f.write_str("a removal is read once more"),
            Self::Order => f.write_str("a sandbox was stopped or started by order"),
            Self::Request(sandbox) => write!(f, "{sandbox} asks for something"),
            Self::Decision => f.write_str("a request was decided"),
            Self::Free(sandbox) => write!(f, "{sandbox}: what was under way has ended"),
        }
    }
}
