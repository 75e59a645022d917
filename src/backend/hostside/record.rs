//! What stands in the state folder, one folder a sidecar:
//!
//! ```text
//! sidecars/<backend>/<sandbox>/sidecar.json   what it was made from
//! sidecars/<backend>/<sandbox>/run.json       its last start: the process, and the program that it is
//! sidecars/<backend>/<sandbox>/attached.json  the run of the machine that was attached to it
//! sidecars/<backend>/<sandbox>/own/           its working directory, the one folder that it reaches:
//!                                             the control socket, the log
//! ```
//!
//! All but `own` is out of the sidecar's reach: what it says about itself is never acted on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::program::Build;
use crate::backend::Scope;
use crate::backend::durable::{self, Keep};
use crate::model::{BackendKind, Fields, SandboxId, SpecHash};

/// The meaning of [`Record`]; another number is not ours to read.
pub(super) const VERSION: u32 = 1;

/// What a sidecar was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    /// Random.
    pub(super) id: String,
    pub(super) owner: String,
    pub(super) state: String,
    pub(super) hash: SpecHash,
    pub(super) fields: Fields,
    pub(super) created: u64,
    /// The user of the host that it becomes; none: it stays who starts it.
    pub(super) user: Option<u32>,
}

/// The receipt of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) process: Process,
    pub(super) program: Build,
    /// Which file its socket is; none: it was not ready yet. In a folder that was put back, another
    /// has its name, and the process is none of that folder's.
    #[serde(default)]
    pub(super) socket: Option<(u64, u64)>,
}

/// Which run of the machine was attached to which run of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    pub(super) sidecar: String,
    pub(super) machine: String,
}

/// The folder of one sidecar.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

const RECORD: &str = "sidecar.json";
const RUN: &str = "run.json";
const ATTACHED: &str = "attached.json";
/// All of them, and what its process must be reached by.
pub(in crate::backend) const RECORDS: [&str; 4] = [RECORD, RUN, ATTACHED, "own/control"];

impl Folder {
    /// The folder of all sidecars of one owner on one backend.
    pub(super) fn all(scope: &Scope, backend: BackendKind) -> PathBuf {
        scope.data.join("sidecars").join(backend.as_str())
    }

    pub(super) fn of(scope: &Scope, backend: BackendKind, sandbox: &SandboxId) -> Self {
        Self(Self::all(scope, backend).join(sandbox.as_str()))
    }

    /// What belongs to the sidecar itself.
    pub(super) fn own(&self) -> PathBuf {
        self.0.join("own")
    }

    pub(super) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Holds the lock of what happens to this sidecar; `None` when there is no folder.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        loop {
            let folder = match File::open(&self.0) {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            folder.lock()?;
            // While it was waited for, the folder may have been removed, and another made.
            let held = folder.metadata()?;
            match fs::metadata(&self.0) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(folder));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }

    /// What it was made from; `None` where that cannot be told.
    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        let record: Option<Record> = read(&self.0.join(RECORD))?;
        Ok(record.filter(|record| record.version == VERSION))
    }

    pub(super) fn put_record(&self, record: &Record) -> io::Result<()> {
        write(&self.0.join(RECORD), record)
    }

    /// The last start; `None` when it was never started.
    pub(super) fn run(&self) -> io::Result<Option<Run>> {
        read(&self.0.join(RUN))
    }

    pub(super) fn put_run(&self, run: &Run) -> io::Result<()> {
        write(&self.0.join(RUN), run)
    }

    /// The same receipt with more in it, which is not worth waiting for the disk.
    pub(super) fn put_ready(&self, run: &Run) -> io::Result<()> {
        durable::write_json(&self.0.join(RUN), run, Keep::Cheaply)
    }

    pub(super) fn attached(&self) -> io::Result<Option<Attached>> {
        read(&self.0.join(ATTACHED))
    }

    pub(super) fn put_attached(&self, attached: &Attached) -> io::Result<()> {
        write(&self.0.join(ATTACHED), attached)
    }

    /// Removes what it is made of. The record goes first: what is left when this is cut short must not
    /// pass for a sidecar that could be started.
    pub(super) fn clear(&self) -> io::Result<()> {
        for name in [RECORD, ATTACHED, RUN] {
            let path = self.0.join(name);
            match fs::symlink_metadata(&path) {
                // What lies in the place of a record goes with the rest.
                Ok(found) if found.is_dir() => gone(fs::remove_dir_all(&path))?,
                _ => gone(fs::remove_file(&path))?,
            }
        }
        gone(fs::remove_dir_all(self.own()))
    }

    /// Removes all of it.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.clear()?;
        gone(fs::remove_dir_all(&self.0))?;
        // The folders around it, once they are empty.
        for folder in self.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What is written there; what is damaged counts as none: a sidecar has nothing that is lost with it,
/// and whichever process is left of it is found by its socket. What cannot be read now may be readable
/// in a moment: that is an error.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match durable::read_json(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        found => found,
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    durable::write_json(path, value, Keep::Durably)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_lock_is_on_the_folder_that_bears_the_name() {
        let temporary = tempfile::tempdir().unwrap();
        let scope = Scope {
            owner: "team".parse().unwrap(),
            state: "s".into(),
            adopted: BTreeSet::new(),
            data: temporary.path().to_owned(),
            hidden: Vec::new(),
            places: Default::default(),
        };
        let folder = Folder::of(&scope, BackendKind::Native, &"ada".parse().unwrap());
        assert!(folder.lock().unwrap().is_none());
        folder.make().unwrap();
        let held = folder.lock().unwrap().unwrap();
        let waiting = std::thread::spawn({
            let folder = folder.clone();
            move || folder.lock().unwrap().is_none()
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        folder.remove().unwrap();
        drop(held);
        assert!(waiting.join().unwrap(), "the lock of what was removed is no lock");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
