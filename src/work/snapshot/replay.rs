//! Reads a snapshot: what it says of itself, and its files as an archive for somewhere else.

use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use tar::{Archive, Builder, Entry, EntryType};

use super::sieve::{extensions, plain};
use super::{Meta, VERSION, open};
use crate::backend::pax;
use crate::backend::zstd::Frames;
use crate::model::text::harmless_line;

/// How long what a snapshot says of itself may be, in bytes.
const META: u64 = 1 << 20;

/// What the headers before it may take, in bytes.
const HEADERS: u64 = 64 << 10;

type Packed = Archive<Frames<BufReader<std::fs::File>>>;

/// Where the files of a snapshot are to come to lie.
#[derive(Debug, Clone)]
pub struct Landing {
    /// Absolute paths of the snapshot, and what they become. The first that fits counts; what lies in none
    /// of them is left out.
    pub paths: Vec<(String, String)>,
    /// Paths of the snapshot that are left out, with all that is in them.
    pub without: Vec<String>,
    /// Absolute paths into which nothing comes to lie.
    pub not_into: Vec<String>,
    /// The user and group that worked there, and who they are here. All others stay who they are.
    pub owners: Option<((u32, u32), (u32, u32))>,
    /// Whether set-id bits are kept.
    pub set_id: bool,
}

/// What is in a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

fn archive(path: &Path) -> anyhow::Result<Packed> {
    Ok(Archive::new(Frames::new(BufReader::with_capacity(1 << 16, open(path)?))))
}

/// What a snapshot says of itself. No more is unpacked than that may take: a name in a tar may be of any
/// length, and zstd packs one of gigabytes into some kilobytes.
pub(super) fn meta(path: &Path) -> anyhow::Result<Meta> {
    let frames = archive(path)?.into_inner();
    let mut archive = Archive::new(frames.take(META + HEADERS));
    let first = archive.entries()?.next().context("it is empty")?;
    read(first.context("it is no tar in zstd")?)
}

fn read<R: Read>(mut entry: Entry<'_, R>) -> anyhow::Result<Meta> {
    anyhow::ensure!(&*entry.path_bytes() == b"meta.json", "its first file is not meta.json");
    anyhow::ensure!(entry.size() <= META, "its meta.json is too long");
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    let value: serde_json::Value = serde_json::from_slice(&text).context("its meta.json")?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    anyhow::ensure!(
        version == Some(VERSION.into()),
        "it is of version {}; this bottle reads {VERSION}",
        version.map_or_else(|| "?".to_owned(), |version| version.to_string())
    );
    serde_json::from_value(value).context("its meta.json")
}

/// Counts what is in a snapshot, by reading all of it.
///
/// # Errors
/// When it is damaged.
pub fn census(path: &Path) -> anyhow::Result<Census> {
    let mut census = Census::default();
    each(path, |entry, _| {
        census.entries += 1;
        census.bytes += entry.size();
        Ok(())
    })?;
    Ok(census)
}

/// Makes a tar of a snapshot's files, under the names and owners that they are to have.
///
/// # Errors
/// When the snapshot is damaged, or `out` takes no more.
pub fn replay(path: &Path, landing: &Landing, out: impl Write) -> anyhow::Result<()> {
    let mut builder = Builder::new(out);
    each(path, |entry, name| land(entry, name, landing, &mut builder))?;
    Ok(builder.into_inner()?.flush()?)
}

/// The same of an archive that comes as it is, without a `meta.json`.
pub(super) fn relay(tar: impl Read, landing: &Landing, out: impl Write) -> anyhow::Result<()> {
    let mut builder = Builder::new(out);
    let mut archive = Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        land(&mut entry, &name, landing, &mut builder)?;
    }
    // Whoever writes it is not to find a broken pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(builder.into_inner()?.flush()?)
}

/// Appends an entry under the name and with the owner that it is to have.
fn land<R: Read, W: Write>(
    entry: &mut Entry<'_, R>,
    name: &Path,
    landing: &Landing,
    builder: &mut Builder<W>,
) -> anyhow::Result<()> {
    let Some(to) = landing.of(name) else { return Ok(()) };
    let mut header = plain(entry)?;
    let kind = header.entry_type();
    if !landing.set_id {
        header.set_mode(header.mode()? & 0o777);
    }
    let mut records = extensions(entry)?;
    // As the header says.
    records.retain(|(key, _)| !matches!(key.as_str(), "uid" | "gid"));
    if let Some(((uid, gid), (new_uid, new_gid))) = landing.owners {
        if header.uid()? == u64::from(uid) {
            header.set_uid(new_uid.into());
        }
        if header.gid()? == u64::from(gid) {
            header.set_gid(new_gid.into());
        }
    }
    if !records.is_empty() {
        let records: Vec<(&str, &[u8])> =
            records.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        let (header, content) = pax::extension(&records)?;
        builder.append(&header, &*content)?;
    }
    match kind {
        EntryType::Symlink | EntryType::Link => {
            let link = entry.link_name_bytes().unwrap_or_default().into_owned();
            let link = PathBuf::from(OsStr::from_bytes(&link));
            let link = match kind {
                EntryType::Symlink => Some(link),
                _ => landing.of(&link),
            };
            if let Some(link) = link {
                builder.append_link(&mut header, to, link)?;
            }
        }
        EntryType::Directory => builder.append_data(&mut header, to, io::empty())?,
        EntryType::Regular => {
            header.set_size(entry.size());
            builder.append_data(&mut header, to, entry)?;
        }
        other => anyhow::bail!("it is of an unknown kind, {other:?}"),
    }
    Ok(())
}

/// Every entry but the first, which says what it is.
fn each(
    path: &Path,
    mut look: impl FnMut(&mut Entry<'_, Frames<BufReader<std::fs::File>>>, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut archive = archive(path)?;
    let mut entries = archive.entries()?;
    let what = || format!("reading {}", path.display());
    let first = entries.next().context("it is empty").with_context(what)?;
    first.map_err(anyhow::Error::from).and_then(read).with_context(what)?;
    for entry in entries {
        let mut entry = entry.with_context(what)?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        // Whoever put the file there may be another than who made it.
        anyhow::ensure!(
            name.components().all(|part| matches!(part, Component::Normal(_))),
            "`{}` in {} leads out of it",
            harmless_line(&name.to_string_lossy()),
            path.display()
        );
        look(&mut entry, &name).with_context(|| {
            format!("{}: {}", path.display(), harmless_line(&name.to_string_lossy()))
        })?;
    }
    Ok(())
}

impl Landing {
    /// What a name becomes, without its first slash.
    fn of(&self, name: &Path) -> Option<PathBuf> {
        if self.without.iter().any(|path| name.starts_with(path.trim_matches('/'))) {
            return None;
        }
        self.paths
            .iter()
            .find_map(|(from, to)| {
                let rest = name.strip_prefix(from.trim_matches('/')).ok()?;
                let to = Path::new(to.trim_matches('/'));
                Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
            })
            .filter(|to| !self.not_into.iter().any(|path| to.starts_with(path.trim_matches('/'))))
    }
}
