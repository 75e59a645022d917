//! One request parsed is one request forwarded: S.

use serde_json::json;

use super::world::{World, allowing};

/// (case, what is sent, status, code)
const REFUSED: &[(&str, &str, u16, &str)] = &[
    (
        "S01",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        400,
        "ambiguous_framing",
    ),
    (
        "S02",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        400,
        "ambiguous_framing",
    ),
    (
        "S02",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5, 5\r\n\r\nhello",
        400,
        "ambiguous_framing",
    ),
    (
        "S02",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: +5\r\n\r\nhello",
        400,
        "ambiguous_framing",
    ),
    (
        "S02",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
        "ambiguous_framing",
    ),
    ("S04", "GET / HTTP/1.1\nHost: api.example.com\n\n", 400, "malformed_request"),
    (
        "S04",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nX: a\r\n b\r\n\r\n",
        400,
        "malformed_request",
    ),
    ("S04", "GET / HTTP/1.1\r\nHost: api.example.com\r\nX: a\rb\r\n\r\n", 400, "malformed_request"),
    (
        "S05",
        "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length : 5\r\n\r\nhello",
        400,
        "malformed_request",
    ),
    (
        "S07",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.test\r\n\r\n",
        400,
        "malformed_request",
    ),
    (
        "S07",
        "GET / HTTP/1.1\r\nHost: api.example.com, evil.test\r\n\r\n",
        400,
        "malformed_authority",
    ),
    ("S07", "GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    (
        "S08",
        "GET /x%0d%0aAuthorization:%20x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        400,
        "path_not_canonical",
    ),
    ("S13", "GET /\r\n\r\n", 400, "malformed_request"),
    ("S13", "GET http://x HTTP/9.9\r\n\r\n", 400, "malformed_request"),
    ("S13", "\x16\x03\x01\x02\x00\x01\x00", 400, "malformed_request"),
    ("S13", "get / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400, "malformed_request"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_parsers_could_read_differently_is_refused() {
    let mut policy = allowing(&["api.example.com"]);
    policy["allow"].as_array_mut().unwrap().push(json!({ "host": "api.example.com", "port": 80 }));
    let world = World::start(policy).await;
    let mut lines = 0;
    for (case, request, status, code) in REFUSED {
        let in_tunnel = world.inside("api.example.com:443").await;
        let at_front = world.proxy().await;
        for (place, mut client) in [("tunnel", in_tunnel), ("front", at_front)] {
            client.send(request).await;
            let answer = client.try_answer().await;
            let answer = answer.unwrap_or_else(|| panic!("{case} {place}: no answer"));
            assert_eq!((answer.status, answer.code()), (*status, *code), "{case} {place}");
            // Where the next request begins is known after this one alone.
            if *code != "path_not_canonical" {
                assert_eq!(client.rest().await, b"", "{case} {place}: the connection ends");
            }
            lines += 1;
            world.wait_for("deny", lines).await;
            world.untouched();
        }
    }
}

/// A body that stops making sense ends its request: nothing of it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_malformed_is_refused() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let head = "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (count, body) in
        ["5\r\nhelloX\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "-1\r\n", "ffffffffffffffffff\r\n"]
            .iter()
            .enumerate()
    {
        let mut client = world.inside("api.example.com:443").await;
        client.send(head).await;
        client.send("3\r\nabc\r\n").await;
        client.send(body).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.code()), (400, "ambiguous_framing"), "{body}");
        world.wait_for("deny", count + 1).await;
        world.untouched();
    }
}

/// Requests that come at once are answered one after the other, up to the one that is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_end_where_one_is_refused() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let mut client = world.inside("api.example.com:443").await;
    let good = "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\n\r\nabc";
    let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    client.send(format!("{good}{good}{bad}{good}")).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 200);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code()), (400, "malformed_request"));
    assert_eq!(client.rest().await, b"");
    assert_eq!(world.upstream.arrived().len(), 2);
}

/// S09: what belongs to one connection ends with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_fields_are_stripped_both_ways() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let mut client = world.inside("api.example.com:443").await;
    let answer = client
        .ask(
            "GET /reflect HTTP/1.1\r\nHost: api.example.com\r\nConnection: X-Foo, keep-alive\r\n\
             X-Foo: 1\r\nX-Bar: 2\r\nProxy-Authorization: Basic eDp5\r\nKeep-Alive: timeout=5\r\n\
             TE: gzip\r\nUpgrade: foo\r\nProxy-Connection: keep-alive\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let arrived = world.upstream.one();
    let names: Vec<&str> = arrived.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name != "host").collect::<Vec<_>>(), [&"x-bar"]);
    for name in ["alt-svc", "x-hop", "via", "x-forwarded-for"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

/// S11: a refusal comes before the body is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_is_not_asked_for_its_body() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let head = "POST /../x HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\n\
                Content-Length: 1000000\r\n\r\n";
    let answer = world.inside("api.example.com:443").await.ask(head).await;
    assert_eq!((answer.status, answer.code()), (400, "path_not_canonical"));
    world.refused("path_not_canonical");
    let mut client = world.inside("api.example.com:443").await;
    let head = "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\n\
                Content-Length: 5\r\n\r\n";
    assert_eq!(client.ask(head).await.status, 100);
    assert_eq!(client.ask("hello").await.status, 200);
    assert_eq!(world.upstream.one().body, b"hello");
}
