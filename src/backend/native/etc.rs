//! The `/etc` of a sandbox that stands on the host's programs: what programs need to run, nothing
//! that tells who or where the host is.
//!
//! The larger part is the same for every sandbox: it is copied from the host once, under a digest
//! of what was copied, and shared. The few files that name the sandbox are its own.

#![expect(clippy::disallowed_methods, reason = "files of the host are read and copied")]

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::observe;
use super::state::{Store, User};

/// What is copied from the host's `/etc`, where it is there: how programs, libraries, fonts and the
/// trust store are found. Names that end in `*` stand for all that begin so.
const COPIED: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java*",
    "ld-musl*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "mailcap",
    "manpath.config",
    "mime.types",
    "networks",
    "os-release",
    "perl",
    "pki",
    "profile",
    "protocols",
    "python*",
    "rpc",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
    "vim",
    "xattr.conf",
    "xml",
];

/// Folders of those that hold keys, not certificates.
const PRIVATE: &[&str] = &["private", "nssdb", "entitlement", "consumer"];

fn is_copied(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    COPIED.iter().any(|known| match known.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *known,
    })
}

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
    let wanted =
        |name: &str| matches!(name, "usr" | "opt" | "bin" | "sbin") || name.starts_with("lib");
    let mut found: Vec<PathBuf> = fs::read_dir("/")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(wanted))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Makes sure that the shared part is there and current; returns its name in [`Store::etc`].
/// The caller holds the store's lock.
pub(super) fn shared(store: &Store) -> io::Result<String> {
    let source = Path::new("/etc");
    let mut entries = Vec::new();
    walk(source, Path::new(""), &mut entries)?;
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let name = fingerprint(&entries);
    let folder = store.etc().join(&name);
    if folder.is_dir() {
        return Ok(name);
    }
    // One copies, and the others wait for it: it is hundreds of files.
    let _one = store.lock_etc()?;
    if folder.is_dir() {
        return Ok(name);
    }
    let scratch = store.scratch("making")?;
    fs::create_dir(&scratch)?;
    for (path, metadata) in &entries {
        copy(&source.join(path), &scratch.join(path), metadata)?;
    }
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
    fs::create_dir_all(store.etc())?;
    match fs::rename(&scratch, &folder) {
        // Another process was as quick.
        Err(_) if folder.is_dir() => super::remove_folder(&scratch)?,
        result => result?,
    }
    Ok(name)
}

/// Names of the shared parts in [`Store::etc`] that no new sandbox will use. The newest stays, also
/// when no sandbox is left: to copy it takes longer than everything else that makes one.
pub(super) fn outdated(store: &Store) -> io::Result<Vec<String>> {
    let folder = store.etc();
    let made = |name: &String| fs::metadata(folder.join(name)).and_then(|m| m.modified()).ok();
    let mut names = observe::names(&folder)?;
    names.sort_by_key(made);
    names.pop();
    Ok(names)
}

/// All that is copied, parents first. What the world may not read is private.
fn walk(base: &Path, folder: &Path, found: &mut Vec<(PathBuf, Metadata)>) -> io::Result<()> {
    let top = folder.as_os_str().is_empty();
    for entry in fs::read_dir(base.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = if top { is_copied(&name) } else { !PRIVATE.iter().any(|p| name == *p) };
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        let readable =
            kind.is_symlink() || metadata.mode() & 0o004 != 0 && (kind.is_file() || kind.is_dir());
        if !wanted || !readable {
            continue;
        }
        let path = folder.join(name);
        if kind.is_symlink() && is_manual(&base.join(&path)) {
            continue;
        }
        found.push((path.clone(), metadata));
        if kind.is_dir() {
            walk(base, &path, found)?;
        }
    }
    Ok(())
}

/// Most alternatives are of manual pages, which nobody reads in a sandbox.
fn is_manual(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.starts_with("/usr/share/man"))
}

fn fingerprint(entries: &[(PathBuf, Metadata)]) -> String {
    let mut hasher = Sha256::new();
    for (path, metadata) in entries {
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

fn copy(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        match fs::read(from) {
            // Gone since it was listed, or kept from us by more than its mode.
            Err(_) => return Ok(()),
            Ok(bytes) => fs::write(to, bytes)?,
        }
    }
    let mode = metadata.mode() & 0o755 | 0o444;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// The files of `/etc` that are the sandbox's own, by name.
pub(super) fn own(name: &str, user: &User, host_image: bool) -> Vec<(&'static str, String)> {
    let mut files = vec![
        ("hostname", format!("{name}\n")),
        ("hosts", format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost {name}\n")),
        ("resolv.conf", String::new()),
    ];
    if host_image {
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        let User { uid, gid, name, home } = user;
        let mut passwd = format!("root:x:0:0:root:/root:{shell}\n");
        let mut group = String::from("root:x:0:\ntty:x:5:\n");
        if *uid != 0 {
            passwd += &format!("{name}:x:{uid}:{gid}:{name}:{home}:{shell}\n");
            group += &format!("{name}:x:{gid}:\n");
        }
        passwd += "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
        group += "nogroup:x:65534:\n";
        files.push(("passwd", passwd));
        files.push(("group", group));
        files.push((
            "nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".to_owned(),
        ));
    }
    files
}

/// Makes the root folder of a sandbox on the host's programs: what is not shown from the host.
/// Everything is root's but what `user` needs.
pub(super) fn skeleton(
    root: &Path,
    user: &User,
    owners: &dyn Fn(&Path, u32) -> io::Result<()>,
) -> io::Result<()> {
    let folder = |path: &str, mode: u32, uid: u32| -> io::Result<()> {
        let path = root.join(path);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        owners(&path, uid)
    };
    folder("", 0o755, 0)?;
    for path in program_folders() {
        if let Ok(path) = path.strip_prefix("/") {
            folder(&path.to_string_lossy(), 0o755, 0)?;
        }
    }
    for (path, to) in program_links() {
        if let Ok(path) = path.strip_prefix("/") {
            symlink(to, root.join(path))?;
            owners(&root.join(path), 0)?;
        }
    }
    for path in ["etc", "home", "mnt", "proc", "sys", "dev", "run", "var", "var/lib", "var/log"] {
        folder(path, 0o755, 0)?;
    }
    for path in ["var/cache", "var/spool", "var/opt", "var/local"] {
        folder(path, 0o755, 0)?;
    }
    folder("root", 0o700, 0)?;
    for path in ["tmp", "var/tmp"] {
        folder(path, 0o1777, 0)?;
    }
    for (name, to) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        symlink(to, root.join(name))?;
        owners(&root.join(name), 0)?;
    }
    let home = user.home.trim_start_matches('/');
    if user.uid != 0 && !home.is_empty() {
        folder(home, 0o755, user.uid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_private_is_on_the_list() {
        for name in ["shadow", "gshadow", "sudoers", "ssh", "machine-id", "gitconfig", "npmrc"] {
            assert!(!is_copied(OsStr::new(name)), "{name}");
        }
        assert!(is_copied(OsStr::new("java-17-openjdk")));
    }

    #[test]
    fn what_only_its_owner_may_read_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let ssl = folder.path().join("ssl");
        fs::create_dir_all(ssl.join("private")).unwrap();
        fs::write(ssl.join("private/key"), "").unwrap();
        fs::write(ssl.join("cert"), "").unwrap();
        fs::write(ssl.join("secret"), "").unwrap();
        fs::set_permissions(ssl.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut found = Vec::new();
        walk(folder.path(), Path::new(""), &mut found).unwrap();
        let names: Vec<_> = found.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(names, ["ssl", "ssl/cert"]);
    }

    #[test]
    fn the_sandbox_knows_its_own_names() {
        let user = User { uid: 1000, gid: 1000, name: "agent".into(), home: "/home/agent".into() };
        let files = own("bottle-team-ada", &user, true);
        let passwd = &files.iter().find(|(name, _)| *name == "passwd").unwrap().1;
        assert!(passwd.contains("\nagent:x:1000:1000:agent:/home/agent:"), "{passwd}");
        assert_eq!(own("x", &user, false).len(), 3);
    }
}
