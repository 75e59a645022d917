//! The root of sandboxes that stand on the host's programs: one folder that they all share, and
//! each has a writable layer over.
//!
//! It is made of the host once, under a digest of what it is made of: the copied part of `/etc`,
//! the links among the folders of programs, and empty folders where programs expect them.

#![expect(clippy::disallowed_methods, reason = "the host is looked at, the state folder written")]

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::state::{Record, RootFs, Store};
use super::{etc, observe};
use crate::model::tool;

/// Changes with what is made of the same host.
const LAYOUT: u8 = 2;

/// Empty folders, parents first.
const FOLDERS: [&str; 16] = [
    "etc",
    "home",
    "mnt",
    "proc",
    "sys",
    "dev",
    "run",
    "var",
    "var/lib",
    "var/log",
    "var/cache",
    "var/spool",
    "var/opt",
    "var/local",
    "tmp",
    "var/tmp",
];
const LINKS: [(&str, &str); 2] = [("var/run", "/run"), ("var/lock", "/run/lock")];

/// The host's folders of programs: `/usr`, `/opt`, and of `/bin`, `/sbin` and `/lib*` those that
/// are folders of their own.
pub(super) fn program_folders() -> Vec<PathBuf> {
    top_level().into_iter().filter(|path| !path.is_symlink() && path.is_dir()).collect()
}

/// Those of them that only point into another (`/bin` → `usr/bin`), with where.
fn program_links() -> Vec<(PathBuf, PathBuf)> {
    top_level()
        .into_iter()
        .filter_map(|path| fs::read_link(&path).ok().map(|to| (path, to)))
        .collect()
}

fn top_level() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(tool::is_program_folder))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// What a base is made of, as it was found on the host.
struct Listing {
    folders: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    etc: Vec<(PathBuf, Metadata)>,
}

impl Listing {
    fn of_this_host() -> io::Result<Self> {
        let mut etc = Vec::new();
        etc::walk(Path::new("/etc"), Path::new(""), &mut etc)?;
        etc.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { folders: program_folders(), links: program_links(), etc })
    }

    /// Whose it is counts too: what another user has made here is theirs inside as well.
    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update([LAYOUT]);
        hasher.update(rustix::process::geteuid().as_raw().to_le_bytes());
        let mut path = |path: &Path| {
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update([0]);
        };
        self.folders.iter().for_each(|folder| path(folder));
        self.links.iter().for_each(|(from, to)| {
            path(from);
            path(to);
        });
        for (path, metadata) in &self.etc {
            hasher.update(path.as_os_str().as_encoded_bytes());
            for number in [
                metadata.ino(),
                metadata.size(),
                u64::from(metadata.mode()),
                metadata.mtime().cast_unsigned(),
                metadata.mtime_nsec().cast_unsigned(),
            ] {
                hasher.update(number.to_le_bytes());
            }
        }
        hex::encode(&hasher.finalize()[..8])
    }

    fn make(&self, root: &Path) -> io::Result<()> {
        let folder = |path: &Path, mode: u32| -> io::Result<()> {
            let path = root.join(path.strip_prefix("/").unwrap_or(path));
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            // Not by the builder alone, which heeds the operator's umask.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        folder(Path::new(""), 0o755)?;
        for path in &self.folders {
            folder(path, 0o755)?;
        }
        for path in FOLDERS {
            folder(Path::new(path), if path.ends_with("tmp") { 0o1777 } else { 0o755 })?;
        }
        folder(Path::new("root"), 0o700)?;
        for (from, to) in &self.links {
            symlink(to, root.join(from.strip_prefix("/").unwrap_or(from)))?;
        }
        for (from, to) in LINKS {
            symlink(to, root.join(from))?;
        }
        for (path, metadata) in &self.etc {
            etc::copy(&Path::new("/etc").join(path), &root.join("etc").join(path), metadata)?;
        }
        Ok(())
    }
}

/// The digest of what the host is now, or was a moment ago: to look takes a thousand system calls.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<Option<(Instant, String)>>);

/// How long it is good for. A sandbox made now is then as one that was made a moment ago. Nothing is
/// copied by what was found then: a copy is of what the host is when it is made.
const MOMENT: Duration = Duration::from_secs(1);

impl Digests {
    fn current(&self) -> io::Result<String> {
        // Held while one looks: the others would find the same.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((since, digest)) = &*last
            && now.duration_since(*since) < MOMENT
        {
            return Ok(digest.clone());
        }
        let digest = Listing::of_this_host()?.digest();
        *last = Some((now, digest.clone()));
        Ok(digest)
    }
}

/// Makes sure that the base is there and current; returns its name in [`Store::bases`].
/// The caller holds the store's lock.
pub(super) fn shared(store: &Store, digests: &Digests) -> io::Result<String> {
    let name = digests.current()?;
    if store.bases().join(&name).is_dir() {
        return Ok(name);
    }
    // One copies, and the others wait for it: it is hundreds of files.
    let _one = store.lock_bases()?;
    let listing = Listing::of_this_host()?;
    let name = listing.digest();
    let folder = store.bases().join(&name);
    if folder.is_dir() {
        return Ok(name);
    }
    let scratch = store.scratch("making")?;
    listing.make(&scratch)?;
    fs::create_dir_all(store.bases())?;
    match fs::rename(&scratch, &folder) {
        // Another process was as quick.
        Err(_) if folder.is_dir() => super::remove_folder(&scratch)?,
        result => result?,
    }
    Ok(name)
}

/// Names of the bases in [`Store::bases`] that no new sandbox will use. The newest stays, also when
/// no sandbox is left: to copy it takes longer than everything else that makes one.
pub(super) fn outdated(store: &Store) -> io::Result<Vec<String>> {
    let folder = store.bases();
    let made = |name: &String| fs::metadata(folder.join(name)).and_then(|m| m.modified()).ok();
    let mut names = observe::names(&folder)?;
    names.sort_by_key(made);
    names.pop();
    Ok(names)
}

/// Removes the bases that no new sandbox will use and none stands on. Whoever makes a base, or takes
/// away a sandbox, calls it, so that what is left of a change of the host is gone by the next look.
pub(super) fn sweep(store: &Store) -> io::Result<()> {
    if outdated(store)?.is_empty() {
        return Ok(());
    }
    // Nothing that stands on one is made meanwhile.
    let _lock = store.lock(true)?;
    let used = used(store)?;
    for name in outdated(store)?.iter().filter(|name| !used.contains(name)) {
        super::discard(store, &store.bases().join(name))?;
    }
    Ok(())
}

fn used(store: &Store) -> io::Result<Vec<String>> {
    let mut bases = Vec::new();
    for name in observe::names(store.path())? {
        let Some((_, folder, _)) = store.known(&name) else { continue };
        match folder.record() {
            Ok(Some(Record { rootfs: RootFs::Host { base }, .. })) => bases.push(base),
            Ok(_) => {}
            // What it stands on is not known: whoever sweeps leaves all of them.
            Err(error) => return Err(error),
        }
    }
    Ok(bases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(etc: &Path) -> Listing {
        let mut found = Vec::new();
        etc::walk(etc, Path::new(""), &mut found).unwrap();
        Listing {
            folders: vec!["/usr".into()],
            links: vec![("/bin".into(), "usr/bin".into())],
            etc: found,
        }
    }

    #[test]
    fn its_name_changes_with_what_it_is_made_of() {
        let etc = tempfile::tempdir().unwrap();
        let profile = etc.path().join("profile");
        fs::write(&profile, "one").unwrap();
        let set_mode = |mode: u32| {
            fs::set_permissions(&profile, fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o644);
        let first = listing(etc.path());
        assert_eq!(first.digest(), listing(etc.path()).digest());
        set_mode(0o600);
        let private = listing(etc.path());
        assert!(private.etc.is_empty());
        set_mode(0o640 | 0o004 | 0o100);
        let executable = listing(etc.path());
        fs::write(&profile, "other").unwrap();
        let other = listing(etc.path());
        let more = Listing { folders: vec!["/opt".into(), "/usr".into()], ..listing(etc.path()) };
        let elsewhere =
            Listing { links: vec![("/bin".into(), "opt".into())], ..listing(etc.path()) };
        let mut digests: Vec<String> = [first, private, executable, other, more, elsewhere]
            .iter()
            .map(Listing::digest)
            .collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 6);
    }

    #[test]
    fn the_root_is_whole_whatever_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        Listing { etc: Vec::new(), ..listing(folder.path()) }.make(&root).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(
            ["", "usr", "home", "root", "tmp"].map(mode),
            [0o755, 0o755, 0o755, 0o700, 0o1777]
        );
        assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(fs::read_link(root.join("var/run")).unwrap(), Path::new("/run"));
    }

    #[test]
    fn what_was_found_is_good_for_a_moment() {
        let digests = Digests::default();
        let first = digests.current().unwrap();
        let found = || digests.0.lock().unwrap().clone().unwrap();
        let (since, _) = found();
        assert_eq!(digests.current().unwrap(), first);
        assert_eq!(found().0, since, "it did not look again");
        *digests.0.lock().unwrap() =
            since.checked_sub(MOMENT).map(|long_ago| (long_ago, "old".into()));
        assert_eq!(digests.current().unwrap(), first, "it looked again");
    }
}
