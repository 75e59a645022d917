//! What a machine uses while it runs.

use serde::{Deserialize, Serialize};

/// What a machine uses, as its backend tells without asking anybody inside. What is not known is `None`, never 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The time of a core that it has taken since it was started, in milliseconds.
    pub cpu_milliseconds: Option<u64>,
    /// The memory that it has and that could not be dropped, in bytes.
    pub memory_bytes: Option<u64>,
    /// What of that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// How many processes and threads there are in it.
    pub pids: Option<u64>,
    /// How many there may be.
    pub pids_limit: Option<u64>,
}
