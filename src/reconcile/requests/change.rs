//! An edit of the tree, from nothing to all of it: the commit is made first, for what can fail of it fails there,
//! then records say what is to come, then files change, and last the branch leads to the commit. Whoever is killed
//! on the way leaves what `recover` goes on with, or back from.

use std::path::{Path, PathBuf};

use super::commit::{self, Base, CommitError, Repository};
use super::files::{self, FileError};
use super::record::File;
use crate::manifest::edit::Edit;

/// A file, and what it is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Its path in the tree.
    pub file: String,
    /// What it holds.
    pub before: String,
    /// What it is to hold.
    pub after: String,
    /// By which edits.
    pub edits: Vec<Edit>,
}

impl Edited {
    pub(super) fn record(&self) -> File {
        File {
            file: self.file.clone(),
            before: files::digest(self.before.as_bytes()),
            after: files::digest(self.after.as_bytes()),
            edits: self.edits.clone(),
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Git.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A change of which nothing is to be seen yet.
#[derive(Debug)]
pub(super) struct Prepared {
    tree: PathBuf,
    edited: Vec<Edited>,
    repository: Option<Repository>,
    bases: Vec<Base>,
    message: String,
    pub(super) commit: Option<String>,
    /// Why there is none.
    pub(super) untracked: Option<String>,
}

impl Prepared {
    pub(super) fn branch(&self) -> Option<String> {
        self.repository.as_ref().and_then(|it| it.branch.clone())
    }

    pub(super) fn parent(&self) -> Option<String> {
        self.repository.as_ref().and_then(|it| it.head.clone())
    }

    fn contents(&self) -> Vec<(Base, Vec<u8>)> {
        let after = self.edited.iter().map(|edited| edited.after.clone().into_bytes());
        self.bases.iter().cloned().zip(after).collect()
    }
}

/// Everything that can be refused: files that may not be edited, git in the middle of something, a signature that
/// fails.
pub(super) async fn prepare(
    tree: &Path,
    scratch: &Path,
    edited: Vec<Edited>,
    message: String,
    no_commit: bool,
) -> Result<Prepared, ChangeError> {
    for one in &edited {
        let file = files::open(tree, &one.file)?;
        if file.bytes != one.before.as_bytes() {
            return Err(FileError::Moved(one.file.clone()).into());
        }
    }
    let mut prepared = Prepared {
        tree: tree.to_owned(),
        edited,
        repository: None,
        bases: Vec::new(),
        message,
        commit: None,
        untracked: no_commit.then(|| "you said --no-commit".to_owned()),
    };
    if prepared.untracked.is_some() || prepared.edited.is_empty() {
        return Ok(prepared);
    }
    let repository = match commit::open(tree, scratch).await? {
        Ok(repository) => repository,
        Err(why) => {
            prepared.untracked = Some(why);
            return Ok(prepared);
        }
    };
    for one in &prepared.edited {
        match repository.base(&one.file, one.before.as_bytes()).await? {
            Some(base) => prepared.bases.push(base),
            None => {
                prepared.untracked = Some(format!("{} is not tracked by git", one.file));
                return Ok(prepared);
            }
        }
    }
    let made = repository.make(&prepared.pair(), &prepared.message).await?;
    prepared.commit = Some(made);
    prepared.repository = Some(repository);
    Ok(prepared)
}

impl Prepared {
    fn pair(&self) -> Vec<(Base, Vec<u8>)> {
        self.contents()
    }

    /// Has the files hold what they are to hold. Where one of them cannot, those before it are as they were.
    pub(super) fn write(&self) -> Result<(), FileError> {
        for (at, one) in self.edited.iter().enumerate() {
            let written = files::open(&self.tree, &one.file).and_then(|file| {
                match file.bytes == one.before.as_bytes() {
                    true => file.replace(one.after.as_bytes()),
                    false => Err(FileError::Moved(one.file.clone())),
                }
            });
            if let Err(error) = written {
                self.restore(&self.edited[..at]);
                return Err(error);
            }
            super::stop_for_tests("between files");
        }
        Ok(())
    }

    fn restore(&self, edited: &[Edited]) {
        for one in edited {
            let restored = files::open(&self.tree, &one.file).and_then(|file| {
                match file.bytes == one.after.as_bytes() {
                    true => file.replace(one.before.as_bytes()),
                    false => Ok(()),
                }
            });
            if let Err(error) = restored {
                tracing::warn!(%error, "an edit cannot be taken back");
            }
        }
    }

    /// Has the branch lead to the commit, and the user's index know of it. Where somebody committed meanwhile and
    /// left these files alone, the commit is made once more on that; else the files are as they were.
    pub(super) async fn point(&mut self, scratch: &Path) -> Result<(), ChangeError> {
        let why = self.message.lines().next().unwrap_or_default().to_owned();
        let (Some(repository), Some(commit)) = (&self.repository, &self.commit) else {
            return Ok(());
        };
        match repository.point(commit, &format!("bottle: {why}")).await {
            Ok(()) => {}
            Err(CommitError::Moved(place)) => match self.again(scratch, &why).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "the commit cannot be made again");
                    self.restore(&self.edited);
                    return Err(CommitError::Moved(place).into());
                }
            },
            Err(error) => {
                self.restore(&self.edited);
                return Err(error.into());
            }
        }
        super::stop_for_tests("before the index");
        if let Some(repository) = &self.repository
            && let Err(error) = repository.stage(&self.contents()).await
        {
            tracing::warn!(%error, "git's index is not brought up to date: `git reset -- FILE` does it");
        }
        Ok(())
    }

    async fn again(&mut self, scratch: &Path, why: &str) -> Result<(), CommitError> {
        let repository = commit::open(&self.tree, scratch).await?.map_err(CommitError::Git)?;
        let mut bases = Vec::new();
        for one in &self.edited {
            let base = repository.base(&one.file, one.before.as_bytes()).await?;
            bases.push(base.ok_or_else(|| CommitError::Dirty(one.file.clone()))?);
        }
        self.bases = bases;
        let commit = repository.make(&self.contents(), &self.message).await?;
        repository.point(&commit, &format!("bottle: {why}")).await?;
        (self.commit, self.repository) = (Some(commit), Some(repository));
        Ok(())
    }
}
