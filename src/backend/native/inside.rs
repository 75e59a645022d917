//! A file system tree whose paths cannot lead out of it.
//!
//! What a sandbox has written (symlinks, renamed folders, `..`) is resolved as if the tree's folder
//! were `/`, by the kernel, step by step; links of `/proc` are not followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::CapabilitySet;

use super::fence::Fence;
use super::maker::{Acting, Maker};

/// Owner and group, as this process counts.
pub(super) type Owner = (u32, u32);

/// The tree beneath one folder.
pub(super) struct Inside {
    top: OwnedFd,
    links: Links,
    /// What may be entered, where not everything may.
    fence: Option<Fence>,
    /// This process has the rights of the guest's user and makes what it makes as that user: it gives
    /// nothing away, and changes nothing that is there.
    as_guest: bool,
    /// This process's open files by number, where files without a name can be given one.
    descriptors: Option<OwnedFd>,
    /// Who makes what comes into a mounted workspace.
    maker: Option<Maker>,
}

/// This process's open files by number: to be asked for while `/proc` is still one's own.
pub(super) fn own_descriptors() -> Option<OwnedFd> {
    rustix::fs::openat(CWD, "/proc/self/fd", DIRECTORY | OFlags::PATH, Mode::empty()).ok()
}

/// Whose links are followed where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// All of them, by the kernel, inside.
    Inside,
    /// A user's link leads to folders of that user only; root's are the image's.
    Wary,
    /// The same where those inside may be root.
    WaryOfRoot,
    /// All of them, step by step: this process may do what their maker may.
    AsGuest,
}

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl Inside {
    /// The tree beneath `path`, which is trusted.
    pub(super) fn new(path: &str) -> io::Result<Self> {
        let top = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::PATH, Mode::empty())?;
        let (fence, descriptors, maker) = (None, None, None);
        Ok(Self { top, links: Links::Inside, fence, as_guest: false, descriptors, maker })
    }

    /// The same, for what is done as root where users can put links: a link of theirs that leads to
    /// what is not theirs is refused, as it would be to them.
    pub(super) fn wary(path: &str) -> io::Result<Self> {
        Ok(Self { links: Links::Wary, ..Self::new(path)? })
    }

    /// `/`, where another's guest is at work: only what is within `fence`.
    pub(super) fn visited(fence: Fence, links: Links) -> io::Result<Self> {
        let as_guest = links == Links::AsGuest;
        Ok(Self { links, fence: Some(fence), as_guest, ..Self::new("/")? })
    }

    /// The same, for a process that knows its open files.
    pub(super) fn knowing(self, descriptors: Option<OwnedFd>) -> Self {
        Self { descriptors, ..self }
    }

    /// The same, where what comes into a mounted workspace is made by its user.
    pub(super) fn made_by(self, maker: Option<Maker>) -> Self {
        Self { maker, ..self }
    }

    /// Acts as the user who makes what comes into this folder, where that is another.
    pub(super) fn act_at(&self, folder: &OwnedFd) -> io::Result<Option<Acting>> {
        self.maker.as_ref().map_or(Ok(None), |maker| maker.at(folder))
    }

    /// This process's open files by number.
    pub(super) fn descriptors(&self) -> Option<&OwnedFd> {
        self.descriptors.as_ref()
    }

    /// Whether this process has the rights of the guest's user and no more.
    pub(super) fn is_as_guest(&self) -> bool {
        self.as_guest
    }

    /// The mounts that may be entered.
    pub(super) fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    fn within(&self, path: &OsStr, opened: &OwnedFd) -> io::Result<()> {
        let Some(fence) = &self.fence else { return Ok(()) };
        fence.holds(opened).map_err(|error| match error {
            Errno::XDEV => io::Error::new(
                io::ErrorKind::CrossesDevices,
                format!(
                    "/{} leads into a mount, where nothing is read or written for a sandbox: remove \
                     the link, or what was moved there, inside",
                    trimmed(path).to_string_lossy()
                ),
            ),
            error => at(path, error),
        })
    }

    /// Opens a folder, link by link.
    fn walk(&self, path: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut stack = vec![rustix::fs::openat(&self.top, ".", flags, Mode::empty())?];
        let mut rest: Vec<Vec<u8>> = reversed(path.as_bytes());
        let (mut links, mut user) = (0, None);
        while let Some(name) = rest.pop() {
            let Some(folder) = stack.last() else { break };
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let entry = rustix::fs::openat(folder, &name[..], flags, Mode::empty())
                .map_err(|error| at(path, error))?;
            let stat = rustix::fs::fstat(&entry)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.within(path, &entry)?;
                    stack.push(entry);
                }
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(at(path, Errno::LOOP));
                    }
                    // Whoever owns the folder chooses what stands in it, whosever it is.
                    let owners = [rustix::fs::fstat(folder)?.st_uid, stat.st_uid];
                    user = match self.links {
                        Links::Inside | Links::AsGuest => None,
                        Links::Wary => owners.into_iter().find(|uid| *uid != 0).or(user),
                        Links::WaryOfRoot => {
                            owners.into_iter().find(|uid| *uid != 0).or(user).or(Some(0))
                        }
                    };
                    let target = rustix::fs::readlinkat(&entry, "", Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    rest.extend(reversed(&target));
                }
                _ => return Err(at(path, Errno::NOTDIR)),
            }
        }
        let found = stack.pop().ok_or(Errno::NOENT)?;
        let owner = rustix::fs::fstat(&found)?.st_uid;
        match user {
            Some(user) if user != owner => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "/{} leads through a link of user {user} to a folder of user {owner}: remove \
                     that link inside",
                    trimmed(path).to_string_lossy()
                ),
            )),
            _ => Ok(found),
        }
    }

    /// Opens what `path` names.
    pub(super) fn open(
        &self,
        path: &(impl AsRef<OsStr> + ?Sized),
        flags: OFlags,
    ) -> io::Result<OwnedFd> {
        let path = trimmed(path.as_ref());
        let path = if path.is_empty() { OsStr::new(".") } else { path };
        if self.links != Links::Inside && flags.contains(DIRECTORY | OFlags::PATH) {
            return self.walk(path);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            // EAGAIN: something was renamed on the way; only inside, so it ends.
            match rustix::fs::openat2(
                &self.top,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result.map_err(|error| at(path, error)),
            }
        }
    }

    /// The folder that `path` lies in, and its name there: what is there need not exist, and is
    /// not followed. `None` for the tree's own folder.
    pub(super) fn parent<'a>(
        &self,
        path: &'a (impl AsRef<OsStr> + ?Sized),
    ) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
        let path = trimmed(path.as_ref());
        let (parent, name) = split(path);
        match name.as_bytes() {
            b"" | b"." => Ok(None),
            b".." => {
                let text = format!("{} ends in `..`", path.to_string_lossy());
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            _ => Ok(Some((self.open(parent, DIRECTORY | OFlags::PATH)?, name))),
        }
    }

    /// The folder `path`, made with all that is missing above it. What exists stays as it is, so each
    /// has its name only once it is whole: whoever is killed on the way leaves none that is nobody's.
    pub(super) fn ensure_dir(
        &self,
        path: &(impl AsRef<OsStr> + ?Sized),
        mode: u32,
        owner: Option<Owner>,
    ) -> io::Result<OwnedFd> {
        let path = path.as_ref();
        let flags = DIRECTORY | OFlags::PATH;
        match self.open(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let path = trimmed(path);
        let ends = memchr::memchr_iter(b'/', path.as_bytes()).chain([path.len()]);
        for end in ends {
            let part = OsStr::from_bytes(&path.as_bytes()[..end]);
            let Some((parent, name)) = self.parent(part)? else { continue };
            match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(at(path, error)),
            }
            let mode = if end == path.len() { mode } else { 0o755 };
            let acting = self.act_at(&parent)?;
            let owner = owner.filter(|_| !self.as_guest && acting.is_none());
            let made = format!(".bottle-{}", super::state::random_id()?);
            let named = make_whole(&parent, &made, mode, owner)
                .and_then(|()| {
                    let flags = RenameFlags::NOREPLACE;
                    rustix::fs::renameat_with(&parent, &made, &parent, name, flags)
                })
                .inspect_err(|_| {
                    let _ = rustix::fs::unlinkat(&parent, &made, AtFlags::REMOVEDIR);
                });
            match named {
                // Another was as quick.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(at(path, error)),
            }
        }
        self.open(path, flags)
    }

    /// Removes what `path` names, whatever it is, with all that is in it. Absent is fine.
    pub(super) fn remove(&self, path: &(impl AsRef<OsStr> + ?Sized)) -> io::Result<()> {
        match self.parent(path) {
            Ok(Some((parent, name))) => self.remove_child(&parent, name),
            Ok(None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "`/` is not removed")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The same for what lies in an opened folder.
    pub(super) fn remove_child(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        remove_within(parent.as_fd(), name, self.fence())
    }
}

/// The parts of a path, the first one last.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

/// A path without slashes around it.
fn trimmed(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    let begin = bytes.iter().take_while(|byte| **byte == b'/').count();
    let end = bytes[begin..].iter().rev().take_while(|byte| **byte == b'/').count();
    OsStr::from_bytes(&bytes[begin..bytes.len() - end])
}

/// The folder and the name of a path.
pub(super) fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    let (folder, name) = match memchr::memrchr(b'/', bytes) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&[][..], bytes),
    };
    (OsStr::from_bytes(folder), OsStr::from_bytes(name))
}

/// Makes an empty folder of this owner.
fn make_whole(parent: &OwnedFd, name: &str, mode: u32, owner: Option<Owner>) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let folder = rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    if let Some((uid, gid)) = owner {
        match rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            // As in `set_owner`.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode & 0o7777))
}

/// The error with the path that it is about.
pub(super) fn at(path: &(impl AsRef<OsStr> + ?Sized), error: Errno) -> io::Error {
    let path = path.as_ref().to_string_lossy();
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("/{}: {error}", path.trim_start_matches('/')))
}

/// Sets permission bits of a child that is no symlink.
pub(super) fn chmod(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
        .map_err(|error| at(name, error))
}

/// Sets the owner of a child itself, not of what it may point to. A namespace with one id cannot
/// say otherwise: there everything is the caller's.
pub(super) fn set_owner(parent: &OwnedFd, name: &OsStr, owner: Option<Owner>) -> io::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    match rustix::fs::chownat(
        parent,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(at(name, error)),
    }
}

/// How deep a removal goes before it lifts what is deeper.
const DEPTH: u32 = 64;

/// Removes `name` in `parent` with all that is in it, however deep and however its folders are
/// locked: a sandbox may have made a million nested ones. Nothing is followed; absent is fine.
pub(super) fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &(impl AsRef<OsStr> + ?Sized),
) -> io::Result<()> {
    remove_within(parent, name.as_ref(), None)
}

/// The same, and nothing of a mount that is not within `fence`.
fn remove_within(parent: BorrowedFd<'_>, name: &OsStr, fence: Option<&Fence>) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A folder: EISDIR, or EPERM where the file system says it the old way.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(at(name, error)),
    }
    let top = open_unlocked(parent, name, fence).map_err(|error| at(name, error))?;
    let mut lifted = 0u64;
    loop {
        let before = lifted;
        empty(&top, &top, DEPTH, &mut lifted, fence).map_err(|error| at(name, error))?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // What was lifted lies in the top folder now.
            Err(Errno::NOTEMPTY | Errno::EXIST) if lifted > before => {}
            Err(error) => return Err(at(name, error)),
        }
    }
}

/// Opens a folder for reading and writing, also one whose owner locked it (overlay's work folder
/// has mode 000).
fn open_unlocked(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    fence: Option<&Fence>,
) -> Result<OwnedFd, Errno> {
    let open = || {
        let flags = DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        fence.map_or(Ok(()), |fence| fence.holds(&opened))?;
        Ok(opened)
    };
    // Root needs no permission; for anyone else a folder that can be read may still not be written.
    if needs_no_permission() {
        return open();
    }
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    open()
}

/// Root needs none, unless it has given its capabilities up.
fn needs_no_permission() -> bool {
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_OVERRIDE))
}

fn empty(
    top: &OwnedFd,
    folder: &OwnedFd,
    depth: u32,
    lifted: &mut u64,
    fence: Option<&Fence>,
) -> Result<(), Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
        if rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        let child = open_unlocked(folder.as_fd(), name, fence)?;
        if depth == 0 {
            // A name that is taken is the sandbox's own doing: the next one may be free.
            loop {
                let moved = rustix::fs::renameat(folder, name, top, format!(".lifted-{lifted}"));
                *lifted += 1;
                match moved {
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    result => break result?,
                }
            }
            continue;
        }
        empty(top, &child, depth - 1, lifted, fence)?;
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests of a file system module")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Inside) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let inside = Inside::new(folder.path().join("root").to_str().unwrap()).unwrap();
        (folder, inside)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (folder, inside) = tree();
        let root = folder.path().join("root");
        fs::write(folder.path().join("secret"), "outside").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink(folder.path(), root.join("absolute")).unwrap();
        for path in ["up", "../secret", "absolute/secret", "/../../secret"] {
            assert!(inside.open(path, OFlags::RDONLY).is_err(), "{path}");
        }
        assert!(inside.ensure_dir("../../made/here", 0o700, None).is_err());
        assert!(inside.ensure_dir("up/../made", 0o700, None).is_err());
        assert!(!folder.path().join("made").exists());
    }

    #[test]
    fn a_users_link_leads_to_that_users_folders_only() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (folder, _) = tree();
        let root = folder.path().join("root");
        let own =
            |path: &str| std::os::unix::fs::lchown(root.join(path), Some(1234), None).unwrap();
        fs::create_dir_all(root.join("usr/lib/git-core")).unwrap();
        fs::create_dir_all(root.join("home/u/own")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        for (link, target) in [("skills", "/usr/lib"), ("root", "/lib"), ("mine", "own")] {
            symlink(target, root.join("home/u").join(link)).unwrap();
            own(&format!("home/u/{link}"));
        }
        symlink("home", root.join("house")).unwrap();
        own("home/u/own");
        own("home/u");
        let inside = Inside::wary(root.to_str().unwrap()).unwrap();
        for path in ["home/u/skills", "home/u/root", "house/u/skills"] {
            let deep = format!("{path}/git-core");
            for error in [
                inside.remove(&deep).unwrap_err(),
                inside.ensure_dir(path, 0o755, None).map(drop).unwrap_err(),
                inside.ensure_dir(&format!("{path}/new"), 0o755, None).map(drop).unwrap_err(),
            ] {
                assert!(error.to_string().contains("a link of user 1234"), "{path}: {error}");
            }
        }
        assert!(root.join("usr/lib/git-core").is_dir() && !root.join("usr/lib/new").exists());
        // Their own, and the image's, are as good as ever.
        inside.ensure_dir("house/u/mine/a", 0o755, Some((1234, 1234))).unwrap();
        assert!(root.join("home/u/own/a").is_dir());
        inside.remove("lib/git-core").unwrap();
        assert!(!root.join("usr/lib/git-core").exists());
    }

    #[test]
    fn a_folder_is_made_whole_and_what_exists_stays() {
        let (folder, inside) = tree();
        let root = folder.path().join("root");
        let mode =
            |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        inside.ensure_dir("a/b/c", 0o1777, None).unwrap();
        assert_eq!(["a", "a/b", "a/b/c"].map(mode), [0o755, 0o755, 0o1777]);
        inside.ensure_dir("a/b", 0o700, None).unwrap();
        assert_eq!(mode("a/b"), 0o755);
        symlink("a", root.join("link")).unwrap();
        inside.ensure_dir("link/d", 0o750, None).unwrap();
        assert_eq!(mode("a/d"), 0o750);
        fs::write(root.join("file"), "").unwrap();
        assert!(inside.ensure_dir("file", 0o755, None).is_err());
        assert!(inside.ensure_dir("file/below", 0o755, None).is_err());
        let mut names: Vec<_> =
            fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "file", "link"], "nothing is left of the making");
    }

    #[test]
    fn removal_does_not_follow() {
        let (folder, inside) = tree();
        let root = folder.path().join("root");
        fs::create_dir(folder.path().join("kept")).unwrap();
        fs::write(folder.path().join("kept/file"), "").unwrap();
        fs::create_dir(root.join("gone")).unwrap();
        symlink(folder.path().join("kept"), root.join("gone/link")).unwrap();
        inside.remove("gone").unwrap();
        inside.remove("never/there").unwrap();
        assert!(!root.join("gone").exists());
        assert!(folder.path().join("kept/file").exists());
        assert!(inside.remove("/").is_err());
    }

    #[test]
    fn deep_and_locked_folders_go() {
        let (folder, inside) = tree();
        let mut parent = inside.ensure_dir("deep", 0o755, None).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&parent, "d", Mode::RWXU).unwrap();
            parent = rustix::fs::openat(&parent, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        fs::create_dir_all(folder.path().join("root/deep/locked/in")).unwrap();
        let locked = folder.path().join("root/deep/locked");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        inside.remove("deep").unwrap();
        assert!(!folder.path().join("root/deep").exists());
    }
}
