//! How a connection goes through a command's stdin and stdout: those end together on some engines, so each way has an end of its
//! own. First comes one byte that says whether there is a connection; then pieces, each behind its length, and the last is
//! empty.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use super::port::PIECE;

/// There is a connection.
pub(super) const CONNECTED: u8 = b'+';
/// Nothing listens there.
const REFUSED: u8 = b'-';

/// For a connection on the loopback.
const DEADLINE: Duration = Duration::from_secs(10);

/// The command: a connection to a port of this network's loopback on stdin and stdout.
///
/// # Errors
/// When stdin or stdout fail.
pub fn run(port: u16) -> io::Result<()> {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let dialled = loopbacks
        .into_iter()
        .find_map(|ip| TcpStream::connect_timeout(&SocketAddr::new(ip, port), DEADLINE).ok());
    let mut out = io::stdout().lock();
    let Some(socket) = dialled else {
        out.write_all(&[REFUSED])?;
        return out.flush();
    };
    socket.set_nodelay(true)?;
    out.write_all(&[CONNECTED])?;
    out.flush()?;
    drop(out);
    carry(socket)
}

/// Carries a connection that there is on stdin and stdout.
///
/// # Errors
/// When stdout fails, for whoever asked for it is gone.
pub fn carry(mut socket: TcpStream) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut inward = socket.try_clone()?;
    let sending = std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut piece = vec![0; PIECE];
        loop {
            let mut length = [0; 4];
            if input.read_exact(&mut length).is_err() {
                // Whoever asked for it is gone.
                drop(inward.shutdown(Shutdown::Both));
                return;
            }
            let mut left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if left == 0 {
                drop(inward.shutdown(Shutdown::Write));
                return;
            }
            while left > 0 {
                let now = left.min(PIECE);
                if input.read_exact(&mut piece[..now]).is_err()
                    || inward.write_all(&piece[..now]).is_err()
                {
                    drop(inward.shutdown(Shutdown::Both));
                    return;
                }
                left -= now;
            }
        }
    });
    let mut piece = vec![0; PIECE];
    loop {
        let length = match socket.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A connection that is reset has no more to say, either.
            result => result.unwrap_or(0),
        };
        let header = u32::try_from(length).unwrap_or(0).to_be_bytes();
        out.write_all(&header)?;
        out.write_all(&piece[..length])?;
        out.flush()?;
        if length == 0 {
            break;
        }
    }
    // The other way may go on.
    drop(sending.join());
    Ok(())
}

/// The other side of it, behind the first byte.
pub(super) fn unframed(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
) -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIECE);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        let (mut read, mut write) = (read, write);
        let sending = async {
            let mut piece = vec![0; PIECE];
            loop {
                let length = from_near.read(&mut piece).await?;
                let header = u32::try_from(length).map_err(io::Error::other)?.to_be_bytes();
                write.write_all(&header).await?;
                write.write_all(&piece[..length]).await?;
                write.flush().await?;
                if length == 0 {
                    return Ok::<(), io::Error>(());
                }
            }
        };
        let receiving = async {
            loop {
                let length = u64::from(read.read_u32().await?);
                if length == 0 {
                    return to_near.shutdown().await;
                }
                let copied = tokio::io::copy(&mut (&mut read).take(length), &mut to_near).await?;
                if copied != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        // What fails one way ends both: dropped, it ends the command.
        drop(tokio::try_join!(sending, receiving));
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (read, write) = tokio::io::split(near);
        let (mut their_read, mut their_write) = tokio::io::split(far);
        let mut stream = unframed(read, write);
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut sent = vec![0; 16];
        their_read.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, b"\0\0\0\x08question\0\0\0\0");
        their_write.write_all(b"\0\0\0\x03ans\0\0\0\x03wer\0\0\0\0").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
