//! Digests of what bottles take from the host: image tars, packs and root folders.
//!
//! The content counts, so a touched file is the same input. Reading gigabytes on every pass would
//! not do, so a digest is kept with a fingerprint of what `stat` said when it was taken.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::build::Context;
use super::tree::{self, Dir, Kind, Links, ReadError, Stat};
use super::trust::Trust;
use crate::model::SpecHash;
use crate::model::build::DOCKERFILE;

/// A file that changed so many seconds ago or less may change again within one tick of the file
/// system's clock, unseen: its digest is not kept.
const RACY_SECONDS: i64 = 2;

/// Deepest nesting of a root folder.
const MAX_DEPTH: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    fingerprint: SpecHash,
    digest: SpecHash,
}

/// The digests of this run, and those of earlier ones.
#[derive(Debug)]
pub(super) struct Inputs {
    file: PathBuf,
    /// Read when the first digest is asked for.
    known: Option<BTreeMap<PathBuf, Known>>,
    changed: bool,
    /// Seconds since the epoch.
    now: fn() -> i64,
}

impl Inputs {
    /// Digests that are kept in this file.
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, known: None, changed: false, now: tree::now }
    }

    /// The digest of a regular file's content.
    pub(super) fn file(&mut self, path: &Path) -> Result<SpecHash, ReadError> {
        let stat = tree::stat(path)?;
        if stat.kind != Kind::File {
            return Err(ReadError::Kind(stat.kind));
        }
        let mut print = Sha256::new();
        fingerprint(&mut print, &stat);
        self.digest(path, print, stat.changed.0.max(stat.modified.0), || file_digest(path))
    }

    /// The digest of a folder: paths, kinds, modes, owners and content.
    pub(super) fn folder(&mut self, path: &Path) -> Result<SpecHash, ReadError> {
        let mut print = Sha256::new();
        let mut newest = i64::MIN;
        let root = Dir::open(path, Links::Follow)?.with_links(Links::Refuse);
        walk(&root, &mut Vec::new(), 0, &mut |_, _, path, stat| {
            part(&mut print, path);
            fingerprint(&mut print, stat);
            newest = newest.max(stat.changed.0).max(stat.modified.0);
            Ok(())
        })?;
        self.digest(path, print, newest, || folder_digest(&root))
    }

    /// The digest of what an engine is sent of a folder with a Dockerfile.
    pub(super) fn context(&mut self, path: &Path, trust: &Trust) -> Result<SpecHash, ReadError> {
        let context = Context::open(path, trust)?;
        let mut print = Sha256::new();
        let mut newest = i64::MIN;
        context.visit(&mut |_, _, path, stat| {
            part(&mut print, path);
            fingerprint(&mut print, stat);
            newest = newest.max(stat.changed.0).max(stat.modified.0);
            Ok(())
        })?;
        // A folder may also be somebody's root file system, whose digest is another.
        let name = path.join(DOCKERFILE);
        self.digest(&name, print, newest, || context.digest())
    }

    fn digest(
        &mut self,
        path: &Path,
        fingerprint: Sha256,
        newest: i64,
        compute: impl FnOnce() -> Result<SpecHash, ReadError>,
    ) -> Result<SpecHash, ReadError> {
        let fingerprint = SpecHash::from_digest(fingerprint.finalize().into());
        let known = self.known.get_or_insert_with(|| load(&self.file));
        if let Some(known) = known.get(path).filter(|known| known.fingerprint == fingerprint) {
            return Ok(known.digest);
        }
        let before = (self.now)();
        let digest = compute()?;
        if newest < before - RACY_SECONDS {
            known.insert(path.to_owned(), Known { fingerprint, digest });
            self.changed = true;
        }
        Ok(digest)
    }

    /// Writes what is new. A cache that cannot be written costs time, nothing else.
    pub(super) fn save(&mut self) {
        let Some(known) = self.known.as_mut().filter(|_| self.changed) else { return };
        known.retain(|path, _| tree::stat(path).is_ok());
        if let Ok(json) = serde_json::to_vec(&known.iter().collect::<Vec<_>>())
            && let Err(error) = tree::write_own(&self.file, &json)
        {
            tracing::debug!(file = %self.file.display(), %error, "keeping input digests");
        }
        self.changed = false;
    }
}

/// A cache that cannot be read, or was cut short, is an empty one.
fn load(file: &Path) -> BTreeMap<PathBuf, Known> {
    let read = tree::read_own(file).ok();
    let list: Option<Vec<(PathBuf, Known)>> =
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    list.unwrap_or_default().into_iter().collect()
}

fn part(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Whatever moves when content does.
fn fingerprint(hasher: &mut Sha256, stat: &Stat) {
    let Stat { kind, mode, uid, gid, size, device, inode, special, modified, changed } = stat;
    let text = format!(
        "{kind:?} {mode} {uid} {gid} {size} {device} {inode} {special} {modified:?} {changed:?}"
    );
    part(hasher, text.as_bytes());
}

fn file_digest(path: &Path) -> Result<SpecHash, ReadError> {
    let folder = Dir::open(path.parent().unwrap_or(Path::new("/")), Links::Follow)?;
    let (file, _) = folder.open_file(path.file_name().unwrap_or_default())?;
    stream(file)
}

pub(super) fn stream(mut file: std::fs::File) -> Result<SpecHash, ReadError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(SpecHash::from_digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..count]);
    }
}

fn folder_digest(root: &Dir) -> Result<SpecHash, ReadError> {
    let mut hasher = Sha256::new();
    part(&mut hasher, b"bottle.folder.v1");
    walk(root, &mut Vec::new(), 0, &mut |dir, name, path, stat| {
        part(&mut hasher, path);
        let Stat { kind, mode, uid, gid, special, .. } = stat;
        part(&mut hasher, format!("{kind:?} {mode:o} {uid} {gid}").as_bytes());
        match kind {
            Kind::File => {
                part(&mut hasher, &stream(dir.open_file(name)?.0)?.to_string().into_bytes())
            }
            Kind::Symlink => part(&mut hasher, dir.read_link(name)?.as_bytes()),
            Kind::CharDevice | Kind::BlockDevice => part(&mut hasher, &special.to_le_bytes()),
            Kind::Folder | Kind::Fifo | Kind::Socket | Kind::Other => {}
        }
        Ok(())
    })?;
    Ok(SpecHash::from_digest(hasher.finalize().into()))
}

type Visit<'v> = dyn FnMut(&Dir, &OsStr, &[u8], &Stat) -> Result<(), ReadError> + 'v;

/// Visits every entry below a folder in the order of names, a folder before what is in it.
fn walk(
    dir: &Dir,
    path: &mut Vec<u8>,
    depth: usize,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    if depth > MAX_DEPTH {
        let message = format!("it is nested more than {MAX_DEPTH} folders deep");
        return Err(io::Error::other(message).into());
    }
    for name in dir.names().map_err(|error| at(path, &error))? {
        let length = path.len();
        path.push(b'/');
        path.extend(name.as_bytes());
        let stat = dir.stat_entry(&name).map_err(|error| at(path, &error))?;
        visit(dir, &name, path, &stat).map_err(|error| match error {
            ReadError::Io(error) => at(path, &error),
            other => other,
        })?;
        if stat.kind == Kind::Folder {
            let folder = dir.open_dir(&name).map_err(|error| at(path, &error))?;
            walk(&folder, path, depth + 1, visit)?;
        }
        path.truncate(length);
    }
    Ok(())
}

/// An error that says where below the folder it happened.
fn at(path: &[u8], error: &io::Error) -> ReadError {
    let path = String::from_utf8_lossy(path);
    ReadError::Io(io::Error::other(format!(".{path}: {}", tree::describe(error))))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files that they need")]
mod tests {
    use super::*;
    use std::fs;

    /// A run that takes place long after the files were written.
    fn later(folder: &Path) -> Inputs {
        Inputs { now: || i64::MAX, ..Inputs::new(folder.join("cache/inputs.json")) }
    }

    #[test]
    fn a_digest_is_kept_as_long_as_nothing_moved() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("image.tar");
        let root = scratch.path().join("root");
        fs::write(&path, "one").expect("a file");
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join("file"), "one").expect("a file");
        let mut inputs = later(scratch.path());
        let digest = inputs.file(&path).expect("a digest");
        assert_eq!(digest, SpecHash::of_bytes(b"one"));
        let folder = inputs.folder(&root).expect("a digest");
        inputs.save();

        // What stands in the cache is what is returned: nothing was read again.
        let cache = scratch.path().join("cache/inputs.json");
        let kept = fs::read_to_string(&cache).expect("it was written");
        let other = SpecHash::of_bytes(b"other");
        let forged = kept.replace(&digest.to_string(), &other.to_string());
        fs::write(&cache, forged.replace(&folder.to_string(), &other.to_string())).expect("a file");
        let mut inputs = later(scratch.path());
        assert_eq!(inputs.file(&path).expect("a digest"), other);
        assert_eq!(inputs.folder(&root).expect("a digest"), other);

        fs::write(&path, "two").expect("a file");
        fs::write(root.join("file"), "two").expect("a file");
        let mut inputs = later(scratch.path());
        assert_eq!(inputs.file(&path).expect("a digest"), SpecHash::of_bytes(b"two"));
        let changed = inputs.folder(&root).expect("a digest");
        assert!(changed != other && changed != folder);
    }

    #[test]
    fn a_digest_of_what_was_just_written_is_not_kept() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("image.tar");
        fs::write(&path, "one").expect("a file");
        // To a clock that stands before it, everything was written just now.
        let mut inputs = Inputs { now: || 0, ..later(scratch.path()) };
        inputs.file(&path).expect("a digest");
        inputs.save();
        assert!(!scratch.path().join("cache").exists());
    }
}
