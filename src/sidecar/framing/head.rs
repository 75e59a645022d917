//! The head of a request.

use super::field::Field;
use super::{Authority, Body, Code, Limits, line};
use crate::sidecar::allowlist::is_method;

/// What is known of a head that is being received.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that is not complete yet.
    line: usize,
    /// Up to where that line was looked at.
    looked: usize,
    request: Option<RequestLine>,
    fields: usize,
    host: Option<Authority>,
    length: Option<u64>,
    chunked: bool,
    /// It asks for another protocol, a WebSocket's.
    upgrade: bool,
}

#[derive(Debug)]
struct RequestLine {
    /// Whom an absolute form or a CONNECT is for.
    authority: Option<Authority>,
    /// The port of a Host field that names none. For a path alone it is not known here.
    port: u16,
    connect: bool,
    /// HTTP/1.0, which knows no chunks and needs no Host.
    old: bool,
}

impl Head {
    pub(super) fn is_new(&self) -> bool {
        self.looked == 0
    }

    /// Reads on. Once the empty line is there: the head's length and what follows it.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<(usize, Body)>, Code> {
        loop {
            let end = line(bytes, self.looked)?;
            // Judged as soon as it is seen, so that nobody is waited for who speaks something else.
            if end.unwrap_or(bytes.len()) > limits.head {
                if self.request.is_none() {
                    begins_well(bytes, limits)?;
                }
                return Err(Code::HeaderTooLarge);
            }
            let Some(end) = end else {
                if self.request.is_none() {
                    begins_well(bytes, limits)?;
                }
                // A carriage return at the end is looked at again with what follows it.
                self.looked = bytes.len() - usize::from(bytes.ends_with(b"\r"));
                return Ok(None);
            };
            let content = &bytes[self.line..end - 2];
            (self.line, self.looked) = (end, end);
            match &self.request {
                None => self.request = Some(request_line(content, limits)?),
                Some(request) if content.is_empty() => {
                    return self.finish(request).map(|body| Some((end, body)));
                }
                Some(request) => {
                    let port = request.port;
                    self.field(Field::parse(content)?, port, limits)?;
                }
            }
        }
    }

    fn field(&mut self, field: Field<'_>, port: u16, limits: &Limits) -> Result<(), Code> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Code::HeaderTooLarge);
        }
        match field.name.len() {
            4 if field.is("host") => {
                let host = Authority::parse(field.value, Some(port))?;
                if self.host.replace(host).is_some() {
                    return Err(Code::MalformedRequest);
                }
            }
            14 if field.is("content-length") => self.length(field.value)?,
            17 if field.is("transfer-encoding") => {
                if self.chunked || field.value != b"chunked" {
                    return Err(Code::AmbiguousFraming);
                }
                self.chunked = true;
            }
            // A change to HTTP/2 would carry requests past this filter.
            14 if field.is("http2-settings") => return Err(Code::MalformedRequest),
            7 if field.is("upgrade") => {
                let http = |to: &[u8]| {
                    ["h2c", "h2", "http"]
                        .iter()
                        .any(|name| to.eq_ignore_ascii_case(name.as_bytes()))
                };
                if field.value.split(|b| b", /\t".contains(b)).any(http) {
                    return Err(Code::MalformedRequest);
                }
                self.upgrade |= field.value.eq_ignore_ascii_case(b"websocket");
            }
            _ => {}
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Code> {
        match self.length.replace(content_length(value)?) {
            None => Ok(()),
            Some(_) => Err(Code::AmbiguousFraming),
        }
    }

    /// Judges the whole head.
    fn finish(&self, request: &RequestLine) -> Result<Body, Code> {
        if self.chunked && (self.length.is_some() || request.old) {
            return Err(Code::AmbiguousFraming);
        }
        // To some servers what follows such a head is no body any more.
        if self.upgrade && (self.chunked || self.length.is_some_and(|length| length > 0)) {
            return Err(Code::AmbiguousFraming);
        }
        let one_host = match (&request.authority, &self.host) {
            (Some(target), Some(host)) => target == host,
            (None, Some(_)) => true,
            // The old version has no such field, but then the target must say it.
            (target, None) => request.old && target.is_some(),
        };
        // A request that contradicts itself is malformed, whatever its connection is for.
        if !one_host {
            return Err(Code::MalformedRequest);
        }
        match (request.connect, self.length) {
            (false, _) if self.chunked => Ok(Body::Chunked),
            (false, None) if self.upgrade => Ok(Body::Connect),
            (false, length) => Ok(Body::Length(length.unwrap_or(0))),
            (true, None) if !self.chunked => Ok(Body::Connect),
            (true, _) => Err(Code::AmbiguousFraming),
        }
    }
}

/// Whether what is there of a request line can become one: a method, a space, a target.
fn begins_well(bytes: &[u8], limits: &Limits) -> Result<(), Code> {
    let method_end = memchr::memchr(b' ', bytes).unwrap_or(bytes.len());
    if !bytes.is_empty() && !is_method(&bytes[..method_end]) {
        return Err(Code::MalformedRequest);
    }
    let target = bytes.get(method_end + 1..).unwrap_or_default();
    let target_end = memchr::memchr(b' ', target).unwrap_or(target.len());
    if target_end > limits.target { Err(Code::UriTooLong) } else { Ok(()) }
}

/// Reads `METHOD target HTTP/1.x`.
fn request_line(text: &[u8], limits: &Limits) -> Result<RequestLine, Code> {
    begins_well(text, limits)?;
    let mut parts = text.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Code::MalformedRequest);
    };
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(Code::MalformedRequest),
    };
    // A fragment is dropped by one parser and forwarded by another.
    let visible = target.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    if target.is_empty() || !visible {
        return Err(Code::MalformedRequest);
    }
    if method == b"CONNECT" {
        let authority = Authority::parse(target, None)?;
        let port = authority.port();
        return Ok(RequestLine { authority: Some(authority), port, connect: true, old });
    }
    let (rest, port) = match target {
        [b'/', ..] => return Ok(RequestLine { authority: None, port: 443, connect: false, old }),
        // A question about the proxy itself, which has nothing to say.
        b"*" => return Err(Code::MethodNotAllowed),
        [b'h', b't', b't', b'p', b':', b'/', b'/', rest @ ..] => (rest, 80),
        [b'h', b't', b't', b'p', b's', b':', b'/', b'/', rest @ ..] => (rest, 443),
        _ => return Err(Code::MalformedRequest),
    };
    let end = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
    if rest.get(end) == Some(&b'?') {
        return Err(Code::PathNotCanonical);
    }
    let authority = Some(Authority::parse(&rest[..end], Some(port))?);
    Ok(RequestLine { authority, port, connect: false, old })
}

/// Plain digits, once: no sign, no list, no number that another parser would cut off.
fn content_length(value: &[u8]) -> Result<u64, Code> {
    let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or(Code::AmbiguousFraming)
}
