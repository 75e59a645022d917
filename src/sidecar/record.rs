#![expect(clippy::disallowed_methods, reason = "writes the log, and says when")]
//! The log: one JSON object a line, where no machine can reach it.
//!
//! It holds names and codes, never values, queries or bodies. A decision is written before it is
//! carried out, and what cannot be written is not carried out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The sidecar serves.
    Start,
    /// It ends.
    Stop,
    /// A document was loaded.
    ConfigReload,
    /// A document was refused; the one before it stays.
    ConfigRejected,
    /// A request is passed on.
    Allow,
    /// A request is passed on although a leak rule matched.
    Warn,
    /// A request is passed on without what was found in it.
    Redacted,
    /// A request, a connection or a response is refused.
    Deny,
    /// A request ended before it was decided, because whoever asked is gone.
    Abandoned,
    /// A connection that a new policy forbids is closed.
    Revoked,
    /// An agent asks for something new.
    Request,
    /// Something in the sidecar itself went wrong.
    Error,
}

impl Event {
    /// Its name in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::ConfigReload => "config_reload",
            Self::ConfigRejected => "config_rejected",
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Redacted => "redacted",
            Self::Deny => "deny",
            Self::Abandoned => "abandoned",
            Self::Revoked => "revoked",
            Self::Request => "request",
            Self::Error => "error",
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One line. What is not known stays out of it.
#[derive(Debug, Clone, Serialize)]
pub struct Line<'a> {
    /// What happened.
    pub event: Event,
    /// The request, as its page names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The generation of the document by which it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The request's method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The canonical host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// The canonical path, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// How often that was taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The path of the credential route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The name of the credential that is injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inject: Option<&'a str>,
    /// `proxy`: it goes by the network's proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'a str>,
    /// Not all of the body was scanned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unscanned: Option<bool>,
    /// Why not.
    #[serde(rename = "unscanned_reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// In words; never of a machine's making.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// Digest of the policy that is left, and of the one that comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// See `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// A line that says no more than what happened.
    #[must_use]
    pub fn new(event: Event) -> Self {
        Self {
            event,
            request_id: None,
            generation: None,
            method: None,
            host: None,
            path: None,
            code: None,
            count: None,
            route: None,
            inject: None,
            via: None,
            unscanned: None,
            reason: None,
            detail: None,
            from: None,
            to: None,
        }
    }

    /// The same line, with words.
    #[must_use]
    pub fn detail(mut self, detail: &'a str) -> Self {
        self.detail = Some(detail);
        self
    }
}

/// What stands before each line's own.
#[derive(Serialize)]
struct Stamped<'a, T> {
    time: String,
    #[serde(flatten)]
    line: &'a T,
}

/// So many bytes of the disk a log has before it needs them. A guest that fills the disk stops nobody
/// from being decided upon, until so much more was written down: some thousands of requests.
const AHEAD: u64 = 1 << 20;

/// A log that is a file.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// It ends within a line.
    partial: bool,
    /// Up to here it has blocks.
    has: u64,
    /// It is to be set aside at this size; later where that could not be.
    turn: u64,
}

/// The log of one sidecar.
#[derive(Debug)]
pub struct Record {
    sink: Mutex<Sink>,
    prefix: u32,
    requests: AtomicU64,
    lost: AtomicU64,
    counts: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File(Log),
}

impl Record {
    /// Writes to stdout, which the engine of a container keeps.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn stdout() -> io::Result<Self> {
        Self::new(Sink::Stdout)
    }

    /// Appends to a file that only its owner reads. At `limit` bytes it is set aside as `FILE.1`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(path: &Path, limit: u64) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        let partial = ends_within_a_line(path)?;
        let path = path.to_owned();
        let mut log = Log { path, file, size, limit, partial, has: 0, turn: limit };
        // A full disk may be one no more when the first line comes.
        let _ = log.keep_ahead();
        Self::new(Sink::File(log))
    }

    fn new(sink: Sink) -> io::Result<Self> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let sink = Mutex::new(sink);
        let prefix = u32::from_ne_bytes(random);
        Ok(Self {
            sink,
            prefix,
            requests: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            counts: Mutex::default(),
        })
    }

    /// The descriptor of its file.
    pub fn descriptor(&self) -> Option<RawFd> {
        match &*self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Stdout => None,
            Sink::File(log) => Some(log.file.as_raw_fd()),
        }
    }

    /// A name for the next request, unique in this log.
    pub fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}{number:08x}", self.prefix)
    }

    /// How many lines could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many lines were written, by what they say.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes one line, whole or not at all.
    ///
    /// # Errors
    /// When it could not be written; then what it says must not happen.
    pub fn write(&self, line: &Line<'_>) -> io::Result<()> {
        self.write_as(line.event.as_str(), line.code, line)
    }

    /// Writes a line of another kind, which is counted by what it says happened, and why.
    pub(super) fn write_as(
        &self,
        event: &str,
        code: Option<&str>,
        line: &impl Serialize,
    ) -> io::Result<()> {
        let mut text = serde_json::to_vec(&Stamped { time: timestamp(), line })?;
        text.push(b'\n');
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sink.write(&text);
        drop(sink);
        match &written {
            Ok(()) => {
                let key = match code {
                    Some(code) => format!("{event}:{code}"),
                    None => event.to_owned(),
                };
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry(key).or_default() += 1;
            }
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        written
    }
}

impl Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::File(log) => log.write(text),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
        }
    }
}

impl Log {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.size >= self.turn && self.set_aside().is_err() {
            // It goes on growing: a log that is too long is better than none.
            self.turn = self.size + AHEAD / 8;
        }
        // What cannot be had now may be had with the next line.
        let _ = self.keep_ahead();
        let mut whole = Vec::with_capacity(text.len() + 1);
        if self.partial {
            whole.push(b'\n');
        }
        whole.extend_from_slice(text);
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    self.size += count as u64;
                    self.partial = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Begins a new file, once that has what it will need: on a full disk the old one has it.
    fn set_aside(&mut self) -> io::Result<()> {
        let beside = |end: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        let (aside, fresh) = (beside(".1"), beside(".new"));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&fresh)?;
        let mut next = Self {
            path: self.path.clone(),
            file,
            size: 0,
            limit: self.limit,
            partial: false,
            has: 0,
            turn: self.limit,
        };
        let turned = next
            .file
            .set_len(0)
            .and_then(|()| next.keep_ahead())
            .and_then(|()| std::fs::rename(&self.path, &aside))
            .and_then(|()| std::fs::rename(&fresh, &self.path));
        match turned {
            Ok(()) => *self = next,
            Err(_) => std::fs::remove_file(&fresh)?,
        }
        turned
    }

    /// Has the blocks for what is still to come, and is no longer for it.
    fn keep_ahead(&mut self) -> io::Result<()> {
        if self.has >= self.size.saturating_add(AHEAD / 2) {
            return Ok(());
        }
        let allocated = allocate(&self.file, self.size);
        match allocated {
            Ok(()) => self.has = self.size + AHEAD,
            Err(ref error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                return allocated;
            }
            // This file system does not know how, and is not asked again.
            Err(_) => self.has = u64::MAX,
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, from, AHEAD)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// A line that a full disk, or the end of a process, has cut short would take the next one with it.
fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// The present time as RFC 3339 has it, in UTC.
#[must_use]
pub fn timestamp() -> String {
    let now: OffsetDateTime = SystemTime::now().into();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn one_object_a_line_whatever_a_machine_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let record = Record::file(&path, u64::MAX).unwrap();
        let hostile = "/a\n{\"event\":\"allow\"}\r\u{2028}\u{1b}[2J";
        let line = Line { path: Some(hostile), ..Line::new(Event::Deny) };
        record.write(&line).unwrap();
        record.write(&Line::new(Event::Stop)).unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["path"], hostile);
        assert_eq!((&lines[0]["event"], &lines[1]["event"]), (&"deny".into(), &"stop".into()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn it_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let record = Record::file(&path, 1000).unwrap();
        for _ in 0..100 {
            record.write(&Line::new(Event::Allow)).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 1100);
        assert!(lines(&folder.path().join("log.1")).len() > 10);
        assert!(!lines(&path).is_empty());
    }

    #[test]
    fn a_line_that_was_cut_short_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "{\"event\":\"allow\"}\n{\"event\":\"al").unwrap();
        Record::file(&path, u64::MAX).unwrap().write(&Line::new(Event::Start)).unwrap();
        Record::file(&path, u64::MAX).unwrap().write(&Line::new(Event::Start)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let record = Record::new(Sink::File(Log {
            path: "/dev/full".into(),
            file: OpenOptions::new().append(true).open("/dev/full").unwrap(),
            size: 0,
            limit: u64::MAX,
            partial: false,
            has: 0,
            turn: u64::MAX,
        }))
        .unwrap();
        assert!(record.write(&Line::new(Event::Allow)).is_err());
        assert_eq!(record.lost(), 1);
    }

    #[test]
    fn requests_have_names_of_their_own() {
        let record = Record::stdout().unwrap();
        assert_ne!(record.request_id(), record.request_id());
    }
}
