//! A folder with a Dockerfile as the tar that the engine builds of.
#![expect(clippy::disallowed_methods, reason = "reads the operator's folder")]

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use super::rootfs::Exact;
use crate::model::SpecHash;
use crate::model::build::{Content, DOCKERFILE, IGNORE, Ignore, MOST_TEXT, Part};

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 256;

/// Writes the folder as it was when its content was looked at: anything else is an error before the tar ends, and
/// the engine builds nothing of it.
pub(super) fn write(root: &Path, content: SpecHash, out: impl Write) -> anyhow::Result<()> {
    let ignore = match text(&root.join(IGNORE)) {
        Ok(text) => Ignore::parse(&text).map_err(|error| anyhow::anyhow!("{IGNORE} {error}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ignore::default(),
        Err(error) => return Err(error).context(IGNORE),
    };
    let tar = tar::Builder::new(out);
    let mut writer = Writer { tar, root, ignore, content: Content::default() };
    writer.folder(&PathBuf::new(), 0)?;
    let found = writer.content.digest();
    anyhow::ensure!(found == content, "it changed since the plan was made: plan again");
    writer.tar.finish()?;
    Ok(())
}

/// The images that the Dockerfile begins with, as far as it names them plainly.
pub(super) fn bases(root: &Path) -> Vec<String> {
    let text = text(&root.join(DOCKERFILE)).unwrap_or_default();
    let from = |line: &str| {
        let mut words = line.split_whitespace();
        let from = words.next().filter(|word| word.eq_ignore_ascii_case("from"));
        from.and_then(|_| words.find(|word| !word.starts_with("--"))).map(str::to_owned)
    };
    text.lines().filter_map(from).filter(|name| !name.contains('$')).take(64).collect()
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MOST_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Opens a file, and no link; nothing that blocks is waited for.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

struct Writer<'a, W: Write> {
    tar: tar::Builder<W>,
    root: &'a Path,
    ignore: Ignore,
    content: Content,
}

impl<W: Write> Writer<'_, W> {
    fn folder(&mut self, relative: &Path, depth: usize) -> anyhow::Result<()> {
        let path = self.root.join(relative);
        anyhow::ensure!(depth <= MAX_DEPTH, "{} is nested too deeply", path.display());
        let reading = || format!("reading {}", path.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).with_context(reading)? {
            names.push(entry.with_context(reading)?.file_name());
        }
        names.sort_unstable();
        for name in names {
            self.entry(&relative.join(name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, relative: &Path, depth: usize) -> anyhow::Result<()> {
        let left_out = self.ignore.leaves_out(relative.as_os_str().as_bytes());
        if left_out && !self.ignore.has_exceptions() {
            return Ok(());
        }
        let path = self.root.join(relative);
        let reading = || format!("reading {}", path.display());
        let found = std::fs::symlink_metadata(&path).with_context(reading)?;
        if !left_out {
            self.send(relative, &path, &found).with_context(reading)?;
        }
        if found.is_dir() {
            self.folder(relative, depth + 1)?;
        }
        Ok(())
    }

    fn send(&mut self, relative: &Path, path: &Path, found: &Metadata) -> anyhow::Result<()> {
        let name = relative.as_os_str().as_bytes();
        if found.is_dir() {
            let mut header = header(found, tar::EntryType::Directory);
            self.tar.append_data(&mut header, relative, std::io::empty())?;
            self.content.add(name, mode(found), Part::Folder);
        } else if found.is_symlink() {
            let target = std::fs::read_link(path)?;
            let mut header = header(found, tar::EntryType::Symlink);
            self.tar.append_link(&mut header, relative, &target)?;
            self.content.add(name, 0, Part::Symlink(target.as_os_str().as_bytes()));
        } else {
            anyhow::ensure!(found.is_file(), "it is no file");
            let file = open(path)?;
            let opened = file.metadata()?;
            let same = opened.is_file() && opened.ino() == found.ino();
            anyhow::ensure!(same && opened.len() == found.len(), "it changed while it was read");
            let mut header = header(&opened, tar::EntryType::Regular);
            header.set_size(opened.len());
            let exact = Exact { file, left: opened.len() };
            let mut hashed = Hashed { inner: exact, hasher: Sha256::new() };
            self.tar.append_data(&mut header, relative, &mut hashed)?;
            let digest = SpecHash::from_digest(hashed.hasher.finalize().into());
            self.content.add(name, mode(&opened), Part::File(digest));
        }
        Ok(())
    }
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn mode(found: &Metadata) -> u32 {
    found.mode() & 0o7777
}

/// All is root's, as the engine's own client sends it.
fn header(found: &Metadata, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode(found));
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                assert_eq!(owner, (0, 0));
                format!("{} {:o}", entry.path().unwrap().display(), header.mode().unwrap())
            })
            .collect()
    }

    #[test]
    fn what_is_ignored_is_not_sent_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("node_modules/x")).unwrap();
        std::fs::create_dir(at("src")).unwrap();
        for (name, text) in [
            ("Dockerfile", "FROM --platform=linux/amd64 a/b:1 AS x\nfrom $BASE\nFROM c\nRUN true"),
            (".dockerignore", "node_modules\n*.md\n!README.md\n"),
            ("README.md", ""),
            ("other.md", ""),
            ("node_modules/x/y", ""),
            ("src/main", "1"),
        ] {
            std::fs::write(at(name), text).unwrap();
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o640)).unwrap();
        }
        std::fs::set_permissions(at("src"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("/etc", at("link")).unwrap();
        let mut out = Vec::new();
        let error = write(root.path(), SpecHash::of_bytes(b""), &mut out).unwrap_err();
        assert_eq!(error.to_string(), "it changed since the plan was made: plan again");
        let sent = [
            ".dockerignore 640",
            "Dockerfile 640",
            "README.md 640",
            "link 777",
            "src 755",
            "src/main 640",
        ];
        assert_eq!(names(&out), sent);
        assert_eq!(bases(root.path()), ["a/b:1", "c"]);
    }
}
