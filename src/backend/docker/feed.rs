//! A request's body that a blocking writer makes while it is sent.

use std::future::Future;
use std::io::{self, Write};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::backend::BackendError;

/// Bytes that are gathered before they are sent.
const CHUNK: usize = 256 * 1024;

/// Chunks that may wait for the engine.
const WAITING: usize = 4;

/// The writing end.
pub(super) struct Feed {
    buffer: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Feed {
    fn send(&mut self, chunk: io::Result<Bytes>) -> io::Result<()> {
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.send(Ok(chunk))
    }
}

/// Runs `write` on a thread of its own; what it writes is the stream. If it fails, the stream ends
/// in an error, so that the engine never takes half of it for the whole.
pub(super) fn channel(
    write: impl FnOnce(&mut Feed) -> anyhow::Result<()> + Send + 'static,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, JoinHandle<anyhow::Result<()>>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let writer = tokio::task::spawn_blocking(move || {
        let mut feed = Feed { buffer: Vec::new(), sender };
        let done = write(&mut feed).and_then(|()| Ok(feed.flush()?));
        if let Err(error) = &done {
            // The receiver is gone when the engine hung up first.
            drop(feed.send(Err(io::Error::other(error.to_string()))));
        }
        done
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    (stream, writer)
}

/// The outcome of sending: the writer's own error says more than that of the broken request.
pub(super) async fn finish(
    writer: JoinHandle<anyhow::Result<()>>,
    sending: impl Future<Output = Result<(), BackendError>>,
) -> Result<(), BackendError> {
    let sent = sending.await;
    let written = writer.await.unwrap_or_else(|e| Err(e.into()));
    match (sent, written) {
        (Ok(()), Ok(())) => Ok(()),
        (sent, Err(written)) => {
            let hung_up = written
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
            match sent {
                Err(sent) if hung_up => Err(sent),
                // It answered before the end of what it was sent, and was content.
                Ok(()) if hung_up => Ok(()),
                _ => Err(BackendError::failed("reading the image", written)),
            }
        }
        (Err(sent), Ok(())) => Err(sent),
    }
}
