//! Copying in and out, done inside: the process that unpacks or packs stands in the sandbox's own
//! namespaces, and every path is resolved there.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::fence::Fence;
use super::holes;
use super::inside::{self, Inside};
use crate::backend::{oci, pax};

/// Wipes, makes folders, unpacks: into `root`, which is `/` of the current mount namespace. Nothing of
/// it is done when a path does not hold. The folder `own` is given its owner also where it is there
/// already and its owner could not write to it.
pub(super) fn put(
    root: &Inside,
    wipe: &[String],
    dirs: &[(String, u32, u32, u32)],
    own: Option<&str>,
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
    let own = own.filter(|_| !root.is_as_guest());
    for path in wipe {
        root.remove(path).with_context(|| format!("removing {path}"))?;
    }
    for (path, uid, gid, mode) in dirs {
        let making = || match in_the_way(root, path) {
            Some(what) => format!("making {path}: {what}: remove it inside"),
            None => format!("making {path}"),
        };
        let folder = root.ensure_dir(path, *mode, Some((*uid, *gid))).with_context(making)?;
        if own == Some(path.as_str()) && !may_write(&folder, *uid, *gid)? {
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            let flags = AtFlags::EMPTY_PATH;
            rustix::fs::chownat(&folder, "", Some(uid), Some(gid), flags).with_context(making)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty());
            let mode = Mode::from_raw_mode(*mode & 0o7777);
            rustix::fs::fchmod(folder.with_context(making)?, mode).with_context(making)?;
        }
    }
    Unpacking { root, layer: None, left: None, folders: Vec::new(), room: FOLDERS }.all(tar)
}

/// What stands in the place of a folder, or of one above it, and is none: the guest's own, as a rule.
fn in_the_way(root: &Inside, path: &str) -> Option<String> {
    let ends = path.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0);
    for part in ends.chain([path.len()]).map(|end| &path[..end]) {
        let (parent, name) = root.parent(part).ok()??;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => {
                if root.open(part, OFlags::DIRECTORY | OFlags::PATH).is_err() {
                    let to = rustix::fs::readlinkat(&parent, name, Vec::new()).ok()?;
                    return Some(format!(
                        "{part} is a link to {}, which leads to no folder",
                        to.to_string_lossy()
                    ));
                }
            }
            _ => return Some(format!("{part} is no folder")),
        }
    }
    None
}

/// Whether the mode of a folder lets this user write to it.
fn may_write(folder: &OwnedFd, uid: u32, gid: u32) -> anyhow::Result<bool> {
    let stat = rustix::fs::fstat(folder)?;
    let bit = match (stat.st_uid == uid, stat.st_gid == gid) {
        (true, _) => 0o200,
        (false, true) => 0o020,
        _ => 0o002,
    };
    Ok(uid == 0 || stat.st_mode & bit != 0)
}

/// Unpacks a tar as it comes, over what is there, and reads it to its end.
pub(super) fn put_stream(root: &Inside, tar: OwnedFd) -> anyhow::Result<()> {
    let mut tar = File::from(tar);
    Unpacking { root, layer: None, left: None, folders: Vec::new(), room: FOLDERS }.all(&tar)?;
    // Whoever writes it is not to find a broken pipe.
    io::copy(&mut tar, &mut io::sink())?;
    Ok(())
}

/// The name of an entry, relative to `/` and without `..`; empty for the root itself.
fn name_of<R: Read>(entry: &Entry<'_, R>) -> anyhow::Result<OsString> {
    let path = entry.path().context("reading a name in the tar")?;
    let name = path.as_os_str().as_bytes();
    let parts = || name.split(|byte| *byte == b'/');
    anyhow::ensure!(
        !name.starts_with(b"/") && parts().all(|part| part != b".."),
        "the name `{}` in the tar leads out",
        path.display()
    );
    let plain: Vec<&[u8]> = parts().filter(|part| !matches!(*part, b"" | b".")).collect();
    Ok(OsStr::from_bytes(&plain.join(&b'/')).to_owned())
}

/// When an entry was written last: finer than seconds where the tar says it.
fn modified<R: Read>(entry: &mut Entry<'_, R>) -> anyhow::Result<Timespec> {
    let whole = i64::try_from(entry.header().mtime().unwrap_or(0))?;
    let mut time = Timespec { tv_sec: whole, tv_nsec: 0 };
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if extension.key_bytes() == b"mtime"
            && let Ok(text) = extension.value()
        {
            let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
            time.tv_sec = seconds.parse().context("reading a time in the tar")?;
            let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
            time.tv_nsec = digits.parse().context("reading a time in the tar")?;
        }
    }
    Ok(time)
}

/// Unpacks one layer of an image over what the layers below left in `folder`. Without bounds where it is not
/// `archived`: a folder of the operator's has the size that it has.
pub(super) fn unpack_layer(folder: &Path, tar: OwnedFd, archived: bool) -> anyhow::Result<()> {
    let folder = folder.to_str().context("the state folder's path is not UTF-8")?;
    let root = Inside::new(folder)?;
    let (layer, left) = (Some(Brought::default()), archived.then(Bounds::default));
    Unpacking { root: &root, layer, left, folders: Vec::new(), room: FOLDERS }.all(File::from(tar))
}

struct Unpacking<'a> {
    root: &'a Inside,
    /// Of an image's layer: what it brought. Whiteouts are obeyed, and devices left out.
    layer: Option<Brought>,
    /// Of a layer out of an archive: how much more may come.
    left: Option<Bounds>,
    /// Of all else: the folders that came, with their times.
    folders: Vec<(OsString, Timespec)>,
    /// How much memory is left for their names, in bytes.
    room: usize,
}

/// What a layer brought: every entry, and every folder that one lies in.
#[derive(Default)]
struct Brought(HashSet<OsString>);

impl Brought {
    fn add(&mut self, text: &OsStr) {
        let mut path = text;
        // Where a folder is known, those above it are.
        while !path.is_empty() && self.0.insert(path.to_owned()) {
            path = inside::split(path).0;
        }
    }

    fn has(&self, path: &OsStr) -> bool {
        self.0.contains(path)
    }
}

/// How much a layer may unpack to: an archive of megabytes can hold terabytes of zeros.
struct Bounds {
    bytes: u64,
    entries: u64,
}

/// How many entries a layer may hold. The largest public images have layers of a million files.
const LAYER_ENTRIES: u64 = 4_000_000;

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: oci::LAYER_BYTES, entries: LAYER_ENTRIES }
    }
}

impl Bounds {
    fn take(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.entries = self.entries.checked_sub(1).with_context(|| {
            format!(
                "the layer has more than {LAYER_ENTRIES} entries, which is the limit: build it as \
                 several layers, or unpack it yourself and name the folder as the image"
            )
        })?;
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.with_context(|| format!("the layer {}", oci::too_large()))?;
        Ok(())
    }
}

/// How much memory the names of folders may take whose times are put right at the end, in bytes.
const FOLDERS: usize = 8 << 20;

impl Unpacking<'_> {
    fn all(mut self, tar: impl Read) -> anyhow::Result<()> {
        let mut archive = Archive::new(io::BufReader::with_capacity(1 << 16, tar));
        for entry in archive.entries().context("reading the tar")? {
            let mut entry = entry.context("reading the tar")?;
            let name = name_of(&entry)?;
            if let Some(left) = &mut self.left {
                left.take(entry.size())?;
            }
            self.one(&mut entry, &name)
                .with_context(|| format!("unpacking {}", name.to_string_lossy()))?;
        }
        // What came into a folder has changed its time. One that went since has none.
        for (text, time) in std::mem::take(&mut self.folders).into_iter().rev() {
            if let Ok(Some((parent, name))) = self.root.parent(&text) {
                let _ = set_time(&parent, name, time);
            }
        }
        Ok(())
    }

    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>, text: &OsStr) -> anyhow::Result<()> {
        let time = modified(entry)?;
        let header = entry.header();
        let kind = header.entry_type();
        let owner = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
        let mode = header.mode()?;
        if self.layer.is_some() && self.whiteout(text)? {
            return Ok(());
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Some(layer) = &mut self.layer {
            layer.add(text);
        }
        let (above, _) = inside::split(text);
        if !above.is_empty() {
            self.root.ensure_dir(above, 0o755, Some((0, 0)))?;
        }
        let Some((parent, name)) = self.root.parent(text)? else { return Ok(()) };
        let acting = self.root.act_at(&parent)?;
        let as_guest = self.root.is_as_guest() || acting.is_some();
        if self.layer.is_none() && kind == EntryType::Regular {
            let dress = Dress::of(owner, mode, time, as_guest);
            return place_file(self.root, &parent, name, entry, &dress);
        }
        if kind != EntryType::Directory {
            self.root.remove_child(&parent, name)?;
        }
        match kind {
            EntryType::Directory => {
                let made = make_dir(self.root, &parent, name)?;
                if !made && as_guest {
                    return Ok(());
                }
                if self.layer.is_none() {
                    // Itself, and not what those inside may put into its place.
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    let flags = flags | OFlags::CLOEXEC;
                    let folder = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
                    if let Some(left) = self.room.checked_sub(text.len() + 64) {
                        self.room = left;
                        self.folders.push((text.to_owned(), time));
                    }
                    return Dress::of(owner, mode, time, as_guest).put_on(&folder);
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                write_file(&parent, name, entry)?;
            }
            EntryType::Symlink => {
                let to = entry.link_name()?.context("a symlink without a target")?;
                rustix::fs::symlinkat(&*to, &parent, name)?;
                let owner = Some(owner).filter(|_| !as_guest);
                inside::set_owner(&parent, name, owner)?;
                return set_time(&parent, name, time);
            }
            EntryType::Link => {
                let to = entry.link_name()?.context("a link without a target")?;
                let (from, base) = self.root.parent(&*to)?.context("a link to `/`")?;
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
        let dress = Dress::of(owner, mode, time, as_guest);
        inside::set_owner(&parent, name, dress.owner)?;
        inside::chmod(&parent, name, dress.mode)?;
        set_time(&parent, name, time)
    }

    /// `.wh.NAME` takes NAME of the layers below away, `.wh..wh..opq` all that they had in a folder.
    fn whiteout(&self, text: &OsStr) -> anyhow::Result<bool> {
        let (folder, name) = inside::split(text);
        let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") else { return Ok(false) };
        let path = |name: &[u8]| match folder.as_bytes() {
            b"" => OsStr::from_bytes(name).to_owned(),
            folder => OsStr::from_bytes(&[folder, b"/", name].concat()).to_owned(),
        };
        let brought = |path: &OsStr| self.layer.as_ref().is_some_and(|layer| layer.has(path));
        if hidden != b".wh..opq" {
            let path = path(hidden);
            if !brought(&path) {
                self.root.remove(&path)?;
            }
            return Ok(true);
        }
        let Ok(opened) = self.root.open(folder, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Ok(true);
        };
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let path = path(name);
            if !matches!(name, b"." | b"..") && !brought(&path) {
                self.root.remove(&path)?;
            }
        }
        Ok(true)
    }
}

/// A folder that is there stays, with what is in it; anything else makes room. Whether it was made.
fn make_dir(root: &Inside, parent: &OwnedFd, name: &OsStr) -> anyhow::Result<bool> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        result => return Ok(result.map(|()| true)?),
    }
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Ok(false);
    }
    root.remove_child(parent, name)?;
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    Ok(true)
}

fn set_time(parent: &OwnedFd, name: &OsStr, time: Timespec) -> anyhow::Result<()> {
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// How what is made is to look.
struct Dress {
    /// `None`: as it is made.
    owner: Option<(u32, u32)>,
    mode: u32,
    time: Timespec,
}

impl Dress {
    /// What is made with the rights of the guest's user is that user's, and never set-id.
    fn of(owner: (u32, u32), mode: u32, time: Timespec, as_guest: bool) -> Self {
        match as_guest {
            true => Self { owner: None, mode: mode & 0o777, time },
            false => Self { owner: Some(owner), mode: mode & 0o7777, time },
        }
    }

    /// Gives what was opened its owner, mode and time.
    fn put_on(&self, opened: &impl std::os::fd::AsFd) -> anyhow::Result<()> {
        if let Some((uid, gid)) = self.owner {
            match rustix::fs::fchown(opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                // As in `inside::set_owner`.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // After the owner, whose change clears bits.
        rustix::fs::fchmod(opened, Mode::from_raw_mode(self.mode))?;
        let times = Timestamps { last_access: self.time, last_modification: self.time };
        Ok(rustix::fs::futimens(opened, &times)?)
    }
}

/// Puts a file where those inside may be at work: it has its name once it is whole, and what is done
/// to it is done to it, whatever they put into its place meanwhile.
fn place_file(
    root: &Inside,
    parent: &OwnedFd,
    name: &OsStr,
    content: &mut impl Read,
    dress: &Dress,
) -> anyhow::Result<()> {
    let new = format!(".bottle-{}", super::state::random_id()?);
    let placed = (|| {
        match nameless(root, parent)? {
            Some((mut file, own)) => {
                fill(&mut file, content)?;
                dress.put_on(&file)?;
                let number = file.as_raw_fd().to_string();
                let follow = AtFlags::SYMLINK_FOLLOW;
                if rustix::fs::linkat(own, &number, parent, &new, follow).is_err() {
                    // A file system that has such files and cannot name them.
                    file.rewind()?;
                    let mut named = make_file(parent, OsStr::new(&new))?;
                    fill(&mut named, &mut file)?;
                    dress.put_on(&named)?;
                }
            }
            None => {
                let mut file = make_file(parent, OsStr::new(&new))?;
                fill(&mut file, content)?;
                dress.put_on(&file)?;
            }
        }
        match rustix::fs::renameat(parent, &new, parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                root.remove_child(parent, name)?;
                Ok(rustix::fs::renameat(parent, &new, parent, name)?)
            }
            result => Ok(result?),
        }
    })();
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(parent, &new, AtFlags::empty());
    }
    placed
}

/// A new file in a folder, without a name: nothing of it stays where this process is killed. `None`
/// where there is no such thing.
fn nameless<'a>(root: &'a Inside, parent: &OwnedFd) -> io::Result<Option<(File, &'a OwnedFd)>> {
    let Some(own) = root.descriptors() else { return Ok(None) };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some((File::from(file), own))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_file(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?))
}

fn write_file(parent: &OwnedFd, name: &OsStr, content: &mut impl Read) -> anyhow::Result<()> {
    Ok(fill(&mut make_file(parent, name)?, content)?)
}

/// So much that is only zeros becomes a hole: a disk image stays as small as it was.
const HOLE: usize = 64 << 10;

/// Writes a new file. What is only zeros takes no room.
fn fill(file: &mut File, content: &mut impl Read) -> io::Result<()> {
    let mut piece = vec![0; HOLE];
    let mut at = 0;
    loop {
        let mut length = 0;
        while length < piece.len() {
            match content.read(&mut piece[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if piece[..length].iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece[..length], at)?;
        }
        at += length as u64;
        if length < piece.len() {
            return file.set_len(at);
        }
    }
}

/// Writes a tar of `path`, at most `limit` bytes. Names begin with its last part; a symlink is
/// itself, not what it points to.
pub(super) fn get(root: &Inside, path: &str, limit: u64, out: OwnedFd) -> anyhow::Result<()> {
    // Whoever wants no more than so much takes holes for what they stand for.
    let (out, how) = (File::from(out), How { fence: root.fence(), holes: limit == u64::MAX });
    let packed = match root.parent(path)? {
        Some((parent, name)) => {
            pack_within(&parent, name.as_ref(), Path::new(name), limit, out, how)
        }
        None => {
            let all = root.open("/", OFlags::RDONLY | OFlags::DIRECTORY)?;
            pack_within(&all, Path::new("."), Path::new("."), limit, out, how)
        }
    };
    packed.with_context(|| format!("reading {path}"))
}

/// Writes a tar of the child `name` of `parent`, called `called` in it.
pub(super) fn pack(
    parent: &OwnedFd,
    name: &Path,
    called: &Path,
    limit: u64,
    out: File,
) -> anyhow::Result<()> {
    pack_within(parent, name, called, limit, out, How { fence: None, holes: false })
}

/// How something is packed.
struct How<'a> {
    fence: Option<&'a Fence>,
    /// Large holes are told, and not read.
    holes: bool,
}

fn pack_within(
    parent: &OwnedFd,
    name: &Path,
    called: &Path,
    limit: u64,
    out: File,
    How { fence, holes }: How<'_>,
) -> anyhow::Result<()> {
    let mut builder = Builder::new(Bounded { out: io::BufWriter::new(out), left: limit });
    let mut packing =
        Packing { builder: &mut builder, fence, linked: HashMap::new(), room: LINKED, holes };
    packing.add(parent, name, called, 0)?;
    builder.into_inner()?.out.flush()?;
    Ok(())
}

/// How deep a tree is packed: each folder on the way is a descriptor.
const DEPTH: u32 = 512;

/// How much memory the names of files with several names may take, in bytes. Of more, the further names
/// are files of their own.
const LINKED: usize = 8 << 20;

struct Packing<'a> {
    builder: &'a mut Builder<Bounded>,
    fence: Option<&'a Fence>,
    /// Files with several names, by device and inode: the first name that was met.
    linked: HashMap<(u64, u64), PathBuf>,
    /// How much of that memory is left.
    room: usize,
    /// Large holes are told, and not read.
    holes: bool,
}

impl Packing<'_> {
    fn add(
        &mut self,
        parent: &OwnedFd,
        name: &Path,
        called: &Path,
        depth: u32,
    ) -> anyhow::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What goes, or is swapped, while the folder that it lies in is read is left out.
        let went = |error| {
            depth > 0 && matches!(error, Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::INVAL)
        };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(error) if went(error) => return Ok(()),
            stat => stat?,
        };
        let mut header = header(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let open = flags | OFlags::RDONLY | OFlags::DIRECTORY;
                let folder = match rustix::fs::openat(parent, name, open, Mode::empty()) {
                    Err(error) if went(error) => return Ok(()),
                    folder => folder?,
                };
                self.within(&folder, called)?;
                header.set_entry_type(EntryType::Directory);
                self.extend(&stat)?;
                self.builder.append_data(&mut header, called, io::empty())?;
                // Whoever unpacks it sees from its depth that nothing of what is in it comes.
                if depth >= DEPTH {
                    return Ok(());
                }
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
                    self.add(&folder, &name, &called.join(&name), depth + 1)?;
                }
            }
            FileType::RegularFile => {
                // Opened without waiting: it may have become a fifo since.
                let open = flags | OFlags::RDONLY | OFlags::NONBLOCK;
                let file = match rustix::fs::openat(parent, name, open, Mode::empty()) {
                    Err(error) if went(error) => return Ok(()),
                    file => file?,
                };
                self.within(&file, called)?;
                let now = rustix::fs::fstat(&file)?;
                if depth > 0 && FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
                    return Ok(());
                }
                anyhow::ensure!(
                    FileType::from_raw_mode(now.st_mode) == FileType::RegularFile,
                    "{} changed while it was read",
                    called.display()
                );
                if now.st_nlink > 1 {
                    let id = (now.st_dev, now.st_ino);
                    if let Some(first) = self.linked.get(&id) {
                        header.set_entry_type(EntryType::Link);
                        self.builder.append_link(&mut header, called, first)?;
                        return Ok(());
                    }
                    let takes = called.as_os_str().len() + 64;
                    if let Some(left) = self.room.checked_sub(takes) {
                        self.room = left;
                        self.linked.insert(id, called.to_owned());
                    }
                }
                let size = u64::try_from(now.st_size)?;
                let file = File::from(file);
                let pieces = if self.holes { holes::pieces(&file, size)? } else { None };
                if let Some(pieces) = pieces {
                    self.extend(&stat)?;
                    let content = holes::told(&mut header, file, size, pieces)?;
                    self.builder.append_data(&mut header, called, content)?;
                    return Ok(());
                }
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                self.extend(&stat)?;
                // Exactly what the header says, also of a file that grows or shrinks meanwhile.
                let content = file.chain(io::repeat(0)).take(size);
                self.builder.append_data(&mut header, called, content)?;
            }
            FileType::Symlink => {
                let to = match rustix::fs::readlinkat(parent, name, Vec::new()) {
                    Err(error) if went(error) => return Ok(()),
                    to => to?,
                };
                header.set_entry_type(EntryType::Symlink);
                self.extend(&stat)?;
                self.builder.append_link(&mut header, called, OsStr::from_bytes(to.to_bytes()))?;
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, called, io::empty())?;
            }
            // It means nothing elsewhere, and whoever unpacks it is to know that it was there.
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let block = kind == FileType::BlockDevice;
                header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
                self.builder.append_data(&mut header, called, io::empty())?;
            }
            // A tar has no word for a socket.
            _ => {}
        }
        Ok(())
    }

    /// The fraction of a second, which the header has no room for and `make` compares.
    fn extend(&mut self, stat: &Stat) -> io::Result<()> {
        if stat.st_mtime_nsec != 0 && stat.st_mtime >= 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            let (header, content) = pax::extension(&[("mtime", time.as_bytes())])?;
            self.builder.append(&header, &*content)?;
        }
        Ok(())
    }

    fn within(&self, opened: &OwnedFd, called: &Path) -> anyhow::Result<()> {
        let held = self.fence.map_or(Ok(()), |fence| fence.holds(opened));
        held.with_context(|| format!("{} is on a mount of its own", called.display()))
    }
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
