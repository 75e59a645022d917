//! What of an agent's work is kept when its machine goes, and for how long.

use std::collections::BTreeSet;
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

/// The copy of a workspace, as manifests and plans name it.
pub const WORKSPACE: &str = "workspace";
/// The home folder of a sandbox's user.
pub const HOME: &str = "home";
/// All else in its machine, as plans name it.
pub const REST: &str = "the rest";

/// What of a sandbox outlives its machine: `keep` of its bottle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The copy of its workspace.
    pub workspace: bool,
    /// The home folder of its user.
    pub home: bool,
    /// Files and folders of the machine, absolute.
    pub paths: BTreeSet<String>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { workspace: true, home: true, paths: BTreeSet::new() }
    }
}

impl Keep {
    /// Whether it names nothing at all: `keep: []`.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.workspace && !self.home && self.paths.is_empty()
    }

    /// Whether one of its paths is this one, or a folder that it lies in.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        self.paths.iter().any(|kept| lies_in(path, kept))
    }
}

/// As the manifest writes it.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.workspace, WORKSPACE), (self.home, HOME)];
        let names = names.iter().filter(|(named, _)| *named).map(|(_, name)| *name);
        let all: Vec<&str> = names.chain(self.paths.iter().map(String::as_str)).collect();
        write!(f, "[{}]", all.join(", "))
    }
}

/// What is kept of a machine before it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Why.
    pub why: Why,
    /// What.
    pub what: Keep,
}

/// Whether a path of a machine is another, or lies in it. Both are absolute and in their shortest form.
#[must_use]
pub fn lies_in(path: &str, other: &str) -> bool {
    path.strip_prefix(other.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
