//! Makes a snapshot of the archives that a sandbox hands out: what passes the `sieve`, compressed.

#![expect(clippy::disallowed_methods, reason = "snapshots are files of the state folder")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::Header;

use super::Meta;
use super::sieve::{LeftOut, Part, Sieve};

/// What is compressed at once, as a frame of its own: memory does not grow with the snapshot.
const FRAME: usize = 1 << 20;

/// What a snapshot is called until it is whole.
const UNFINISHED: &str = "new";

/// A snapshot that is being made. Dropped, nothing of it stays.
pub struct Packer {
    path: PathBuf,
    temporary: PathBuf,
    finished: bool,
    sieve: Sieve<Frames<File>>,
}

impl Packer {
    /// Makes its file of at most `room` bytes, under another name, and says what it is of.
    pub(super) fn begin(path: &Path, meta: &Meta, room: u64) -> anyhow::Result<Self> {
        let temporary = path.with_extension(UNFINISHED);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        // For as long as it is held, somebody works on it.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)?;
        let mut packer = Self {
            path: path.to_owned(),
            temporary,
            finished: false,
            sieve: Sieve::new(Frames::new(file, room), &meta.home),
        };
        let mut text = serde_json::to_vec_pretty(meta)?;
        text.push(b'\n');
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(meta.when);
        header.set_size(text.len() as u64);
        packer.sieve.builder.append_data(&mut header, "meta.json", &*text)?;
        Ok(packer)
    }

    /// Takes what the sandbox hands out of one path, as [`Sieve::add`] does.
    ///
    /// # Errors
    /// As that says, and when the disk is full.
    pub fn add(&mut self, part: &Part, tar: impl Read) -> anyhow::Result<()> {
        self.sieve.add(part, tar)
    }

    /// What did not come in so far.
    #[must_use]
    pub const fn left_out(&self) -> &LeftOut {
        self.sieve.left_out()
    }

    /// Ends the snapshot: from now on it is there, also after a power cut. Returns how large its file is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        let done = (|| {
            self.sieve.builder.finish()?;
            let frames = self.sieve.builder.get_mut();
            frames.end()?;
            frames.out.sync_all()?;
            let bytes = frames.out.metadata()?.len();
            // Unlike a rename, a link takes no other's place.
            fs::hard_link(&self.temporary, &self.path).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Err(error),
                _ => fs::rename(&self.temporary, &self.path),
            })?;
            self.finished = true;
            let _ = fs::remove_file(&self.temporary);
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
            io::Result::Ok(bytes)
        })();
        done.with_context(|| format!("writing {}", self.path.display()))
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes what those left in a folder who were killed over it.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension() != Some(OsStr::new(UNFINISHED)) {
            continue;
        }
        let Ok(file) = super::open(&path) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Compresses what is written, frame by frame.
struct Frames<W> {
    out: W,
    waiting: Vec<u8>,
    /// How many bytes may still go out.
    room: u64,
}

impl<W: Write> Frames<W> {
    fn new(out: W, room: u64) -> Self {
        Self { out, waiting: Vec::with_capacity(FRAME), room }
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let frame = compress_to_vec(&*self.waiting, CompressionLevel::Fastest);
            self.room = self.room.checked_sub(frame.len() as u64).ok_or_else(|| {
                io::Error::other(
                    "the snapshots of this tree have no more room: `bottle snapshot remove` makes some, and \
                     `snapshots` of bottle.yaml says how much there is",
                )
            })?;
            self.out.write_all(&frame)?;
            self.waiting.clear();
        }
        self.out.flush()
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (FRAME - self.waiting.len()).min(bytes.len());
        self.waiting.extend_from_slice(&bytes[..room]);
        if self.waiting.len() == FRAME {
            self.end()?;
        }
        Ok(room)
    }

    /// What waits goes out with the next frame.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
