//! What a sandbox sees: its root, put together from what is allowed.
//!
//! Every mount is made detached and then put on a folder that was resolved inside the new root, so
//! that nothing which the sandbox left there (a symlink, a renamed folder) leads elsewhere. Shared
//! folders come through an overlay: it is what makes them writable, and what keeps the unix sockets
//! that may lie in them out of reach.

#![expect(clippy::disallowed_methods, reason = "mounting is effects")]

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{CWD, Mode as FileMode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::filesystem;
use super::inside::{Inside, Owner};
use super::state::{Mode, Record, RootFs};
use super::sys;
use crate::backend::guest_path;
use crate::model::fs_path::unescape;
use crate::model::tool;

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// What building needs from the host, opened or looked up before.
pub(super) struct Sources<'a> {
    pub(super) record: &'a Record,
    /// The user namespace of a root-made sandbox.
    pub(super) userns: Option<BorrowedFd<'a>>,
    /// The one that maps the host's programs: system accounts alone. What people own among them is
    /// nobody's inside, not that of whoever has their number there.
    pub(super) programs_userns: Option<BorrowedFd<'a>>,
    /// The one that maps the workspace's owner to the sandbox's user.
    pub(super) workspace_userns: Option<BorrowedFd<'a>>,
    /// What lies in the folders that are shared and must not be seen: the state folder.
    pub(super) hidden: &'a [PathBuf],
}

/// Makes the sandbox's root the root of this process. It is in a mount namespace of its own, in the
/// sandbox's folder.
pub(super) fn enter_root(sources: &Sources<'_>) -> anyhow::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("making mounts private")?;
    let mut view = View::new(sources)?;
    match &sources.record.rootfs {
        RootFs::Host { .. } => view.host()?,
        RootFs::Image { .. } => {}
    }
    for path in &sources.record.host_paths {
        let target = path.to_str().context("a host path is not UTF-8")?;
        view.show(path, target, Access::Read).with_context(|| format!("showing {target}"))?;
    }
    view.tools()?;
    view.workspace()?;
    view.kernel_files()?;
    view.devices()?;
    view.run()?;
    view.pivot()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

struct View<'a> {
    sources: &'a Sources<'a>,
    root: Inside,
    /// How many lower layers were put on the stage.
    staged: u32,
    /// Mount points of the host, and the state folder: not shown within what is shown.
    skipped: Vec<PathBuf>,
}

impl<'a> View<'a> {
    fn new(sources: &'a Sources<'a>) -> anyhow::Result<Self> {
        let stage = filesystem("tmpfs", &[("mode", "0700")], 0)?;
        put(&stage, CWD, "stage")?;
        for folder in ["root", "empty"] {
            fs::create_dir(Path::new("stage").join(folder))?;
        }
        let mut staged = 0;
        let lower = match &sources.record.rootfs {
            RootFs::Host { base } => format!("../.bases/{base}"),
            RootFs::Image { digest } => format!("../.images/{digest}/rootfs"),
        };
        let lower = stage_lower(Path::new(&lower), sources.userns, &mut staged)?;
        let root = overlay(&lower, Some("root"), sources.record.mode).map_err(no_layer)?;
        sys::mount_setattr(root.as_fd(), NOSUID | NODEV, None)?;
        put(&root, CWD, "stage/root")?;
        let mut skipped = mount_points()?;
        skipped.extend_from_slice(sources.hidden);
        Ok(Self { sources, root: Inside::new("stage/root")?, staged, skipped })
    }

    /// The sandbox's root, as the host counts, where that can be said.
    fn owner(&self) -> Option<Owner> {
        self.sources.record.mode.host_id(0).map(|id| (id, id))
    }

    fn user(&self) -> Option<Owner> {
        let user = &self.sources.record.user;
        let mode = self.sources.record.mode;
        mode.host_id(user.uid).zip(mode.host_id(user.gid))
    }

    /// The host's programs.
    fn host(&mut self) -> anyhow::Result<()> {
        for folder in super::base::program_folders() {
            let target = folder.to_str().context("a folder of / is not UTF-8")?;
            self.show(&folder, target, Access::Write)
                .with_context(|| format!("showing {target}"))?;
        }
        Ok(())
    }

    /// How the ids of what is shown are mapped: of programs, and of what the operator named.
    fn userns(&self, access: Access) -> Option<BorrowedFd<'a>> {
        match access {
            Access::Write => self.sources.programs_userns,
            Access::Read => self.sources.userns,
        }
    }

    /// Shows the host's folder `source` as `target`.
    fn show(&mut self, source: &Path, target: &str, access: Access) -> anyhow::Result<()> {
        if self.skipped.iter().any(|skipped| skipped != source && skipped.starts_with(source)) {
            return self.show_children(source, target, access);
        }
        let lower = stage_lower(source, self.userns(access), &mut self.staged)?;
        let name = target.trim_matches('/').replace('%', "%25").replace('/', "%2f");
        let upper = (access == Access::Write).then_some(name.as_str());
        let shown = match overlay(&lower, upper, self.sources.record.mode) {
            Ok(merged) => merged,
            // The host's programs are also good read-only. A folder that the operator named may
            // hold sockets, and a plain mount would let them be reached.
            Err(_) if access == Access::Write => {
                let plain = clone_tree(Path::new(&lower))?;
                sys::mount_setattr(plain.as_fd(), RDONLY, None)?;
                plain
            }
            Err(error) => return Err(error.context("this kernel makes no overlay of it")),
        };
        sys::mount_setattr(shown.as_fd(), NOSUID | NODEV, None)?;
        self.root.ensure_dir(target, 0o755, self.owner())?;
        self.put(&shown, target)
    }

    /// The same, one by one, without what is mounted in it or must not be seen.
    fn show_children(&mut self, source: &Path, target: &str, access: Access) -> anyhow::Result<()> {
        let folder = self.root.ensure_dir(target, 0o755, self.owner())?;
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if self.skipped.contains(&path) {
                continue;
            }
            let inner = format!("{target}/{name}");
            if kind.is_dir() {
                self.show(&path, &inner, access)?;
            } else if kind.is_symlink() {
                match rustix::fs::symlinkat(fs::read_link(&path)?, &folder, name) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if kind.is_file() {
                let file = clone_tree(&path)?;
                sys::mount_setattr(file.as_fd(), RDONLY | NOSUID | NODEV, self.userns(access))?;
                self.put_file(&file, &folder, name)?;
            }
        }
        Ok(())
    }

    /// Programs of the operator's, and a folder of links to them that nobody inside can change.
    fn tools(&mut self) -> anyhow::Result<()> {
        let tools = &self.sources.record.tools;
        if tools.is_empty() {
            return Ok(());
        }
        let shown = &self.sources.record.host_paths;
        for folder in tool::folders(tools) {
            if tool::is_of_the_system(folder) || shown.iter().any(|path| folder.starts_with(path)) {
                continue;
            }
            let target = folder.to_str().context("the path of a tool is not UTF-8")?;
            // What leads there may be the user's own home, who works in it.
            let way = folder.parent().filter(|way| way.starts_with(&self.sources.record.user.home));
            if let Some(way) = way.and_then(Path::to_str) {
                self.root.ensure_dir(way, 0o755, self.user())?;
            }
            self.show(folder, target, Access::Read).with_context(|| format!("showing {target}"))?;
        }
        self.root.ensure_dir("etc/bottle", 0o755, self.owner())?;
        self.root.ensure_dir(tool::TOOLS, 0o755, self.owner())?;
        let links = self.tmpfs("0755", "256k", NOSUID | NODEV, self.owner())?;
        self.put(&links, tool::TOOLS)?;
        let folder = self.root.open(tool::TOOLS, OFlags::PATH | OFlags::DIRECTORY)?;
        for (name, found) in tools {
            rustix::fs::symlinkat(&found.program, &folder, name.as_str())?;
        }
        Ok(sys::mount_setattr(folder.as_fd(), RDONLY, None)?)
    }

    /// The host folder that is worked on, writable. Its owner is the sandbox's user; nobody else's
    /// files can be changed through it.
    fn workspace(&mut self) -> anyhow::Result<()> {
        let Some(mount) = &self.sources.record.mount else { return Ok(()) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let whole = match self.sources.record.mode {
            Mode::Root { .. } => OpenTreeFlags::empty(),
            // Without the right to look beneath the mounts in it, all of them come along.
            Mode::Rootless => OpenTreeFlags::AT_RECURSIVE,
        };
        let tree = unlinked(&mount.path)
            .and_then(|folder| {
                let flags = flags | whole | OpenTreeFlags::AT_EMPTY_PATH;
                Ok(rustix::mount::open_tree(folder, "", flags)?)
            })
            .with_context(|| format!("mounting {}", mount.path.display()))?;
        sys::mount_setattr(tree.as_fd(), NOSUID | NODEV, self.sources.workspace_userns)
            .or_else(|_| sys::mount_setattr(tree.as_fd(), NOSUID | NODEV, None))?;
        self.root.ensure_dir(&mount.target, 0o755, self.user())?;
        self.put(&tree, &mount.target)
    }

    /// `/proc` of the sandbox's own processes, without what speaks of the host or to its kernel;
    /// an empty `/sys`.
    fn kernel_files(&mut self) -> anyhow::Result<()> {
        for (name, mode) in [("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755)] {
            self.root.ensure_dir(name, mode, self.owner())?;
        }
        let proc = filesystem("proc", &[], NOSUID | NODEV | NOEXEC).context(
            "mounting /proc (an ordinary user cannot where the host's own /proc is partly covered, \
             as in a container)",
        )?;
        self.put(&proc, "proc")?;
        for name in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
            let path = format!("proc/{name}");
            let Ok(target) = self.root.open(&path, OFlags::PATH) else { continue };
            let tree = rustix::mount::open_tree(
                &target,
                "",
                OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH,
            )?;
            sys::mount_setattr(tree.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, None)?;
            put(&tree, target, "")?;
        }
        for name in MASKED {
            let path = format!("proc/{name}");
            let Ok(target) = self.root.open(&path, OFlags::PATH) else { continue };
            let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode)
                == rustix::fs::FileType::Directory;
            let mask = if is_dir {
                filesystem("tmpfs", &[("mode", "0555")], RDONLY | NOSUID | NODEV | NOEXEC)?
            } else {
                let null = clone_tree(Path::new("/dev/null"))?;
                sys::mount_setattr(null.as_fd(), RDONLY | NOSUID | NOEXEC, None)?;
                null
            };
            put(&mask, target, "")?;
        }
        let sys = self.tmpfs("0555", "4k", RDONLY | NOSUID | NODEV | NOEXEC, self.owner())?;
        self.put(&sys, "sys")
    }

    /// The few nodes that programs expect, terminals and shared memory of its own.
    fn devices(&mut self) -> anyhow::Result<()> {
        let dev = self.tmpfs("0755", "64k", NOSUID | NOEXEC, self.owner())?;
        self.put(&dev, "dev")?;
        let folder = self.root.open("dev", OFlags::PATH | OFlags::DIRECTORY)?;
        for name in ["null", "zero", "full", "random", "urandom", "tty"] {
            let node = clone_tree(&Path::new("/dev").join(name))?;
            sys::mount_setattr(node.as_fd(), NOSUID | NOEXEC, None)?;
            self.put_file(&node, &folder, name)?;
        }
        for (name, to) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            rustix::fs::symlinkat(to, &folder, name)?;
        }
        for name in ["pts", "shm"] {
            self.root.ensure_dir(&format!("dev/{name}"), 0o755, self.owner())?;
        }
        let tty = self.sources.record.mode.host_id(5).map(|gid| gid.to_string());
        let mut options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        if let Some(gid) = &tty {
            options.push(("gid", gid));
        }
        self.put(&filesystem("devpts", &options, NOSUID | NOEXEC)?, "dev/pts")?;
        let shared = self.tmpfs("1777", "64m", NOSUID | NODEV | NOEXEC, self.owner())?;
        self.put(&shared, "dev/shm")?;
        sys::mount_setattr(
            self.root.open("dev", OFlags::PATH | OFlags::DIRECTORY)?.as_fd(),
            RDONLY,
            None,
        )?;
        Ok(())
    }

    /// `/run`, of which nothing survives a stop, with the folder that secrets are delivered to.
    fn run(&mut self) -> anyhow::Result<()> {
        self.put(&self.tmpfs("0755", "64m", NOSUID | NODEV, self.owner())?, "run")?;
        self.root.ensure_dir("run/lock", 0o1777, self.owner())?;
        self.root.ensure_dir(guest_path::RUN, 0o700, self.user())?;
        let secrets = self.tmpfs("0700", "16m", NOSUID | NODEV, self.user())?;
        self.put(&secrets, guest_path::RUN)?;
        if let Some(workdir) = &self.sources.record.workdir {
            self.root.ensure_dir(workdir, 0o755, self.user())?;
        }
        let user = &self.sources.record.user;
        match self.root.ensure_dir(&user.home, 0o755, self.user()) {
            // A bottle may name one among the host's own folders.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(())
            }
            made => Ok(made.map(drop)?),
        }
    }

    /// Puts the new root in the place of the old one, of which nothing stays.
    fn pivot(&self) -> anyhow::Result<()> {
        let root = self.root.open("/", OFlags::DIRECTORY)?;
        rustix::process::fchdir(&root)?;
        rustix::process::pivot_root(".", ".").context("changing the root")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).context("leaving the host's root")?;
        rustix::process::chdir("/")?;
        Ok(())
    }

    fn tmpfs(
        &self,
        mode: &str,
        size: &str,
        attributes: u64,
        owner: Option<Owner>,
    ) -> anyhow::Result<OwnedFd> {
        let owner = owner.map(|(uid, gid)| (uid.to_string(), gid.to_string()));
        let mut options = vec![("mode", mode), ("size", size)];
        if let Some((uid, gid)) = &owner {
            options.extend([("uid", uid.as_str()), ("gid", gid.as_str())]);
        }
        filesystem("tmpfs", &options, attributes)
    }

    /// Puts a mount on a folder inside.
    fn put(&self, mount: &OwnedFd, target: &str) -> anyhow::Result<()> {
        let folder = self.root.open(target, OFlags::PATH | OFlags::DIRECTORY)?;
        put(mount, folder, "").with_context(|| format!("mounting {target}"))
    }

    /// Puts a mount of a file on a file inside, made for it.
    fn put_file(&self, mount: &OwnedFd, folder: &OwnedFd, name: &str) -> anyhow::Result<()> {
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        let file = rustix::fs::openat(folder, name, flags, FileMode::from_raw_mode(0o600))
            .with_context(|| format!("making {name}"))?;
        put(mount, file, "").with_context(|| format!("mounting {name}"))
    }
}

/// Files of `/proc` that speak of the host or to its kernel, as Docker masks them.
const MASKED: [&str; 11] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "kallsyms",
];

/// A new file system, mounted nowhere yet.
fn filesystem(kind: &str, options: &[(&str, &str)], attributes: u64) -> anyhow::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .with_context(|| format!("opening a {kind}"))?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *key)
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)
        }
        .with_context(|| format!("setting {key} of a {kind}"))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).with_context(|| format!("making a {kind}"))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes)?);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .with_context(|| format!("mounting a {kind}"))
}

/// A detached copy of the mount at `path`, without the mounts in it.
fn clone_tree(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    unlinked(path)
        .and_then(|opened| Ok(rustix::mount::open_tree(opened, "", flags)?))
        .with_context(|| format!("taking a copy of the mount {}", path.display()))
}

/// Opens `path`, whose links were resolved when it was judged: one that is on the way now was put
/// there since, perhaps by a sandbox that can write to a folder above.
fn unlinked(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, FileMode::empty(), ResolveFlags::NO_SYMLINKS)
        .context("there is a symlink on the way that was not there before, or it is gone")
}

/// Puts a detached mount on `path` of `folder`, or on `folder` itself.
fn put(mount: &OwnedFd, folder: impl AsFd, path: &str) -> anyhow::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    Ok(rustix::mount::move_mount(mount, "", folder, path, flags)?)
}

/// Puts a copy of `source` on the stage, its ids mapped where they can be: an overlay takes its
/// lower layer by path. Returns that path.
fn stage_lower(
    source: &Path,
    userns: Option<BorrowedFd<'_>>,
    staged: &mut u32,
) -> anyhow::Result<String> {
    let tree = clone_tree(source)?;
    if let Some(userns) = userns {
        // A file system that cannot map ids shows its files as nobody's: readable all the same.
        let _ = sys::mount_setattr(tree.as_fd(), 0, Some(userns));
    }
    let path = format!("stage/{staged}");
    *staged += 1;
    fs::create_dir(&path)?;
    put(&tree, CWD, &path)?;
    Ok(path)
}

/// An overlay of `lower`, mounted nowhere yet: with the writable layer of this name, or read-only.
fn overlay(lower: &str, upper: Option<&str>, mode: Mode) -> anyhow::Result<OwnedFd> {
    let read_only = format!("{lower}:stage/empty");
    let layers;
    let mut options = Vec::new();
    if let Some(name) = upper {
        layers = [format!("upper/{name}"), format!("work/{name}")];
        for (layer, layer_mode) in layers.iter().zip([0o755, 0o700]) {
            let made = Inside::new(".")?;
            made.ensure_dir(layer, layer_mode, mode.host_id(0).map(|id| (id, id)))?;
        }
        options.push(("lowerdir", lower));
        options.extend([("upperdir", layers[0].as_str()), ("workdir", layers[1].as_str())]);
    } else {
        options.push(("lowerdir", read_only.as_str()));
    }
    if mode == Mode::Rootless {
        options.push(("userxattr", ""));
    }
    filesystem("overlay", &options, if upper.is_some() { 0 } else { RDONLY })
}

/// Why a root got no writable layer: mostly because of what the state folder lies on.
fn no_layer(error: anyhow::Error) -> anyhow::Error {
    let what = "putting a writable layer over its root";
    match filesystem::unsuited(Path::new(".")) {
        Some(name) => error.context(format!(
            "{what}: the state folder lies on {name}, and the kernel puts none there: {}",
            filesystem::ELSEWHERE
        )),
        None => error.context(what),
    }
}

/// Where the host has mounts.
fn mount_points() -> anyhow::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect())
}
