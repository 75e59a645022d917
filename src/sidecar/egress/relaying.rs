//! How many responses are under way, and how much each of them may therefore keep in memory.
//!
//! A machine that asks for much and reads nothing fills every buffer on the way. While there are few
//! responses the buffers are as large as makes them fast; once there are more than
//! [`limits::WIDE_RESPONSES`], a response has one small piece under way at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::limits;

/// All responses under way.
#[derive(Default)]
pub(super) struct Relaying(AtomicUsize);

/// One of them, until it is dropped.
pub(super) struct Turn {
    all: Arc<Relaying>,
    flight: Arc<Flight>,
    /// What it is counted in, unless it answers a long upload.
    activity: Option<Arc<Activity>>,
}

/// The piece that was passed on last.
#[derive(Default)]
struct Flight {
    /// It is not written yet.
    on_its_way: AtomicBool,
    waker: AtomicWaker,
}

/// Bytes that say when nobody needs them any more.
struct Piece {
    bytes: Bytes,
    flight: Arc<Flight>,
}

impl Relaying {
    pub(super) fn begin(self: &Arc<Self>, activity: Option<Arc<Activity>>) -> Turn {
        self.0.fetch_add(1, Ordering::Relaxed);
        activity.iter().for_each(|activity| activity.moves());
        Turn { all: Arc::clone(self), flight: Arc::default(), activity }
    }

    /// Whether there are so many that each has to keep little.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.load(Ordering::Relaxed) > limits::WIDE_RESPONSES
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turn {
    /// Whether there are so many that each has to keep little.
    pub(super) fn is_crowded(&self) -> bool {
        self.all.is_crowded()
    }

    /// Waits until the next piece may be passed on.
    pub(super) fn poll_clear(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.flight.on_its_way.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.flight.waker.register(context.waker());
        // It may have been written before the waker was there.
        if self.flight.on_its_way.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Passes a piece on. In a crowd the next one waits until this one is written.
    pub(super) fn pass(&self, bytes: Bytes) -> Bytes {
        self.activity.iter().for_each(|activity| activity.moves());
        if !self.all.is_crowded() {
            return bytes;
        }
        self.flight.on_its_way.store(true, Ordering::Release);
        Bytes::from_owner(Piece { bytes, flight: Arc::clone(&self.flight) })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.flight.on_its_way.store(false, Ordering::Release);
        self.flight.waker.wake();
    }
}

/// A machine's TLS, which keeps what it has encrypted and could not write yet.
pub(super) struct Paced<S> {
    inner: TlsStream<S>,
    relaying: Arc<Relaying>,
    crowded: bool,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: TlsStream<S>, relaying: Arc<Relaying>) -> Self {
        Self { inner, relaying, crowded: false }
    }

    fn pace(&mut self) {
        let crowded = self.relaying.is_crowded();
        if crowded != self.crowded {
            self.crowded = crowded;
            let limit = if crowded { limits::CROWDED_WRITE } else { limits::WRITE };
            self.inner.get_mut().1.set_buffer_limit(Some(limit));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, out)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pace();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pace();
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::poll_fn;

    use super::*;

    #[test]
    fn in_a_crowd_there_is_one_piece_at_a_time() {
        let all = Arc::new(Relaying::default());
        let turn = all.begin(None);
        let clear = || poll_fn(|context| turn.poll_clear(context)).now_or_never().is_some();
        let alone = turn.pass(Bytes::from_static(b"alone"));
        assert!(clear());
        let others: Vec<Turn> = (0..limits::WIDE_RESPONSES).map(|_| all.begin(None)).collect();
        let piece = turn.pass(Bytes::from_static(b"piece"));
        assert_eq!((&*alone, &*piece), (&b"alone"[..], &b"piece"[..]));
        let part = piece.slice(1..);
        drop(piece);
        assert!(!clear(), "part of it is not written yet");
        drop(part);
        assert!(clear());
        drop(others);
        assert!(!all.is_crowded());
    }
}
