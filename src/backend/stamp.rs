//! What files look like from outside: enough to see that they were written, replaced, moved, or given
//! to somebody else, and nothing that has to be read.

#![expect(clippy::disallowed_methods, reason = "looks at files")]

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// No folder is looked into below so many others.
const DEEPEST: usize = 16;

/// A digest of what things look like now. It is for this process only.
#[derive(Debug, Default)]
pub struct Stamp(DefaultHasher);

impl Stamp {
    /// Adds a value.
    pub fn add(&mut self, value: impl Hash) {
        value.hash(&mut self.0);
    }

    /// Adds a file or a folder, not what is in it; that nothing is there counts too.
    pub fn file(&mut self, path: &Path) {
        self.add(path.as_os_str());
        self.found(fs::symlink_metadata(path).ok().as_ref());
    }

    fn found(&mut self, found: Option<&Metadata>) {
        let Some(found) = found else { return self.add(0u8) };
        self.add((found.dev(), found.ino(), found.mode(), found.uid(), found.gid(), found.size()));
        self.add((found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()));
    }

    /// Adds where a path leads, and who can change a component of it; what is written there does not
    /// count.
    pub fn place(&mut self, path: &Path) {
        for part in path.ancestors() {
            self.add(
                fs::metadata(part)
                    .ok()
                    .map(|at| (at.dev(), at.ino(), at.mode(), at.uid(), at.gid())),
            );
        }
    }

    /// Adds a folder with what is in it, where links lead too, and nothing below that.
    pub fn entries(&mut self, path: &Path) {
        self.below(path, DEEPEST);
    }

    /// Adds a folder with all that is below it, and where links lead.
    pub fn tree(&mut self, path: &Path) {
        self.below(path, 0);
    }

    fn below(&mut self, path: &Path, depth: usize) {
        self.add(path.as_os_str());
        let found = fs::symlink_metadata(path).ok();
        self.found(found.as_ref());
        let Some(found) = found else { return };
        if found.is_symlink() {
            self.found(fs::metadata(path).ok().as_ref());
        }
        if !found.is_dir() || depth > DEEPEST {
            return;
        }
        let mut entries: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.below(&entry.path(), depth + 1);
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_happens_to_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path().join("dir"), folder.path().join("dir/file"));
        fs::create_dir(&dir).unwrap();
        let look = || {
            let mut stamp = Stamp::default();
            stamp.tree(folder.path());
            stamp.digest()
        };
        let mut seen = vec![look()];
        assert_eq!(look(), seen[0]);
        let harms: [&dyn Fn(); 5] = [
            &|| fs::write(&file, "one").unwrap(),
            &|| fs::write(&file, "three").unwrap(),
            &|| {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            },
            &|| {
                fs::write(dir.join("new"), "three").unwrap();
                fs::rename(dir.join("new"), &file).unwrap();
            },
            &|| fs::remove_file(&file).unwrap(),
        ];
        for harm in harms {
            harm();
            seen.push(look());
        }
        let different: std::collections::BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(different.len(), seen.len(), "{seen:?}");
    }
}
