//! Reads a skill: a folder, once, into memory. What was checked is what is hashed and copied.
//!
//! Nothing outside the folder can be read. Every entry is opened by its plain name, relative to
//! the open folder that holds it, and no link is followed: a folder or file that is swapped for a
//! link in the middle of the walk makes the read fail.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::source::shorten_path;
use super::tree::{self, Dir, Kind, Links, ReadError, Stat};
use super::trust::{Exposed, Trust};
use crate::model::text::first_unseen;
use crate::model::{SkillEntry, SkillFiles, SkillNode};

/// Most bytes in one skill.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Most entries in one skill.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;

/// Most links that one path may lead through.
const MAX_HOPS: usize = 40;

/// Why a skill is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum SkillError {
    #[error("there is no such folder")]
    Missing,
    #[error("{path}: {reason}")]
    Entry { path: String, reason: String },
    #[error("{0}")]
    Whole(String),
}

fn entry_error(path: &str, reason: impl ToString) -> SkillError {
    SkillError::Entry { path: path.to_owned(), reason: reason.to_string() }
}

/// What makes a folder a skill.
const SKILL: &str = "SKILL.md";

/// Reads the skill in the folder at `path`. It may be a link, as installers of skills make them: what is
/// opened is the folder that was judged, and one that is reached by a link has to look like a skill.
pub(super) fn read(path: &Path, trust: &Trust) -> Result<SkillFiles, SkillError> {
    let place = trust.walk(path).map_err(|error| whole(path, &error))?;
    let root = Dir::open(&place.path, Links::Refuse).map_err(|error| whole(&place.path, &error))?;
    let linked = tree::stat_link(path).is_ok_and(|stat| stat.kind == Kind::Symlink);
    if linked && root.stat_entry(OsStr::new(SKILL)).is_err() {
        let shown = shorten_path(&place.path);
        let reason = format!("it is a symbolic link to `{shown}`, where there is no {SKILL}");
        return Err(SkillError::Whole(reason));
    }
    let stat = root.stat().map_err(|error| SkillError::Whole(tree::describe(&error)))?;
    if let Some(found) = place.exposed.or_else(|| trust.own(&place.path, &stat)) {
        return Err(SkillError::Whole(changed_by_others(&found)));
    }
    let mut reader = Reader { top: &place.path, trust, entries: Vec::new(), bytes: 0 };
    reader.folder(&root, "", 0)?;
    let entries = reader.entries;
    refuse_leaving_links(&entries)?;
    Ok(SkillFiles::new(entries))
}

fn changed_by_others(found: &Exposed) -> String {
    let shown = shorten_path(&found.path);
    format!("others can change it: `{shown}` {} ({})", found.who, found.mend)
}

fn whole(path: &Path, error: &io::Error) -> SkillError {
    match tree::stat_link(path) {
        Ok(stat) if stat.kind == Kind::Symlink && error.kind() == io::ErrorKind::NotFound => {
            SkillError::Whole(ReadError::Dangling.to_string())
        }
        _ if error.kind() == io::ErrorKind::NotFound => SkillError::Missing,
        Ok(stat) if stat.kind != Kind::Folder => {
            SkillError::Whole(format!("it is {}, not a folder", stat.kind.describe()))
        }
        _ => SkillError::Whole(tree::describe(error)),
    }
}

struct Reader<'a> {
    /// Where the folder lies.
    top: &'a Path,
    trust: &'a Trust,
    entries: Vec<SkillEntry>,
    bytes: u64,
}

impl Reader<'_> {
    /// What others can change is not what the operator wrote.
    fn trusted(&self, path: &str, stat: &Stat) -> Result<(), SkillError> {
        match self.trust.own(&self.top.join(path), stat) {
            Some(found) => Err(entry_error(path, changed_by_others(&found))),
            None => Ok(()),
        }
    }

    fn folder(&mut self, dir: &Dir, prefix: &str, depth: usize) -> Result<(), SkillError> {
        if depth > MAX_DEPTH {
            return Err(entry_error(prefix, format!("more than {MAX_DEPTH} folders deep")));
        }
        let names = dir.names().map_err(|error| entry_error(prefix, tree::describe(&error)))?;
        for name in names {
            self.entry(dir, prefix, &name, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &Dir,
        prefix: &str,
        name: &OsStr,
        depth: usize,
    ) -> Result<(), SkillError> {
        let path = match name.to_str() {
            Some(name) if first_unseen(name, "").is_none() => {
                if prefix.is_empty() {
                    name.to_owned()
                } else {
                    format!("{prefix}/{name}")
                }
            }
            _ => {
                let shown = format!("{prefix}/{}", name.to_string_lossy());
                return Err(entry_error(&shown, "its name is not plain UTF-8 text"));
            }
        };
        if self.entries.len() >= MAX_ENTRIES {
            return Err(SkillError::Whole(format!("it holds more than {MAX_ENTRIES} entries")));
        }
        let fail = |error: io::Error| entry_error(&path, tree::describe(&error));
        let stat = dir.stat_entry(name).map_err(fail)?;
        let mode = stat.mode & 0o777;
        match stat.kind {
            Kind::Folder => {
                let folder = dir.open_dir(name).map_err(fail)?;
                // What was opened counts, not what stood there a moment ago.
                let stat = folder.stat().map_err(fail)?;
                self.trusted(&path, &stat)?;
                let mode = stat.mode & 0o777;
                self.push(&path, mode, SkillNode::Folder);
                self.folder(&folder, &path, depth + 1)
            }
            Kind::File => {
                let left = MAX_BYTES - self.bytes;
                let (bytes, stat) = dir.read(name, left).map_err(|error| match error {
                    ReadError::TooLarge { .. } => {
                        SkillError::Whole(format!("it holds more than {} MiB", MAX_BYTES >> 20))
                    }
                    other => entry_error(&path, other),
                })?;
                if bytes.len() as u64 != stat.size {
                    return Err(entry_error(&path, "it changed while it was read"));
                }
                self.trusted(&path, &stat)?;
                self.bytes += stat.size;
                self.push(&path, stat.mode & 0o777, SkillNode::File(Arc::from(bytes)));
                Ok(())
            }
            Kind::Symlink => {
                let target = dir.read_link(name).map_err(fail)?;
                let target = target.to_str().filter(|text| first_unseen(text, "").is_none());
                let target = target
                    .ok_or_else(|| entry_error(&path, "its target is not plain UTF-8 text"))?;
                self.push(&path, mode, SkillNode::Symlink(target.to_owned()));
                Ok(())
            }
            other => Err(entry_error(&path, format!("it is {}", other.describe()))),
        }
    }

    fn push(&mut self, path: &str, mode: u32, node: SkillNode) {
        self.entries.push(SkillEntry { path: path.to_owned(), mode, node });
    }
}

/// Follows every link within what was read, as the guest will, and refuses one that gets out.
///
/// Judging the text alone would not do: `d/../x` leaves the folder when `d` links to its root.
fn refuse_leaving_links(entries: &[SkillEntry]) -> Result<(), SkillError> {
    let links: BTreeMap<&str, &str> = entries
        .iter()
        .filter_map(|entry| match &entry.node {
            SkillNode::Symlink(target) => Some((entry.path.as_str(), target.as_str())),
            SkillNode::Folder | SkillNode::File(_) => None,
        })
        .collect();
    for path in links.keys() {
        if let Err(reason) = follow(path, &links) {
            let target = links[path];
            return Err(entry_error(path, format!("this symbolic link (to `{target}`) {reason}")));
        }
    }
    Ok(())
}

fn follow(path: &str, links: &BTreeMap<&str, &str>) -> Result<(), &'static str> {
    let mut at: Vec<&str> = Vec::new();
    let mut rest: Vec<&str> = path.split('/').rev().collect();
    let mut hops = 0;
    while let Some(part) = rest.pop() {
        match part {
            "" | "." => {}
            ".." => {
                at.pop().ok_or("leaves the skill's folder")?;
            }
            name => {
                at.push(name);
                if let Some(target) = links.get(at.join("/").as_str()) {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err("leads round in a circle");
                    }
                    if target.starts_with('/') {
                        return Err("is absolute: it leaves the skill's folder");
                    }
                    at.pop();
                    rest.extend(target.split('/').rev());
                }
            }
        }
    }
    Ok(())
}
