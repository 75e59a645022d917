//! What is taken of the archives that a sandbox hands out. They are the guest's word: names that lead out of their
//! path are refused, and how much is taken is bounded.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::backend::pax;
use crate::model::text::harmless_line;
use crate::work::names::Listed;
use crate::work::plain::{Plain, Sparse};

/// How many bytes of files one snapshot takes, holes included.
const LIMIT: u64 = 64 << 30;

/// How many entries.
const ENTRIES: u64 = 4_000_000;

/// Folders that programs fill and can fill again, wherever they stand.
const BUILT: [&str; 2] = ["node_modules", "__pycache__"];

/// The same, right below the home folder.
const CACHE: &str = ".cache";

/// What is listed by name; the rest is counted.
const LISTED: usize = 100;

/// What did not come into a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Names, as the guest wrote them, and why.
    pub named: Vec<(String, &'static str)>,
    /// All, listed or not.
    pub count: u64,
    /// Entries in folders that programs can fill again.
    pub built: u64,
    listed: Listed,
}

impl LeftOut {
    fn add(&mut self, path: &[u8], why: &'static str) {
        self.count += 1;
        if let Some(path) = self.listed.name(path, LISTED) {
            self.named.push((path, why));
        }
    }
}

/// One path of a sandbox, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is, absolute.
    pub path: String,
    /// It is a folder: anything else in its place is an error. Else it may be a file.
    pub folder: bool,
    /// Whether what programs can fill again is kept as well.
    pub all: bool,
    /// Paths that were named themselves: what leads to one and is in it is never taken for such.
    pub named: Vec<String>,
    /// Paths that belong to the host: nothing of them is kept.
    pub without: Vec<String>,
}

/// Makes one archive of several. Names in it are paths of the sandbox, without their first slash.
pub struct Sieve<W: Write> {
    pub(super) builder: Builder<W>,
    home: String,
    left: LeftOut,
    entries: u64,
    bytes: u64,
}

impl<W: Write> Sieve<W> {
    /// One of a sandbox whose user has this home.
    pub(super) fn new(out: W, home: &str) -> Self {
        let (builder, home) = (Builder::new(out), home.to_owned());
        Self { builder, home, left: LeftOut::default(), entries: 0, bytes: 0 }
    }

    /// Takes what the sandbox hands out of one path. Names in it begin with the last part of the path. It
    /// reads to the end.
    ///
    /// # Errors
    /// When the archive is damaged, the disk is full, or it is more than a snapshot takes.
    pub fn add(&mut self, part: &Part, tar: impl Read) -> anyhow::Result<()> {
        let tar = Plain::new(io::BufReader::with_capacity(1 << 16, tar));
        let holes = tar.holes();
        let mut archive = Archive::new(tar);
        for entry in archive.entries().context("reading the archive")? {
            let mut entry = entry.context("reading the archive")?;
            let name = entry.path_bytes().into_owned();
            let shown = || format!("keeping {}", harmless_line(&String::from_utf8_lossy(&name)));
            let sparse = holes.take();
            self.one(part, &mut entry, sparse, &name).with_context(shown)?;
        }
        // Whoever writes it is not to find a broken pipe.
        io::copy(&mut archive.into_inner(), &mut io::sink()).context("reading the archive")?;
        Ok(())
    }

    fn one<R: Read>(
        &mut self,
        part: &Part,
        entry: &mut Entry<'_, R>,
        sparse: Option<Sparse>,
        name: &[u8],
    ) -> anyhow::Result<()> {
        let path = &part.path;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let Some(below) = below(name) else {
            self.left.add(name, "its name leads out");
            return Ok(());
        };
        let inside = joined(path, &below);
        if below.as_os_str().is_empty() {
            // It is the path itself: behind a link nothing would be kept.
            anyhow::ensure!(kind.is_dir() || !part.folder, "{path} is no folder");
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                self.left.add(name, "it is a link, which is not followed");
                return Ok(());
            }
        }
        if part.without.iter().any(|path| inside.starts_with(path.trim_matches('/'))) {
            return Ok(());
        }
        if !part.all && part.is_built(&self.home, &inside, kind.is_dir()) {
            self.left.built += 1;
            return Ok(());
        }
        self.entries += 1;
        anyhow::ensure!(self.entries <= ENTRIES, "there are more than {ENTRIES} entries");
        let mut header = plain(entry)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let size = sparse.as_ref().map_or(entry.size(), |sparse| sparse.size);
                self.bytes = self.bytes.saturating_add(size);
                let gibibytes = LIMIT >> 30;
                anyhow::ensure!(
                    self.bytes <= LIMIT,
                    "it is more than {gibibytes} GiB: remove what need not be kept"
                );
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                self.extend(entry)?;
                match sparse {
                    // Zeros take no room in a snapshot.
                    Some(sparse) => {
                        let content = Filled::new(entry, sparse);
                        self.builder.append_data(&mut header, &inside, content)?;
                    }
                    None => self.builder.append_data(&mut header, &inside, entry)?,
                }
            }
            EntryType::Directory => {
                self.extend(entry)?;
                self.builder.append_data(&mut header, &inside, io::empty())?;
            }
            EntryType::Symlink | EntryType::Link => {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                let to = match kind {
                    EntryType::Symlink => PathBuf::from(OsStr::from_bytes(&to)),
                    _ => match self::below(&to) {
                        Some(below) => joined(path, &below),
                        None => {
                            self.left.add(name, "it is a link that leads out");
                            return Ok(());
                        }
                    },
                };
                self.extend(entry)?;
                self.builder.append_link(&mut header, &inside, to)?;
            }
            EntryType::Block | EntryType::Char => self.left.add(name, "it is a device"),
            EntryType::Fifo => self.left.add(name, "it is a FIFO"),
            _ => self.left.add(name, "it is of an unknown kind"),
        }
        Ok(())
    }

    /// Takes over what the plain header has no room for: fractions of seconds, extended attributes.
    fn extend<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> anyhow::Result<()> {
        let records = extensions(entry)?;
        let records: Vec<(&str, &[u8])> =
            records.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        if !records.is_empty() {
            let (header, content) = pax::extension(&records)?;
            self.builder.append(&header, &*content)?;
        }
        Ok(())
    }

    /// What did not come in so far.
    #[must_use]
    pub const fn left_out(&self) -> &LeftOut {
        &self.left
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(self) -> io::Result<()> {
        self.builder.into_inner()?.flush()
    }
}

/// The parts of a name below its first one; `None` where they lead out.
fn below(name: &[u8]) -> Option<PathBuf> {
    if name.starts_with(b"/") {
        return None;
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return None;
    }
    Some(parts.iter().skip(1).map(|part| OsStr::from_bytes(part)).collect())
}

/// A name in the snapshot.
fn joined(path: &str, below: &Path) -> PathBuf {
    let path = Path::new(path.trim_matches('/'));
    // Without a slash at the end, which would make a folder of a file.
    if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) }
}

impl Part {
    /// Whether programs can make it again: it lies in a folder of a telling name, and was not named itself.
    fn is_built(&self, home: &str, inside: &Path, is_folder: bool) -> bool {
        let plain = |path: &String| PathBuf::from(path.trim_matches('/'));
        let named = || self.named.iter().map(plain);
        if is_folder && named().any(|path| path.starts_with(inside)) {
            return false;
        }
        // What counts is how it is called below what was asked for.
        let from = named().chain([plain(&self.path)]).filter(|path| inside.starts_with(path));
        let from = from.max_by_key(|path| path.as_os_str().len()).unwrap_or_default();
        let below = inside.strip_prefix(&from).unwrap_or(inside);
        let cache = Path::new(home.trim_matches('/')).join(CACHE);
        below.iter().any(|part| BUILT.iter().any(|built| part == *built))
            || (inside.starts_with(&cache) && !from.starts_with(&cache))
    }
}

/// The header with nothing in it but what a snapshot keeps.
pub(super) fn plain<R: Read>(entry: &Entry<'_, R>) -> io::Result<Header> {
    let found = entry.header();
    let mut header = Header::new_gnu();
    header.set_entry_type(found.entry_type());
    header.set_mode(found.mode()? & 0o7777);
    header.set_uid(found.uid()?);
    header.set_gid(found.gid()?);
    header.set_mtime(found.mtime()?);
    header.set_size(0);
    Ok(header)
}

/// What is taken over of the extended headers.
pub(super) fn extensions<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut kept = Vec::new();
    let Some(extensions) = entry.pax_extensions()? else { return Ok(kept) };
    for extension in extensions {
        // A record that cannot be read is one of the guest's own making.
        let Ok(extension) = extension else { continue };
        let Ok(key) = extension.key() else { continue };
        if matches!(key, "mtime" | "uid" | "gid") || key.starts_with("SCHILY.xattr.") {
            kept.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(kept)
}

/// The content of a file with holes, which are zeros in it.
struct Filled<R> {
    data: R,
    pieces: std::vec::IntoIter<(u64, u64)>,
    /// Where the next piece begins, and how much of it is left.
    piece: Option<(u64, u64)>,
    at: u64,
    size: u64,
}

impl<R: Read> Filled<R> {
    fn new(data: R, sparse: Sparse) -> Self {
        let mut pieces = sparse.pieces.into_iter();
        let piece = pieces.next();
        Self { data, pieces, piece, at: 0, size: sparse.size }
    }
}

impl<R: Read> Read for Filled<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_some_and(|(_, left)| left == 0) {
            self.piece = self.pieces.next();
        }
        let room = into.len();
        let most = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(room);
        let count = match self.piece {
            Some((offset, left)) if self.at >= offset => {
                let count = self.data.read(&mut into[..most(left)])?;
                if count == 0 && !into.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.piece = Some((offset, left - count as u64));
                count
            }
            piece => {
                let until = piece.map_or(self.size, |(offset, _)| offset);
                let count = most(until.saturating_sub(self.at));
                into[..count].fill(0);
                count
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}
