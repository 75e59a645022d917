//! More ways to write what two parsers could read differently, each sent to a live sidecar: in a
//! tunnel, at its front and at the path door.

use serde_json::json;

use super::world::{World, allowing};

/// What follows the head's first two lines, its status and its code. S01 to S08.
const FIELDS: &[(&str, u16, &str)] = &[
    // S01: two lengths of different kinds.
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    ("content-length: 0\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\nhello", 400, "malformed_request"),
    ("Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
    ("Transfer_Encoding: x\r\n Transfer-Encoding: chunked\r\n\r\n", 400, "malformed_request"),
    ("X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n", 400, "malformed_request"),
    ("X: y\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed_request"),
    ("X: y\rTransfer-Encoding: chunked\r\n\r\n", 400, "malformed_request"),
    ("X: y\0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed_request"),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 400, "ambiguous_framing"),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    ("Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
    ("Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", 400, "ambiguous_framing"),
    // S02: one length, and how it is written.
    ("Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 5\r\nContent-Length: \r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 5,\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 5 5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 5.0\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 5e0\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 0x5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: -5\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 1_0\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: five\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: \"5\"\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length:\r\n\r\n", 400, "ambiguous_framing"),
    ("Content-Length: 18446744073709551621\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: 99999999999999999999999\r\n\r\nhello", 400, "ambiguous_framing"),
    ("Content-Length: \u{665}\r\n\r\nhello", 400, "ambiguous_framing"),
    // S04, S05: lines and names.
    ("X: a\nY: b\r\n\r\n", 400, "malformed_request"),
    ("X: a\r\r\n\r\n", 400, "malformed_request"),
    ("X: a\n\r\n\r\n", 400, "malformed_request"),
    (" X: a\r\n\r\n", 400, "malformed_request"),
    ("\tX: a\r\n\r\n", 400, "malformed_request"),
    ("X : a\r\n\r\n", 400, "malformed_request"),
    ("X\u{a0}: a\r\n\r\n", 400, "malformed_request"),
    ("X\r\n\r\n", 400, "malformed_request"),
    (": a\r\n\r\n", 400, "malformed_request"),
    ("X Y: a\r\n\r\n", 400, "malformed_request"),
    ("X(Y): a\r\n\r\n", 400, "malformed_request"),
    ("X/Y: a\r\n\r\n", 400, "malformed_request"),
    ("\"X\": a\r\n\r\n", 400, "malformed_request"),
    ("X\0: a\r\n\r\n", 400, "malformed_request"),
    ("X: a\x07b\r\n\r\n", 400, "malformed_request"),
    ("X: a\x1b[2Jb\r\n\r\n", 400, "malformed_request"),
    ("X: a\x7fb\r\n\r\n", 400, "malformed_request"),
    // S07: one Host.
    ("Host: api.example.com\r\n\r\n", 400, "malformed_request"),
    ("HOST: evil.test\r\n\r\n", 400, "malformed_request"),
    ("host: api.example.com:443\r\n\r\n", 400, "malformed_request"),
    ("Host:\r\n\r\n", 400, "malformed_authority"),
    ("Host : evil.test\r\n\r\n", 400, "malformed_request"),
    // T12: another protocol.
    ("Upgrade: h2c\r\n\r\n", 400, "malformed_request"),
    ("Upgrade: H2C\r\nConnection: upgrade\r\n\r\n", 400, "malformed_request"),
    ("Upgrade: foo/1, h2c\r\n\r\n", 400, "malformed_request"),
    ("Upgrade: foo\r\nUpgrade: h2c\r\n\r\n", 400, "malformed_request"),
    ("Upgrade: HTTP/2.0\r\n\r\n", 400, "malformed_request"),
    ("HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400, "malformed_request"),
];

/// Whole requests. `{H}` is one that each place takes.
const REQUESTS: &[(&str, u16, &str)] = &[
    // S07
    ("GET /x HTTP/1.1\r\nHost: {H},evil.test\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: {H} evil.test\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: {H}/\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: {H}?\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: {H}#\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: a@{H}\r\n\r\n", 400, "userinfo_forbidden"),
    ("GET /x HTTP/1.1\r\nHost: {H}%00\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: {H}:443:80\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nHost: *\r\n\r\n", 400, "malformed_authority"),
    ("GET /x HTTP/1.1\r\nX: y\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/1.0\r\n\r\n", 400, "malformed_request"),
    // S08: in the target.
    ("GET /x%0d%0aX-Evil:%20y HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /x%0D%0A%0d%0a HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /x%250d%250aX HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /x%00 HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /x%7f HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /x\r\nX-Evil: y HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x\ry HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x\ty HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x\0y HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x y HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x#y HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET \\x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    // C05, C06, C08: paths that somebody would normalise.
    ("GET /gh/../x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/./x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/.. HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%2e%2E/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/.%2e/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%252e%252e/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%25252e%25252e/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/..;a=b/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/..%3b/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/..%20/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/..%2fx HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh%2fx HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh%5c..%5cx HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh\\..\\x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%c0%ae%c0%ae/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%e0%80%ae/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%u002e%u002e/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%2/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh/%zz HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET //evil.test/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET /gh//evil.test/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    ("GET ///x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "path_not_canonical"),
    // S13: versions, methods, and what is no HTTP.
    ("GET /x\r\n", 400, "malformed_request"),
    ("GET /x HTTP/0.9\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/1.2\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/2.0\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/3\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x http/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/1.1 \r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET /x HTTP/+1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET  /x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("GET\t/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("\r\nGET /x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    (" GET /x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("G\u{c9}T /x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("gEt /x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("{\"op\":\"state\"}\r\n", 400, "malformed_request"),
    ("*1\r\n$4\r\nPING\r\n", 400, "malformed_request"),
    // T12, T18, C13
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
    ("TRACE /gh/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 405, "method_not_allowed"),
    ("OPTIONS * HTTP/1.1\r\nHost: {H}\r\n\r\n", 405, "method_not_allowed"),
    ("trace /gh/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
    ("TrAcE /gh/x HTTP/1.1\r\nHost: {H}\r\n\r\n", 400, "malformed_request"),
];

async fn world() -> World {
    let mut policy = allowing(&["api.example.com"]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let mut world = World::start(policy).await;
    world.document["credentials"] = json!({ "GH_TOKEN": "q8Zx1vN4-kP2sLm7tR8wB1nM4" });
    world.load().await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_it_goes_on_from_any_door() {
    let world = world().await;
    let with_fields = FIELDS.iter().map(|(rest, status, code)| {
        (format!("POST /gh/x HTTP/1.1\r\nHost: {{H}}\r\n{rest}"), *status, *code)
    });
    let whole = REQUESTS.iter().map(|(text, status, code)| ((*text).to_owned(), *status, *code));
    let mut lines = 0;
    for (request, status, code) in with_fields.chain(whole) {
        for (host, inside) in [("api.example.com", true), ("sidecar", false)] {
            let request = request.replace("{H}", host);
            // Behind it stands what a parser that ends it elsewhere would take for another one.
            let request = format!("{request}GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let mut client = match inside {
                true => world.inside("api.example.com:443").await,
                false => world.proxy().await,
            };
            client.send(&request).await;
            let answer = client.try_answer().await;
            let answer = answer.unwrap_or_else(|| panic!("no answer to {request}"));
            assert_eq!((answer.status, answer.code()), (status, code), "{request}");
            lines += 1;
            // What is whole and refused for its meaning may be followed by another request.
            if code == "path_not_canonical" || code == "method_not_allowed" {
                let next = client.try_answer().await;
                if let Some(next) = next {
                    let smuggled = if inside { 200 } else { 404 };
                    assert_eq!(next.status, smuggled, "{request}: {next:?}");
                    lines += usize::from(!inside);
                }
            } else {
                assert_eq!(client.rest().await, b"", "{request}: the connection ends");
            }
            world.wait_for("deny", lines).await;
            let arrived = world.upstream.arrived();
            assert!(arrived.iter().all(|one| one.target == "/smuggled"), "{request}: {arrived:?}");
        }
    }
}

/// Bodies in chunks that two parsers could end in different places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_have_one_spelling() {
    let world = world().await;
    let head = "POST /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
    let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(20));
    let bodies = [
        ("\r\nhello\r\n0\r\n\r\n", 400),
        (" 5\r\nhello\r\n0\r\n\r\n", 400),
        ("5 \r\nhello\r\n0\r\n\r\n", 400),
        ("5\t\r\nhello\r\n0\r\n\r\n", 400),
        ("0x5\r\nhello\r\n0\r\n\r\n", 400),
        ("+5\r\nhello\r\n0\r\n\r\n", 400),
        ("-5\r\nhello\r\n0\r\n\r\n", 400),
        ("5\nhello\r\n0\r\n\r\n", 400),
        ("5\rhello\r\n0\r\n\r\n", 400),
        ("5\r\nhello\n0\r\n\r\n", 400),
        ("5\r\nhello\r0\r\n\r\n", 400),
        ("5\r\nhello0\r\n\r\n", 400),
        ("5\r\nhelloo\r\n0\r\n\r\n", 400),
        ("5\r\nhello\r\n0\r\n\n", 400),
        ("5\r\nhello\r\n0\n\r\n", 400),
        ("5,\r\nhello\r\n0\r\n\r\n", 400),
        ("5.\r\nhello\r\n0\r\n\r\n", 400),
        ("g\r\nhello\r\n0\r\n\r\n", 400),
        ("\u{665}\r\nhello\r\n0\r\n\r\n", 400),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
        ("5;a\0b\r\nhello\r\n0\r\n\r\n", 400),
        ("5;\u{e9}\r\nhello\r\n0\r\n\r\n", 400),
        (&long_extension, 400),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
        ("fffffffffffffffb\r\nhello\r\n0\r\n\r\n", 400),
        ("0\r\nContent-Length: 5\r\n\r\n", 400),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("0\r\nHost: evil.test\r\n\r\n", 400),
        ("0\r\nAuthorization: Bearer x\r\n\r\n", 400),
        ("0\r\nCookie: a=b\r\n\r\n", 400),
        ("0\r\nConnection: close\r\n\r\n", 400),
        ("0\r\nX : y\r\n\r\n", 400),
        ("0\r\nX: y\nZ: a\r\n\r\n", 400),
        (&many_trailers, 431),
    ];
    for (count, (body, status)) in bodies.iter().enumerate() {
        let mut client = world.inside("api.example.com:443").await;
        let request =
            format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        client.send(&request).await;
        let answer = client.try_answer().await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {body:?}"));
        assert_eq!(answer.status, *status, "{body:?}: {answer:?}");
        assert_eq!(client.rest().await, b"", "{body:?}: the connection ends");
        world.wait_for("deny", count + 1).await;
        world.untouched();
    }
}
