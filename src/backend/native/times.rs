//! When the command wrote what: beside each file of the log one of entries, 16 bytes each: from which byte on,
//! and the time in milliseconds since the epoch, both little-endian. The log itself stays as it was written.

#![expect(clippy::disallowed_methods, reason = "the index is a file, and the clock is read")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::Moment;

/// How long an entry is.
const ENTRY: u64 = 16;

/// How many entries one file may have: 4 MiB of them. The log turns when they are used up, which takes a
/// command that writes less than 16 bytes a millisecond, hours long.
const MOST: u64 = (4 << 20) / ENTRY;

/// What is written from a byte on was written at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) at: Moment,
}

/// Init's side.
pub(super) struct Index {
    file: File,
    entries: u64,
    last: Option<Moment>,
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Index {
    /// Goes on with a file that speaks of a log of this length. One that says something else speaks of another
    /// one, and begins anew.
    pub(super) fn over(mut file: File, length: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut entries = size / ENTRY;
        let known = read(&mut file, entries.saturating_sub(1), MOST)?;
        let fits = known.last().is_none_or(|last| last.offset <= length);
        if !fits || entries > MOST {
            entries = 0;
        }
        if entries * ENTRY != size {
            file.set_len(entries * ENTRY)?;
        }
        Ok(Self { file, entries, last: None })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries >= MOST
    }

    /// Notes that what is written from `offset` on is written now. Before it is, so that nobody reads a line
    /// of which no time is known.
    pub(super) fn note(&mut self, offset: u64) {
        let now = now();
        if self.last == Some(now) || self.is_full() {
            return;
        }
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&offset.to_le_bytes());
        entry[8..].copy_from_slice(&now.0.to_le_bytes());
        if self.file.write_all(&entry).is_ok() {
            self.entries += 1;
            self.last = Some(now);
        } else {
            // On a full disk a part of it may have been written.
            let _ = self.file.set_len(self.entries * ENTRY);
        }
    }

    /// Gives all to the file beside it, and begins anew.
    pub(super) fn turn(&mut self, before: &mut File) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut self.file, before);
        self.file.set_len(0)?;
        (self.entries, self.last) = (0, None);
        copied.map(drop)
    }
}

/// The entries of a file from this one on.
pub(super) fn read(file: &mut File, from: u64, most: u64) -> io::Result<Vec<Entry>> {
    file.seek(SeekFrom::Start(from.saturating_mul(ENTRY)))?;
    let mut bytes = Vec::new();
    file.take(most * ENTRY).read_to_end(&mut bytes)?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let entries = bytes.chunks_exact(16);
    Ok(entries.map(|e| Entry { offset: number(&e[..8]), at: Moment(number(&e[8..])) }).collect())
}

/// All entries of a file.
pub(super) fn all(file: &mut File) -> io::Result<Vec<Entry>> {
    read(file, 0, MOST)
}

/// The pieces of `bytes`, which stand in the log from `offset` on, each with its time.
pub(super) fn pieces<'a>(
    entries: &'a [Entry],
    offset: u64,
    bytes: &'a [u8],
) -> impl Iterator<Item = (Option<Moment>, &'a [u8])> {
    let first = entries.partition_point(|entry| entry.offset <= offset);
    let mut at = 0;
    let mut time = first.checked_sub(1).map(|before| entries[before].at);
    let ends = entries[first..].iter().map(Some).chain([None]);
    ends.map_while(move |next| {
        if at >= bytes.len() {
            return None;
        }
        let end = next.map_or(bytes.len(), |next| {
            usize::try_from(next.offset - offset).unwrap_or(usize::MAX).clamp(at, bytes.len())
        });
        let piece = (time, &bytes[at..end]);
        (at, time) = (end, next.map(|next| next.at));
        Some(piece)
    })
    .filter(|(_, piece)| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_has_its_time() {
        let entry = |offset, at| Entry { offset, at: Moment(at) };
        let entries = [entry(2, 10), entry(4, 20), entry(4, 30), entry(9, 40)];
        let found = |offset: u64, bytes: &str| -> Vec<(Option<u64>, String)> {
            pieces(&entries, offset, bytes.as_bytes())
                .map(|(at, b)| (at.map(|at| at.0), String::from_utf8(b.to_vec()).unwrap()))
                .collect()
        };
        let piece = |at: Option<u64>, text: &str| (at, text.to_owned());
        let all = vec![piece(None, "ab"), piece(Some(10), "cd"), piece(Some(30), "efghi")];
        assert_eq!(found(0, "abcdefghi"), all);
        assert_eq!(found(3, "de"), [piece(Some(10), "d"), piece(Some(30), "e")]);
        assert_eq!(found(20, "x"), [piece(Some(40), "x")]);
        assert_eq!(found(0, ""), []);
        assert_eq!(pieces(&[], 0, b"x").count(), 1);
    }

    #[test]
    fn an_index_of_another_log_begins_anew_and_half_an_entry_goes() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let path = folder.path().join("times");
            File::options().create(true).read(true).append(true).open(path).unwrap()
        };
        let mut index = Index::over(open(), 0).unwrap();
        index.note(7);
        open().write_all(b"half").unwrap();
        let kept = Index::over(open(), 7).unwrap();
        assert_eq!((kept.entries, open().metadata().unwrap().len()), (1, 16));
        assert_eq!(all(&mut open()).unwrap()[0].offset, 7);
        let other = Index::over(open(), 6).unwrap();
        assert_eq!((other.entries, open().metadata().unwrap().len()), (0, 0));
    }
}
