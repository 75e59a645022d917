//! The one way in which a record is written that cannot be made again: under a temporary name, synced,
//! renamed, and the folder synced. After a power cut it is there as a whole, or as it was before.

#![expect(clippy::disallowed_methods, reason = "records are files of the state folder")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::reserve;

/// Nobody waits for a FIFO that lies in a record's place.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Whether what is written must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It must: the file and its folder are synced.
    Durably,
    /// Losing it costs nothing but doing something again.
    Cheaply,
}

/// Writes a file of ours, 0600, whole or not at all.
///
/// # Errors
/// When it cannot be written; what was there before is still there then.
pub fn write(path: &Path, bytes: &[u8], keep: Keep) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = match replace(path, &temporary, bytes, keep) {
        // What is set aside for this is enough for a record.
        Err(error) if is_full(&error) => {
            instead(path, &temporary, bytes, keep).unwrap_or(Err(error))
        }
        written => written,
    };
    if written.is_err() {
        // On a full disk, the piece that was written is what is in the way.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|error| about(path, &error))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn replace(path: &Path, temporary: &Path, bytes: &[u8], keep: Keep) -> io::Result<()> {
    clear_way(temporary)?;
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(temporary)?;
    finish(file, path, temporary, bytes, keep)
}

/// The same, in the blocks of what was set aside.
fn instead(path: &Path, temporary: &Path, bytes: &[u8], keep: Keep) -> Option<io::Result<()>> {
    let file = reserve::take(temporary, bytes.len() as u64)?;
    let cut = |file: File| file.set_len(bytes.len() as u64).map(|()| file);
    Some(cut(file).and_then(|file| finish(file, path, temporary, bytes, keep)))
}

fn finish(
    mut file: File,
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
    keep: Keep,
) -> io::Result<()> {
    file.write_all(bytes)?;
    if keep == Keep::Durably {
        file.sync_all()?;
    }
    clear_way(path)?;
    fs::rename(temporary, path)?;
    if keep == Keep::Durably {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// The same, of a value as JSON.
///
/// # Errors
/// See [`write()`].
pub fn write_json<T: Serialize>(path: &Path, value: &T, keep: Keep) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| about(path, &error.into()))?;
    write(path, &bytes, keep)
}

/// Reads a record; `None` where there is none. What is there and cannot be read is an error that names
/// the file: an empty file, half of one, and other bytes are [`io::ErrorKind::InvalidData`].
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    if bytes.is_empty() {
        return Err(damaged(path, "it is empty"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error.to_string()))
}

/// Reads a record as it is; `None` where there is none. What lies in its place and is no file is damage.
///
/// # Errors
/// See [`read_json()`].
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(NONBLOCK).open(path);
    let found = match &opened {
        Ok(file) => file.metadata(),
        // A socket cannot be opened.
        Err(_) => fs::metadata(path),
    };
    match (opened, found) {
        (_, Ok(found)) if !found.is_file() => Err(damaged(path, in_its_place(&found))),
        (Ok(mut file), Ok(_)) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|error| about(path, &error))?;
            Ok(Some(bytes))
        }
        (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        (Err(error), _) | (_, Err(error)) => Err(about(path, &error)),
    }
}

fn in_its_place(found: &fs::Metadata) -> &'static str {
    if found.is_dir() { "a folder is in its place" } else { "what is in its place is no file" }
}

/// Takes away what is in the way of a file of ours that can be made again: an empty folder, a link that
/// leads nowhere, a FIFO.
///
/// # Errors
/// When it cannot be taken away: a folder with something in it is somebody's.
pub fn clear_way(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let cleared = if found.is_dir() {
        fs::remove_dir(path)
    } else if !fs::metadata(path).is_ok_and(|there| there.is_file()) {
        fs::remove_file(path)
    } else {
        return Ok(());
    };
    cleared.map_err(|error| {
        let what = in_its_place(&found);
        let kind = error.kind();
        io::Error::new(kind, format!("{}: {what}: move it away ({error})", path.display()))
    })
}

/// Opens a file that is only ever locked, making it where it is missing.
///
/// # Errors
/// When it cannot be opened.
pub fn lock_file(path: &Path) -> io::Result<File> {
    clear_way(path)?;
    let open = || {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
    };
    let opened = match open() {
        // Our own, whose mode somebody took away: nothing in it is worth keeping from us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).and_then(|()| open())
        }
        opened => opened,
    };
    opened.map_err(|error| about(path, &error))
}

/// An error that says what is wrong with the content of a file.
pub fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {what}", path.display()))
}

/// An error that names its file.
pub(super) fn about(path: &Path, error: &io::Error) -> io::Error {
    let (name, text) = (path.display().to_string(), error.to_string());
    let text = if text.contains(&name) { text } else { format!("{name}: {text}") };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_names_its_file_and_is_not_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        for damage in ["", "4", "{", "\u{0}\u{1}"] {
            fs::write(&path, damage).unwrap();
            let found = read_json::<Vec<u32>>(&path).unwrap_err();
            assert_eq!(found.kind(), io::ErrorKind::InvalidData, "{damage:?}");
            assert!(found.to_string().contains("record.json is damaged"), "{found}");
        }
        write_json(&path, &[7], Keep::Durably).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![7]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary stays");
    }

    #[test]
    fn what_lies_in_its_place_is_damage_and_makes_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        let fifo = || rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let dir = || fs::create_dir(&path).unwrap();
        let link = || std::os::unix::fs::symlink("/nonexistent/bottle", &path).unwrap();
        for (made, damage) in [(&fifo as &dyn Fn(), true), (&dir, true), (&link, false)] {
            made();
            let found = read_json::<u32>(&path);
            assert_eq!(found.is_err(), damage, "{found:?}");
            assert!(found.is_ok() || found.unwrap_err().kind() == io::ErrorKind::InvalidData);
            lock_file(&path).unwrap();
            fs::remove_file(&path).unwrap();
            made();
            write_json(&path, &7, Keep::Durably).unwrap();
            assert_eq!(read_json::<u32>(&path).unwrap(), Some(7));
            fs::remove_file(&path).unwrap();
        }
        // Not what holds something: that is named.
        dir();
        fs::write(path.join("x"), "").unwrap();
        let error = write_json(&path, &7, Keep::Durably).unwrap_err().to_string();
        assert!(error.contains("record.json") && error.contains("move it away"), "{error}");
        assert!(path.join("x").exists());
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write_json(&path, &1, Keep::Durably).unwrap();
        fs::create_dir_all(folder.path().join("record.json.new/x")).unwrap();
        let error = write_json(&path, &2, Keep::Durably).unwrap_err().to_string();
        assert!(error.contains("record.json"), "{error}");
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(1));
    }
}
