#![expect(clippy::disallowed_methods, reason = "looks at its own descriptors")]
//! What a sidecar that runs on the host gives up before it serves.
//!
//! It reads bytes of a machine that nobody trusts, with a user's rights. So it keeps no descriptor
//! that it does not need, cannot be looked into, cannot start a program, and reaches no file but
//! those of its own folder.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// System calls that a process which only moves bytes has no use for.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_mknodat,
];

/// What it holds stays in it: it leaves no core, neither as a file nor to the host's handler of them, and
/// nobody but root looks into it. Called first thing, wherever the process runs.
///
/// # Errors
/// When the kernel does not let it.
pub fn keep_to_itself() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up what is not needed. Called before there is a second thread, for the last two bind only
/// the thread that calls, and those that it starts.
///
/// # Errors
/// When something could not be given up that this kernel lets one give up.
pub fn confine(keep: &[RawFd], folders: &[&Path]) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    raise_descriptors();
    let keep: Vec<RawFd> = keep.iter().copied().chain(random_sources()).collect();
    close_all_but(&keep);
    landlock(folders).map_err(io::Error::other)?;
    refuse(REFUSED)
}

/// The same for a process that carries bytes between sockets which it connects, as that user it is; with or without
/// files, which names are looked up in.
///
/// # Errors
/// When something could not be given up.
pub fn carry_bytes(no_files: bool) -> io::Result<()> {
    start_programs()?;
    if no_files {
        landlock(&[]).map_err(io::Error::other)?;
    }
    refuse(REFUSED)
}

/// The same for one whose way leads through a program: it has no rights but its user's, and no descriptor.
///
/// # Errors
/// When something could not be given up.
pub fn start_programs() -> io::Result<()> {
    keep_to_itself()?;
    raise_descriptors();
    close_all_but(&random_sources());
    drop_capabilities()
}

/// The same for a process that starts programs, and reaches nothing by the network: it has no socket but those
/// that it is given.
///
/// # Errors
/// When it could not be given up.
pub(super) fn refuse_dialling() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let starting = [libc::SYS_execve, libc::SYS_execveat];
    let refused = REFUSED.iter().filter(|call| !starting.contains(call));
    let refused: Vec<i64> =
        refused.copied().chain([libc::SYS_socket, libc::SYS_connect, libc::SYS_bind]).collect();
    refuse(&refused)?;
    refuse_where(&datagrams().map_err(io::Error::other)?)
}

/// What reaches somebody without any of those: a pair of sockets for datagrams sends them to any address, and so does
/// a TCP socket that opens with its first bytes.
fn datagrams() -> Result<Vec<(i64, SeccompRule)>, seccompiler::BackendError> {
    let is = |at: u8, mask: i32, value: i32| {
        let mask = u64::from(mask.unsigned_abs());
        let value = u64::from(value.unsigned_abs());
        let is = SeccompCmpOp::MaskedEq(mask);
        SeccompCondition::new(at, SeccompCmpArgLen::Dword, is, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    /// The kind of a socket, without its flags.
    const KIND: i32 = 0xf;
    let open = libc::MSG_FASTOPEN;
    let somebody = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    Ok(vec![
        (libc::SYS_socketpair, is(1, KIND, libc::SOCK_DGRAM)?),
        (libc::SYS_sendto, SeccompRule::new(vec![somebody])?),
        (libc::SYS_sendto, is(3, open, open)?),
        (libc::SYS_sendmsg, is(2, open, open)?),
        (libc::SYS_sendmmsg, is(3, open, open)?),
    ])
}

/// Gives up every capability for good, also those that a program would have that it starts.
///
/// # Errors
/// When one could not be given up.
pub(super) fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    rustix::thread::set_no_new_privs(true)?;
    let _ = rustix::thread::clear_ambient_capability_set();
    for capability in CapabilitySet::all().iter() {
        if matches!(rustix::thread::capability_is_in_bounding_set(capability), Ok(true)) {
            // Who has not the right to do so has nothing to give up either.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// As many descriptors as the hard limit lets there be: each connection takes two.
pub(super) fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(maximum.unwrap_or(u64::MAX).min(8192));
    if current.is_some_and(|current| Some(current) < wanted) {
        // With fewer it takes fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum });
    }
}

/// Where the randomness of a static program comes from: without a dynamic linker to ask whether there
/// is `getrandom`, the crate of that name reads a device, and keeps the number of its descriptor. Were
/// it closed, the next descriptor of that number would be read instead.
pub(super) fn random_sources() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let devices = entries.filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("/dev/urandom"))
    });
    devices.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[expect(unsafe_code, reason = "no safe wrapper closes descriptors that nothing owns")]
pub(super) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.extend([0, 1, 2]);
    keep.sort_unstable();
    keep.dedup();
    let mut from = 0_u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if from < fd {
            // SAFETY: called first thing in the process, before any value owns a descriptor that
            // is not in `keep`.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Files are reached beneath these folders only. A kernel without Landlock lets the rest stand.
fn landlock(folders: &[&Path]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let all = AccessFs::from_all(ABI::V5);
    let own = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::Refer
        | AccessFs::Truncate;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?;
    for folder in folders {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(folder)?, own))?;
    }
    // See `random_sources`; it may not have opened them yet.
    for device in ["/dev/random", "/dev/urandom"] {
        if let Ok(device) = PathFd::new(device) {
            ruleset = ruleset.add_rule(PathBeneath::new(device, AccessFs::ReadFile))?;
        }
    }
    ruleset.restrict_self()?;
    Ok(())
}

fn refuse(calls: &[i64]) -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    refuse_x32()?;
    apply(calls.iter().map(|call| (*call, Vec::new())).collect())
}

/// Refuses calls where one of their rules holds.
fn refuse_where(rules: &[(i64, SeccompRule)]) -> io::Result<()> {
    let mut by_call = BTreeMap::<i64, Vec<SeccompRule>>::new();
    for (call, rule) in rules {
        by_call.entry(*call).or_default().push(rule.clone());
    }
    apply(by_call)
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>) -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

/// Where a kernel knows them, the same calls have other numbers in another ABI of the same processor, which no list
/// names.
#[cfg(target_arch = "x86_64")]
fn refuse_x32() -> io::Result<()> {
    const X32: u32 = 0x4000_0000;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jf: u8, k: u32| {
        u16::try_from(code).map(|code| sock_filter { code, jt: 0, jf, k }).map_err(io::Error::other)
    };
    // The number of a call is the first of what a filter sees.
    let program: BpfProgram = vec![
        step(LOAD, 0, 0)?,
        step(AT_LEAST, 1, X32)?,
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs())?,
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW)?,
    ];
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
