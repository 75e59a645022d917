//! The few system calls that have no safe wrapper: all of this backend's `unsafe` is here.
//!
//! Everything else of the kernel is reached through rustix, landlock and seccompiler. The helper
//! that calls these has one thread, which is what makes `fork` and `unshare` sound.

#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why it holds"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Splits the process in two. The caller has one thread.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the helper is single-threaded, so the child inherits no lock that is held.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Ends the process at once: no destructors, no exit handlers, nothing flushed twice after a fork.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any code and does not return.
    unsafe { libc::_exit(code) }
}

/// Kills every process of the caller's namespace but the caller, which is its first. Whether there was one that it
/// may end.
pub(super) fn kill_all() -> bool {
    // SAFETY: a system call with two numbers. Who is not the first process of a namespace would end the host's.
    std::process::id() == 1 && unsafe { libc::kill(-1, libc::SIGKILL) } == 0
}

/// Leaves the given namespaces for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: only an unshared file table is unsafe, and `FILES` is never asked for.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn signal_set(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: an all-zero `sigset_t` is valid, and `sigemptyset` and `sigaddset` write only to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        set
    }
}

/// Blocks exactly these signals; no signal at all: whatever was blocked is let through.
pub(super) fn block_signals(signals: &[Signal]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised and outlives the call; no old mask is asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}

/// Gives every signal its default action again: what the caller ignores (`nohup`, a job in the
/// background) would be ignored by all that is started from here. `SIGPIPE` is left to the standard
/// library, which ignores it here and not in what is executed.
pub(super) fn default_signals() {
    for number in (1..=64).filter(|number| *number != libc::SIGPIPE) {
        // SAFETY: the default action is no code of ours. Those that have no other, or that the C
        // library keeps to itself, are refused, and stay as they are.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// A descriptor from which these (blocked) signals are read; see [`read_signal`].
pub(super) fn signal_fd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; -1 asks for a new descriptor, which nothing else owns.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        Ok(OwnedFd::from_raw_fd(check(fd)?))
    }
}

/// A signal that arrived.
pub(super) struct Received {
    pub(super) number: i32,
    /// Sent with `kill` by a process outside of this process namespace. Of one inside the kernel says
    /// which it is, unless that fills in the words itself (`rt_sigqueueinfo`) or has something else
    /// send it (`F_SETSIG`): those are told by their code.
    pub(super) from_outside: bool,
}

/// The next pending signal of a [`signal_fd`].
pub(super) fn read_signal(fd: &OwnedFd) -> Option<Received> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut info).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        info.get(at..at + 4).filter(|_| read == info.len())?.try_into().ok()
    };
    let sender = std::mem::offset_of!(libc::signalfd_siginfo, ssi_pid);
    let code = std::mem::offset_of!(libc::signalfd_siginfo, ssi_code);
    let from_outside =
        i32::from_ne_bytes(word(code)?) == libc::SI_USER && u32::from_ne_bytes(word(sender)?) == 0;
    // The structure begins with `ssi_signo: u32`.
    Some(Received { number: i32::from_ne_bytes(word(0)?), from_outside })
}

/// Closes every descriptor but these.
pub(super) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = 0u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if from < fd {
            // SAFETY: called right after a fork, by code that uses only what is in `keep`:
            // descriptors that other values own are never touched again in this process.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Keeps a descriptor open over `exec`.
pub(super) fn inherit(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(io::Error::from)
}

/// Adds attributes to the mount `tree`, and maps its ids by `userns` where one is given.
pub(super) fn mount_setattr(
    tree: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr: libc::mount_attr =
        libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(userns) = userns {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: the path is a C string, `attr` is initialised, and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `_IO(0xb7, 0x1)`: the user namespace that owns a namespace.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// The user namespace that owns the namespace `ns`.
pub(super) fn owner_of_namespace(ns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: this request takes no argument and returns a new descriptor that nothing else owns.
    unsafe {
        let fd = libc::ioctl(ns.as_raw_fd(), NS_GET_USERNS as _);
        Ok(OwnedFd::from_raw_fd(check(fd)?))
    }
}

/// Brings `lo` of the current network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero `ifreq` is valid; the name fits with its terminating NUL; the union's
    // flags are the member that SIOCSIFFLAGS reads; `ifreq` outlives the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        ))?;
    }
    Ok(())
}

/// The stdin that the helper was started with, as a descriptor of its own.
pub(super) fn take_stdin() -> OwnedFd {
    // SAFETY: called once, first thing in the helper, before anything else uses descriptor 0.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Gives the pages of the program's code and constants back that setting up has touched: what is
/// needed again comes from the page cache.
pub(super) fn forget_code() {
    let Ok(table) = std::fs::read_to_string("/proc/self/smaps") else { return };
    let mut range = None;
    for line in table.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some((start, end)) = first.split_once('-') {
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            let of_a_file =
                rest.contains(" /") && (rest.starts_with("r--p") || rest.starts_with("r-xp"));
            range = number(start).zip(number(end)).filter(|_| of_a_file);
        } else if first == "Anonymous:"
            && rest.trim() == "0 kB"
            && let Some((start, end)) = range.take()
        {
            // SAFETY: a private mapping of a file, not writable, none of whose pages was ever
            // written to: what is read there next is the same again.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}
