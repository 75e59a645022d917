//! The system calls by which a program makes a file set-id, and where they say so.
//!
//! A sandbox may write to a folder of the host. A file that it makes setuid or setgid there runs on
//! the host with the rights of the folder's owner, who may be root. Every backend whose sandboxes share
//! the host's kernel turns this one list into its own filter.

/// Setuid and setgid. The kernel takes a mode as 16 bits: what stands above is nothing to look at.
pub(super) const BITS: u32 = 0o6000;

/// The flags with which an opening makes a file: `O_CREAT`, and what `O_TMPFILE` has of its own. Without
/// them the kernel does not look at the mode, which is then whatever the register holds.
pub(super) const MAKING: u32 = 0o100 | 0o20_000_000;

/// What of a call says which mode a file gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// This argument is the mode.
    Mode(u8),
    /// This argument is the flags, the next one the mode of what is made.
    Flags(u8),
    /// It stands in memory, where no filter looks. Such a call does not exist for the sandbox
    /// (`ENOSYS`): whoever uses it knows an older one too.
    Unseen,
}

/// Every call that can set a mode, by the kernel's name; where an architecture has it.
pub(super) const CALLS: [(&str, Says); 15] = [
    ("chmod", Says::Mode(1)),
    ("creat", Says::Mode(1)),
    ("fchmod", Says::Mode(1)),
    ("mkdir", Says::Mode(1)),
    ("mknod", Says::Mode(1)),
    ("fchmodat", Says::Mode(2)),
    ("fchmodat2", Says::Mode(2)),
    ("mkdirat", Says::Mode(2)),
    ("mknodat", Says::Mode(2)),
    ("open", Says::Flags(1)),
    ("openat", Says::Flags(2)),
    ("openat2", Says::Unseen),
    ("io_uring_setup", Says::Unseen),
    ("io_uring_enter", Says::Unseen),
    ("io_uring_register", Says::Unseen),
];
