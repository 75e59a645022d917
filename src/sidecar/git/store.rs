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

    /// Removes the mirrors of others. Nothing works in them: it is the first that is done.
    pub(super) fn keep_only(&self, upstreams: &[Upstream]) -> io::Result<()> {
        let wanted: Vec<String> = upstreams.iter().map(folder_of).collect();
        for path in entries(&self.folder)? {
            if path.is_dir() && !wanted.iter().any(|name| name == name_of(&path)) {
                std::fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// The repository of an upstream, made if it is not there, or is another's.
    pub(super) fn repository(&self, upstream: &Upstream) -> io::Result<PathBuf> {
        let place = upstream.place();
        let path = self.folder.join(folder_of(upstream));
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

/// Where an upstream's mirror is. Another upstream of the same name has another one: something may still be
/// at work in the first.
fn folder_of(upstream: &Upstream) -> String {
    use sha2::Digest as _;
    let digest = hex::encode(sha2::Sha256::digest(upstream.place()));
    format!("{}-{}.git", upstream.name, &digest[..12])
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

/// Removes what a process that was killed has left in a repository: locks anywhere, which are the names of no
/// ref, and what is half written of objects.
fn clean(repository: &Path) -> io::Result<()> {
    let mut folders = vec![(repository.to_owned(), false)];
    while let Some((folder, of_objects)) = folders.pop() {
        for path in entries(&folder)? {
            let name = name_of(&path);
            let is_folder = std::fs::symlink_metadata(&path)?.is_dir();
            let of_objects = of_objects || folder == *repository && name == "objects";
            if is_folder && of_objects && name.starts_with("incoming-") {
                std::fs::remove_dir_all(&path)?;
            } else if is_folder {
                folders.push((path, of_objects));
            } else if name.ends_with(".lock") || of_objects && is_half(name) {
                std::fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

fn is_half(name: &str) -> bool {
    name.starts_with("tmp_") || name.starts_with(".tmp-") || name.ends_with(".keep")
}

/// Removes what a fetch that was broken off has left of packs.
pub(super) fn clean_packs(repository: &Path) -> io::Result<()> {
    for path in entries(&repository.join("objects/pack"))? {
        if is_half(name_of(&path)) {
            std::fs::remove_file(&path)?;
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
}

impl Quarantine {
    pub(super) fn new(repository: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let objects = repository.join("objects");
        let folder = objects.join(format!("incoming-{number}"));
        std::fs::create_dir(&folder)?;
        let new = Self { folder };
        std::fs::create_dir(new.folder.join("pack"))?;
        Ok(new)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        // What is left is removed at the next start; nothing reads it until then.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
