//! The record of a sidecar: what it let pass and what not, one JSON object a line.
//!
//! The sidecar appends to one file, and sets it aside under another name when it is full. It could put
//! anything there, also a link: what is no plain file is not read.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::life::Sidecar;
use super::process::host_boot;
use crate::backend::timed::Timed;
use crate::backend::{BackendError, LogOptions, Moment};

/// Name of what is written now. What was written before it has `.1` at its end.
pub(super) const LOG: &str = "log";

/// No more is read of one file at once.
const MOST: u64 = 64 << 20;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads on where it stopped, also over the turn from one file to the next.
struct Reader {
    path: PathBuf,
    now: Option<File>,
}

impl Reader {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), now: open(path)? })
    }

    /// What was written since the last call.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let named = open(&self.path)?;
        // After the other was opened: what is written to the old one was written before.
        if let Some(now) = &self.now {
            now.take(MOST).read_to_end(&mut bytes)?;
        }
        if let Some(named) = named {
            let turned = match &self.now {
                Some(now) => identity(now)? != identity(&named)?,
                None => true,
            };
            if turned {
                (&named).take(MOST).read_to_end(&mut bytes)?;
                self.now = Some(named);
            }
        }
        Ok(bytes)
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no plain file", path.display())));
    }
    Ok(Some(file))
}

/// The last `lines` lines of `text`.
fn tail(text: &[u8], lines: u64) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let skip = usize::try_from(lines).unwrap_or(usize::MAX);
    let Some(before) = skip.checked_sub(1) else { return &[] };
    let mut ends = memchr::memrchr_iter(b'\n', body).skip(before);
    ends.next().map_or(text, |end| &text[end + 1..])
}

/// The lines of a record, each of which says its time in its first field.
struct Dated {
    options: LogOptions,
    timed: Timed,
    /// A line whose end is still to come.
    begun: Vec<u8>,
}

impl Dated {
    /// How a line begins.
    const START: &[u8] = br#"{"time":""#;

    /// No line of a record is longer; what is, is of another's making.
    const LONGEST: usize = 1 << 20;

    fn shown<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.options.timed() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") || self.begun.len() > Self::LONGEST {
                let line = std::mem::take(&mut self.begun);
                self.timed.push(Self::time(&line), &line, &mut out);
            }
        }
        Cow::Owned(out)
    }

    fn time(line: &[u8]) -> Option<Moment> {
        let rest = line.strip_prefix(Self::START)?;
        let end = rest.iter().take(40).position(|byte| *byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok().and_then(Moment::parse)
    }
}

/// Writes what is kept to `out`, and as it is written while `running` and `follow`.
async fn show(
    path: &Path,
    options: LogOptions,
    running: impl Fn() -> bool,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    let before = open(Path::new(&aside))?;
    let mut reader = Reader::new(path)?;
    if let Some(mut before) = before {
        let length = before.metadata()?.len();
        before.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        before.take(MOST).read_to_end(&mut bytes)?;
    }
    bytes.extend(reader.more()?);
    let mut timed = Dated { options, timed: Timed::new(options), begun: Vec::new() };
    let last = options.tail.map_or(&bytes[..], |lines| tail(&bytes, lines));
    out.write_all(&timed.shown(last)).await?;
    out.flush().await?;
    drop(bytes);
    if !options.follow {
        return Ok(());
    }
    loop {
        // Asked first: what was written before it stopped is still read below.
        let last = !running();
        let bytes = reader.more()?;
        out.write_all(&timed.shown(&bytes)).await?;
        out.flush().await?;
        if last {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Sidecar<'_> {
    /// Where its record is, and what tells whether it goes on being written. Nothing is held.
    pub(in crate::backend) fn record_of(self) -> Written {
        let path = self.folder().own().join(LOG);
        Written { path, process: self.process() }
    }
}

/// A sidecar's record.
pub(in crate::backend) struct Written {
    path: PathBuf,
    process: Option<super::Process>,
}

impl Written {
    /// Writes it to `out`.
    pub(in crate::backend) async fn show(
        &self,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        let running = || {
            let host_boot = host_boot().unwrap_or_default();
            self.process.as_ref().is_some_and(|process| process.alive(&host_boot))
        };
        match show(&self.path, options, running, out).await {
            // Nobody reads on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result
                .map_err(|error| BackendError::failed("reading the record of a sidecar", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
    fn a_reader_misses_nothing_when_the_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("a\n");
        let mut reader = Reader::new(&path).unwrap();
        assert_eq!(reader.more().unwrap(), b"a\n");
        assert_eq!(reader.more().unwrap(), b"");
        append("b\n");
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        append("c\n");
        assert_eq!(reader.more().unwrap(), b"b\nc\n");
        append("d\n");
        assert_eq!(reader.more().unwrap(), b"d\n");
    }

    #[tokio::test]
    async fn lines_are_of_the_time_that_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let line = |second: u32| format!("{{\"time\":\"2026-01-01T00:00:0{second}.000Z\"}}\n");
        std::fs::write(&path, format!("{}{}other\n{}", line(1), line(2), line(3))).unwrap();
        let since = Moment::parse("2026-01-01T00:00:02Z");
        let options = LogOptions { since, ..LogOptions::default() };
        let mut out = Vec::new();
        show(&path, options, || false, &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{}{}", line(2), line(3)));
    }

    #[tokio::test]
    async fn what_a_sidecar_puts_in_its_place_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
        let mut out = Vec::new();
        show(&path, options, || false, &mut out).await.unwrap();
        assert!(out.is_empty(), "none is there yet");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(show(&path, options, || false, &mut out).await.is_err());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        assert!(show(&path, options, || false, &mut out).await.is_err());
        assert!(out.is_empty());
    }
}
