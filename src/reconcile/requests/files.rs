//! The tree's files as they are edited: opened without following a link, and replaced in one step, with the mode
//! and the owner that they had.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};

use crate::model::SpecHash;

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// Why a file of the tree is not edited. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Where the link leads may be anybody's.
    #[error("{0} is a link: it is not edited; here is the patch")]
    Link(String),
    /// It is somebody else's.
    #[error("{0} belongs to another user: it is not edited; here is the patch")]
    Owner(String),
    /// It was edited meanwhile.
    #[error("{0} was edited")]
    Moved(String),
    /// It cannot be read or written.
    #[error("{file} cannot be edited: {error}")]
    Io {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
}

impl FileError {
    /// Whether a person can make the edit by hand.
    #[must_use]
    pub fn is_for_a_person(&self) -> bool {
        !matches!(self, Self::Moved(_))
    }
}

/// An open file of the tree.
pub struct TreeFile {
    dir: OwnedFd,
    name: PathBuf,
    file: String,
    stat: Stat,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for TreeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeFile").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The digest of what a file holds, as records name it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    SpecHash::of_bytes(bytes).to_string()
}

/// Opens `folder/name` of a tree.
///
/// # Errors
/// [`FileError`] where it may not be edited.
pub fn open(tree: &Path, file: &str) -> Result<TreeFile, FileError> {
    let fail = |error: rustix::io::Errno| match error {
        rustix::io::Errno::LOOP => FileError::Link(file.to_owned()),
        error => FileError::Io { file: file.to_owned(), error: error.into() },
    };
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(tree, folder, Mode::empty()).map_err(fail)?;
    let path = Path::new(file);
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    for part in path.parent().into_iter().flat_map(Path::components) {
        let stat = rustix::fs::statat(&dir, part.as_os_str(), AtFlags::SYMLINK_NOFOLLOW);
        if is_link(&stat.map_err(fail)?) {
            return Err(FileError::Link(file.to_owned()));
        }
        let flags = folder | OFlags::NOFOLLOW;
        dir = rustix::fs::openat(&dir, part.as_os_str(), flags, Mode::empty()).map_err(fail)?;
    }
    let (stat, bytes) = read(&dir, name.as_os_str(), file)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(FileError::Owner(file.to_owned()));
    }
    Ok(TreeFile { dir, name, file: file.to_owned(), stat, bytes })
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

fn read(dir: &OwnedFd, name: &OsStr, file: &str) -> Result<(Stat, Vec<u8>), FileError> {
    let fail = |error: io::Error| FileError::Io { file: file.to_owned(), error };
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let stat = stat.map_err(|error| fail(error.into()))?;
    if is_link(&stat) {
        return Err(FileError::Link(file.to_owned()));
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail(io::Error::other("it is no file")));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = rustix::fs::openat(dir, name, flags, Mode::empty());
    let open = open.map_err(|error| fail(error.into()))?;
    let stat = rustix::fs::fstat(&open).map_err(|error| fail(error.into()))?;
    let mut bytes = Vec::new();
    let mut taken = std::fs::File::from(open).take(LARGEST + 1);
    taken.read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > LARGEST {
        return Err(fail(io::Error::other("it is larger than a manifest may be")));
    }
    Ok((stat, bytes))
}

/// What stands at a path, wherever its links lead: to show what an edit of it would be.
#[must_use]
pub fn peek(tree: &Path, file: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = rustix::fs::open(tree.join(file), flags, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&open).ok()?.st_mode);
    let mut text = String::new();
    let mut taken = std::fs::File::from(open).take(LARGEST);
    (kind == FileType::RegularFile && taken.read_to_string(&mut text).is_ok()).then_some(text)
}

impl TreeFile {
    /// The digest of what it holds.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    /// Has the file hold something else, in one step, if it holds what was read still.
    ///
    /// # Errors
    /// [`FileError::Moved`] where it does not.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), FileError> {
        let fail = |error: io::Error| FileError::Io { file: self.file.clone(), error };
        let temporary = format!(".{}.bottle-{}", self.name.display(), std::process::id());
        // What a killed run has left under this name is ours.
        let _ = rustix::fs::unlinkat(&self.dir, temporary.as_str(), AtFlags::empty());
        let done = self.write_beside(&temporary, bytes);
        if done.is_err() {
            let _ = rustix::fs::unlinkat(&self.dir, temporary.as_str(), AtFlags::empty());
        }
        done?;
        rustix::fs::fsync(self.dir.as_fd()).map_err(|error| fail(error.into()))
    }

    fn write_beside(&self, temporary: &str, bytes: &[u8]) -> Result<(), FileError> {
        let fail = |error: io::Error| FileError::Io { file: self.file.clone(), error };
        let errno = |error: rustix::io::Errno| fail(error.into());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&self.dir, temporary, flags, Mode::RUSR | Mode::WUSR);
        let mut file = std::fs::File::from(open.map_err(errno)?);
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        let made = rustix::fs::fstat(&file).map_err(errno)?;
        if (made.st_uid, made.st_gid) != (self.stat.st_uid, self.stat.st_gid) {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(errno)?;
        }
        let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
        rustix::fs::fchmod(&file, mode).map_err(errno)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        let (now, held) = read(&self.dir, self.name.as_os_str(), &self.file)?;
        if held != self.bytes || now.st_ino != self.stat.st_ino {
            return Err(FileError::Moved(self.file.clone()));
        }
        rustix::fs::renameat(&self.dir, temporary, &self.dir, &self.name).map_err(errno)
    }
}
