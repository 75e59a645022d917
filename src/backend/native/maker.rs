//! As whom files are made in a workspace that is mounted.
//!
//! Its mount maps one id of the host, that of the folder's owner, to the sandbox's user. The sandbox's root
//! has none there, and what it makes is refused with `EOVERFLOW`. So there this process makes files as
//! that user, with that user's rights over what is the operator's.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::process::{Gid, Signal, Uid};

use super::caps;
use super::inside::{Inside, Owner};
use super::state::{Mode, Record};

/// The user who makes what comes into a mounted workspace.
pub(super) struct Maker {
    mount: u64,
    user: Owner,
}

impl Maker {
    /// That of the sandbox that this process has entered as its root, where there is one.
    pub(super) fn of(record: &Record, root: &Inside) -> Option<Self> {
        let (Some(mount), Mode::Root { .. }) = (&record.mount, record.mode) else { return None };
        let of = |path: &str| {
            // Those inside may have renamed a folder above it: nothing comes into it by that path then.
            let folder = root.open(path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
            mount_of(&folder)
        };
        let own = of("/");
        let mounted = of(&mount.target).filter(|mounted| own.is_some_and(|own| own != *mounted));
        let user = (record.user.uid, record.user.gid);
        mounted.map(|mount| Self { mount, user })
    }

    /// Acts as that user from here on, if this folder lies in the workspace.
    pub(super) fn at(&self, folder: &OwnedFd) -> io::Result<Option<Acting>> {
        match mount_of(folder) {
            Some(mount) if mount == self.mount => Acting::begin(self.user).map(Some),
            _ => Ok(None),
        }
    }
}

/// The mount that an open folder is on; kernels that map ids of mounts say it.
fn mount_of(folder: &OwnedFd) -> Option<u64> {
    let found = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// This process makes files as the sandbox's user, for as long as this lives.
pub(super) struct Acting(());

impl Acting {
    fn begin((uid, gid): Owner) -> io::Result<Self> {
        // From here on, whatever fails is undone.
        let acting = Self(());
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::from_raw(gid), Gid::ROOT)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)?;
        unchanged()?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let root = || -> io::Result<()> {
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
            rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
            unchanged()
        };
        if root().is_err() {
            // Nothing more may be done as nobody knows whom.
            std::process::abort();
        }
    }
}

/// A change of identity undoes both: that those inside may not look into this process, and that it ends
/// with whoever started it.
fn unchanged() -> io::Result<()> {
    caps::undumpable()?;
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}
