//! Tars into and out of a virtual machine's file system.

use std::io::{Cursor, Read};

use bytes::Bytes;

use super::files::{Entry, Files, Node};

/// One entry of an upload, checked: its path is absolute and has no `..`.
pub(super) struct Incoming {
    path: String,
    entry: Entry,
    /// It is another name of this file.
    link: Option<String>,
}

/// Reads a whole tar, and refuses it as a whole when any of it could lead out of the machine.
pub(super) fn read(tar: &[u8]) -> anyhow::Result<Vec<Incoming>> {
    let mut archive = tar::Archive::new(tar);
    let mut incoming = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|error| anyhow::anyhow!("a name is not UTF-8: {error}"))?;
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            anyhow::bail!("`{name}` in the upload is not a plain path relative to /");
        }
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        let mut link = None;
        let node = match header.entry_type() {
            tar::EntryType::Directory => Node::Folder,
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                Node::Symlink(String::from_utf8(target)?)
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                link = Some(format!("/{}", String::from_utf8(target)?));
                Node::Folder
            }
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Node::File(bytes.into())
            }
            other => anyhow::bail!(
                "`{name}` in the upload is neither file, folder nor symlink: {other:?}"
            ),
        };
        let path = format!("/{}", name.trim_start_matches("./").trim_end_matches('/'));
        let (uid, gid) = (u32::try_from(uid)?, u32::try_from(gid)?);
        incoming.push(Incoming { path, entry: Entry { node, mode, uid, gid }, link });
    }
    Ok(incoming)
}

/// Puts the entries in, in their order.
pub(super) fn unpack(files: &mut Files, incoming: Vec<Incoming>) -> anyhow::Result<()> {
    for Incoming { path, mut entry, link } in incoming {
        // Another name of a file: as good as a copy, for what is never written in place.
        if let Some(to) = link {
            let there = files.tree(&to).next().map(|(_, there)| there.clone());
            entry = there.ok_or_else(|| anyhow::anyhow!("`{path}` links to nothing"))?;
        }
        files.put(&path, entry)?;
    }
    Ok(())
}

/// A tar of what is at `path`: its names begin with the last component of `path`.
pub(super) fn pack(files: &Files, path: &str, limit: u64) -> anyhow::Result<Bytes> {
    let place = files.resolve(path, false)?;
    let base = place.rsplit('/').next().unwrap_or_default();
    let mut builder = tar::Builder::new(Cursor::new(Vec::new()));
    let mut found = false;
    for (rest, entry) in files.tree(&place) {
        found = true;
        let name = match (base, rest) {
            ("", "") => ".".to_owned(),
            ("", rest) => rest.to_owned(),
            (base, "") => base.to_owned(),
            (base, rest) => format!("{base}/{rest}"),
        };
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(0);
        match &entry.node {
            Node::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, format!("{name}/"), std::io::empty())?;
            }
            Node::File(bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, &name, bytes.as_ref())?;
            }
            Node::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, &name, target)?;
            }
        }
        if builder.get_ref().position() > limit {
            anyhow::bail!("{path} is larger than the limit of {limit} bytes");
        }
    }
    anyhow::ensure!(found, "{path}: no such file or directory");
    let tar = builder.into_inner()?.into_inner();
    anyhow::ensure!(tar.len() as u64 <= limit, "{path} is larger than the limit of {limit} bytes");
    Ok(tar.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(name: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        // By hand: the writer of the crate refuses what we want to see refused.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.extend([0; 1024]);
        tar
    }

    #[test]
    fn names_that_lead_out_and_devices_are_refused() {
        for name in ["../x", "a/../../x", "/etc/x", "a/.."] {
            assert!(read(&tar_of(name, tar::EntryType::Regular)).is_err(), "{name}");
        }
        assert!(read(&tar_of("dev", tar::EntryType::Char)).is_err());
        assert!(read(&tar_of("a/..b", tar::EntryType::Regular)).is_ok());
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut files = Files::default();
        files.put("/d", Entry::folder(0o750, 5, 6)).unwrap();
        files.put("/d/empty", Entry::folder(0o700, 0, 0)).unwrap();
        files.put("/d/f", Entry::file(vec![0, 255], 0o600, 7, 8)).unwrap();
        let link = Node::Symlink("f".to_owned());
        files.put("/d/l", Entry { node: link, mode: 0o777, uid: 1, gid: 1 }).unwrap();
        let tar = pack(&files, "/d", 1 << 20).unwrap();
        let mut again = Files::default();
        unpack(&mut again, read(&tar).unwrap()).unwrap();
        assert_eq!(files, again);
        assert!(pack(&files, "/d", 100).is_err());
        assert!(pack(&files, "/absent", 100).is_err());
    }
}
