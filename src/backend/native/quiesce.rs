//! Ends all that runs in a sandbox but its init, which answers for its files.

#![expect(clippy::disallowed_methods, reason = "files of the state folder, and clocks")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::inside::Inside;
use super::limits::Cgroups;
use super::remove::DYING;
use super::state::{Folder, Run};
use super::status::REST;
use crate::backend::guest_path;

/// How long init may take: its command has ten seconds to end by itself, and what it started two to be gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// After this time it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// Says that the command of a sandbox is to run again where it is started: what lets it run was taken away.
const QUIET: &str = "quiet";

/// Takes what lets its command start away from one that does not run.
pub(super) fn hold_back(folder: &Folder) -> io::Result<()> {
    remember(folder)?;
    root(folder)?.remove(guest_path::READY)
}

/// Remembers that its command may run, where it may.
pub(super) fn remember(folder: &Folder) -> io::Result<()> {
    let ready = root(folder)?.open(guest_path::READY, OFlags::PATH | OFlags::NOFOLLOW);
    match ready {
        Ok(_) => File::create(folder.join(QUIET)).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether its command is to run again.
pub(super) fn is_held_back(folder: &Folder) -> bool {
    folder.join(QUIET).exists()
}

/// Its command may run again.
pub(super) fn forget(folder: &Folder) -> io::Result<()> {
    match std::fs::remove_file(folder.join(QUIET)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What the sandbox has written, below its root.
fn root(folder: &Folder) -> io::Result<Inside> {
    let path = folder.join("upper/root");
    let path: &Path = &path;
    Inside::new(path.to_str().ok_or(io::ErrorKind::InvalidInput)?)
}

/// Ends all that runs but this init; whether it did. Nothing lets its command start any more. An init of an earlier
/// version, which cannot do that, lets it run, and that is all that can be.
pub(super) fn quiesce(
    folder: &Folder,
    run: &Run,
    init: &OwnedFd,
    id: &str,
) -> anyhow::Result<bool> {
    let Some(before) = folder.rests(run) else { return Ok(true) };
    let until = Instant::now() + PATIENCE;
    let mut asked: Option<Instant> = None;
    // The file may just be written.
    while folder.rests(run).is_none_or(|rests| rests == before) {
        if Instant::now() >= until {
            return Ok(false);
        }
        // Again and again: a signal that the guest sent itself may stand in its place.
        if asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
            rustix::process::pidfd_send_signal(init, REST)?;
            asked = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What root does in it, init cannot end.
    Ok(Cgroups::discover().of(id).end_but(Some(run.pid), DYING).is_ok())
}

/// What lets a command start.
pub(super) fn ready() -> io::Result<Bytes> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, guest_path::READY.trim_start_matches('/'), io::empty())?;
    Ok(tar.into_inner()?.into())
}
