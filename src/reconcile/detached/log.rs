//! What a run wrote, as it wrote it: two files of bounded size, the newer of which is written.

#![expect(clippy::disallowed_methods, reason = "the log is two files of the state folder")]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The newer file.
pub(super) const LOG: &str = "log";
/// The older one.
const BEFORE: &str = "log.1";

/// How long each may become.
const BOUND: u64 = 2 << 20;

/// The writing side.
pub(super) struct Log {
    folder: PathBuf,
    now: Option<File>,
    length: u64,
    /// So much could not be written since it last could.
    lost: u64,
}

impl Log {
    pub(super) fn open(folder: &Path) -> Self {
        let mut log = Self { folder: folder.to_owned(), now: None, length: 0, lost: 0 };
        log.now = log.file().ok();
        log
    }

    fn file(&self) -> io::Result<File> {
        let mut options = File::options();
        options.create(true).append(true).mode(0o600).open(self.folder.join(LOG))
    }

    /// Appends. A full disk loses output, nothing else; once there is room the log says how much.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.lost > 0 {
            let note =
                format!("\r\n[bottle: {} bytes could not be written to this log]\r\n", self.lost);
            if self.append(note.as_bytes()).is_err() {
                self.lost += bytes.len() as u64;
                return;
            }
            self.lost = 0;
        }
        if self.append(bytes).is_err() {
            self.lost += bytes.len() as u64;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > BOUND {
            fs::rename(self.folder.join(LOG), self.folder.join(BEFORE))?;
            (self.now, self.length) = (None, 0);
        }
        if self.now.is_none() {
            self.now = Some(self.file()?);
        }
        let Some(file) = &mut self.now else { return Ok(()) };
        let written = file.write_all(bytes);
        if written.is_err() {
            // A part of it may be there.
            let _ = file.set_len(self.length);
        } else {
            self.length += bytes.len() as u64;
        }
        written
    }
}

/// The last of what was written: what a terminal is shown first.
#[derive(Default)]
pub(super) struct Recent {
    bytes: Vec<u8>,
    /// Something came before it.
    cut: bool,
}

impl Recent {
    /// How much of it there is.
    const BOUND: usize = 64 * 1024;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Not for each byte: what is cut off is moved.
        if self.bytes.len() > 2 * Self::BOUND {
            self.bytes.drain(..self.bytes.len() - Self::BOUND);
            self.cut = true;
        }
    }

    /// It; where it was cut, from the next line on.
    pub(super) fn shown(&self) -> &[u8] {
        if !self.cut {
            return &self.bytes;
        }
        let line = self.bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        &self.bytes[line..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        for n in 0..10_000 {
            log.write(format!("{n:01023}\n").as_bytes());
        }
        let [now, before] = [LOG, BEFORE].map(|name| fs::read(folder.path().join(name)).unwrap());
        assert!(now.len() as u64 <= BOUND && before.len() as u64 <= BOUND);
        assert!(now.ends_with(b"9999\n") && before.len() as u64 > BOUND / 2);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        log.write(b"one\n");
        log.now = Some(File::options().write(true).open("/dev/full").unwrap());
        log.write(b"two\n");
        log.write(b"three\n");
        log.now = None;
        log.write(b"four\n");
        let text = fs::read_to_string(folder.path().join(LOG)).unwrap();
        assert_eq!(text, "one\n\r\n[bottle: 10 bytes could not be written to this log]\r\nfour\n");
    }

    #[test]
    fn what_is_shown_first_is_bounded_and_begins_with_a_line() {
        let mut recent = Recent::default();
        recent.push(b"a\nb");
        assert_eq!(recent.shown(), b"a\nb");
        for n in 0..100_000 {
            recent.push(format!("{n:010}\n").as_bytes());
        }
        let shown = recent.shown();
        assert!(shown.len() <= 2 * Recent::BOUND && shown.len() > Recent::BOUND / 2);
        assert!(shown.len().is_multiple_of(11) && shown.ends_with(b"99999\n"));
    }
}
