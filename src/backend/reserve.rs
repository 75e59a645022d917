//! Room that is set aside for records. A guest can fill the disk that the state folder is on; what
//! bottle has to write down then goes into files whose blocks it has had since before.
//!
//! They are not freed first: whoever fills the disk would have the room before the record has it.

#![expect(clippy::disallowed_methods, reason = "files of the state folder")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Name of the folder with the pieces, in the state folder.
pub const RESERVE: &str = ".reserve";
/// How many pieces there are.
const PIECES: usize = 32;
/// How long one is, and so a record that it can hold.
const PIECE: u64 = 64 << 10;
/// With less than this free, no more is set aside, and people are told.
pub const LOW: u64 = 32 << 20;

/// Sets aside what is missing, as long as there is room enough.
///
/// # Errors
/// When the folder cannot be read or written. That is no reason to do nothing.
pub fn keep(state: &Path) -> io::Result<()> {
    let folder = state.join(RESERVE);
    let there = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().count(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if there >= PIECES || free(state)? < LOW {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    for number in 0..PIECES {
        let path = folder.join(number.to_string());
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                if let Err(error) = allocate(&file, 0, PIECE, Length::Grows) {
                    fs::remove_file(&path)?;
                    return Err(error);
                }
            }
            // Of this run or of one at the same time.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives `path` the blocks of a piece, for `length` bytes; `None` where there is none that does.
pub(super) fn take(path: &Path, length: u64) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let here = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    let folder =
        here.ancestors().map(|above| above.join(RESERVE)).find(|folder| folder.is_dir())?;
    if length > PIECE {
        return None;
    }
    for number in 0..PIECES {
        // Only one of two that want the same piece gets it.
        if fs::rename(folder.join(number.to_string()), path).is_ok() {
            return OpenOptions::new().write(true).open(path).ok();
        }
    }
    None
}

/// How many bytes are free for this user on the file system of this path.
///
/// # Errors
/// When the kernel does not say.
pub fn free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether so little is free there that a sandbox, or the next record, may find nothing.
#[must_use]
pub fn is_low(path: &Path) -> bool {
    free(path).is_ok_and(|free| free < LOW)
}

/// Keeps so many bytes allocated behind the end of a file that grows, without making it longer.
pub(crate) fn keep_ahead(file: &File, bytes: u64) {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = file.metadata() else { return };
    if found.blocks().saturating_mul(512) < found.len() + bytes / 2 {
        // Where it cannot be, the file grows as all others do.
        let _ = allocate(file, found.len(), bytes, Length::Stays);
    }
}

/// Whether a file becomes longer by what is allocated for it.
enum Length {
    Grows,
    Stays,
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64, bytes: u64, length: Length) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    let flags = match length {
        Length::Grows => FallocateFlags::empty(),
        Length::Stays => FallocateFlags::KEEP_SIZE,
    };
    Ok(rustix::fs::fallocate(file, flags, from, bytes)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64, _: Length) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;

    fn pieces(state: &Path) -> PathBuf {
        state.join(RESERVE)
    }

    #[test]
    fn a_piece_becomes_a_record_with_its_blocks() {
        let state = tempfile::tempdir().unwrap();
        keep(state.path()).unwrap();
        keep(state.path()).unwrap();
        assert_eq!(fs::read_dir(pieces(state.path())).unwrap().count(), PIECES);
        let piece = fs::metadata(pieces(state.path()).join("0")).unwrap();
        assert!(piece.blocks() * 512 >= PIECE, "{piece:?}");
        let deep = state.path().join("trees/team");
        fs::create_dir_all(&deep).unwrap();
        let record = deep.join("record.new");
        assert!(take(&record, PIECE + 1).is_none());
        assert_eq!(take(&record, 5).unwrap().metadata().unwrap().ino(), piece.ino());
        assert_eq!(fs::read_dir(pieces(state.path())).unwrap().count(), PIECES - 1);
        keep(state.path()).unwrap();
        assert_eq!(fs::read_dir(pieces(state.path())).unwrap().count(), PIECES);
    }

    #[test]
    fn what_grows_has_room_ahead_and_is_no_longer_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for text in ["", "line\n"] {
            fs::write(&path, text).unwrap();
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            keep_ahead(&file, 1 << 20);
            let found = fs::metadata(&path).unwrap();
            assert_eq!(found.len(), text.len() as u64);
            assert!(found.blocks() * 512 >= 1 << 20, "{found:?}");
            file.write_all(b"more\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}more\n"));
        }
    }
}
