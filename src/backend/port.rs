//! Ports inside machines: connections to what listens there, one at a time.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use super::BackendError;

/// Both ways of one connection. Shutting it down ends the way in, and the way out goes on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A port on the loopback of a machine.
#[async_trait]
pub trait Port: Send + Sync {
    /// A new connection; `None`: nothing listens there now.
    ///
    /// # Errors
    /// [`BackendError::NotRunning`] when the machine has ended; else why there is no way to it.
    async fn connect(&self) -> Result<Option<Box<dyn Stream>>, BackendError>;

    /// Takes away what was made for it. What is not taken away so goes by itself.
    async fn close(&self) {}
}

/// What is passed on at once, and waits in between.
pub(super) const PIECE: usize = 64 * 1024;

/// A connection of what is read here and written there. `write` is dropped when its end is shut down, for some ways have no
/// other end.
pub(super) fn joined(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    until: impl Future<Output = ()> + Send + 'static,
) -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIECE);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        let (mut read, mut write) = (read, write);
        let sending = async {
            if tokio::io::copy(&mut from_near, &mut write).await.is_ok() {
                drop(write.shutdown().await);
            }
            drop(write);
        };
        let receiving = async {
            // How it ends is seen by whoever reads.
            drop(tokio::io::copy(&mut read, &mut to_near).await);
            drop(to_near.shutdown().await);
        };
        tokio::join!(sending, receiving);
        until.await;
    });
    near
}
