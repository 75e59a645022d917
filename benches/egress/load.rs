//! The load: connections that ask again and again, each request timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxies::Proxy;
use super::upstream::Upstream;

/// What is spoken within the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// By which it is chosen.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
        }
    }
}

/// How much is asked for, and by how many at once.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// By which it is chosen.
    pub(crate) id: &'static str,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
}

impl Shape {
    pub(crate) const SMALL: Self =
        Self { name: "1 KiB", id: "1kib", bytes: 1 << 10, connections: 8 };
    pub(crate) const LARGE: Self =
        Self { name: "1 MiB", id: "1mib", bytes: 1 << 20, connections: 2 };
}

/// What a round showed. Times in microseconds.
pub(crate) struct Result {
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The proxy's own core time for one request, in microseconds.
    pub(crate) core: f64,
}

pub(crate) async fn run(
    upstream: &Upstream,
    proxy: &Proxy,
    protocol: Protocol,
    shape: Shape,
    round: Duration,
) -> Result {
    let mut clients = Vec::new();
    for _ in 0..shape.connections {
        clients.push(Client::connect(upstream, proxy, protocol).await.unwrap());
    }
    let before = proxy.core_time();
    let begun = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < round {
                    let asked = Instant::now();
                    let received = client.get(shape.bytes).await.unwrap();
                    assert_eq!(received, shape.bytes);
                    times.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let spent = (proxy.core_time() - before).as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = times.len() as f64;
    Result { rate: count / elapsed, p50: at(50), p99: at(99), core: spent * 1e6 / count }
}

/// A clean text of this size.
fn text(size: usize) -> Bytes {
    let line = b"fn main() { let answer: u32 = 41 + 1; println!(\"{answer} of {}\", 7); }\n";
    line.iter().copied().cycle().take(size).collect::<Vec<u8>>().into()
}

/// Sends clean bodies of this size on so many connections; returns bytes a second.
pub(crate) async fn uploads(
    upstream: &Upstream,
    proxy: &Proxy,
    protocol: Protocol,
    (size, connections): (usize, usize),
    round: Duration,
) -> f64 {
    let body = text(size);
    let sent = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(upstream, proxy, protocol).await.unwrap());
    }
    let begun = Instant::now();
    let tasks = clients.into_iter().map(|mut client| {
        let (body, sent) = (body.clone(), sent.clone());
        tokio::spawn(async move {
            while begun.elapsed() < round {
                client.post(body.clone()).await.unwrap();
                sent.fetch_add(body.len() as u64, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let elapsed = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let sent = sent.load(Ordering::Relaxed) as f64;
    sent / elapsed
}

/// Sends a clean body of this size with curl, so many times at once; returns bytes a second. None: there
/// is no curl.
pub(crate) async fn curl(
    upstream: &Upstream,
    proxy: &Proxy,
    protocol: Protocol,
    (size, at_once): (usize, usize),
) -> Option<f64> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, text(size)).unwrap();
    let port = upstream.address.port();
    let (url, through) = match proxy.address {
        Some(address) => {
            let port = proxy.target.rsplit(':').next().unwrap();
            (format!("https://{}:{port}/0", proxy.host), format!("http://{address}"))
        }
        None => (format!("https://{}:{port}/0", proxy.host), String::new()),
    };
    let begun = Instant::now();
    let mut all = Vec::new();
    for _ in 0..at_once {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sSk", "-o", "/dev/null", "-w", "%{http_code}", "-x", &through]);
        command.arg(if protocol == Protocol::Http1 { "--http1.1" } else { "--http2" });
        command.args(["-H", "Expect:", "--data-binary"]).arg(format!("@{}", file.display()));
        let child = command.arg(&url).stdout(std::process::Stdio::piped()).spawn().ok()?;
        all.push(child.wait_with_output());
    }
    for child in all {
        assert_eq!(child.await.unwrap().stdout, b"200");
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let sent = (size * at_once) as f64;
    Some(sent / begun.elapsed().as_secs_f64())
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What an attack may keep from being had.
pub(crate) type Attempt<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) struct Client {
    sender: Sender,
    host: &'static str,
}

impl Client {
    pub(crate) async fn connect(
        upstream: &Upstream,
        proxy: &Proxy,
        protocol: Protocol,
    ) -> Attempt<Self> {
        let stream = tunnel(upstream, proxy).await?;
        let stream = secure(stream, proxy.host, protocol).await?;
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(1 << 20);
                builder.initial_connection_window_size(8 << 20);
                let (sender, connection) = builder.handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, host: proxy.host })
    }

    pub(crate) async fn get(&mut self, bytes: usize) -> Attempt<usize> {
        self.send("GET", &format!("/{bytes}"), Bytes::new()).await
    }

    async fn post(&mut self, body: Bytes) -> Attempt<usize> {
        self.send("POST", "/0", body).await
    }

    async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Attempt<usize> {
        let request = Request::builder().method(method);
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = request.uri(path).header("host", self.host);
                sender.ready().await?;
                sender.send_request(request.body(Full::new(body))?).await?
            }
            Sender::Http2(sender) => {
                let uri = format!("https://{}{path}", self.host);
                let request = request.uri(uri).version(Version::HTTP_2);
                sender.ready().await?;
                sender.send_request(request.body(Full::new(body))?).await?
            }
        };
        if response.status() != 200 {
            return Err(response.status().to_string().into());
        }
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(received)
    }
}

/// A connection to the upstream, through the proxy if there is one.
pub(crate) async fn tunnel(upstream: &Upstream, proxy: &Proxy) -> Attempt<TcpStream> {
    let Some(address) = proxy.address else {
        let stream = TcpStream::connect(upstream.address).await?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    };
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let ask = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", proxy.target);
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(&answer).into());
    }
    Ok(stream)
}

pub(crate) async fn secure(
    stream: TcpStream,
    host: &str,
    protocol: Protocol,
) -> Attempt<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Each proxy has an authority of its own; who signed plays no part in what is measured here.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
