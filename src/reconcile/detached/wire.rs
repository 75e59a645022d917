//! What goes between a run's holder and those who are attached: frames of a kind, a length and a content.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::End;
use crate::reconcile::socket;

/// The socket, in the folder of its run.
pub(super) const SOCKET: &str = "socket";

/// The version of what is said.
const VERSION: u32 = 1;

/// No content is longer.
const LONGEST: usize = 1 << 20;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first thing that whoever attaches says.
    Hello,
    /// What was typed.
    Input(Vec<u8>),
    /// Rows and columns of a terminal.
    Size(u16, u16),
    /// What the run wrote.
    Output(Vec<u8>),
    /// The run has ended so.
    Ended(End),
    /// It is not attached, and why.
    Refused(String),
}

#[derive(Serialize, Deserialize)]
struct Hello {
    version: u32,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Frame {
    /// As it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Self::Hello => (b'h', json(&Hello { version: VERSION })),
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::Size(rows, columns) => {
                (b's', [rows.to_be_bytes(), columns.to_be_bytes()].concat())
            }
            Self::Output(bytes) => (b'o', bytes.clone()),
            Self::Ended(end) => (b'e', json(end)),
            Self::Refused(why) => (b'r', why.clone().into_bytes()),
        };
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(content.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&content);
        bytes
    }

    /// Reads one; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        if from.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > LONGEST {
            return Err(invalid("a frame is too long"));
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content).await?;
        Ok(Some(match head[0] {
            b'h' => {
                let hello: Hello = serde_json::from_slice(&content)?;
                if hello.version != VERSION {
                    return Err(invalid("it is of another version of bottle"));
                }
                Self::Hello
            }
            b'i' => Self::Input(content),
            b's' => match content[..] {
                [a, b, c, d] => Self::Size(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
                _ => return Err(invalid("a size has four bytes")),
            },
            b'o' => Self::Output(content),
            b'e' => Self::Ended(serde_json::from_slice(&content)?),
            b'r' => Self::Refused(String::from_utf8_lossy(&content).into_owned()),
            _ => return Err(invalid("a frame is of no known kind")),
        }))
    }
}

/// Connects to the holder of a run.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(folder: &Path) -> io::Result<UnixStream> {
    socket::connect(folder, SOCKET).await
}

/// Listens where runs are attached to.
pub(super) fn listen(folder: &Path) -> io::Result<UnixListener> {
    socket::listen(folder, SOCKET)
}

#[cfg(test)]
mod tests {
    use super::super::How;
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_read() {
        let end = End::now(How::Exited, Some(3), None);
        let frames = [
            Frame::Hello,
            Frame::Input(b"\x03".to_vec()),
            Frame::Size(30, 100),
            Frame::Output(Vec::new()),
            Frame::Ended(end),
            Frame::Refused("no".to_owned()),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        let mut from = &bytes[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut from).await.unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        for bytes in [&b"x\0\0\0\0"[..], b"o\xff\0\0\0", b"s\0\0\0\x01a", b"o\0\0", b"h\0\0\0\x01{"]
        {
            assert!(Frame::read(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
        let other = Frame::read(&mut &b"h\0\0\0\x0d{\"version\":2}"[..]).await.unwrap_err();
        assert!(other.to_string().contains("another version"), "{other}");
    }
}
