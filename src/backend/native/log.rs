//! The main process's output: written by init, bounded, and read by `bottle logs`.
//!
//! `log` is what is written now; once it is full it becomes the content of `log.1` and starts
//! anew. Init has no path to them, only the two descriptors, so the turn is a copy.

#![expect(clippy::disallowed_methods, reason = "the log is two files")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::state::{Folder, LOG};
use crate::backend::{LogOptions, durable};

/// How long each of the two files may become.
const BOUND: u64 = 4 << 20;

/// Init's side.
pub(super) struct Log {
    now: File,
    before: File,
    length: u64,
}

impl Log {
    /// Opens both in the current folder.
    pub(super) fn open() -> io::Result<Self> {
        let open = |name| {
            durable::clear_way(Path::new(name))?;
            File::options().create(true).read(true).append(true).mode(0o600).open(Path::new(name))
        };
        let (now, before) = (open(LOG[0])?, open(LOG[1])?);
        let length = now.metadata()?.len();
        Ok(Self { now, before, length })
    }

    pub(super) fn fds(&self) -> [RawFd; 2] {
        [self.now.as_raw_fd(), self.before.as_raw_fd()]
    }

    /// Appends. A full disk loses output, nothing else.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() as u64 > BOUND {
            let _ = self.turn();
        }
        if self.now.write_all(bytes).is_ok() {
            self.length += bytes.len() as u64;
        }
    }

    /// Appends a line of our own.
    pub(super) fn note(&mut self, line: &str) {
        self.write(format!("bottle: {line}\n").as_bytes());
    }

    fn turn(&mut self) -> io::Result<()> {
        self.before.set_len(0)?;
        self.now.seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut self.now, &mut self.before);
        self.now.set_len(0)?;
        self.length = 0;
        copied.map(drop)
    }
}

/// A reader that knows about the turn.
struct Reader {
    folder: Folder,
    offset: u64,
}

impl Reader {
    /// What was written since the last call.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(mut now) = open(&self.folder, LOG[0])? else { return Ok(bytes) };
        if now.metadata()?.len() < self.offset {
            // It was full, and what we had not seen of it is in the other file.
            if let Some(mut before) = open(&self.folder, LOG[1])? {
                before.seek(SeekFrom::Start(self.offset))?;
                before.take(BOUND).read_to_end(&mut bytes)?;
            }
            self.offset = 0;
        }
        now.seek(SeekFrom::Start(self.offset))?;
        self.offset += now.take(BOUND).read_to_end(&mut bytes)? as u64;
        Ok(bytes)
    }
}

fn open(folder: &Folder, name: &str) -> io::Result<Option<File>> {
    let path = folder.join(name);
    // Nobody waits for a FIFO.
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err(durable::damaged(&path, "what is in its place is no file"));
    }
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All that is kept, and where reading on begins.
fn whole(folder: &Folder) -> io::Result<(Vec<u8>, Reader)> {
    let mut bytes = Vec::new();
    if let Some(before) = open(folder, LOG[1])? {
        before.take(BOUND).read_to_end(&mut bytes)?;
    }
    let mut reader = Reader { folder: folder.clone(), offset: 0 };
    bytes.extend(reader.more()?);
    Ok((bytes, reader))
}

/// The last `lines` lines of `text`.
fn tail(text: &[u8], lines: u64) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut seen = 0;
    for (at, byte) in body.iter().enumerate().rev() {
        if *byte == b'\n' {
            seen += 1;
            if seen == lines {
                return &text[at + 1..];
            }
        }
    }
    if lines == 0 { &[] } else { text }
}

/// Writes the output to `out`, and as it is written while `running` and `follow`.
pub(super) async fn show(
    folder: &Folder,
    options: LogOptions,
    running: impl Fn() -> bool,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> io::Result<()> {
    let (bytes, mut reader) = whole(folder)?;
    out.write_all(options.tail.map_or(&bytes[..], |lines| tail(&bytes, lines))).await?;
    out.flush().await?;
    if !options.follow {
        return Ok(());
    }
    loop {
        // Asked first: what was written before it stopped is still read below.
        let last = !running();
        let bytes = reader.more()?;
        out.write_all(&bytes).await?;
        out.flush().await?;
        if last {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_counts_lines() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(tail(text, 2), b"two\nthree\n");
        assert_eq!(tail(text, 9), text);
        assert_eq!(tail(text, 0), b"");
        assert_eq!(tail(b"one\nunended", 1), b"unended");
    }

    #[test]
    fn a_full_log_turns_and_a_reader_misses_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        let open = |name| {
            let path = folder.join(name);
            File::options().create(true).read(true).append(true).open(path).unwrap()
        };
        let mut log = Log { now: open(LOG[0]), before: open(LOG[1]), length: 0 };
        let (_, mut reader) = whole(&folder).unwrap();
        let line = [b'x'; 1023];
        let mut seen = 0;
        let mut written = 0;
        for _ in 0..10_000 {
            log.write(&line);
            written += line.len();
            if written % 1_000_000 < line.len() {
                seen += reader.more().unwrap().len();
            }
        }
        seen += reader.more().unwrap().len();
        assert_eq!(seen, written);
        for name in LOG {
            assert!(folder.join(name).metadata().unwrap().len() <= BOUND, "{name}");
        }
    }
}
