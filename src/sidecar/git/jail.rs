#![expect(clippy::disallowed_methods, reason = "starts programs in jails")]
//! Jails: what a program that this process starts may still do.
//!
//! Each has a layer of Landlock of its own, on top of this process's, limits of memory and of time, a group
//! of its own, and dies with the thread that started it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
};
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::wire::{Deadline, Waited, wait};
use crate::model::gate::PROGRAM_FOLDERS;

/// What a program may need of memory.
const MEMORY: u64 = 3 << 30;
/// Seconds of a processor.
const SECONDS: u64 = 600;
/// How much less it counts than what people wait for.
const NICE: i32 = 10;

/// What can be done with files.
#[derive(Debug, Default, Clone)]
pub(super) struct Files {
    pub(super) execute: Vec<PathBuf>,
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
}

/// A layer of Landlock that was made ready.
#[derive(Debug, Clone)]
pub(super) struct Layer(Arc<OwnedFd>);

fn error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn writing() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V5)
}

fn created(handled: BitFlags<AccessFs>, scoped: bool) -> io::Result<RulesetCreated> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(handled & AccessFs::from_all(ABI::V1))
        .map_err(|_| io::Error::other("git needs Landlock (Linux 5.13)"))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)
        .map_err(error)?;
    if scoped {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal).map_err(error)?;
    }
    ruleset.create().map_err(|_| io::Error::other("git needs Landlock (Linux 5.13)"))
}

fn add(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(ruleset) };
    let access = if found.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
    let beneath = PathBeneath::new(PathFd::new(path).map_err(error)?, access);
    ruleset.add_rule(beneath).map_err(error)
}

impl Files {
    /// A layer that lets only this be done with files. What is not there is left out.
    fn whole(&self) -> io::Result<RulesetCreated> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut ruleset = created(AccessFs::from_all(ABI::V5), true)?;
        for path in &self.execute {
            ruleset = add(ruleset, path, read | AccessFs::Execute)?;
        }
        for path in &self.read {
            ruleset = add(ruleset, path, read)?;
        }
        for path in &self.write {
            ruleset = add(ruleset, path, read | writing())?;
        }
        ruleset = add(ruleset, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
        for device in ["/dev/random", "/dev/urandom"] {
            ruleset = add(ruleset, Path::new(device), AccessFs::ReadFile.into())?;
        }
        Ok(ruleset)
    }

    /// Confines this thread, and all that it starts, for good.
    pub(super) fn confine(&self) -> io::Result<()> {
        self.whole()?.restrict_self().map_err(error)?;
        Ok(())
    }

    /// A layer for what is started.
    pub(super) fn layer(&self) -> io::Result<Layer> {
        Layer::of(self.whole()?)
    }
}

impl Layer {
    fn of(ruleset: RulesetCreated) -> io::Result<Self> {
        let descriptor: Option<OwnedFd> = ruleset.into();
        descriptor
            .map(|fd| Self(Arc::new(fd)))
            .ok_or_else(|| io::Error::other("git needs Landlock (Linux 5.13)"))
    }

    /// Nothing can be written but beneath these; what can be read stays as it is.
    pub(super) fn writing(folders: &[&Path]) -> io::Result<Self> {
        let mut ruleset = created(writing(), true)?;
        for folder in folders {
            ruleset = add(ruleset, folder, writing())?;
        }
        Self::of(add(ruleset, Path::new("/dev/null"), AccessFs::WriteFile.into())?)
    }
}

/// A program in a jail. Dropped, it and all that it has started is killed.
#[derive(Debug)]
pub(super) struct Jailed {
    child: Child,
    pidfd: OwnedFd,
    ended: Option<ExitStatus>,
}

/// Starts a program in a jail. `hand` become its descriptors from 3 on.
pub(super) fn start(
    mut command: Command,
    layer: &Layer,
    hand: &[BorrowedFd<'_>],
) -> io::Result<Jailed> {
    let layer = layer.0.as_raw_fd();
    let hand: Vec<RawFd> = hand.iter().map(AsRawFd::as_raw_fd).collect();
    // Room for the copies, so that nothing is allocated in between.
    let mut copies = vec![-1; hand.len()];
    command.process_group(0);
    let prepare = move || {
        restrict(layer)?;
        hand_on(&hand, &mut copies)
    };
    before_exec(&mut command, prepare);
    let child = command.spawn()?;
    drop(command);
    let pid = Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Jailed { child, pidfd, ended: None })
}

#[expect(unsafe_code, reason = "what a program gives up has to be given up in it")]
pub(super) fn before_exec(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: what is given here makes system calls only.
    unsafe { command.pre_exec(prepare) };
}

#[expect(unsafe_code, reason = "system calls between fork and exec")]
fn restrict(layer: RawFd) -> io::Result<()> {
    let limit = |resource, most| {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: it reads the structure.
        if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    die_with_parent()?;
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_AS, MEMORY)?;
    limit(libc::RLIMIT_CPU, SECONDS)?;
    // SAFETY: neither takes a pointer.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_landlock_restrict_self, layer, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// It is killed when the thread ends that started it.
#[expect(unsafe_code, reason = "a system call between fork and exec")]
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: it takes no pointer.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes these the descriptors from 3 on; all others go with exec.
#[expect(unsafe_code, reason = "system calls between fork and exec")]
pub(super) fn hand_on(hand: &[RawFd], copies: &mut [RawFd]) -> io::Result<()> {
    // First out of the way, for one may be where another has to go.
    for (copy, from) in copies.iter_mut().zip(hand) {
        // SAFETY: it takes numbers.
        *copy = unsafe { libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, 64) };
        if *copy < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for (to, copy) in (3..).zip(copies.iter()) {
        // SAFETY: it takes numbers.
        if unsafe { libc::dup2(*copy, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Jailed {
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits so long for its end; `None`: it goes on, or the guest has left.
    pub(super) fn wait(
        &mut self,
        guest: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> io::Result<Result<ExitStatus, Waited>> {
        use std::os::fd::AsFd as _;
        if let Some(ended) = self.ended {
            return Ok(Ok(ended));
        }
        match wait(self.pidfd.as_fd(), PollFlags::IN, guest, deadline)? {
            Waited::Ready => {
                // While nobody else can have its number; what it has started has no other end.
                let _ =
                    rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
                let status = self.child.wait()?;
                self.ended = Some(status);
                Ok(Ok(status))
            }
            other => Ok(Err(other)),
        }
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Where a program of this name is.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let found = PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    found.filter_map(|path| std::fs::canonicalize(path).ok()).find(|path| path.is_file())
}

/// What loads this program: the dynamic linker that its header names.
pub(super) fn loader(program: &Path) -> Option<PathBuf> {
    let bytes = head(program)?;
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for at in (0..count).map(|index| table + index * size) {
        if number(at, 4)? == 3 {
            let (from, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
            let text = bytes.get(from..from + length)?.split(|byte| *byte == 0).next()?;
            use std::os::unix::ffi::OsStrExt as _;
            return std::fs::canonicalize(OsStr::from_bytes(text)).ok();
        }
    }
    None
}

fn head(program: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(program).ok()?.take(64 << 10).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Where the libraries of programs are.
pub(super) fn libraries() -> Vec<PathBuf> {
    const PLACES: &[&str] = &[
        "/lib",
        "/lib32",
        "/lib64",
        "/usr/lib",
        "/usr/lib32",
        "/usr/lib64",
        "/usr/libexec",
        "/usr/local/lib",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/nix/store",
        "/gnu/store",
    ];
    PLACES.iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_found() {
        let git = find("git").unwrap();
        let loader = loader(&git).unwrap();
        assert!(loader.to_str().unwrap().contains("ld-"), "{}", loader.display());
    }
}
