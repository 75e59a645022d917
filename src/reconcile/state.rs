//! The state folder: what `bottle` must remember and engines cannot tell. Nothing in it is needed
//! to find out what exists; a lost file costs a needless reprovision.
//!
//! ```text
//! <state>/          0700
//!   id              the random id of this folder, on every object that it makes
//!   key             the random key of the digests of asked-for values
//!   owners.json     which path last spoke for an owner
//!   .reserve/       room for records when the disk is full
//!   trees/<owner>/
//!     lock          held by who works on the tree, and says who that is
//!     sources.json  which folders of the host were accepted for which sandbox
//!     receipts/     what was put into which machine
//!     texts/        old prompts and skill files, for diffs
//!     last.json     how the last pass went
//!     audit.jsonl   every step that was begun and ended
//!     snapshots/    what agents worked on
//!     carried/      which of it is on its way from one machine to the next
//!     runs/         runs that live on by themselves
//!     stopped/      which sandboxes the operator stopped
//!     requests/     what agents asked for, and what became of it
//!     places.json   under which names renamed sandboxes were made
//!     adopted.json  ids of other state folders whose objects were taken over
//! ```
#![expect(clippy::disallowed_methods, reason = "the state folder is its effect")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use super::carried::Carried;
use crate::apply::Receipts;
use crate::backend::durable::{self, Keep};
use crate::backend::reserve;
use crate::manifest;
use crate::model::{InstanceId, OwnerId, Receipt, SandboxId, SpecHash};

/// How much of the audit record is read at once, from its end, in bytes.
const AUDIT_PIECE: u64 = 256 << 10;
/// The audit record is cut to one older generation when it reaches this many bytes.
const AUDIT_LIMIT: u64 = 8 << 20;
/// So many bytes of the disk it has before it needs them.
const AUDIT_AHEAD: u64 = 256 << 10;

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
        if let Err(error) = reserve::keep(root) {
            tracing::debug!(%error, "nothing is set aside for records");
        }
        let id = random_file::<8>(&root.join("id"))?;
        let key = random_file::<32>(&root.join("key"))?;
        Ok(Self { root: root.to_owned(), id: hex::encode(id), key })
    }

    /// Looks at the folder and writes nothing. Where it is missing, or was never used, it has an id and a
    /// key for this one look.
    ///
    /// # Errors
    /// When it cannot be read; when it is somebody else's, or others can write there.
    pub fn look(root: &Path) -> anyhow::Result<Self> {
        if root.exists() {
            judge(root)?;
        }
        let kept = |name: &str| root.join(name).symlink_metadata().is_ok();
        let id = if kept("id") { random_file::<8>(&root.join("id"))? } else { random()? };
        let key = if kept("key") { random_file::<32>(&root.join("key"))? } else { random()? };
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

    /// The part that belongs to one owner. Whoever takes its lock makes it.
    ///
    /// # Errors
    /// When a folder of it is no folder.
    pub fn tree(&self, owner: &OwnerId) -> anyhow::Result<TreeState> {
        let dir = self.root.join("trees").join(owner.as_str());
        for dir in [&dir, &dir.join("receipts"), &dir.join("texts")] {
            let found = fs::metadata(dir);
            anyhow::ensure!(
                found.is_err() || found.is_ok_and(|found| found.is_dir()),
                "{} is no folder: move it away",
                dir.display()
            );
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

    /// Makes the folder, where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        ["receipts", "texts"].iter().try_for_each(|part| make_private(&self.dir.join(part)))
    }

    /// All receipts, by instance. One that cannot be read is as good as lost.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn receipts(&self) -> anyhow::Result<BTreeMap<InstanceId, Receipt>> {
        self.read_receipts(|path, error| {
            tracing::warn!(path = %path.display(), %error, "unreadable receipt");
            Ok(())
        })
    }

    fn read_receipts(
        &self,
        unreadable: impl Fn(&Path, &io::Error) -> anyhow::Result<()>,
    ) -> anyhow::Result<BTreeMap<InstanceId, Receipt>> {
        let dir = self.dir.join("receipts");
        let mut receipts = BTreeMap::new();
        for entry in entries(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match durable::read_json::<Receipt>(&path) {
                Ok(Some(receipt)) => {
                    receipts.insert(receipt.instance.clone(), receipt);
                }
                Ok(None) => {}
                Err(error) => unreadable(&path, &error)?,
            }
        }
        Ok(receipts)
    }

    /// What was put into a machine. One that cannot be read is as good as lost.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn receipt(&self, instance: &InstanceId) -> anyhow::Result<Option<Receipt>> {
        match read_json(&self.receipt_path(instance)) {
            Err(error) if is_damage(&error) => Ok(None),
            read => read,
        }
    }

    fn carried_path(&self, sandbox: &SandboxId) -> PathBuf {
        self.dir.join("carried").join(format!("{sandbox}.json"))
    }

    /// What is on its way from a machine of each sandbox to the one that follows it, and what of that cannot
    /// be read, with why.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn carried(
        &self,
    ) -> anyhow::Result<(BTreeMap<SandboxId, Carried>, BTreeMap<SandboxId, String>)> {
        let (mut all, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries(&self.dir.join("carried"))? {
            let name = entry?.file_name();
            let sandbox = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(sandbox) = sandbox.and_then(|name| SandboxId::new(name).ok()) else {
                continue;
            };
            match self.carried_of(&sandbox) {
                Ok(Some(carried)) => drop(all.insert(sandbox, carried)),
                Ok(None) => {}
                Err(error) => drop(unreadable.insert(sandbox, format!("{error:#}"))),
            }
        }
        Ok((all, unreadable))
    }

    /// What is on its way into the next machine of a sandbox.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn carried_of(&self, sandbox: &SandboxId) -> anyhow::Result<Option<Carried>> {
        let path = self.carried_path(sandbox);
        read_json(&path).with_context(|| {
            format!("what is on its way into the next machine of {sandbox} is not known")
        })
    }

    /// Remembers what is on its way, or that nothing is any more. It survives a power cut.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn carry(&self, sandbox: &SandboxId, carried: Option<&Carried>) -> anyhow::Result<()> {
        let path = self.carried_path(sandbox);
        match carried {
            Some(carried) => write_json(&path, carried, true),
            None => remove(&path),
        }
    }

    /// All receipts, as [`TreeState::receipts`] gives them. Those that are damaged are removed: each costs
    /// one provisioning. What cannot be read for another reason stays.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn sweep_receipts(&self) -> anyhow::Result<BTreeMap<InstanceId, Receipt>> {
        self.read_receipts(|path, error| match error.kind() {
            ErrorKind::InvalidData => remove(path),
            _ => Ok(()),
        })
    }

    /// Whether the folder of receipts holds so many, the damaged ones among them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn holds_receipts(&self, count: usize) -> anyhow::Result<bool> {
        let mut found = 0;
        for entry in entries(&self.dir.join("receipts"))? {
            found +=
                usize::from(Path::new(&entry?.file_name()).extension() == Some("json".as_ref()));
        }
        Ok(found == count)
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
        for entry in entries(&self.dir.join("texts"))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
                remove(&entry.path())?;
            }
        }
        // What a killed run was in the middle of writing.
        for entry in entries(&self.dir.join("receipts"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Ids of other state folders whose objects were taken over, and what is wrong with the record of
    /// them where it is damaged: none counts then, so that those objects are another state folder's again
    /// until the next `--adopt`.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn adopted(&self) -> anyhow::Result<(BTreeSet<String>, Option<String>)> {
        match read_json(&self.dir.join("adopted.json")) {
            Ok(adopted) => Ok((adopted.unwrap_or_default(), None)),
            Err(error) if is_damage(&error) => Ok((BTreeSet::new(), Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    /// Takes over the objects of other state folders.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn adopt(&self, ids: &BTreeSet<String>) -> anyhow::Result<()> {
        let (mut adopted, _) = self.adopted()?;
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

    /// When `watch` has last removed a machine of which sandbox, in seconds since the epoch.
    pub(super) fn gone(&self) -> anyhow::Result<BTreeMap<SandboxId, u64>> {
        Ok(read_json(&self.dir.join("gone.json"))?.unwrap_or_default())
    }

    pub(super) fn set_gone(&self, gone: &BTreeMap<SandboxId, u64>) -> anyhow::Result<()> {
        write_json(&self.dir.join("gone.json"), gone, false)
    }

    /// The last lines of the audit record, back to the first of which `enough` says so; it may go on
    /// in the older generation.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn audit_tail(&self, enough: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let mut tail = String::new();
        for name in ["audit.jsonl", "audit.jsonl.1"] {
            let path = self.dir.join(name);
            let reading = || format!("reading {}", path.display());
            // What is no file has no lines.
            if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
                continue;
            }
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(reading),
            };
            let mut end = file.metadata().with_context(reading)?.len();
            // The beginning of a line, whose rest is read already.
            let mut rest = Vec::new();
            while end > 0 {
                let begin = end.saturating_sub(AUDIT_PIECE);
                file.seek(SeekFrom::Start(begin)).with_context(reading)?;
                let mut piece = Vec::new();
                (&mut file).take(end - begin).read_to_end(&mut piece).with_context(reading)?;
                piece.append(&mut rest);
                if begin > 0 {
                    let whole = piece
                        .iter()
                        .position(|byte| *byte == b'\n')
                        .map_or(piece.len(), |at| at + 1);
                    rest = piece.drain(..whole).collect();
                }
                let piece = String::from_utf8_lossy(&piece);
                let enough = piece.lines().any(&enough);
                tail.insert_str(0, &piece);
                if enough {
                    return Ok(tail);
                }
                end = begin;
            }
        }
        Ok(tail)
    }

    /// Adds a line to the audit record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn audit<T: Serialize>(&self, entry: &T) -> anyhow::Result<()> {
        let path = self.dir.join("audit.jsonl");
        if !self.dir.exists() {
            self.make()?;
        }
        durable::clear_way(&path)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        if file.metadata()?.len() > AUDIT_LIMIT {
            fs::rename(&path, self.dir.join("audit.jsonl.1"))?;
            file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        }
        reserve::keep_ahead(&file, AUDIT_AHEAD);
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

    fn rename(&self, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()> {
        aside(|| self.rename_sandbox(from, to))
    }

    fn keep_text(&self, hash: SpecHash, text: &str) -> anyhow::Result<()> {
        let path = self.text_path(&hash);
        if path.exists() { Ok(()) } else { write(&path, text.as_bytes(), false) }
    }
}

/// What is in a folder; nothing where it was never made.
pub(super) fn entries(
    dir: &Path,
) -> anyhow::Result<impl Iterator<Item = std::io::Result<fs::DirEntry>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error).with_context(|| format!("reading {}", dir.display())),
    }
}

/// Seconds since the epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Work that waits for a disk, aside from what else this thread has to do: a slow sync must not stop
/// timers and signals.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
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
    if !judge(root)? {
        return Ok(());
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("making {} private", root.display()))
}

/// Whether others may do something with a state folder that is ours.
fn judge(root: &Path) -> anyhow::Result<bool> {
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
        return Ok(false);
    }
    // Who can write there can say what sandboxes were given, and what exists.
    if root.join("id").exists()
        && let Some((who, mend)) = manifest::exposed_folder(root)?
    {
        anyhow::bail!(
            "the state folder {shown} {who}, so what stands in it may not be bottle's: look through it, \
             then {mend}"
        );
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
    Ok(true)
}

fn random<const BYTES: usize>() -> anyhow::Result<[u8; BYTES]> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(random)
}

/// Reads a file of random hexadecimal digits, writing it first where it is missing. Two processes
/// that do so at once end up with the same content: only one of the links succeeds.
fn random_file<const BYTES: usize>(path: &Path) -> anyhow::Result<[u8; BYTES]> {
    let way_out = |what: String| {
        anyhow::anyhow!(
            "{what}: put its {} hexadecimal digits back, or remove it (without the `id` sandboxes are \
             another state folder's: say `--adopt` then; without the `key` all that is asked for is \
             delivered once more)",
            2 * BYTES
        )
    };
    let read = || match durable::read(path) {
        Ok(Some(text)) => {
            let mut bytes = [0; BYTES];
            hex::decode_to_slice(text.trim_ascii(), &mut bytes)
                .map_err(|error| way_out(format!("{} is damaged: {error}", path.display())))?;
            Ok(Some(bytes))
        }
        Ok(None) => Ok(None),
        Err(error) => Err(way_out(error.to_string())),
    };
    if let Some(bytes) = read()? {
        return Ok(bytes);
    }
    let random = random::<BYTES>()?;
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
    let vanished = || way_out(format!("{} leads nowhere", path.display()));
    read()?.ok_or_else(vanished)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    durable::read_json(path).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => error.into(),
        _ => anyhow::Error::from(error).context(
            "a record of the state folder cannot be read, and nothing is done without it: make it readable \
             for this user",
        ),
    })
}

/// Whether what went wrong is that the content of a record is damaged, and not that it cannot be read
/// now.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::InvalidData)
}

pub(super) fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    durable: bool,
) -> anyhow::Result<()> {
    write(path, &serde_json::to_vec(value)?, durable)
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> anyhow::Result<()> {
    let keep = if durable { Keep::Durably } else { Keep::Cheaply };
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        make_private(folder)?;
    }
    aside(|| durable::write(path, bytes, keep)).context("writing the state folder")
}

/// The same, so that it does not come back after a power cut.
pub(super) fn remove_durably(path: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    remove(path)?;
    let synced = path.parent().map_or(Ok(()), sync_folder);
    synced.with_context(|| format!("removing {}", path.display()))
}

/// What was moved or removed in a folder stays so after a power cut.
pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all())
}

/// When something was written into a folder, or removed from it, for the last time.
pub(super) fn moved(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder).and_then(|found| found.modified()).ok()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    durable::clear_way(path)?;
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_disk_stops_no_timer() {
        let slow = tokio::spawn(async {
            aside(|| std::thread::sleep(std::time::Duration::from_millis(800)));
            SystemTime::now()
        });
        let timer = tokio::spawn(async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            SystemTime::now()
        });
        let (slow, timer) = tokio::join!(slow, timer);
        assert!(timer.unwrap() < slow.unwrap());
    }

    #[test]
    fn a_damaged_id_is_not_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        State::open(folder.path()).unwrap();
        let texts = ["", "abc", "zzzzzzzzzzzzzzzz", "00112233445566778899"].map(str::as_bytes);
        for damaged in texts.into_iter().chain([&b"\xff\xfe\x00\x80"[..]]) {
            fs::write(folder.path().join("id"), damaged).unwrap();
            let error = State::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
    }
}
