//! What of an agent's work is kept when its machine goes, and for how long.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The sandbox was to be removed.
    Teardown,
    /// It was to be made anew.
    Replace,
    /// Somebody asked for it.
    Manual,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Teardown => "teardown",
            Self::Replace => "replace",
            Self::Manual => "manual",
        })
    }
}

/// How many snapshots a tree keeps: `snapshots:` of `bottle.yaml`. Those that somebody asked for are never
/// removed, and count only in `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// So many of each sandbox.
    pub keep: u32,
    /// Older ones go, in days.
    pub days: u32,
    /// All together take no more room, in bytes: what would not fit keeps its sandbox from being removed.
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keep: 5, days: 30, bytes: 20 << 30 }
    }
}
