//! Bodies that are archives or compressed files: what they hold is scanned too.
//!
//! A tar needs nothing of its own: its members stand in it as they are.

use std::sync::Arc;

use time::Date;

use super::coding::{self, Coding, Limits, Unscannable};
use super::scanner::{Finding, Scanner};

/// Archives within archives.
const DEPTH: usize = 2;

/// A member that is itself an archive is looked into up to this size.
const INNER: usize = 4 << 20;

/// Members of one archive that are looked into.
const MEMBERS: usize = 10_000;

/// What a whole body holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What must not leave, each once.
    pub findings: Vec<Finding>,
    /// Something in it could not be looked into: a format that is not known, or broken.
    pub unscanned: bool,
}

/// One scan of one body: what it found, and how much it may still decode.
struct Scan<'s> {
    scanner: &'s Arc<Scanner>,
    host: &'s str,
    today: Date,
    limits: Limits,
    left: u64,
    report: Report,
}

impl Scanner {
    /// Everything in a whole body that must not leave, its codings taken off, archives opened.
    ///
    /// # Errors
    ///
    /// A coding that cannot be taken off, or decoded text without end.
    pub fn scan_body(
        self: &Arc<Self>,
        host: &str,
        today: Date,
        codings: &[Coding],
        body: &[u8],
        limits: Limits,
    ) -> Result<Report, Unscannable> {
        let report = Report::default();
        let left = limits.output;
        let mut scan = Scan { scanner: self, host, today, limits, left, report };
        if codings.is_empty() {
            scan.text(body);
            scan.archive(body, DEPTH)?;
        } else {
            scan.encoded(codings, body, DEPTH)?;
        }
        scan.report.findings.sort();
        scan.report.findings.dedup();
        Ok(scan.report)
    }
}

impl Scan<'_> {
    fn text(&mut self, text: &[u8]) {
        self.report.findings.extend(self.scanner.scan(self.host, self.today, text));
    }

    /// Scans what is encoded, and opens it if it is an archive.
    fn encoded(
        &mut self,
        codings: &[Coding],
        body: &[u8],
        depth: usize,
    ) -> Result<(), Unscannable> {
        let mut stream = self.scanner.stream(self.host, self.today);
        let mut start = Vec::new();
        let mut length = 0;
        let limits = Limits { output: self.left, ..self.limits };
        let decoded = coding::decode(codings, body, limits, &mut |chunk| {
            stream.take(chunk);
            length += chunk.len();
            // A prefix is kept only as long as it may be all of an archive.
            if length <= INNER && (!start.is_empty() || length == chunk.len()) {
                start.extend_from_slice(chunk);
                if kind(&start).is_none() {
                    start = Vec::new();
                }
            }
            true
        });
        self.report.findings.extend(stream.end());
        decoded?;
        self.left = self.left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        if start.len() == length {
            self.archive(&start, depth.saturating_sub(1))?;
        } else if !start.is_empty() {
            self.report.unscanned = true;
        }
        Ok(())
    }

    /// Opens an archive, if it is one.
    fn archive(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unscannable> {
        let opened = match kind(bytes) {
            None => return Ok(()),
            Some(_) if depth == 0 => Ok(false),
            Some(Kind::Opaque) => Ok(false),
            Some(Kind::Coded(coding)) => self.encoded(&[coding], bytes, depth).map(|()| true),
            Some(Kind::Zip) => self.zip(bytes, depth),
        };
        match opened {
            // Not what it looked like. The bytes have been scanned as they stand.
            Ok(false) | Err(Unscannable::Corrupt(_) | Unscannable::Coding) => {
                self.report.unscanned = true;
                Ok(())
            }
            Ok(true) => Ok(()),
            Err(Unscannable::TooLarge) => Err(Unscannable::TooLarge),
        }
    }

    /// Opens every member of a zip. False: not all could be.
    fn zip(&mut self, bytes: &[u8], depth: usize) -> Result<bool, Unscannable> {
        let Some(members) = members(bytes) else { return Ok(false) };
        let mut all = true;
        for member in members {
            match member {
                Some(Member { stored: true, data }) => self.archive(data, depth - 1)?,
                Some(Member { stored: false, data }) => {
                    match self.encoded(&[Coding::RawDeflate], data, depth) {
                        Err(Unscannable::TooLarge) => return Err(Unscannable::TooLarge),
                        Err(_) => all = false,
                        Ok(()) => {}
                    }
                }
                None => all = false,
            }
        }
        Ok(all)
    }
}

enum Kind {
    Coded(Coding),
    Zip,
    /// An archive whose format is not read.
    Opaque,
}

/// What a file is, by its first bytes.
fn kind(bytes: &[u8]) -> Option<Kind> {
    let opaque: [&[u8]; 5] =
        [b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x04\x22\x4d\x18"];
    match bytes {
        [0x1f, 0x8b, 8, ..] => Some(Kind::Coded(Coding::Gzip)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Kind::Coded(Coding::Zstd)),
        [b'P', b'K', 3, 4, ..] => Some(Kind::Zip),
        _ => opaque.into_iter().any(|magic| bytes.starts_with(magic)).then_some(Kind::Opaque),
    }
}

/// Whether these are the first bytes of something in which other files are packed.
#[must_use]
pub fn is_packed(bytes: &[u8]) -> bool {
    kind(bytes).is_some()
}

/// The data of one member of a zip.
struct Member<'z> {
    stored: bool,
    data: &'z [u8],
}

/// The members of a zip by its directory: nothing where there is none, and nothing for a member
/// that is encrypted, compressed otherwise, or not where the directory says.
fn members(bytes: &[u8]) -> Option<Vec<Option<Member<'_>>>> {
    let end = memchr::memmem::rfind(bytes, b"PK\x05\x06")?;
    let count = number(bytes, end + 10, 2)?;
    let mut at = number(bytes, end + 16, 4)?;
    if count > MEMBERS {
        return None;
    }
    let mut members = Vec::new();
    for _ in 0..count {
        if bytes.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        members.push(member(bytes, at));
        let names = [28, 30, 32].map(|field| number(bytes, at + field, 2));
        at += 46 + names.into_iter().sum::<Option<usize>>()?;
    }
    Some(members)
}

fn member(bytes: &[u8], entry: usize) -> Option<Member<'_>> {
    let encrypted = number(bytes, entry + 8, 2)? & 1 != 0;
    let method = number(bytes, entry + 10, 2)?;
    let length = number(bytes, entry + 20, 4)?;
    let header = number(bytes, entry + 42, 4)?;
    if encrypted || !matches!(method, 0 | 8) || bytes.get(header..header + 4)? != b"PK\x03\x04" {
        return None;
    }
    let start = header + 30 + number(bytes, header + 26, 2)? + number(bytes, header + 28, 2)?;
    Some(Member { stored: method == 0, data: bytes.get(start..start.checked_add(length)?)? })
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests;
