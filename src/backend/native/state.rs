//! What stands in the state folder, one folder a sandbox:
//!
//! ```text
//! native/<sandbox>/machine.json   what it was made from; written once, before it has its name
//! native/<sandbox>/run.json       its init: pid, start time, boot of the host
//! native/<sandbox>/main           what its command does, which run is ready; init has it open
//! native/<sandbox>/log, log.1     the command's output; init holds the descriptors
//! native/<sandbox>/upper, work    its own files: what it changed of what it shares with others
//! native/<sandbox>/stage          empty: where its namespace puts mounts together
//! native/.bases/<digest>          the root that sandboxes of `image: host` share; the newest stays
//! native/.images/<digest>         an unpacked image
//! native/.making-*, .removing-*   half-made and half-removed: never wanted
//! ```

#![expect(clippy::disallowed_methods, reason = "the state folder is this module's business")]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::Scope;
use crate::model::{Fields, Resources, Restart, SandboxId, SpecHash};

/// The meaning of [`Record`]; another number is not ours to read.
pub(super) const RECORD_VERSION: u32 = 2;

/// How a sandbox's ids are mapped. Decided when it is made: its files have owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// By the host's root: its ids 0…65535 are the host's `base`….
    Root {
        /// The first of its 65536 host ids, which nothing else should use.
        base: u32,
    },
    /// By an ordinary user, whose one id is the sandbox's root and, one user namespace further in,
    /// the sandbox's user.
    Rootless,
}

impl Mode {
    /// The host's id of the sandbox's `id`.
    pub(super) fn host_id(self, id: u32) -> Option<u32> {
        match self {
            Self::Root { base } => Some(base + id.min(IDS - 1)),
            Self::Rootless => None,
        }
    }
}

/// How many ids a sandbox that root makes has.
pub(super) const IDS: u32 = 65536;

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RootFs {
    /// A base, with the host's programs in it.
    Host {
        /// Name of the folder in `.bases`.
        base: String,
    },
    /// An unpacked image.
    Image {
        /// Name of the folder in `.images`.
        digest: SpecHash,
    },
}

/// The sandbox's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) name: String,
    pub(super) home: String,
}

/// A host folder that is shown writable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    pub(super) target: String,
}

/// What a sandbox was made from: its labels, and all that starting it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    /// Random; also in the names of its cgroups.
    pub(super) id: String,
    pub(super) owner: String,
    pub(super) state: String,
    pub(super) sandbox: SandboxId,
    pub(super) name: String,
    pub(super) hash: SpecHash,
    pub(super) fields: Fields,
    pub(super) overlay: Option<String>,
    pub(super) created: u64,
    pub(super) mode: Mode,
    pub(super) rootfs: RootFs,
    pub(super) image: Option<SpecHash>,
    pub(super) host_paths: Vec<PathBuf>,
    pub(super) mount: Option<Mount>,
    pub(super) env: Vec<(String, String)>,
    pub(super) workdir: Option<String>,
    pub(super) user: User,
    pub(super) command: Vec<String>,
    pub(super) restart: Restart,
    pub(super) waits_for_env: bool,
    /// It has a sidecar, its only way out.
    #[serde(default)]
    pub(super) connected: bool,
    pub(super) resources: Resources,
}

/// The receipt of a start: init, which a pid alone would not name.
pub(super) use crate::backend::hostside::Process as Run;
pub(super) use crate::backend::hostside::{host_boot, start_time};

/// The folder of all native sandboxes of one owner.
#[derive(Debug, Clone)]
pub(super) struct Store(PathBuf);

impl Store {
    pub(super) fn of(scope: &Scope) -> Self {
        Self(scope.data.join("native"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn sandbox(&self, id: &SandboxId) -> Folder {
        Folder(self.0.join(id.as_str()))
    }

    pub(super) fn bases(&self) -> PathBuf {
        self.0.join(".bases")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.0.join(".images")
    }

    /// The folder of an unpacked image.
    pub(super) fn image(&self, digest: SpecHash) -> PathBuf {
        self.images().join(digest.to_string())
    }

    /// A new name for what is not finished (`making`) or not wanted any more (`removing`).
    pub(super) fn scratch(&self, what: &str) -> io::Result<PathBuf> {
        Ok(self.0.join(format!(".{what}-{}", random_id()?)))
    }

    /// Makes the folder itself, which only its owner can look into.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Holds the lock of who makes a base; freed when dropped.
    pub(super) fn lock_bases(&self) -> io::Result<fs::File> {
        let file = self.lock_file(".bases-lock")?;
        file.lock()?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> io::Result<fs::File> {
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.0.join(name))
    }

    /// Holds the lock that orders what is shared between sandboxes; freed when dropped.
    pub(super) fn lock(&self, exclusive: bool) -> io::Result<fs::File> {
        let file = self.lock_file(".lock")?;
        if exclusive {
            file.lock()?
        } else {
            file.lock_shared()?
        }
        Ok(file)
    }
}

/// The folder of one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What it was made from; `None` when there is no such sandbox.
    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        read_json(&self.join(MACHINE))
            .map(|found: Option<Record>| found.filter(|record| record.version == RECORD_VERSION))
    }

    /// What the command does, and which run of the sandbox is ready: as init wrote it, last.
    pub(super) fn status(&self) -> (String, String) {
        let text = fs::read_to_string(self.join(MAIN)).unwrap_or_default();
        let (main, boot) = text.split_once('\n').unwrap_or((&text, ""));
        (main.trim().to_owned(), boot.lines().next().unwrap_or("").to_owned())
    }

    /// Whether `run` is alive.
    pub(super) fn alive(run: &Run, host_boot: &str) -> bool {
        run.alive(host_boot)
    }

    /// Whether `run` is alive, and was not only about to be: an init that is set up dies with its
    /// helper until it is ready.
    pub(super) fn runs(&self, run: &Run, host_boot: &str) -> bool {
        Self::alive(run, host_boot) && self.status().1 == run.boot()
    }

    /// The last start; `None` when it was never started.
    pub(super) fn run(&self) -> io::Result<Option<Run>> {
        read_json(&self.join(RUN))
    }
}

/// Name of the record.
pub(super) const MACHINE: &str = "machine.json";
/// Name of the receipt.
pub(super) const RUN: &str = "run.json";
/// Name of the file that init writes: a line of [`STATUS_LINE`] bytes that says what the command does,
/// and a line that says which run is ready.
pub(super) const MAIN: &str = "main";
/// Length of the first line of [`MAIN`].
pub(super) const STATUS_LINE: usize = 32;
/// Names of the log: what is written now, and what was before it.
pub(super) const LOG: [&str; 2] = ["log", "log.1"];

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file under a temporary name and renames it: it is there as a whole or not at all.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    fs::rename(&temporary, path)
}

/// 16 random bytes, as text.
pub(super) fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_range_stay_inside_it() {
        let mode = Mode::Root { base: 1 << 30 };
        assert_eq!(mode.host_id(1000), Some((1 << 30) + 1000));
        assert_eq!(mode.host_id(u32::MAX), Some((1 << 30) + 65535));
        assert_eq!(Mode::Rootless.host_id(0), None);
    }
}
