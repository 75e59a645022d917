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
