//! Moves what is kept of a machine that was set aside into the one that is made in its place: the folders
//! themselves, with all that is in them, and not a copy. Both are layers of the same file system, of which none is
//! mounted meanwhile.
//!
//! `moved.json` in the new machine's folder is written first. As long as the old machine is there, removing the new
//! one moves everything back.

#![expect(clippy::disallowed_methods, reason = "folders of the state folder are moved")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode as FileMode, OFlags, RenameFlags, ResolveFlags, Uid,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::state::{self, Folder, Mode, Record, RootFs, Store};
use super::status::LOCK;
use super::{create, namespaces};
use crate::backend::durable;
use crate::model::kept::lies_in;
use crate::model::{ImageRef, MachineSpec, tool};

/// Name of what says what was moved.
const MOVED: &str = "moved.json";

/// Where the kernel says how overlays are made unless somebody says otherwise.
const OVERLAY: &str = "/sys/module/overlay/parameters";

/// Where nothing is moved: the new machine's own files are there.
const OWN: [&str; 5] = ["/etc", "/run", "/dev", "/proc", "/sys"];

/// What was moved into a machine.
#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    /// The id of the machine that it was in.
    from: String,
    /// Absolute paths in both.
    paths: Vec<String>,
}

/// Whether what lies under these paths of a machine, in which nothing runs, can be moved into one of this spec: its
/// user is the same, and all of it is the machine's own.
pub(super) fn is_possible(
    store: &Store,
    folder: &Folder,
    record: &Record,
    spec: &MachineSpec,
    paths: &[String],
) -> anyhow::Result<bool> {
    let same_mode = matches!(
        (record.mode, namespaces::mode()),
        (Mode::Root { .. }, Mode::Root { .. }) | (Mode::Rootless, Mode::Rootless)
    );
    if !same_mode || !keeps_files_whole(record.mode) {
        return Ok(false);
    }
    let Some(lowers) = lowers(store, record, spec) else { return Ok(false) };
    let user = create::origin(store, spec)?.user;
    if (user.uid, user.gid, &user.home) != (record.user.uid, record.user.gid, &record.user.home) {
        return Ok(false);
    }
    let upper = upper(folder);
    let mounts = spec.mounts();
    for path in paths {
        let is_own = OWN.iter().any(|own| lies_in(path, own) || lies_in(own, path));
        let on_mount = mounts.iter().any(|mount| lies_in(path, mount) || lies_in(mount, path));
        if is_own || on_mount || is_program_folder(record, path) {
            return Ok(false);
        }
        // What the image has there is in no machine's own layer, and a link of its on the way leads elsewhere.
        if !lowers.iter().all(|lower| matches!(entry(lower, path), Ok(None))) {
            return Ok(false);
        }
        // By a link, say: it lies elsewhere.
        let Ok(Some((_, kind))) = entry(&upper, path) else { return Ok(false) };
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Each of the host's program folders has a layer of its own.
fn is_program_folder(record: &Record, path: &str) -> bool {
    let top = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    matches!(record.rootfs, RootFs::Host { .. }) && tool::is_program_folder(top)
}

/// What lies beneath the old machine's own files, and what will lie beneath the new one's. `None`: it is not known.
fn lowers(store: &Store, record: &Record, spec: &MachineSpec) -> Option<Vec<PathBuf>> {
    let image = |digest| store.image(digest).join("rootfs");
    Some(match (&record.rootfs, &spec.image) {
        // Another base of this host has the same folders.
        (RootFs::Host { base }, ImageRef::Host) => vec![store.bases().join(base)],
        (RootFs::Image { digest }, reference) => vec![image(*digest), image(reference.digest()?)],
        (RootFs::Host { .. }, _) => return None,
    })
}

/// A file or folder of one layer may be of two, where the kernel is set so.
fn keeps_files_whole(mode: Mode) -> bool {
    let off = |name: &str| {
        fs::read_to_string(Path::new(OVERLAY).join(name)).is_ok_and(|text| text.trim() == "N")
    };
    // An ordinary user's layers never are.
    mode == Mode::Rootless || (off("metacopy") && off("redirect_dir"))
}

fn upper(folder: &Folder) -> PathBuf {
    folder.join("upper/root")
}

/// What a layer has under a path, no link followed, and the folder that it is in. `None`: nothing.
fn entry(layer: &Path, path: &str) -> io::Result<Option<(OwnedFd, FileType)>> {
    let (parent, name) = split(path)?;
    let parent = match open(layer, parent) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some((parent, FileType::from_raw_mode(found.st_mode)))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder of a layer, which no link leads to.
fn open(layer: &Path, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::openat(CWD, layer, flags, FileMode::empty())?;
    if path.is_empty() {
        return Ok(layer);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(&layer, path, flags, FileMode::empty(), resolve)
}

/// The folder of an absolute path, without its first slash, and the name there.
fn split(path: &str) -> io::Result<(&str, &OsStr)> {
    let inner = path.trim_matches('/');
    let (parent, name) = inner.rsplit_once('/').unwrap_or(("", inner));
    if name.is_empty() || inner.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path} is no plain path"),
        ));
    }
    Ok((parent, OsStr::from_bytes(name.as_bytes())))
}

/// Moves what lies under these paths out of the machine that was set aside into this one, which never ran. What was
/// moved already is fine.
pub(super) fn hand_over(
    old: &Folder,
    id: &str,
    new: &Folder,
    paths: &[String],
) -> anyhow::Result<()> {
    // Whoever removes it meanwhile waits: what comes too late would go with it.
    let lock = durable::lock_file(&new.join(LOCK))?;
    lock.lock()?;
    anyhow::ensure!(new.join(state::MACHINE).exists(), "it was removed");
    let moved = Moved { from: id.to_owned(), paths: paths.to_vec() };
    state::write_json(&new.join(MOVED), &moved)?;
    move_all(&upper(old), &upper(new), paths)
}

/// Moves what was moved into this machine back into the one that it was in, where that is still there.
pub(super) fn give_back(new: &Folder) -> anyhow::Result<()> {
    let mut name = new.path().as_os_str().to_owned();
    name.push(state::ASIDE);
    let old = Folder(name.into());
    if !old.path().exists() {
        return Ok(());
    }
    let path = new.join(MOVED);
    let Some(moved) = durable::read_json::<Moved>(&path)? else { return Ok(()) };
    let record = old.record()?.context("the machine that was set aside has no record")?;
    if record.id != moved.from {
        return Ok(());
    }
    move_all(&upper(new), &upper(&old), &moved.paths)?;
    Ok(fs::remove_file(path)?)
}

fn move_all(from: &Path, to: &Path, paths: &[String]) -> anyhow::Result<()> {
    for path in paths {
        move_one(from, to, path).with_context(|| format!("moving {path}"))?;
    }
    Ok(())
}

fn move_one(from: &Path, to: &Path, path: &str) -> anyhow::Result<()> {
    let (parent, name) = split(path)?;
    let Some((source, _)) = entry(from, path)? else {
        // Done already, or there was never anything.
        return Ok(());
    };
    let target = make_parents(from, to, parent)?;
    let rename = || rustix::fs::renameat_with(&source, name, &target, name, RenameFlags::NOREPLACE);
    match rename() {
        // An ordinary user may move only what it may write, a folder itself too: its `..` changes.
        Err(Errno::ACCESS) => with_write_bits(&source, name, &target, rename)?,
        renamed => renamed?,
    }
    // It survives a power cut in one of the two.
    for folder in [target, source] {
        File::from(folder).sync_all()?;
    }
    Ok(())
}

/// Does something while its owner may write to these two folders, and to what has this name in the first.
fn with_write_bits(
    source: &OwnedFd,
    name: &OsStr,
    target: &OwnedFd,
    rename: impl FnOnce() -> Result<(), Errno>,
) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let moved = rustix::fs::openat(source, name, flags, FileMode::empty()).ok();
    let mut changed = Vec::new();
    for folder in [Some(source), Some(target), moved.as_ref()].into_iter().flatten() {
        let mode = FileMode::from_raw_mode(rustix::fs::fstat(folder)?.st_mode & 0o7777);
        rustix::fs::fchmod(folder, mode | FileMode::WUSR)?;
        changed.push((folder, mode));
    }
    let renamed = rename();
    for (folder, mode) in changed {
        rustix::fs::fchmod(folder, mode)?;
    }
    Ok(renamed?)
}

/// Opens the folder of this name in a layer. What is missing on the way is made as it is in the other one: what the
/// machine saw there.
fn make_parents(from: &Path, to: &Path, path: &str) -> anyhow::Result<OwnedFd> {
    let mut folder = open(to, "")?;
    let mut done = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(part);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::mkdirat(&folder, part, FileMode::from_raw_mode(0o700)) {
            Ok(()) => {
                let like = rustix::fs::fstat(open(from, &done)?)?;
                let made = rustix::fs::openat(&folder, part, flags, FileMode::empty())?;
                let (owner, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
                rustix::fs::fchown(&made, Some(owner), Some(group))?;
                rustix::fs::fchmod(&made, FileMode::from_raw_mode(like.st_mode & 0o7777))?;
                folder = made;
            }
            Err(Errno::EXIST) => {
                folder = rustix::fs::openat(folder.as_fd(), part, flags, FileMode::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(root: &Path, name: &str, files: &[&str]) -> PathBuf {
        let layer = root.join(name);
        fs::create_dir(&layer).unwrap();
        for file in files {
            let path = layer.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        layer
    }

    #[test]
    fn what_is_moved_is_in_one_of_two_layers_whenever_it_is_cut_short() {
        let root = tempfile::tempdir().unwrap();
        let old = layer(root.path(), "old", &["home/agent/a", "workspace/b", "etc/c"]);
        let new = layer(root.path(), "new", &["etc/own"]);
        let paths =
            ["/home/agent".to_owned(), "/workspace".to_owned(), "/nothing/there".to_owned()];
        // Cut short after the first, begun anew, and moved back twice.
        move_all(&old, &new, &paths[..1]).unwrap();
        move_all(&old, &new, &paths).unwrap();
        assert_eq!(fs::read_to_string(new.join("home/agent/a")).unwrap(), "home/agent/a");
        assert!(new.join("workspace/b").exists() && !old.join("workspace").exists());
        assert!(old.join("etc/c").exists() && !new.join("nothing").exists());
        for _ in 0..2 {
            move_all(&new, &old, &paths).unwrap();
        }
        assert!(old.join("workspace/b").exists() && old.join("home/agent/a").exists());
        // What is there is never replaced.
        fs::create_dir_all(new.join("workspace")).unwrap();
        assert!(move_all(&old, &new, &paths[1..]).is_err());
        assert!(old.join("workspace/b").exists());
    }

    #[test]
    fn no_link_leads_out_of_a_layer() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (layer(root.path(), "old", &["x/y"]), layer(root.path(), "new", &[]));
        let outside = layer(root.path(), "outside", &["y/secret"]);
        std::os::unix::fs::symlink(&outside, old.join("link")).unwrap();
        std::os::unix::fs::symlink(&outside, new.join("x")).unwrap();
        assert!(entry(&old, "/link/y").is_err());
        assert!(move_one(&old, &new, "/link/y").is_err());
        assert!(move_one(&old, &new, "/x/y").is_err());
        assert!(move_one(&old, &new, "/x/../link").is_err());
        assert!(outside.join("y/secret").exists() && old.join("x/y").exists());
    }
}
