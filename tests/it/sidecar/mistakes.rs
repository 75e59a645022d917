//! What goes wrong with an upstream is told for what it is: C, N, R, T.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Answer;
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

const GET: &str = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

fn next(answer: &Answer) -> String {
    let page: Value = serde_json::from_slice(&answer.body).unwrap();
    page["next"].as_str().unwrap().to_owned()
}

/// T10: each mistake with a certificate has a text of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_with_a_certificate_is_told_apart() {
    for (certificate, words) in [
        (Certificate::SelfSigned, "self-signed"),
        (Certificate::SelfSignedAuthority, "self-signed"),
        (Certificate::Unknown, "an authority that is not trusted"),
        (Certificate::Incomplete, "intermediate"),
        (Certificate::Expired, "has expired"),
        (Certificate::WrongName, "for another name"),
    ] {
        let upstream = Upstream::start(certificate).await;
        let world = World::with(allowing(&["api.example.com"]), upstream, &[]).await;
        let answer = world.inside("api.example.com:443").await.ask(GET).await;
        assert_eq!((answer.status, answer.code()), (502, "upstream_tls"));
        assert!(next(&answer).contains(words), "{words}: {}", next(&answer));
        let line = &world.wait_for("deny", 1).await[0];
        assert!(line["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{line}");
    }
}

/// N08: the operator reads which address it was, the machine does not; and nobody is sent to declare
/// a range that nothing opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_refused_is_told_to_the_operator() {
    let world = World::start(allowing(&["api.example.com"])).await;
    for (count, (address, range_helps)) in [
        ("10.0.0.5", true),
        ("fd00::1", true),
        ("127.0.0.1", false),
        ("169.254.169.254", false),
        ("93.184.216.99", false),
        ("::1", false),
    ]
    .iter()
    .enumerate()
    {
        world.names.set("api.example.com", &[&[address]]);
        let answer = world.inside("api.example.com:443").await.ask(GET).await;
        assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"), "{address}");
        assert!(!answer.text().contains(address), "{}", answer.text());
        assert_eq!(next(&answer).contains("{host, cidr}"), *range_helps, "{}", next(&answer));
        let lines = world.wait_for("deny", count + 1).await;
        assert_eq!(lines[count]["detail"], format!("it resolves to {address}"));
    }
}

/// R02: an answer whose head is too large is told as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_an_answer_has_a_bound() {
    let end = "Content-Length: 2\r\n\r\nok";
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let large = |count: usize| format!("X: {}\r\n", "y".repeat(3000)).repeat(count);
    for (fields, status) in [
        (fields(90), 200),
        (fields(101), 502),
        (fields(300), 502),
        (large(20), 200),
        (large(22), 502),
        (large(25), 502),
        (large(30), 502),
        (large(60), 502),
    ] {
        let reply: &'static str = format!("HTTP/1.1 200 OK\r\n{fields}{end}").leak();
        let upstream = Upstream::saying(reply).await;
        let world = World::with(allowing(&["api.example.com"]), upstream, &[]).await;
        let answer = world.inside("api.example.com:443").await.ask(GET).await;
        assert_eq!(answer.status, status, "{} {}", fields.len(), answer.text());
        if status == 502 {
            assert_eq!(answer.code(), "response_head_too_large");
            assert!(next(&answer).contains("do not retry"), "{}", next(&answer));
        }
    }
}

/// H: what is granted at 443 is TLS. Nothing of it goes in clear, nor where a route speaks TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_not_spoken_where_tls_is() {
    let mut policy = allowing(&["api.example.com"]);
    policy["allow"].as_array_mut().unwrap().extend([
        json!({ "host": "api.example.com", "port": 80 }),
        json!({ "host": "api.example.com", "port": 8443 }),
    ]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 8443, "upstream_path": "/gh",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let world = World::start(policy).await;
    for port in [443, 8443] {
        let request = format!(
            "GET http://api.example.com:{port}/ HTTP/1.1\r\nHost: api.example.com:{port}\r\n\r\n"
        );
        let answer = world.proxy().await.ask(&request).await;
        assert_eq!((answer.status, answer.code()), (403, "plain_http_refused"), "{port}");
        assert!(next(&answer).contains("https://"));
        world.untouched();
    }
    let request = "GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    assert_eq!(world.proxy().await.ask(request).await.status, 200);
}

/// T07: a handshake that does not go on is closed after five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_stalls_is_closed() {
    let world = World::start(allowing(&["api.example.com"])).await;
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x00\xff\x01\x00"] {
        let (mut client, head) = world.connect("api.example.com:443").await;
        assert_eq!(head.status, 200);
        let since = Instant::now();
        client.send(begun).await;
        client.rest().await;
        let took = since.elapsed();
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    }
    world.untouched();
}

/// Trailers of an answer reach a client of HTTP/1.1 that says that it takes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_over_http1() {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    for credentials in [json!({}), json!({ "API_TOKEN": "q8Zx1vN4-kP2sLm7tR8wB1nM4" })] {
        world.document["credentials"] = credentials;
        world.load().await.unwrap();
        for (te, passes) in [("trailers", true), ("deflate, trailers", true), ("", false)] {
            let te = if te.is_empty() { String::new() } else { format!("TE: {te}\r\n") };
            let request = format!("GET /trailers HTTP/1.1\r\nHost: api.example.com\r\n{te}\r\n");
            let answer = world.inside("api.example.com:443").await.ask(&request).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
            assert_eq!(answer.header("x-end").is_some(), passes, "{te}: {:?}", answer.headers);
        }
    }
}
