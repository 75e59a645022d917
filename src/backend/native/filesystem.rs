//! Which file system a folder lies on, and whether a sandbox can have its writable layer there.

use std::path::Path;

/// File systems on which an overlay's writable layer cannot lie, by the kernel's number for them.
const UNSUITED: [(u64, &str); 10] = [
    (0x794c_7630, "overlay"),
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x6173_6466, "squashfs"),
    (0xf15f, "eCryptfs"),
];

/// The name of the file system that this folder lies on, where sandboxes cannot be made on it.
pub fn unsuited(folder: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(folder).ok()?;
    let number = u64::from(u32::try_from(found.f_type & 0xffff_ffff).ok()?);
    UNSUITED.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// What to do about it.
pub const ELSEWHERE: &str = "name a folder on a disk (ext4, xfs, btrfs) or a tmpfs with `--state-dir`; in a container \
                             that is a volume";
