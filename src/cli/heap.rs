//! How the C library's allocator works for a command: one that starts, reads a tree and a few answers, and ends.

/// Has freed memory go back at once. By default each thread has a heap of its own that only grows, and after the
/// first large answer was freed, the next one is put on that heap, too. Of no effect but with glibc.
///
/// Called before there is a second thread, and not by a sidecar, whose threads allocate all the time.
pub fn keep_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set();
}

/// From this size on an allocation is a mapping of its own: glibc's default, which it no longer raises by itself
/// once it was set.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 128 << 10;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "there is no safe way to set up the allocator")]
fn set() {
    // SAFETY: no other thread runs yet that could allocate meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}
