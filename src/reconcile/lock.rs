//! One lock per tree, which says who holds it, and one per sandbox. The kernel lets go of a lock when its
//! holder dies.
#![expect(clippy::disallowed_methods, reason = "locks a file of the state folder")]

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::state::{TreeState, make_private, now};
use crate::backend::durable;
use crate::model::SandboxId;

/// The file of a tree's lock, in its folder.
const LOCK: &str = "lock";

/// The folder of the locks of its sandboxes.
const CLAIMS: &str = "claims";

/// Who holds a tree's lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its command: `apply`, `watch`, `down`.
    pub command: String,
    /// Since when, in seconds since the epoch.
    pub since: u64,
}

/// Another `bottle` holds the lock.
#[derive(Debug, thiserror::Error)]
#[error("another bottle works on this tree: {}", holder.as_ref().map_or_else(
    || "it has not said who it is".to_owned(),
    |h| format!("`bottle {}`, process {}, for {} s", h.command, h.pid, now().saturating_sub(h.since)),
))]
pub struct Locked {
    /// Who, where it has said so.
    pub holder: Option<Holder>,
}

/// The lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Locked {
    /// Whether that is a `watch`, which holds the lock for as long as it runs.
    #[must_use]
    pub fn by_watch(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.command == "watch")
    }
}

/// The locks of single sandboxes, until they are dropped.
#[derive(Debug, Default)]
pub struct Claims {
    _files: Vec<File>,
}

/// Takes the lock of an open file, waiting for it as long as `patience` says. False: somebody else has it.
pub(super) async fn take(file: &File, path: &Path, patience: Duration) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
}

impl TreeState {
    /// Takes the lock, waiting for it as long as `patience` says.
    ///
    /// # Errors
    /// [`Locked`] when somebody else keeps it that long, or the file cannot be opened.
    pub async fn lock(&self, command: &str, patience: Duration) -> anyhow::Result<Lock> {
        self.make()?;
        let path = self.dir().join(LOCK);
        let mut file = durable::lock_file(&path)?;
        if !take(&file, &path, patience).await? {
            return Err(Locked { holder: holder(&mut file, &path)? }.into());
        }
        let holder = Holder { pid: std::process::id(), command: command.to_owned(), since: now() };
        let holder = serde_json::to_vec(&holder)?;
        // The lock is held without these words, and they need room: a full disk is no reason to refuse a
        // run, since a run is what may make room again.
        let said = file.set_len(0).and_then(|()| file.rewind());
        if let Err(error) = said.and_then(|()| file.write_all(&holder)) {
            tracing::debug!(%error, path = %path.display(), "who holds the lock is not said");
        }
        Ok(Lock { _file: file })
    }

    /// The process of the `watch` that has the lock, where one has.
    #[must_use]
    pub fn watcher(&self) -> Option<u32> {
        let path = self.dir().join(LOCK);
        let mut file = File::open(&path).ok()?;
        let free = matches!(file.try_lock_shared(), Ok(()));
        let holder = holder(&mut file, &path).ok()??;
        (!free && holder.command == "watch").then_some(holder.pid)
    }

    /// Takes the locks of these sandboxes, so that nobody else changes them meanwhile. `watch` has the
    /// tree's lock for good, and what works beside it has this one.
    ///
    /// # Errors
    /// [`Locked`] when somebody else keeps one for as long as `patience` says, or a file cannot be opened.
    pub async fn claim(
        &self,
        sandboxes: &BTreeSet<SandboxId>,
        patience: Duration,
    ) -> anyhow::Result<Claims> {
        if sandboxes.is_empty() {
            return Ok(Claims::default());
        }
        let folder = self.dir().join(CLAIMS);
        make_private(&folder)?;
        let mut files = Vec::new();
        // In their order: of two that want the same ones, one gets all.
        for sandbox in sandboxes {
            let path = folder.join(sandbox.as_str());
            let file = durable::lock_file(&path)?;
            if !take(&file, &path, Duration::ZERO).await? {
                tracing::info!(%sandbox, "waiting for another bottle that works on this sandbox");
                if !take(&file, &path, patience).await? {
                    let path = self.dir().join(LOCK);
                    let holder = holder(&mut durable::lock_file(&path)?, &path)?;
                    return Err(Locked { holder }.into());
                }
            }
            files.push(file);
        }
        Ok(Claims { _files: files })
    }
}

/// Who has said that it holds a lock.
fn holder(file: &mut File, path: &Path) -> anyhow::Result<Option<Holder>> {
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_str(&text).ok())
}
