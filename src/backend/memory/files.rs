//! The file system of a virtual machine: paths to nodes, with owners, modes and symlinks.
//!
//! Paths are resolved as a kernel would inside a chroot: `..` stops at the root, and an absolute
//! symlink starts there again. Nothing of the host can be named.

use std::collections::BTreeMap;

use bytes::Bytes;

/// How many symlinks a path may lead through, as on Linux.
const MAX_LINKS: usize = 40;

/// What an entry of the file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder; what is in it are the entries below its path.
    Folder,
    /// A regular file.
    File(Bytes),
    /// A symlink, with its target as written.
    Symlink(String),
}

/// One entry of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub node: Node,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Entry {
    /// A folder.
    #[must_use]
    pub fn folder(mode: u32, uid: u32, gid: u32) -> Self {
        Self { node: Node::Folder, mode, uid, gid }
    }

    /// A regular file.
    #[must_use]
    pub fn file(bytes: impl Into<Bytes>, mode: u32, uid: u32, gid: u32) -> Self {
        Self { node: Node::File(bytes.into()), mode, uid, gid }
    }

    /// Whether this user has the permission `bit` (4 read, 2 write, 1 execute or enter).
    pub(super) fn permits(&self, uid: u32, gid: u32, bit: u32) -> bool {
        let shift = if uid == self.uid {
            6
        } else if gid == self.gid {
            3
        } else {
            0
        };
        uid == 0 || self.mode >> shift & bit != 0
    }
}

/// Why a path does not lead where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FilesError {
    #[error("{0}: no such file or directory")]
    NotFound(String),
    #[error("{0}: not a directory")]
    NotAFolder(String),
    #[error("{0}: is a directory")]
    IsAFolder(String),
    #[error("{0}: not a regular file")]
    NotAFile(String),
    #[error("{0}: permission denied")]
    Denied(String),
    #[error("{0}: too many levels of symbolic links")]
    Loop(String),
    #[error("`{0}` is not an absolute path below /")]
    NotAbsolute(String),
}

/// The files of one machine. Keys are absolute, without `.`, `..` or a trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Entry>);

impl Default for Files {
    fn default() -> Self {
        Self(BTreeMap::from([("/".to_owned(), Entry::folder(0o755, 0, 0))]))
    }
}

impl Files {
    /// Every path and entry, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The entry that `path` leads to, symlinks followed.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn get(&self, path: &str) -> Result<&Entry, FilesError> {
        let resolved = self.resolve(path, true)?;
        self.0.get(&resolved).ok_or_else(|| FilesError::NotFound(path.to_owned()))
    }

    /// The content of the regular file that `path` leads to.
    ///
    /// # Errors
    /// When it leads nowhere, or to something else.
    pub fn read(&self, path: &str) -> Result<Bytes, FilesError> {
        match &self.get(path)?.node {
            Node::File(bytes) => Ok(bytes.clone()),
            Node::Folder => Err(FilesError::IsAFolder(path.to_owned())),
            Node::Symlink(_) => Err(FilesError::NotAFile(path.to_owned())),
        }
    }

    /// Whether `path` leads to anything.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.get(path).is_ok()
    }

    /// Where `path` leads: its last component need not exist, all before it must be folders.
    pub(super) fn resolve(&self, path: &str, follow_last: bool) -> Result<String, FilesError> {
        if !path.starts_with('/') {
            return Err(FilesError::NotAbsolute(path.to_owned()));
        }
        let mut todo: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let last = todo.iter().all(|rest| rest.is_empty() || rest == ".");
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{at}/{part}");
            match self.0.get(&next).map(|entry| &entry.node) {
                Some(Node::Symlink(target)) if !last || follow_last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FilesError::Loop(path.to_owned()));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    todo.extend(target.rsplit('/').map(str::to_owned));
                }
                Some(Node::File(_)) if !last => {
                    return Err(FilesError::NotAFolder(path.to_owned()));
                }
                None if !last => return Err(FilesError::NotFound(path.to_owned())),
                _ => at = next,
            }
        }
        Ok(if at.is_empty() { "/".to_owned() } else { at })
    }

    /// Sets the entry at `path`; folders above it that are missing are made as root's.
    ///
    /// # Errors
    /// When something on the way is not a folder, or a folder would give way to something else.
    pub fn put(&mut self, path: &str, entry: Entry) -> Result<(), FilesError> {
        let place = self.make_parents(path)?;
        if let Some(old) = self.0.get(&place)
            && old.node == Node::Folder
            && entry.node != Node::Folder
        {
            return Err(FilesError::IsAFolder(path.to_owned()));
        }
        self.0.insert(place, entry);
        Ok(())
    }

    /// Makes a folder, unless `path` leads to one already: that one is left as it is.
    pub(super) fn make_folder(&mut self, path: &str, folder: Entry) -> Result<(), FilesError> {
        match self.get(path) {
            Ok(entry) if entry.node == Node::Folder => Ok(()),
            Ok(_) => Err(FilesError::NotAFolder(path.to_owned())),
            Err(FilesError::NotFound(_)) => self.put(path, folder),
            Err(error) => Err(error),
        }
    }

    /// Where an entry at `path` belongs: the folder above it exists afterwards.
    fn make_parents(&mut self, path: &str) -> Result<String, FilesError> {
        let Some((parent, name)) = path.trim_end_matches('/').rsplit_once('/') else {
            return if path == "/" { Ok("/".to_owned()) } else { self.resolve(path, false) };
        };
        if !parent.is_empty() && !self.exists(parent) {
            let place = self.make_parents(parent)?;
            self.0.entry(place).or_insert_with(|| Entry::folder(0o755, 0, 0));
        }
        self.resolve(&format!("{parent}/{name}"), false)
    }

    /// Removes what is at `path`, and all below it. A symlink is removed itself; absent is fine.
    ///
    /// # Errors
    /// When `path` is the root, or leads through something that is not a folder.
    pub fn remove(&mut self, path: &str) -> Result<(), FilesError> {
        let place = match self.resolve(path, false) {
            Ok(place) if place == "/" => return Err(FilesError::NotAbsolute(path.to_owned())),
            Ok(place) => place,
            Err(FilesError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let below = format!("{place}/");
        self.0.retain(|key, _| *key != place && !key.starts_with(&below));
        Ok(())
    }

    /// The entry at a resolved path and all below it, each with its path relative to it.
    pub(super) fn tree<'a>(&'a self, place: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.0.iter().filter_map(move |(key, entry)| {
            let rest = key.strip_prefix(place)?;
            let inside = rest.is_empty() || rest.starts_with('/') || place == "/";
            inside.then_some((rest.trim_start_matches('/'), entry))
        })
    }

    /// Whether this user may enter every folder on the way to the resolved path.
    pub(super) fn reachable(&self, place: &str, uid: u32, gid: u32) -> bool {
        place.match_indices('/').skip(1).all(|(end, _)| {
            self.0.get(&place[..end]).is_none_or(|folder| folder.permits(uid, gid, 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &'static str) -> Entry {
        Entry::file(text.as_bytes(), 0o644, 0, 0)
    }

    fn link(target: &str) -> Entry {
        Entry { node: Node::Symlink(target.to_owned()), mode: 0o777, uid: 0, gid: 0 }
    }

    #[test]
    fn no_path_leaves_the_root() {
        let mut files = Files::default();
        files.put("/etc/shadow", file("inside")).unwrap();
        files.put("/home/up", link("../../../../../etc")).unwrap();
        files.put("/home/abs", link("/etc/shadow")).unwrap();
        for path in ["/../../etc/shadow", "/home/up/shadow", "/home/abs", "/home/up/../etc/shadow"]
        {
            assert_eq!(files.read(path).unwrap(), "inside", "{path}");
        }
    }

    #[test]
    fn links_are_followed_in_the_middle_and_removed_at_the_end() {
        let mut files = Files::default();
        files.put("/data/x", file("x")).unwrap();
        files.put("/link", link("data")).unwrap();
        files.put("/link/y", file("y")).unwrap();
        assert_eq!(files.read("/data/y").unwrap(), "y");
        files.remove("/link").unwrap();
        assert!(files.exists("/data/x") && !files.exists("/link"));
        files.remove("/data").unwrap();
        assert!(!files.exists("/data/x"));
        assert_eq!(files.remove("/nowhere/at/all"), Ok(()));
    }

    #[test]
    fn a_loop_is_an_error_and_so_is_a_file_in_the_middle() {
        let mut files = Files::default();
        files.put("/a", link("b")).unwrap();
        files.put("/b", link("a")).unwrap();
        files.put("/f", file("f")).unwrap();
        assert_eq!(files.get("/a"), Err(FilesError::Loop("/a".to_owned())));
        assert_eq!(files.get("/f/x"), Err(FilesError::NotAFolder("/f/x".to_owned())));
        assert!(files.put("/f/x", file("x")).is_err());
        assert!(files.remove("/").is_err());
    }

    #[test]
    fn permissions_are_the_owners_then_the_groups_then_everyones() {
        let mut files = Files::default();
        files.put("/p", Entry::folder(0o700, 1000, 1000)).unwrap();
        files.put("/p/f", Entry::file("x", 0o640, 0, 1000)).unwrap();
        let entry = files.get("/p/f").unwrap();
        assert!(entry.permits(1000, 1000, 4) && !entry.permits(1000, 1000, 2));
        assert!(!entry.permits(5, 5, 4) && entry.permits(0, 0, 4));
        assert!(files.reachable("/p/f", 1000, 1000) && !files.reachable("/p/f", 5, 5));
    }
}
