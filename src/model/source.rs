//! What of the host a sandbox is given, as the manifest names it and as it was resolved.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::fs_path::{FsPath, MountTable};
use super::id::SandboxId;

/// How a sandbox uses a folder or file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Mounted, writable: whatever is in it can be replaced from inside.
    Mount,
    /// Read, or shown read-only.
    Read,
    /// Read, and it decides what the sandbox is: an image, a manifest, rules, a skill.
    Define,
}

/// A folder or file of the host that a sandbox is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostSource {
    /// The field that names it: `workspace.path`.
    pub field: String,
    /// As the manifest has it.
    pub text: String,
    /// Where a text that starts with `.` starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Absolute, without links: the path that is used.
    pub path: PathBuf,
    /// The links that lead there, and the folders that a `..` left again: whoever can replace one of
    /// them decides where the text leads. Each is absolute and without links above it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<PathBuf>,
    /// How it is used.
    #[serde(rename = "use")]
    pub usage: Use,
    /// Where the manifest names it.
    #[serde(skip)]
    pub place: Place,
    /// Where it lies, and what leads to it, on the file systems as they are mounted now.
    #[serde(skip)]
    pub located: Located,
}

/// Where a source lies on the file systems of this machine: looked up once somebody asks, which only sources beside
/// writable mounts are. Device numbers change when the machine starts again, so none of it is remembered, and it
/// makes no source another.
#[derive(Debug, Clone, Default)]
pub struct Located {
    table: MountTable,
    found: OnceLock<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    places: Vec<FsPath>,
    writes: Vec<FsPath>,
}

impl PartialEq for Located {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Located {}

impl PartialOrd for Located {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Located {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// What a sandbox of another tree of the same state folder is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its tree.
    pub tree: PathBuf,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What was accepted for it.
    pub sources: Vec<HostSource>,
}

/// Where something stands in a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, relative to the tree.
    pub file: String,
    /// 1-based line; 0 where it is about the file as a whole.
    pub line: usize,
    /// 1-based column; 0 likewise.
    pub column: usize,
}

/// How two folders lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nesting {
    /// They are one and the same.
    Same,
    /// The first lies in the second.
    Inside,
    /// The first contains the second.
    Around,
}

impl Nesting {
    /// How `path` lies to `other`; `None`: beside it.
    #[must_use]
    pub fn of(path: &Path, other: &Path) -> Option<Self> {
        match (path.starts_with(other), other.starts_with(path)) {
            (true, true) => Some(Self::Same),
            (true, false) => Some(Self::Inside),
            (false, true) => Some(Self::Around),
            (false, false) => None,
        }
    }
}

impl HostSource {
    /// Whether the manifest says the same in the same place.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.field == other.field && self.text == other.text && self.base == other.base
    }

    /// How this source lies to `other` where one of the two sandboxes could put something else in
    /// the other's place: it can write a folder that contains what the other is given, or what
    /// decides what the other is.
    #[must_use]
    pub fn endangers(&self, other: &Self) -> Option<Nesting> {
        if self.lies_in_reach_of(other) {
            return Some(Nesting::Inside);
        }
        if other.lies_in_reach_of(self) {
            return Some(Nesting::Around);
        }
        if self.is_made_of(other) {
            return Some(Nesting::Around);
        }
        if other.is_made_of(self) {
            return Some(Nesting::Inside);
        }
        let uses = [self.usage, other.usage];
        let rewritten = uses.contains(&Use::Mount) && uses.contains(&Use::Define);
        (rewritten && self.is_same_folder(other)).then_some(Nesting::Same)
    }

    /// Whether this source decides what a sandbox is, and somebody can write a part of it in `mount`.
    fn is_made_of(&self, mount: &Self) -> bool {
        if self.usage != Use::Define || mount.usage != Use::Mount {
            return false;
        }
        let below = |place: &FsPath| {
            let own = self.places().first();
            own.is_some_and(|own| place != own && place.is_below(own))
        };
        mount.path != self.path && mount.path.starts_with(&self.path)
            || mount.writes().iter().any(below)
    }

    /// Whether both are one folder, under whatever names.
    #[must_use]
    pub fn is_same_folder(&self, other: &Self) -> bool {
        let (own, theirs) = (self.places().first(), other.places().first());
        self.path == other.path || (own.is_some() && own == theirs)
    }

    /// Whether somebody who writes in `mount` can put something else in the place of this source, or
    /// of something that leads to it.
    fn lies_in_reach_of(&self, mount: &Self) -> bool {
        if mount.usage != Use::Mount {
            return false;
        }
        let below = |path: &Path| path != mount.path && path.starts_with(&mount.path);
        let reached = |place: &FsPath| mount.writes().iter().any(|written| place.is_below(written));
        below(&self.path)
            || self.via.iter().any(|link| below(link))
            || self.places().iter().any(reached)
    }

    /// What leads there and lies in `mount`, when it does not lie in it itself.
    #[must_use]
    pub fn leads_through(&self, mount: &Self) -> Option<&Path> {
        if self.path.starts_with(&mount.path) {
            return None;
        }
        let mut links = self.via.iter().map(PathBuf::as_path);
        links.find(|link| link.starts_with(&mount.path))
    }

    /// Says what is mounted where, for [`places`](Self::places) and [`writes`](Self::writes).
    pub fn locate(&mut self, table: &MountTable) {
        self.located = Located { table: table.clone(), found: OnceLock::new() };
    }

    /// What decides what the source is; its own place is the first. None where nobody knows what is mounted.
    #[must_use]
    pub fn places(&self) -> &[FsPath] {
        &self.found().places
    }

    /// Where it can be written, if it can: itself, and what is mounted below it.
    #[must_use]
    pub fn writes(&self) -> &[FsPath] {
        &self.found().writes
    }

    fn found(&self) -> &Found {
        let Located { table, found } = &self.located;
        found.get_or_init(|| {
            let paths = [&self.path].into_iter().chain(&self.via);
            let mut places: Vec<FsPath> = Vec::new();
            for place in paths.flat_map(|path| table.places(path)) {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
            let writes = match self.usage {
                Use::Mount => table.writes(&self.path),
                Use::Read | Use::Define => Vec::new(),
            };
            Found { places, writes }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, usage: Use) -> HostSource {
        HostSource {
            field: "workspace.path".to_owned(),
            text: path.to_owned(),
            base: None,
            path: path.into(),
            via: Vec::new(),
            usage,
            place: Place::default(),
            located: Located::default(),
        }
    }

    #[test]
    fn what_can_be_written_may_neither_contain_nor_be_what_another_is_given() {
        let danger = |a: (&str, Use), b: (&str, Use)| source(a.0, a.1).endangers(&source(b.0, b.1));
        let (outer, inner) = ("/w", "/w/sub");
        for usage in [Use::Mount, Use::Read, Use::Define] {
            let found = danger((inner, usage), (outer, Use::Mount));
            assert_eq!(found, Some(Nesting::Inside), "{usage:?}");
            let found = danger((outer, Use::Mount), (inner, usage));
            assert_eq!(found, Some(Nesting::Around), "{usage:?}");
        }
        assert_eq!(danger((inner, Use::Read), (outer, Use::Read)), None);
        // One that only reads the outer folder can swap nothing in it.
        assert_eq!(danger((inner, Use::Mount), (outer, Use::Read)), None);
        assert_eq!(danger((outer, Use::Mount), (outer, Use::Mount)), None);
        assert_eq!(danger((outer, Use::Mount), (outer, Use::Read)), None);
        assert_eq!(danger((outer, Use::Mount), (outer, Use::Define)), Some(Nesting::Same));
        // What is made of a folder is made of what somebody writes in it.
        assert_eq!(danger((outer, Use::Define), (inner, Use::Mount)), Some(Nesting::Around));
        assert_eq!(danger((inner, Use::Mount), (outer, Use::Define)), Some(Nesting::Inside));
        assert_eq!(danger((outer, Use::Define), (inner, Use::Read)), None);
        // A link in it leads elsewhere, and can be made to lead anywhere.
        let linked = HostSource { via: vec!["/w/link".into()], ..source("/other", Use::Read) };
        let mount = source(outer, Use::Mount);
        assert_eq!(linked.endangers(&mount), Some(Nesting::Inside));
        assert_eq!(mount.endangers(&linked), Some(Nesting::Around));
        assert_eq!(linked.leads_through(&mount), Some(Path::new("/w/link")));
        assert_eq!(linked.endangers(&source(outer, Use::Read)), None);
        // The same folder under another name.
        let table = MountTable::parse("21 1 8:1 / / rw\n31 21 8:1 /w /alias rw\n");
        let located = |path: &str, usage| {
            let mut source = source(path, usage);
            source.locate(&table);
            source
        };
        let mount = located(outer, Use::Mount);
        assert_eq!(located("/alias/sub", Use::Read).endangers(&mount), Some(Nesting::Inside));
        assert_eq!(located("/alias", Use::Define).endangers(&mount), Some(Nesting::Same));
        assert_eq!(located("/alias", Use::Mount).endangers(&mount), None);
        let part = located("/w/sub", Use::Mount);
        assert_eq!(located("/alias", Use::Define).endangers(&part), Some(Nesting::Around));
        assert_eq!(located("/other", Use::Mount).endangers(&mount), None);
        // A name that only begins alike is another folder.
        assert_eq!(danger(("/work", Use::Mount), ("/w", Use::Mount)), None);
    }
}
