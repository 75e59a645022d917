//! The main process's output: written by init, bounded, and read by `bottle logs`.
//!
//! `log` is what is written now; once it is full it becomes the content of `log.1` and starts
//! anew. Init has no path to them, only the descriptors, so the turn is a copy. Beside each is a file that says
//! when what of it was written (`times`).

#![expect(clippy::disallowed_methods, reason = "the log is two files")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::state::{Folder, LOG, TIMES};
use super::times::{self, Entry, Index};
use crate::backend::timed::Timed;
use crate::backend::{LogOptions, durable};

/// How long each of the two files may become.
const BOUND: u64 = 4 << 20;

/// Init's side.
pub(super) struct Log {
    now: File,
    before: File,
    length: u64,
    times: Index,
    times_before: File,
}

impl Log {
    /// Opens all in the current folder.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_with(|name| {
            durable::clear_way(Path::new(name))?;
            File::options().create(true).read(true).append(true).mode(0o600).open(Path::new(name))
        })
    }

    fn open_with(open: impl Fn(&str) -> io::Result<File>) -> io::Result<Self> {
        let (now, before) = (open(LOG[0])?, open(LOG[1])?);
        let length = now.metadata()?.len();
        let times = Index::over(open(TIMES[0])?, length)?;
        Ok(Self { now, before, length, times, times_before: open(TIMES[1])? })
    }

    pub(super) fn fds(&self) -> [RawFd; 4] {
        [&self.now, &self.before, self.times.file(), &self.times_before].map(AsRawFd::as_raw_fd)
    }

    /// Appends. A full disk loses output, nothing else.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() as u64 > BOUND || self.times.is_full() {
            let _ = self.turn();
        }
        self.times.note(self.length);
        match self.now.write_all(bytes) {
            Ok(()) => self.length += bytes.len() as u64,
            // A part of it may have been written.
            Err(_) => self.length = self.now.metadata().map_or(self.length, |found| found.len()),
        }
    }

    /// Appends a line of our own.
    pub(super) fn note(&mut self, line: &str) {
        self.write(format!("bottle: {line}\n").as_bytes());
    }

    fn turn(&mut self) -> io::Result<()> {
        // Times of another log are worse than none.
        self.times_before.set_len(0)?;
        self.before.set_len(0)?;
        self.now.seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut self.now, &mut self.before);
        self.now.set_len(0)?;
        self.length = 0;
        let times = self.times.turn(&mut self.times_before);
        copied.map(drop).and(times)
    }
}

/// What stands in one file of the log, and from which byte on.
struct Part {
    offset: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// A reader that knows about the turn.
struct Reader {
    folder: Folder,
    offset: u64,
    /// Times are read, too.
    timed: bool,
}

impl Reader {
    /// What was written since the last call.
    fn more(&mut self) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        let Some(now) = open(&self.folder, LOG[0])? else { return Ok(parts) };
        if now.metadata()?.len() < self.offset {
            // It was full, and what we had not seen of it is in the other file.
            if let Some(before) = open(&self.folder, LOG[1])? {
                parts.push(self.part(before, TIMES[1], self.offset)?);
            }
            self.offset = 0;
        }
        let part = self.part(now, TIMES[0], self.offset)?;
        self.offset += part.bytes.len() as u64;
        parts.push(part);
        Ok(parts)
    }

    fn part(&self, mut file: File, times: &str, offset: u64) -> io::Result<Part> {
        let mut part = Part { offset, bytes: Vec::new(), entries: Vec::new() };
        file.seek(SeekFrom::Start(offset))?;
        file.take(BOUND).read_to_end(&mut part.bytes)?;
        if self.timed
            && !part.bytes.is_empty()
            && let Some(mut times) = open(&self.folder, times)?
        {
            part.entries = times::all(&mut times)?;
        }
        Ok(part)
    }

    /// All that is kept. Reading goes on behind it.
    fn whole(&mut self) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        if let Some(before) = open(&self.folder, LOG[1])? {
            parts.push(self.part(before, TIMES[1], 0)?);
        }
        parts.extend(self.more()?);
        Ok(parts)
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

/// Leaves the last `lines` lines of all parts.
fn tail(parts: &mut [Part], lines: u64) {
    let mut left = lines;
    // The end of the last line begins none.
    let mut last = true;
    for part in parts.iter_mut().rev() {
        let body = match last {
            true => part.bytes.strip_suffix(b"\n").unwrap_or(&part.bytes),
            false => &part.bytes,
        };
        last &= part.bytes.is_empty();
        let mut cut = if left == 0 { part.bytes.len() } else { 0 };
        for end in memchr::memrchr_iter(b'\n', body) {
            if left > 0 {
                left -= 1;
                if left == 0 {
                    cut = end + 1;
                }
            }
            if left == 0 {
                break;
            }
        }
        part.bytes.drain(..cut);
        part.offset += cut as u64;
    }
}

/// What of parts is shown.
fn shown(parts: Vec<Part>, timed: Option<&mut Timed>) -> Vec<u8> {
    let Some(timed) = timed else { return parts.into_iter().flat_map(|part| part.bytes).collect() };
    let mut out = Vec::new();
    for part in &parts {
        for (when, piece) in times::pieces(&part.entries, part.offset, &part.bytes) {
            timed.push(when, piece, &mut out);
        }
    }
    out
}

/// Writes the output to `out`, and as it is written while `running` and `follow`.
pub(super) async fn show(
    folder: &Folder,
    options: LogOptions,
    running: impl Fn() -> bool,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> io::Result<()> {
    let mut timed = options.timed().then(|| Timed::new(options));
    let mut reader = Reader { folder: folder.clone(), offset: 0, timed: timed.is_some() };
    let mut parts = reader.whole()?;
    let unknown = |part: &Part| part.entries.is_empty() && !part.bytes.is_empty();
    if options.since.is_some() && parts.last().is_some_and(unknown) {
        return Err(io::Error::other(
            "it has no times: this sandbox was started by an earlier version of bottle; read it without \
             --since, or restart the sandbox",
        ));
    }
    if let Some(lines) = options.tail {
        tail(&mut parts, lines);
    }
    out.write_all(&shown(parts, timed.as_mut())).await?;
    out.flush().await?;
    if !options.follow {
        return Ok(());
    }
    loop {
        // Asked first: what was written before it stopped is still read below.
        let last = !running();
        let parts = reader.more()?;
        out.write_all(&shown(parts, timed.as_mut())).await?;
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

    fn opened(folder: &Folder) -> Log {
        Log::open_with(|name| {
            File::options().create(true).read(true).append(true).open(folder.join(name))
        })
        .unwrap()
    }

    fn reader(folder: &Folder) -> Reader {
        Reader { folder: folder.clone(), offset: 0, timed: true }
    }

    async fn said(folder: &Folder, options: LogOptions) -> String {
        let mut out = Vec::new();
        show(folder, options, || false, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_tail_counts_lines() {
        let last = |texts: &[&str], lines| {
            let part = |text: &&str| Part {
                offset: 0,
                bytes: text.as_bytes().to_vec(),
                entries: Vec::new(),
            };
            let mut parts: Vec<Part> = texts.iter().map(part).collect();
            tail(&mut parts, lines);
            String::from_utf8(shown(parts, None)).unwrap()
        };
        let text = "one\ntwo\nthree\n";
        assert_eq!(last(&[text], 2), "two\nthree\n");
        assert_eq!(last(&[text], 9), text);
        assert_eq!(last(&[text], 0), "");
        assert_eq!(last(&["one\nunended"], 1), "unended");
        assert_eq!(last(&["one\ntwo\n", "three\n"], 2), "two\nthree\n");
        assert_eq!(last(&["one\ntw", "o\nthree\n"], 2), "two\nthree\n");
        assert_eq!(last(&["one\ntwo\n", ""], 1), "two\n");
    }

    #[test]
    fn a_full_log_turns_and_a_reader_misses_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        let mut log = opened(&folder);
        let mut reader = reader(&folder);
        let mut more = || -> usize {
            let parts = reader.more().unwrap();
            for part in &parts {
                let known = times::pieces(&part.entries, part.offset, &part.bytes);
                assert!(known.into_iter().all(|(when, _)| when.is_some()), "each has its time");
            }
            parts.iter().map(|part| part.bytes.len()).sum()
        };
        let line = [b'x'; 1023];
        let mut seen = 0;
        let mut written = 0;
        for _ in 0..10_000 {
            log.write(&line);
            written += line.len();
            if written % 1_000_000 < line.len() {
                seen += more();
            }
        }
        seen += more();
        assert_eq!(seen, written);
        for name in LOG.iter().chain(&TIMES) {
            assert!(folder.join(name).metadata().unwrap().len() <= BOUND, "{name}");
        }
    }

    #[tokio::test]
    async fn times_are_beside_the_log_and_not_in_it() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        let mut log = opened(&folder);
        log.write(b"one\ntw");
        log.write(b"o\n");
        assert_eq!(fs::read(folder.join(LOG[0])).unwrap(), b"one\ntwo\n");
        let plain = said(&folder, LogOptions::default()).await;
        assert_eq!(plain, "one\ntwo\n");
        let dated = LogOptions { timestamps: true, ..LogOptions::default() };
        let dated = said(&folder, dated).await;
        let times: Vec<&str> = dated.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(times.iter().all(|time| crate::backend::Moment::parse(time).is_some()), "{dated}");
        assert_eq!(times.len(), 2);
        let since = crate::backend::Moment::parse(times[0]);
        let all = LogOptions { since, ..LogOptions::default() };
        assert_eq!(said(&folder, all).await, "one\ntwo\n");
        let none = LogOptions { since: Some(crate::backend::Moment(u64::MAX)), ..all };
        assert_eq!(said(&folder, none).await, "");
        // As an earlier version wrote it.
        fs::remove_file(folder.join(TIMES[0])).unwrap();
        let mut out = Vec::new();
        let refused = show(&folder, all, || false, &mut out).await.unwrap_err().to_string();
        assert!(refused.contains("restart the sandbox"), "{refused}");
        let marked = LogOptions { timestamps: true, ..LogOptions::default() };
        assert_eq!(said(&folder, marked).await, "- one\n- two\n");
    }
}
