//! The sidecar's speed: requests through a tunnel, intercepted and searched, beside the same requests
//! without it. All on loopback: `cargo bench --features testing --bench sidecar`.
#![expect(clippy::disallowed_methods, reason = "a benchmark starts programs and reads the clock")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may fail so")]
#![allow(clippy::print_stdout, reason = "it says what it measured")]
#![allow(missing_docs, dead_code, reason = "it shares files with the tests and uses part of them")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[path = "../tests/it/sidecar/client.rs"]
mod client;
#[path = "../tests/it/sidecar/names.rs"]
mod names;
#[path = "../tests/it/sidecar/upstream.rs"]
mod upstream;
#[path = "../tests/it/sidecar/world.rs"]
mod world;

use upstream::{Certificate, Upstream};
use world::{World, allowing};

const HOST: &str = "api.example.com";
const TIME: Duration = Duration::from_secs(4);

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn ask(&mut self, path: &str, body: &Bytes) -> usize {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder().method(method).header("user-agent", "bench/1.0");
        let response = match self {
            Self::Http1(sender) => {
                let request = request.uri(path).header("host", HOST);
                sender.ready().await.unwrap();
                sender.send_request(request.body(Full::new(body.clone())).unwrap()).await
            }
            Self::Http2(sender) => {
                let request = request.uri(format!("https://{HOST}{path}"));
                sender.ready().await.unwrap();
                sender.send_request(request.body(Full::new(body.clone())).unwrap()).await
            }
        };
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes().len()
    }
}

async fn connect(world: &World, through: bool, http2: bool) -> Sender {
    let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    let stream: Box<dyn client::Stream> = if through {
        let (client, _) = world.connect(&format!("{HOST}:443")).await;
        Box::new(client.secure(&world.ca.certificate, HOST, &[protocol]).await.unwrap())
    } else {
        let socket = TcpStream::connect(world.upstream.secure).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.upstream.root.clone().into()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(HOST).unwrap();
        Box::new(TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap())
    };
    let stream = TokioIo::new(stream);
    if http2 {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        Sender::Http2(sender)
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Sender::Http1(sender)
    }
}

/// So many connections ask the same over and over again.
async fn measure(
    world: &World,
    what: &str,
    connections: usize,
    http2: bool,
    path: &str,
    body: &Bytes,
) {
    let mut lines = Vec::new();
    for through in [false, true] {
        let mut tasks = Vec::new();
        let begun = Instant::now();
        for _ in 0..connections {
            let mut sender = connect(world, through, http2).await;
            let (path, body) = (path.to_owned(), body.clone());
            tasks.push(tokio::spawn(async move {
                let (mut times, mut bytes) = (Vec::new(), 0);
                while begun.elapsed() < TIME {
                    let asked = Instant::now();
                    bytes += sender.ask(&path, &body).await + body.len();
                    times.push(asked.elapsed());
                }
                (times, bytes)
            }));
        }
        let (mut times, mut bytes) = (Vec::new(), 0);
        for task in tasks {
            let (of_task, more) = task.await.unwrap();
            times.extend(of_task);
            bytes += more;
        }
        let elapsed = begun.elapsed().as_secs_f64();
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        lines.push(format!(
            "{:>8.0} req/s {:>7.1} MB/s  p50 {:>6.3} ms  p99 {:>6.3} ms",
            times.len() as f64 / elapsed,
            bytes as f64 / elapsed / 1e6,
            at(0.5),
            at(0.99)
        ));
    }
    println!("{what:<34} direct  {}\n{:<34} through {}", lines[0], "", lines[1]);
}

fn resident(world: &World) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.child.id())).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    format!("{} {}", line("VmRSS:"), line("VmHWM:")).replace('\t', " ")
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world =
            World::with(allowing(&[HOST]), Upstream::start(Certificate::Good).await, &[]).await;
        println!("idle: {}", resident(&world));
        let none = Bytes::new();
        let text = |length: usize| {
            let words = "let answer = serde_json::from_str::<Value>(&line).expect(\"JSON\");\n";
            Bytes::from(words.repeat(length / words.len() + 1).as_bytes()[..length].to_vec())
        };
        let (small, large) = (text(1024), text(1 << 20));
        for http2 in [false, true] {
            let name = if http2 { "h2" } else { "h1" };
            for connections in [1, 16] {
                let what = |of: &str| format!("{name} {connections:>2} conn {of}");
                measure(&world, &what("1 KiB down"), connections, http2, "/bytes?1024", &none)
                    .await;
                measure(&world, &what("1 KiB up"), connections, http2, "/bytes?10", &small).await;
                world.upstream.forget();
                measure(&world, &what("1 MiB down"), connections, http2, "/bytes?1048576", &none)
                    .await;
                measure(&world, &what("1 MiB up"), connections, http2, "/bytes?10", &large).await;
                world.upstream.forget();
            }
        }
        println!("after: {}", resident(&world));
        let begun = Instant::now();
        let mut world = world;
        for _ in 0..20 {
            world.load().await.unwrap();
        }
        println!("a reload: {:?}", begun.elapsed() / 20);
        println!("after reloads: {}", resident(&world));
    });
}
