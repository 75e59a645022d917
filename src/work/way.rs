//! Where a path of the operator's leads: through links of the operator's own, and through none that a
//! sandbox can have made.

#![expect(clippy::disallowed_methods, reason = "looks at links of the host")]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::model::Writable;
use crate::model::text::harmless_line;

/// Most links that one path may lead through.
const LINKS: usize = 40;

/// Resolves a path. Links count unless they stand in one of the folders that sandboxes can write, under
/// whatever name it is mounted: there a guest says where they lead. The last part need not exist. Whoever opens the result opens it without
/// links, by [`open`]: one that is on the way then came since.
///
/// # Errors
/// When a link stands in such a folder, or something on the way is not there.
pub fn resolve(path: &Path, writable: &Writable) -> anyhow::Result<PathBuf> {
    let shown = |path: &Path| harmless_line(&path.display().to_string());
    let mut at = PathBuf::from("/");
    let absolute = std::path::absolute(path).with_context(|| format!("reading {}", shown(path)))?;
    let mut rest: VecDeque<OsString> = parts(&absolute);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(&part);
        let found = match entry.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && rest.is_empty() => {
                return Ok(entry);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                anyhow::bail!("there is no folder {}: make it first", shown(&entry));
            }
            found => found.with_context(|| format!("reading {}", shown(&entry)))?,
        };
        if !found.is_symlink() {
            at = entry;
            continue;
        }
        if let Some(folder) = writable.around(&at) {
            anyhow::bail!(
                "{} is a link in {}, which a sandbox can write: name what it leads to, if that is meant",
                shown(&entry),
                shown(folder)
            );
        }
        links += 1;
        anyhow::ensure!(links <= LINKS, "{} leads through too many links", shown(path));
        let target =
            std::fs::read_link(&entry).with_context(|| format!("reading {}", shown(&entry)))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(at)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Opens what [`resolve`] said, with no link on the way.
///
/// # Errors
/// When there is a link now, or it cannot be opened.
pub fn open(resolved: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    match openat2(CWD, resolved, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // A kernel, or a container's filter, without it.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(openat(CWD, resolved, flags | OFlags::NOFOLLOW, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::MountTable;

    #[test]
    fn links_of_a_guests_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for name in ["mine", "w/sub", "secret/deep"] {
            std::fs::create_dir_all(top.join(name)).unwrap();
        }
        symlink("../secret", top.join("w/link")).unwrap();
        symlink("../../secret", top.join("w/sub/link")).unwrap();
        symlink("nothing", top.join("w/dangling")).unwrap();
        symlink(top.join("secret"), top.join("mine/link")).unwrap();
        symlink("w/link", top.join("through")).unwrap();
        let writable = Writable::new([(top.join("w"), String::new())], MountTable::default());
        let is = |path: &str| resolve(&top.join(path), &writable);
        for path in [
            "w/link",
            "w/link/",
            "w/link/.",
            "w/link/deep",
            "w/sub/link",
            "w/sub/../link/x",
            "through",
            "through/deep",
            "w/dangling",
        ] {
            let error = format!("{:#}", is(path).unwrap_err());
            assert!(error.contains("which a sandbox can write"), "{path}: {error}");
        }
        assert_eq!(is("mine/link/deep").unwrap(), top.join("secret/deep"));
        assert_eq!(is("w/sub/new").unwrap(), top.join("w/sub/new"));
        assert_eq!(is("w/sub/../..").unwrap(), top);
        is("w/none/new").unwrap_err();
        symlink("loop", top.join("loop")).unwrap();
        is("loop").unwrap_err();
        // What is swapped for a link since is not followed either.
        open(&top.join("secret/deep"), OFlags::PATH).unwrap();
        open(&top.join("mine/link/deep"), OFlags::PATH).unwrap_err();
    }
}
