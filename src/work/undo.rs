//! Files that are about to be changed in a folder of the operator's, kept so that all of them come back where that
//! fails half-way: the folder is no repository, and nobody has another copy.
#![expect(clippy::disallowed_methods, reason = "works in a folder of the operator's")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, linkat, openat2, renameat, unlinkat};
use rustix::io::Errno;

use crate::model::text::harmless_line;

/// How the folder is called in which they stand, below the one that is changed. A run that was killed leaves it.
const KEPT: &str = ".bottle-sync";

/// The old files, each as a second name of it.
pub(super) struct Undo {
    folder: PathBuf,
    top: OwnedFd,
    kept: OwnedFd,
    /// The paths that are changed, and whether something stood there.
    paths: Vec<(PathBuf, bool)>,
}

/// A folder on the way, without links.
fn open(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(top, path, flags, Mode::empty(), within)
}

fn parts(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

impl Undo {
    /// Keeps what stands at these paths of the folder. The content of a file must not be written over: whoever
    /// changes one puts another in its place, as git does.
    ///
    /// # Errors
    /// When something cannot be kept: then nothing was changed.
    pub(super) fn keep(folder: &Path, paths: &[Vec<u8>]) -> anyhow::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::openat(CWD, folder, flags, Mode::empty())
            .with_context(|| format!("opening {}", folder.display()))?;
        match rustix::fs::mkdirat(&top, KEPT, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => anyhow::bail!(
                "{} is there: a run that was cut short left the old files in it; put them back, or remove it",
                folder.join(KEPT).display()
            ),
            Err(error) => return Err(error).context("keeping the old files"),
        }
        let kept = open(&top, Path::new(KEPT)).context("keeping the old files")?;
        let mut undo = Self { folder: folder.to_owned(), top, kept, paths: Vec::new() };
        match undo.keep_all(paths) {
            Ok(()) => Ok(undo),
            Err(error) => {
                undo.forget();
                Err(error)
            }
        }
    }

    fn keep_all(&mut self, paths: &[Vec<u8>]) -> anyhow::Result<()> {
        for (number, path) in paths.iter().enumerate() {
            let path = PathBuf::from(OsStr::from_bytes(path));
            let (parent, name) = parts(&path);
            let linked = open(&self.top, parent).and_then(|parent| {
                linkat(&parent, name, &self.kept, number.to_string(), AtFlags::empty())
            });
            let stood = match linked {
                Ok(()) => true,
                Err(Errno::NOENT | Errno::NOTDIR) => false,
                Err(error) => {
                    let shown = harmless_line(&path.display().to_string());
                    return Err(error).with_context(|| format!("keeping the old {shown}"));
                }
            };
            self.paths.push((path, stood));
        }
        Ok(())
    }

    /// All is changed: the old files go.
    pub(super) fn forget(self) {
        if let Err(error) = fs::remove_dir_all(self.folder.join(KEPT)) {
            tracing::warn!(%error, folder = %self.folder.display(), "the old files cannot be removed");
        }
    }

    /// Puts everything back as it was.
    ///
    /// # Errors
    /// When that fails: it says where the old files are.
    pub(super) fn put_back(self) -> anyhow::Result<()> {
        for (number, (path, stood)) in self.paths.iter().enumerate() {
            self.put_one_back(number, path, *stood).with_context(|| {
                format!(
                    "putting {} back; the old files are in {}",
                    harmless_line(&path.display().to_string()),
                    self.folder.join(KEPT).display()
                )
            })?;
        }
        self.forget();
        Ok(())
    }

    fn put_one_back(&self, number: usize, path: &Path, stood: bool) -> anyhow::Result<()> {
        let (parent, name) = parts(path);
        if !stood {
            let gone = open(&self.top, parent)
                .and_then(|parent| unlinkat(&parent, name, AtFlags::empty()));
            return match gone {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        // A folder that is empty is taken away with its last file.
        let mut above = PathBuf::new();
        for part in parent {
            let (at, name) = (open(&self.top, &above)?, part);
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => above.push(part),
                Err(error) => return Err(error.into()),
            }
        }
        let parent = open(&self.top, parent)?;
        // Two names of one file: nothing has been done to it.
        renameat(&self.kept, number.to_string(), &parent, name)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn what_was_changed_half_way_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        for name in ["a", "d/b", "same"] {
            fs::write(at(name), format!("old {name}")).unwrap();
        }
        symlink("a", at("link")).unwrap();
        let all = ["a", "d/b", "link", "new/c", "same"];
        let undo = Undo::keep(folder.path(), &paths(&all)).unwrap();
        // As git goes about it: the old ones away, then the new ones.
        for name in ["a", "d/b", "link"] {
            fs::remove_file(at(name)).unwrap();
        }
        fs::remove_dir(at("d")).unwrap();
        fs::write(at("a"), "ne").unwrap();
        fs::create_dir(at("new")).unwrap();
        fs::write(at("new/c"), "new").unwrap();
        undo.put_back().unwrap();
        for name in ["a", "d/b", "same"] {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), format!("old {name}"));
        }
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("a"));
        assert!(!at("new/c").exists() && !at(KEPT).exists());
    }

    #[test]
    fn what_a_killed_run_left_is_nobodys_to_write_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "old").unwrap();
        let undo = Undo::keep(folder.path(), &paths(&["a"])).unwrap();
        drop(undo);
        let refused = Undo::keep(folder.path(), &paths(&["a"])).err().unwrap().to_string();
        assert!(refused.contains(KEPT) && refused.contains("put them back"), "{refused}");
    }

    #[test]
    fn no_link_on_the_way_is_followed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("key"), "secret").unwrap();
        symlink(other.path(), folder.path().join("d")).unwrap();
        let refused = Undo::keep(folder.path(), &paths(&["d/key"])).err().unwrap();
        assert!(refused.to_string().contains("d/key"), "{refused:#}");
        assert!(!folder.path().join(KEPT).exists());
    }
}
