//! What lies in a folder, for a comparison: every file by its path, with what git calls its content. Git itself would
//! take a folder that has a `.git` for one thing, read what is long into memory, and change what attributes name.

#![expect(clippy::disallowed_methods, reason = "reads the files that are compared")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A file that is longer is no text that anybody reads a difference of.
pub(super) const LARGE: u64 = 64 << 20;

/// By path, from the folder on.
pub(super) type Files = BTreeMap<Vec<u8>, File>;

/// A file of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// As git writes it: `100644`.
    pub(super) mode: String,
    /// The name of its content.
    pub(super) id: String,
    /// Of what is longer than [`LARGE`] the content is in no repository of ours.
    pub(super) size: u64,
}

/// Something found, of which the content has no name yet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    pub(super) mode: &'static str,
    pub(super) size: u64,
    /// Where its content is read.
    pub(super) content: PathBuf,
}

/// A folder, looked through.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) found: Vec<Found>,
    /// What git takes into no index.
    pub(super) refused: Vec<Vec<u8>>,
}

/// Looks through a folder and follows no link; what a link says is written to a file in `links`, to be read as any
/// other. A `.git` belongs to a repository and not to the files, wherever it is.
pub(super) fn walk(folder: &Path, links: &Path) -> io::Result<Walked> {
    let mut walked = Walked::default();
    let mut rest = vec![PathBuf::new()];
    while let Some(below) = rest.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.eq_ignore_ascii_case(".git") {
                continue;
            }
            let path = below.join(&name);
            let kind = entry.file_type()?;
            if kind.is_dir() {
                rest.push(path);
                continue;
            }
            let bytes = path.as_os_str().as_bytes().to_vec();
            if kind.is_symlink() && name.eq_ignore_ascii_case(".gitmodules") {
                walked.refused.push(bytes);
            } else if kind.is_symlink() {
                let content = links.join(walked.found.len().to_string());
                fs::write(&content, fs::read_link(entry.path())?.into_os_string().into_vec())?;
                walked.found.push(Found { path: bytes, mode: "120000", size: 0, content });
            } else if kind.is_file() {
                let about = entry.metadata()?;
                let mode =
                    if about.permissions().mode() & 0o100 == 0 { "100644" } else { "100755" };
                let (size, content) = (about.len(), entry.path());
                walked.found.push(Found { path: bytes, mode, size, content });
            }
        }
    }
    Ok(walked)
}

/// A path as git reads it from a line, whatever is in it.
pub(super) fn quoted(path: &Path) -> Vec<u8> {
    let mut line = vec![b'"'];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if !b"\"\\".contains(byte) => line.push(*byte),
            _ => line.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    line.extend(b"\"\n");
    line
}

/// What `git ls-tree -r -l -z` says; and where other repositories stand, with their commits.
pub(super) fn tree(said: &[u8], below: &[u8]) -> (Files, Vec<(Vec<u8>, String)>) {
    let (mut files, mut repositories) = (Files::new(), Vec::new());
    for line in said.split(|byte| *byte == 0) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        let about = String::from_utf8_lossy(&line[..tab]);
        let mut words = about.split_ascii_whitespace();
        let (Some(mode), Some(_), Some(id)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let path = [below, &line[tab + 1..]].concat();
        if mode == "160000" {
            repositories.push((path, id.to_owned()));
            continue;
        }
        let size = words.next().and_then(|size| size.parse().ok()).unwrap_or_default();
        files.insert(path, File { mode: mode.to_owned(), id: id.to_owned(), size });
    }
    (files, repositories)
}

/// For `git update-index -z --index-info`.
pub(super) fn index(files: &Files) -> Vec<u8> {
    let line = |(path, file): (&Vec<u8>, &File)| {
        [format!("{} {}\t", file.mode, file.id).as_bytes(), path, b"\0"].concat()
    };
    files.iter().flat_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_with_what_stands_in_it() {
        let (a, c) = ("a".repeat(40), "c".repeat(40));
        let said = format!(
            "100755 blob {a}       3\td/x\ny\0120000 blob {a} 1234567\tbig\0160000 commit {c}       -\tsub\0"
        );
        let (files, repositories) = tree(said.as_bytes(), b"in/");
        assert_eq!(repositories, [(b"in/sub".to_vec(), c)]);
        assert_eq!(
            index(&files),
            format!("120000 {a}\tin/big\0100755 {a}\tin/d/x\ny\0").into_bytes()
        );
        assert_eq!(files[&b"in/big"[..]].size, 1_234_567);
        assert_eq!(quoted(Path::new("/a \"\\\n\u{fc}")), b"\"/a \\042\\134\\012\\303\\274\"\n");
    }
}
