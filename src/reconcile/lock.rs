//! One lock per tree, which says who holds it. The kernel lets go of it when its holder dies.
#![expect(clippy::disallowed_methods, reason = "locks a file of the state folder")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::state::{TreeState, now};

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

impl TreeState {
    /// Takes the lock, waiting for it as long as `patience` says.
    ///
    /// # Errors
    /// [`Locked`] when somebody else still holds it then; or when the file cannot be opened.
    pub async fn lock(&self, command: &str, patience: Duration) -> anyhow::Result<Lock> {
        let path = self.dir().join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text)
                        .with_context(|| format!("reading {}", path.display()))?;
                    return Err(Locked { holder: serde_json::from_str(&text).ok() }.into());
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        let holder = Holder { pid: std::process::id(), command: command.to_owned(), since: now() };
        let holder = serde_json::to_vec(&holder)?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&holder))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Lock { _file: file })
    }
}
