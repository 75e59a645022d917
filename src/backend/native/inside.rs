//! A file system tree whose paths cannot lead out of it.
//!
//! What a sandbox has written (symlinks, renamed folders, `..`) is resolved as if the tree's folder
//! were `/`, by the kernel, step by step; links of `/proc` are not followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Owner and group, as this process counts.
pub(super) type Owner = (u32, u32);

/// The tree beneath one folder.
pub(super) struct Inside(OwnedFd);

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl Inside {
    /// The tree beneath `path`, which is trusted.
    pub(super) fn new(path: &str) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, DIRECTORY | OFlags::PATH, Mode::empty())?))
    }

    /// Opens what `path` names.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            // EAGAIN: something was renamed on the way; only inside, so it ends.
            match rustix::fs::openat2(
                &self.0,
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
    pub(super) fn parent<'a>(&self, path: &'a str) -> io::Result<Option<(OwnedFd, &'a str)>> {
        let path = path.trim_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match name {
            "" | "." => Ok(None),
            ".." => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} ends in `..`")))
            }
            _ => Ok(Some((self.open(parent, DIRECTORY | OFlags::PATH)?, name))),
        }
    }

    /// The folder `path`, made with all that is missing above it. What exists stays as it is, so each
    /// has its name only once it is whole: whoever is killed on the way leaves none that is nobody's.
    pub(super) fn ensure_dir(
        &self,
        path: &str,
        mode: u32,
        owner: Option<Owner>,
    ) -> io::Result<OwnedFd> {
        let flags = DIRECTORY | OFlags::PATH;
        match self.open(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let Some((parent, name)) = self.parent(&path[..end])? else { continue };
            match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(at(path, error)),
            }
            let mode = if end == path.len() { mode } else { 0o755 };
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
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        match self.parent(path) {
            Ok(Some((parent, name))) => remove_tree(parent.as_fd(), name),
            Ok(None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "`/` is not removed")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
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
pub(super) fn at(path: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("/{}: {error}", path.trim_start_matches('/')))
}

/// Sets permission bits of a child that is no symlink.
pub(super) fn chmod(parent: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
        .map_err(|error| at(name, error))
}

/// Sets the owner of a child itself, not of what it may point to. A namespace with one id cannot
/// say otherwise: there everything is the caller's.
pub(super) fn set_owner(parent: &OwnedFd, name: &str, owner: Option<Owner>) -> io::Result<()> {
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
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A folder: EISDIR, or EPERM where the file system says it the old way.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(at(name, error)),
    }
    let top = open_unlocked(parent, name).map_err(|error| at(name, error))?;
    let mut lifted = 0u64;
    loop {
        let before = lifted;
        empty(&top, &top, DEPTH, &mut lifted).map_err(|error| at(name, error))?;
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
) -> Result<OwnedFd, Errno> {
    let open = || {
        rustix::fs::openat(
            parent,
            name,
            DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW,
            Mode::empty(),
        )
    };
    // Root needs no permission; for anyone else a folder that can be read may still not be written.
    if rustix::process::geteuid().is_root() {
        return open();
    }
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    open()
}

fn empty(top: &OwnedFd, folder: &OwnedFd, depth: u32, lifted: &mut u64) -> Result<(), Errno> {
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
        let child = open_unlocked(folder.as_fd(), name)?;
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
        empty(top, &child, depth - 1, lifted)?;
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
