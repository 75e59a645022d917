//! Files with holes, as GNU's tar writes them: where their data belongs, and then the data alone. A
//! hole of a terabyte would else be read as zeros for ever.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, Header};

/// Smaller holes, all in all, are zeros like any others.
const SMALL: u64 = 1 << 20;

/// So many pieces of data are told; what comes behind them is one, with its holes.
const MOST: usize = 1 << 16;

/// Offset and length of each piece of data; `None` where the holes are no matter.
pub(super) fn pieces(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let mut pieces = Vec::new();
    let (mut at, mut stored) = (0, 0);
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // No data any more.
            Err(Errno::NXIO) => break,
            // A file system that does not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
            Ok(end) if pieces.len() + 1 < MOST => end.min(size),
            _ => size,
        };
        // It may be written to meanwhile.
        if begin >= end || begin < at {
            break;
        }
        pieces.push((begin, end - begin));
        stored += end - begin;
        at = end;
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok((size - stored >= SMALL).then_some(pieces))
}

/// Makes the header that of a file with holes. Returns what follows it.
pub(super) fn told(
    header: &mut Header,
    file: File,
    size: u64,
    mut pieces: Vec<(u64, u64)>,
) -> io::Result<impl Read + use<>> {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(pieces.iter().map(|(_, length)| length).sum());
    // A hole at the end is told by a piece of nothing behind it.
    if pieces.last().is_none_or(|(begin, length)| begin + length < size) {
        pieces.push((size, 0));
    }
    let gnu = header.as_gnu_mut().ok_or_else(|| io::Error::other("no header of GNU's tar"))?;
    gnu.set_real_size(size);
    let told = pieces.len().min(gnu.sparse.len());
    for (to, (begin, length)) in gnu.sparse.iter_mut().zip(&pieces) {
        to.set_offset(*begin);
        to.set_length(*length);
    }
    gnu.set_is_extended(pieces.len() > told);
    let mut more = Vec::new();
    let mut rest = &pieces[told..];
    while !rest.is_empty() {
        let mut next = GnuExtSparseHeader::new();
        let (here, behind) = rest.split_at(rest.len().min(next.sparse.len()));
        for (to, (begin, length)) in next.sparse.iter_mut().zip(here) {
            to.set_offset(*begin);
            to.set_length(*length);
        }
        next.set_is_extended(!behind.is_empty());
        more.extend_from_slice(next.as_bytes());
        rest = behind;
    }
    Ok(Cursor::new(more).chain(Data { file, pieces: pieces.into_iter(), at: 0, left: 0 }))
}

/// The data of a file, piece by piece. Exactly as much as was told, also of a file that shrinks.
struct Data {
    file: File,
    pieces: std::vec::IntoIter<(u64, u64)>,
    at: u64,
    left: u64,
}

impl Read for Data {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some((begin, length)) = self.pieces.next() else { return Ok(0) };
            (self.at, self.left) = (begin, length);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = &mut into[..most];
        let count = match self.file.read_at(into, self.at)? {
            0 => {
                into.fill(0);
                most
            }
            count => count,
        };
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
