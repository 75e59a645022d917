//! What an upstream says that it has: `ls-refs` of the protocol's version 2, or what a server without it
//! begins with.

use std::io::{self, BufRead, Read, Write};

use super::document::Upstream;
use super::pkt::{self, LONGEST, Pkt};
use super::refs::{Oid, Refs, any, is_name};

/// More refs than this are not mirrored.
const REFS: usize = 200_000;

/// What an upstream has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) refs: Refs,
    /// What its HEAD names, also where that is not there yet.
    pub(super) head: Option<String>,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// What is offered of an upstream.
pub(super) fn is_offered(upstream: &Upstream, name: &str) -> bool {
    let usual = name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    (usual || any(&upstream.refs, name)) && is_mirrored(name)
}

/// Other people's names may be stranger than those that can be pushed.
fn is_mirrored(name: &str) -> bool {
    name.len() < 1024 && !name.contains(|letter: char| letter.is_control() || letter == ' ')
}

impl Listing {
    fn add(&mut self, upstream: &Upstream, name: &str, oid: Oid) -> io::Result<()> {
        if is_offered(upstream, name) {
            self.refs.insert(name.to_owned(), oid);
        }
        if self.refs.len() > REFS { Err(wrong("it has too many refs")) } else { Ok(()) }
    }

    fn head_is(&mut self, name: &str) {
        if name.starts_with("refs/heads/") && is_name(name) {
            self.head = Some(name.to_owned());
        }
    }
}

/// Asks for it.
pub(super) fn ask(
    from: &mut impl BufRead,
    to: &mut impl Write,
    upstream: &Upstream,
) -> io::Result<Listing> {
    let mut first = next(from)?;
    if first.as_deref() == Some(b"version 1") {
        first = next(from)?;
    }
    match first {
        Some(line) if line == b"version 2" => version_2(from, to, upstream),
        Some(line) => {
            let listing = advertised(line, from, upstream)?;
            to.write_all(pkt::FLUSH)?;
            Ok(listing)
        }
        // A repository without any ref, of a server that says nothing of what it can do.
        None => Ok(Listing::default()),
    }
}

/// The next line; `None`: a flush.
fn next(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    match pkt::read(from, LONGEST)? {
        Some(Pkt::Line(line)) => {
            let line = pkt::trim(&line).to_vec();
            match line.strip_prefix(b"ERR ") {
                Some(words) => {
                    Err(io::Error::other(format!("ERR {}", String::from_utf8_lossy(words))))
                }
                None => Ok(Some(line)),
            }
        }
        Some(Pkt::Flush) => Ok(None),
        Some(Pkt::Delim | Pkt::End) => Err(wrong("it is no answer")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn version_2(
    from: &mut impl BufRead,
    to: &mut impl Write,
    upstream: &Upstream,
) -> io::Result<Listing> {
    let (mut unborn, mut format) = (false, false);
    while let Some(line) = next(from)? {
        match line.as_slice() {
            b"object-format=sha1" => format = true,
            line if line.starts_with(b"object-format=") => return Err(other_objects()),
            line => unborn |= line.strip_prefix(b"ls-refs=").is_some_and(|what| what == b"unborn"),
        }
    }
    let mut ask = Vec::new();
    pkt::line(&mut ask, b"command=ls-refs\n");
    if format {
        pkt::line(&mut ask, b"object-format=sha1\n");
    }
    ask.extend_from_slice(pkt::DELIM);
    pkt::line(&mut ask, b"symrefs\n");
    if unborn {
        pkt::line(&mut ask, b"unborn\n");
    }
    let more = upstream.refs.iter().map(|pattern| pattern.split('*').next().unwrap_or_default());
    for prefix in ["HEAD", "refs/heads/", "refs/tags/"].into_iter().chain(more) {
        pkt::line(&mut ask, format!("ref-prefix {prefix}\n").as_bytes());
    }
    ask.extend_from_slice(pkt::FLUSH);
    to.write_all(&ask)?;
    let mut listing = Listing::default();
    while let Some(line) = next(from)? {
        let line = String::from_utf8(line).map_err(|_| wrong("a ref is not UTF-8"))?;
        let mut words = line.split(' ');
        let (oid, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let target = words.find_map(|word| word.strip_prefix("symref-target:"));
        if name == "HEAD" {
            target.into_iter().for_each(|target| listing.head_is(target));
        } else {
            let oid = Oid::parse(oid.as_bytes()).ok_or_else(|| wrong("a ref names no object"))?;
            listing.add(upstream, name, oid)?;
        }
    }
    to.write_all(pkt::FLUSH)?;
    Ok(listing)
}

/// What a server without version 2 says at once.
fn advertised(first: Vec<u8>, from: &mut impl Read, upstream: &Upstream) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let (first, can) = capabilities(&first);
    for word in can.split(' ') {
        if let Some(format) = word.strip_prefix("object-format=")
            && format != "sha1"
        {
            return Err(other_objects());
        }
        if let Some(target) = word.strip_prefix("symref=HEAD:") {
            listing.head_is(target);
        }
    }
    let mut line = Some(first);
    while let Some(text) = line {
        if let Some((name, oid)) = advertised_ref(&text)? {
            listing.add(upstream, &name, oid)?;
        }
        line = next(from)?;
    }
    Ok(listing)
}

/// An advertisement's first line, and what the server says that it can do.
pub(super) fn capabilities(line: &[u8]) -> (Vec<u8>, String) {
    match memchr::memchr(0, line) {
        Some(at) => {
            (line[..at].to_vec(), String::from_utf8_lossy(&line[at + 1..]).trim().to_owned())
        }
        None => (line.to_vec(), String::new()),
    }
}

/// One line of an advertisement; `None`: it is none of a ref.
pub(super) fn advertised_ref(line: &[u8]) -> io::Result<Option<(String, Oid)>> {
    if line.starts_with(b"shallow ") {
        return Ok(None);
    }
    let oid = line.get(..40).and_then(Oid::parse).filter(|_| line.get(40) == Some(&b' '));
    let Some(oid) = oid else {
        return Err(if line.get(..64).is_some_and(|oid| oid.iter().all(u8::is_ascii_hexdigit)) {
            other_objects()
        } else {
            wrong("it is no ref")
        });
    };
    let name = String::from_utf8(line[41..].to_vec()).map_err(|_| wrong("a ref is not UTF-8"))?;
    let is_ref = name.starts_with("refs/") && !name.ends_with("^{}");
    Ok(is_ref.then_some((name, oid)))
}

fn other_objects() -> io::Error {
    io::Error::other("ERR its objects are named by SHA-256, which is not passed on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::git::testing::upstream;

    const OID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn heard(lines: &[&str]) -> io::Result<(Listing, String)> {
        let mut text = Vec::new();
        for line in lines {
            match *line {
                "" => text.extend_from_slice(pkt::FLUSH),
                line => pkt::line(&mut text, line.as_bytes()),
            }
        }
        let mut said = Vec::new();
        let listing = ask(&mut text.as_slice(), &mut said, &upstream("app"))?;
        Ok((listing, String::from_utf8(said).unwrap()))
    }

    #[test]
    fn both_versions() {
        let main = format!("{OID} refs/heads/main");
        let (listing, said) = heard(&[
            "version 2\n",
            "ls-refs=unborn\n",
            "object-format=sha1\n",
            "",
            &format!("{OID} HEAD symref-target:refs/heads/main\n"),
            &main,
            &format!("{OID} refs/pull/1/head"),
            "",
        ])
        .unwrap();
        assert_eq!(listing.refs.keys().collect::<Vec<_>>(), ["refs/heads/main"]);
        assert_eq!(listing.head.as_deref(), Some("refs/heads/main"));
        assert!(said.contains("unborn") && said.contains("ref-prefix refs/tags/"), "{said}");
        let (old, said) = heard(&[
            &format!("{OID} HEAD\0symref=HEAD:refs/heads/main object-format=sha1\n"),
            &main,
            &format!("{OID} refs/tags/v1^{{}}"),
            "",
        ])
        .unwrap();
        assert_eq!((old, said.as_str()), (listing, "0000"));
        let (empty, _) = heard(&[
            "version 2",
            "ls-refs=unborn",
            "",
            "unborn HEAD symref-target:refs/heads/x",
            "",
        ])
        .unwrap();
        assert_eq!(empty.head.as_deref(), Some("refs/heads/x"));
    }

    #[test]
    fn what_is_no_answer() {
        assert!(heard(&["ERR no such repository\n"]).unwrap_err().to_string().contains("no such"));
        assert!(
            heard(&["version 2", "object-format=sha256", ""])
                .unwrap_err()
                .to_string()
                .contains("SHA-256")
        );
        assert!(heard(&["version 2", ""]).is_err(), "breaks off");
        assert!(heard(&["garbage", ""]).is_err());
    }
}
