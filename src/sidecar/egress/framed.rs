#![expect(clippy::disallowed_methods, reason = "a head has a time to arrive in")]
//! The machine's bytes on their way to the HTTP/1 parser: all of them pass `framing` first.
//!
//! Where `framing` refuses, the parser is given a request of our own instead, whose path nobody else
//! can know; so a violation is answered with a page as any other refusal, and no byte of it is seen
//! by anyone.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::limits;
use super::slots::Slot;
use crate::sidecar::Code;
use crate::sidecar::framing::{Framing, Limits};

/// How much of a body is read at once.
const PIECE: usize = 16 * 1024;
/// How much is read at once of what may be a head that never becomes whole.
const HEAD_PIECE: usize = 4 * 1024;

/// What a connection's reader and its requests know of each other.
pub(super) struct Wire {
    slot: Arc<Slot>,
    /// The path of the request that stands for a violation.
    path: String,
    violation: Mutex<Option<Code>>,
    working: AtomicUsize,
}

/// A request is being worked on, until this is dropped.
pub(super) struct Working(Arc<Wire>);

impl Wire {
    pub(super) fn new(slot: Arc<Slot>) -> io::Result<Arc<Self>> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Arc::new(Self {
            slot,
            path: format!("/{}", hex::encode(nonce)),
            violation: Mutex::new(None),
            working: AtomicUsize::new(0),
        }))
    }

    /// Says that a request has come, and is worked on until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::AcqRel);
        self.slot.heard();
        Working(Arc::clone(self))
    }

    /// Why this request stands for another, if it does.
    pub(super) fn stands_for(&self, path: &str) -> Option<Code> {
        if path == self.path { self.violation() } else { None }
    }

    /// Why nothing of this connection passes any more.
    pub(super) fn violation(&self) -> Option<Code> {
        self.violation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether requests are being worked on.
    pub(super) fn is_working(&self) -> bool {
        self.working.load(Ordering::Acquire) > 0
    }

    fn violated(&self, code: Code) -> BytesMut {
        *self.violation.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
        let request = format!("GET {} HTTP/1.1\r\nHost: sidecar\r\n\r\n", self.path);
        BytesMut::from(request.as_bytes())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.slot.waits();
        }
    }
}

/// A connection whose bytes are framed.
pub(super) struct Framed<S> {
    inner: S,
    wire: Arc<Wire>,
    framing: Framing,
    /// What was received and has not gone on, and how much of it may.
    raw: BytesMut,
    passed: usize,
    ended: bool,
    /// Nothing that still comes is answered.
    answered_last: bool,
    clock: Clock,
    lingered: usize,
    /// When nothing is read any more.
    lingers: Option<Pin<Box<Sleep>>>,
}

/// What is waited for, and until when.
struct Clock {
    waits: Waits,
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For nothing that has a deadline of its own here.
    No,
    First,
    Head,
    Next,
    Linger,
}

impl Waits {
    fn time(self) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::First | Self::Head => Some(limits::HEAD),
            Self::Next => Some(limits::KEEP_ALIVE),
            Self::Linger => Some(limits::LINGER_IDLE),
        }
    }
}

impl Clock {
    /// Whether what is waited for took too long. A change of it begins anew.
    fn poll(&mut self, waits: Waits, context: &mut Context<'_>) -> Poll<()> {
        let Some(time) = waits.time() else {
            self.waits = waits;
            return Poll::Pending;
        };
        let begins = self.waits != waits;
        self.waits = waits;
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if begins {
                    sleep.as_mut().reset(Instant::now() + time);
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep(time))),
        };
        sleep.as_mut().poll(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    pub(super) fn new(inner: S, wire: Arc<Wire>) -> Self {
        Self {
            inner,
            wire,
            framing: Framing::new(Limits::default()),
            raw: BytesMut::new(),
            passed: 0,
            ended: false,
            answered_last: false,
            clock: Clock { waits: Waits::First, sleep: None },
            lingered: 0,
            lingers: None,
        }
    }

    /// The connection itself, and what was received beyond the CONNECT that was granted.
    pub(super) fn into_tunnel(self) -> (S, BytesMut) {
        (self.inner, self.raw)
    }

    /// Lets pass what may.
    fn judge(&mut self) {
        match self.framing.push(&self.raw[self.passed..]) {
            Ok(0) => {}
            Ok(count) => {
                self.passed += count;
                // Whatever is waited for next, its time begins anew.
                self.clock.waits = Waits::No;
            }
            Err(code) => {
                // Whoever reads a body sees it end early, and asks the wire why.
                let within_body = self.framing.is_within_body();
                let request = self.wire.violated(code);
                self.raw.truncate(self.passed);
                if within_body {
                    self.ended = true;
                } else {
                    // The page is the last thing on this connection; until then it is open.
                    self.raw.unsplit(request);
                    self.answered_last = true;
                }
                self.passed = self.raw.len();
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.passed > 0 {
                let count = this.passed.min(out.remaining());
                out.put_slice(&this.raw[..count]);
                this.raw.advance(count);
                this.passed -= count;
                if this.raw.is_empty() {
                    // An idle connection keeps no buffer.
                    this.raw = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            // What stood before a violation went on by itself; now it is the violation's turn.
            if !this.answered_last && this.framing.refusal().is_some() {
                this.judge();
                continue;
            }
            // What comes behind a CONNECT, or a request for a WebSocket, waits until it is known what that leads
            // to; and nothing waits for what comes in once the last answer is on its way.
            let waits = this.framing.awaits_switch() && this.raw.len() >= HEAD_PIECE;
            if this.answered_last || waits || this.raw.len() > limits::READ_BUFFER {
                return Poll::Pending;
            }
            this.raw.reserve(if this.framing.is_within_body() { PIECE } else { HEAD_PIECE });
            let read =
                tokio_util::io::poll_read_buf(Pin::new(&mut this.inner), context, &mut this.raw);
            match read {
                Poll::Ready(Ok(0)) => this.ended = true,
                Poll::Ready(Ok(_)) => this.judge(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let waits = if this.wire.is_working() || this.framing.is_within_body() {
                        Waits::No
                    } else if !this.framing.is_between_requests() {
                        Waits::Head
                    } else if this.clock.waits == Waits::First {
                        Waits::First
                    } else {
                        Waits::Next
                    };
                    if this.raw.is_empty() {
                        this.raw = BytesMut::new();
                    }
                    ready!(this.clock.poll(waits, context));
                    this.ended = true;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    /// Ends what is written, then reads on for a little while: a connection that is closed with
    /// something unread is reset, and whoever sent it never reads why it was refused.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        let mut piece = [0; 16 * 1024];
        let end = this.lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::LINGER)));
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        while this.lingered < limits::LINGER_BYTES {
            if this.clock.poll(Waits::Linger, context).is_ready() {
                break;
            }
            let mut piece = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut this.inner).poll_read(context, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => {
                    this.lingered += piece.filled().len();
                    this.clock.waits = Waits::No;
                }
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
