//! Where a path lies on its file system, whatever it is called: a folder that is mounted in two
//! places has two paths and one location.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::source::Nesting;

/// A place on a file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FsPath {
    /// Of the file system, as the kernel numbers it: `8:1`.
    pub device: String,
    /// From the root of the file system on.
    pub path: PathBuf,
}

impl FsPath {
    /// Whether it lies below `other`, and is not `other` itself.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.device == other.device && self.path != other.path && self.path.starts_with(&other.path)
    }
}

/// What is mounted where on this machine. Where hundreds of containers run it is long, and few trees have
/// a path that is looked up in it: it is read when the first one is.
#[derive(Debug, Clone)]
pub struct MountTable {
    read: fn() -> String,
    /// Shared, so that all copies are of one moment.
    mounts: Arc<OnceLock<BTreeMap<PathBuf, FsPath>>>,
}

impl Default for MountTable {
    /// Nothing is mounted: paths alone are compared.
    fn default() -> Self {
        Self::of(String::new)
    }
}

impl MountTable {
    /// From what `read` gives, the text of `/proc/self/mountinfo`.
    #[must_use]
    pub fn of(read: fn() -> String) -> Self {
        Self { read, mounts: Arc::default() }
    }

    /// From the text of `/proc/self/mountinfo`. Of two mounts in one place, the later one counts.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Self {
        Self { read: String::new, mounts: Arc::new(OnceLock::from(mounts_of(mountinfo))) }
    }

    fn mounts(&self) -> &BTreeMap<PathBuf, FsPath> {
        self.mounts.get_or_init(|| mounts_of(&(self.read)()))
    }

    /// Where `path` lies, and the mount that it lies in. `path` is absolute and without links.
    fn find(&self, path: &Path) -> Option<(FsPath, &Path)> {
        let (point, root) =
            path.ancestors().find_map(|above| self.mounts().get_key_value(above))?;
        let rest = path.strip_prefix(point).ok()?;
        // An empty rest would leave a slash behind.
        let path =
            if rest.as_os_str().is_empty() { root.path.clone() } else { root.path.join(rest) };
        Some((FsPath { device: root.device.clone(), path }, point))
    }

    /// The places of which each decides what `path` leads to: its own, and that of every mount point
    /// above it in the file system that is mounted over.
    #[must_use]
    pub fn places(&self, path: &Path) -> Vec<FsPath> {
        let mut places = Vec::new();
        let Some((own, mut point)) = self.find(path) else { return places };
        places.push(own);
        while let (Some(above), Some(name)) = (point.parent(), point.file_name()) {
            let Some((mut covered, next)) = self.find(above) else { break };
            covered.path.push(name);
            places.push(covered);
            point = next;
        }
        places
    }

    /// How `path` lies to `other`, under whatever names they are mounted; `None`: beside it. What is mounted
    /// below a folder counts as a part of it.
    #[must_use]
    pub fn nesting(&self, path: &Path, other: &Path) -> Option<Nesting> {
        let contains = |outer: &Path, inner: &Path| {
            let Some((inner, _)) = self.find(inner) else { return false };
            self.writes(outer).iter().any(|written| inner == *written || inner.is_below(written))
        };
        let placed = match (contains(other, path), contains(path, other)) {
            (true, true) => Some(Nesting::Same),
            (true, false) => Some(Nesting::Inside),
            (false, true) => Some(Nesting::Around),
            (false, false) => None,
        };
        // A mount of `other` may stand in it: then it is all of that, and no part of it.
        match placed {
            Some(Nesting::Same | Nesting::Around) => placed,
            _ => Nesting::of(path, other).or(placed),
        }
    }

    /// Whether `path` is or lies in `other`, under whatever names they are mounted. What is only mounted below
    /// `other`, as engines and `bottle` itself mount the folders of others below their own, is no part of it.
    #[must_use]
    pub fn is_within(&self, path: &Path, other: &Path) -> bool {
        if path.starts_with(other) {
            return true;
        }
        let (Some((path, _)), Some((other, _))) = (self.find(path), self.find(other)) else {
            return false;
        };
        path == other || path.is_below(&other)
    }

    /// Where whoever is given `path` with all that is mounted below it can write.
    #[must_use]
    pub fn writes(&self, path: &Path) -> Vec<FsPath> {
        let own = self.find(path).map(|(location, _)| location);
        let below =
            self.mounts().range(path.to_owned()..).take_while(|(point, _)| point.starts_with(path));
        own.into_iter()
            .chain(below.skip_while(|(point, _)| *point == path).map(|(_, at)| at.clone()))
            .collect()
    }
}

/// The folders of this machine that sandboxes can write, under every name that they have on it.
#[derive(Debug, Clone, Default)]
pub struct Writable {
    /// By the path that it was given by: where it lies, with what is mounted below it; and whose it is.
    folders: BTreeMap<PathBuf, (Vec<FsPath>, String)>,
    table: MountTable,
}

impl Writable {
    /// These folders, whose paths are absolute and without links, and whose each is, for people.
    #[must_use]
    pub fn new(folders: impl IntoIterator<Item = (PathBuf, String)>, table: MountTable) -> Self {
        let folders = folders.into_iter().map(|(folder, whose)| {
            let writes = table.writes(&folder);
            (folder, (writes, whose))
        });
        Self { folders: folders.collect(), table }
    }

    /// The one of them that `path` is or lies in: by its path, or as another mount of the same files. `path`
    /// is absolute and without links.
    #[must_use]
    pub fn around(&self, path: &Path) -> Option<&Path> {
        if self.folders.is_empty() {
            return None;
        }
        let places = self.table.places(path);
        let lies = |written: &FsPath| {
            places.iter().any(|place| place == written || place.is_below(written))
        };
        let mut all = self.folders.iter();
        let (folder, _) =
            all.find(|(folder, (writes, _))| path.starts_with(folder) || writes.iter().any(lies))?;
        Some(folder)
    }

    /// The one of them that `path` lies in, is, or contains, and whose it is: whoever works below `path` meets what
    /// a sandbox changes meanwhile. `path` is absolute and without links.
    #[must_use]
    pub fn near(&self, path: &Path) -> Option<(&Path, &str)> {
        let around = self.around(path);
        let own = self.table.writes(path);
        let meets = |written: &FsPath| {
            own.iter().any(|own| own == written || own.is_below(written) || written.is_below(own))
        };
        let mut all = self.folders.iter();
        let (folder, (_, whose)) = all.find(|(folder, (writes, _))| {
            around == Some(folder.as_path()) || folder.starts_with(path) || writes.iter().any(meets)
        })?;
        Some((folder, whose))
    }
}

fn mounts_of(mountinfo: &str) -> BTreeMap<PathBuf, FsPath> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        let location = FsPath { device: device.to_owned(), path: unescape(root) };
        Some((unescape(point), location))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// `mountinfo` writes spaces, tabs, line ends and backslashes as `\ooo`.
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "21 1 8:1 / / rw - ext4 /dev/a rw\n\
        30 21 8:2 / /data rw - ext4 /dev/b rw\n\
        31 21 8:1 /w /alias rw - ext4 /dev/a rw\n\
        32 30 8:1 /w/sub /data/deep rw - ext4 /dev/a rw\n\
        33 21 8:1 /a\\040b /mnt/s rw - ext4 /dev/a rw\n";

    fn at(device: &str, path: &str) -> FsPath {
        FsPath { device: device.to_owned(), path: path.into() }
    }

    #[test]
    fn names_of_mount_points_are_read_as_written() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/plain\9"), Path::new(r"/plain\9"));
    }

    #[test]
    fn a_folder_that_is_mounted_twice_lies_in_one_place() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.places(Path::new("/w/sub")), [at("8:1", "/w/sub")]);
        assert_eq!(
            table.places(Path::new("/alias/sub")),
            [at("8:1", "/w/sub"), at("8:1", "/alias")]
        );
        let deep = [at("8:1", "/w/sub/x"), at("8:2", "/deep"), at("8:1", "/data")];
        assert_eq!(table.places(Path::new("/data/deep/x")), deep);
        assert_eq!(table.places(Path::new("/mnt/s"))[0], at("8:1", "/a b"));
        assert!(table.places(Path::new("/alias/sub"))[0].is_below(&at("8:1", "/w")));
        assert!(!at("8:1", "/w").is_below(&at("8:1", "/w")));
        assert!(!at("8:2", "/w/sub").is_below(&at("8:1", "/w")));
        assert!(!at("8:1", "/work").is_below(&at("8:1", "/w")));
    }

    #[test]
    fn a_folder_lies_in_another_under_whatever_names() {
        let table = MountTable::parse(TABLE);
        let nesting = |path: &str, other: &str| table.nesting(Path::new(path), Path::new(other));
        assert_eq!(nesting("/alias", "/w"), Some(Nesting::Same));
        assert_eq!(nesting("/alias/sub", "/w"), Some(Nesting::Inside));
        assert_eq!(nesting("/alias", "/w/sub"), Some(Nesting::Around));
        assert_eq!(nesting("/data/deep/x", "/alias"), Some(Nesting::Inside));
        assert_eq!(nesting("/data", "/alias/sub/x"), Some(Nesting::Around));
        assert_eq!(nesting("/data", "/w"), None);
        // One whose mount point lies in it.
        let table = MountTable::parse("21 1 8:1 / / rw\n31 21 8:1 /w /w/sub/alias rw\n");
        let alias = Path::new("/w/sub/alias");
        assert_eq!(table.nesting(alias, Path::new("/w")), Some(Nesting::Same));
        assert_eq!(table.nesting(alias, Path::new("/w/x")), Some(Nesting::Around));
        assert_eq!(table.nesting(Path::new("/w/sub"), Path::new("/w")), Some(Nesting::Same));
        assert_eq!(table.nesting(Path::new("/w/y"), Path::new("/w")), Some(Nesting::Inside));
        assert_eq!(nesting("/alias", "/work"), None);
    }

    #[test]
    fn what_is_mounted_below_a_folder_is_no_part_of_its_own() {
        let table = MountTable::parse(
            "21 1 8:1 / / rw\n22 21 0:5 / /run rw\n23 22 8:1 /home/me/site /run/pins/a rw\n\
             24 21 0:5 /sock /alias rw\n",
        );
        let within = |path: &str| table.is_within(Path::new(path), Path::new("/run"));
        for path in ["/run", "/run/x", "/run/pins/a", "/alias", "/alias/x"] {
            assert!(within(path), "{path}");
        }
        for path in ["/home/me/site", "/home/me/site/sub", "/home/me", "/", "/runs"] {
            assert!(!within(path), "{path}");
        }
    }

    #[test]
    fn what_sandboxes_can_write_is_known_under_every_name() {
        let around = |folder: &str, path: &str| {
            let known = Writable::new([(folder.into(), String::new())], MountTable::parse(TABLE));
            known.around(Path::new(path)).map(Path::to_owned)
        };
        for path in ["/w", "/w/sub", "/alias", "/alias/x", "/data/deep", "/data/deep/x"] {
            assert_eq!(around("/w", path), Some("/w".into()), "{path}");
            // A mount of a folder inside it is a way in as well.
            let below = path != "/w" && !path.starts_with("/alias") || path == "/alias/sub";
            assert_eq!(around("/w/sub", path).is_some(), below, "{path}");
        }
        for path in ["/", "/work", "/data", "/mnt/s"] {
            assert_eq!(around("/w", path), None, "{path}");
        }
        // What was mounted below it can be made to be elsewhere.
        assert_eq!(around("/data", "/w/sub/x"), Some("/data".into()));
        assert_eq!(around("/alias", "/w/x"), Some("/alias".into()));
        // Where the kernel does not say what is mounted, paths count.
        let bare = Writable::new([("/w".into(), String::new())], MountTable::default());
        assert_eq!(bare.around(Path::new("/w/x")), Some(Path::new("/w")));
        assert_eq!(bare.around(Path::new("/x")), None);
    }

    #[test]
    fn what_sandboxes_can_write_is_met_above_and_below() {
        let near = |folder: &str, path: &str| {
            let folder = (folder.into(), "ada".to_owned());
            let known = Writable::new([folder], MountTable::parse(TABLE));
            known.near(Path::new(path)).map(|(_, whose)| whose.to_owned())
        };
        for (folder, path) in [
            ("/w/sub", "/w"),
            ("/w/sub", "/w/sub"),
            ("/w/sub", "/w/sub/x"),
            ("/w/sub", "/"),
            // Another mount of it, what contains that one, and what is mounted in both.
            ("/w/sub", "/alias"),
            ("/w/sub/x", "/data"),
            ("/w/sub/x", "/data/deep"),
            ("/data", "/alias/sub/x"),
            ("/data", "/w"),
            ("/alias/sub", "/w"),
        ] {
            assert_eq!(near(folder, path).as_deref(), Some("ada"), "{folder} {path}");
        }
        for (folder, path) in
            [("/w/sub", "/w/other"), ("/w/sub", "/mnt/s"), ("/w/s", "/w/sub"), ("/w/s", "/data")]
        {
            assert_eq!(near(folder, path), None, "{folder} {path}");
        }
        let bare = Writable::new([("/w/x".into(), "ada".into())], MountTable::default());
        assert_eq!(bare.near(Path::new("/w")), Some((Path::new("/w/x"), "ada")));
        assert_eq!(bare.near(Path::new("/v")), None);
    }

    #[test]
    fn what_is_mounted_below_a_folder_is_given_with_it() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.writes(Path::new("/w")), [at("8:1", "/w")]);
        assert_eq!(table.writes(Path::new("/data")), [at("8:2", "/"), at("8:1", "/w/sub")]);
        assert_eq!(table.writes(Path::new("/data/deep")), [at("8:1", "/w/sub")]);
    }
}
