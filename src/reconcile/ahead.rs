//! Looking at backends while the tree is still being read. Neither needs the other, and an engine takes as
//! long to answer as the tree takes to be read.

use super::git::{self, Revision};
use super::pass::Reconciler;
use crate::backend::Scope;
use crate::manifest::mount_table;
use crate::model::{Desired, MountTable, Observed, OwnerId};

/// What backends showed meanwhile, and on whose behalf they were asked.
pub struct Ahead {
    scope: Scope,
    pub(super) mounts: MountTable,
    observed: Observed,
    revision: Revision,
}

impl Ahead {
    /// What was seen, if it was seen on behalf of exactly this scope; and the commit of the tree.
    pub(super) fn of(self, scope: &Scope) -> (Option<Observed>, Revision) {
        ((self.scope == *scope).then_some(self.observed), self.revision)
    }
}

impl Reconciler {
    /// Reads the tree, and looks at the backends of this owner meanwhile.
    ///
    /// What is seen counts for a plan as long as nobody else changes what is seen: the caller holds the tree's lock,
    /// or only shows the plan.
    ///
    /// # Errors
    /// When the tree as a whole, or the state folder, cannot be read.
    pub async fn read_beside(&self, owner: &OwnerId) -> anyhow::Result<(Desired, Ahead)> {
        let scope = self.scope(owner, &self.state.tree(owner)?)?;
        let looking =
            async { Ok(tokio::join!(self.observe(&scope), git::revision(&self.load.tree))) };
        // A tree that cannot be read is told at once, however long an engine takes.
        let mounts = mount_table();
        let (desired, (observed, revision)) =
            tokio::try_join!(self.desired_among(mounts.clone()), looking)?;
        Ok((desired, Ahead { scope, mounts, observed, revision }))
    }
}
