//! Parts of a form whose own head says how they are packed or written: brotli and raw deflate have no first
//! bytes to tell them by.

use std::ops::Range;

use super::Layers;
use crate::sidecar::dlp::coding::Coding;

/// Parts of one text that are looked at.
const PARTS: usize = 256;

/// A head of more bytes is none that somebody meant to send.
const HEAD: usize = 4 << 10;

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar::dlp) struct Part {
    /// Where what it holds begins.
    pub(in crate::sidecar::dlp) start: usize,
    /// The line that stands before each part, and behind the last.
    boundary: Range<usize>,
    /// None: in a way that is not known.
    pub(in crate::sidecar::dlp) layers: Option<Layers>,
}

impl Part {
    /// What it holds, as far as that is there.
    pub(in crate::sidecar::dlp) fn body<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let rest = &bytes[self.start..];
        let boundary = &bytes[self.boundary.clone()];
        let mut ends = memchr::memmem::find_iter(rest, boundary);
        let end = ends.find(|at| *at == 0 || rest[at - 1] == b'\n').unwrap_or(rest.len());
        let body = rest[..end].strip_suffix(b"\n").unwrap_or(&rest[..end]);
        if end == rest.len() { rest } else { body.strip_suffix(b"\r").unwrap_or(body) }
    }
}

/// All parts whose head says how they are packed or written, in order. None behind the last: there are too
/// many.
pub(in crate::sidecar::dlp) fn parts(bytes: &[u8]) -> Vec<Option<Part>> {
    let mut all = Vec::new();
    let mut done = 0;
    for colon in memchr::memchr_iter(b':', bytes) {
        if colon < done || !named(&bytes[..colon]) {
            continue;
        }
        let (head, body) = head(bytes, colon, done);
        done = head.end;
        let Some((boundary, start)) = boundary(bytes, head.start).zip(body) else { continue };
        let layers = layers(&bytes[head]);
        if layers.is_some_and(|layers| layers.codings().is_empty()) {
            continue;
        }
        if all.len() == PARTS {
            all.push(None);
            break;
        }
        all.push(Some(Part { start, boundary, layers }));
    }
    all
}

const CONTENT: &[u8] = b"content-encoding";
const TRANSFER: &[u8] = b"content-transfer-encoding";

/// Whether a text ends with the name of one of these fields, at the start of a line.
fn named(text: &[u8]) -> bool {
    matches!(text.last(), Some(b'g' | b'G'))
        && [CONTENT, TRANSFER].into_iter().any(|name| {
            let Some(from) = text.len().checked_sub(name.len()) else { return false };
            text[from..].eq_ignore_ascii_case(name) && text[..from].last() == Some(&b'\n')
        })
}

/// The head around a place in it, no further back than `from`; and where what follows it begins, if it ends
/// with an empty line.
fn head(bytes: &[u8], at: usize, from: usize) -> (Range<usize>, Option<usize>) {
    let from = from.max(at.saturating_sub(HEAD));
    let mut start = line_start(bytes, at);
    while start > from
        && let before = line_start(bytes, start - 1)
        && before >= from
        && is_field(&bytes[before..start])
    {
        start = before;
    }
    let mut end = at;
    let most = bytes.len().min(at + HEAD);
    while let Some(length) = memchr::memchr(b'\n', &bytes[end..most]) {
        let line = end + length + 1;
        match &bytes[line..] {
            [b'\n', ..] => return (start..line, Some(line + 1)),
            [b'\r', b'\n', ..] => return (start..line, Some(line + 2)),
            _ => {}
        }
        let next = memchr::memchr(b'\n', &bytes[line..most]).map_or(most, |next| line + next);
        if !is_field(&bytes[line..next]) {
            return (start..line, None);
        }
        end = line;
    }
    (start..end.max(at), None)
}

fn line_start(bytes: &[u8], at: usize) -> usize {
    let from = at.saturating_sub(HEAD);
    memchr::memrchr(b'\n', &bytes[from..at]).map_or(from, |before| from + before + 1)
}

/// Whether a line is a field, or goes on with one.
fn is_field(line: &[u8]) -> bool {
    let name = line.iter().position(|byte| *byte == b':').map_or(&[][..], |colon| &line[..colon]);
    let folded = matches!(line, [b' ' | b'\t', ..]);
    folded || !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic())
}

/// The boundary that stands right before a head.
fn boundary(bytes: &[u8], head: usize) -> Option<Range<usize>> {
    let end = head.checked_sub(1).filter(|end| bytes[*end] == b'\n')?;
    let end = if bytes[..end].ends_with(b"\r") { end - 1 } else { end };
    let start = line_start(bytes, end);
    let line = &bytes[start..end];
    let blank = line.iter().rev().take_while(|byte| b" \t".contains(byte)).count();
    (line.starts_with(b"--") && line.len() - blank > 2).then(|| start..end - blank)
}

/// What a head says. None: it names a coding that is not known.
fn layers(head: &[u8]) -> Option<Layers> {
    let mut layers = Layers { said: true, ..Layers::default() };
    let (mut codings, mut transfer) = (Vec::new(), None);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(CONTENT) {
            codings.extend(Coding::parse(std::str::from_utf8(value).ok()?).ok()?);
        } else if name.eq_ignore_ascii_case(TRANSFER) {
            transfer = if value.eq_ignore_ascii_case(b"base64") {
                Some(Coding::Base64)
            } else if value.eq_ignore_ascii_case(b"quoted-printable") {
                Some(Coding::Quoted)
            } else {
                None
            };
        }
    }
    codings.into_iter().chain(transfer).try_for_each(|coding| layers.push(coding))?;
    Some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(text: &str) -> Vec<(usize, Option<Vec<Coding>>)> {
        let parts = parts(text.as_bytes()).into_iter().flatten();
        parts.map(|part| (part.start, part.layers.map(|all| all.codings().to_vec()))).collect()
    }

    #[test]
    fn the_heads_of_parts_are_read_and_others_are_not() {
        let text = "--b\r\nA: b\r\ncontent-ENCODING: gzip, br\r\nContent-Transfer-Encoding: Base64\r\n\r\n";
        let all = Some(vec![Coding::Gzip, Coding::Brotli, Coding::Base64]);
        assert_eq!(heads(text), [(text.len(), all.clone())]);
        let text = format!("{text}body\r\n{text}more");
        assert_eq!(heads(&text).len(), 2);
        let parts = parts(text.as_bytes());
        let bodies: Vec<_> =
            parts.iter().flatten().map(|part| part.body(text.as_bytes())).collect();
        assert_eq!(bodies, [b"body", b"more"]);
        assert_eq!(heads("--b\nContent-Encoding: deflate\nX: y\n\n").len(), 1);
        assert_eq!(heads("--b\nContent-Encoding: x-own\n\n"), [(29, None)]);
        for none in [
            "Content-Encoding: gzip\r\n\r\nno part",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            "--b\r\nContent-Encoding: gzip\r\nno field\r\n\r\n",
            "--b\r\nContent-Encoding: identity\r\n\r\n",
            "--b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
            "--b\r\n\r\nContent-Encoding: gzip\r\n\r\n",
            "--b\r\nContent-Encoding: gzip\r\n",
            "--b\r\nX-Content-Encoding: gzip\r\n\r\n",
        ] {
            assert_eq!(heads(none), [], "{none}");
        }
    }
}
