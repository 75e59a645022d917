//! What one look at tree and backends has shown, and the plan that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::git::Revision;
use super::names::Told;
use super::requests;
use super::state::TreeState;
use super::tokens::Credentials;
use crate::apply::Secrets;
use crate::backend::Scope;
use crate::model::{BackendKind, Desired, Observed, Places, SandboxId, SpecHash};
use crate::plan::document::{PlanDocument, TreeDocument, document, fingerprint};
use crate::plan::{self, Options, Plan};

/// Everything that one look at tree and backends has shown, and the plan that follows from it.
pub struct View {
    /// What is desired.
    pub desired: Desired,
    /// What exists.
    pub observed: Observed,
    /// What the operator said.
    pub options: Options,
    /// What follows.
    pub plan: Plan,
    /// The asked-for values that are at hand.
    pub secrets: Secrets,
    /// The credentials that routes refer to and that are set.
    pub credentials: Credentials,
    /// On whose behalf backends are called.
    pub scope: Scope,
    /// The commit of the tree.
    pub revision: Revision,
    /// What is remembered of the tree.
    pub memory: TreeState,
    /// Where renamed sandboxes were when it was looked; `scope` says where they are from now on.
    pub places: Places,
    /// What the sidecars of each backend are told of what the host says about names.
    pub(super) names: BTreeMap<BackendKind, Told>,
    /// What sidecars are told of requests.
    pub(super) told: Arc<requests::Told>,
}

impl View {
    /// Plans again from the same observations, and leaves these sandboxes as they are this time.
    pub(super) fn defer(&mut self, sandboxes: impl IntoIterator<Item = SandboxId>) {
        self.options.deferred.extend(sandboxes);
        self.plan = plan::plan(&self.desired, &self.observed, &self.options);
    }

    /// The tree, as documents name it.
    #[must_use]
    pub fn tree(&self) -> TreeDocument {
        TreeDocument {
            name: self.desired.tree.owner.to_string(),
            path: self.desired.tree.path.display().to_string(),
            commit: self.revision.commit.clone(),
            branch: self.revision.branch.clone(),
            dirty: self.revision.dirty,
            overlays: self.desired.overlays.iter().cloned().collect(),
        }
    }

    /// A digest of all that the plan was made from.
    #[must_use]
    pub fn fingerprint(&self) -> SpecHash {
        fingerprint(&self.desired, &self.observed, &self.options)
    }

    /// The plan as a document.
    #[must_use]
    pub fn document(&self) -> PlanDocument {
        document(self.tree(), &self.plan, &self.desired.diagnostics, Some(self.fingerprint()))
    }

    /// The same for people: without the fingerprint.
    #[must_use]
    pub fn text_document(&self) -> PlanDocument {
        document(self.tree(), &self.plan, &self.desired.diagnostics, None)
    }

    /// The old contents that diffs of this plan want, as far as they are remembered.
    #[must_use]
    pub fn old_texts(&self) -> BTreeMap<SpecHash, String> {
        let wanted: BTreeSet<SpecHash> = plan::diff::wanted(&self.plan).into_iter().collect();
        wanted.into_iter().filter_map(|hash| Some((hash, self.memory.text(&hash)?))).collect()
    }
}
