//! What stands in the state folder, one folder a sandbox:
//!
//! ```text
//! native/<sandbox>/machine.json   what it was made from; written once, before it has its name
//! native/<sandbox>/run.json       its init: pid, start time, boot of the host
//! native/<sandbox>/main           what its command does, which run is ready; init has it open
//! native/<sandbox>/main.same      the same file under a second name
//! native/<sandbox>/log, log.1     the command's output; init holds the descriptors
//! native/<sandbox>/log.times, .1  when it wrote what; the same
//! native/<sandbox>/upper, work    its own files: what it changed of what it shares with others
//! native/<sandbox>/quiet          its command is to run again where it is started (`quiesce`)
//! native/<sandbox>/moved.json     what was moved into it, out of which machine (`handover`)
//! native/<sandbox>/stage          empty: where its namespace puts mounts together
//! native/.bases/<digest>          the root that sandboxes of `image: host` share; the newest stays
//! native/.images/<digest>         an unpacked image
//! native/.making-*, .removing-*   half-made and half-removed: never wanted
//! ../.id-ranges/<first id>        which host ids the sandboxes of all trees have (`ids`)
//! ```

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "writes into state folders"))]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::Scope;
use crate::backend::durable::{self, Keep};
use crate::model::{Fields, Resources, Restart, SandboxId, SpecHash, Tools};

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
    /// The same to the millisecond; records of older versions have none.
    #[serde(default)]
    pub(super) created_millis: Option<u64>,
    pub(super) mode: Mode,
    pub(super) rootfs: RootFs,
    pub(super) image: Option<SpecHash>,
    pub(super) host_paths: Vec<PathBuf>,
    /// Programs of the operator's, where they are shown from; records of older versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tools: Tools,
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

/// How the name of a folder ends whose machine was set aside.
pub(super) const ASIDE: &str = ".aside";

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

    /// The folder of a sandbox whose machine was set aside. A dot cannot stand in a sandbox's name.
    pub(super) fn aside(&self, id: &SandboxId) -> Folder {
        Folder(self.0.join(format!("{id}{ASIDE}")))
    }

    /// Whose folder this is, by its name, where it is one of a sandbox, and whether that was set aside.
    pub(super) fn known(&self, name: &str) -> Option<(SandboxId, Folder, bool)> {
        let id = name.strip_suffix(ASIDE);
        let sandbox = SandboxId::new(id.unwrap_or(name)).ok()?;
        Some((sandbox, Folder(self.0.join(name)), id.is_some()))
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
        durable::lock_file(&self.0.join(name))
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

    /// What it was made from; `None` when there is no record.
    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        let path = self.join(MACHINE);
        let Some(found) = durable::read_json::<serde_json::Value>(&path)? else { return Ok(None) };
        match found.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(RECORD_VERSION) => {
                let what = format!(
                    "{} is of version {version}, and this bottle reads version {RECORD_VERSION}: \
                     use the bottle that wrote it",
                    path.display()
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            _ => serde_json::from_value(found)
                .map(Some)
                .map_err(|error| durable::damaged(&path, &error.to_string())),
        }
    }

    /// The id in a record that cannot be read as a whole, where it can be made out: its cgroups bear
    /// it.
    pub(super) fn salvaged_id(&self) -> Option<String> {
        let bytes = durable::read(&self.join(MACHINE)).ok()??;
        let text = String::from_utf8_lossy(&bytes);
        let id = text.split_once("\"id\":\"")?.1.get(..ID_LENGTH)?;
        id.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| id.to_owned())
    }

    /// The last start; `None` when it was never started. Where the receipt is missing or damaged, the
    /// init that runs is found by what it wrote itself when it was ready, so that it is never
    /// started twice.
    pub(super) fn run(&self) -> io::Result<Option<Run>> {
        match durable::read_json::<Run>(&self.join(RUN)) {
            Ok(Some(run)) if run.alive(&host_boot()?) => Ok(Some(run)),
            // The receipt may be of a run of before.
            Ok(Some(run)) => Ok(self.run_by_status()?.or(Some(run))),
            Ok(None) => self.run_by_status(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.run_by_status(),
            Err(error) => Err(error),
        }
    }

    fn run_by_status(&self) -> io::Result<Option<Run>> {
        let host_boot = host_boot()?;
        let run = run_of(&self.status().1, &host_boot);
        Ok(run.filter(|run| run.alive(&host_boot)))
    }
}

/// The run that calls itself `boot`, if the host was not started anew since.
fn run_of(boot: &str, host_boot: &str) -> Option<Run> {
    let mut parts = boot.split('.');
    let (pid, start_time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let run = Run { pid, start_time, host_boot: host_boot.to_owned() };
    (run.boot() == boot).then_some(run)
}

/// Digits of [`random_id`].
const ID_LENGTH: usize = 32;

/// Name of the record.
pub(super) const MACHINE: &str = "machine.json";
/// Name of the receipt.
pub(super) const RUN: &str = "run.json";
/// Names of the log: what is written now, and what was before it.
pub(super) const LOG: [&str; 2] = ["log", "log.1"];
/// Names of what says when which part of them was written.
pub(super) const TIMES: [&str; 2] = ["log.times", "log.times.1"];

/// Writes a record that cannot be made again.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    durable::write_json(path, value, Keep::Durably)
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
    fn a_run_is_known_by_what_it_calls_itself() {
        let run = Run { pid: 7, start_time: 99, host_boot: "0123456789ab".into() };
        assert_eq!(run_of(&run.boot(), "0123456789ab"), Some(run.clone()));
        assert_eq!(run_of(&run.boot(), "another-start"), None);
        for damaged in ["", "7", "7.99", "x.99.01234567", "7.99.01234567.1"] {
            assert_eq!(run_of(damaged, "0123456789ab"), None, "{damaged}");
        }
    }

    #[test]
    fn the_id_of_a_record_that_is_cut_is_made_out() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder(folder.path().to_owned());
        let id = random_id().unwrap();
        for (text, found) in [
            (format!(r#"{{"version":3,"id":"{id}","own"#), Some(id.clone())),
            (format!(r#"{{"version":3,"id":"{}"#, &id[..9]), None),
            (r#"{"id":"../../../../../../../../../../../x"}"#.to_owned(), None),
            (String::new(), None),
        ] {
            fs::write(folder.join(MACHINE), text).unwrap();
            assert_eq!(folder.salvaged_id(), found);
        }
    }

    #[test]
    fn ids_outside_the_range_stay_inside_it() {
        let mode = Mode::Root { base: 1 << 30 };
        assert_eq!(mode.host_id(1000), Some((1 << 30) + 1000));
        assert_eq!(mode.host_id(u32::MAX), Some((1 << 30) + 65535));
        assert_eq!(Mode::Rootless.host_id(0), None);
    }
}
