#![expect(clippy::disallowed_methods, reason = "keeps mirrors on the disk")]
//! Mirrors on the disk: made, cleaned, and the quarantines within them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::document::Upstream;
use super::wire::Deadline;

/// How long what an ended gate has left running may take to end.
const LEFTOVERS: Duration = Duration::from_secs(15);

/// The repository's settings. Another text makes it be written anew.
const CONFIG: &str = "[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\thooksPath = /dev/null
\tlogAllRefUpdates = false
\talternateRefsCommand = false
\tbigFileThreshold = 32m
\tpackedGitWindowSize = 32m
\tpackedGitLimit = 256m
\tdeltaBaseCacheLimit = 64m
[pack]
\tthreads = 1
\twriteReverseIndex = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[fetch]
\tunpackLimit = 1
\tfsckObjects = false
\twriteCommitGraph = false
[transfer]
\tunpackLimit = 1
[uploadpack]
\tallowFilter = true
[lsrefs]
\tunborn = ignore
[protocol \"fd\"]
\tallow = always
";

/// Which upstream's it is.
const WHOSE: &str = "bottle-upstream";

/// The folder of all mirrors, which nobody else works in while this is held, nor any git that was started
/// here: they inherit it.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: OwnedFd,
}

impl Store {
    /// Takes the folder, waits for what an ended gate has left running, and removes what that has left
    /// behind.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // It is not closed by exec.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(folder.join("lock"), flags, Mode::from_raw_mode(0o600))?;
        let deadline = Deadline::within(LEFTOVERS);
        while let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if deadline.is_over() {
                return Err(io::Error::other(format!(
                    "another git still works in its folder: {error}"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let store = Self { folder: folder.to_owned(), _lock: lock };
        for repository in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
            clean(&repository)?;
        }
        Ok(store)
    }

    /// The repository of an upstream, made if it is not there, or is another's.
    pub(super) fn repository(&self, upstream: &Upstream) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{}.git", upstream.name));
        let place = upstream.place();
        if std::fs::read_to_string(path.join(WHOSE)).ok().as_deref() != Some(&place) {
            let aside = self.folder.join(format!("{}.new", upstream.name));
            for folder in [&aside, &path] {
                if folder.exists() {
                    std::fs::remove_dir_all(folder)?;
                }
            }
            for folder in ["objects/pack", "objects/info", "refs/heads", "refs/tags", "info"] {
                std::fs::create_dir_all(aside.join(folder))?;
            }
            std::fs::write(aside.join("HEAD"), "ref: refs/heads/main\n")?;
            std::fs::write(aside.join("config"), CONFIG)?;
            std::fs::write(aside.join(WHOSE), &place)?;
            std::fs::rename(&aside, &path)?;
        }
        if std::fs::read_to_string(path.join("config")).ok().as_deref() != Some(CONFIG) {
            put(&path.join("config"), CONFIG)?;
        }
        Ok(path)
    }
}

/// Writes a file, whole or not at all.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, path)
}

/// What HEAD names from now on.
pub(super) fn set_head(repository: &Path, name: &str) -> io::Result<()> {
    let text = format!("ref: {name}\n");
    if std::fs::read_to_string(repository.join("HEAD")).ok().as_deref() == Some(&text) {
        return Ok(());
    }
    put(&repository.join("HEAD"), &text)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Removes what a process that was killed has left in a repository.
fn clean(repository: &Path) -> io::Result<()> {
    let mut folders = vec![repository.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            let name = name_of(&path);
            let is_folder = std::fs::symlink_metadata(&path)?.is_dir();
            if is_folder && name.starts_with("incoming-") {
                std::fs::remove_dir_all(&path)?;
            } else if is_folder {
                folders.push(path);
            } else if name.ends_with(".lock")
                || name.ends_with(".keep")
                || name.starts_with("tmp_")
                || name.starts_with(".tmp-")
            {
                std::fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// How many packs there are.
pub(super) fn packs(repository: &Path) -> usize {
    let found = entries(&repository.join("objects/pack")).unwrap_or_default();
    found.iter().filter(|path| name_of(path).ends_with(".pack")).count()
}

/// Where the objects of one push are until the upstream has taken them. Dropped, they are gone.
#[derive(Debug)]
pub(super) struct Quarantine {
    folder: PathBuf,
    objects: PathBuf,
}

impl Quarantine {
    pub(super) fn new(repository: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let objects = repository.join("objects");
        let folder = objects.join(format!("incoming-{number}"));
        std::fs::create_dir(&folder)?;
        let new = Self { folder, objects };
        std::fs::create_dir(new.folder.join("pack"))?;
        Ok(new)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many objects are in it.
    pub(super) fn count(&self) -> io::Result<u64> {
        let mut count = 0;
        for path in entries(&self.folder.join("pack"))? {
            if name_of(&path).ends_with(".idx") {
                count += u64::from(indexed(&path)?);
            }
        }
        Ok(count)
    }

    /// Moves what is in it into the repository: the upstream has it.
    pub(super) fn adopt(&self) -> io::Result<()> {
        let mut packs = entries(&self.folder.join("pack"))?;
        // Without its index a pack is none.
        packs.sort_by_key(|path| name_of(path).ends_with(".idx"));
        for path in packs {
            let name = name_of(&path).to_owned();
            let wanted = [".pack", ".idx", ".rev"].iter().any(|end| name.ends_with(end));
            if wanted && name.starts_with("pack-") {
                std::fs::rename(&path, self.objects.join("pack").join(name))?;
            }
        }
        Ok(())
    }
}

/// How many objects an index names: the last number of its first table.
fn indexed(path: &Path) -> io::Result<u32> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let mut number = [0; 4];
    file.read_exact(&mut number)?;
    // The second version begins with a word and a number of its own.
    let head = if number == *b"\xfftOc" { 8 } else { 0 };
    file.seek(SeekFrom::Start(head + 255 * 4))?;
    file.read_exact(&mut number)?;
    Ok(u32::from_be_bytes(number))
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        // What is left is removed at the next start; nothing reads it until then.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
