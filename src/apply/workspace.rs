//! A copy of the workspace, in tars of bounded size. Read through folder handles that never follow
//! a symlink, so that what is swapped during the copy is refused and not followed.
#![expect(clippy::disallowed_methods, reason = "reads the workspace that the bottle names")]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use tokio::sync::mpsc;

use super::upload::{Owner, Tar};

/// A tar is sent on as soon as it is this large.
const CHUNK: usize = 8 << 20;

/// Walks `source` on a thread of its own and yields tars of it, to be unpacked one after the other.
/// Sockets, FIFOs and devices are left out: they mean nothing in another place.
pub(super) fn tars(
    source: &Path,
    target: &str,
    owner: Owner,
) -> mpsc::Receiver<anyhow::Result<Bytes>> {
    let (send, receive) = mpsc::channel(1);
    let (source, target) = (source.to_owned(), target.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut walk = Walk { send, owner, tar: Tar::new() };
        let result = File::open(&source)
            .map_err(anyhow::Error::from)
            .and_then(|root| walk.folder(root.into(), &target, 0o755))
            .and_then(|()| walk.flush())
            .with_context(|| format!("copying the workspace {}", source.display()));
        if let Err(error) = result {
            // A receiver that is gone has stopped the copy.
            let _ = walk.send.blocking_send(Err(error));
        }
    });
    receive
}

struct Walk {
    send: mpsc::Sender<anyhow::Result<Bytes>>,
    owner: Owner,
    tar: Tar,
}

impl Walk {
    fn flush(&mut self) -> anyhow::Result<()> {
        let tar = std::mem::replace(&mut self.tar, Tar::new());
        if tar.is_empty() {
            return Ok(());
        }
        self.send.blocking_send(Ok(tar.finish()?)).context("the copy was stopped")
    }

    fn folder(&mut self, folder: OwnedFd, target: &str, mode: u32) -> anyhow::Result<()> {
        self.tar.folder(target, mode, self.owner)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_owned();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let shown = name.to_str().with_context(|| {
                format!("a file name in {target} is not UTF-8: {}", name.to_string_lossy())
            })?;
            let path = format!("{target}/{shown}");
            let stat =
                statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).with_context(|| path.clone())?;
            let mode = Mode::from_raw_mode(stat.st_mode).bits() & 0o777;
            let open = |flags| {
                openat(&folder, &name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .with_context(|| path.clone())
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.folder(open(OFlags::RDONLY | OFlags::DIRECTORY)?, &path, mode)?;
                }
                FileType::RegularFile => {
                    let mut file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK)?);
                    if !file.metadata()?.is_file() {
                        anyhow::bail!("{path} was swapped for something else during the copy");
                    }
                    let mut content = Vec::new();
                    file.read_to_end(&mut content).with_context(|| path.clone())?;
                    self.tar.file(&path, mode, self.owner, &content)?;
                }
                FileType::Symlink => {
                    let link = readlinkat(&folder, &name, Vec::new())?;
                    let link =
                        link.to_str().with_context(|| format!("{path} points to no UTF-8"))?;
                    self.tar.symlink(&path, link, self.owner)?;
                }
                _ => tracing::warn!(path, "left out of the workspace copy: not a file or folder"),
            }
            if self.tar.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }
}
