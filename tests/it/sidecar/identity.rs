//! What a request says of itself beside its first line: who it is from, what it is really for. C01,
//! C02, C21, S09.

use serde_json::json;

use super::upstream::{Certificate, Upstream};
use super::world::World;

const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

async fn world() -> World {
    let policy = json!({
        "allow": [
            {
                "host": "other.example.com", "port": 443,
                "methods": ["GET", "POST"], "paths": ["/open/**"],
            },
        ],
        "routes": [{
            "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "/v1",
            "auth_scheme": "Bearer", "credential": "GH_TOKEN",
        }],
        "dlp": { "action": "block" },
    });
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

/// C01, C02: on a route the upstream is told one identity, however many the agent claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_identity_goes_by_a_route() {
    let world = world().await;
    let claims = [
        "Authorization: Bearer x",
        "authorization:Bearer x",
        "AUTHORIZATION: \t Basic eDp5 ",
        "aUtHoRiZaTiOn: token x\r\nAuthorization: token y\r\nauthorization: token z",
        "Authorization: Bearer x, Bearer y",
        "Authorization:",
        "Proxy-Authorization: Basic eDp5",
        "X-Api-Key: x\r\nx-api-key: y",
        "Api-Key: x",
        "Private-Token: x",
        "Job-Token: x",
        "X-Auth-Token: x",
        "X-Goog-Api-Key: x",
        "X-Amz-Security-Token: x",
        "Cookie: session=x\r\nCookie: user=y",
        "Connection: authorization\r\nAuthorization: x",
        "Connection: Authorization, X-A\r\nConnection: authorization\r\nX-A: 1",
        "Connection: accept-encoding, host, content-length\r\nAccept-Encoding: gzip",
        "Accept-Encoding: br\r\nAccept-Encoding: gzip",
    ];
    for (count, claim) in claims.iter().enumerate() {
        world.upstream.forget();
        let request = format!("GET /v1/echo HTTP/1.1\r\nHost: api.example.com\r\n{claim}\r\n\r\n");
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!(answer.status, 200, "{claim}: {answer:?}");
        let request = format!(
            "POST /gh/echo HTTP/1.1\r\nHost: sidecar\r\n{claim}\r\nContent-Length: 5\r\n\r\nhello"
        );
        let answer = world.proxy().await.ask(request).await;
        assert_eq!(answer.status, 200, "{claim}: {answer:?}");
        let arrived = world.upstream.arrived();
        assert_eq!(arrived.len(), 2);
        for one in &arrived {
            let mut names: Vec<&str> = one.headers.keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            names.retain(|name| !["host", "content-length"].contains(name));
            assert_eq!(names, ["accept-encoding", "authorization"], "{claim}");
            assert_eq!(one.header("authorization"), [format!("Bearer {TOKEN}")], "{claim}");
            assert_eq!(one.header("accept-encoding"), ["identity"], "{claim}");
            assert_eq!(one.header("host"), ["api.example.com"], "{claim}");
        }
        assert_eq!(arrived[1].body, b"hello");
        world.wait_for("allow", 2 * (count + 1)).await;
    }
    // What is no field at all is no way around it.
    for claim in
        ["Authorization : x", "Authorization\t: x", " Authorization: x", "Author\0ization: x"]
    {
        let request = format!("GET /gh/echo HTTP/1.1\r\nHost: sidecar\r\n{claim}\r\n\r\n");
        let answer = world.proxy().await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (400, "malformed_request"), "{claim}");
    }
}

/// Fields that make some servers take another method or path are held to the same rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_not_for_something_else() {
    let world = world().await;
    let ask = async |host: &str, line: &str, field: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n");
        let answer = if host == "sidecar" {
            world.proxy().await.ask(request).await
        } else {
            world.inside(&format!("{host}:443")).await.ask(request).await
        };
        (answer.status, answer.code().to_owned())
    };
    let (other, api) = ("other.example.com", "api.example.com");
    let mut denials = 0;
    for (host, line, field, status, code) in [
        (other, "GET /open/x", "X-HTTP-Method-Override: DELETE", 405, "method_not_allowed"),
        (other, "POST /open/x", "x-http-method: delete", 405, "method_not_allowed"),
        (other, "POST /open/x", "X-Method-Override: PUT", 405, "method_not_allowed"),
        (
            other,
            "POST /open/x",
            "X-HTTP-Method-Override: GET\r\nX-HTTP-Method-Override: PUT",
            405,
            "method_not_allowed",
        ),
        (other, "POST /open/x", "X-HTTP-Method-Override: TRACE", 405, "method_not_allowed"),
        (other, "POST /open/x", "X-HTTP-Method-Override:", 405, "method_not_allowed"),
        (other, "GET /open/x", "X-Original-URL: /closed", 403, "path_not_allowed"),
        (other, "GET /open/x", "X-Rewrite-URL: /open/../closed", 400, "path_not_canonical"),
        (other, "GET /open/x", "X-Original-URL: https://evil.test/", 400, "path_not_canonical"),
        (api, "GET /v1/x", "X-HTTP-Method-Override: TRACE", 405, "method_not_allowed"),
        (api, "GET /v1/x", "X-HTTP-Method-Override: OPTIONS", 405, "method_not_allowed"),
        (api, "GET /v1/x", "X-Original-URL: /v2/x", 403, "path_not_allowed"),
        (api, "GET /v1/x", "X-Original-URL: /v1/r.git/git-receive-pack", 403, "use_git_gate"),
        ("sidecar", "GET /gh/x", "X-HTTP-Method-Override: TRACE", 405, "method_not_allowed"),
        (
            "sidecar",
            "GET /gh/x",
            "X-Original-URL: /v1/r.git/git-receive-pack",
            403,
            "path_not_allowed",
        ),
    ] {
        assert_eq!(ask(host, line, field).await, (status, code.to_owned()), "{line} {field}");
        denials += 1;
        assert_eq!(world.wait_for("deny", denials).await[denials - 1]["code"], code, "{field}");
        world.untouched();
    }
    for (host, line, field) in [
        (other, "POST /open/x", "X-HTTP-Method-Override: get"),
        (other, "GET /open/x", "X-Original-URL: /open/y"),
        (api, "POST /v1/x", "X-HTTP-Method-Override: PATCH"),
        ("sidecar", "POST /gh/x", "X-HTTP-Method-Override: PATCH"),
    ] {
        assert_eq!(ask(host, line, field).await.0, 200, "{line} {field}");
    }
}

/// C21: a push is refused to every host, by TLS and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_goes_nowhere() {
    let mut policy = super::world::allowing(&["api.example.com"]);
    policy["allow"].as_array_mut().unwrap().push(json!({ "host": "api.example.com", "port": 80 }));
    let world = World::start(policy).await;
    let mut denials = 0;
    for line in [
        "GET /o/r.git/info/refs?service=git-receive-pack",
        "GET /o/r.git/info/refs?service=git%2dreceive%2dpack",
        "GET /o/r.git/info/refs?a=b&service=git-receive-pack",
        "POST /o/r.git/git-receive-pack",
        "POST /o/r/git-receive-pack",
        "POST /o/r.git/Git-Receive-Pack",
        "POST /o/r.git/git%2Dreceive-pack",
        "PUT /o/r.git/git-receive-pack?x=y",
    ] {
        let rest = "HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\n0000";
        let (method, path) = line.split_once(' ').unwrap();
        let inside = world.inside("api.example.com:443").await.ask(format!("{line} {rest}")).await;
        let absolute = format!("{method} http://api.example.com{path} {rest}");
        let outside = world.proxy().await.ask(absolute).await;
        for answer in [inside, outside] {
            assert_eq!((answer.status, answer.code()), (403, "use_git_gate"), "{line}");
        }
        denials += 2;
        world.wait_for("deny", denials).await;
        world.untouched();
    }
    for line in [
        "GET /o/r.git/info/refs?service=git-upload-pack",
        "POST /o/r.git/git-upload-pack",
        "GET /docs/git-receive-pack",
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        assert_eq!(
            world.inside("api.example.com:443").await.ask(request).await.status,
            200,
            "{line}"
        );
    }
}
