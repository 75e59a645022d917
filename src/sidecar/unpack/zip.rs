//! A zip as it comes: member after member, by the headers before them, and the directory at its end.

use super::Sink;
use super::inflate::Inflate;
use crate::sidecar::dlp::Unscanned;
use crate::sidecar::dlp::coding::{Coding, Unscannable};

const CORRUPT: Unscannable = Unscannable::Corrupt(Coding::RawDeflate);

/// The length of a header without its name.
const HEADER: usize = 30;

#[derive(Default)]
pub(super) struct Zip {
    place: Place,
    /// What has come of a header, or of what is behind a member.
    begin: Vec<u8>,
    /// Why a member was not looked into: the first reason.
    reason: Option<Unscanned>,
    /// The entry of the directory that is passed on.
    entry: Option<Entry>,
}

/// How much of an entry of the directory was passed on, and how long its fields are.
#[derive(Default)]
struct Entry {
    passed: usize,
    lengths: [u8; 6],
}

impl Entry {
    fn take(&mut self, byte: u8) {
        if let Some(length) = self.passed.checked_sub(28).and_then(|at| self.lengths.get_mut(at)) {
            *length = byte;
        }
        self.passed += 1;
    }

    /// Whether a field begins here.
    fn is_break(&self) -> bool {
        let Some(fields) = self.passed.checked_sub(46) else { return false };
        let [name, more, ..] = self.lengths.as_chunks().0 else { return false };
        let [name, more] = [name, more].map(|length| usize::from(u16::from_le_bytes(*length)));
        fields == 0 || fields == name || fields == name + more
    }
}

#[derive(Default)]
enum Place {
    /// Before a member or the directory.
    #[default]
    Header,
    /// So many bytes that are given as they stand.
    Plain(u64),
    /// A member, and how long what is behind it is, if anything, without its mark.
    Deflated(Box<Inflate>, Option<usize>),
    /// So many bytes, and four more if they begin with their mark.
    Descriptor(usize),
    /// The directory. What has come of a mark is in `begin`.
    Directory,
    /// What is behind that mark, with the length of a comment at its end.
    End,
    /// So many bytes of a comment.
    Comment(usize),
    Ended,
}

/// Stands behind a field: what follows it begins no word there.
const BREAK: &[u8] = b"\n";

/// The length of the end of a directory without its mark.
const END: usize = 18;

impl Zip {
    pub(super) const fn reason(&self) -> Option<Unscanned> {
        self.reason
    }

    pub(super) const fn is_whole(&self) -> bool {
        matches!(self.place, Place::Directory | Place::Ended)
    }

    /// Says how much of these bytes belongs to it.
    pub(super) fn push(&mut self, all: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        let mut bytes = all;
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Header => {
                    let Some(rest) = self.fill(bytes, 4) else { return Ok(all.len()) };
                    bytes = rest;
                    match self.begin[..4] {
                        [b'P', b'K', 3, 4] => {}
                        [b'P', b'K', 1, 2] | [b'P', b'K', 5, 6] | [b'P', b'K', 6, 6] => {
                            let mark = std::mem::take(&mut self.begin);
                            self.place = Place::Directory;
                            self.directory(&mark, sink)?;
                            continue;
                        }
                        _ => return Err(CORRUPT),
                    }
                    let Some(rest) = self.fill(bytes, HEADER) else { return Ok(all.len()) };
                    let names = self.number(26, 2) + self.number(28, 2);
                    let names = usize::try_from(names).unwrap_or(usize::MAX);
                    let Some(rest) = self.fill(rest, HEADER + names) else { return Ok(all.len()) };
                    bytes = rest;
                    self.place = self.member()?;
                    let name = HEADER + usize::try_from(self.number(26, 2)).unwrap_or(0);
                    let header = std::mem::take(&mut self.begin);
                    for field in [header.get(HEADER..name), header.get(name..)] {
                        sink(field.unwrap_or_default())?;
                        sink(BREAK)?;
                    }
                }
                Place::Plain(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= now as u64;
                    if *left == 0 {
                        self.place = Place::Header;
                    }
                    sink(&bytes[..now])?;
                    bytes = &bytes[now..];
                }
                Place::Deflated(inflate, behind) => {
                    let taken = inflate.some(bytes, sink, &CORRUPT)?;
                    bytes = &bytes[taken..];
                    if inflate.ended() {
                        self.place = behind.map_or(Place::Header, Place::Descriptor);
                    } else if taken == 0 {
                        return Err(CORRUPT);
                    }
                }
                Place::Descriptor(length) => {
                    let length = *length;
                    let Some(rest) = self.fill(bytes, 4) else { return Ok(all.len()) };
                    let marked = self.begin[..4] == *b"PK\x07\x08";
                    let whole = if marked { length + 4 } else { length };
                    let Some(rest) = self.fill(rest, whole) else { return Ok(all.len()) };
                    bytes = rest;
                    self.begin.clear();
                    self.place = Place::Header;
                }
                Place::Directory => bytes = &bytes[self.directory(bytes, sink)?..],
                Place::End => {
                    let Some(rest) = self.fill(bytes, END) else { return Ok(all.len()) };
                    bytes = rest;
                    let comment = usize::try_from(self.number(END - 2, 2)).unwrap_or(0);
                    sink(&std::mem::take(&mut self.begin))?;
                    self.place = Place::Comment(comment);
                }
                Place::Comment(left) => {
                    let now = bytes.len().min(*left);
                    *left -= now;
                    sink(&bytes[..now])?;
                    bytes = &bytes[now..];
                }
                Place::Ended => return Ok(all.len() - bytes.len()),
            }
            // A member without a byte has ended.
            match self.place {
                Place::Plain(0) => self.place = Place::Header,
                Place::Comment(0) => self.place = Place::Ended,
                _ => {}
            }
        }
        Ok(all.len())
    }

    /// Passes on what is of the directory, to the mark of its end; says how much that is. Names, comments and
    /// marks stand right behind each other: there are breaks between.
    fn directory(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<usize, Unscannable> {
        // What came of a mark is passed on when it is known whether it is one.
        let mut passed = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if let Some(entry) = &mut self.entry {
                if self.begin.is_empty() && entry.is_break() {
                    sink(&bytes[passed..at])?;
                    sink(BREAK)?;
                    passed = at;
                }
                entry.take(byte);
            }
            let marks = match (&self.begin[..], byte) {
                ([], b'P') | ([_], b'K') | ([_, _], 1 | 5) => true,
                ([.., before], byte) => self.begin.len() == 3 && byte == before + 1,
                _ => false,
            };
            if !marks && !self.begin.is_empty() {
                sink(&self.begin)?;
                self.begin.clear();
                passed = at;
            }
            if !marks && byte != b'P' {
                continue;
            }
            if self.begin.is_empty() {
                sink(&bytes[passed..at])?;
            }
            passed = at + 1;
            self.begin.push(byte);
            if self.begin.len() == 4 {
                sink(BREAK)?;
                sink(&self.begin)?;
                let ends = byte == 6;
                self.begin.clear();
                self.entry = Some(Entry { passed: 4, ..Entry::default() });
                if ends {
                    self.place = Place::End;
                    return Ok(at + 1);
                }
            }
        }
        sink(&bytes[passed..])?;
        Ok(bytes.len())
    }

    /// Makes what has come so long, and gives what is left; none: it takes more.
    fn fill<'b>(&mut self, bytes: &'b [u8], length: usize) -> Option<&'b [u8]> {
        let (now, later) = bytes.split_at(bytes.len().min(length.saturating_sub(self.begin.len())));
        self.begin.extend_from_slice(now);
        (self.begin.len() >= length).then_some(later)
    }

    /// A little-endian number.
    fn number(&self, at: usize, width: usize) -> u64 {
        let bytes = self.begin.get(at..at + width).unwrap_or_default();
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// What follows the header that is there.
    fn member(&mut self) -> Result<Place, Unscannable> {
        let (flags, method) = (self.number(6, 2), self.number(8, 2));
        let large = self.large();
        let size = match (self.number(18, 4), large) {
            (0xffff_ffff, Some(at)) => self.number(at + 8, 8),
            (size, _) => size,
        };
        let (encrypted, later) = (flags & 1 != 0, flags & 8 != 0);
        let why = match method {
            _ if encrypted => Some(Unscanned::Encrypted),
            0 | 8 => None,
            _ => Some(Unscanned::Format),
        };
        self.reason = self.reason.or(why);
        let behind = later.then_some(if large.is_some() { 20 } else { 12 });
        match (method, why) {
            (8, None) => Ok(Place::Deflated(Box::new(Inflate::new(false)), behind)),
            // Where it ends stands behind it.
            _ if later && size == 0 => Err(CORRUPT),
            _ => Ok(Place::Plain(size + behind.map_or(0, |length| length as u64 + 4))),
        }
    }

    /// Where the sizes of eight bytes stand, if it has such.
    fn large(&self) -> Option<usize> {
        let mut at = HEADER + usize::try_from(self.number(26, 2)).unwrap_or(0);
        while at + 4 <= self.begin.len() {
            if self.number(at, 2) == 1 {
                return Some(at + 4);
            }
            at += 4 + usize::try_from(self.number(at + 2, 2)).unwrap_or(0);
        }
        None
    }
}
