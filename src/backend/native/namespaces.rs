//! User namespaces and the maps that make ids in them mean something.

#![expect(clippy::disallowed_methods, reason = "maps are files of /proc")]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::Context;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use super::state::Mode;
use super::sys::{self, Fork};

/// How this process can make sandboxes. Decided by what it may do, not by its number: uid 0 of a
/// container may be as powerless as anyone.
pub(super) fn mode() -> Mode {
    // Which ids is decided for each sandbox: `ids`.
    if may_map_ids() { Mode::Root { base: 0 } } else { Mode::Rootless }
}

/// Root, with the capabilities that count, of a user namespace in which all ids exist.
fn may_map_ids() -> bool {
    use rustix::thread::CapabilitySet as Cap;
    let needed = Cap::SYS_ADMIN
        | Cap::SETUID
        | Cap::SETGID
        | Cap::CHOWN
        | Cap::NET_ADMIN
        | Cap::SETPCAP
        | Cap::DAC_OVERRIDE
        | Cap::FOWNER
        | Cap::SYS_CHROOT
        | Cap::KILL;
    let all_ids = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
    rustix::process::geteuid().is_root()
        && all_ids
        && rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(needed))
}

/// A user namespace with these maps (lines of `uid_map` and `gid_map`), held by its descriptor.
pub(super) fn mapped(uid_map: &str, gid_map: &str) -> anyhow::Result<OwnedFd> {
    let (ready_read, ready_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (held_read, held_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork().context("starting a process")? {
        Fork::Child => {
            drop((ready_read, held_write));
            let done = sys::unshare(UnshareFlags::NEWUSER).is_ok();
            let _ = rustix::io::write(&ready_write, &[u8::from(done)]);
            // Until it is killed, or its parent was: a fork has no parent-death signal, and would
            // keep the sandbox's lock for ever.
            let _ = rustix::io::read(&held_read, &mut [0]);
            std::process::abort()
        }
        Fork::Parent(pid) => {
            drop((ready_write, held_read));
            let namespace = hold(pid, &ready_read, uid_map, gid_map);
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            drop(held_write);
            namespace
        }
    }
}

fn hold(pid: Pid, ready: &OwnedFd, uid_map: &str, gid_map: &str) -> anyhow::Result<OwnedFd> {
    let mut done = [0];
    rustix::io::read(ready, &mut done)?;
    anyhow::ensure!(done == [1], "the kernel refuses a user namespace: {}", why_refused());
    let folder = format!("/proc/{}", pid.as_raw_pid());
    fs::write(format!("{folder}/gid_map"), gid_map).context("mapping groups")?;
    fs::write(format!("{folder}/uid_map"), uid_map).context("mapping users")?;
    Ok(fs::File::open(format!("{folder}/ns/user"))?.into())
}

/// Enters a new user namespace in which the one id that this process has is `uid` and `gid`.
pub(super) fn enter_single(uid: u32, gid: u32) -> anyhow::Result<()> {
    let (outer_uid, outer_gid) = (rustix::process::geteuid(), rustix::process::getegid());
    sys::unshare(UnshareFlags::NEWUSER)
        .map_err(|error| anyhow::anyhow!("{error}: {}", why_refused()))
        .context("making a user namespace")?;
    fs::write("/proc/self/setgroups", "deny").context("giving up setgroups")?;
    fs::write("/proc/self/gid_map", format!("{gid} {} 1", outer_gid.as_raw()))
        .context("mapping groups")?;
    fs::write("/proc/self/uid_map", format!("{uid} {} 1", outer_uid.as_raw()))
        .context("mapping users")
}

/// Accounts that the kernel keeps for each user, and which a user namespace can have a lower limit of.
const ACCOUNTS: [&str; 2] = ["max_inotify_instances", "max_inotify_watches"];

/// How much of its accounts the user has here.
pub(super) struct Accounts([Option<u64>; 2]);

/// Looks before a user namespace is entered: a new one says of itself that it has no limit.
pub(super) fn accounts() -> Accounts {
    Accounts(
        ACCOUNTS.map(|name| {
            fs::read_to_string(format!("/proc/sys/user/{name}")).ok()?.trim().parse().ok()
        }),
    )
}

impl Accounts {
    /// Leaves this user namespace half of each, so that what is in it does not use up what its maker
    /// needs too. Where `/proc/sys` cannot be written, as in a container, it has all of it.
    pub(super) fn halve(&self) {
        for (name, limit) in ACCOUNTS.iter().zip(self.0) {
            if let Some(limit) = limit {
                let _ = fs::write(format!("/proc/sys/user/{name}"), (limit / 2).to_string());
            }
        }
    }
}

/// The setting of this machine that forbids every sandbox, and how to change it. Only settings are read:
/// what else may forbid them, `doctor` finds out by trying.
pub(super) fn forbidden() -> Option<String> {
    forbidding(mode(), &setting)
}

/// What a file below `/proc/sys` or `/proc/self` says.
fn setting(path: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{path}")).ok().map(|text| text.trim().to_owned())
}

fn forbidding(mode: Mode, setting: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
    if is("sys/user/max_user_namespaces", "0") {
        let told = "user.max_user_namespaces is 0; allow user namespaces with \
                    `sysctl user.max_user_namespaces=15000`";
        return Some(told.to_owned());
    }
    if mode != Mode::Rootless {
        return None;
    }
    if is("sys/kernel/unprivileged_userns_clone", "0") {
        let told = "kernel.unprivileged_userns_clone is 0; allow user namespaces with \
                    `sysctl kernel.unprivileged_userns_clone=1`";
        return Some(told.to_owned());
    }
    // A profile may allow them. Without one the kernel makes the namespace, and takes its rights away.
    let confined = setting("self/attr/apparmor/current").or_else(|| setting("self/attr/current"));
    let confined = confined.is_some_and(|profile| profile != "unconfined");
    if is("sys/kernel/apparmor_restrict_unprivileged_userns", "1") && !confined {
        return Some(APPARMOR.to_owned());
    }
    None
}

const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns is 1; allow user namespaces with \
                        `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give bottle an \
                        AppArmor profile with `userns,`";

/// Why the kernel has refused a user namespace, and what to do about it.
pub(super) fn why_refused() -> String {
    if let Some(told) = forbidden() {
        return told;
    }
    if setting("sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return APPARMOR.to_owned();
    }
    if in_chroot() {
        return "this process is in a chroot, and the kernel makes no user namespace there"
            .to_owned();
    }
    "no setting that is known to forbid them is set: a security module, a seccomp filter (as in a \
     container) or a kernel without CONFIG_USER_NS does"
        .to_owned()
}

/// Whether `/` is not the root of a mount.
fn in_chroot() -> bool {
    fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")))
}

/// What a kernel must have for a sandbox; tried in a helper of its own, which is in a user namespace
/// already where it has to be.
pub(super) fn probe() -> anyhow::Result<()> {
    let everything = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    sys::unshare(everything).map_err(|error| {
        anyhow::anyhow!("making mount, pid, network, ipc, uts and cgroup namespaces: {error}")
    })
}

/// The error of an `io` call with what was being done.
pub(super) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> anyhow::Error {
    let what = what.into();
    move |error| anyhow::Error::new(error).context(what)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_setting_that_forbids_sandboxes_is_named() {
        let said = |mode, set: &[(&str, &str)]| {
            let set: BTreeMap<&str, &str> = set.iter().copied().collect();
            forbidding(mode, &|path| set.get(path).map(|value| (*value).to_owned()))
        };
        let (root, user) = (Mode::Root { base: 0 }, Mode::Rootless);
        let off = [("sys/user/max_user_namespaces", "0")];
        let clone = [("sys/kernel/unprivileged_userns_clone", "0")];
        let apparmor = ("sys/kernel/apparmor_restrict_unprivileged_userns", "1");
        for mode in [root, user] {
            assert_eq!(said(mode, &[("sys/user/max_user_namespaces", "15000")]), None);
            assert!(said(mode, &off).is_some_and(|told| told.contains("=15000`")));
        }
        assert!(said(user, &clone).is_some_and(|told| told.contains("userns_clone=1`")));
        assert!(
            said(user, &[apparmor]).is_some_and(|told| told.contains("profile with `userns,`"))
        );
        let profile = ("self/attr/apparmor/current", "bottle (enforce)");
        assert_eq!(said(user, &[apparmor, profile]), None);
        let unconfined = ("self/attr/current", "unconfined");
        assert!(said(user, &[apparmor, unconfined]).is_some());
        // Root's rights come from elsewhere.
        assert_eq!(said(root, &[clone[0], apparmor]), None);
    }
}
