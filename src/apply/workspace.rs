//! A copy of the workspace, as a tar that is made while it goes in: memory does not grow with it. Read
//! through folder handles that never follow a symlink, so that what is swapped during the copy is
//! refused and not followed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::upload::Owner;
use crate::backend::{TarStream, pax};
use crate::model::text::harmless_line;

/// How much goes on its way at once, and how many such pieces may wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

/// How much memory the names of files with several names may take. Of more, the further names become
/// files of their own.
const NAMES: usize = 24 << 20;

/// How deep a workspace may be.
const DEPTH: u32 = 256;

/// A file with larger holes would be read as zeros for ever.
const HOLES: u64 = 64 << 30;

/// What is left out of a copy is named up to this number; the rest is counted.
const NAMED: usize = 3;

/// What a copy leaves out, because it means nothing elsewhere or cannot be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LeftOut {
    named: Vec<String>,
    count: usize,
}

impl LeftOut {
    fn add(&mut self, path: &Path, why: &str) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{} ({why})", harmless_line(&path.to_string_lossy())));
        }
    }

    /// In words, if there is anything.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        self.listed().map(|listed| format!("left out of the workspace's copy: {listed}"))
    }

    /// The names and their reasons, if there are any.
    #[must_use]
    pub fn listed(&self) -> Option<String> {
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = self.named.join(", ");
        (self.count > 0).then(|| format!("{named}{more}"))
    }
}

/// Walks a workspace and says what a copy of it would leave out. Reads no content.
///
/// # Errors
/// When the folder itself cannot be read.
pub fn survey(source: &Path) -> anyhow::Result<LeftOut> {
    let root = unlinked(source).with_context(|| format!("reading {}", source.display()))?;
    let mut left_out = LeftOut::default();
    look(&root, Path::new(""), 0, &mut left_out)?;
    Ok(left_out)
}

fn look(folder: &OwnedFd, at: &Path, depth: u32, left_out: &mut LeftOut) -> anyhow::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue,
            },
            kind => kind,
        };
        match kind {
            FileType::Directory if depth >= DEPTH => left_out.add(&path, "too deep"),
            FileType::Directory => match open(folder, name, OFlags::DIRECTORY) {
                Ok(child) => look(&child, &path, depth + 1, left_out)?,
                Err(Errno::NOENT) => {}
                Err(error) => left_out.add(&path, &reason(error)),
            },
            FileType::RegularFile => {
                let access = rustix::fs::accessat(
                    folder,
                    name,
                    rustix::fs::Access::READ_OK,
                    AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW,
                );
                match access {
                    Ok(()) => {
                        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
                        if found.is_ok_and(|stat| has_large_holes(&stat)) {
                            left_out.add(&path, LARGE_HOLES);
                        }
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => left_out.add(&path, &reason(error)),
                }
            }
            FileType::Symlink => {}
            other => left_out.add(&path, kind_of(other)),
        }
    }
    Ok(())
}

const LARGE_HOLES: &str = "it has holes of more than 64 GiB: make it smaller";

fn has_large_holes(stat: &Stat) -> bool {
    let [size, stored] = [stat.st_size, stat.st_blocks.saturating_mul(512)];
    u64::try_from(size.saturating_sub(stored)).is_ok_and(|holes| holes > HOLES)
}

fn open(folder: &OwnedFd, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn reason(error: Errno) -> String {
    match error {
        Errno::ACCESS | Errno::PERM => "cannot be read".to_owned(),
        error => io::Error::from(error).to_string(),
    }
}

fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "a socket",
        FileType::Fifo => "a FIFO",
        _ => "a device",
    }
}

/// A copy on its way. Dropped, it ends.
#[derive(Debug)]
pub struct Copying {
    /// What is to be unpacked.
    pub tar: TarStream,
    /// What became of it, once the stream has ended.
    pub ended: JoinHandle<anyhow::Result<LeftOut>>,
}

/// Walks `source`, a folder or a file, on a thread of its own and makes a tar of it, in which it is
/// called `target`. Owners: those named, else as they are. `source` is a path without links.
#[must_use]
pub fn copy(source: &Path, target: &str, owner: Option<Owner>) -> Copying {
    let source = source.to_owned();
    let what = format!("copying {}", source.display());
    making(what, target, move |send, target| walk(send, &source, target, owner))
}

/// Makes a tar of another one, whose names come to lie in the folder `target`.
#[must_use]
pub fn forward(
    from: impl io::Read + Send + 'static,
    target: &str,
    owner: Option<Owner>,
) -> Copying {
    making("copying an archive in".to_owned(), target, move |send, target| {
        forwarded(send, from, target, owner).map(|()| LeftOut::default())
    })
}

fn making(
    what: String,
    target: &str,
    make: impl FnOnce(mpsc::Sender<io::Result<Bytes>>, &Path) -> anyhow::Result<LeftOut>
    + Send
    + 'static,
) -> Copying {
    let (send, tar) = mpsc::channel(WAITING);
    let target = PathBuf::from(target.trim_start_matches('/'));
    let ended = tokio::task::spawn_blocking(move || {
        let broken = send.clone();
        let walked = make(send, &target).context(what);
        if walked.is_err() {
            // Whoever unpacks must not take half of it for the whole.
            let _ = broken.blocking_send(Err(io::Error::other("the copy was broken off")));
        }
        walked
    });
    Copying { tar, ended }
}

fn walk(
    send: mpsc::Sender<io::Result<Bytes>>,
    source: &Path,
    target: &Path,
    owner: Option<Owner>,
) -> anyhow::Result<LeftOut> {
    let root = unlinked(source)?;
    let mut stat = rustix::fs::fstat(&root)?;
    let builder = Builder::new(Pieces { send, piece: BytesMut::with_capacity(PIECE) });
    let mut walk =
        Walk { builder, owner, linked: HashMap::new(), room: NAMES, left_out: LeftOut::default() };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        stat.st_mode = 0o755;
        walk.folder(&root, target, Path::new(""), &stat, 0)?;
    } else {
        anyhow::ensure!(!has_large_holes(&stat), LARGE_HOLES);
        walk.file(root, target, Path::new(""))?;
    }
    let mut pieces = walk.builder.into_inner()?;
    pieces.flush()?;
    Ok(walk.left_out)
}

fn forwarded(
    send: mpsc::Sender<io::Result<Bytes>>,
    from: impl io::Read,
    target: &Path,
    owner: Option<Owner>,
) -> anyhow::Result<()> {
    let mut builder = Builder::new(Pieces { send, piece: BytesMut::with_capacity(PIECE) });
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 16, from));
    for entry in archive.entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let path = entry.path().context("reading the archive")?.into_owned();
        let plain = |path: &Path| {
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            anyhow::ensure!(
                path.components().all(inside),
                "the name `{}` in the archive leads out of it",
                harmless_line(&path.to_string_lossy())
            );
            Ok(target.join(path))
        };
        let name = plain(&path)?;
        let mut header = entry.header().clone();
        let kind = header.entry_type();
        if let Some(owner) = owner {
            header.set_uid(owner.uid.into());
            header.set_gid(owner.gid.into());
        }
        header.set_mode(header.mode()? & 0o777);
        match kind {
            EntryType::XGlobalHeader => {}
            EntryType::Symlink | EntryType::Link => {
                let to = entry.link_name()?.context("a link without a target")?.into_owned();
                let to = if kind == EntryType::Link { plain(&to)? } else { to };
                builder.append_link(&mut header, name, to)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let stored = header.entry_size().unwrap_or(0);
                anyhow::ensure!(
                    kind != EntryType::GNUSparse || entry.size().saturating_sub(stored) <= HOLES,
                    "`{}` in the archive: {LARGE_HOLES}",
                    harmless_line(&path.to_string_lossy())
                );
                header.set_entry_type(EntryType::Regular);
                header.set_size(entry.size());
                builder.append_data(&mut header, name, &mut entry)?;
            }
            EntryType::Directory => builder.append_data(&mut header, name, io::empty())?,
            other => anyhow::bail!(
                "`{}` in the archive is neither file, folder nor link: {other:?}",
                harmless_line(&path.to_string_lossy())
            ),
        }
    }
    builder.into_inner()?.flush()?;
    // Whoever writes it is not to find a broken pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// Opens by the path that was judged: a link that is on the way now was put there since.
fn unlinked(source: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(openat(CWD, source, flags | OFlags::NOFOLLOW, Mode::empty())?)
        }
        Err(Errno::LOOP) => anyhow::bail!("a link leads elsewhere now: put the folder back"),
        result => Ok(result?),
    }
}

struct Walk {
    builder: Builder<Pieces>,
    /// Of everything; none: its own.
    owner: Option<Owner>,
    /// Files with several names: the first name that was met.
    linked: HashMap<(u64, u64), PathBuf>,
    room: usize,
    left_out: LeftOut,
}

impl Walk {
    fn header(&mut self, kind: EntryType, stat: &Stat, size: u64) -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Bits that raise rights do not go along.
        header.set_mode(stat.st_mode & 0o777);
        header.set_uid(self.owner.map_or(stat.st_uid, |owner| owner.uid).into());
        header.set_gid(self.owner.map_or(stat.st_gid, |owner| owner.gid).into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(size);
        // `make` compares fractions of seconds, which the header has no room for.
        let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec);
        if nanoseconds != 0 && seconds >= 0 {
            let fraction = format!("{seconds}.{nanoseconds:09}");
            let (extension, content) = pax::extension(&[("mtime", fraction.as_bytes())])?;
            self.builder.append(&extension, &*content)?;
        }
        Ok(header)
    }

    fn folder(
        &mut self,
        folder: &OwnedFd,
        target: &Path,
        at: &Path,
        stat: &Stat,
        depth: u32,
    ) -> anyhow::Result<()> {
        let name = target.join(at);
        let name = Path::new(&name).join("");
        let mut header = self.header(EntryType::Directory, stat, 0)?;
        self.builder.append_data(&mut header, &name, io::empty())?;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.child(folder, entry.file_name(), target, at, depth)?;
            }
        }
        // Once more, for its time: what was put into it has changed that.
        let mut header = self.header(EntryType::Directory, stat, 0)?;
        self.builder.append_data(&mut header, &name, io::empty())?;
        Ok(())
    }

    fn child(
        &mut self,
        folder: &OwnedFd,
        name: &std::ffi::CStr,
        target: &Path,
        at: &Path,
        depth: u32,
    ) -> anyhow::Result<()> {
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let failed = || harmless_line(&path.to_string_lossy());
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went while the folder was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).with_context(failed),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth >= DEPTH => self.left_out.add(&path, "too deep"),
            FileType::Directory => match open(folder, name, OFlags::DIRECTORY) {
                Ok(child) => self.folder(&child, target, &path, &stat, depth + 1)?,
                Err(Errno::NOENT) => {}
                Err(error) => self.left_out.add(&path, &reason(error)),
            },
            FileType::RegularFile if has_large_holes(&stat) => {
                self.left_out.add(&path, LARGE_HOLES);
            }
            FileType::RegularFile => {
                let key = (stat.st_dev, stat.st_ino);
                if let Some(first) = self.linked.get(&key) {
                    let first = target.join(first);
                    let mut header = self.header(EntryType::Link, &stat, 0)?;
                    self.builder.append_link(&mut header, target.join(&path), first)?;
                    return Ok(());
                }
                match open(folder, name, OFlags::empty()) {
                    Ok(file) => self.file(file, target, &path).with_context(failed)?,
                    Err(Errno::NOENT) => return Ok(()),
                    Err(error) => {
                        self.left_out.add(&path, &reason(error));
                        return Ok(());
                    }
                }
                let size = path.as_os_str().len() + 64;
                if stat.st_nlink > 1 && size <= self.room {
                    self.room -= size;
                    self.linked.insert(key, path);
                }
            }
            FileType::Symlink => {
                let to = match readlinkat(folder, name, Vec::new()) {
                    Ok(to) => to,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(error) => return Err(error).with_context(failed),
                };
                let mut header = self.header(EntryType::Symlink, &stat, 0)?;
                let to = std::ffi::OsStr::from_bytes(to.to_bytes());
                self.builder.append_link(&mut header, target.join(&path), to)?;
            }
            other => self.left_out.add(&path, kind_of(other)),
        }
        Ok(())
    }

    fn file(&mut self, file: OwnedFd, target: &Path, path: &Path) -> anyhow::Result<()> {
        let stat = rustix::fs::fstat(&file)?;
        anyhow::ensure!(
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            "it was swapped for something else during the copy"
        );
        let size = u64::try_from(stat.st_size)?;
        let mut header = self.header(EntryType::Regular, &stat, size)?;
        // Exactly as much as the header says, also of a file that grows or shrinks meanwhile.
        let content = File::from(file).chain(io::repeat(0)).take(size);
        self.builder.append_data(&mut header, target.join(path), content)?;
        Ok(())
    }
}

/// Sends what is written to it, piece by piece.
struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the copy was stopped");
        self.send.blocking_send(Ok(piece)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "makes workspaces")]

    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    async fn unpacked(source: &Path) -> (tempfile::TempDir, LeftOut, u64) {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = Owner { uid: uid.as_raw(), gid: gid.as_raw() };
        let mut copying = copy(source, "/w", Some(owner));
        let mut tar = Vec::new();
        while let Some(piece) = copying.tar.recv().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= 2 * PIECE);
            tar.extend_from_slice(&piece);
        }
        let left_out = copying.ended.await.unwrap().unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut last_time = 0;
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            if entry.path().unwrap().ends_with("w/d") {
                last_time = entry.header().mtime().unwrap();
            }
        }
        let mut archive = tar::Archive::new(tar.as_slice());
        archive.set_preserve_mtime(true);
        archive.unpack(out.path()).unwrap();
        (out, left_out, last_time)
    }

    #[tokio::test]
    async fn a_copy_keeps_times_links_and_names() {
        let source = tempfile::tempdir().unwrap();
        let at = |name: &str| source.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/in"), "v2").unwrap();
        fs::hard_link(at("d/in"), at("in2")).unwrap();
        symlink("d/in", at("link")).unwrap();
        let odd = source.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        fs::write(&odd, "x").unwrap();
        fs::write(at("big"), vec![7; 3 * PIECE + 5]).unwrap();
        rustix::net::bind(
            rustix::net::socket(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                None,
            )
            .unwrap(),
            &rustix::net::SocketAddrUnix::new(at("sock")).unwrap(),
        )
        .unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for name in ["d/in", "d/e", "d"] {
            File::open(at(name)).unwrap().set_modified(then).unwrap();
        }
        let (out, left_out, last_time) = unpacked(source.path()).await;
        let w = out.path().join("w");
        assert_eq!(fs::metadata(w.join("d/in")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(last_time, 1_000_000_000, "a folder's last entry has its time");
        let [one, two] = ["d/in", "in2"].map(|name| fs::metadata(w.join(name)).unwrap());
        assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
        assert_eq!(fs::read_link(w.join("link")).unwrap(), Path::new("d/in"));
        assert!(w.join(odd.file_name().unwrap()).exists());
        assert_eq!(fs::metadata(w.join("big")).unwrap().len(), 3 * PIECE as u64 + 5);
        let words = left_out.words().unwrap();
        assert_eq!(words, "left out of the workspace's copy: sock (a socket)");
        assert_eq!(survey(source.path()).unwrap(), left_out);
    }

    #[tokio::test]
    async fn large_holes_are_left_out() {
        let source = tempfile::tempdir().unwrap();
        File::create(source.path().join("disk")).unwrap().set_len(1 << 40).unwrap();
        fs::write(source.path().join("file"), "x").unwrap();
        let (out, left_out, _) = unpacked(source.path()).await;
        assert!(out.path().join("w/file").exists() && !out.path().join("w/disk").exists());
        assert!(left_out.words().unwrap().contains("disk (it has holes"), "{left_out:?}");
        assert_eq!(survey(source.path()).unwrap(), left_out);
        let error = copy(&source.path().join("disk"), "/w", None).ended.await.unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("holes"), "{error:#}");
    }

    #[tokio::test]
    async fn a_link_that_came_since_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("real/w")).unwrap();
        fs::write(top.join("real/w/file"), "x").unwrap();
        symlink("real", top.join("link")).unwrap();
        let first = |path: &str| copy(&top.join(path), "/workspace", Some(Owner::ROOT));
        assert!(first("real/w").tar.recv().await.unwrap().is_ok());
        let error = first("link/w").ended.await.unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("a link leads elsewhere now"), "{error:#}");
        assert!(survey(&top.join("link/w")).is_err());
    }

    #[tokio::test]
    async fn a_copy_that_breaks_says_so_in_the_stream() {
        let mut copying = copy(Path::new("/does/not/exist"), "/w", Some(Owner::ROOT));
        assert!(copying.tar.recv().await.unwrap().is_err());
        assert!(copying.ended.await.unwrap().is_err());
        assert_eq!(LeftOut::default().words(), None);
    }
}
