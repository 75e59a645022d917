//! What is said inside a tunnel: T.

use serde_json::json;

use super::client::Client;
use super::upstream::{Certificate, Upstream};
use super::world::{PUBLIC, World, allowing};

const HOSTS: &[&str] = &["api.example.com", "other.example.com"];

/// T01, T06: the handshake names the host of the CONNECT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handshake_names_the_host_of_the_connect() {
    let world = World::start(allowing(HOSTS)).await;
    // Another host, one that is allowed too, and none at all: an address is never named.
    for (count, name) in ["evil.test", "other.example.com", "127.0.0.1"].iter().enumerate() {
        let (client, head) = world.connect("api.example.com:443").await;
        assert_eq!(head.status, 200);
        assert!(client.secure(&world.ca.certificate, name, &[]).await.is_err(), "{name}");
        let denials = world.wait_for("deny", count + 1).await;
        assert_eq!(denials[count]["code"], "sni_mismatch", "{name}");
        assert_eq!(denials[count]["host"], "api.example.com:443");
        world.untouched();
    }
}

/// T07, T12: what is not TLS goes nowhere, in whatever pieces it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_tls_is_closed() {
    let world = World::start(allowing(HOSTS)).await;
    let raw: &[&[u8]] = &[
        b"SSH-2.0-x\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
    ];
    for (count, bytes) in raw.iter().enumerate() {
        let (mut client, head) = world.connect("api.example.com:443").await;
        assert_eq!(head.status, 200);
        for byte in *bytes {
            client.send([*byte]).await;
        }
        let rest = client.rest().await;
        assert!(rest.len() <= 7, "no more than an alert: {rest:?}");
        let denials = world.wait_for("deny", count + 1).await;
        assert_eq!(denials[count]["code"], "not_tls", "{bytes:?}");
        world.untouched();
    }
}

/// A handshake in pieces of one byte is a handshake, and is intercepted as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_in_pieces_is_intercepted() {
    let world = World::start(allowing(HOSTS)).await;
    let (client, head) = world.connect("api.example.com:443").await;
    assert_eq!(head.status, 200);
    let slow = Client::new(Pieces(client.stream));
    let ca = &world.ca.certificate;
    let stream = slow.secure(ca, "api.example.com", &[b"http/1.1"]).await.unwrap();
    let mut client = Client::new(stream);
    let answer = client.ask("GET /echo HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    assert_eq!((answer.status, answer.code()), (421, "authority_mismatch"));
}

/// Writes one byte at a time.
struct Pieces(Box<dyn super::client::Stream>);

impl tokio::io::AsyncRead for Pieces {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, out)
    }
}

impl tokio::io::AsyncWrite for Pieces {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// (case, what is sent inside, status, code)
const INSIDE: &[(&str, &str, u16, &str)] = &[
    ("T02", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421, "authority_mismatch"),
    ("T02", "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n", 421, "authority_mismatch"),
    ("T02", "GET / HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n", 421, "authority_mismatch"),
    (
        "T03",
        "GET https://evil.test/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        400,
        "malformed_request",
    ),
    (
        "T03",
        "GET https://other.example.com/ HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
        421,
        "authority_mismatch",
    ),
    (
        "T03",
        "GET http://api.example.com:443/ HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
        400,
        "malformed_request",
    ),
    (
        "T12",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        400,
        "malformed_request",
    ),
    ("T12", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
    (
        "T13",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        403,
        "websocket_refused",
    ),
    ("T18", "TRACE / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 405, "method_not_allowed"),
    (
        "T18",
        "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    ("C05", "GET /a/../b HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400, "path_not_canonical"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_contradicts_the_tunnel_is_answered_in_it() {
    let world = World::start(allowing(HOSTS)).await;
    for (count, (case, request, status, code)) in INSIDE.iter().enumerate() {
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (*status, *code), "{case} {request}");
        let denials = world.wait_for("deny", count + 1).await;
        assert_eq!(denials[count]["code"], *code, "{case} {request}");
        world.untouched();
    }
}

/// T02 once more: every request of a connection is judged, not the first alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_a_connection_is_judged() {
    let world = World::start(allowing(HOSTS)).await;
    let mut client = world.inside("api.example.com:443").await;
    for _ in 0..3 {
        let answer = client.ask("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
        assert_eq!(answer.status, 200);
        let answer = client.ask("GET /echo HTTP/1.1\r\nHost: other.example.com\r\n\r\n").await;
        assert_eq!((answer.status, answer.code()), (421, "authority_mismatch"));
    }
    assert_eq!(world.upstream.arrived().len(), 3);
}

/// T10: an upstream that is not who it should be is no upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_verified() {
    for certificate in [Certificate::Unknown, Certificate::WrongName, Certificate::Expired] {
        let upstream = Upstream::start(certificate).await;
        let world = World::with(allowing(HOSTS), upstream, &[]).await;
        let mut client = world.inside("api.example.com:443").await;
        let request = "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
        let answer = client.ask(request).await;
        assert_eq!((answer.status, answer.code()), (502, "upstream_tls"));
        assert_eq!(world.wait_for("deny", 1).await[0]["code"], "upstream_tls");
        assert!(world.upstream.arrived().is_empty() && world.log("allow").is_empty());
    }
}

/// C16: errors name the host and the request, and nothing that the machine should not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_fails_is_told_without_its_address() {
    let mut world = World::start(allowing(&["api.example.com", "gone.example.com"])).await;
    world.document["testing"]["response_head_ms"] = json!(300);
    world.load().await.unwrap();
    world.names.set("gone.example.com", &[&["93.184.216.35"]]);
    for (host, path, status, code) in [
        ("gone.example.com", "/", 502, "upstream_unreachable"),
        ("api.example.com", "/never", 504, "upstream_timeout"),
    ] {
        let mut client = world.inside(&format!("{host}:443")).await;
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{host}");
        let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(page["host"], format!("{host}:443"));
        assert_eq!(page["request_id"].as_str(), answer.header("x-bottle-request-id"));
        assert!(!answer.text().contains("93.184"), "{}", answer.text());
    }
    let mut nowhere = world.inside("gone.example.com:443").await;
    world.names.set("gone.example.com", &[&[]]);
    let answer = nowhere.ask("GET / HTTP/1.1\r\nHost: gone.example.com\r\n\r\n").await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_dns"));
}

/// T16: a redirect is the client's to follow, and is judged anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let world = World::start(allowing(HOSTS)).await;
    let mut client = world.inside("api.example.com:443").await;
    for location in ["http://169.254.169.254/", "https://evil.test/"] {
        let request = format!("GET /redirect?{location} HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        let answer = client.ask(request).await;
        assert_eq!((answer.status, answer.header("location")), (302, Some(location)));
    }
    assert_eq!(world.upstream.arrived().len(), 2);
    // Whoever follows it is judged as for any other request.
    let request = "GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    let answer = world.proxy().await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"));
    let (_, head) = world.connect("evil.test:443").await;
    assert_eq!((head.status, head.code()), (403, "host_not_allowed"));
    assert!(world.names.asked().iter().all(|name| name == "api.example.com"));
}

/// T19: what the machine is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sandbox_has_an_authority_of_its_own() {
    let world = World::start(allowing(HOSTS)).await;
    let other = bottle::sidecar::ca::generate("dev").unwrap();
    let (client, _) = world.connect("api.example.com:443").await;
    assert!(client.secure(&other.certificate, "api.example.com", &[]).await.is_err());
    let trouble = world.wait_for("error", 1).await;
    assert_eq!(trouble[0]["host"], "api.example.com:443");
    assert!(trouble[0]["detail"].as_str().unwrap().contains("fatal alert"), "{trouble:?}");
    assert!(!world.ca.certificate.contains("PRIVATE"));
}

/// HTTP/2 inside, and what its requests may name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_spoken_and_judged() {
    let world = World::start(allowing(HOSTS)).await;
    let stream = world.inside_http2("api.example.com:443").await;
    let (mut sender, connection) = handshake(stream).await;
    tokio::spawn(connection);
    for (uri, host, status, code) in [
        ("https://api.example.com/echo?x=1", None, 200, "none"),
        ("https://evil.test/echo", None, 421, "authority_mismatch"),
        ("https://api.example.com/echo", Some("evil.test"), 421, "authority_mismatch"),
        ("http://api.example.com/echo", None, 400, "malformed_request"),
        ("https://api.example.com/a/../b", None, 400, "path_not_canonical"),
        ("https://api.example.com:443/echo", None, 200, "none"),
    ] {
        let mut request = hyper::Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let found =
            response.headers().get("x-bottle-block").map_or("none", |code| code.to_str().unwrap());
        assert_eq!((response.status().as_u16(), found), (status, code), "{uri} {host:?}");
    }
    let arrived = world.upstream.arrived();
    assert_eq!(arrived.len(), 2);
    assert_eq!(arrived[0].version, hyper::Version::HTTP_2);
}

pub(super) type Http2 = hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

pub(super) async fn handshake(
    stream: impl super::client::Stream + 'static,
) -> (Http2, impl Future<Output = Result<(), hyper::Error>>) {
    let executor = hyper_util::rt::TokioExecutor::new();
    hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap()
}

/// An upstream that speaks HTTP/1.1 only gets the pieces of a cookie as one field.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_outside_becomes_http1_where_it_has_to() {
    let upstream = Upstream::with(Certificate::Good, &[b"http/1.1"]).await;
    let world = World::with(allowing(HOSTS), upstream, &[]).await;
    let (mut sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    let request = hyper::Request::post("https://api.example.com/echo")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Full::new(bytes::Bytes::from_static(b"body")))
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let arrived = world.upstream.one();
    assert_eq!(arrived.header("cookie"), ["a=1; b=2"]);
    assert_eq!(
        (arrived.header("host"), arrived.version),
        (vec!["api.example.com".to_owned()], hyper::Version::HTTP_11)
    );
    assert_eq!(arrived.body, b"body");
}

/// T15: the path door is no proxy, and `names` are the only ones it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_tunnelled_to_what_is_not_listed_by_any_door() {
    let world = World::start(allowing(&[])).await;
    let (_, head) = world.connect(&format!("{PUBLIC}:443")).await;
    assert_eq!((head.status, head.code()), (403, "ssrf_denied"));
    world.refused("ssrf_denied");
}
