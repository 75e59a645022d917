//! A tar that comes in pieces, for whoever reads or writes it on a thread that may wait.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// How large a piece is that is sent, in bytes.
const PIECE: usize = 256 << 10;

/// Reads the pieces one after the other. Their end is the end of the file.
pub struct Pieces {
    next: Box<dyn FnMut() -> Option<io::Result<Bytes>> + Send>,
    piece: Bytes,
}

impl From<mpsc::Receiver<Bytes>> for Pieces {
    fn from(mut pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { next: Box::new(move || pieces.blocking_recv().map(Ok)), piece: Bytes::new() }
    }
}

impl From<mpsc::Receiver<io::Result<Bytes>>> for Pieces {
    fn from(mut pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { next: Box::new(move || pieces.blocking_recv()), piece: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match (self.next)() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.piece.len());
        into[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Sends what is written, piece by piece.
pub struct Outgoing {
    send: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

impl From<mpsc::Sender<io::Result<Bytes>>> for Outgoing {
    fn from(send: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { send, piece: BytesMut::with_capacity(PIECE) }
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (PIECE - self.piece.len()).min(bytes.len());
        self.piece.extend_from_slice(&bytes[..room]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        self.send.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
