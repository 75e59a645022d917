//! HTTP/2 as it stands on the wire: what its frames may carry past a filter that knows HTTP/1. S, T,
//! C, D.

use std::time::Duration;

use serde_json::json;

use super::client::Client;
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    if kind == 4 {
        frame[8] = 0;
    }
    frame.extend(payload);
    frame
}

/// Fields without any of HPACK's tables.
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte says its length");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(*text);
        }
    }
    block
}

type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

const GET: Fields<'_> = &[
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"api.example.com"),
    (b":path", b"/echo"),
];

/// The first frames of the answer, by their kinds: 1 is an answer, 3 and 7 are refusals.
async fn send(world: &World, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut client = Client::new(world.inside_http2("api.example.com:443").await);
    client.send([PREFACE, &frame(4, 0, &[])].concat()).await;
    for frame in frames {
        client.send(frame).await;
    }
    let mut seen = Vec::new();
    let mut kinds = Vec::new();
    loop {
        let read = tokio::time::timeout(Duration::from_secs(20), client.more()).await;
        let ended = read.expect("something comes").is_none();
        seen.extend(client.so_far());
        while seen.len() >= 9 {
            let length = usize::from(seen[0]) << 16 | usize::from(seen[1]) << 8;
            let length = length | usize::from(seen[2]);
            if seen.len() < 9 + length {
                break;
            }
            kinds.push(seen[3]);
            seen.drain(..9 + length);
        }
        if ended || kinds.iter().any(|kind| [1, 3, 7].contains(kind)) {
            return kinds;
        }
    }
}

fn credentials() -> serde_json::Value {
    let mut policy = allowing(&["api.example.com", "other.example.com"]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "/gh",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    policy
}

async fn world(upstream: Upstream) -> World {
    let mut world = World::unloaded(credentials(), upstream, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

/// T02, T03, T12, T13, S01, S04, S07, S08: nothing that contradicts the tunnel, itself or the
/// protocol goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_a_frame_goes_nowhere() {
    let world = world(Upstream::start(Certificate::Good).await).await;
    let with = |fields: Fields<'static>| [GET, fields].concat();
    let but = |name: &[u8], value: &'static [u8]| -> Vec<(&'static [u8], &'static [u8])> {
        GET.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect()
    };
    let without = |name: &[u8]| -> Vec<(&'static [u8], &'static [u8])> {
        GET.iter().filter(|(n, _)| *n != name).copied().collect()
    };
    let requests: Vec<Vec<(&[u8], &[u8])>> = vec![
        // Whom it is for.
        but(b":authority", b"evil.test"),
        but(b":authority", b"other.example.com"),
        but(b":authority", b"api.example.com:8443"),
        but(b":authority", b"x@api.example.com"),
        but(b":authority", b"api.example.com@evil.test"),
        but(b":authority", b"evil.test\\@api.example.com"),
        but(b":authority", b"api.example.com,evil.test"),
        but(b":authority", b"api.example.com\0.evil.test"),
        but(b":authority", b"api.example.com\r\nx: y"),
        but(b":authority", b"api%2eexample.com"),
        but(b":authority", b"127.1"),
        but(b":authority", b"[::1]"),
        but(b":authority", b"*"),
        but(b":authority", b""),
        without(b":authority"),
        [&without(b":authority")[..], &[(b"host", b"evil.test")]].concat(),
        [&without(b":authority")[..], &[(b"host", b"api.example.com"), (b"host", b"evil.test")]]
            .concat(),
        with(&[(b"host", b"evil.test")]),
        with(&[(b"host", b"api.example.com"), (b"host", b"evil.test")]),
        with(&[(b"host", b"api.example.com"), (b"host", b"api.example.com")]),
        with(&[(b":authority", b"evil.test")]),
        // What it asks for.
        but(b":path", b"/a/../b"),
        but(b":path", b"/a/%2e%2e/b"),
        but(b":path", b"/a\\..\\b"),
        but(b":path", b"//evil.test/x"),
        but(b":path", b"https://evil.test/x"),
        but(b":path", b"evil.test/x"),
        but(b":path", b"x"),
        but(b":path", b"*"),
        but(b":path", b""),
        but(b":path", b"/x HTTP/1.1\r\nX-Evil: y"),
        but(b":path", b"/x\r\n\r\nGET /smuggled HTTP/1.1"),
        but(b":path", b"/x\0y"),
        but(b":path", b"/x y"),
        but(b":path", b"/x%0d%0ay"),
        but(b":path", b"/\xc3\xa9"),
        without(b":path"),
        with(&[(b":path", b"/b")]),
        but(b":scheme", b"http"),
        but(b":scheme", b"ftp"),
        but(b":scheme", b"https://evil.test"),
        without(b":scheme"),
        but(b":method", b"TRACE"),
        but(b":method", b"trace"),
        but(b":method", b"get"),
        but(b":method", b"GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\nGET"),
        but(b":method", b"GE T"),
        but(b":method", b""),
        without(b":method"),
        // A tunnel in the tunnel, and what would become one.
        vec![(b":method", b"CONNECT"), (b":authority", b"evil.test:443")],
        vec![(b":method", b"CONNECT"), (b":authority", b"api.example.com:443")],
        [&but(b":method", b"CONNECT")[..], &[(b":protocol", b"websocket")]].concat(),
        with(&[(b"upgrade", b"websocket")]),
        with(&[(b"upgrade", b"h2c")]),
        with(&[(b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")]),
        // What belongs to HTTP/1, and what is no field.
        with(&[(b"connection", b"close")]),
        with(&[(b"connection", b"authorization")]),
        with(&[(b"transfer-encoding", b"chunked")]),
        with(&[(b"proxy-connection", b"x")]),
        with(&[(b"keep-alive", b"timeout=5")]),
        with(&[(b"te", b"gzip")]),
        with(&[(b"X-Upper", b"y")]),
        with(&[(b"Authorization", b"y")]),
        with(&[(b"x y", b"z")]),
        with(&[(b"x:y", b"z")]),
        with(&[(b"x\r\ny", b"z")]),
        with(&[(b"", b"z")]),
        with(&[(b"x", b"a\r\nx-evil: y")]),
        with(&[(b"x", b"a\ny")]),
        with(&[(b"x", b"a\0y")]),
        with(&[(b"x", b"a\ry")]),
        with(&[(b":evil", b"y")]),
        with(&[(b":status", b"200")]),
        [&[(&b"x"[..], &b"y"[..])], GET].concat(),
        with(&[(b"content-length", b"5")]),
        with(&[(b"content-length", b"0"), (b"content-length", b"5")]),
        with(&[(b"content-length", b"-1")]),
    ];
    for fields in &requests {
        let shown: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        let kinds = send(&world, &[frame(1, 5, &block(fields))]).await;
        assert!(kinds.iter().any(|kind| [1, 3, 7].contains(kind)), "{shown:?}: {kinds:?}");
        assert_eq!(world.upstream.connections(), 0, "{shown:?}");
        world.untouched();
    }
    // A control: without any of it, it arrives.
    assert!(send(&world, &[frame(1, 5, &block(GET))]).await.contains(&1));
    assert_eq!(world.upstream.one().target, "/echo");
}

/// C01, D02: what comes behind a body is judged as what stands before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_behind_a_body_are_judged_too() {
    let post: Fields<'_> = &[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"api.example.com"),
        (b":path", b"/gh/echo"),
    ];
    let known = TOKEN.as_bytes();
    let found = ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    let encoded = super::world::base64(known);
    let late: &[Fields<'_>] = &[
        &[(b"authorization", b"Bearer x")],
        &[(b"cookie", b"a=b")],
        &[(b"x-api-key", b"x")],
        &[(b"host", b"evil.test")],
        &[(b"content-length", b"5")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"content-encoding", b"gzip")],
        &[(b"connection", b"close")],
        &[(b"upgrade", b"h2c")],
        &[(b"x-end", known)],
        &[(b"x-end", encoded.as_bytes())],
        &[(b"x-end", found.as_bytes())],
    ];
    for protocols in [&[&b"h2"[..]][..], &[b"http/1.1"]] {
        let world = world(Upstream::with(Certificate::Good, protocols).await).await;
        for fields in late {
            let frames =
                [frame(1, 4, &block(post)), frame(0, 0, b"hello"), frame(1, 5, &block(fields))];
            let shown = String::from_utf8_lossy(&block(fields)).into_owned();
            let kinds = send(&world, &frames).await;
            assert!(kinds.iter().any(|kind| [1, 3, 7].contains(kind)), "{shown}: {kinds:?}");
            assert_eq!(world.upstream.connections(), 0, "{shown}");
            world.untouched();
        }
        // The same at once, with HTTP/1.
        for fields in late {
            let (name, value) = fields[0];
            let request = format!(
                "POST /gh/echo HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\n{}: {}\r\n\r\n",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value),
            );
            let answer = world.inside("api.example.com:443").await.ask(&request).await;
            assert!(matches!(answer.status, 400 | 403), "{request}: {answer:?}");
            world.untouched();
        }
        // Others arrive, where somebody takes them; what would change the request is dropped.
        let fine: &[Fields<'_>] =
            &[&[(b"x-end", b"fine")], &[(b":path", b"/other")], &[(b":authority", b"evil.test")]];
        for fields in fine {
            world.upstream.forget();
            let frames =
                [frame(1, 4, &block(post)), frame(0, 0, b"hello"), frame(1, 5, &block(fields))];
            assert!(send(&world, &frames).await.contains(&1));
            let arrived = world.upstream.one();
            assert_eq!((arrived.target.as_str(), &arrived.body[..]), ("/gh/echo", &b"hello"[..]));
            assert_eq!(arrived.header("authorization"), [format!("Bearer {TOKEN}")]);
        }
        let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
        assert!(!log.contains(TOKEN) && !log.contains(&found), "{log}");
    }
}
