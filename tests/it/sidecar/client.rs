//! A client that sends whatever bytes a test wants.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer than anything here takes: what is searched aside gives way to all else that a machine does.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection.
pub(super) struct Client {
    pub(super) stream: Box<dyn Stream>,
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Why it was refused.
    pub(super) fn code(&self) -> &str {
        self.header("x-bottle-block").unwrap_or("none")
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), received: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whoever refuses early may have closed.
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// The next answer, whole.
    pub(super) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer")
    }

    /// The next answer, or nothing if the connection ends before it is whole.
    pub(super) async fn try_answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer()).await.expect("an answer in time")
    }

    /// The head of the next answer, of which no body is read.
    pub(super) async fn head(&mut self) -> Answer {
        let read = self.read_head();
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").expect("a head")
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Answer { status, headers, body: Vec::new() })
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut answer = self.read_head().await?;
        if answer.status == 100 {
            return Some(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).ok()?;
                if size == 0 {
                    loop {
                        let line = self.line().await?;
                        match line.split_once(':') {
                            Some((name, value)) => {
                                answer.headers.push((name.to_owned(), value.trim().to_owned()));
                            }
                            None => return Some(answer),
                        }
                    }
                }
                answer.body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
            }
        }
        match answer.header("content-length") {
            Some(length) => {
                let length = length.parse().ok()?;
                answer.body = self.exactly(length).await?;
            }
            None if matches!(answer.status, 204 | 304) => {}
            None => {
                while self.more().await.is_some() {}
                answer.body = std::mem::take(&mut self.received);
            }
        }
        Some(answer)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|part| part == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 2);
                return Some(line);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.received.len() < count {
            self.more().await?;
        }
        Some(self.received.drain(..count).collect())
    }

    /// Some more bytes of whatever comes.
    pub(super) async fn more(&mut self) -> Option<usize> {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes).await {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                Some(count)
            }
        }
    }

    /// All that comes until the connection ends.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let read = async { while self.more().await.is_some() {} };
        tokio::time::timeout(PATIENCE, read).await.expect("the connection ends");
        std::mem::take(&mut self.received)
    }

    /// So many bytes, or nothing if the connection ends before them.
    pub(super) async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.exactly(count)).await.expect("bytes in time")
    }

    /// What came already and was not taken.
    pub(super) fn so_far(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Begins TLS on it.
    pub(super) async fn secure(
        self,
        ca: &str,
        name: &str,
        protocols: &[&[u8]],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config(ca, protocols)).connect(name, self.stream).await
    }
}

/// Trusts one sandbox's authority and nobody else.
pub(super) fn config(ca: &str, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

pub(super) async fn dial(address: std::net::SocketAddr) -> Client {
    Client::new(TcpStream::connect(address).await.expect("the sidecar listens"))
}
