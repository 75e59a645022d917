//! Copying in and out, done inside: the process that unpacks or packs stands in the sandbox's own
//! namespaces, and every path is resolved there.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::inside::{self, Inside};

/// Wipes, makes folders, unpacks: into `/` of the current mount namespace. Nothing of it is done
/// when a path does not hold.
pub(super) fn put(
    wipe: &[String],
    dirs: &[(String, u32, u32, u32)],
    tar: OwnedFd,
) -> anyhow::Result<()> {
    let paths = wipe.iter().chain(dirs.iter().map(|(path, ..)| path));
    for path in paths {
        let plain = path.split('/').all(|part| !matches!(part, "." | ".."));
        anyhow::ensure!(
            path.starts_with('/') && path.len() > 1 && plain,
            "`{path}` is no absolute path beneath `/`"
        );
    }
    let mut tar = File::from(tar);
    for entry in Archive::new(io::BufReader::new(&tar)).entries().context("reading the tar")? {
        name_of(&entry.context("reading the tar")?)?;
    }
    tar.rewind()?;
    let root = Inside::new("/")?;
    for path in wipe {
        root.remove(path).with_context(|| format!("removing {path}"))?;
    }
    for (path, uid, gid, mode) in dirs {
        root.ensure_dir(path, *mode, Some((*uid, *gid)))
            .with_context(|| format!("making {path}"))?;
    }
    Unpacking { root: &root, layer: None }.all(tar)
}

/// The name of an entry, relative to `/` and without `..`; empty for the root itself.
fn name_of<R: Read>(entry: &Entry<'_, R>) -> anyhow::Result<String> {
    let path = entry.path().context("reading a name in the tar")?;
    let name = path.to_str().context("a name in the tar is not UTF-8")?;
    anyhow::ensure!(
        !name.starts_with('/') && name.split('/').all(|part| part != ".."),
        "the name `{name}` in the tar leads out"
    );
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// Unpacks one layer of an image over what the layers below left in `folder`.
pub(super) fn unpack_layer(folder: &Path, tar: OwnedFd) -> anyhow::Result<()> {
    let folder = folder.to_str().context("the state folder's path is not UTF-8")?;
    let root = Inside::new(folder)?;
    Unpacking { root: &root, layer: Some(HashSet::new()) }.all(File::from(tar))
}

struct Unpacking<'a> {
    root: &'a Inside,
    /// Of an image's layer: what it brought. Whiteouts are obeyed, and devices left out.
    layer: Option<HashSet<PathBuf>>,
}

impl Unpacking<'_> {
    fn all(mut self, tar: File) -> anyhow::Result<()> {
        let mut archive = Archive::new(io::BufReader::with_capacity(1 << 16, tar));
        for entry in archive.entries().context("reading the tar")? {
            let mut entry = entry.context("reading the tar")?;
            let name = name_of(&entry)?;
            self.one(&mut entry, &name).with_context(|| format!("unpacking {name}"))?;
        }
        Ok(())
    }

    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>, text: &str) -> anyhow::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let owner = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
        let mode = header.mode()?;
        let modified = header.mtime().unwrap_or(0);
        if self.layer.is_some() && self.whiteout(text)? {
            return Ok(());
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Some(layer) = &mut self.layer {
            layer.insert(PathBuf::from(text));
        }
        if let Some((above, _)) = text.rsplit_once('/') {
            self.root.ensure_dir(above, 0o755, Some((0, 0)))?;
        }
        let Some((parent, name)) = self.root.parent(text)? else { return Ok(()) };
        if kind != EntryType::Directory {
            inside::remove_tree(std::os::fd::AsFd::as_fd(&parent), name)?;
        }
        match kind {
            EntryType::Directory => make_dir(&parent, name)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                write_file(&parent, name, entry)?;
            }
            EntryType::Symlink => {
                let to = entry.link_name()?.context("a symlink without a target")?;
                rustix::fs::symlinkat(&*to, &parent, name)?;
                return Ok(inside::set_owner(&parent, name, Some(owner))?);
            }
            EntryType::Link => {
                let to = entry.link_name()?.context("a link without a target")?;
                let to = to.to_str().context("its target is not UTF-8")?;
                let (from, base) = self.root.parent(to)?.context("a link to `/`")?;
                return Ok(rustix::fs::linkat(&from, base, &parent, name, AtFlags::empty())?);
            }
            EntryType::Fifo => {
                rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::RWXU, 0)?;
            }
            // The sandbox has its own few.
            EntryType::Block | EntryType::Char if self.layer.is_some() => return Ok(()),
            EntryType::Block | EntryType::Char => anyhow::bail!("it is a device"),
            other => anyhow::bail!("it is of a kind that is not known: {other:?}"),
        }
        // In this order: a change of owner clears the setuid bit.
        inside::set_owner(&parent, name, Some(owner))?;
        inside::chmod(&parent, name, mode)?;
        let time = rustix::fs::Timespec { tv_sec: i64::try_from(modified)?, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// `.wh.NAME` takes NAME of the layers below away, `.wh..wh..opq` all that they had in a folder.
    fn whiteout(&self, text: &str) -> anyhow::Result<bool> {
        let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
        let Some(hidden) = name.strip_prefix(".wh.") else { return Ok(false) };
        let brought = |path: &str| {
            self.layer.as_ref().is_some_and(|layer| layer.iter().any(|kept| kept.starts_with(path)))
        };
        if hidden != ".wh..opq" {
            let path = format!("{folder}/{hidden}");
            if !brought(path.trim_start_matches('/')) {
                self.root.remove(&path)?;
            }
            return Ok(true);
        }
        let Ok(opened) = self.root.open(folder, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Ok(true);
        };
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name().to_str().context("a name is not UTF-8")?;
            let path = format!("{folder}/{name}");
            if !matches!(name, "." | "..") && !brought(path.trim_start_matches('/')) {
                self.root.remove(&path)?;
            }
        }
        Ok(true)
    }
}

/// A folder that is there stays, with what is in it; anything else makes room.
fn make_dir(parent: &OwnedFd, name: &str) -> anyhow::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        result => return Ok(result?),
    }
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        inside::remove_tree(std::os::fd::AsFd::as_fd(parent), name)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    }
    Ok(())
}

fn write_file(parent: &OwnedFd, name: &str, content: &mut impl Read) -> anyhow::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    io::copy(content, &mut File::from(file))?;
    Ok(())
}

/// Writes a tar of `path`, at most `limit` bytes. Names begin with its last part; a symlink is
/// itself, not what it points to.
pub(super) fn get(path: &str, limit: u64, out: OwnedFd) -> anyhow::Result<()> {
    let root = Inside::new("/")?;
    let packed = match root.parent(path)? {
        Some((parent, name)) => pack(&parent, name, Path::new(name), limit, File::from(out)),
        None => {
            let all = root.open("/", OFlags::RDONLY | OFlags::DIRECTORY)?;
            pack(&all, ".", Path::new("."), limit, File::from(out))
        }
    };
    packed.with_context(|| format!("reading {path}"))
}

/// Writes a tar of the child `name` of `parent`, called `called` in it.
pub(super) fn pack(
    parent: &OwnedFd,
    name: &str,
    called: &Path,
    limit: u64,
    out: File,
) -> anyhow::Result<()> {
    let mut builder = Builder::new(Bounded { out: io::BufWriter::new(out), left: limit });
    add(&mut builder, parent, name.as_ref(), called, 0)?;
    builder.into_inner()?.out.flush()?;
    Ok(())
}

/// How deep a tree may be that is packed.
const DEPTH: u32 = 512;

fn add(
    builder: &mut Builder<Bounded>,
    parent: &OwnedFd,
    name: &Path,
    called: &Path,
    depth: u32,
) -> anyhow::Result<()> {
    anyhow::ensure!(depth < DEPTH, "{} lies more than {DEPTH} folders deep", called.display());
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut header = header(&stat);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, called, io::empty())?;
            let folder = rustix::fs::openat(
                parent,
                name,
                flags | OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            )?;
            let mut names = Vec::new();
            for entry in Dir::read_from(&folder)? {
                use std::os::unix::ffi::OsStrExt;
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
                }
            }
            names.sort();
            for name in names {
                add(builder, &folder, &name, &called.join(&name), depth + 1)?;
            }
        }
        FileType::RegularFile => {
            // Opened without waiting: it may have become a fifo since.
            let file = rustix::fs::openat(
                parent,
                name,
                flags | OFlags::RDONLY | OFlags::NONBLOCK,
                Mode::empty(),
            )?;
            let now = rustix::fs::fstat(&file)?;
            anyhow::ensure!(
                FileType::from_raw_mode(now.st_mode) == FileType::RegularFile,
                "{} changed while it was read",
                called.display()
            );
            let size = u64::try_from(now.st_size)?;
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            // Exactly what the header says, also of a file that grows or shrinks meanwhile.
            let content = File::from(file).chain(io::repeat(0)).take(size);
            builder.append_data(&mut header, called, content)?;
        }
        FileType::Symlink => {
            let to = rustix::fs::readlinkat(parent, name, Vec::new())?;
            header.set_entry_type(EntryType::Symlink);
            let to = to.to_str().context("a symlink's target is not UTF-8")?;
            builder.append_link(&mut header, called, to)?;
        }
        FileType::Fifo => {
            header.set_entry_type(EntryType::Fifo);
            builder.append_data(&mut header, called, io::empty())?;
        }
        // Sockets and devices mean nothing elsewhere.
        _ => {}
    }
    Ok(())
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// A writer that refuses to go on after so many bytes.
struct Bounded {
    out: io::BufWriter<File>,
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.left {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than the limit"));
        }
        self.left -= length;
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
