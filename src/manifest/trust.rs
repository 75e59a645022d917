//! Who besides the operator can change what a path leads to, or what a file says.
//!
//! A path is walked as the kernel walks it, link by link, and each folder on the way is looked at:
//! whoever can write there can put something else under the name. What the walk has found is the path
//! that is used, so that nothing is resolved a second time.
#![expect(clippy::disallowed_methods, reason = "looks at folders, and reads the user database")]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::tree::{self, Kind, Stat};
use crate::model::{HostSource, Located, MountTable, Place, Use};

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;

/// Something that others than the operator or root can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exposed {
    /// What can be changed.
    pub(super) path: PathBuf,
    /// By whom, as the end of a sentence that begins with the path.
    pub(super) who: String,
    /// The command that sets it right, or what else to do.
    pub(super) mend: String,
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub(super) struct Walked {
    /// With its links resolved.
    pub(super) path: PathBuf,
    /// The links on the way, and the folders that a `..` left again.
    pub(super) via: Vec<PathBuf>,
    /// The first folder on the way in which others can put something else under the name.
    pub(super) exposed: Option<Exposed>,
}

/// Whom this process trusts: its own user and root.
#[derive(Debug)]
pub(super) struct Trust {
    own: u32,
    /// By group: whether only trusted users are in it.
    groups: RefCell<BTreeMap<u32, bool>>,
    /// Folders that were looked at: what each is, and who else can write to it.
    folders: RefCell<HashMap<PathBuf, (Stat, Option<Exposed>)>>,
    /// What is mounted where.
    pub(super) mounts: MountTable,
}

impl Trust {
    pub(super) fn new() -> Self {
        Self::among(mount_table())
    }

    pub(super) fn among(mounts: MountTable) -> Self {
        Self {
            own: rustix::process::geteuid().as_raw(),
            groups: RefCell::default(),
            folders: RefCell::default(),
            mounts,
        }
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }

    /// Who else can change a file or folder of the tree itself.
    pub(super) fn own(&self, path: &Path, stat: &Stat) -> Option<Exposed> {
        let shown = tree_path(path);
        let exposed = |who, mend| Some(Exposed { path: path.to_owned(), who, mend });
        if !self.trusts(stat.uid) {
            let me = if self.own == 0 { "root".to_owned() } else { format!("user {}", self.own) };
            let who = format!("belongs to user {}, and bottle runs as {me}", stat.uid);
            let mend =
                format!("run bottle as user {}, or from a copy that belongs to {me}", stat.uid);
            return exposed(who, mend);
        }
        // The modes of a link say nothing.
        if stat.kind == Kind::Symlink {
            return None;
        }
        let mode = stat.mode;
        if mode & 0o002 != 0 {
            return exposed(
                format!("can be written by everyone (mode {mode:04o})"),
                format!("`chmod o-w {shown}`"),
            );
        }
        if mode & 0o020 != 0 && (has_acl(path) || !self.is_private(stat.gid)) {
            return exposed(
                format!("can be written by group {} (mode {mode:04o})", stat.gid),
                format!("`chmod g-w {shown}`"),
            );
        }
        None
    }

    /// Walks `path`, which is absolute.
    pub(super) fn walk(&self, path: &Path) -> io::Result<Walked> {
        let mut at = PathBuf::from("/");
        let mut exposed = None;
        let mut via = Vec::new();
        let mut links = 0;
        let mut rest = parts(path);
        while let Some(part) = rest.pop() {
            if part == ".." {
                via.push(at.clone());
                at.pop();
                continue;
            }
            let entry = at.join(&part);
            // A folder that many paths lead through is looked at once.
            let known = self.folders.borrow().get(&entry).map(|(stat, _)| *stat);
            let stat = known.map_or_else(|| tree::stat_link(&entry), Ok)?;
            if exposed.is_none() {
                exposed = self.entry(&at, &stat)?;
            }
            if stat.kind != Kind::Symlink || (rest.is_empty() && is_descriptor(&entry)) {
                at = entry;
                continue;
            }
            if exposed.is_none() && !self.trusts(stat.uid) {
                let who = format!("is a link of user {}", stat.uid);
                let mend = format!("`chown -h {} {}`", self.own, tree_path(&entry));
                exposed = Some(Exposed { path: entry.clone(), who, mend });
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = fs::read_link(&entry)?;
            via.push(entry);
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        }
        Ok(Walked { path: at, via, exposed })
    }

    /// Who else can put something else under the name of an entry of `folder`.
    fn entry(&self, folder: &Path, entry: &Stat) -> io::Result<Option<Exposed>> {
        let known = self.folders.borrow().get(folder).cloned();
        let (stat, writers) = match known {
            Some(known) => known,
            None => {
                let stat = tree::stat_link(folder)?;
                let looked = (stat, self.own(folder, &stat));
                self.folders.borrow_mut().insert(folder.to_owned(), looked.clone());
                looked
            }
        };
        // There only who owns an entry, or the folder, can rename it.
        let sticky = stat.mode & STICKY != 0 && self.trusts(stat.uid) && self.trusts(entry.uid);
        Ok(writers.filter(|_| !sticky))
    }

    /// Whether nobody but trusted users is in a group, as far as the files of this machine tell.
    fn is_private(&self, gid: u32) -> bool {
        if let Some(known) = self.groups.borrow().get(&gid) {
            return *known;
        }
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let private = is_private(gid, self.own, &read("/etc/passwd"), &read("/etc/group"));
        self.groups.borrow_mut().insert(gid, private);
        private
    }
}

/// A file of the operator's that stands in no tree, and that `option` names: what it leads to, if nobody
/// but the operator and root can change it or what leads to it. What is open already, as `<(…)` is, is
/// the operator's.
///
/// # Errors
/// When it does not exist, cannot be looked at, or others can change it.
pub fn operators_file(option: &str, path: &Path) -> io::Result<HostSource> {
    let trust = Trust::new();
    let walked = trust.walk(&std::path::absolute(path)?)?;
    if is_descriptor(&walked.path)
        && let Some(named) = opened(&walked.path)
    {
        return operators_file(option, &named);
    }
    let own = || {
        let open = is_descriptor(&walked.path);
        let stat = (!open).then(|| tree::stat_link(&walked.path)).transpose()?;
        Ok::<_, io::Error>(stat.and_then(|stat| trust.own(&walked.path, &stat)))
    };
    let exposed = if walked.exposed.is_some() { walked.exposed } else { own()? };
    if let Some(Exposed { path, who, mend }) = exposed {
        let what = format!(
            "`{}` {who}: only you and root may be able to change what is read; {mend}",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let mut source = HostSource {
        field: option.to_owned(),
        text: path.display().to_string(),
        base: None,
        path: walked.path,
        via: walked.via,
        usage: Use::Define,
        place: Place::default(),
        located: Located::default(),
    };
    source.locate(&trust.mounts);
    Ok(source)
}

/// Who else can change this folder itself, with what to do about it.
///
/// # Errors
/// When it cannot be looked at.
pub fn exposed_folder(path: &Path) -> io::Result<Option<(String, String)>> {
    let found = Trust::new().own(path, &tree::stat_link(path)?);
    Ok(found.map(|exposed| (exposed.who, exposed.mend)))
}

/// The file that a descriptor was opened by, where it still has that name.
fn opened(descriptor: &Path) -> Option<PathBuf> {
    let named = fs::read_link(descriptor).ok().filter(|named| named.is_absolute())?;
    let (is, there) = (fs::metadata(descriptor).ok()?, fs::symlink_metadata(&named).ok()?);
    let same = (is.dev(), is.ino()) == (there.dev(), there.ino());
    (same && is.is_file() && !is_descriptor(&named)).then_some(named)
}

/// Whether this is the name of something that a process has open: what it says is no path.
#[must_use]
pub fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/proc") && path.parent().is_some_and(|folder| folder.ends_with("fd"))
}

/// What is mounted where, when the first path is looked up in it. Where the kernel does not say, paths alone are compared.
#[must_use]
pub fn mount_table() -> MountTable {
    MountTable::of(|| fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn tree_path(path: &Path) -> String {
    super::source::shorten_path(path)
}

/// Whether a list of users and groups with rights of their own stands beside the mode.
fn has_acl(path: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::getxattr(path, c"system.posix_acl_access", &mut none).is_ok_and(|size| size > 0)
}

/// A group is its owner's own when nobody else is in it: neither as a member nor as an account
/// whose first group it is. A group that stands in neither file is told by no file who is in it.
fn is_private(gid: u32, own: u32, passwd: &str, group: &str) -> bool {
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let mut trusted = vec!["root"];
    let mut first = false;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let Some(uid) = number(fields.get(2)) else { continue };
        let named = uid == own || uid == 0;
        if named {
            trusted.push(fields[0]);
        }
        if number(fields.get(3)) == Some(gid) {
            if !named {
                return false;
            }
            first = true;
        }
    }
    let mut found = false;
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if number(fields.get(2)) != Some(gid) {
            continue;
        }
        found = true;
        let members = fields.get(3).copied().unwrap_or_default();
        if members.split(',').filter(|name| !name.is_empty()).any(|name| !trusted.contains(&name)) {
            return false;
        }
    }
    found && first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/h:/bin/sh\n\
                          bob:x:1001:100::/h:/bin/sh\ncy:x:1002:100::/h:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nada:x:1000:\nusers:x:100:ada\nshared:x:2000:ada,bob\n\
                         alone:x:2001:ada\n";

    #[test]
    fn a_group_is_private_when_nobody_else_is_in_it() {
        assert!(is_private(1000, 1000, PASSWD, GROUP));
        assert!(is_private(0, 0, PASSWD, GROUP));
        for (gid, own) in [(100, 1000), (2000, 1000), (1000, 1001), (4000, 1000), (100, 1001)] {
            assert!(!is_private(gid, own, PASSWD, GROUP), "{gid} {own}");
        }
        let with_guest = GROUP.replace("ada:x:1000:", "ada:x:1000:bob");
        assert!(!is_private(1000, 1000, PASSWD, &with_guest));
    }

    #[test]
    fn a_folder_that_others_can_write_exposes_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let open = root.join("open");
        fs::create_dir_all(open.join("sub/deep")).unwrap();
        fs::create_dir(root.join("own")).unwrap();
        let mode = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let exposed = |path: &Path| Trust::new().walk(path).unwrap().exposed.map(|e| e.path);
        mode(0o755);
        assert_eq!(exposed(&open.join("sub/deep")), None);
        mode(0o777);
        assert_eq!(exposed(&open.join("sub/deep")), Some(open.clone()));
        // Itself it stands in a folder that nobody else can write.
        assert_eq!(exposed(&open), None);
        // As in /tmp: only an owner can rename.
        mode(0o1777);
        assert_eq!(exposed(&open.join("sub/deep")), None);
        mode(0o777);
        symlink(root.join("own"), open.join("link")).unwrap();
        symlink("open/link", root.join("outer")).unwrap();
        let walked = Trust::new().walk(&root.join("outer")).unwrap();
        assert_eq!(walked.path, root.join("own"));
        assert_eq!(walked.via, [root.join("outer"), open.join("link")]);
        assert_eq!(walked.exposed.unwrap().path, open);
        symlink("../open/../own", root.join("own/up")).unwrap();
        let walked = Trust::new().walk(&root.join("own/up")).unwrap();
        assert_eq!(walked.path, root.join("own"));
        assert_eq!(walked.via, [root.join("own/up"), root.join("own"), open.clone()]);
        symlink("round", root.join("round")).unwrap();
        assert!(Trust::new().walk(&root.join("round")).is_err());
    }
}
