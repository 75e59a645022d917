//! A strict filter in front of the HTTP/1 parser.
//!
//! Everything that passes is a canonical subset of HTTP/1.1, so the parser behind it and the
//! one of the upstream cannot disagree about where a request ends or whom it is for. What two
//! parsers could read differently is refused, even where the standard would have an opinion.
//!
//! The filter keeps no bytes. [`Framing::push`] is given everything that has not passed yet and
//! says how much of it may pass: a head only when all of it is there and is fine, the bytes of a
//! body at once. It reads every byte of a head once, and counts those of a body.

use super::authority::Authority;
use super::code::Code;

mod chunked;
mod field;
mod head;

use chunked::Chunks;
use head::Head;

/// Bounds of what a client may send. They lie below those of the parser behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, its request line included.
    pub head: usize,
    /// Fields of a head.
    pub fields: usize,
    /// Bytes of a request target.
    pub target: usize,
    /// Bytes of a line with a chunk's size.
    pub chunk_line: usize,
    /// Bytes of chunk extensions, of a whole body.
    pub chunk_extensions: usize,
    /// Bytes of the trailer section.
    pub trailers: usize,
    /// Fields of the trailer section.
    pub trailer_fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: 128,
            target: 16 * 1024,
            chunk_line: 256,
            chunk_extensions: 4 * 1024,
            trailers: 8 * 1024,
            trailer_fields: 16,
        }
    }
}

/// The state of one connection, of a fixed size whatever is sent.
#[derive(Debug)]
pub struct Framing {
    limits: Limits,
    state: State,
    /// What was refused stood in a body.
    broken_body: bool,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Length(u64),
    Chunked(Chunks),
    /// A CONNECT passed, or a request for a WebSocket. Nothing follows it until it is known what it led to.
    Connect,
    Tunnel,
    Refused(Code),
}

/// What a head says about what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    Connect,
}

impl Framing {
    /// The state of a connection that just began.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(Head::default()), broken_body: false }
    }

    /// Looks at everything that was received and has not passed yet, and says how many bytes of
    /// it may pass now. The next call is given the rest again, with what was received since.
    ///
    /// Whole requests in front of one that is refused still pass; then [`Self::refusal`] says so
    /// at once, and the next call fails.
    ///
    /// # Errors
    /// Why nothing of this connection passes any more.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        let mut passed = 0;
        loop {
            match self.step(&bytes[passed..]) {
                Ok(0) => return Ok(passed),
                Ok(length) => passed += length,
                // What came before it is a request of its own: it passes first.
                Err(code) => {
                    self.broken_body = self.is_within_body();
                    self.state = State::Refused(code.clone());
                    return if passed == 0 { Err(code) } else { Ok(passed) };
                }
            }
        }
    }

    /// Why nothing of this connection passes any more, if that is so.
    #[must_use]
    pub fn refusal(&self) -> Option<&Code> {
        match &self.state {
            State::Refused(code) => Some(code),
            _ => None,
        }
    }

    /// Whether the next byte begins a new request. Only then may a connection that has been
    /// quiet for long be closed without breaking something off.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.is_new())
    }

    /// Whether the next byte belongs to the body of a request whose head has passed, also when it
    /// was refused.
    #[must_use]
    pub fn is_within_body(&self) -> bool {
        self.broken_body || matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Whether nothing passes until it is known what the last request led to.
    #[must_use]
    pub fn awaits_switch(&self) -> bool {
        matches!(self.state, State::Connect)
    }

    /// The CONNECT that passed was granted: whatever follows is the tunnel's.
    pub fn open_tunnel(&mut self) {
        if matches!(self.state, State::Connect) {
            self.state = State::Tunnel;
        }
    }

    /// The CONNECT that passed was refused: another request may follow.
    pub fn refuse_tunnel(&mut self) {
        if matches!(self.state, State::Connect) {
            self.state = State::Head(Head::default());
        }
    }

    /// One head, one run of body bytes or one line about chunks; 0 if it is not complete.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        match &mut self.state {
            State::Head(head) => {
                let Some((length, body)) = head.push(bytes, &self.limits)? else { return Ok(0) };
                self.state = match body {
                    Body::Length(0) => State::Head(Head::default()),
                    Body::Length(length) => State::Length(length),
                    Body::Chunked => State::Chunked(Chunks::default()),
                    Body::Connect => State::Connect,
                };
                Ok(length)
            }
            State::Length(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    self.state = State::Head(Head::default());
                }
                Ok(length)
            }
            State::Chunked(chunks) => {
                let length = chunks.push(bytes, &self.limits)?;
                if chunks.is_done() {
                    self.state = State::Head(Head::default());
                }
                Ok(length)
            }
            State::Connect => Ok(0),
            State::Tunnel => Ok(bytes.len()),
            State::Refused(code) => Err(code.clone()),
        }
    }
}

/// Whether a trailer may hold this field. HTTP/2 does not pass this filter, and its trailers are
/// asked about here.
#[must_use]
pub fn may_be_late(name: &str) -> bool {
    !chunked::is_never_late(name.as_bytes())
}

/// Whether a field asks for a part of a response. Servers know several by that name.
#[must_use]
pub fn asks_for_a_part(name: &str) -> bool {
    let mut words = name.split('-');
    name.eq_ignore_ascii_case("a-im")
        || !name.eq_ignore_ascii_case("content-range")
            && words.any(|word| word.eq_ignore_ascii_case("range"))
}

/// Where the next line ends, its line break included. `from` is where looking goes on: what
/// stands before it was looked at.
///
/// # Errors
/// For a line feed or a carriage return on its own, and for NUL.
fn line(bytes: &[u8], from: usize) -> Result<Option<usize>, Code> {
    let looked = &bytes[from..];
    match memchr::memchr3(b'\r', b'\n', 0, looked) {
        None => Ok(None),
        Some(at) if looked[at] != b'\r' => Err(Code::MalformedRequest),
        Some(at) => match looked.get(at + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(Some(from + at + 2)),
            Some(_) => Err(Code::MalformedRequest),
        },
    }
}

#[cfg(test)]
mod tests;
