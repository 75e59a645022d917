//! The state folder: what `bottle` must remember and engines cannot tell. Nothing in it is needed
//! to find out what exists; a lost file costs a needless reprovision.
//!
//! ```text
//! <state>/          0700
//!   id              the random id of this folder, on every object that it makes
//!   key             the random key of the digests of asked-for values
//!   owners.json     which path last spoke for an owner
//!   trees/<owner>/
//!     lock          held by who works on the tree, and says who that is
//!     receipts/     what was put into which machine
//!     texts/        old prompts and skill files, for diffs
//!     last.json     how the last pass went
//!     audit.jsonl   every step that was begun and ended
//!     adopted.json  ids of other state folders whose objects were taken over
//! ```
#![expect(clippy::disallowed_methods, reason = "the state folder is its effect")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::apply::Receipts;
use crate::model::{InstanceId, OwnerId, Receipt, SpecHash};

/// How much of the audit record's end tells how the last run went, in bytes.
const AUDIT_TAIL: u64 = 256 << 10;
/// The audit record is cut to one older generation when it reaches this many bytes.
const AUDIT_LIMIT: u64 = 8 << 20;

/// The state folder.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
    id: String,
    key: [u8; 32],
}

impl State {
    /// Opens the folder, making it where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, read or written; when it is somebody else's, or a folder for other
    /// things.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        make_private(root)?;
        keep_private(root)?;
        let id = random_file::<8>(&root.join("id"))?;
        let key = random_file::<32>(&root.join("key"))?;
        Ok(Self { root: root.to_owned(), id: hex::encode(id), key })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its random id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The keyed digest of an asked-for value: equal values under other names differ.
    #[must_use]
    pub fn digest(&self, name: &str, value: &str) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key)
            .expect("HMAC takes keys of any length");
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// The receipts of an owner that may never have had any.
    ///
    /// # Errors
    /// When there is a folder of them that cannot be read.
    pub(super) fn receipts_of(&self, owner: &OwnerId) -> anyhow::Result<usize> {
        let dir = self.root.join("trees").join(owner.as_str());
        if !dir.join("receipts").is_dir() {
            return Ok(0);
        }
        Ok(TreeState { dir }.receipts()?.len())
    }

    /// The part that belongs to one owner, made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tree(&self, owner: &OwnerId) -> anyhow::Result<TreeState> {
        let dir = self.root.join("trees").join(owner.as_str());
        for part in ["receipts", "texts"] {
            make_private(&dir.join(part))?;
        }
        Ok(TreeState { dir })
    }
}

/// What is remembered of one owner's tree.
#[derive(Debug, Clone)]
pub struct TreeState {
    dir: PathBuf,
}

impl TreeState {
    /// Where it is: a backend may keep folders of its own here.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All receipts, by instance. One that cannot be read is as good as lost.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn receipts(&self) -> anyhow::Result<BTreeMap<InstanceId, Receipt>> {
        let dir = self.dir.join("receipts");
        let mut receipts = BTreeMap::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_json::<Receipt>(&path) {
                Ok(Some(receipt)) => {
                    receipts.insert(receipt.instance.clone(), receipt);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "unreadable receipt");
                }
            }
        }
        Ok(receipts)
    }

    /// A text that was kept for diffs.
    #[must_use]
    pub fn text(&self, hash: &SpecHash) -> Option<String> {
        fs::read_to_string(self.text_path(hash)).ok()
    }

    fn text_path(&self, hash: &SpecHash) -> PathBuf {
        self.dir.join("texts").join(hash.to_string())
    }

    fn receipt_path(&self, instance: &InstanceId) -> PathBuf {
        let name = SpecHash::of_bytes(instance.0.as_bytes()).to_string();
        self.dir.join("receipts").join(format!("{name}.json"))
    }

    /// Removes the texts that no receipt refers to.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn sweep_texts(&self) -> anyhow::Result<()> {
        let receipts = self.receipts()?;
        let used: BTreeSet<String> =
            receipts.values().flat_map(|r| r.files.values()).map(ToString::to_string).collect();
        for entry in fs::read_dir(self.dir.join("texts"))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
                remove(&entry.path())?;
            }
        }
        // What a killed run was in the middle of writing.
        for entry in fs::read_dir(self.dir.join("receipts"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Ids of other state folders whose objects were taken over.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn adopted(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(read_json(&self.dir.join("adopted.json"))?.unwrap_or_default())
    }

    /// Takes over the objects of other state folders.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn adopt(&self, ids: &BTreeSet<String>) -> anyhow::Result<()> {
        let mut adopted = self.adopted()?;
        adopted.extend(ids.iter().cloned());
        write_json(&self.dir.join("adopted.json"), &adopted, true)
    }

    /// How the last pass went, as whoever wrote it wrote it.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn last<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        read_json(&self.dir.join("last.json"))
    }

    /// Remembers how a pass went.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn set_last<T: Serialize>(&self, last: &T) -> anyhow::Result<()> {
        write_json(&self.dir.join("last.json"), last, false)
    }

    /// The last lines of the audit record.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn audit_tail(&self) -> anyhow::Result<String> {
        let path = self.dir.join("audit.jsonl");
        let read = || {
            let mut file = File::open(&path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(AUDIT_TAIL)))?;
            let mut tail = Vec::new();
            file.take(AUDIT_TAIL).read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        match read() {
            Err(error) if std::io::Error::kind(&error) == ErrorKind::NotFound => Ok(String::new()),
            result => result.with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Adds a line to the audit record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn audit<T: Serialize>(&self, entry: &T) -> anyhow::Result<()> {
        let path = self.dir.join("audit.jsonl");
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        if file.metadata()?.len() > AUDIT_LIMIT {
            fs::rename(&path, self.dir.join("audit.jsonl.1"))?;
            file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        }
        file.write_all(&line).with_context(|| format!("writing {}", path.display()))
    }
}

impl Receipts for TreeState {
    fn put(&self, receipt: &Receipt, durable: bool) -> anyhow::Result<()> {
        write_json(&self.receipt_path(&receipt.instance), receipt, durable)
    }

    fn forget(&self, instance: &InstanceId) -> anyhow::Result<()> {
        remove(&self.receipt_path(instance))
    }

    fn keep_text(&self, hash: SpecHash, text: &str) -> anyhow::Result<()> {
        let path = self.text_path(&hash);
        if path.exists() { Ok(()) } else { write(&path, text.as_bytes(), false) }
    }
}

/// Seconds since the epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn make_private(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the folder {}", dir.display()))
}

/// Takes a state folder's permissions away from others, as it may have been made by hand with the
/// usual ones. Any other folder, named by mistake, is left as it is: `/tmp` must not become private.
fn keep_private(root: &Path) -> anyhow::Result<()> {
    let shown = root.display();
    let found = fs::metadata(root).with_context(|| format!("looking at {shown}"))?;
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(
        found.uid() == own,
        "the state folder {shown} belongs to user {}, and this is user {own}: name another with \
         --state-dir",
        found.uid()
    );
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    // One that was never opened holds the lock of a tree at the most.
    let mut names = fs::read_dir(root).with_context(|| format!("reading {shown}"))?;
    let ours = root.join("id").exists()
        || names.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "trees"));
    anyhow::ensure!(
        ours,
        "{shown} is no state folder: it holds other things, and others may read it; name a folder \
         of its own with --state-dir"
    );
    fs::set_permissions(root, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("making {shown} private"))
}

/// Reads a file of random hexadecimal digits, writing it first where it is missing. Two processes
/// that do so at once end up with the same content: only one of the links succeeds.
fn random_file<const BYTES: usize>(path: &Path) -> anyhow::Result<[u8; BYTES]> {
    let read = || match fs::read_to_string(path) {
        Ok(text) => {
            let mut bytes = [0; BYTES];
            hex::decode_to_slice(text.trim(), &mut bytes).with_context(|| {
                format!(
                    "{} is damaged: put its {} hexadecimal digits back, or remove it (and say \
                     `--adopt`, should sandboxes then be another state folder's)",
                    path.display(),
                    2 * BYTES
                )
            })?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    };
    if let Some(bytes) = read()? {
        return Ok(bytes);
    }
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    write(&temporary, hex::encode(random).as_bytes(), true)?;
    let linked = fs::hard_link(&temporary, path);
    remove(&temporary)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("writing {}", path.display()));
        }
        _ => {}
    }
    read()?.with_context(|| format!("{} has vanished", path.display()))
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("{} is damaged: remove it", path.display()))
}

pub(super) fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    durable: bool,
) -> anyhow::Result<()> {
    write(path, &serde_json::to_vec(value)?, durable)
}

/// Temporary name, sync where it must survive a power cut, rename.
fn write(path: &Path, bytes: &[u8], durable: bool) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let result = (|| -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) if durable => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    })();
    if result.is_err() {
        // On a full disk, the piece that was written is what is in the way.
        let _ = fs::remove_file(&temporary);
    }
    result.with_context(|| format!("writing {}", path.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_for_other_things_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("thesis"), "x").unwrap();
        let error = State::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is no state folder"), "{error}");
        assert_eq!(mode(folder.path()), 0o755);
        assert!(!folder.path().join("id").exists());
        // An empty one was made for this, and one that holds an id is one.
        fs::remove_file(folder.path().join("thesis")).unwrap();
        let id = State::open(folder.path()).unwrap().id().to_owned();
        assert_eq!(mode(folder.path()), 0o700);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(State::open(folder.path()).unwrap().id(), id);
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_damaged_id_is_not_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        State::open(folder.path()).unwrap();
        for damaged in ["", "abc", "zzzzzzzzzzzzzzzz", "00112233445566778899"] {
            fs::write(folder.path().join("id"), damaged).unwrap();
            let error = State::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
    }
}
