//! What is packed in a URL or a field does not leave: D02, D04, D06.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::disguises::{KNOWN, vendors, zip};
use super::packing::{gzip, zlib};
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

async fn world(action: &str) -> World {
    let mut policy = allowing(&["api.example.com"]);
    policy["dlp"]["action"] = json!(action);
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = json!({ "API_TOKEN": KNOWN });
    world.load().await.unwrap();
    world
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_secret_in_a_head_is_found() {
    let world = world("block").await;
    let percent =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut denials = 0;
    for (secret, code) in [(KNOWN.to_owned(), "known-secret:API_TOKEN"), (vendors(), "dlp:github")]
    {
        let (gzip, zlib) = (gzip(secret.as_bytes()), zlib(secret.as_bytes()));
        let zip = zip(secret.as_bytes(), true);
        let field = |value: &str| get("/echo", &format!("x-a: {value}\r\n"));
        for request in [
            get(&format!("/p?x={}", STANDARD.encode(&gzip)), ""),
            get(&format!("/p?x={}", hex::encode(&zlib)), ""),
            get(&format!("/p?x={}", URL_SAFE_NO_PAD.encode(&zip)), ""),
            get(&format!("/p?x={}", percent(&gzip)), ""),
            get(&format!("/p/{}", URL_SAFE_NO_PAD.encode(&zlib)), ""),
            get("/", &format!("Cookie: session=.{}\r\n", URL_SAFE_NO_PAD.encode(&zlib))),
            field(&STANDARD.encode(&gzip)),
            field(&STANDARD.encode(&zlib)),
        ] {
            let answer = world.inside("api.example.com:443").await.ask(&request).await;
            assert_eq!(answer.status, 403, "{request}");
            assert!(answer.code().starts_with(code), "{request} {}", answer.code());
            denials += 1;
            let line = &world.wait_for("deny", denials).await[denials - 1];
            assert_eq!(line.get("path"), None, "{line}");
            world.untouched();
        }
    }
}

/// What unpacks to more than is searched is refused, and passes with a word in `warn` mode; what cannot be
/// opened passes with a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_in_a_head_has_bounds() {
    let bomb = STANDARD.encode(gzip(&vec![b'a'; 600 << 10]));
    let broken = STANDARD.encode(&gzip(b"a text that is cut off in the middle of its words, after more than there is of chance")[..80]);
    let reason = |line: &Value| line["unscanned_reason"].as_str().unwrap_or_default().to_owned();
    for action in ["block", "warn"] {
        let world = world(action).await;
        let ask = async |value: &str| {
            let request = get("/echo", &format!("x-a: {value}\r\n"));
            world.inside("api.example.com:443").await.ask(&request).await
        };
        assert_eq!(ask(&broken).await.status, 200);
        assert_eq!(reason(&world.wait_for("allow", 1).await[0]), "archive_broken");
        let answer = ask(&bomb).await;
        if action == "warn" {
            assert_eq!(answer.status, 200);
            assert_eq!(reason(&world.wait_for("allow", 2).await[1]), "too_large");
        } else {
            assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"));
            assert!(answer.text().contains("send it in the body, or plain"), "{}", answer.text());
        }
        let request = format!("GET /{bomb} HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        let answer = world.inside("api.example.com:443").await.ask(&request).await;
        assert_eq!(answer.status == 413, action == "block");
        // A session as frameworks keep it is nothing to speak of.
        let session =
            URL_SAFE_NO_PAD.encode(zlib("a word of a session, and another ".repeat(99).as_bytes()));
        let answer = ask(&format!(".{session}.ZzZzZz.0123456789abcdef")).await;
        assert_eq!(answer.status, 200);
        let lines = world.log("allow");
        assert_eq!(lines.last().unwrap().get("unscanned"), None, "{lines:?}");
    }
}
