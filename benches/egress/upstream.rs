//! A TLS server on loopback that answers with bodies of a given size, over HTTP/1.1 and HTTP/2, and a name
//! server that knows it by a public address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// The name of the upstream; the rivals know it as loopback's.
pub(crate) const HOST: &str = "localhost.example.com";

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// The authority that signed its certificate, in DER.
    pub(crate) root: Vec<u8>,
    pub(crate) names: SocketAddr,
}

pub(crate) async fn start() -> Upstream {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().der().to_vec();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned(), "localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let io = TokioIo::new(stream);
                let service = service_fn(answer);
                // Whoever goes away is no failure of the server's.
                if http2 {
                    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.initial_stream_window_size(1 << 20);
                    server.initial_connection_window_size(8 << 20);
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).await;
                }
            });
        }
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut query).await.unwrap();
            let _ = socket.send_to(&answered(&query[..length]), from).await;
        }
    });
    Upstream { address, root, names }
}

/// A response that is a gzip of a gzip of ten gigabytes.
static BOMB: LazyLock<Bytes> = LazyLock::new(super::attack::bomb);

/// Bytes at once, or as they come.
type Body = Either<Full<Bytes>, BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>) -> std::result::Result<Response<Body>, Infallible> {
    static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let mut response = Response::new(());
    let body = match path.as_str() {
        "never" => std::future::pending().await,
        "bomb" => {
            let coding = hyper::header::HeaderValue::from_static("gzip, gzip");
            response.headers_mut().insert("content-encoding", coding);
            Either::Left(Full::new(BOMB.clone()))
        }
        "forever" => Either::Right(ticks()),
        size => {
            let size = size.parse().unwrap_or(0).min(BODY.len());
            Either::Left(Full::new(Bytes::from_static(&BODY[..size])))
        }
    };
    Ok(response.map(|()| body))
}

/// A line every fifth of a second, without end.
fn ticks() -> BoxBody<Bytes, Infallible> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while sender.send(Ok(Frame::data(Bytes::from_static(b"tick\n")))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let receiver = tokio::sync::Mutex::new(receiver);
    StreamBody::new(Box::pin(stream::unfold(receiver, |receiver| async move {
        let frame = receiver.lock().await.recv().await?;
        Some((frame, receiver))
    })))
    .boxed()
}

/// Every name has the one public address, and no IPv6.
fn answered(query: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += usize::from(query[end]) + 1;
    }
    let address = query[end + 1..end + 3] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(&query[12..end + 5]);
    if address {
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 216, 34]);
    }
    answer
}
