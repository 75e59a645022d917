//! The program that sidecars are: this one.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::SpecHash;

/// The program, and what is known of its content.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Program {
    path: PathBuf,
    known: Arc<Mutex<Option<Build>>>,
}

/// One build of the program: its digest, and the file that had it. While the file is the same, its
/// content is not read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build {
    pub(super) digest: SpecHash,
    file: Stamp,
}

/// What changes with a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Default for Program {
    fn default() -> Self {
        Self::this()
    }
}

impl Program {
    /// The running program, also when its file was replaced since.
    pub(in crate::backend) fn this() -> Self {
        Self::at(Path::new("/proc/self/exe"))
    }

    /// Another build of it, for tests: the running program is theirs.
    pub(in crate::backend) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), known: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let file = std::fs::metadata(&self.path)?;
        Ok(Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }

    /// What the program is now. `before` is believed of a file that has not changed since.
    pub(super) fn build(&self, before: Option<&Build>) -> io::Result<Build> {
        let stamp = self.stamp()?;
        if let Some(before) = before.filter(|before| before.file == stamp) {
            return Ok(before.clone());
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.file == stamp) {
            return Ok(known.clone());
        }
        let build = Build { digest: digest(&self.path)?, file: stamp };
        *known = Some(build.clone());
        Ok(build)
    }
}

fn digest(path: &Path) -> io::Result<SpecHash> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(SpecHash::from_digest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "one").unwrap();
        let program = Program::at(&path);
        let one = program.build(None).unwrap();
        assert_eq!(one.digest, SpecHash::of_bytes(b"one"));
        // The same content in another file is the same program.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "one").unwrap();
        assert_eq!(program.build(Some(&one)).unwrap().digest, one.digest);
        std::fs::write(&path, "two").unwrap();
        assert_ne!(program.build(Some(&one)).unwrap().digest, one.digest);
        // A file that has not changed is not read.
        let told = Build { digest: one.digest, file: program.stamp().unwrap() };
        assert_eq!(program.build(Some(&told)).unwrap().digest, one.digest);
    }
}
