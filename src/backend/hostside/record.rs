//! What stands in the state folder, one folder a sidecar or gate:
//!
//! ```text
//! sidecars/<backend>/<sandbox>/sidecar.json   what it was made from; of a gate gate/…/gate.json
//! sidecars/<backend>/<sandbox>/run.json       its last start: the process, and the program that it is
//! sidecars/<backend>/<sandbox>/attached.json  the run of the machine that was attached to it
//! sidecars/<backend>/<sandbox>/own/           its working directory, the one folder that it reaches:
//!                                             the control socket, the log; of a gate its pins and
//!                                             its mirrors of repositories
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
use super::role::Role;
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

/// The folder of one sidecar or gate.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    role: Role,
}

const RUN: &str = "run.json";
const ATTACHED: &str = "attached.json";

/// All of them, and what its process must be reached by.
pub(in crate::backend) fn records(role: Role) -> [&'static str; 4] {
    [role.record(), RUN, ATTACHED, "own/control"]
}

impl Folder {
    /// The folder of all of this role of one owner on one backend.
    pub(super) fn all(role: Role, scope: &Scope, backend: BackendKind) -> PathBuf {
        scope.data.join(role.folder()).join(backend.as_str())
    }

    pub(super) fn of(role: Role, scope: &Scope, backend: BackendKind, sandbox: &SandboxId) -> Self {
        Self { path: Self::all(role, scope, backend).join(sandbox.as_str()), role }
    }

    /// What belongs to the sidecar itself.
    pub(super) fn own(&self) -> PathBuf {
        self.path.join("own")
    }

    pub(super) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    /// Holds the lock of what happens to this sidecar; `None` when there is no folder.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        loop {
            let folder = match File::open(&self.path) {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            folder.lock()?;
            // While it was waited for, the folder may have been removed, and another made.
            let held = folder.metadata()?;
            match fs::metadata(&self.path) {
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
        let record: Option<Record> = read(&self.path.join(self.role.record()))?;
        Ok(record.filter(|record| record.version == VERSION))
    }

    pub(super) fn put_record(&self, record: &Record) -> io::Result<()> {
        write(&self.path.join(self.role.record()), record)
    }

    /// The last start; `None` when it was never started.
    pub(super) fn run(&self) -> io::Result<Option<Run>> {
        read(&self.path.join(RUN))
    }

    pub(super) fn put_run(&self, run: &Run) -> io::Result<()> {
        write(&self.path.join(RUN), run)
    }

    /// The same receipt with more in it, which is not worth waiting for the disk.
    pub(super) fn put_ready(&self, run: &Run) -> io::Result<()> {
        durable::write_json(&self.path.join(RUN), run, Keep::Cheaply)
    }

    pub(super) fn attached(&self) -> io::Result<Option<Attached>> {
        read(&self.path.join(ATTACHED))
    }

    pub(super) fn put_attached(&self, attached: &Attached) -> io::Result<()> {
        write(&self.path.join(ATTACHED), attached)
    }

    /// Removes what it is made of. The record goes first: what is left when this is cut short must not
    /// pass for a sidecar that could be started.
    pub(super) fn clear(&self) -> io::Result<()> {
        for name in [self.role.record(), ATTACHED, RUN] {
            let path = self.path.join(name);
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
        gone(fs::remove_dir_all(&self.path))?;
        // The folders around it, once they are empty.
        for folder in self.path.ancestors().skip(1).take(2) {
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
        let folder =
            Folder::of(Role::Sidecar, &scope, BackendKind::Native, &"ada".parse().unwrap());
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
