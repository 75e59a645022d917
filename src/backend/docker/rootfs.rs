//! A root folder of the host as a tar that the engine imports.
#![expect(clippy::disallowed_methods, reason = "reads the operator's root folder")]

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 256;

/// Writes `root` as a tar, with owners by number, hard links as such, and without devices and
/// sockets: a machine gets a `/dev` of its own.
pub(in crate::backend) fn write(root: &Path, out: impl Write) -> anyhow::Result<()> {
    let mut writer =
        Writer { tar: tar::Builder::new(out), links: HashMap::new(), left_out: Vec::new() };
    writer.folder(root, Path::new(""), 0)?;
    if !writer.left_out.is_empty() {
        tracing::info!(
            count = writer.left_out.len(),
            first = %writer.left_out[0].display(),
            "left devices and sockets out of the image"
        );
    }
    writer.tar.finish()?;
    Ok(())
}

struct Writer<W: Write> {
    tar: tar::Builder<W>,
    /// Where a file with several names was written first, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    left_out: Vec<PathBuf>,
}

impl<W: Write> Writer<W> {
    fn folder(&mut self, root: &Path, relative: &Path, depth: usize) -> anyhow::Result<()> {
        let path = root.join(relative);
        anyhow::ensure!(depth <= MAX_DEPTH, "{} is nested too deeply", path.display());
        let reading = || format!("reading {}", path.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).with_context(reading)? {
            names.push(entry.with_context(reading)?.file_name());
        }
        names.sort_unstable();
        for name in names {
            self.entry(root, &relative.join(name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, root: &Path, relative: &Path, depth: usize) -> anyhow::Result<()> {
        let path = root.join(relative);
        let reading = || format!("reading {}", path.display());
        let found = std::fs::symlink_metadata(&path).with_context(reading)?;
        let kind = found.file_type();
        if kind.is_dir() {
            let mut header = header(&found, tar::EntryType::Directory);
            self.tar.append_data(&mut header, relative, std::io::empty())?;
            return self.folder(root, relative, depth + 1);
        }
        if kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            self.left_out.push(relative.to_owned());
            return Ok(());
        }
        if found.nlink() > 1
            && let Some(first) = self.links.get(&(found.dev(), found.ino()))
        {
            let mut header = header(&found, tar::EntryType::Link);
            self.tar.append_link(&mut header, relative, first)?;
            return Ok(());
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).with_context(reading)?;
            let mut header = header(&found, tar::EntryType::Symlink);
            self.tar.append_link(&mut header, relative, target)?;
        } else if kind.is_fifo() {
            let mut header = header(&found, tar::EntryType::Fifo);
            self.tar.append_data(&mut header, relative, std::io::empty())?;
        } else {
            let file = File::open(&path).with_context(reading)?;
            let opened = file.metadata().with_context(reading)?;
            anyhow::ensure!(
                opened.is_file() && opened.ino() == found.ino() && opened.len() == found.len(),
                "{} changed while it was read",
                path.display()
            );
            let mut header = header(&found, tar::EntryType::Regular);
            header.set_size(found.len());
            header.set_cksum();
            let mut exact = Exact { file, left: found.len() };
            self.tar.append_data(&mut header, relative, &mut exact).with_context(reading)?;
        }
        self.links.insert((found.dev(), found.ino()), relative.to_owned());
        Ok(())
    }
}

/// A file of which just so many bytes are read: one that grows or shrinks must not shift what
/// follows it in the tar.
pub(super) struct Exact {
    pub(super) file: File,
    pub(super) left: u64,
}

impl std::io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(std::io::Error::other("it shrank while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn header(found: &Metadata, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_folder_becomes_a_tar_with_modes_and_links() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let long = "n".repeat(120);
        std::fs::create_dir_all(at(&format!("bin/{long}"))).unwrap();
        std::fs::write(at("bin/sh"), "sh").unwrap();
        std::fs::set_permissions(at("bin/sh"), PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::hard_link(at("bin/sh"), at("bin/ash")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
        std::fs::write(at(&format!("bin/{long}/x")), "").unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let mut out = Vec::new();
        write(root.path(), &mut out).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let shape: Vec<(String, tar::EntryType, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                (path, entry.header().entry_type(), entry.header().mode().unwrap())
            })
            .collect();
        use tar::EntryType as E;
        let kinds: Vec<(&str, E)> = shape.iter().map(|(p, e, _)| (p.as_str(), *e)).collect();
        let (folder, file) = (format!("bin/{long}"), format!("bin/{long}/x"));
        assert_eq!(
            kinds,
            [
                ("bin", E::Directory),
                ("bin/ash", E::Regular),
                (folder.as_str(), E::Directory),
                (file.as_str(), E::Regular),
                ("bin/sh", E::Link),
                ("link", E::Symlink),
            ]
        );
        assert_eq!(shape[1].2, 0o4755);
    }

    #[test]
    fn a_folder_that_is_gone_says_which() {
        let error = write(Path::new("/nonexistent/root"), Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "reading /nonexistent/root/");
    }
}
