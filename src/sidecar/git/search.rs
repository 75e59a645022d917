//! The search of every object that is new: of commits, tags, the names in trees, and files.
//!
//! What is reachable from the new tips and from nothing that the upstream has is listed by `rev-list`, oldest
//! commit first, so that a finding is of the commit that brought it; `cat-file` gives the objects in that order.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;

use super::jail::{Layer, start};
use super::run::{Git, Place};
use super::wire::{Deadline, Waited, wait};
use crate::sidecar::dlp::coding::Limits;
use crate::sidecar::dlp::{Bounds, Mark, Named, Scanner, Unscanned, is_packed};

/// For all of a search.
pub(super) const SEARCH: Duration = Duration::from_secs(600);
/// Objects of one push.
const OBJECTS: u64 = 1_000_000;
/// A larger file is searched as it comes, and what is packed in it is not opened.
const WHOLE: u64 = 4 << 20;
/// What one thread takes at once.
const BATCH: usize = 1 << 20;
/// Objects of the same.
const BATCHED: usize = 256;
/// What is packed is opened up to this size.
const PACKED: u64 = 16 << 20;
/// What is told of that could not be looked into.
const SKIPPED: usize = 20;
/// Findings that are kept.
const HITS: usize = 10_000;
/// The header of an object, with the path.
const HEADER: u64 = 64 << 10;
/// How often it is said that it goes on.
const PULSE: Duration = Duration::from_millis(500);

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

/// Something that was found.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    number: u64,
    pub(super) kind: Kind,
    /// As git names it, up to a line break.
    pub(super) path: String,
    /// The commit that brought it.
    pub(super) commit: Option<String>,
    pub(super) mark: Mark,
}

impl Hit {
    /// What it is in, as a sentence and an exception name it.
    pub(super) fn place(&self) -> String {
        match (self.kind, self.path.as_str()) {
            (Kind::Commit, _) => "commit message".to_owned(),
            (Kind::Tag, _) => "tag message".to_owned(),
            (Kind::Tree, "") => "file names".to_owned(),
            (Kind::Tree, path) => format!("file names in {path}"),
            (Kind::Blob, "") => "a file without a name".to_owned(),
            (Kind::Blob, path) => path.to_owned(),
        }
    }
}

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// What could not be looked into.
    pub(super) unscanned: u64,
    /// The first of that: what it is, why not, and whether nothing goes for it.
    pub(super) skipped: Vec<(String, &'static str, bool)>,
    pub(super) hits: Vec<Hit>,
    /// There are more of them.
    pub(super) more: bool,
    /// A file that is larger than is looked through, and its size.
    pub(super) too_large: Option<(String, u64)>,
    /// There are more objects than are looked through.
    pub(super) too_many: bool,
}

/// What is searched, and by what.
pub(super) struct Search<'a> {
    pub(super) git: &'a Git,
    pub(super) place: Place<'a>,
    pub(super) scanner: &'a Arc<Scanner>,
    pub(super) host: &'a str,
    pub(super) max_file: u64,
    /// Whom it is for: when they leave it ends.
    pub(super) guest: Option<BorrowedFd<'a>>,
    pub(super) deadline: Deadline,
}

/// An object that is to be searched.
struct Object {
    number: u64,
    kind: Kind,
    oid: String,
    path: String,
    commit: Option<String>,
    data: Vec<u8>,
}

/// What the threads share.
struct Shared<'a> {
    scanner: &'a Arc<Scanner>,
    named: Named,
    host: &'a str,
    today: time::Date,
    hits: Mutex<Vec<Hit>>,
    more: AtomicBool,
    unscanned: AtomicU64,
    /// Each with why, and whether nothing goes for it.
    skipped: Mutex<Vec<(String, &'static str, bool)>>,
    over: AtomicBool,
}

/// Called now and then, with how many objects were looked at.
pub(super) type Pulse<'p> = &'p mut dyn FnMut(u64) -> io::Result<()>;

impl Search<'_> {
    /// Searches what is reachable from these tips, one a line, and from nothing that `not` means.
    pub(super) fn run(&self, tips: &str, not: &[&str], pulse: Pulse<'_>) -> io::Result<Found> {
        let mut arguments = vec![
            "rev-list",
            "--objects",
            "--in-commit-order",
            "--topo-order",
            "--reverse",
            "--stdin",
        ];
        arguments.extend(not);
        let mut command = self.git.command(self.place, &arguments);
        command.stdin(Stdio::piped());
        let layer = Layer::writing(&[])?;
        let mut list = start(command, &layer, &[])?;
        let batch =
            ["cat-file", "--buffer", "--batch=%(objectname) %(objecttype) %(objectsize) %(rest)"];
        let mut command = self.git.command(self.place, &batch);
        let listed = list.child().stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        command.stdin(Stdio::from(listed));
        let mut cat = start(command, &layer, &[])?;
        let mut stdin = list.child().stdin.take();
        let complaints = (list.child().stderr.take(), cat.child().stderr.take());
        let stdout = cat.child().stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let shared = Shared {
            scanner: self.scanner,
            named: Named::new(self.scanner),
            host: self.host,
            today: super::work::today(),
            hits: Mutex::default(),
            more: AtomicBool::new(false),
            unscanned: AtomicU64::new(0),
            skipped: Mutex::default(),
            over: AtomicBool::new(false),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
        let (send, receive) = sync_channel::<Vec<Object>>(1);
        let receive = Mutex::new(receive);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                use std::io::Write as _;
                // One that ends early says why itself.
                stdin.take().map(|mut stdin| stdin.write_all(tips.as_bytes()))
            });
            let deadline = self.deadline;
            let listing =
                complaints.0.map(|it| scope.spawn(move || super::run::words(it, deadline)));
            let catting =
                complaints.1.map(|it| scope.spawn(move || super::run::words(it, deadline)));
            for _ in 0..threads {
                scope.spawn(|| shared.search(&receive));
            }
            let (found, ended) = {
                let source = Source { search: self, from: stdout.as_fd(), count: 0, pulse };
                let mut reading = Reading {
                    from: io::BufReader::with_capacity(128 << 10, source),
                    send,
                    shared: &shared,
                    batch: Vec::new(),
                    held: 0,
                    found: Found::default(),
                };
                let ended = reading.all();
                (reading.found, ended)
            };
            drop(stdout);
            let whole = found.too_large.is_none() && !found.too_many;
            let statuses = if ended.is_ok() && whole {
                let of = |jailed: &mut super::jail::Jailed| jailed.wait(self.guest, deadline);
                Some((of(&mut list), of(&mut cat)))
            } else {
                shared.over.store(true, Ordering::Relaxed);
                None
            };
            drop((list, cat));
            let mut said = String::new();
            for words in [listing, catting].into_iter().flatten() {
                said.push_str(&words.join().unwrap_or_default());
            }
            ended?;
            if let Some((list, cat)) = statuses {
                for status in [list?, cat?] {
                    match status {
                        Ok(status) if status.success() => {}
                        Ok(_) => return Err(io::Error::other(format!("listing objects: {said}"))),
                        Err(Waited::Left) => return Err(io::ErrorKind::ConnectionAborted.into()),
                        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                    }
                }
            }
            Ok(found)
        })
        .map(|found| shared.complete(found))
    }
}

impl Shared<'_> {
    /// Searches what comes, until nothing comes any more.
    fn search(&self, receive: &Mutex<Receiver<Vec<Object>>>) {
        loop {
            let batch = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return };
            for object in batch {
                if !self.over.load(Ordering::Relaxed) {
                    self.whole(&object);
                }
            }
        }
    }

    /// Searches an object of which all is here.
    fn whole(&self, object: &Object) {
        let text = text(object.kind, &object.data);
        let mut marks = self.scanner.marks(self.host, self.today);
        marks.push(&text);
        match marks.end() {
            Some(marks) => self.add(object, marks),
            None => self.more.store(true, Ordering::Relaxed),
        }
        if object.kind == Kind::Blob {
            self.add(object, self.named.marks(self.host, self.today, &object.path, &text));
        }
        let bounds = Bounds { limits: Limits::default(), over: &self.over };
        let (report, scanned) = self.scanner.scan_packed(self.host, self.today, &text, bounds);
        // The whole stands for what cannot be taken out of it.
        let whole = |finding| Mark::of_whole(finding, &object.oid);
        self.add(object, report.findings.iter().map(whole).collect());
        match (scanned, report.unscanned) {
            (Err(_), _) | (_, Some(Unscanned::Large)) => self.skip(object, Unscanned::Large, true),
            (_, Some(why)) => self.skip(object, why, false),
            _ => {}
        }
    }

    /// Something could not be looked into.
    fn skip(&self, object: &Object, why: Unscanned, refused: bool) {
        self.unscanned.fetch_add(1, Ordering::Relaxed);
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.len() < SKIPPED || refused {
            skipped.push((Hit::of(object), why.as_str(), refused));
        }
    }

    fn add(&self, object: &Object, marks: Vec<Mark>) {
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        for mark in marks {
            if hits.len() >= HITS {
                self.more.store(true, Ordering::Relaxed);
                return;
            }
            hits.push(Hit {
                number: object.number,
                kind: object.kind,
                path: object.path.clone(),
                commit: object.commit.clone(),
                mark,
            });
        }
    }

    /// Each finding once, where it came first.
    fn complete(self, mut found: Found) -> Found {
        let mut hits = self.hits.into_inner().unwrap_or_else(PoisonError::into_inner);
        hits.sort_by_key(|hit| hit.number);
        let mut seen = BTreeSet::new();
        hits.retain(|hit| {
            seen.insert((hit.kind, hit.path.clone(), hit.mark.rule.clone(), hit.mark.digest))
        });
        found.hits = hits;
        found.more = self.more.into_inner();
        found.unscanned = self.unscanned.into_inner();
        found.skipped = self.skipped.into_inner().unwrap_or_else(PoisonError::into_inner);
        found
    }
}

/// What of an object is searched.
pub(super) fn text(kind: Kind, data: &[u8]) -> Cow<'_, [u8]> {
    match kind {
        Kind::Blob | Kind::Tag => data.into(),
        Kind::Tree => names(data).join(&b'\n').into(),
        Kind::Commit => {
            // Its head begins with lines that say nothing but names of objects.
            let mut rest = data;
            while rest.starts_with(b"tree ") || rest.starts_with(b"parent ") {
                match memchr::memchr(b'\n', rest) {
                    Some(end) if is_fixed(&rest[..end]) => rest = &rest[end + 1..],
                    _ => break,
                }
            }
            rest.into()
        }
    }
}

fn is_fixed(line: &[u8]) -> bool {
    line.rsplit(|byte| *byte == b' ')
        .next()
        .is_some_and(|oid| super::refs::Oid::parse(oid).is_some())
        && line.iter().filter(|byte| **byte == b' ').count() == 1
}

/// The names in a tree.
fn names(mut tree: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    while let Some(end) = memchr::memchr(0, tree) {
        let entry = &tree[..end];
        let name = memchr::memchr(b' ', entry).map_or(entry, |at| &entry[at + 1..]);
        names.push(name);
        tree = tree.get(end + 21..).unwrap_or_default();
    }
    names
}

/// What `cat-file` says, as it comes.
struct Source<'a, 'p> {
    search: &'a Search<'a>,
    from: BorrowedFd<'a>,
    count: u64,
    pulse: Pulse<'p>,
}

impl Source<'_, '_> {
    fn pulse(&mut self) -> io::Result<()> {
        if self.search.deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.search.guest.is_some_and(super::wire::has_left) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        (self.pulse)(self.count)
    }
}

impl Read for Source<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let soon = self.search.deadline.or_within(PULSE);
            match wait(self.from, PollFlags::IN, None, soon)? {
                Waited::Ready => {
                    return Ok(rustix::io::retry_on_intr(|| {
                        rustix::io::read(self.from, &mut *buffer)
                    })?);
                }
                Waited::Left | Waited::Over => self.pulse()?,
            }
        }
    }
}

/// The reading of all objects.
struct Reading<'a, 'p> {
    from: io::BufReader<Source<'a, 'p>>,
    send: SyncSender<Vec<Object>>,
    shared: &'a Shared<'a>,
    batch: Vec<Object>,
    held: usize,
    found: Found,
}

impl Reading<'_, '_> {
    fn all(&mut self) -> io::Result<()> {
        let mut commit = None;
        let mut number = 0;
        let most = self.from.get_ref().search.max_file;
        while let Some(header) = header(&mut self.from)? {
            number += 1;
            let Header { oid, kind, size, path } = header;
            if kind == Kind::Commit {
                commit = Some(oid.clone());
            }
            let object =
                Object { number, kind, oid, path, commit: commit.clone(), data: Vec::new() };
            self.found.objects += 1;
            self.found.bytes += size;
            self.from.get_mut().count = number;
            if self.found.objects > OBJECTS {
                self.found.too_many = true;
                return Ok(());
            }
            if size > most || kind != Kind::Blob && size > WHOLE {
                self.found.too_large = Some((Hit::of(&object), size));
                return Ok(());
            }
            if kind == Kind::Blob && size > WHOLE && !(size <= PACKED && self.is_packed()?) {
                self.stream(&object, size)?;
            } else {
                self.take(object, size)?;
            }
            let mut end = [0];
            self.from.read_exact(&mut end)?;
        }
        self.hand_over()
    }

    fn take(&mut self, mut object: Object, size: u64) -> io::Result<()> {
        let length = usize::try_from(size).map_err(io::Error::other)?;
        object.data = vec![0; length];
        self.from.read_exact(&mut object.data)?;
        self.held += length;
        self.batch.push(object);
        if self.held >= BATCH || self.batch.len() >= BATCHED { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.from.get_mut().pulse()?;
        let mut batch = std::mem::take(&mut self.batch);
        self.held = 0;
        loop {
            match self.send.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => {
                    batch = back;
                    std::thread::sleep(Duration::from_millis(2));
                    self.from.get_mut().pulse()?;
                }
                Err(TrySendError::Disconnected(_)) => {
                    return Err(io::Error::other("what searches has ended"));
                }
            }
        }
    }

    /// Whether something packed comes next.
    fn is_packed(&mut self) -> io::Result<bool> {
        Ok(is_packed(self.from.fill_buf()?))
    }

    /// Searches a large file as it comes.
    fn stream(&mut self, object: &Object, size: u64) -> io::Result<()> {
        let Shared { host, today, .. } = *self.shared;
        let mut marks = self.shared.scanner.marks(host, today);
        let (alone, mut named) = self.shared.named.begin(host, today, &object.path);
        let mut left = size;
        let mut first = true;
        while left > 0 {
            let piece = self.from.fill_buf()?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if first && is_packed(&piece[..length]) {
                self.shared.skip(object, Unscanned::Large, true);
            }
            first = false;
            marks.push(&piece[..length]);
            if let Some(named) = &mut named {
                named.push(&piece[..length]);
            }
            self.from.consume(length);
            left -= length as u64;
            self.from.get_mut().pulse()?;
        }
        self.shared.add(object, alone);
        for marks in [Some(marks), named].into_iter().flatten() {
            match marks.end() {
                Some(marks) => self.shared.add(object, marks),
                None => self.shared.more.store(true, Ordering::Relaxed),
            }
        }
        Ok(())
    }
}

impl Hit {
    fn of(object: &Object) -> String {
        let Object { kind, path, .. } = object;
        match (kind, path.as_str()) {
            (Kind::Blob, "") => "a file".to_owned(),
            (Kind::Blob, path) => path.to_owned(),
            _ => "an object that is no file".to_owned(),
        }
    }
}

/// How an object is announced.
pub(super) struct Header {
    pub(super) oid: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    path: String,
}

/// The next object; `None`: there is none.
pub(super) fn header(from: &mut impl BufRead) -> io::Result<Option<Header>> {
    let mut line = Vec::new();
    from.by_ref().take(HEADER).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::other("a path is too long"));
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.splitn(4, ' ');
    let oid = words.next().unwrap_or_default();
    let kind = match words.next().unwrap_or_default() {
        "commit" => Kind::Commit,
        "tree" => Kind::Tree,
        "blob" => Kind::Blob,
        "tag" => Kind::Tag,
        _ => return Err(io::Error::new(io::ErrorKind::NotFound, "an object is missing")),
    };
    let size = words.next().and_then(|size| size.parse().ok());
    let size = size.ok_or_else(|| io::Error::other("an object has no size"))?;
    let path = words.next().unwrap_or_default().to_owned();
    Ok(Some(Header { oid: oid.to_owned(), kind, size, path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_commit_all_is_searched_but_names_of_objects() {
        let oid = "0123456789abcdef0123456789abcdef01234567";
        let commit = format!("tree {oid}\nparent {oid}\nauthor a <a@b> 1 +0000\n\ntree x");
        assert_eq!(*text(Kind::Commit, commit.as_bytes()), *b"author a <a@b> 1 +0000\n\ntree x");
        let odd = format!("tree {oid}\nparent secret\nauthor x");
        assert_eq!(*text(Kind::Commit, odd.as_bytes()), *b"parent secret\nauthor x");
        let mut tree = b"100644 a b\0".to_vec();
        tree.extend([0; 20]);
        tree.extend(b"40000 c\0");
        tree.extend([0; 20]);
        assert_eq!(*text(Kind::Tree, &tree), *b"a b\nc");
    }
}
