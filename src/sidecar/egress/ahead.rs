//! Reads of a useful size on both sides of TLS, which itself asks for four kilobytes at a time and gives
//! one record at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::limits;
use super::relaying::Relaying;

/// A socket below TLS. What streams is read ahead, unless there is a crowd of responses; a connection that
/// says little has no buffer here.
pub(super) struct Ahead<S> {
    inner: S,
    read: BytesMut,
    /// How much is read ahead.
    most: usize,
    /// How many of the last reads were as long as they could be.
    streak: usize,
    relaying: Arc<Relaying>,
}

impl<S> Ahead<S> {
    pub(super) fn new(inner: S, most: usize, relaying: Arc<Relaying>) -> Self {
        Self::rewound(BytesMut::new(), inner, most, relaying)
    }

    /// With bytes that were read already.
    pub(super) fn rewound(read: BytesMut, inner: S, most: usize, relaying: Arc<Relaying>) -> Self {
        Self { inner, read, most, streak: 0, relaying }
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// Only in a body of some length, so that whoever it is for has begun to take it.
    fn streams(&self) -> bool {
        self.streak >= limits::STREAK && !self.relaying.is_crowded()
    }

    /// Waits for the first bytes, and whether there are any.
    pub(super) async fn begins(&mut self) -> bool {
        if self.read.is_empty() {
            self.read.reserve(limits::HELLO);
            let count = self.inner.read_buf(&mut self.read).await;
            return count.is_ok_and(|count| count > 0);
        }
        true
    }

    /// The first byte of those that were read ahead.
    pub(super) fn first(&self) -> Option<u8> {
        self.read.first().copied()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            if !this.streams() {
                ready!(Pin::new(&mut this.inner).poll_read(context, out))?;
                this.streak = if out.remaining() == 0 { this.streak + 1 } else { 0 };
                return Poll::Ready(Ok(()));
            }
            this.read.reserve(this.most);
            let read = poll_read_buf(Pin::new(&mut this.inner), context, &mut this.read);
            if let Poll::Ready(Ok(count)) = read {
                this.streak = if count > out.remaining() { this.streak } else { 0 };
            } else {
                this.read = BytesMut::new();
                return read.map_ok(drop);
            }
        }
        let count = this.read.len().min(out.remaining());
        out.put_slice(&this.read[..count]);
        this.read.advance(count);
        if this.read.is_empty() && !this.streams() {
            this.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// What TLS gives: as many records in one read as there is room for, and less than one in a crowd.
pub(super) struct Gathered<S> {
    inner: S,
    relaying: Arc<Relaying>,
    /// What ended a read that had already got something.
    failed: Option<io::Error>,
}

impl<S> Gathered<S> {
    pub(super) fn new(inner: S, relaying: Arc<Relaying>) -> Self {
        Self { inner, relaying, failed: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.relaying.is_crowded() {
            let mut piece = [0; limits::CROWDED_READ];
            let room = out.remaining().min(piece.len());
            let mut piece = ReadBuf::new(&mut piece[..room]);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut piece))?;
            out.put_slice(piece.filled());
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        loop {
            let so_far = out.filled().len();
            let read = Pin::new(&mut self.inner).poll_read(context, out);
            let got = out.filled().len() > before;
            match read {
                Poll::Ready(Ok(())) if out.filled().len() > so_far && out.remaining() > 0 => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) if got => {
                    self.failed = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if got => return Poll::Ready(Ok(())),
                other => return other,
            }
        }
    }
}

/// Writing is left as it is.
macro_rules! written_as_it_is {
    ($type:ident) => {
        impl<S: AsyncWrite + Unpin> AsyncWrite for $type<S> {
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

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_shutdown(context)
            }
        }
    };
}

written_as_it_is!(Ahead);
written_as_it_is!(Gathered);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What comes out, read in pieces of the size that TLS asks for.
    async fn through(sent: &[u8], relaying: &Arc<Relaying>) -> Vec<u8> {
        let (mut writer, reader) = tokio::io::duplex(100_000);
        let before = BytesMut::from(&sent[..7]);
        let ahead = Ahead::rewound(before, reader, limits::READ_AHEAD, Arc::clone(relaying));
        let mut gathered = Gathered::new(ahead, Arc::clone(relaying));
        let rest = sent[7..].to_vec();
        let write = tokio::spawn(async move { writer.write_all(&rest).await });
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match gathered.read(&mut piece).await.unwrap() {
                0 => break,
                count => received.extend_from_slice(&piece[..count]),
            }
        }
        write.await.unwrap().unwrap();
        let Gathered { inner, .. } = gathered;
        assert_eq!(inner.read.capacity(), 0, "what is over keeps no buffer");
        received
    }

    #[tokio::test]
    async fn every_byte_comes_in_its_order() {
        let relaying = Arc::new(Relaying::default());
        let bytes: Vec<u8> = (0..300_001_u32).map(|number| (number % 251) as u8).collect();
        for length in [7, 8, 4096, 4103, 40_000, 300_001] {
            assert_eq!(through(&bytes[..length], &relaying).await, &bytes[..length]);
        }
        let _crowd: Vec<_> = (0..=limits::WIDE_RESPONSES).map(|_| relaying.begin(None)).collect();
        assert_eq!(through(&bytes, &relaying).await, bytes);
    }
}
