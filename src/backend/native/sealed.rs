//! A copy of this program in memory, which nobody can change.
//!
//! What becomes a sandbox's command runs this program until then, and the command may be a script
//! for the interpreter `/proc/self/exe`. Landlock refuses to execute what lies outside. Where the
//! kernel has none the helper is such a copy, so that no link of `/proc` leads to the operator's file,
//! which an ordinary user's sandbox could otherwise overwrite.

#![expect(clippy::disallowed_methods, reason = "the program is read from its file")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

/// Neither the bytes nor the seals change any more.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// `F_SEAL_EXEC`, since 6.3: nor may it be made one that cannot be executed.
const SEAL_EXEC: SealFlags = SealFlags::from_bits_retain(0x20);

/// Copies a program.
pub(super) fn copy(program: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match memfd_create("bottle", flags | MemfdFlags::EXEC) {
        // Before 6.3 every such file may be executed.
        Err(Errno::INVAL) => memfd_create("bottle", flags),
        // `vm.memfd_noexec=2`
        Err(Errno::ACCESS) => {
            return Err(io::Error::other(
                "this kernel has no Landlock, and its vm.memfd_noexec forbids to execute a copy of \
                 bottle in memory instead: enable Landlock, or set vm.memfd_noexec to 1",
            ));
        }
        made => made,
    }?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(program)?, &mut copy)?;
    let _ = fcntl_add_seals(&copy, SEAL_EXEC);
    fcntl_add_seals(&copy, SEALS)?;
    Ok(copy.into())
}

/// Whether this very process runs from such a copy.
pub(super) fn is_own() -> bool {
    File::open("/proc/self/exe")
        .is_ok_and(|program| fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_copy_runs_and_cannot_be_changed() {
        let sealed = copy(Path::new("/bin/echo")).unwrap();
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        let output = Command::new(&path).arg("it runs").output().unwrap();
        assert_eq!(output.stdout, b"it runs\n");
        assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/echo").unwrap());
        assert!(rustix::io::write(&sealed, b"x").is_err());
        assert!(rustix::fs::ftruncate(&sealed, 0).is_err());
        assert!(fs::write(&path, "x").is_err());
        assert!(!is_own(), "the test itself runs from a file");
    }
}
