//! What somebody left who was killed in the middle of an edit: files that hold what they held are left alone and
//! the request waits again; where one of them was written, the others follow, and the commit.

use std::path::Path;

use super::commit::{self, Repository};
use super::files;
use super::record::{File, Made, Record};
use super::store::Decider;
use crate::manifest::edit;
use crate::model::supervise::Standing;
use crate::reconcile::state::TreeState;

/// Whether there is anything to recover.
pub(super) fn is_needed(records: &[Record]) -> bool {
    records.iter().any(|record| open(record.edit.as_ref()) || open(record.undo.as_ref()))
}

fn open(made: Option<&Made>) -> bool {
    made.is_some_and(|made| !made.done)
}

/// How far an edit came.
#[derive(Debug, PartialEq, Eq)]
enum Reached {
    /// Nothing of it is in any file.
    Nothing,
    /// All of it is, now.
    All,
    /// A file holds something else by now.
    Elsewhere(String),
}

/// Goes on, or back, with every edit that is half done. The caller has the lock.
///
/// # Errors
/// When the state folder, the tree or git cannot be used: the next time, then.
pub(super) async fn recover(memory: &TreeState, lock: &Decider, tree: &Path) -> anyhow::Result<()> {
    for mut record in memory.requests()? {
        let is_edit = open(record.edit.as_ref());
        if !is_edit && !open(record.undo.as_ref()) {
            continue;
        }
        let made = if is_edit { record.edit.clone() } else { record.undo.clone() };
        let Some(mut made) = made else { continue };
        match reach(tree, &made)? {
            Reached::Nothing if is_edit => {
                (record.state, record.decision, record.edit) = (Standing::Pending, None, None);
                memory.put_request(lock, &record)?;
                tracing::info!(id = %record.id, "an approval was cut short: it waits again");
                continue;
            }
            Reached::Nothing => {
                record.undo = None;
                memory.put_request(lock, &record)?;
                continue;
            }
            Reached::All => commit(memory, tree, &mut made).await?,
            Reached::Elsewhere(file) => {
                made.commit = None;
                made.untracked = Some(format!("{file} was edited by hand meanwhile"));
            }
        }
        made.done = true;
        match is_edit {
            true => record.edit = Some(made),
            false => {
                record.undo = Some(made);
                record.state = Standing::Undone;
            }
        }
        memory.put_request(lock, &record)?;
        memory.audit_request(if is_edit { "approved" } else { "undone" }, &record);
        tracing::info!(id = %record.id, "what was cut short of it is done");
    }
    Ok(())
}

fn reach(tree: &Path, made: &Made) -> anyhow::Result<Reached> {
    let mut states = Vec::new();
    for file in &made.files {
        let held = files::open(tree, &file.file)?;
        states.push((file, held.digest() == file.before, held.digest() == file.after, held));
    }
    if states.iter().all(|(_, before, ..)| *before) {
        return Ok(Reached::Nothing);
    }
    if let Some((file, ..)) = states.iter().find(|(_, before, after, _)| !before && !after) {
        return Ok(Reached::Elsewhere(file.file.clone()));
    }
    for (file, _, after, held) in states {
        if after {
            continue;
        }
        match forward(file, &held.bytes) {
            Some(text) => held.replace(text.as_bytes())?,
            None => return Ok(Reached::Elsewhere(file.file.clone())),
        }
    }
    Ok(Reached::All)
}

fn forward(file: &File, bytes: &[u8]) -> Option<String> {
    let text = edit::edit(std::str::from_utf8(bytes).ok()?, &file.edits).ok()?;
    (files::digest(text.as_bytes()) == file.after).then_some(text)
}

/// Has the branch lead to the commit that was made, unless it does.
async fn commit(memory: &TreeState, tree: &Path, made: &mut Made) -> anyhow::Result<()> {
    let Some(commit) = made.commit.clone() else { return Ok(()) };
    let scratch = memory.dir().join("requests");
    let repository = match commit::open(tree, &scratch).await? {
        Ok(repository) => repository,
        Err(why) => {
            (made.commit, made.untracked) = (None, Some(why));
            return Ok(());
        }
    };
    if !repository.has(&commit).await? {
        if repository.head == made.parent {
            repository.point(&commit, "bottle: what was cut short").await?;
        } else if let Some(anew) = anew(&repository, &commit, made).await? {
            made.commit = Some(anew);
        } else {
            made.commit = None;
            made.untracked =
                Some(format!("somebody committed to {} meanwhile", repository.place()));
            return Ok(());
        }
    }
    let names: Vec<&str> = made.files.iter().map(|file| &*file.file).collect();
    repository.catch_up(&names).await?;
    Ok(())
}

/// The same change on what is checked out now, where nobody touched these files.
async fn anew(
    repository: &Repository,
    commit: &str,
    made: &Made,
) -> anyhow::Result<Option<String>> {
    let names: Vec<&str> = made.files.iter().map(|file| &*file.file).collect();
    let Some(anew) = repository.rebase(commit, made.parent.as_deref(), &names).await? else {
        return Ok(None);
    };
    repository.point(&anew, "bottle: what was cut short").await?;
    Ok(Some(anew))
}
