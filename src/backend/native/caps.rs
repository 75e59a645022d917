//! Giving up what a process could still do: capabilities, users, new privileges.

use std::io;

use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::landlock;
use super::seccomp::Filters;

/// Nobody else may look into this process: not at its memory, its descriptors or its program.
/// (Through `/proc/PID/exe` a sandbox could otherwise reach the host's `bottle`.)
pub(super) fn undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Becomes this user of the current user namespace for good, without any capability, with no way
/// to gain one, and under the filters.
///
/// # Errors
/// Whatever could not be given up: the caller must then end.
pub(super) fn confine(uid: u32, gid: u32, filters: &Filters) -> io::Result<()> {
    empty_bounding_set()?;
    rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    match rustix::thread::set_thread_groups(&[]) {
        // Without a right over its groups (a rootless namespace denies `setgroups`) it keeps the
        // caller's, which mean nothing inside.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    rustix::thread::set_no_new_privs(true)?;
    landlock::restrict().map_err(io::Error::other)?;
    filters.load()
}

/// The kernel names at most 64, and answers `EINVAL` to those that it does not have.
fn empty_bounding_set() -> io::Result<()> {
    for bit in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << bit,
        )) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
