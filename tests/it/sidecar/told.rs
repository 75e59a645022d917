//! What the log and the pages tell: C17, D23, R07.

use serde_json::json;

use super::client::Answer;
use super::upstream::{Certificate, Upstream};
use super::world::{World, base64};

const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

/// A token in the form of a vendor's.
fn vendors() -> String {
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

async fn world(action: &str) -> World {
    let policy = json!({
        "allow": [
            { "host": "other.example.com", "port": 443, "paths": ["/open/**"], "methods": ["GET"] },
            { "host": "**.example.org", "port": 443 },
        ],
        "routes": [{
            "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "/v1",
            "auth_scheme": "Bearer", "credential": "GH_TOKEN",
        }],
        "dlp": { "action": action },
    });
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

fn untold(world: &World, secret: &str, answers: &[Answer]) {
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    let (first, second) = secret.split_at(secret.len() / 2);
    for text in answers
        .iter()
        .map(|answer| format!("{:?} {}", answer.headers, answer.text()))
        .chain(log.lines().map(str::to_owned))
    {
        let forms =
            [first.to_owned(), second.to_owned(), base64(secret.as_bytes()), hex::encode(secret)];
        for form in forms {
            assert!(!text.contains(&form), "{text}");
        }
    }
}

/// C17: whatever a request is refused for, and wherever in it the secret stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_tells_a_secret() {
    for action in ["block", "warn"] {
        for secret in [TOKEN.to_owned(), vendors()] {
            let world = world(action).await;
            let mut answers = Vec::new();
            for form in [secret.clone(), base64(secret.as_bytes()), hex::encode(&secret)] {
                let form = form.replace('=', "%3D").replace('+', "%2B");
                let requests = [
                    // The path is not allowed, the method is not, it is not canonical, it is a push.
                    ("other.example.com", format!("GET /closed/{form} HTTP/1.1")),
                    ("other.example.com", format!("PUT /open/{form} HTTP/1.1")),
                    ("other.example.com", format!("TRACE /open/{form} HTTP/1.1")),
                    ("other.example.com", format!("GET /open/../{form} HTTP/1.1")),
                    ("api.example.com", format!("GET /v2/{form} HTTP/1.1")),
                    ("api.example.com", format!("POST /v1/{form}/git-receive-pack HTTP/1.1")),
                    ("api.example.com", format!("OPTIONS /v1/{form} HTTP/1.1")),
                    // It is found, in block mode; a vendor's form passes in warn mode.
                    ("other.example.com", format!("GET /open/{form} HTTP/1.1")),
                    ("other.example.com", format!("GET /open/x?a={form} HTTP/1.1")),
                    // What fails later.
                    ("gone.example.org", format!("GET /{form} HTTP/1.1")),
                    ("api.example.com", format!("GET /v1/{form} HTTP/1.1")),
                ];
                for (host, line) in requests {
                    let request = format!("{line}\r\nHost: {host}\r\n\r\n");
                    let mut client = world.inside(&format!("{host}:443")).await;
                    answers.push(client.ask(&request).await);
                }
                for line in [
                    format!("GET /{form} HTTP/1.1"),
                    format!("GET /ghx/{form} HTTP/1.1"),
                    format!("TRACE /gh/{form} HTTP/1.1"),
                    format!("POST /gh/{form}/git-receive-pack HTTP/1.1"),
                    format!("GET /gh/{form} HTTP/1.1"),
                ] {
                    let request = format!("{line}\r\nHost: sidecar\r\n\r\n");
                    answers.push(world.proxy().await.ask(&request).await);
                    let request = format!("{line}\r\nHost: evil.test\r\n\r\n");
                    answers.push(world.proxy().await.ask(&request).await);
                }
            }
            // What passes is echoed by the upstream, which was sent it.
            answers.retain(|answer| answer.status != 200);
            assert!(answers.len() > 50, "{}", answers.len());
            assert!(!world.log("deny").is_empty());
            untold(&world, &secret, &answers);
        }
    }
}

/// C16: what goes wrong on a route is told by its path and the request, and by nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_fails_is_told_by_its_path() {
    for (certificate, address, path, status, code) in [
        (Certificate::Good, Some("93.184.216.35"), "/x", 502, "upstream_unreachable"),
        (Certificate::Good, None, "/x", 502, "upstream_dns"),
        (Certificate::Good, Some("10.0.0.5"), "/x", 403, "ssrf_denied"),
        (Certificate::Unknown, Some("93.184.216.34"), "/x", 502, "upstream_tls"),
        (Certificate::WrongName, Some("93.184.216.34"), "/x", 502, "upstream_tls"),
        (Certificate::Expired, Some("93.184.216.34"), "/x", 502, "upstream_tls"),
        (Certificate::Good, Some("93.184.216.34"), "/never", 504, "upstream_timeout"),
    ] {
        let policy = json!({
            "allow": [],
            "routes": [{
                "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
                "auth_scheme": "Bearer", "credential": "GH_TOKEN",
            }],
            "dlp": { "action": "block" },
        });
        let mut world = World::unloaded(policy, Upstream::start(certificate).await, &[]).await;
        world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
        world.document["testing"]["response_head_ms"] = json!(300);
        world.load().await.unwrap();
        world.names.set("api.example.com", &[address.as_slice()]);
        let request = format!("GET /gh{path} HTTP/1.1\r\nHost: sidecar\r\n\r\n");
        let door = world.proxy().await.ask(&request).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        let proxy = world.inside("api.example.com:443").await.ask(&request).await;
        for answer in [&door, &proxy] {
            assert_eq!((answer.status, answer.code()), (status, code));
            let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(page["route"], "/gh/");
            assert_eq!(page["request_id"].as_str(), answer.header("x-bottle-request-id"));
            let text = format!("{:?} {}", answer.headers, answer.text());
            for secret in ["GH_TOKEN", "93.184", "10.0.0", "UnknownIssuer", "127.0.0.1"] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
        }
        untold(&world, TOKEN, &[door, proxy]);
    }
}

/// R07: one line for each request, of plain characters, whatever is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_request_leaves_its_line() {
    let world = world("block").await;
    let forged = "{\"event\":\"allow\",\"host\":\"evil.test:443\"}";
    let texts: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b"%0a",
        b"%0d%0a",
        b"\\n",
        b"\x1b[2J\x1b]0;APPROVED\x07",
        b"\x1b]52;c;eA==\x07",
        b"\x1b]8;;https://evil.test\x1b\\",
        b"\x9b31m",
        "\u{9b}31m".as_bytes(),
        "\u{202e}".as_bytes(),
        "\u{2028}".as_bytes(),
        b"\0",
        b"\x7f",
        b"\xff\xfe",
        b"\",\"event\":\"allow",
        b"'\"\\",
    ];
    let mut asked = 0;
    for text in texts {
        let said = [text, forged.as_bytes()].concat();
        let parts: [[&[u8]; 3]; 6] = [
            [b"GET /open/", &said, b" HTTP/1.1\r\nHost: other.example.com\r\n\r\n"],
            [b"GET /open/?a=", &said, b" HTTP/1.1\r\nHost: other.example.com\r\n\r\n"],
            [b"GET /open/x HTTP/1.1\r\nHost: other.example.com\r\nX: ", &said, b"\r\n\r\n"],
            [b"GET /open/x HTTP/1.1\r\nX", &said, b": a\r\nHost: other.example.com\r\n\r\n"],
            [b"GET /open/x HTTP/1.1\r\nHost: ", &said, b"\r\n\r\n"],
            [b"G", &said, b" /open/x HTTP/1.1\r\nHost: other.example.com\r\n\r\n"],
        ];
        for parts in &parts {
            let request = parts.concat();
            let mut client = world.inside("other.example.com:443").await;
            client.ask(&request).await;
            asked += 1;
            let request = [b"CONNECT ", &said[..], b":443 HTTP/1.1\r\n\r\n"].concat();
            world.proxy().await.ask(&request).await;
            asked += 1;
        }
    }
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    let plain = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    let odd = log.lines().find(|line| !line.bytes().all(plain));
    assert_eq!(odd, None);
    // A line feed in a request may make two of it, and then each has its line.
    let (allowed, denied) = (world.log("allow"), world.log("deny"));
    assert!(allowed.len() + denied.len() >= asked, "{} {}", allowed.len(), denied.len());
    assert!(allowed.iter().all(|line| line["host"] == "other.example.com:443"));
    assert_eq!(allowed.len(), world.upstream.arrived().len());
}
