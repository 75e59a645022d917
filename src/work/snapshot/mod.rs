//! Snapshots: what an agent worked on, as one file each that the operator's own tools can read.
//!
//! ```text
//! snapshots/<sandbox>/<time>.tar.zst     0600; a tar in zstd:
//!   meta.json                            what it is of, and why it was made
//!   workspace/src/main.rs …              the kept paths as they stood in the sandbox, without the first `/`
//! ```

#![expect(clippy::disallowed_methods, reason = "snapshots are files of the state folder")]

mod pack;
mod pass_on;
mod places;
mod replay;
mod sieve;
mod take;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use pack::Packer;
pub use pass_on::{On, pass_on};
pub use replay::{Census, Landing, census, replay};
pub use sieve::{LeftOut, Part, Sieve};
pub use take::{Occasion, Planned, Surveyed, Taken, hand_on, pack, restore, survey, take};

pub use crate::model::Why;
use crate::model::{BackendKind, Bounds, SandboxId};

/// The version of [`Meta`]. A newer one is not read.
pub const VERSION: u32 = 1;

/// How the files of snapshots end.
const SUFFIX: &str = ".tar.zst";

/// What a snapshot says of itself, as its first file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// [`VERSION`].
    pub version: u32,
    /// The tree's name.
    pub tree: String,
    /// Whose work it is.
    pub sandbox: SandboxId,
    /// Where that was.
    pub backend: BackendKind,
    /// The image that it stood on, as the bottle names it.
    pub image: Option<String>,
    /// Seconds since the epoch.
    pub when: u64,
    /// Why it was made.
    pub why: Why,
    /// The kept paths in the sandbox, absolute. None lies in another.
    pub paths: Vec<String>,
    /// The workspace, where it is one of them or lies in one.
    pub workspace: Option<String>,
    /// The home folder of the sandbox's user.
    pub home: String,
    /// The user and the group that worked there.
    pub user: (u32, u32),
    /// The commit of the tree, where it is a git repository.
    pub commit: Option<String>,
    /// Folders that `bottle` put into the home, its own skills: they are not brought back.
    #[serde(default)]
    pub delivered: Vec<String>,
}

/// Names a snapshot: `ada/20261129T112031Z`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// Whose work it is.
    pub sandbox: SandboxId,
    /// When it was made, and a number if it was not the only one of its second.
    pub time: String,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sandbox, self.time)
    }
}

impl SnapshotId {
    /// Reads one; `None` where this can be none: it becomes the name of a file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sandbox, time) = text.split_once('/')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let whole = !time.is_empty() && time.len() <= 40 && time.chars().all(plain);
        let sandbox = SandboxId::new(sandbox).ok()?;
        whole.then(|| Self { sandbox, time: time.to_owned() })
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Its file.
    pub path: PathBuf,
    /// How large that is.
    pub bytes: u64,
    /// What it says of itself, or why that cannot be read.
    pub meta: Result<Meta, String>,
}

/// The snapshots of one tree.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Those in this state folder of a tree. Nothing is made yet.
    #[must_use]
    pub fn of(tree: &Path) -> Self {
        Self { folder: tree.join("snapshots") }
    }

    /// All of them, or those of one sandbox, the oldest first.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn list(&self, sandbox: Option<&SandboxId>) -> anyhow::Result<Vec<Snapshot>> {
        let mut found = Vec::new();
        for name in names(&self.folder)? {
            let Ok(of) = SandboxId::new(&name) else { continue };
            if sandbox.is_some_and(|sandbox| *sandbox != of) {
                continue;
            }
            let folder = self.folder.join(&name);
            for file in names(&folder)? {
                let Some(time) = file.strip_suffix(SUFFIX) else { continue };
                if let Some(id) = SnapshotId::parse(&format!("{name}/{time}")) {
                    match self.look(id) {
                        Ok(one) => found.push(one),
                        // It goes at this moment.
                        Err(_) if !folder.join(&file).exists() => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let when = |one: &Snapshot| one.meta.as_ref().map_or(0, |meta| meta.when);
        found.sort_by(|a, b| (when(a), &a.id).cmp(&(when(b), &b.id)));
        Ok(found)
    }

    /// The one of this name, or the newest of the sandbox that has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> anyhow::Result<Snapshot> {
        if let Some(id) = SnapshotId::parse(name) {
            anyhow::ensure!(self.path(&id).exists(), "there is no snapshot {id}");
            return self.look(id);
        }
        let sandbox = SandboxId::new(name)
            .ok()
            .with_context(|| format!("`{name}` names no snapshot: write it as NAME/TIME"))?;
        let newest = self.list(Some(&sandbox))?.pop();
        newest.with_context(|| format!("there is no snapshot of {sandbox}"))
    }

    fn look(&self, id: SnapshotId) -> anyhow::Result<Snapshot> {
        let path = self.path(&id);
        let file = fs::symlink_metadata(&path)
            .with_context(|| format!("looking at {}", path.display()))?;
        let meta = if file.is_file() {
            replay::meta(&path).map_err(|error| format!("{error:#}"))
        } else {
            Err("it is no file".to_owned())
        };
        Ok(Snapshot { id, path, bytes: file.size(), meta })
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.folder.join(id.sandbox.as_str()).join(format!("{}{SUFFIX}", id.time))
    }

    /// Begins a snapshot whose file takes at most `room` bytes. It is there once [`Packer::finish`] has ended well.
    ///
    /// # Errors
    /// When its file cannot be made or written.
    pub fn begin(&self, meta: &Meta, room: u64) -> anyhow::Result<(SnapshotId, Packer)> {
        let folder = self.folder.join(meta.sandbox.as_str());
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&folder).with_context(|| format!("making {}", folder.display()))?;
        pack::sweep(&folder);
        let stamp = stamp(meta.when);
        for number in 1..1000 {
            let time = if number == 1 { stamp.clone() } else { format!("{stamp}-{number}") };
            let id = SnapshotId { sandbox: meta.sandbox.clone(), time };
            let path = self.path(&id);
            if path.exists() {
                continue;
            }
            match Packer::begin(&path, meta, room) {
                Err(error) if is_taken(&error) => {}
                begun => return Ok((id, begun?)),
            }
        }
        anyhow::bail!("a thousand snapshots of {} were made in one second", meta.sandbox)
    }

    /// Those that go for the next one that is made because its machine goes (`why`), and the room, in bytes, that it
    /// has then. The oldest that were made so go; `pinned` stays.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub fn beyond(
        &self,
        sandbox: &SandboxId,
        why: Why,
        bounds: Bounds,
        now: u64,
        pinned: &[String],
    ) -> anyhow::Result<(Vec<SnapshotId>, u64)> {
        let old = now.saturating_sub(u64::from(bounds.days) * 24 * 60 * 60);
        // How many of a sandbox stay, the next one among them. What was handed on is in a machine, too, and
        // takes no place of what is nowhere else.
        let mut kept: BTreeMap<(SandboxId, bool), u32> = BTreeMap::new();
        kept.insert((sandbox.clone(), why == Why::Replace), 1);
        let (mut goes, mut taken) = (Vec::new(), 0);
        for one in self.list(None)?.into_iter().rev() {
            // What cannot be read may be anybody's.
            let asked_for = !matches!(&one.meta, Ok(meta) if meta.why != Why::Manual);
            let handed_on = matches!(&one.meta, Ok(meta) if meta.why == Why::Replace);
            let count = kept.entry((one.id.sandbox.clone(), handed_on)).or_default();
            let beyond = *count >= bounds.keep || one.meta.as_ref().is_ok_and(|m| m.when < old);
            if beyond && !asked_for && !pinned.contains(&one.id.to_string()) {
                goes.push(one.id);
                continue;
            }
            *count += u32::from(!asked_for);
            taken += one.bytes;
        }
        Ok((goes, bounds.bytes.saturating_sub(taken)))
    }

    /// Lets go of these. One that is gone already is fine.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn let_go(&self, ids: &[SnapshotId]) -> anyhow::Result<()> {
        ids.iter().try_for_each(|id| match self.remove(id) {
            // Another removal has let go of it at the same time.
            Err(_) if !self.path(id).exists() => Ok(()),
            done => done,
        })
    }

    /// Gives all that there are of `from` to `to`, beside what that has. What is moved already is fine.
    ///
    /// # Errors
    /// When a folder cannot be read or written.
    pub fn rename(&self, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()> {
        let [old, new] = [from, to].map(|id| self.folder.join(id.as_str()));
        let files = names(&old)?;
        if files.is_empty() {
            // An earlier attempt may have left the folder.
            let _ = fs::remove_dir(&old);
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&new).with_context(|| format!("making {}", new.display()))?;
        for file in files {
            let Some(time) = file.strip_suffix(SUFFIX) else { continue };
            let numbered = (2..1000).map(|number| format!("{time}-{number}{SUFFIX}"));
            let mut free = std::iter::once(file.clone()).chain(numbered);
            let free = free.find(|name| fs::symlink_metadata(new.join(name)).is_err());
            let free = free.with_context(|| format!("{} has no name for {file}", new.display()))?;
            fs::rename(old.join(&file), new.join(free))
                .with_context(|| format!("moving {}", old.join(&file).display()))?;
        }
        for folder in [&new, &self.folder] {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.with_context(|| format!("writing {}", folder.display()))?;
        }
        pack::sweep(&old);
        // What else somebody put there stays.
        let _ = fs::remove_dir(&old);
        Ok(())
    }

    /// Removes one.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, id: &SnapshotId) -> anyhow::Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                anyhow::bail!("there is no snapshot {id}")
            }
            removed => removed.with_context(|| format!("removing {}", path.display()))?,
        }
        pack::sweep(&self.folder.join(id.sandbox.as_str()));
        // Where it was the last one. Others may be made meanwhile.
        let _ = fs::remove_dir(self.folder.join(id.sandbox.as_str()));
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }
}

/// Somebody else makes one of the same name.
fn is_taken(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        // A file that somebody put there is no sandbox's.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        entries => entries.with_context(|| format!("reading {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Seconds since the epoch as UTC: `20261129T112031Z`.
fn stamp(seconds: u64) -> String {
    let known = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some(t) = known else { return seconds.to_string() };
    let (date, month) = (t.date(), u8::from(t.month()));
    let day = format!("{:04}{month:02}{:02}", date.year(), date.day());
    format!("{day}T{:02}{:02}{:02}Z", t.hour(), t.minute(), t.second())
}

/// Opens a snapshot's file: what lies in its place and is no file keeps nobody waiting.
fn open(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits())?;
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    anyhow::ensure!(file.metadata()?.is_file(), "{} is no file", path.display());
    Ok(file)
}

#[cfg(test)]
mod tests;
