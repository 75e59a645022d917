//! Credentials that a machine uses and never sees: C.

use serde_json::{Value, json};

use super::client::Answer;
use super::upstream::{Certificate, Upstream};
use super::world::{World, base64};

pub(super) const GH: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
const DEEP: &str = "Zt5_oP9xQ2wE7rT1yU4iA6sD8fG3hJ0kL-zXcVbN";
const AI: &str = "m3N7bV1cX9zL5kJ2hG8fD4sA6pO0iU~yT.rEwQ!1";

/// Bytes as one decimal number.
fn decimal_of(bytes: &[u8]) -> String {
    let mut digits = vec![0_u32];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 10;
            carry /= 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().map(u32::to_string).collect()
}

fn policy() -> Value {
    let route = |path: &str, host: &str, upstream_path: &str, scheme: &str, credential: &str| {
        json!({
            "path": path, "host": host, "port": 443, "upstream_path": upstream_path,
            "auth_scheme": scheme, "credential": credential,
        })
    };
    json!({
        "allow": [{ "host": "other.example.com", "port": 443 }],
        "routes": [
            route("/gh/", "api.example.com", "", "token", "GH_TOKEN"),
            route("/gh/graphql/", "api.example.com", "/graphql", "Bearer", "DEEP_TOKEN"),
            route("/ai/", "ai.example.com", "/v1", "Bearer", "AI_KEY"),
        ],
        "dlp": { "action": "block" },
    })
}

fn values() -> Value {
    json!({ "GH_TOKEN": GH, "DEEP_TOKEN": DEEP, "AI_KEY": AI })
}

pub(super) async fn world() -> World {
    let mut world = World::unloaded(policy(), Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = values();
    world.names.set("ai.example.com", &[&[super::world::PUBLIC]]);
    world.load().await.unwrap();
    world
}

pub(super) async fn door(world: &World, request: &str) -> Answer {
    let request = request.replacen("\r\n", "\r\nHost: sidecar\r\n", 1);
    world.proxy().await.ask(request).await
}

/// Every place where a value could have got to that a test can look at.
fn nowhere(world: &World, answers: &[Answer]) {
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    let mut texts = vec![log];
    for answer in answers {
        texts.push(format!("{:?} {}", answer.headers, answer.text()));
    }
    for pid in [world.child.id()] {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    for value in [GH, DEEP, AI] {
        for form in [value.to_owned(), base64(value.as_bytes()), hex::encode(value)] {
            for text in &texts {
                assert!(!text.contains(&form), "{form} in {text}");
            }
        }
    }
}

/// C01, C02: one `Authorization`, and it is the route's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_says_of_itself_is_replaced() {
    let world = world().await;
    let fields = [
        "",
        "Authorization: Bearer x\r\n",
        "authorization: a\r\nAUTHORIZATION: b\r\n",
        "X-Api-Key: x\r\nProxy-Authorization: Basic eDp5\r\nCookie: session=1\r\n",
        "Connection: authorization\r\n",
        "Connection: Authorization, close\r\nAuthorization: token x\r\n",
    ];
    for (count, fields) in fields.iter().enumerate() {
        let through_door = door(&world, &format!("GET /gh/echo HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(through_door.status, 200, "{through_door:?}");
        let request = format!("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n");
        let through_proxy = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!(through_proxy.status, 200, "{through_proxy:?}");
        let arrived = world.upstream.arrived();
        assert_eq!(arrived.len(), 2 * (count + 1));
        for one in &arrived[2 * count..] {
            assert_eq!(one.header("authorization"), [format!("token {GH}")], "{fields:?}");
            assert_eq!(one.header("accept-encoding"), ["identity"]);
            for name in ["x-api-key", "proxy-authorization", "cookie"] {
                assert!(one.header(name).is_empty(), "{name}");
            }
        }
        nowhere(&world, &[through_door, through_proxy]);
    }
    let allowed = world.wait_for("allow", 2 * fields.len()).await;
    assert!(allowed.iter().all(|line| line["inject"] == "GH_TOKEN" && line["route"] == "/gh/"));
}

/// Each vendor's own way of writing a credential, by both doors, and over whatever the agent sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_written_as_the_route_says() {
    let cases = [
        (json!({ "auth_scheme": "Bearer" }), "authorization", format!("Bearer {GH}")),
        (json!({ "auth_scheme": "token" }), "authorization", format!("token {GH}")),
        (
            json!({ "auth_scheme": "basic", "auth_user": "x-access-token" }),
            "authorization",
            format!("Basic {}", base64(format!("x-access-token:{GH}").as_bytes())),
        ),
        (json!({ "auth_scheme": "x-api-key" }), "x-api-key", GH.to_owned()),
        (
            json!({ "auth_scheme": "header", "auth_header": "x-goog-api-key" }),
            "x-goog-api-key",
            GH.to_owned(),
        ),
        (
            json!({ "auth_scheme": "header", "auth_header": "x-vendors-own" }),
            "x-vendors-own",
            GH.to_owned(),
        ),
    ];
    let mut world = world().await;
    let names = ["authorization", "x-api-key", "x-goog-api-key", "private-token", "x-vendors-own"];
    let agents: String = names.iter().map(|name| format!("{name}: of-the-agent\r\n")).collect();
    for (scheme, header, expected) in cases {
        let route = &mut world.document["policy"]["routes"][0];
        *route = json!({
            "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
            "credential": "GH_TOKEN",
        });
        for (key, value) in scheme.as_object().unwrap() {
            route[key] = value.clone();
        }
        world.load().await.unwrap();
        let before = world.upstream.arrived().len();
        let by_path = door(&world, &format!("GET /gh/echo HTTP/1.1\r\n{agents}\r\n")).await;
        let request = format!("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n{agents}\r\n");
        let by_proxy = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!((by_path.status, by_proxy.status), (200, 200), "{scheme}");
        let arrived = world.upstream.arrived();
        assert_eq!(arrived.len(), before + 2);
        for one in &arrived[before..] {
            assert_eq!(one.header(header), std::slice::from_ref(&expected), "{scheme}");
            for name in names.iter().filter(|name| **name != header) {
                let agents_own = one.header(name);
                // A header that no vendor is known for is the agent's own business.
                let own = *name == "x-vendors-own";
                assert_eq!(agents_own.len(), usize::from(own), "{scheme}: {name}");
            }
        }
        nowhere(&world, &[by_path, by_proxy]);
    }
}

/// (case, request line, status, code, where it arrives, with what)
const DOORS: &[(&str, &str, u16, &str, &str, &str)] = &[
    ("C03", "GET /gh/graphql/x", 200, "none", "/graphql/x", "Bearer DEEP"),
    ("C03", "GET /gh/graphqlx", 200, "none", "/graphqlx", "token GH"),
    ("C03", "GET /ai/messages?a=b", 200, "none", "/v1/messages?a=b", "Bearer AI"),
    ("C04", "GET /ghx/y", 404, "route_not_found", "", ""),
    ("C04", "GET /gh", 404, "route_not_found", "", ""),
    ("C04", "GET /", 404, "route_not_found", "", ""),
    ("C05", "GET /ai/../gh/user", 400, "path_not_canonical", "", ""),
    ("C06", "GET /ai/%2e%2e/gh/user", 400, "path_not_canonical", "", ""),
    ("C06", "GET /ai/%2E./gh", 400, "path_not_canonical", "", ""),
    ("C06", "GET /ai%2f..%2fgh", 400, "path_not_canonical", "", ""),
    ("C08", "GET //evil.test/x", 400, "path_not_canonical", "", ""),
    ("C13", "TRACE /gh/x", 405, "method_not_allowed", "", ""),
    ("C13", "OPTIONS /gh/x", 405, "method_not_allowed", "", ""),
    ("C21", "POST /gh/o/r.git/git-receive-pack", 403, "use_git_gate", "", ""),
    ("C21", "GET /gh/o/r.git/info/refs?service=git-receive-pack", 403, "use_git_gate", "", ""),
    ("C21", "GET /gh/o/r.git/info/refs?service=git%2dreceive%2dpack", 403, "use_git_gate", "", ""),
    (
        "C21",
        "GET /gh/o/r.git/info/refs?service=git-upload-pack",
        200,
        "none",
        "/o/r.git/info/refs?service=git-upload-pack",
        "token GH",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_door_leads_where_its_routes_say() {
    let world = world().await;
    let mut arrived = 0;
    let mut denied = 0;
    for (case, line, status, code, target, with) in DOORS {
        let answer = door(&world, &format!("{line} HTTP/1.1\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code()), (*status, *code), "{case} {line}");
        if *status == 200 {
            arrived += 1;
            let with = with.replace("DEEP", DEEP).replace("GH", GH).replace("AI", AI);
            let one = world.upstream.arrived().pop().unwrap();
            assert_eq!(one.target, *target, "{case} {line}");
            assert_eq!(one.header("authorization"), [with], "{case} {line}");
        } else {
            denied += 1;
            world.wait_for("deny", denied).await;
        }
        assert_eq!(world.upstream.arrived().len(), arrived, "{case} {line}");
    }
}

/// C09, C10: whatever a request at the door calls it, it is the route's upstream that is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_door_answers_to_its_own_names() {
    let world = world().await;
    for (host, status) in [
        ("sidecar", 200),
        ("SIDECAR.", 200),
        ("sidecar:8081", 200),
        ("127.0.0.1:3128", 200),
        ("evil.test", 421),
        ("api.example.com", 421),
        ("127.0.0.2", 421),
    ] {
        let request = format!("GET /gh/echo HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = world.proxy().await.ask(request).await;
        assert_eq!(answer.status, status, "{host} {answer:?}");
    }
    let arrived = world.upstream.arrived();
    assert_eq!(arrived.len(), 4);
    assert!(arrived.iter().all(|one| one.header("host") == ["api.example.com"]), "{arrived:?}");
    let request = "GET http://evil.test/gh/echo HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let answer = world.proxy().await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (403, "host_not_allowed"));
}

/// C11: a redirect is passed back; one to the upstream's own stays at the door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_stay_at_the_door_or_lose_the_credential() {
    let world = world().await;
    for (location, expected) in [
        ("https://evil.test/", "https://evil.test/"),
        ("https://ai.example.com/v1/next?a=b", "/ai/next?a=b"),
        ("https://ai.example.com:443/v1", "/ai/"),
        ("/v1/next", "/ai/next"),
        ("/v2/next", "/v2/next"),
        ("https://ai.example.com/v10", "https://ai.example.com/v10"),
        ("https://ai.example.com@evil.test/v1/", "https://ai.example.com@evil.test/v1/"),
        ("//evil.test/v1/", "//evil.test/v1/"),
    ] {
        world.upstream.forget();
        let answer = door(&world, &format!("GET /ai/redirect?{location} HTTP/1.1\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("location")), (302, Some(expected)), "{location}");
        assert_eq!(world.upstream.arrived().len(), 1);
    }
    // Nobody went after any of them.
    assert!(world.names.asked().iter().all(|name| name == "ai.example.com"));
    let (_, head) = world.connect("evil.test:443").await;
    assert_eq!((head.status, head.code()), (403, "host_not_allowed"));
}

/// C14: what an upstream says of what it was sent, in every way it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflections_are_redacted() {
    let world = world().await;
    let mut answers = Vec::new();
    for path in ["reflect", "halves", "trailers", "echo"] {
        for protocol in ["door", "h1", "h2"] {
            let answer = match protocol {
                "door" => door(&world, &format!("GET /gh/{path} HTTP/1.1\r\n\r\n")).await,
                "h1" => {
                    let request = format!(
                        "GET /{path} HTTP/1.1\r\nHost: api.example.com\r\nTE: trailers\r\n\r\n"
                    );
                    world.inside("api.example.com:443").await.ask(request).await
                }
                _ => http2(&world, path).await,
            };
            assert_eq!(answer.status, 200, "{path} {protocol}");
            let text = format!("{:?} {}", answer.headers, answer.text());
            if path != "trailers" {
                assert!(text.contains("<redacted:GH_TOKEN>"), "{path} {protocol}: {text}");
            }
            answers.push(answer);
        }
    }
    // The upstream was asked not to compress, and what it sends all the same is not searched.
    let answer = door(&world, "GET /gh/gzip HTTP/1.1\r\n\r\n").await;
    assert!(answer.status == 502 || answer.text().contains("<redacted:GH_TOKEN>"), "{answer:?}");
    answers.push(answer);
    nowhere(&world, &answers);
}

async fn http2(world: &World, path: &str) -> Answer {
    use http_body_util::BodyExt as _;
    let stream = world.inside_http2("api.example.com:443").await;
    let (mut sender, connection) = super::tunnel::handshake(stream).await;
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("https://api.example.com/{path}"))
        .body(http_body_util::Full::default())
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let headers = head.headers.iter().chain(&trailers);
    Answer {
        status: head.status.as_u16(),
        headers: headers
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect(),
        body: whole.to_bytes().to_vec(),
    }
}

/// C18, C19, C20: a document that is wrong is refused whole, by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_credential_is_told_by_name() {
    let mut world = world().await;
    for value in ["abc\r\nX-Evil: 1", "", "with space inside it", "with\0nul inside"] {
        world.document["credentials"]["GH_TOKEN"] = json!(value);
        let error = world.load().await.unwrap_err();
        assert!(error.contains("GH_TOKEN") && !error.contains("X-Evil"), "{error}");
    }
    // What was loaded before still holds.
    assert_eq!(door(&world, "GET /gh/echo HTTP/1.1\r\n\r\n").await.status, 200);
    world.document["credentials"] = json!({ "AI_KEY": AI });
    world.load().await.unwrap();
    let answer = door(&world, "GET /gh/echo HTTP/1.1\r\nAuthorization: token x\r\n\r\n").await;
    assert_eq!((answer.status, answer.code()), (503, "credential_missing"));
    assert_eq!(world.upstream.arrived().len(), 1);
    for (field, value) in [
        ("host", json!("api.example.com/")),
        ("host", json!("u@api.example.com")),
        ("host", json!("127.0.0.1")),
        ("host", json!("api.example.com?x")),
        ("port", json!(0)),
        ("upstream_path", json!("/a?b")),
        ("upstream_path", json!("//evil.test")),
        ("auth_scheme", json!("Bearer x\r\n")),
        ("auth_scheme", json!("basic")),
        ("auth_scheme", json!("header")),
        ("auth_user", json!("x")),
        ("auth_header", json!("x-api-key")),
        ("path", json!("/gh")),
        ("credential", json!("GH TOKEN")),
        ("scheme", json!("http")),
    ] {
        let mut document = world.document.clone();
        document["policy"]["routes"][0][field] = value.clone();
        std::mem::swap(&mut world.document, &mut document);
        world.load().await.expect_err(&format!("{field}: {value}"));
        std::mem::swap(&mut world.document, &mut document);
    }
}

/// Before any document there is neither a policy nor a credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unloaded_sidecar_passes_nothing() {
    let upstream = Upstream::start(Certificate::Good).await;
    let world = World::unloaded(policy(), upstream, &[]).await;
    let (_, head) = world.connect("other.example.com:443").await;
    assert_eq!((head.status, head.code()), (503, "not_ready"));
    let answer = door(&world, "GET /gh/user HTTP/1.1\r\n\r\n").await;
    assert_eq!((answer.status, answer.code()), (503, "credential_missing"));
    let request = "GET http://other.example.com/ HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    let answer = world.proxy().await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (503, "not_ready"));
    assert_eq!(world.wait_for("deny", 3).await.len(), 3);
    world.untouched();
}

/// D13: a credential is refused on its way to any other host, or in any other place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_goes_by_its_route_alone() {
    let mut world = world().await;
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: other.example.com\r\nContent-Length: {}\r\n\r\n{GH}",
        GH.len()
    );
    let answer = world.inside("other.example.com:443").await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (403, "known-secret:GH_TOKEN"));
    // C24: another route's, and its own where it does not belong.
    let request = format!("POST /ai/messages HTTP/1.1\r\nContent-Length: {}\r\n\r\n{GH}", GH.len());
    let answer = door(&world, &request).await;
    assert_eq!((answer.status, answer.code()), (403, "known-secret:GH_TOKEN"));
    let request = format!("GET /gh/x HTTP/1.1\r\nAuthorization: token {GH}\r\n\r\n");
    let answer = door(&world, &request).await;
    assert_eq!((answer.status, answer.code()), (403, "known-secret:GH_TOKEN"));
    // In the name of a host that a wildcard allows: it is not resolved.
    world.document["policy"]["allow"][0] = json!({ "host": "**.example.org", "port": 443 });
    world.load().await.unwrap();
    let name = hex::encode(GH);
    let (first, second) = name.split_at(40);
    for host in [format!("{first}.{second}.example.org"), format!("a.{}.example.org", &DEEP.len())]
    {
        let mut client = world.inside(&format!("{host}:443")).await;
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let expected = if host.starts_with('a') { "upstream_dns" } else { "known-secret:GH_TOKEN" };
        assert_eq!(answer.code(), expected, "{host}");
    }
    assert!(world.names.asked().iter().all(|name| !name.contains(first)));
    // A piece of it that is long enough, in forms that names can have; and what only looks like data.
    let folded = GH.to_lowercase().replace('-', "");
    let piece = &folded[..folded.len().min(20)];
    let decimal: String = GH.bytes().map(|byte| format!("{byte:03}")).collect();
    let number = decimal_of(GH.as_bytes());
    let random = "4kq9zt1v7xw2m8c3r6bn5p0y4kq9zt1v7xw2m8c3r6bn";
    let asked = world.names.asked().len();
    for host in [
        format!("{piece}.example.org"),
        format!("{}.{}.x.example.org", &piece[..9], &piece[9..]),
        format!("{}.example.org", &decimal[..60]),
        format!("{}.{}.example.org", &decimal[..30], &decimal[30..54]),
        format!("{random}.example.org"),
        // As one number.
        format!("{}.example.org", &number[..60]),
        format!("{}.{}.{}.example.org", &number[..30], &number[30..60], &number[60..]),
    ] {
        let (_, head) = world.connect(&format!("{host}:443")).await;
        if head.status == 200 {
            let mut client = world.inside(&format!("{host}:443")).await;
            let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(answer.code(), "known-secret:GH_TOKEN", "{host}");
        } else {
            assert_eq!((head.status, head.code()), (403, "name_holds_data"), "{host}");
            assert!(!head.text().contains(&host[..20]), "{host}");
        }
    }
    assert_eq!(world.names.asked().len(), asked, "{:?}", world.names.asked());
    let lines = serde_json::to_string(&world.log("deny")).unwrap();
    assert!(!lines.contains(random) && !lines.contains(piece));
    // In the name of a host that is not allowed: the log does not tell it.
    let (_, head) = world.connect(&format!("{first}.{second}.evil.test:443")).await;
    assert_eq!(head.code(), "host_not_allowed");
    nowhere(&world, &[head]);
    assert!(world.upstream.arrived().is_empty());
}
