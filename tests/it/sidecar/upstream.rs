//! An upstream that remembers what reached it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) method: String,
    /// As it was written, with its query.
    pub(super) target: String,
    pub(super) version: hyper::Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The body ended as it should.
    pub(super) whole: bool,
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Arrived>>,
    /// Those whose bodies still arrive.
    open: Mutex<Vec<Arc<Mutex<Arrived>>>>,
    connections: AtomicU64,
}

pub(super) struct Upstream {
    pub(super) secure: SocketAddr,
    pub(super) plain: SocketAddr,
    /// In DER: what vouches for it.
    pub(super) root: Vec<u8>,
    seen: Arc<Seen>,
}

/// How its certificate is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificate {
    /// For whatever name it is asked.
    Good,
    /// By nobody that anyone knows.
    Unknown,
    WrongName,
    Expired,
    /// By itself.
    SelfSigned,
    /// The same, as `openssl req -x509` makes one: an authority's, without a name of a host.
    SelfSignedAuthority,
    /// By an authority between it and the one that is known, which it does not show.
    Incomplete,
}

impl Upstream {
    /// With HTTP/2 and HTTP/1.1.
    pub(super) async fn start(certificate: Certificate) -> Self {
        Self::with(certificate, &[b"h2", b"http/1.1"]).await
    }

    pub(super) async fn with(certificate: Certificate, protocols: &[&[u8]]) -> Self {
        let seen = Arc::new(Seen::default());
        let (root, mut config) = tls(certificate);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let secure = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            secure: secure.local_addr().unwrap(),
            plain: plain.local_addr().unwrap(),
            root,
            seen: Arc::clone(&seen),
        };
        let of_plain = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = plain.accept().await {
                of_plain.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket, false, Arc::clone(&of_plain)));
            }
        });
        tokio::spawn(async move {
            while let Ok((socket, _)) = secure.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        let http2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(socket, http2, seen).await;
                    }
                });
            }
        });
        upstream
    }

    /// One that answers every connection with these bytes and ends it, whatever it is asked. In
    /// them `{token}` is the credential that it was sent, `{base64}` and `{hex}` that in another
    /// spelling, `{chunks}` the same in chunks, and `{authorization}` the whole field.
    pub(super) async fn saying(reply: &'static str) -> Self {
        let seen = Arc::new(Seen::default());
        let (root, mut config) = tls(Certificate::Good);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        say(socket, reply).await;
                    }
                });
            }
        });
        Self { secure: address, plain: address, root, seen }
    }

    /// The same of one that closes with what it has not read still there, so that its system resets the
    /// connection behind the answer.
    pub(super) async fn abrupt(reply: &'static str) -> Self {
        let seen = Arc::new(Seen::default());
        let (root, mut config) = tls(Certificate::Good);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                    // What is written is sent at once, whatever is not acknowledged yet.
                    socket.set_nodelay(true).unwrap();
                    let Ok(mut socket) = acceptor.accept(socket).await else { return };
                    let mut head = [0; 1];
                    if socket.read_exact(&mut head).await.is_ok() {
                        let _ = socket.write_all(reply.as_bytes()).await;
                        let _ = socket.flush().await;
                        // Until more comes than was read.
                        let _ = socket.get_ref().0.readable().await;
                    }
                });
            }
        });
        Self { secure: address, plain: address, root, seen }
    }

    /// One that agrees to every WebSocket, remembers what it reads of messages, and sends each back. What some
    /// of them ask for is below, in [`sends`].
    pub(super) async fn websocket() -> Self {
        let seen = Arc::new(Seen::default());
        let (root, mut config) = tls(Certificate::Good);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let secure = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            secure: secure.local_addr().unwrap(),
            plain: plain.local_addr().unwrap(),
            root,
            seen: Arc::clone(&seen),
        };
        let of_plain = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = plain.accept().await {
                tokio::spawn(converse(socket, Arc::clone(&of_plain)));
            }
        });
        tokio::spawn(async move {
            while let Ok((socket, _)) = secure.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        let _ = converse(socket, seen).await;
                    }
                });
            }
        });
        upstream
    }

    /// All that has arrived.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// What has arrived of requests that are answered as they arrive.
    pub(super) fn open(&self) -> Vec<Arrived> {
        self.seen.open.lock().unwrap().iter().map(|one| one.lock().unwrap().clone()).collect()
    }

    /// The one request that has arrived.
    #[track_caller]
    pub(super) fn one(&self) -> Arrived {
        let arrived = self.arrived();
        assert_eq!(arrived.len(), 1, "{arrived:#?}");
        arrived[0].clone()
    }

    pub(super) fn forget(&self) {
        self.seen.requests.lock().unwrap().clear();
    }

    /// The one request that arrives in time.
    pub(super) async fn wait_for_one(&self) -> Arrived {
        for _ in 0..500 {
            if !self.arrived().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.one()
    }

    pub(super) fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

async fn serve<S>(socket: S, http2: bool, seen: Arc<Seen>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
    let socket = TokioIo::new(socket);
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(socket, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(socket, service).await;
    }
}

/// Waits for the head of a request, and answers it with these bytes.
async fn say(mut socket: impl AsyncRead + AsyncWrite + Unpin, reply: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let field = head.lines().find_map(|line| line.strip_prefix("authorization: "));
    let field = field.unwrap_or_default();
    let token = field.rsplit(' ').next().unwrap_or_default();
    let (first, second) = token.split_at(token.len() / 2);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let reply = reply
        .replace("{chunks}", &(chunk(first) + &chunk(second)))
        .replace("{base64}", &super::world::base64(token.as_bytes()))
        .replace("{hex}", &hex::encode(token))
        .replace("{authorization}", field)
        .replace("{token}", token);
    let _ = socket.write_all(reply.as_bytes()).await;
    let _ = socket.shutdown().await;
}

/// Speaks as a server of WebSockets does.
async fn converse(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    seen: Arc<Seen>,
) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: hyper::header::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let token = headers.get("authorization").and_then(|field| field.to_str().ok());
    let token = token.and_then(|field| field.strip_prefix("Bearer ")).unwrap_or("none").to_owned();
    let number = {
        let mut requests = seen.requests.lock().unwrap();
        requests.push(Arrived {
            method: head.split(' ').next().unwrap().to_owned(),
            target: target.clone(),
            version: hyper::Version::HTTP_11,
            headers,
            body: Vec::new(),
            whole: false,
        });
        requests.len() - 1
    };
    if target == "/none" {
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone";
        socket.write_all(none.as_bytes()).await?;
        return socket.flush().await;
    }
    let more = match target.as_str() {
        "/extended" => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        _ => "",
    };
    // What RFC 6455 answers to the key of its example.
    let agrees = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{more}\r\n"
    );
    socket.write_all(agrees.as_bytes()).await?;
    socket.flush().await?;
    loop {
        let mut head = [0; 2];
        socket.read_exact(&mut head).await?;
        assert!(
            head[0] & 0x70 == 0 && head[1] & 0x80 != 0,
            "it is masked, and in no extension's form"
        );
        let length = match head[1] & 0x7f {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        socket.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        socket.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        seen.requests.lock().unwrap()[number].body.extend_from_slice(&payload);
        let kind = head[0] & 0x0f;
        socket.write_all(&sends(kind, payload, &token)).await?;
        socket.flush().await?;
        if kind == 8 {
            return socket.shutdown().await;
        }
    }
}

/// What is sent for a message: the same, or what it asks for.
fn sends(kind: u8, payload: Vec<u8>, token: &str) -> Vec<u8> {
    let frame = |first: u8, payload: &[u8]| {
        let mut out = vec![first];
        match payload.len() {
            short @ 0..126 => out.push(u8::try_from(short).unwrap()),
            long @ 126..65_536 => {
                out.push(126);
                out.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
            long => {
                out.push(127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    };
    let (first, second) = token.split_at(token.len() / 2);
    match (kind, &*payload) {
        (9, _) => frame(0x80 | 10, &payload),
        (_, b"echo token") => frame(0x81, format!("it is {token}").as_bytes()),
        (_, b"echo base64") => frame(0x82, super::world::base64(token.as_bytes()).as_bytes()),
        (_, b"echo halves") => {
            [frame(0x81, first.as_bytes()), frame(0x81, second.as_bytes())].concat()
        }
        (_, b"echo ping") => frame(0x89, token.as_bytes()),
        (_, b"masked") => vec![0x81, 0x81, 0, 0, 0, 0, b'x'],
        (_, b"compressed") => frame(0xc1, b"x"),
        _ => frame(0x80 | kind, &payload),
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// What a path asks for is what it gets.
async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let mut arrived = Arrived {
        method: head.method.to_string(),
        target: target.clone(),
        version: head.version,
        headers: head.headers,
        body: Vec::new(),
        whole: false,
    };
    if head.uri.path() == "/early" {
        seen.requests.lock().unwrap().push(arrived);
        return Ok(Response::new(full("early")));
    }
    if head.uri.path() == "/heeded" {
        // It is answered at once, and then all of it is read; kept is how much it was.
        let arrived = Arc::new(Mutex::new(arrived));
        seen.open.lock().unwrap().push(Arc::clone(&arrived));
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
                arrived.lock().unwrap().body = count.to_string().into_bytes();
            }
            arrived.lock().unwrap().target = "ended".to_owned();
        });
        return Ok(Response::new(full("heeded")));
    }
    if head.uri.path() == "/bidi" {
        // What is sent is what comes back, piece by piece; and behind it, how much it was.
        let arrived = Arc::new(Mutex::new(arrived));
        seen.open.lock().unwrap().push(Arc::clone(&arrived));
        let frames = stream::unfold(Some((body, arrived)), |state| async move {
            let (mut body, arrived) = state?;
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    arrived.lock().unwrap().body.extend_from_slice(&data);
                    Some((Ok::<_, Infallible>(Frame::data(data)), Some((body, arrived))))
                }
                Some(Err(_)) => None,
                None => {
                    arrived.lock().unwrap().whole = true;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    Some((Ok(Frame::trailers(trailers)), None))
                }
            }
        });
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(frames))))));
    }
    if head.uri.path() == "/stall" {
        std::future::pending::<()>().await;
    }
    arrived.whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    arrived.body.extend_from_slice(&data);
                }
            }
        }
    };
    let echo = {
        let mut text = format!("{} {target}\n", arrived.method);
        for (name, value) in &arrived.headers {
            text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
        let mut text = (text + "\n").into_bytes();
        text.extend_from_slice(&arrived.body);
        text
    };
    let authorization = arrived.header("authorization").concat();
    let range = arrived.header("range");
    let length = arrived.body.len();
    seen.requests.lock().unwrap().push(arrived);
    let response = Response::builder();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let response = match head.uri.path() {
        "/never" => std::future::pending().await,
        "/redirect" | "/v1/redirect" => {
            response.status(302).header("location", query).body(full("elsewhere"))
        }
        "/status" => response.status(query.parse::<u16>().unwrap()).body(full("")),
        "/bytes" => response.body(full(vec![b'x'; query.parse().unwrap()])),
        "/reflect" => response
            .header("x-reflected", &authorization)
            .header("alt-svc", "h3=\":443\"")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .body(full(echo)),
        "/length" => response.body(full(length.to_string())),
        "/bomb" => response.header("content-encoding", "gzip").body(full(bomb())),
        "/gzip" => {
            use std::io::Write as _;
            let mut writer =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(&echo).unwrap();
            response.header("content-encoding", "gzip").body(full(writer.finish().unwrap()))
        }
        // What `Range` asks for, or the query in its place.
        "/slice" => {
            let asked = if query.is_empty() { range.concat() } else { query.clone() };
            let cut = asked.strip_prefix("bytes=").and_then(|cut| {
                let (from, to) = cut.split_once('-')?;
                Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
            });
            match cut {
                Some((from, to)) => response
                    .status(206)
                    .header("content-range", format!("bytes {from}-{to}/{}", echo.len()))
                    .body(full(echo[from.min(echo.len())..echo.len().min(to + 1)].to_vec())),
                None => response.header("accept-ranges", "bytes").body(full(echo)),
            }
        }
        "/byteranges" => response
            .header("content-type", "multipart/byteranges; boundary=b")
            .body(full("--b\r\n\r\nx\r\n--b--\r\n")),
        "/halves" => {
            let middle = authorization.len() / 2;
            let (first, second) = authorization.split_at(middle);
            let pieces = ["before ", first, second, " after"].map(|piece| piece.to_owned());
            response.body(pieces_of(pieces.into(), Duration::from_millis(30)))
        }
        "/events" => {
            let pieces = (0..4).map(|number| format!("data: {number}\n\n")).collect();
            response
                .header("content-type", "text/event-stream")
                .body(pieces_of(pieces, Duration::from_millis(150)))
        }
        "/forever" => {
            let pieces = (0..100_000).map(|number| format!("{number}\n")).collect();
            response.body(pieces_of(pieces, Duration::from_millis(20)))
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", format!("{authorization}.").parse().unwrap());
            let frames = vec![
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(trailers)),
            ];
            response
                .header("trailer", "x-end")
                .body(BodyExt::boxed(StreamBody::new(stream::iter(frames))))
        }
        // A message for each last byte, and what stands behind them.
        "/answers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let messages = (0..=255_u8).map(|last| {
                let message = [&b"\0\0\0\0\x05last"[..], &[last]].concat();
                Ok::<_, Infallible>(Frame::data(Bytes::from(message)))
            });
            let frames: Vec<_> = messages.chain([Ok(Frame::trailers(trailers))]).collect();
            // Some come at once, and some after a pause.
            let paced = stream::unfold(frames.into_iter().enumerate(), |mut frames| async move {
                let (number, frame) = frames.next()?;
                if number % 64 == 63 {
                    tokio::time::sleep(Duration::from_millis(120)).await;
                }
                Some((frame, frames))
            });
            response.body(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(paced)))))
        }
        // A message that ends in this byte, and what stands behind it.
        "/unary" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let mut message = b"\0\0\0\0\x05last".to_vec();
            let (last, size) = query.split_once('-').unwrap();
            message.push(last.parse().unwrap());
            let size = size.parse().unwrap();
            let pieces: Vec<_> = message
                .chunks(size)
                .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
                .chain([Ok(Frame::trailers(trailers))])
                .collect();
            response
                .header("content-type", "application/grpc")
                .body(BodyExt::boxed(StreamBody::new(stream::iter(pieces))))
        }
        _ => response.body(full(echo)),
    };
    Ok(response.unwrap())
}

/// A quarter of a gigabyte in a quarter of a megabyte.
pub(super) fn bomb() -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let mut part = Vec::with_capacity(1 << 16);
    // The same part again and again: each ends at a whole byte, and none is the last.
    flate2::Compress::new(flate2::Compression::default(), false)
        .compress_vec(&zeros, &mut part, flate2::FlushCompress::Full)
        .unwrap();
    let mut sum = flate2::Crc::new();
    let mut of_part = flate2::Crc::new();
    of_part.update(&zeros);
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..256 {
        bomb.extend_from_slice(&part);
        sum.combine(&of_part);
    }
    bomb.extend([3, 0]);
    bomb.extend(sum.sum().to_le_bytes());
    bomb.extend(sum.amount().to_le_bytes());
    bomb
}

fn pieces_of(pieces: Vec<String>, pause: Duration) -> Body {
    let pieces = stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), pieces))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(pieces))))
}

/// A boxed body has to be `Sync`, and nothing here is shared.
struct SyncStream<T>(std::pin::Pin<Box<T>>);

impl<T: stream::Stream + Send> stream::Stream for SyncStream<T> {
    type Item = T::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Signs for the name that a client asks for.
#[derive(Debug)]
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    by_itself: bool,
    name: Option<&'static str>,
    expired: bool,
    authority: bool,
}

impl ResolvesServerCert for Signer {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = self.name.or(hello.server_name())?;
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        if self.expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        if self.authority {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.subject_alt_names.clear();
        }
        let leaf = if self.by_itself {
            params.self_signed(&key).unwrap()
        } else {
            params.signed_by(&key, &self.issuer).unwrap()
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = rustls::crypto::ring::default_provider();
        let chain = CertifiedKey::from_der(vec![leaf.der().clone()], key, &provider);
        Some(Arc::new(chain.unwrap()))
    }
}

fn tls(certificate: Certificate) -> (Vec<u8>, ServerConfig) {
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params, KeyPair::generate().unwrap())
    };
    let make = || {
        let (params, key) = authority();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        (root, Issuer::new(params, key))
    };
    let (mut root, mut issuer) = make();
    if certificate == Certificate::Unknown {
        root = make().0;
    }
    if certificate == Certificate::Incomplete {
        let (mut params, key) = authority();
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        params.signed_by(&key, &issuer).unwrap();
        issuer = Issuer::new(params, key);
    }
    let signer = Signer {
        issuer,
        by_itself: matches!(
            certificate,
            Certificate::SelfSigned | Certificate::SelfSignedAuthority
        ),
        name: (certificate == Certificate::WrongName).then_some("other.example.org"),
        expired: certificate == Certificate::Expired,
        authority: certificate == Certificate::SelfSignedAuthority,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(signer));
    (root, config)
}
