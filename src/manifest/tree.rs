//! The file system, and the only effects of this layer: sorted listings and bounded reads.
//!
//! A tree may hold anything, made on purpose or by chance. Nothing here blocks (a FIFO is never
//! waited for), nothing is read without a bound, and where links are not to be trusted none is
//! followed: every entry is opened by its plain name relative to the folder that holds it.
#![expect(
    clippy::disallowed_methods,
    reason = "this module is where the manifest layer reads files"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// Largest manifest file.
pub(super) const MAX_MANIFEST: u64 = 1 << 20;

/// Most entries of one folder.
const MAX_ENTRIES: usize = 100_000;

/// Whether symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// The folder is the operator's own.
    Follow,
    /// The folder is a project's: a link in it could point at any file of the operator's.
    Refuse,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Symlink,
    /// With its device number.
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Other,
}

impl Kind {
    fn of(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::Directory => Self::Folder,
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => Self::Other,
        }
    }

    /// For people: `a FIFO`.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Folder => "a folder",
            Self::File => "a file",
            Self::Symlink => "a symbolic link",
            Self::CharDevice | Self::BlockDevice => "a device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Other => "something unknown",
        }
    }
}

/// What `stat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) special: u64,
    pub(super) modified: (i64, u64),
    pub(super) changed: (i64, u64),
}

impl Stat {
    // The widths of these fields differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::useless_conversion)]
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: Kind::of(stat.st_mode.into()),
            mode: u32::from(stat.st_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            special: stat.st_rdev as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("it is {}, not a regular file", .0.describe())]
    Kind(Kind),
    #[error("it is a symbolic link to nothing")]
    Dangling,
    #[error("it has {size} bytes, and {limit} are the most that is read")]
    TooLarge { size: u64, limit: u64 },
    #[error("{0}")]
    Refused(String),
    #[error("{}", describe(.0))]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for ReadError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl ReadError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// An I/O error without the operating system's number.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            "its symbolic links lead round in a circle, or may not be followed here".to_owned()
        }
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    links: Links,
}

impl Dir {
    /// Opens a folder by its path. With [`Links::Refuse`] neither its last component nor anything
    /// in it may be a link.
    pub(super) fn open(path: &Path, links: Links) -> io::Result<Self> {
        let fd = rustix::fs::open(path, dir_flags(links), Mode::empty())?;
        Ok(Self { fd, links })
    }

    /// Opens a folder in this one.
    pub(super) fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        let fd = rustix::fs::openat(self.fd.as_fd(), name, dir_flags(self.links), Mode::empty())?;
        Ok(Self { fd, links: self.links })
    }

    /// The same folder, under other rules.
    pub(super) fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// What the open folder itself is.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::fstat(&self.fd)?))
    }

    /// The names in the folder, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == MAX_ENTRIES {
                let message = format!("it holds more than {MAX_ENTRIES} entries");
                return Err(io::Error::other(message));
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// What an entry is; a link is a link.
    pub(super) fn stat_entry(&self, name: &OsStr) -> io::Result<Stat> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stat::from(&stat))
    }

    /// Where a link points.
    pub(super) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Opens a regular file, whatever else stands under the name.
    pub(super) fn open_file(&self, name: &OsStr) -> Result<(File, Stat), ReadError> {
        let follow = self.links == Links::Follow;
        let at = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        // Opening a device can do something already, so look first; the file is looked at again
        // once it is open.
        let before = rustix::fs::statat(&self.fd, name, at).map_err(|errno| {
            let link = self.stat_entry(name).is_ok_and(|stat| stat.kind == Kind::Symlink);
            let nothing = errno == rustix::io::Errno::NOENT;
            if link && nothing { ReadError::Dangling } else { errno.into() }
        })?;
        let before = Stat::from(&before);
        if before.kind != Kind::File {
            return Err(ReadError::Kind(before.kind));
        }
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | nofollow;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = Stat::from(&rustix::fs::fstat(&fd)?);
        if stat.kind != Kind::File {
            return Err(ReadError::Kind(stat.kind));
        }
        Ok((File::from(fd), stat))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub(super) fn read(&self, name: &OsStr, limit: u64) -> Result<(Vec<u8>, Stat), ReadError> {
        let (file, stat) = self.open_file(name)?;
        if stat.size > limit {
            return Err(ReadError::TooLarge { size: stat.size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(stat.size).unwrap_or(0));
        file.take(limit + 1).read_to_end(&mut bytes)?;
        let size = bytes.len() as u64;
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        Ok((bytes, stat))
    }
}

fn dir_flags(links: Links) -> OFlags {
    let nofollow = match links {
        Links::Follow => OFlags::empty(),
        Links::Refuse => OFlags::NOFOLLOW,
    };
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | nofollow
}

/// A path with all its links resolved.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// What a path is, links followed.
pub(super) fn stat(path: &Path) -> io::Result<Stat> {
    Ok(Stat::from(&rustix::fs::stat(path)?))
}

/// What a path is; a link is a link.
pub(super) fn stat_link(path: &Path) -> io::Result<Stat> {
    Ok(Stat::from(&rustix::fs::lstat(path)?))
}

/// A unix socket in a folder, relative to it: the first that is found among so many entries, near
/// ones first.
pub(super) fn socket_in(folder: &Path) -> Option<PathBuf> {
    /// A look, and no search: a workspace may hold a million files.
    const ENTRIES: usize = 1000;
    let top = Dir::open(folder, Links::Refuse).ok()?;
    let mut folders = std::collections::VecDeque::from([(top, PathBuf::new())]);
    let mut seen = 0;
    while let Some((dir, path)) = folders.pop_front() {
        for entry in rustix::fs::Dir::read_from(&dir.fd).ok()? {
            let Ok(entry) = entry else { break };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            seen += 1;
            if seen > ENTRIES {
                return None;
            }
            match entry.file_type() {
                FileType::Socket => return Some(path.join(name)),
                // What is open waits for its turn.
                FileType::Directory if folders.len() < 64 => {
                    if let Ok(inner) = dir.open_dir(name) {
                        folders.push_back((inner, path.join(name)));
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Reads a small file of our own.
pub(super) fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Replaces a file of our own in one step, and makes its folder where needed.
pub(super) fn write_own(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut name = path.file_name().unwrap_or_default().as_bytes().to_vec();
    name.extend(format!(".{}", std::process::id()).bytes());
    let temporary = folder.join(OsStr::from_bytes(&name));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
