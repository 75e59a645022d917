//! A credential that is sent in base64, with a user before it: the text that is sent is as secret.

use serde_json::json;

use super::credentials::{GH, door, world};
use super::world::base64;

const USER: &str = "x-access-token";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_known_as_well_as_the_value() {
    let mut world = world().await;
    world.load().await.unwrap();
    let pair = base64(format!("{USER}:{GH}").as_bytes());
    // 15 bytes of the user's, 20 characters.
    let (user, secret) = pair.split_at(20);
    let secret = secret.trim_end_matches('=');
    let reversed: String = secret.chars().rev().collect();
    let post = |text: &str| {
        let length = text.len();
        format!(
            "POST /echo HTTP/1.1\r\nHost: other.example.com\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    };
    // A control: nobody writes a value so who has no Basic credential.
    let answer = world.inside("other.example.com:443").await.ask(post(&reversed)).await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // The values are the same, and another route writes one of them so.
    world.document["policy"]["routes"][0] = json!({
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
        "auth_scheme": "basic", "auth_user": USER, "credential": "GH_TOKEN",
    });
    world.load().await.unwrap();
    for text in [secret.to_owned(), reversed, hex::encode(secret), hex::encode(&pair)] {
        let answer = world.inside("other.example.com:443").await.ask(post(&text)).await;
        assert_eq!((answer.status, answer.code()), (403, "known-secret:GH_TOKEN"), "{text}");
    }
    // The user is no secret.
    let answer = world.inside("other.example.com:443").await.ask(post(user)).await;
    assert_eq!(answer.status, 200, "{answer:?}");

    let answer = door(&world, "GET /gh/reflect HTTP/1.1\r\n\r\n").await;
    let reflected = answer.header("x-reflected").unwrap();
    let rest = reflected.strip_prefix(&format!("Basic {user}")).unwrap();
    assert_eq!(rest.trim_end_matches('='), "<redacted:GH_TOKEN>", "not a character of it is left");
    assert!(!answer.text().contains(&secret[secret.len() - 6..]), "{}", answer.text());
}
