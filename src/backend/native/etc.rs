//! The `/etc` of a sandbox that stands on the host's programs: what programs need to run, nothing
//! that tells who or where the host is.
//!
//! The larger part is the same for every sandbox, and stands in the base that they share. The few
//! files that name the sandbox are its own.

#![expect(clippy::disallowed_methods, reason = "files of the host are read and copied")]

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::state::User;
use crate::model::gate::GATE_NAME;

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

/// All that is copied, parents first. What the world may not read is private.
pub(super) fn walk(
    base: &Path,
    folder: &Path,
    found: &mut Vec<(PathBuf, Metadata)>,
) -> io::Result<()> {
    let top = folder.as_os_str().is_empty();
    for entry in fs::read_dir(base.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = if top { is_copied(&name) } else { !PRIVATE.iter().any(|p| name == *p) };
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        let readable = kind.is_symlink() || public(&metadata) && (kind.is_file() || kind.is_dir());
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

/// Whether the world may read it.
fn public(metadata: &Metadata) -> bool {
    metadata.mode() & 0o004 != 0
}

/// Copies one of those that [`walk`] found. What has gone or become private since is left out.
pub(super) fn copy(from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
        return set_mode(to, found);
    }
    // The file that is judged is the one that is read, whatever has its name by now.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let Ok(mut file) = File::options().read(true).custom_flags(flags).open(from) else {
        return Ok(());
    };
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    if !metadata.is_file() || !public(&metadata) || file.read_to_end(&mut bytes).is_err() {
        return Ok(());
    }
    fs::write(to, bytes)?;
    set_mode(to, &metadata)
}

fn set_mode(path: &Path, of: &Metadata) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(of.mode() & 0o755 | 0o444))
}

/// Its own names, and that of the git gate, whether or not it has one.
fn hosts(name: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost {name}\n127.0.0.1\t{GATE_NAME}\n"
    )
}

/// The files of `/etc` that are the sandbox's own, by name.
pub(super) fn own(name: &str, user: &User, host_image: bool) -> Vec<(&'static str, String)> {
    let mut files = vec![
        ("hostname", format!("{name}\n")),
        ("hosts", hosts(name)),
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
    fn what_has_become_private_since_it_was_found_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["public", "private", "link"] {
            fs::write(path(name), name).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o664)).unwrap();
        }
        let found = fs::symlink_metadata(path("public")).unwrap();
        fs::set_permissions(path("private"), fs::Permissions::from_mode(0o660)).unwrap();
        fs::remove_file(path("link")).unwrap();
        symlink("public", path("link")).unwrap();
        for name in ["public", "private", "link", "gone"] {
            copy(&path(name), &path(&format!("{name}-copy")), &found).unwrap();
        }
        let copied = |name: &str| path(&format!("{name}-copy")).exists();
        assert_eq!(["public", "private", "link", "gone"].map(copied), [true, false, false, false]);
        assert_eq!(fs::metadata(path("public-copy")).unwrap().mode() & 0o7777, 0o644);
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
