//! What an upstream may answer, and what of it arrives: C, S.

use serde_json::json;

use super::client::Answer;
use super::upstream::Upstream;
use super::world::{World, base64};

const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

async fn world(reply: &'static str) -> World {
    let policy = json!({
        "allow": [{ "host": "api.example.com", "port": 443 }],
        "routes": [{
            "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
            "auth_scheme": "Bearer", "credential": "GH_TOKEN",
        }],
        "dlp": { "action": "block" },
    });
    let mut world = World::unloaded(policy, Upstream::saying(reply).await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

async fn ask(world: &World) -> (Vec<u8>, Option<Answer>) {
    let mut client = world.inside("api.example.com:443").await;
    client.send("GET /x HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n").await;
    let raw = client.rest().await;
    let mut again = super::client::Client::new(std::io::Cursor::new(raw.clone()));
    (raw, again.try_answer().await)
}

/// C14: wherever an upstream puts what it was sent, it does not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_does_not_come_back_in_any_part_of_an_answer() {
    let mut redacted = 0;
    for reply in [
        // Interim answers.
        "HTTP/1.1 103 Early Hints\r\nLink: <{token}>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 100 {token}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 102 P\r\nx: {base64}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        // The reason.
        "HTTP/1.1 200 {token}\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 404 Not {authorization}\r\nContent-Length: 2\r\n\r\nok",
        // Fields that programs and browsers read.
        "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"{token}\"\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Go\r\nLocation: https://evil.test/?{token}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Go\r\nLocation: https://evil.test/?{base64}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a={token}; Path=/\r\nSet-Cookie: b={hex}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: {authorization}\r\nX-A: {authorization}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: \"{token}\"\r\n\r\n",
        // Bodies: with a length, in chunks, to the end of the connection.
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\":\"{token}\"}",
        "HTTP/1.1 200 OK\r\n\r\n{base64} {hex}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x={token}\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n2\r\nok\r\n0\r\nX-End: {token}\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n{token}",
        // More than one answer to one request.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{token}",
    ] {
        let world = world(reply).await;
        let (raw, answer) = ask(&world).await;
        let text = String::from_utf8_lossy(&raw).into_owned();
        assert!(answer.is_some(), "{reply}: {text}");
        let door = "GET /gh/x HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n";
        let mut client = world.proxy().await;
        client.send(door).await;
        let door = String::from_utf8_lossy(&client.rest().await).into_owned();
        let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
        assert_eq!(world.upstream.connections(), 2, "{reply}: it was asked");
        redacted += usize::from(text.contains("<redacted:GH_TOKEN>"));
        for text in [text, door, log] {
            for form in [TOKEN.to_owned(), base64(TOKEN.as_bytes()), hex::encode(TOKEN)] {
                assert!(!text.contains(&form), "{reply}\n{text}");
            }
        }
    }
    assert_eq!(redacted, 10, "it was sent, and came back");
}

/// An answer that two readers could end in different places, or that is none, is not passed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_no_sense_is_none() {
    for reply in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nraw",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 20 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "SSH-2.0-x\r\n",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "",
    ] {
        let world = world(reply).await;
        let (raw, answer) = ask(&world).await;
        let text = String::from_utf8_lossy(&raw).into_owned();
        let answer = answer.unwrap_or_else(|| panic!("{reply}: {text}"));
        assert_eq!(answer.status, 502, "{reply}: {text}");
        assert!(!text.contains("raw"), "{reply}: {text}");
        assert_eq!(world.wait_for("deny", 1).await.len(), 1, "{reply}");
    }
}
