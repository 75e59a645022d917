//! Tars, written by hand and read into a map.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File(Vec<u8>),
    Symlink(String),
}

/// An entry of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
}

/// A folder.
pub(super) fn folder(mode: u32, owner: u64) -> Packed {
    Packed { kind: Kind::Folder, mode, uid: owner, gid: owner }
}

/// A file.
pub(super) fn file(bytes: impl Into<Vec<u8>>, mode: u32, owner: u64) -> Packed {
    Packed { kind: Kind::File(bytes.into()), mode, uid: owner, gid: owner }
}

/// A symlink.
pub(super) fn symlink(target: &str, owner: u64) -> Packed {
    Packed { kind: Kind::Symlink(target.to_owned()), mode: 0o777, uid: owner, gid: owner }
}

/// A tar of these entries, whatever their names say.
pub(super) fn pack(entries: &[(&str, Packed)]) -> Bytes {
    let mut tar = Vec::new();
    for (name, entry) in entries {
        if name.len() > 100 {
            // GNU's way: the whole name as the content of an entry before it.
            let mut long = tar::Header::new_gnu();
            long.set_path("././@LongLink").expect("the name is short");
            long.set_entry_type(tar::EntryType::GNULongName);
            long.set_mode(0o644);
            long.set_uid(0);
            long.set_gid(0);
            long.set_mtime(0);
            append(&mut tar, long, &[name.as_bytes(), b"\0"].concat());
        }
        let mut header = tar::Header::new_gnu();
        // By hand: the writer of the crate refuses the names that we want to see refused.
        let short = &name.as_bytes()[..name.len().min(100)];
        header.as_mut_bytes()[..short.len()].copy_from_slice(short);
        let (kind, body): (_, &[u8]) = match &entry.kind {
            Kind::Folder => (tar::EntryType::Directory, &[]),
            Kind::File(bytes) => (tar::EntryType::Regular, bytes),
            Kind::Symlink(target) => {
                header.set_link_name_literal(target).expect("the targets are short");
                (tar::EntryType::Symlink, &[])
            }
        };
        header.set_entry_type(kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(0);
        append(&mut tar, header, body);
    }
    tar.resize(tar.len() + 1024, 0);
    tar.into()
}

fn append(tar: &mut Vec<u8>, mut header: tar::Header, body: &[u8]) {
    header.set_size(body.len() as u64);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(body);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// The entries of a tar of `path`, by their names below its last component, which they begin with.
/// That component itself is under the empty name.
pub(super) fn unpack(path: &str, tar: &[u8]) -> BTreeMap<String, Packed> {
    let base = path.trim_end_matches('/').rsplit('/').next().expect("a path has a last component");
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().expect("it is a tar") {
        let mut entry = entry.expect("it is a whole tar");
        let name = entry.path().expect("the name is a path").to_string_lossy().into_owned();
        let name = name.trim_end_matches('/');
        let rest = name.strip_prefix(base).unwrap_or_else(|| panic!("{name} is not below {base}"));
        let (header, mut bytes) = (entry.header().clone(), Vec::new());
        entry.read_to_end(&mut bytes).expect("it is a whole tar");
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Folder,
            tar::EntryType::Symlink => {
                let target = entry.link_name().expect("the target is a path");
                Kind::Symlink(target.unwrap_or_default().to_string_lossy().into_owned())
            }
            tar::EntryType::Regular => Kind::File(bytes),
            other => panic!("{name} is a {other:?}"),
        };
        let packed = Packed {
            kind,
            mode: header.mode().expect("it has a mode") & 0o7777,
            uid: header.uid().expect("it has an owner"),
            gid: header.gid().expect("it has a group"),
        };
        found.insert(rest.trim_start_matches('/').to_owned(), packed);
    }
    found
}
