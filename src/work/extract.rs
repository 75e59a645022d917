//! Unpacks what a sandbox hands out. The archive is the guest's word: nothing of it lands outside the
//! folder that the operator named, no link leads out of it, and no file raises rights. What cannot be
//! taken over is left out and listed; the rest is there.
//!
//! Every folder is opened by its handle, one name at a time, and never through a link: neither one
//! that the archive brought, nor one that stood there before.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tar::{Archive, Entry, EntryType};

use super::names::Listed;
use super::plain::{Holes, Plain, Sparse};
use super::way;
use crate::model::Writable;

/// What is listed by name; the rest is counted.
const LISTED: usize = 1000;

/// How many folders deep an archive may be: each is a descriptor while it is worked on.
const DEPTH: usize = 256;

/// How many files are remembered, for hard links to them.
const REMEMBERED: usize = 1 << 21;

/// A piece of zeros of this size becomes a hole.
const BLOCK: usize = 4096;

/// So many zeros in a row nobody has written: they are a hole that whoever packed it has not said.
#[cfg(not(test))]
const HOLE: u64 = 64 << 30;
#[cfg(test)]
const HOLE: u64 = 16 << 20;

/// How often another temporary name is tried.
const TRIES: u32 = 100;

/// Where an archive goes, whose names all begin with one and the same part.
#[derive(Debug, Clone)]
pub struct Place {
    /// A folder that exists; no link leads to it.
    pub folder: std::path::PathBuf,
    /// What the first part of each name becomes; `None`: it is dropped, and a folder's content goes
    /// into `folder` itself.
    pub name: Option<OsString>,
    /// Whether owners are kept; without it all belongs to the caller.
    pub owners: bool,
}

/// What was left out, or taken over as something harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name in the archive, as the guest wrote it, or the end of a long one: not fit for a terminal.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What became of an archive.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Files, folders and links that are there.
    pub entries: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// What was refused or changed: the first thousand, up to a mebibyte of names.
    pub refused: Vec<Refused>,
    /// All of those, listed or not.
    pub refusals: u64,
    listed: Listed,
}

impl Extracted {
    fn refuse(&mut self, path: &[u8], why: impl Into<String>) {
        self.refusals += 1;
        if let Some(path) = self.listed.name(path, LISTED) {
            self.refused.push(Refused { path, why: why.into() });
        }
    }
}

/// Unpacks an archive. It reads to the archive's end.
///
/// # Errors
/// When the archive is damaged, or the disk fails or is full: what came before stays.
pub fn extract(tar: impl Read, place: &Place) -> anyhow::Result<Extracted> {
    let root = way::open(&place.folder, OFlags::PATH | OFlags::DIRECTORY)
        .with_context(|| format!("opening {}", place.folder.display()))?;
    let plain = Plain::new(io::BufReader::with_capacity(1 << 16, tar));
    let mut work = Unpacking {
        place,
        levels: vec![Level { name: OsString::new(), folder: root, made: false, dress: None }],
        made: HashSet::new(),
        temporary: 0,
        done: Extracted::default(),
        holes: plain.holes(),
    };
    let mut archive = Archive::new(plain);
    for entry in archive.entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let path = entry.path_bytes().into_owned();
        match work.one(&mut entry, &path) {
            Ok(()) => {}
            Err(Trouble::Entry(why)) => work.done.refuse(&path, why),
            Err(Trouble::All(error)) => {
                let shown = crate::model::text::harmless_line(&String::from_utf8_lossy(&path));
                return Err(error.context(format!("unpacking {shown}")));
            }
        }
    }
    while work.levels.len() > 1 {
        work.leave();
    }
    // Whoever writes it is not to find a broken pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink()).context("reading the archive")?;
    Ok(work.done)
}

/// What went wrong: with one entry, or for good.
enum Trouble {
    Entry(String),
    All(anyhow::Error),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::MFILE | Errno::NFILE => {
                Self::All(io::Error::from(error).into())
            }
            error => Self::Entry(io::Error::from(error).to_string()),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        // Of an archive that breaks off too.
        Self::All(error.into())
    }
}

/// Whether this is a folder that was made here just now: ours, closed, and with nothing in it.
fn is_new(folder: &OwnedFd) -> Result<bool, Errno> {
    let found = rustix::fs::fstat(folder)?;
    if found.st_uid != rustix::process::geteuid().as_raw() || found.st_mode & 0o077 != 0 {
        return Ok(false);
    }
    for entry in rustix::fs::Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refused<T>(why: &str) -> Result<T, Trouble> {
    Err(Trouble::Entry(why.to_owned()))
}

/// A folder that is being filled.
struct Level {
    name: OsString,
    folder: OwnedFd,
    /// One that was there keeps its owner, its mode and its time.
    made: bool,
    /// What it gets once it is full: a folder that cannot be written could not be filled.
    dress: Option<Dress>,
}

#[derive(Clone, Copy)]
struct Dress {
    mode: u32,
    time: Timespec,
    owner: (u32, u32),
}

struct Unpacking<'a> {
    place: &'a Place,
    /// The folder of the operator, and those on the way to the last entry.
    levels: Vec<Level>,
    /// The files that this archive brought, by inode: only they may get further names.
    made: HashSet<u64>,
    temporary: u64,
    done: Extracted,
    /// Of the entry at hand.
    holes: Holes,
}

impl Unpacking<'_> {
    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &[u8]) -> Result<(), Trouble> {
        let parts = self.parts(path)?;
        let header = entry.header();
        let kind = header.entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let bits = header.mode()?;
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let owner = (id(header.uid()?), id(header.gid()?));
        // Without its owner, a file that everybody may write is the operator's.
        let mask = if self.place.owners { 0o777 } else { 0o755 };
        let dress = Dress { mode: bits & mask, time: modified(entry)?, owner };
        let Some((name, above)) = parts.split_last() else {
            // The folder of the operator stays as it is.
            return if kind.is_dir() { Ok(()) } else { refused("it is no folder") };
        };
        if kind.is_dir() {
            self.enter(&parts)?;
            if let Some(level) = self.levels.last_mut().filter(|level| level.made) {
                level.dress = Some(dress);
            }
            self.done.entries += 1;
            return Ok(());
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.enter(above)?;
                self.file(entry, name, dress)?;
                if bits & 0o6000 != 0 {
                    self.done.refuse(path, "its set-id bits were taken off");
                }
            }
            EntryType::Symlink => {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                // From the folder that the operator named, or the one that was copied into it.
                stays(
                    &to,
                    above.len() - usize::from(self.place.name.is_some() && !above.is_empty()),
                )?;
                self.enter(above)?;
                let owner = self.place.owners.then_some(dress.owner);
                self.placed(name, |folder, new| {
                    rustix::fs::symlinkat(&*to, folder, new)?;
                    dressed(folder, new, owner, dress.time)
                })?;
            }
            EntryType::Link => {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                let to = self.parts(&to)?;
                self.enter(above)?;
                self.link(&to, name)?;
            }
            EntryType::Block | EntryType::Char => return refused("it is a device"),
            EntryType::Fifo => return refused("it is a FIFO"),
            other => return Err(Trouble::Entry(format!("it is of an unknown kind, {other:?}"))),
        }
        self.done.entries += 1;
        Ok(())
    }

    /// The parts of a name beneath the operator's folder.
    fn parts(&self, path: &[u8]) -> Result<Vec<OsString>, Trouble> {
        if path.starts_with(b"/") {
            return refused("its name is absolute");
        }
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return refused("its name leads out"),
                part => parts.push(OsStr::from_bytes(part).to_owned()),
            }
        }
        if parts.len() > DEPTH {
            return Err(Trouble::Entry(format!("it lies more than {DEPTH} folders deep")));
        }
        match (&self.place.name, parts.first_mut()) {
            (Some(name), Some(first)) => first.clone_from(name),
            (Some(name), None) => parts.push(name.clone()),
            (None, Some(_)) => drop(parts.remove(0)),
            (None, None) => {}
        }
        Ok(parts)
    }

    /// Goes to a folder, and makes what is missing of the way.
    fn enter(&mut self, parts: &[OsString]) -> Result<(), Trouble> {
        let common = self.levels[1..].iter().zip(parts).take_while(|(a, b)| a.name == **b).count();
        while self.levels.len() > common + 1 {
            self.leave();
        }
        for name in &parts[common..] {
            let above = &self.levels[self.levels.len() - 1].folder;
            let made = match rustix::fs::mkdirat(above, name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = match openat(above, name, flags, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let shown = name.to_string_lossy();
                    return Err(Trouble::Entry(format!("`{shown}` is there and is no folder")));
                }
                Err(error) => return Err(error.into()),
            };
            // In a folder that a guest can write as well, another one may stand there by now.
            if made && !is_new(&folder)? {
                let shown = name.to_string_lossy();
                return Err(Trouble::Entry(format!("`{shown}` was swapped for another folder")));
            }
            self.levels.push(Level { name: name.clone(), folder, made, dress: None });
        }
        Ok(())
    }

    /// Ends with the deepest folder.
    fn leave(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        let Some(dress) = level.dress else { return };
        let times = Timestamps { last_access: dress.time, last_modification: dress.time };
        let dressed = self
            .owned(&level.folder, dress.owner)
            .and_then(|()| rustix::fs::fchmod(&level.folder, Mode::from_raw_mode(dress.mode)))
            .and_then(|()| rustix::fs::futimens(&level.folder, &times));
        if let Err(error) = dressed {
            let why = format!("its mode or time was not kept: {}", io::Error::from(error));
            self.done.refuse(level.name.as_bytes(), why);
        }
    }

    fn owned(&self, opened: &impl AsFd, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        if !self.place.owners {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::fchown(opened, Some(uid), Some(gid))
    }

    fn here(&self) -> &OwnedFd {
        &self.levels[self.levels.len() - 1].folder
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        name: &OsStr,
        dress: Dress,
    ) -> Result<(), Trouble> {
        let (mut bytes, mut inode) = (0, 0);
        let holes = self.holes.take();
        let (file, mut new) = self.nameless()?;
        let mut file = File::from(file);
        let filled = (|| {
            bytes = match &holes {
                Some(sparse) => scatter(&mut file, entry, sparse)?,
                None => fill(&mut file, entry)?,
            };
            self.owned(&file, dress.owner)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(dress.mode))?;
            let times = Timestamps { last_access: dress.time, last_modification: dress.time };
            rustix::fs::futimens(&file, &times)?;
            inode = rustix::fs::fstat(&file)?.st_ino;
            let new = match &mut new {
                Some(new) => new,
                new @ None => {
                    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
                    new.insert(self.temporary(|folder, new| {
                        rustix::fs::linkat(CWD, &opened, folder, new, AtFlags::SYMLINK_FOLLOW)
                    })?)
                }
            };
            self.put_into_place(new, name)
        })();
        if filled.is_err() {
            if let Some(new) = &new {
                let _ = rustix::fs::unlinkat(self.here(), new, AtFlags::empty());
            }
        } else if self.made.len() < REMEMBERED {
            self.made.insert(inode);
        }
        self.done.bytes += bytes;
        filled
    }

    /// A new file in the folder at hand, without a name: nothing of it stays where this ends in the
    /// middle. Where a file system cannot do that, it has a temporary name.
    fn nameless(&mut self) -> Result<(OwnedFd, Option<String>), Trouble> {
        let (read, own) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        match openat(self.here(), ".", OFlags::TMPFILE | read, own) {
            Ok(file) => return Ok((file, None)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut file = None;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | read;
        let new = self.temporary(|folder, new| {
            file = Some(openat(folder, new, flags, own)?);
            Ok(())
        })?;
        let file = file.ok_or_else(|| Trouble::Entry("it cannot be made".to_owned()))?;
        Ok((file, Some(new)))
    }

    /// A further name of a file that this archive brought.
    fn link(&mut self, to: &[OsString], name: &OsStr) -> Result<(), Trouble> {
        const OUTSIDE: &str = "it is a hard link to what this archive did not bring";
        let Some((base, above)) = to.split_last() else { return refused(OUTSIDE) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = rustix::io::dup(&self.levels[0].folder)?;
        for part in above {
            folder = match openat(&folder, part, flags, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return refused(OUTSIDE),
                Err(error) => return Err(error.into()),
            };
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(&folder, base, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return refused(OUTSIDE),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&opened)?;
        let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !file || !self.made.contains(&stat.st_ino) {
            return refused(OUTSIDE);
        }
        // That very file, whatever stands under its name by now.
        let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
        self.placed(name, |here, new| {
            rustix::fs::linkat(CWD, &opened, here, new, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Makes something under a temporary name, and gives it its own.
    fn placed(
        &mut self,
        name: &OsStr,
        make: impl FnMut(&OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<(), Trouble> {
        let new = self.temporary(make)?;
        let placed = self.put_into_place(&new, name);
        // Also where both names were the same file already: then the second is still there.
        let _ = rustix::fs::unlinkat(self.here(), &new, AtFlags::empty());
        placed
    }

    /// Makes something new in the folder at hand, and says what it is called.
    fn temporary(
        &mut self,
        mut make: impl FnMut(&OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<String, Trouble> {
        for _ in 0..TRIES {
            self.temporary += 1;
            let new = format!(".bottle-{}-{}", std::process::id(), self.temporary);
            match make(self.here(), &new) {
                Err(Errno::EXIST) => {}
                made => return made.map(|()| new).map_err(Trouble::from),
            }
        }
        refused("files of its temporary names are there already")
    }

    /// Over what has that name, but never over a folder.
    fn put_into_place(&self, new: &str, name: &OsStr) -> Result<(), Trouble> {
        match rustix::fs::renameat(self.here(), new, self.here(), name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => refused("a folder is there"),
            result => Ok(result?),
        }
    }
}

/// Gives a symlink its owner and its time: that very link, whatever stands under its name by now.
fn dressed(
    folder: &OwnedFd,
    name: &str,
    owner: Option<(u32, u32)>,
    time: Timespec,
) -> Result<(), Errno> {
    let link =
        openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&link)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        return Err(Errno::AGAIN);
    }
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&link, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    let times = Timestamps { last_access: time, last_modification: time };
    match rustix::fs::utimensat(&link, "", &times, AtFlags::EMPTY_PATH) {
        // Before Linux 5.8 a link's time is set by its name alone.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Whether a symlink that lies `depth` folders deep leads to something within them. A `..` behind a
/// name is refused: the name may be a link itself, and then `..` starts somewhere else.
fn stays(to: &[u8], depth: usize) -> Result<(), Trouble> {
    if to.starts_with(b"/") {
        return refused("it is a link to an absolute path");
    }
    let (mut ups, mut named) = (0, false);
    for part in to.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named => return refused("it is a link with `..` behind a name"),
            b".." => ups += 1,
            _ => named = true,
        }
    }
    if ups > depth { refused("it is a link that leads out") } else { Ok(()) }
}

/// Writes the content, with holes where it is nothing but zeros.
fn fill<R: Read>(file: &mut File, content: &mut Entry<'_, R>) -> Result<u64, Trouble> {
    let (mut size, mut zeros, mut buffer) = (0u64, 0u64, vec![0; 256 << 10]);
    loop {
        let got = read(content, &mut buffer)?;
        if got == 0 {
            break;
        }
        for block in buffer[..got].chunks(BLOCK) {
            if block.iter().all(|byte| *byte == 0) {
                zeros += block.len() as u64;
                file.seek(SeekFrom::Current(i64::try_from(block.len()).unwrap_or(0)))?;
            } else {
                zeros = 0;
                file.write_all(block)?;
            }
        }
        size += got as u64;
        if zeros > HOLE {
            return Err(Trouble::All(anyhow::anyhow!(
                "it has a hole of more than {} MiB, which comes as zeros that take for ever: make it \
                 smaller in the sandbox, pack it there with `tar -S`, or copy the rest without it",
                HOLE >> 20
            )));
        }
    }
    if size != content.size() {
        return Err(Trouble::All(anyhow::anyhow!("the archive breaks off in it")));
    }
    file.set_len(size)?;
    Ok(size)
}

/// Writes the data of a file with holes to where it belongs.
fn scatter<R: Read>(
    file: &mut File,
    content: &mut Entry<'_, R>,
    sparse: &Sparse,
) -> Result<u64, Trouble> {
    match file.set_len(sparse.size) {
        // A guest says of it what it likes.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput
            ) =>
        {
            return refused("it is longer, with its holes, than a file can be here");
        }
        result => result?,
    }
    let mut buffer = vec![0; 256 << 10];
    for (offset, length) in &sparse.pieces {
        file.seek(SeekFrom::Start(*offset))?;
        let mut left = *length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = read(content, &mut buffer[..most])?;
            if got == 0 {
                return Err(Trouble::All(anyhow::anyhow!("the archive breaks off in it")));
            }
            file.write_all(&buffer[..got])?;
            left -= got as u64;
        }
    }
    Ok(sparse.size)
}

/// Fills a buffer as far as there is something.
fn read(content: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Trouble> {
    let mut got = 0;
    while got < buffer.len() {
        match content.read(&mut buffer[got..])? {
            0 => break,
            count => got += count,
        }
    }
    Ok(got)
}

/// When an entry was written last: finer than seconds where the archive says it.
fn modified<R: Read>(entry: &mut Entry<'_, R>) -> Result<Timespec, Trouble> {
    let seconds = entry.header().mtime().unwrap_or(0);
    let mut time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let Ok(extension) = extension else { return refused("its header cannot be read") };
        let Ok("mtime") = extension.key() else { continue };
        let Ok(text) = extension.value() else { continue };
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        if let (Ok(seconds), Ok(nanoseconds)) = (seconds.parse(), digits.parse()) {
            time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        }
    }
    Ok(time)
}

impl Place {
    /// As other tools that copy do: into a folder that is there, else under that name. `contents`: a
    /// folder's content, without the folder.
    ///
    /// No link on the way is followed that stands in one of the folders `writable`, which sandboxes can
    /// write.
    ///
    /// # Errors
    /// When neither `dest` nor the folder that it would lie in is there, or such a link leads there.
    pub fn at(
        dest: &Path,
        base: &OsStr,
        contents: bool,
        owners: bool,
        writable: &Writable,
    ) -> anyhow::Result<Self> {
        let slash = dest.as_os_str().as_bytes().ends_with(b"/");
        let dest = &*way::resolve(dest, writable)?;
        if dest.is_dir() {
            let name = (!contents).then(|| base.to_owned());
            return Ok(Self { folder: dest.to_owned(), name, owners });
        }
        let shown = dest.display();
        anyhow::ensure!(!slash, "there is no folder {shown}: make it first, or leave out the `/`");
        let name = dest.file_name().with_context(|| format!("{shown} is no name for a copy"))?;
        let folder = match dest.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        anyhow::ensure!(folder.is_dir(), "there is no folder {}: make it first", folder.display());
        Ok(Self { folder: folder.to_owned(), name: Some(name.to_owned()), owners })
    }
}

#[cfg(test)]
mod tests;
