//! Unix sockets in folders of the state folder, also where their path is longer than a socket's may be.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "a folder with a long name"))]

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Connects to the socket of this name.
///
/// # Errors
/// When nobody listens there.
pub(super) async fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let (_open, path) = short(folder, name)?;
    UnixStream::connect(path).await
}

/// Listens on a socket of this name, where nothing is yet.
pub(super) fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let (_open, path) = short(folder, name)?;
    UnixListener::bind(path)
}

/// The socket by a path that is short enough for one, and what has to stay open as long as that is used.
fn short(folder: &Path, name: &str) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags};
        use std::os::fd::AsRawFd as _;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(folder, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{name}", open.as_raw_fd()).into();
        Ok((Some(open), path))
    }
    #[cfg(not(target_os = "linux"))]
    Ok((None, folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let listener = listen(&long, "socket").unwrap();
        let (connected, accepted) = tokio::join!(connect(&long, "socket"), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
    }
}
