//! Which mounts may be entered where a guest may have put links and renamed folders.
//!
//! What belongs to the host lies on mounts of its own. A folder is opened first and then asked which
//! mount it is on, so nothing that a guest renames meanwhile changes the answer.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// The mounts that may be entered, of all that can be seen from here.
#[derive(Debug)]
pub(super) struct Fence {
    mounts: Vec<u64>,
    /// The descriptors of this process, by the `/proc` of where it came from.
    descriptors: Descriptors,
    /// What cannot be told is outside. Not for a process that has the guest's rights and no more: an
    /// old kernel lets it look at no descriptors.
    strict: bool,
}

/// What the kernel says of this process's descriptors, opened while `/proc` is still one's own.
#[derive(Debug)]
pub(super) struct Descriptors(Option<OwnedFd>);

impl Descriptors {
    /// Those of this process, which is the only thread of it.
    pub(super) fn open() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(rustix::fs::openat(CWD, "/proc/self/fdinfo", flags, Mode::empty()).ok())
    }

    /// The mount that an open file is on. Kernels before 5.8 say it here alone.
    fn mount_of(&self, opened: BorrowedFd<'_>) -> io::Result<u64> {
        let unknown = || io::Error::other("the kernel does not say on which mount a file is");
        let folder = self.0.as_ref().ok_or_else(unknown)?;
        let name = opened.as_raw_fd().to_string();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        let mut text = String::new();
        File::from(file).take(4096).read_to_string(&mut text)?;
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        id.ok_or_else(unknown)
    }
}

impl Fence {
    /// Around the mount that `/` is on, and these.
    pub(super) fn around_root(
        more: &[u64],
        descriptors: Descriptors,
        strict: bool,
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
        let mut fence = Self { mounts: more.to_vec(), descriptors, strict };
        match fence.mount_of(root.as_fd()) {
            Ok(root) => fence.mounts.push(root),
            Err(error) if strict => return Err(error),
            Err(_) => {}
        }
        Ok(fence)
    }

    fn mount_of(&self, opened: BorrowedFd<'_>) -> io::Result<u64> {
        match rustix::fs::statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(found.stx_mnt_id),
            Ok(_) | Err(Errno::NOSYS) => self.descriptors.mount_of(opened),
            Err(error) => Err(error.into()),
        }
    }

    /// That what was opened lies within; else `EXDEV`.
    pub(super) fn holds(&self, opened: &impl AsFd) -> Result<(), Errno> {
        match self.mount_of(opened.as_fd()) {
            Ok(mount) if self.mounts.contains(&mount) => Ok(()),
            Ok(_) => Err(Errno::XDEV),
            Err(_) if !self.strict => Ok(()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::XDEV)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &str) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap()
    }

    /// Old kernels say it in `/proc`, newer ones in an answer of its own: it is the same.
    #[test]
    fn both_ways_name_the_same_mount() {
        // A descriptor has to be in this very process; threads share them.
        let fence = Fence::around_root(&[], Descriptors::open(), true).unwrap();
        for path in ["/", "/proc", "/proc/self/status", "/dev/null"] {
            let opened = open(path);
            let old = fence.descriptors.mount_of(opened.as_fd()).unwrap();
            assert_eq!(fence.mount_of(opened.as_fd()).unwrap(), old, "{path}");
        }
    }

    #[test]
    fn another_mount_is_outside_until_it_is_named() {
        let fence = Fence::around_root(&[], Descriptors::open(), true).unwrap();
        let proc = open("/proc");
        fence.holds(&open("/")).unwrap();
        assert_eq!(fence.holds(&proc), Err(Errno::XDEV));
        let id = fence.mount_of(proc.as_fd()).unwrap();
        let wider = Fence::around_root(&[id], Descriptors::open(), true).unwrap();
        wider.holds(&proc).unwrap();
    }
}
