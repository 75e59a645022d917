//! Which path speaks for which owner: another tree under the same name must not take over, or tear
//! down, what it has not made; and a tree under a new name leaves what it made under the old one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::accepted;
use super::state::{State, is_damage, read_json, write_json};
use crate::backend::durable;
use crate::model::{Diagnostic, OwnerId};

/// Another path speaks for this owner.
#[derive(Debug, thiserror::Error)]
#[error("the name `{owner}` belongs to the tree {}, which still exists", other.display())]
pub struct OwnerTaken {
    /// The name.
    pub owner: OwnerId,
    /// The path that last spoke for it.
    pub other: PathBuf,
}

impl State {
    /// Which path last spoke for which owner. Where the record of that is damaged, what each tree's own
    /// record says counts; the next claim writes it anew.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn owners(&self) -> anyhow::Result<BTreeMap<OwnerId, PathBuf>> {
        Ok(self.owners_or_damage()?.0)
    }

    fn owners_or_damage(&self) -> anyhow::Result<(BTreeMap<OwnerId, PathBuf>, bool)> {
        match read_json(&self.owners_file()) {
            Ok(owners) => Ok((owners.unwrap_or_default(), false)),
            Err(error) if is_damage(&error) => {
                tracing::warn!("{error:#}; it is made again from the records of the trees");
                Ok((accepted::trees(self.root()), true))
            }
            Err(error) => Err(error),
        }
    }

    fn owners_file(&self) -> PathBuf {
        self.root().join("owners.json")
    }

    /// The file is all trees' in common, so a tree's own lock does not keep it whole.
    pub(super) fn lock_owners(&self) -> anyhow::Result<File> {
        let path = self.root().join("owners.lock");
        let lock = durable::lock_file(&path)?;
        lock.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(lock)
    }

    /// Remembers that `path` speaks for `owner`.
    ///
    /// # Errors
    /// [`OwnerTaken`] when another path that still exists does, unless `adopt` says that the tree
    /// has moved; or when the folder cannot be written.
    pub fn claim(&self, owner: &OwnerId, path: &Path, adopt: bool) -> anyhow::Result<()> {
        let (known, damaged) = self.owners_or_damage()?;
        if !damaged && known.get(owner).is_some_and(|known| known == path) {
            return Ok(());
        }
        let _lock = self.lock_owners()?;
        let mut owners = self.owners()?;
        if let Some(taken) = taken(&owners, owner, path).filter(|_| !adopt) {
            return Err(taken.into());
        }
        owners.insert(owner.clone(), path.to_owned());
        write_json(&self.owners_file(), &owners, true)
    }

    /// Whether `path` may speak for `owner`. Nothing is remembered.
    ///
    /// # Errors
    /// [`OwnerTaken`], as for [`Self::claim`]; or when the folder cannot be read.
    pub fn speaks_for(&self, owner: &OwnerId, path: &Path) -> anyhow::Result<()> {
        match taken(&self.owners()?, owner, path) {
            Some(taken) => Err(taken.into()),
            None => Ok(()),
        }
    }

    /// Forgets that `path` speaks for `owner`, of which nothing exists any more.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn release(&self, owner: &OwnerId, path: &Path) -> anyhow::Result<()> {
        let _lock = self.lock_owners()?;
        let mut owners = self.owners()?;
        if owners.get(owner).is_some_and(|known| known == path) {
            owners.remove(owner);
            write_json(&self.owners_file(), &owners, true)?;
        }
        Ok(())
    }

    /// What a person should know about this tree's name: that another tree has it, or that what
    /// the tree made under another name is still there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn doubts(&self, owner: &OwnerId, path: &Path) -> anyhow::Result<Vec<Diagnostic>> {
        const FILE: &str = "bottle.yaml";
        let owners = self.owners()?;
        let mut doubts = Vec::new();
        if let Some(taken) = taken(&owners, owner, path) {
            let hint = "give this tree another `name:`, or say `bottle apply --adopt` if the tree \
                        has moved here; without that, `apply` is refused";
            doubts.push(Diagnostic::warning(FILE, taken.to_string()).with_hint(hint));
        }
        for former in owners.iter().filter(|(other, at)| *at == path && *other != owner) {
            let count = self.receipts_of(former.0)?;
            if count == 0 {
                continue;
            }
            let (former, them) = (former.0, if count == 1 { "it" } else { "them" });
            let what = if count == 1 { "1 sandbox".into() } else { format!("{count} sandboxes") };
            let message = format!(
                "this tree went by the name `{former}` before, and {what} of that name may still \
                 exist: nothing looks after {them} any more"
            );
            let hint = format!(
                "to keep {them}: write `name: {former}` into bottle.yaml, also after the tree has moved; \
                 to remove {them}: do that, `bottle down`, and rename again"
            );
            doubts.push(Diagnostic::warning(FILE, message).with_hint(hint));
        }
        Ok(doubts)
    }
}

fn taken(owners: &BTreeMap<OwnerId, PathBuf>, owner: &OwnerId, path: &Path) -> Option<OwnerTaken> {
    let other = owners.get(owner).filter(|known| *known != path && known.exists())?;
    Some(OwnerTaken { owner: owner.clone(), other: other.clone() })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make folders")]
mod tests {
    use super::*;
    use crate::apply::Receipts as _;
    use crate::model::{BackendKind, Fields, InstanceId, Receipt, ResourceKind, SandboxId};

    fn owner(name: &str) -> OwnerId {
        OwnerId::new(name).unwrap()
    }

    fn receipt() -> Receipt {
        Receipt {
            kind: ResourceKind::Machine,
            instance: InstanceId("x".to_owned()),
            backend: BackendKind::Native,
            sandbox: SandboxId::new("ada").unwrap(),
            guest: None,
            fields: Fields::default(),
            skills: Default::default(),
            skills_dir: None,
            env: Default::default(),
            boot: None,
            workspace: false,
            copied_from: None,
            settings: Default::default(),
            requests: Default::default(),
            files: Default::default(),
            under_way: Default::default(),
            ca: None,
            names: None,
        }
    }

    #[test]
    fn a_tree_under_a_new_name_is_told_what_it_left_under_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        let tree = folder.path();
        state.claim(&owner("old"), tree, false).unwrap();
        // It had nothing: there is nothing to tell.
        assert_eq!(state.doubts(&owner("new"), tree).unwrap(), []);
        state.tree(&owner("old")).unwrap().put(&receipt(), false).unwrap();
        let doubts = state.doubts(&owner("new"), tree).unwrap();
        assert!(doubts[0].message.contains("went by the name `old` before"), "{doubts:?}");
        assert_eq!(state.doubts(&owner("old"), tree).unwrap(), []);
        state.release(&owner("old"), tree).unwrap();
        assert_eq!(state.doubts(&owner("new"), tree).unwrap(), []);
    }

    #[test]
    fn a_name_is_one_trees_until_it_is_gone_or_moved() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::create_dir_all(&one).unwrap();
        state.claim(&owner("team"), &one, false).unwrap();
        let error = state.claim(&owner("team"), &two, false).unwrap_err();
        assert!(error.is::<OwnerTaken>(), "{error}");
        assert_eq!(state.doubts(&owner("team"), &two).unwrap().len(), 1);
        // A release by a tree that does not have it changes nothing.
        state.release(&owner("team"), &two).unwrap();
        assert_eq!(state.owners().unwrap()[&owner("team")], one);
        state.claim(&owner("team"), &two, true).unwrap();
        std::fs::create_dir_all(&two).unwrap();
        std::fs::remove_dir(&two).unwrap();
        state.claim(&owner("team"), &one, false).unwrap();
    }

    #[test]
    fn trees_that_claim_at_once_all_have_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (state, path) = (&state, folder.path().join(n.to_string()));
                scope.spawn(move || {
                    state.claim(&owner(&format!("tree{n}")), &path, false).unwrap();
                });
            }
        });
        assert_eq!(state.owners().unwrap().len(), 16);
    }
}
