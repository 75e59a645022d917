//! An internet: a name server, and a web server that is every host, with files, git repositories and
//! answers that show what they were sent.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// Where names are: addresses of the internet's, which nobody dials.
const THERE: [u8; 4] = [93, 184, 216, 34];
/// Where [`CLOSED`] is, and where that leads: to a port that is nobody's.
const NOWHERE: [u8; 4] = [93, 184, 216, 35];
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// A host at which nobody listens.
pub(super) const CLOSED: &str = "closed.example.com";
/// A host whose certificate is for another name.
pub(super) const WRONG: &str = "wrong.example.com";
/// The host of [`Internet::repositories`].
pub(super) const GIT: &str = "git.example.com";
/// The host that shows the credential that it was sent, as the path says.
pub(super) const MIRROR: &str = "mirror.example.com";

/// How long it takes to answer `/slow`: longer than an impatient sidecar waits.
const SLOW: Duration = Duration::from_secs(20);
/// So many events come of `/events`, ten a second.
pub(super) const EVENTS: usize = 150;
/// How long an impatient sidecar waits.
const PATIENCE_MS: u64 = 2_000;
/// A request for this path makes a sidecar panic.
pub(super) const PANIC: &str = "/panic";

/// A request that arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) host: String,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
}

impl Arrived {
    /// Every value of `Authorization`.
    pub(super) fn authorization(&self) -> Vec<String> {
        self.header("authorization")
    }

    /// Each of the fields of a name.
    pub(super) fn header(&self, name: &str) -> Vec<String> {
        let all = self.headers.get_all(name).iter();
        all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }
}

struct Shared {
    folder: PathBuf,
    arrived: Mutex<Vec<Arrived>>,
    asked: Mutex<Vec<String>>,
    bodies: Mutex<Vec<String>>,
}

pub(super) struct Internet {
    shared: Arc<Shared>,
    _folder: tempfile::TempDir,
    names: SocketAddr,
    secure: SocketAddr,
    plain: SocketAddr,
    root: Vec<u8>,
}

impl Internet {
    /// At this address of the host, until the test's process ends.
    pub(super) fn start(at: IpAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("bottle-internet-").tempdir().unwrap();
        let shared = Arc::new(Shared {
            folder: folder.path().to_owned(),
            arrived: Mutex::default(),
            asked: Mutex::default(),
            bodies: Mutex::default(),
        });
        let names = UdpSocket::bind((at, 0)).unwrap();
        let listen = || {
            let listener = TcpListener::bind((at, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let (secure_address, secure) = listen();
        let (plain_address, plain) = listen();
        let (root, config) = tls();
        let internet = Self {
            shared: Arc::clone(&shared),
            _folder: folder,
            names: names.local_addr().unwrap(),
            secure: secure_address,
            plain: plain_address,
            root,
        };
        let of_names = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = names.recv_from(&mut query) {
                if let Some((name, answer)) = resolve(&query[..length]) {
                    of_names.asked.lock().unwrap().push(name);
                    names.send_to(&answer, from).ok();
                }
            }
        });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let plain = tokio::net::TcpListener::from_std(plain).unwrap();
                let secure = tokio::net::TcpListener::from_std(secure).unwrap();
                let acceptor = TlsAcceptor::from(Arc::new(config));
                loop {
                    let shared = Arc::clone(&shared);
                    tokio::select! {
                        Ok((socket, _)) = plain.accept() => {
                            tokio::spawn(serve(socket, shared));
                        }
                        Ok((socket, _)) = secure.accept() => {
                            let acceptor = acceptor.clone();
                            tokio::spawn(async move {
                                if let Ok(socket) = acceptor.accept(socket).await {
                                    serve(socket, shared).await;
                                }
                            });
                        }
                    }
                }
            });
        });
        internet
    }

    /// Where it is on the host.
    pub(super) fn at(&self) -> IpAddr {
        self.names.ip()
    }

    /// Where it listens for plain HTTP.
    pub(super) fn plain_port(&self) -> u16 {
        self.plain.port()
    }

    /// What is laid over the documents that a test build writes: where the name server is, who
    /// vouches for the hosts, and where their addresses really lead.
    pub(super) fn overlay(&self) -> String {
        self.laid_over(None)
    }

    /// The same, for a sidecar that does not wait long for an upstream.
    pub(super) fn impatient_overlay(&self) -> String {
        self.laid_over(Some(PATIENCE_MS))
    }

    fn laid_over(&self, patience: Option<u64>) -> String {
        let at = |ip: [u8; 4], port: u16| SocketAddr::from((ip, port)).to_string();
        let dial: BTreeMap<String, SocketAddr> = [
            (at(THERE, 443), self.secure),
            (at(THERE, 80), self.plain),
            (at(NOWHERE, 443), NOBODY),
        ]
        .into();
        json!({
            "resolver": [self.names],
            "roots": [STANDARD.encode(&self.root)],
            "testing": { "dial": dial, "response_head_ms": patience, "panic_path": PANIC },
        })
        .to_string()
    }

    /// What a host answers at a path.
    pub(super) fn put(&self, host: &str, path: &str, content: impl AsRef<[u8]>) {
        let path = self.shared.folder.join(host).join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The same, of JSON.
    pub(super) fn put_json(&self, host: &str, path: &str, content: &Value) {
        self.put(host, path, content.to_string());
    }

    /// The folder of what [`GIT`] serves.
    pub(super) fn repositories(&self) -> PathBuf {
        let folder = self.shared.folder.join(GIT);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What has arrived since the last call.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.shared.arrived.lock().unwrap())
    }

    /// What vendors of models were asked since the last call.
    pub(super) fn bodies(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.bodies.lock().unwrap())
    }

    /// The names that were asked for since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }
}

async fn serve<S>(socket: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        answer(request, shared)
    });
    let builder = hyper::server::conn::http1::Builder::new();
    builder.serve_connection(TokioIo::new(socket), service).await.ok();
}

pub(super) type Body = BoxBody<Bytes, Infallible>;

pub(super) fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed()
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let host = head.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let arrived = Arrived {
        host: host.split(':').next().unwrap_or_default().to_owned(),
        method: head.method.to_string(),
        target: head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
        headers: head.headers,
    };
    shared.arrived.lock().unwrap().push(arrived.clone());
    let (path, query) = arrived.target.split_once('?').unwrap_or((&arrived.target, ""));
    if path == "/slow" {
        tokio::time::sleep(SLOW).await;
    }
    Ok(match arrived.host.as_str() {
        MIRROR => mirror(path, &arrived),
        GIT => {
            let folder = shared.folder.join(GIT);
            let (path, query) = (path.to_owned(), query.to_owned());
            let run = move || git(&folder, &arrived, &path, &query, &body);
            tokio::task::spawn_blocking(run).await.unwrap()
        }
        host => {
            let folder = shared.folder.join(host);
            let of_vendor = || super::vendors::answer(host, path, &body);
            match folder.join(path.trim_start_matches('/')).exists() {
                true => file(&folder, path),
                false => match of_vendor() {
                    Some(answer) => {
                        let body = String::from_utf8_lossy(&body).into_owned();
                        shared.bodies.lock().unwrap().push(body);
                        answer
                    }
                    None => file(&folder, path),
                },
            }
        }
    })
}

fn file(folder: &Path, path: &str) -> Response<Body> {
    let mut wanted = folder.join(path.trim_start_matches('/'));
    if wanted.is_dir() {
        wanted.push("index");
    }
    let response = Response::builder();
    let kind = if path.starts_with("/simple/") { "text/html" } else { "application/json" };
    let response = match std::fs::read(wanted) {
        Ok(content) => response.header("content-type", kind).body(full(content)),
        Err(_) => response.status(404).body(full("nothing is here\n")),
    };
    response.unwrap()
}

/// Shows the credential in a way that the path says.
fn mirror(path: &str, arrived: &Arrived) -> Response<Body> {
    let shown = arrived.authorization().concat();
    let response = Response::builder();
    let response = match path {
        "/header" => response.header("x-shown", &shown).body(full("see the header\n")),
        "/halves" => {
            let (first, second) = shown.split_at(shown.len() / 2);
            response.body(pieces(&["before ", first, second, " after\n"], 30))
        }
        "/base64" => response.body(full(STANDARD.encode(&shown))),
        "/hex" => {
            let hex: String = shown.bytes().map(|byte| format!("{byte:02x}")).collect();
            response.body(full(hex))
        }
        "/gzip" => {
            let mut writer =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(shown.as_bytes()).unwrap();
            response.header("content-encoding", "gzip").body(full(writer.finish().unwrap()))
        }
        "/events" => {
            let pieces: Vec<String> =
                (0..EVENTS).map(|number| format!("data: {number}\n\n")).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            response.header("content-type", "text/event-stream").body(self::pieces(&pieces, 100))
        }
        "/fails" => response.status(500).body(full(format!("no: {shown}\n"))),
        _ => response.body(full(format!("{} {path} {shown}\n", arrived.method))),
    };
    response.unwrap()
}

/// A body that comes piece by piece.
pub(super) fn pieces(pieces: &[&str], pause_ms: u64) -> Body {
    let pieces: VecDeque<Bytes> =
        pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for piece in pieces {
            if sender.send(Ok::<_, Infallible>(Frame::data(piece))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    });
    let receiver = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    BodyExt::boxed(StreamBody::new(receiver))
}

/// git's own server, as a web server runs it.
fn git(folder: &Path, arrived: &Arrived, path: &str, query: &str, body: &[u8]) -> Response<Body> {
    let header = |name: &str| {
        arrived.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let mut command = std::process::Command::new("git");
    command.arg("http-backend").env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (name, value) in [
        ("GIT_HTTP_EXPORT_ALL", "1"),
        ("PATH_INFO", path),
        ("QUERY_STRING", query),
        ("REQUEST_METHOD", &arrived.method),
        ("CONTENT_TYPE", header("content-type")),
        ("HTTP_CONTENT_ENCODING", header("content-encoding")),
        ("GIT_PROTOCOL", header("git-protocol")),
        ("REMOTE_USER", "somebody"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
    ] {
        command.env(name, value);
    }
    command.env("GIT_PROJECT_ROOT", folder).env("CONTENT_LENGTH", body.len().to_string());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("git is there");
    let mut stdin = child.stdin.take().unwrap();
    let body = body.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&body).ok());
    let output = child.wait_with_output().unwrap().stdout;
    feed.join().unwrap();
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").expect("it says a head");
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        response = match name {
            "Status" => response.status(&value[..3]),
            name => response.header(name, value),
        };
    }
    response.body(full(output[end + 4..].to_vec())).unwrap()
}

/// The name that is asked for, and an answer: an address for a query of type A, else none.
fn resolve(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut name) = (12, String::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name += std::str::from_utf8(query.get(at + 1..at + 1 + length)?).ok()?;
        at += length + 1;
    }
    let question = query.get(12..at + 5)?;
    let is_a = query.get(at + 1..at + 3)? == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(if name == CLOSED { NOWHERE } else { THERE });
    }
    Some((name, answer))
}

/// Signs for the name that a client asks for.
#[derive(Debug)]
struct Signer {
    issuer: Issuer<'static, KeyPair>,
}

impl ResolvesServerCert for Signer {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = match hello.server_name()? {
            WRONG => "other.example.org",
            name => name,
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = rustls::crypto::ring::default_provider();
        let chain = CertifiedKey::from_der(vec![leaf.der().clone()], key, &provider);
        Some(Arc::new(chain.unwrap()))
    }
}

/// Who vouches for every host, in DER, and what serves them.
fn tls() -> (Vec<u8>, ServerConfig) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().der().to_vec();
    let signer = Signer { issuer: Issuer::new(params, key) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(signer));
    (root, config)
}
