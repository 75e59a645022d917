//! Parts of an answer, of which somebody puts an echo of the credential together: C.

use serde_json::json;

use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

async fn world() -> World {
    let mut policy = allowing(&["api.example.com", "other.example.com"]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

/// Asks by both doors, with HTTP/1.1 and with HTTP/2.
async fn by_every_door(world: &World, path: &str, fields: &[(&str, &str)]) -> Vec<(u16, String)> {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET /gh{path} HTTP/1.1\r\nHost: sidecar\r\n{lines}\r\n");
    let door = world.proxy().await.ask(&request).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{lines}\r\n");
    let proxy = world.inside("api.example.com:443").await.ask(&request).await;
    let mut answers = vec![(door.status, door.text()), (proxy.status, proxy.text())];
    let stream = world.inside_http2("api.example.com:443").await;
    let (mut sender, connection) = super::tunnel::handshake(stream).await;
    tokio::spawn(connection);
    let mut request = hyper::Request::get(format!("https://api.example.com{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Default::default()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    answers.push((status, String::from_utf8_lossy(&body).into_owned()));
    answers
}

/// C15: nothing that asks for a part goes on, whatever it is called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_an_answer_is_not_asked_for() {
    let world = world().await;
    for start in (0..200).step_by(20) {
        let range = format!("bytes={start}-{}", start + 9);
        for (status, text) in by_every_door(&world, "/slice", &[("range", &range)]).await {
            assert_eq!(status, 200, "{range}: {text}");
            assert!(text.contains("authorization: Bearer <redacted:GH_TOKEN>"), "{range}: {text}");
        }
    }
    let fields = [
        ("range", "bytes=0-9"),
        ("if-range", "\"x\""),
        ("request-range", "bytes=0-9"),
        ("x-ms-range", "bytes=0-9"),
        ("x-range", "bytes=0-9"),
        ("a-im", "range"),
    ];
    world.upstream.forget();
    by_every_door(&world, "/echo", &fields).await;
    for arrived in world.upstream.arrived() {
        for (name, _) in fields {
            assert!(arrived.header(name).is_empty(), "{name}: {arrived:?}");
        }
    }
}

/// C15: an upstream that answers with a part all the same is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_an_answer_is_not_passed_on() {
    let world = world().await;
    for path in ["/slice?bytes=0-9", "/byteranges", "/status?206", "/status?226"] {
        for (status, text) in by_every_door(&world, path, &[]).await {
            assert_eq!(status, 502, "{path}: {text}");
            assert!(text.contains("\"code\":\"partial_response\""), "{path}: {text}");
        }
    }
    assert_eq!(world.wait_for("deny", 12).await[0]["code"], "partial_response");
}

/// Where no credential is added, downloads are resumed as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_credential_parts_are_passed_on() {
    let world = world().await;
    let mut client = world.inside("other.example.com:443").await;
    let request =
        "GET /slice HTTP/1.1\r\nHost: other.example.com\r\nRange: bytes=0-2\r\nIf-Range: x\r\n\r\n";
    let answer = client.ask(request).await;
    assert_eq!((answer.status, answer.text().as_str()), (206, "GET"));
    assert_eq!(world.upstream.one().header("if-range"), ["x"]);
}

/// The same at the host of a route, beyond the path of the route: no credential goes there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_path_of_a_route_parts_are_passed_on() {
    let mut world = world().await;
    world.document["policy"]["routes"][0]["upstream_path"] = json!("/reflect");
    world.load().await.unwrap();
    let ask = |path: &str, range: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\nRange: {range}\r\n\r\n")
    };
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask(ask("/slice", "bytes=0-2")).await;
    assert_eq!((answer.status, answer.text().as_str()), (206, "GET"));
    let arrived = world.upstream.one();
    assert_eq!(arrived.header("range"), ["bytes=0-2"]);
    assert!(arrived.header("authorization").is_empty());
    world.upstream.forget();
    let answer = client.ask(ask("/reflect", "bytes=0-2")).await;
    assert!(answer.text().contains("<redacted:GH_TOKEN>"), "{}", answer.text());
    assert!(world.upstream.one().header("range").is_empty());
}
