//! A mounted workspace, held so that nothing else can come into its place.
//!
//! An engine looks a bind source up by name at every start, also when it restarts a container by
//! itself or after a reboot. So root hands it a mount of our own: of the very folder that was judged,
//! opened without following links, in a folder that only root can enter. It lies on a tmpfs: after a
//! reboot there is no such path, the engine's restart fails, and the next pass mounts and starts.
//!
//! Who is not root cannot mount. There the engine gets the path itself, of which no part can be
//! renamed by anybody but that user and root (see `manifest::trust`).
#![expect(clippy::disallowed_methods, reason = "mounts, and makes the folders to mount on")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::backend::{BackendError, Scope};
use crate::model::{BackendKind, InstanceId, Leftover, LeftoverKind, MachineSpec};

/// Where the mounts are. `/run` is empty after a reboot.
const BASE: &str = "/run/bottle-mounts";

/// How the id of a mount begins as that of a leftover.
const LEFTOVER: &str = "mount:";

/// Mounts whose machines this process makes or has made.
static MAKING: Mutex<BTreeMap<PathBuf, Made>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Made {
    /// How many are being made now: nothing lists those yet.
    now: usize,
    /// How many ever were.
    ever: usize,
}

fn making() -> MutexGuard<'static, BTreeMap<PathBuf, Made>> {
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn made(pin: &Path) -> Made {
    making().get(pin).copied().unwrap_or_default()
}

/// The mount of a machine that is being made.
pub(super) struct Making(PathBuf);

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(made) = making().get_mut(&self.0) {
            made.now -= 1;
        }
    }
}

/// Holds the workspace of `spec`; what comes first is kept until the machine is made. `None`: this
/// process cannot mount, and the engine gets the path.
pub(super) fn of_spec(
    scope: &Scope,
    spec: &MachineSpec,
) -> Result<(Option<Making>, Option<PathBuf>), BackendError> {
    let Some(workspace) = &spec.mount else { return Ok((None, None)) };
    let name = format!("{}.{}.{}", scope.owner, spec.sandbox, spec.hash().short());
    let pin = Path::new(BASE).join(&scope.state).join(name);
    let mut all = making();
    let made = all.entry(pin.clone()).or_default();
    (made.now, made.ever) = (made.now + 1, made.ever + 1);
    drop(all);
    let guard = Making(pin);
    let pin = hold(&guard.0, &workspace.path)?;
    Ok((Some(guard), pin))
}

/// Mounts of this owner's machines, made by this state folder, that none of them has.
pub(super) fn leftovers(scope: &Scope, used: &BTreeSet<PathBuf>) -> Vec<Leftover> {
    let folder = Path::new(BASE).join(&scope.state);
    // Only root may look, and only root has any.
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let prefix = format!("{}.", scope.owner);
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .filter(|path| is_pin(path) && !used.contains(path) && made(path).now == 0)
        .map(|path| Leftover {
            backend: BackendKind::Docker,
            kind: LeftoverKind::Scratch,
            id: InstanceId(format!("{LEFTOVER}{}", path.display())),
            name: path.display().to_string(),
            digest: None,
        })
        .collect()
}

/// The mount that is left over, where it is one, and of this owner and state folder.
pub(super) fn left(scope: &Scope, leftover: &Leftover) -> Option<PathBuf> {
    let path = PathBuf::from(leftover.id.0.strip_prefix(LEFTOVER)?);
    let name = path.file_name()?.to_str()?;
    let ours = path.parent() == Some(&Path::new(BASE).join(&scope.state))
        && name.starts_with(&format!("{}.", scope.owner));
    (ours && is_pin(&path)).then_some(path)
}

/// Lets go of a mount that no machine has, as `used` says when it is asked.
pub(super) async fn prune<F>(pin: &Path, used: impl FnOnce() -> F) -> Result<(), BackendError>
where
    F: Future<Output = Result<BTreeSet<PathBuf>, BackendError>>,
{
    // A machine that was made meanwhile may be missing in the answer.
    let before = made(pin);
    let used = used().await?;
    if before.now == 0 && made(pin) == before && !used.contains(pin) {
        release(pin);
    }
    Ok(())
}

/// Holds `source` at `pin`, where that is not done yet.
///
/// # Errors
/// When the folder is not there any more, or a link leads to it now.
pub(super) fn hold(pin: &Path, source: &Path) -> Result<Option<PathBuf>, BackendError> {
    let folder = unlinked(source)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match mount(pin, &folder) {
        Ok(()) => Ok(Some(pin.to_owned())),
        // In a container, say: without the right to mount.
        Err(error) => {
            tracing::debug!(pin = %pin.display(), error = %format!("{error:#}"), "cannot be mounted");
            Ok(None)
        }
    }
}

/// Whether `path` is still the folder that was judged, where it cannot be held.
///
/// # Errors
/// As [`hold`].
pub(super) fn check(path: &Path) -> Result<(), BackendError> {
    unlinked(path).map(drop)
}

/// The mount of ours in what a container was made with, as `settings` writes mounts.
pub(super) fn in_setting(mounts: &str) -> Option<PathBuf> {
    let (path, _) = mounts.split_once(':')?;
    is_pin(Path::new(path)).then(|| PathBuf::from(path))
}

/// Whether this is a place of ours where nothing is mounted any more: somebody took the mount away. A container that
/// was restarted since has the empty folder.
pub(super) fn is_lost(path: &Path) -> bool {
    // Another user than root cannot look, and has none.
    let on = |path: &Path| device(path).ok();
    is_pin(path) && on(path).is_some() && on(path) == path.parent().and_then(on)
}

fn is_pin(path: &Path) -> bool {
    let Ok(rest) = path.strip_prefix(BASE) else { return false };
    let parts: Vec<Component<'_>> = rest.components().collect();
    parts.len() == 2 && parts.iter().all(|part| matches!(part, Component::Normal(_)))
}

/// Lets go of what was held at `pin`, and of what nothing is held at any more.
pub(super) fn release(pin: &Path) {
    let (true, Some(folder)) = (is_pin(pin), pin.parent()) else { return };
    if !pin.exists() {
        return;
    }
    let released = lock().and_then(|_lock| {
        // A container that still runs keeps what it has.
        let _ = rustix::mount::unmount(pin, UnmountFlags::DETACH);
        fs::remove_dir(pin)?;
        if fs::read_dir(folder)?.next().is_none() {
            rustix::mount::unmount(folder, UnmountFlags::empty())?;
            fs::remove_dir(folder)?;
        }
        Ok(())
    });
    if let Err(error) = released {
        tracing::debug!(pin = %pin.display(), error = %error, "cannot be released");
    }
}

/// Opens a folder whose links were resolved when it was judged: one that is on the way now was put
/// there since.
fn unlinked(path: &Path) -> Result<OwnedFd, BackendError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        .or_else(
            // A kernel or a filter without it: there the judgement of the manifest stands alone.
            |error| match error {
                rustix::io::Errno::NOSYS | rustix::io::Errno::PERM => {
                    rustix::fs::openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty())
                }
                other => Err(other),
            },
        );
    opened.map_err(|error| {
        let why = match error {
            rustix::io::Errno::LOOP => "a link leads elsewhere now".to_owned(),
            other => io::Error::from(other).to_string(),
        };
        BackendError::Unsupported(format!(
            "the workspace {} is not the folder that it was: {why}; put it back, or change \
             `workspace.path`",
            path.display()
        ))
    })
}

/// One at a time makes and removes folders to mount on.
fn lock() -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(BASE) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let base = fs::symlink_metadata(BASE)?;
    if !base.is_dir() || base.uid() != 0 || base.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("{BASE} is not root's own folder")));
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(Path::new(BASE).join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn mount(pin: &Path, folder: &OwnedFd) -> anyhow::Result<()> {
    let _lock = lock()?;
    let stage = pin.parent().context("a mount has a folder")?;
    for (path, what) in [(stage, "tmpfs"), (pin, "pin")] {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
        }
        if what == "tmpfs" && device(path)? == device(Path::new(BASE))? {
            let options = c"mode=0700,size=256k";
            rustix::mount::mount("bottle", path, "tmpfs", MountFlags::NOSUID, options)
                .context("mounting a tmpfs")?;
            // What is mounted on it appears nowhere else.
            rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE)?;
        }
    }
    let there = fs::metadata(pin)?;
    let wanted = rustix::fs::fstat(folder)?;
    if (there.dev(), there.ino()) == (wanted.st_dev, wanted.st_ino) {
        return Ok(());
    }
    // Another folder of that name, before the operator put this one in its place.
    let _ = rustix::mount::unmount(pin, UnmountFlags::DETACH);
    // Without what is mounted below it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(folder, "", flags).context("copying the mount")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, pin, flags).context("mounting it")?;
    // Unmounting it must not unmount what is mounted in the original.
    rustix::mount::mount_change(pin, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mounts_are_released() {
        assert!(is_pin(Path::new("/run/bottle-mounts/00ff/team-ada-1234")));
        for other in ["/run/bottle-mounts", "/run/bottle-mounts/x", "/run/x/y", "/w", ""] {
            assert!(!is_pin(Path::new(other)), "{other}");
        }
        assert!(!is_pin(Path::new("/run/bottle-mounts/x/../..")));
        let set = "/run/bottle-mounts/00ff/team-ada-1234:/workspace:rw";
        assert_eq!(in_setting(set).unwrap(), Path::new("/run/bottle-mounts/00ff/team-ada-1234"));
        assert_eq!(in_setting("/srv/w:/workspace:rw"), None);
    }

    #[test]
    fn only_mounts_of_this_owner_and_state_folder_are_leftovers() {
        let scope = super::super::labels::tests::scope();
        let leftover = |path: &str| Leftover {
            backend: BackendKind::Docker,
            kind: LeftoverKind::Scratch,
            id: InstanceId(format!("{LEFTOVER}{path}")),
            name: path.to_owned(),
            digest: None,
        };
        let (state, owner) = (&scope.state, &scope.owner);
        let own = format!("{BASE}/{state}/{owner}.ada.1234");
        assert_eq!(left(&scope, &leftover(&own)).unwrap(), Path::new(&own));
        for other in [
            format!("{BASE}/{state}/other.ada.1234"),
            format!("{BASE}/elsewhere/{owner}.ada.1234"),
            format!("{BASE}/{state}/{owner}.x/../../{owner}.y"),
            format!("{BASE}/{state}"),
            "/home".to_owned(),
        ] {
            assert_eq!(left(&scope, &leftover(&other)), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_is_being_made_is_kept() {
        let pin = Path::new(BASE).join("none/team.ada.1");
        making().insert(pin.clone(), Made { now: 1, ever: 1 });
        let guard = Making(pin.clone());
        assert_eq!(made(&pin).now, 1);
        drop(guard);
        assert_eq!(made(&pin), Made { now: 0, ever: 1 });
        prune(&pin, async || Ok(BTreeSet::new())).await.unwrap();
    }

    #[test]
    fn a_link_on_the_way_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/w")).unwrap();
        assert!(unlinked(&root.join("a/w")).is_ok());
        fs::rename(root.join("a"), root.join("b")).unwrap();
        std::os::unix::fs::symlink("b", root.join("a")).unwrap();
        let error = unlinked(&root.join("a/w")).unwrap_err().to_string();
        assert!(error.contains("a link leads elsewhere now"), "{error}");
    }
}
