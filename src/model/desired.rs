//! What the tree declares.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::id::{OwnerId, SandboxId};
use super::kept::Bounds;
use super::policy::Proxy;
use super::source::Place;
use super::spec::SandboxSpec;

/// The tree itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The owner of all that it makes: `name:` of `bottle.yaml`, else a digest of its path.
    pub owner: OwnerId,
    /// Its canonical path.
    pub path: PathBuf,
    /// `network_pool:` of `bottle.yaml`.
    pub network_pool: Option<String>,
    /// `snapshots:` of `bottle.yaml`; `None`: what goes is not kept.
    pub snapshots: Option<Bounds>,
    /// `proxy:` of `bottle.yaml`.
    pub proxy: Option<Arc<Proxy>>,
    /// `notify:` of `bottle.yaml`: the program that is told of new requests; empty: none.
    pub notify: Vec<String>,
}

/// `was` of an agent: the name that its sandbox had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Was {
    /// That name.
    pub name: SandboxId,
    /// The overlay that brings the agent.
    pub overlay: Option<String>,
    /// Where its file says so.
    pub place: Place,
}

/// What was found where the agents should be. An empty or missing folder never reads as
/// "everything was deleted".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentsFolder {
    /// At least one file that names an agent.
    Present,
    /// The folder holds no agent.
    Empty,
    /// There is no such folder.
    Missing,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// What the tree declares, resolved: the first input of the planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The tree.
    pub tree: Tree,
    /// The sandboxes that are to exist.
    pub sandboxes: BTreeMap<SandboxId, SandboxSpec>,
    /// Sandboxes whose manifest does not hold: nothing of them is touched.
    pub held: BTreeMap<SandboxId, Vec<Diagnostic>>,
    /// Sandboxes whose file may be there under a name that is not read: what exists of them is not removed.
    pub unread: BTreeMap<SandboxId, Diagnostic>,
    /// Every diagnostic of the tree, in file order, those of `held` among them.
    pub diagnostics: Vec<Diagnostic>,
    /// What was found where the agents should be.
    pub agents: AgentsFolder,
    /// The overlays that this run has loaded.
    pub overlays: BTreeSet<String>,
    /// The names that agents had, also of those that are held.
    pub was: BTreeMap<SandboxId, Was>,
}

impl Desired {
    /// Whether any diagnostic is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == super::Severity::Error)
    }
}
