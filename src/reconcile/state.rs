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
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::apply::Receipts;
use crate::model::{InstanceId, OwnerId, Receipt, SpecHash};

/// The audit record is cut to one older generation when it reaches this many bytes.
const AUDIT_LIMIT: u64 = 8 << 20;

/// The state folder.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
    id: String,
    key: [u8; 32],
}

/// Another path speaks for this owner.
#[derive(Debug, thiserror::Error)]
#[error("the name `{owner}` belongs to the tree {}, which still exists", other.display())]
pub struct OwnerTaken {
    /// The name.
    pub owner: OwnerId,
    /// The path that last spoke for it.
    pub other: PathBuf,
}

impl State {
    /// Opens the folder, making it where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, read or written.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        make_private(root)?;
        // It may have been made by hand with the usual permissions.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("making {} private", root.display()))?;
        let id = random_file(&root.join("id"), 8)?;
        let key = random_file(&root.join("key"), 32)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&key, &mut bytes)
            .with_context(|| format!("{} is damaged: remove it", root.join("key").display()))?;
        Ok(Self { root: root.to_owned(), id, key: bytes })
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

    /// Which path last spoke for which owner.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn owners(&self) -> anyhow::Result<BTreeMap<OwnerId, PathBuf>> {
        Ok(read_json(&self.root.join("owners.json"))?.unwrap_or_default())
    }

    /// Remembers that `path` speaks for `owner`.
    ///
    /// # Errors
    /// [`OwnerTaken`] when another path that still exists does, unless `adopt` says that the tree
    /// has moved; or when the folder cannot be written.
    pub fn claim(&self, owner: &OwnerId, path: &Path, adopt: bool) -> anyhow::Result<()> {
        let file = self.root.join("owners.json");
        let mut owners = self.owners()?;
        match owners.get(owner) {
            Some(known) if known == path => return Ok(()),
            Some(known) if !adopt && known.exists() => {
                return Err(OwnerTaken { owner: owner.clone(), other: known.clone() }.into());
            }
            _ => {}
        }
        owners.insert(owner.clone(), path.to_owned());
        write_json(&file, &owners, true)
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

/// Reads a file of random hexadecimal digits, writing it first where it is missing. Two processes
/// that do so at once end up with the same content: only one of the links succeeds.
fn random_file(path: &Path, bytes: usize) -> anyhow::Result<String> {
    let read = || match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    };
    if let Some(text) = read()? {
        return Ok(text);
    }
    let mut random = vec![0; bytes];
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

fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("{} is damaged: remove it", path.display()))
}

fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> anyhow::Result<()> {
    write(path, &serde_json::to_vec(value)?, durable)
}

/// Temporary name, sync where it must survive a power cut, rename.
fn write(path: &Path, bytes: &[u8], durable: bool) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let result = (|| {
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
