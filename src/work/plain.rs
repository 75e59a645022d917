//! A tar as it comes from anywhere, made plainer for the library that reads it on.
//!
//! That reads pax headers by the line, and a name may have a line break; it fills holes with zeros,
//! however large they are; and it takes names and lists of holes of any length into memory. So long
//! names come out of here in the way of GNU's tar, and of a file with holes its data alone, with a note
//! where that belongs.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header, PaxExtensions};

const BLOCK: usize = 512;

/// No name, and no list of a pax header, is longer.
const LONGEST: u64 = 1 << 20;

/// Pieces of data of a file with holes: of more, nobody makes one without meaning harm.
const PIECES: usize = 1 << 20;

/// Of a file with holes: how long it is, and where its data belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// With its holes.
    pub(super) size: u64,
    /// Offset and length of each piece, one behind the other.
    pub(super) pieces: Vec<(u64, u64)>,
}

/// What the entry that was read last is to be made into.
#[derive(Clone, Default)]
pub(super) struct Holes(Rc<RefCell<Option<Sparse>>>);

impl Holes {
    /// Of the entry at hand; `None`: it has no holes.
    pub(super) fn take(&self) -> Option<Sparse> {
        self.0.borrow_mut().take()
    }
}

/// The plainer archive. It never reads ahead of what it hands on.
pub(super) struct Plain<R> {
    from: R,
    /// What comes next, and how much of it is gone.
    ready: Vec<u8>,
    gone: usize,
    /// So much is handed on as it is.
    content: u64,
    /// The size that a pax header gives to the next entry.
    size: Option<u64>,
    holes: Holes,
}

impl<R: Read> Plain<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, ready: Vec::new(), gone: 0, content: 0, size: None, holes: Holes::default() }
    }

    pub(super) fn holes(&self) -> Holes {
        self.holes.clone()
    }

    /// Reads the next header, and what belongs to it. False at the end.
    fn header(&mut self) -> io::Result<bool> {
        let mut block = [0; BLOCK];
        let count = fill(&mut self.from, &mut block)?;
        (self.ready, self.gone) = (block[..count].to_vec(), 0);
        if count < BLOCK || block.iter().all(|byte| *byte == 0) {
            // The end, or half a header: the rest is nobody's.
            self.content = u64::MAX;
            return Ok(count > 0);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        // What the library refuses, it is to refuse.
        let Ok(size) = header.entry_size() else {
            self.content = u64::MAX;
            return Ok(true);
        };
        match header.entry_type() {
            EntryType::XHeader => {
                let list = self.list(size)?;
                self.pax(&header, &list)?;
            }
            EntryType::GNULongName | EntryType::GNULongLink => {
                bounded(size)?;
                self.content = padded(size)?;
            }
            EntryType::GNUSparse if header.as_gnu().is_some() => {
                let size = self.size.take().unwrap_or(size);
                let sparse = self.sparse(&header, size)?;
                let mut plain = header.clone();
                plain.set_entry_type(EntryType::Regular);
                plain.set_cksum();
                self.ready = plain.as_bytes().to_vec();
                self.content = padded(size)?;
                *self.holes.0.borrow_mut() = Some(sparse);
            }
            EntryType::XGlobalHeader => self.content = padded(size)?,
            _ => {
                self.content = padded(self.size.take().unwrap_or(size))?;
                *self.holes.0.borrow_mut() = None;
            }
        }
        Ok(true)
    }

    /// What follows a header, with what fills up its last block.
    fn list(&mut self, size: u64) -> io::Result<Vec<u8>> {
        bounded(size)?;
        let mut list = vec![0; usize::try_from(padded(size)?).map_err(io::Error::other)?];
        let count = fill(&mut self.from, &mut list)?;
        if count < list.len() {
            return Err(broken("the archive breaks off in a header"));
        }
        Ok(list)
    }

    /// Hands a pax header on; with names that have line breaks as headers of their own.
    fn pax(&mut self, header: &Header, list: &[u8]) -> io::Result<()> {
        let length = usize::try_from(header.entry_size()?).map_err(io::Error::other)?;
        let list_alone = &list[..length];
        let records = records(list_alone);
        let broken_up = |(_, record): &(&[u8], &[u8])| record[..record.len() - 1].contains(&b'\n');
        let Some(records) = records.filter(|records| records.iter().any(broken_up)) else {
            self.size = size_of(list_alone);
            self.ready.extend_from_slice(list);
            return Ok(());
        };
        let mut ready = Vec::new();
        let mut rest = Vec::new();
        for (key, record) in &records {
            let value = || {
                let begin = memchr::memchr(b'=', record).map_or(record.len(), |at| at + 1);
                &record[begin..record.len() - 1]
            };
            match *key {
                b"path" => long(&mut ready, EntryType::GNULongName, value()),
                b"linkpath" => long(&mut ready, EntryType::GNULongLink, value()),
                // Of others none matters that has one.
                _ if broken_up(&(key, record)) => {}
                _ => rest.extend_from_slice(record),
            }
        }
        self.size = size_of(&rest);
        if !rest.is_empty() {
            let mut header = header.clone();
            header.set_size(rest.len() as u64);
            header.set_cksum();
            ready.extend_from_slice(header.as_bytes());
            with_padding(&mut ready, &rest);
        }
        self.ready = ready;
        Ok(())
    }

    /// Reads where the data of a file with holes belongs.
    fn sparse(&mut self, header: &Header, size: u64) -> io::Result<Sparse> {
        let wrong = || broken("the list of a file's holes is wrong");
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let mut sparse = Sparse { size: gnu.real_size()?, pieces: Vec::new() };
        let (mut end, mut stored) = (0u64, 0u64);
        let mut add = |piece: &GnuSparseHeader| -> io::Result<()> {
            if piece.is_empty() {
                return Ok(());
            }
            let (offset, length) = (piece.offset()?, piece.length()?);
            if offset < end || sparse.pieces.len() >= PIECES {
                return Err(wrong());
            }
            end = offset.checked_add(length).ok_or_else(wrong)?;
            stored = stored.checked_add(length).ok_or_else(wrong)?;
            if length > 0 {
                sparse.pieces.push((offset, length));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut next = GnuExtSparseHeader::new();
            blocks += 1;
            if fill(&mut self.from, next.as_mut_bytes())? < BLOCK || blocks > PIECES {
                return Err(wrong());
            }
            next.sparse.iter().try_for_each(&mut add)?;
            more = next.is_extended();
        }
        if stored != size || end > sparse.size {
            return Err(wrong());
        }
        Ok(sparse)
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if self.gone < self.ready.len() {
                let count = into.len().min(self.ready.len() - self.gone);
                into[..count].copy_from_slice(&self.ready[self.gone..self.gone + count]);
                self.gone += count;
                return Ok(count);
            }
            if self.content > 0 {
                let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(into.len());
                let count = self.from.read(&mut into[..most])?;
                self.content -= count as u64;
                return Ok(count);
            }
            if !self.header()? {
                return Ok(0);
            }
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn bounded(size: u64) -> io::Result<()> {
    if size > LONGEST {
        return Err(broken("a name or a header in the archive is longer than any"));
    }
    Ok(())
}

fn padded(size: u64) -> io::Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
        .ok_or_else(|| broken("a size in the archive is wrong"))
}

/// Fills a buffer as far as there is something.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// The records of a pax header: the key, and all of it. `None` where it is none.
fn records(mut list: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !list.is_empty() {
        let space = memchr::memchr(b' ', list)?;
        let length: usize = std::str::from_utf8(&list[..space]).ok()?.parse().ok()?;
        let record = list.get(..length).filter(|record| record.len() > space + 1)?;
        let (body, end) = (&record[space + 1..], record[length - 1]);
        let key = &body[..memchr::memchr(b'=', body)?];
        if end != b'\n' {
            return None;
        }
        records.push((key, record));
        list = &list[length..];
    }
    Some(records)
}

/// The size that the library will find in this list.
fn size_of(list: &[u8]) -> Option<u64> {
    for record in PaxExtensions::new(list) {
        let record = record.ok()?;
        if record.key_bytes() == b"size" {
            return record.value().ok()?.parse().ok();
        }
    }
    None
}

/// Adds a header that says one long name.
fn long(to: &mut Vec<u8>, kind: EntryType, name: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
    header.set_size(name.len() as u64 + 1);
    header.set_cksum();
    to.extend_from_slice(header.as_bytes());
    with_padding(to, &[name, b"\0"].concat());
}

fn with_padding(to: &mut Vec<u8>, content: &[u8]) {
    to.extend_from_slice(content);
    to.resize(to.len().next_multiple_of(BLOCK), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(list: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(list.len() as u64);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        with_padding(&mut tar, list);
        tar
    }

    fn file(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        with_padding(tar, content);
    }

    fn names(tar: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut archive = tar::Archive::new(Plain::new(tar));
        let entries = archive.entries().unwrap();
        let one = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            let name = entry.path_bytes().into_owned();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        };
        entries.map(one).collect()
    }

    #[test]
    fn a_name_with_a_line_break_is_read_whole() {
        let mut tar = pax(b"13 mtime=1.5\n12 path=a\nb\n15 comment=a\nb\n");
        file(&mut tar, "short", b"one");
        // Lengths are counted, not lines: a value may look like a record.
        let mut more = pax(b"23 path=a\n13 path=evil\n10 size=2\n");
        file(&mut more, "short", b"no");
        tar.extend(more);
        file(&mut tar, "plain", b"three");
        let found = names(&tar);
        assert_eq!((&*found[0].0, &*found[1].0), (&b"a\nb"[..], &b"a\n13 path=evil"[..]));
        assert_eq!(
            (&*found[0].1, &*found[1].1, &*found[2].1),
            (&b"one"[..], &b"no"[..], &b"three"[..])
        );
        assert_eq!(found[2].0, b"plain");
    }

    #[test]
    fn what_would_fill_memory_is_refused() {
        for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 40);
            header.set_cksum();
            let mut plain = Plain::new(header.as_bytes().chain(io::repeat(b'x')));
            let error = io::copy(&mut plain, &mut io::sink()).unwrap_err();
            assert!(error.to_string().contains("longer than any"), "{error}");
        }
    }

    #[test]
    fn a_list_of_holes_that_does_not_hold_is_refused() {
        let sparse = |real: u64, size: u64, pieces: &[(u64, u64)]| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::GNUSparse);
            header.set_size(size);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(real);
            for (to, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
                to.set_offset(*offset);
                to.set_length(*length);
            }
            header.set_cksum();
            let mut plain = Plain::new(header.as_bytes().chain(io::repeat(0).take(1024)));
            let holes = plain.holes();
            io::copy(&mut plain, &mut io::sink()).map(|_| holes.take())
        };
        let good = sparse(1 << 40, 2, &[(512, 1), (1 << 39, 1)]).unwrap();
        assert_eq!(good.unwrap().pieces, [(512, 1), (1 << 39, 1)]);
        for (real, size, pieces) in [
            (10, 2, &[(0, 1), (20, 1)][..]),
            (10, 3, &[(0, 1), (5, 1)]),
            (10, 2, &[(5, 1), (0, 1)]),
            (10, 2, &[(0, 2), (1, 0)]),
            (u64::MAX, 2, &[(u64::MAX, 2)]),
        ] {
            assert!(sparse(real, size, pieces).is_err(), "{real} {size} {pieces:?}");
        }
    }
}
