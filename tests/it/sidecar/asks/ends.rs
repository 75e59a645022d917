//! Grants that end.

use serde_json::json;

use super::*;

const GET: &str = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

fn in_seconds(seconds: u64) -> String {
    let now = bottle::sidecar::clock::moment().seconds();
    bottle::model::Moment::of_seconds(now + seconds).in_seconds()
}

/// Check 27, the sidecar's end: by its own clock, without any document, also in a tunnel that is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_refused() {
    let mut world = world().await;
    world.document["policy"]["allow"][0]["expires"] = in_seconds(4).into();
    world.load().await.unwrap();
    let mut inside = world.inside("api.example.com:443").await;
    assert_eq!(inside.ask(GET).await.status, 200);
    // A request that goes on and on, and a tunnel in which nothing is asked.
    let mut long = world.inside("api.example.com:443").await;
    long.send("POST /echo HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(long.rest().await.is_empty(), "it is closed");
    assert!(inside.try_answer().await.is_none(), "so is the tunnel");
    assert!(!world.log("revoked").is_empty());
    let (_, refused) = world.connect("api.example.com:443").await;
    assert_eq!((refused.status, refused.code()), (403, "grant_expired"));
    assert!(world.log("deny").iter().any(|line| line["code"] == "grant_expired"));
    // It can be asked for again, and is not what is allowed already.
    let said = asks(&world, "https://api.example.com/echo").await;
    assert!(said.starts_with("pending: "), "{said}");
    let request = pending(&world).await.remove(0);
    assert_eq!(request.evidence.codes.get("grant_expired"), Some(&1), "{request:?}");
}

/// The same of a route, whose credential goes to nobody any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_has_ended_is_refused() {
    let mut world = world().await;
    world.document["policy"]["allow"] = json!([]);
    world.document["policy"]["routes"] = json!([{"path": "/gh/", "host": "api.example.com", "port": 443,
        "auth_scheme": "Bearer", "credential": "GH_TOKEN", "expires": in_seconds(3600)}]);
    world.document["credentials"] = json!({"GH_TOKEN": "correct-horse-battery-staple"});
    world.load().await.unwrap();
    let get = "GET /gh/echo HTTP/1.1\r\nHost: sidecar\r\n\r\n";
    assert_eq!(world.proxy().await.ask(get).await.status, 200);
    world.document["testing"]["clock_ahead"] = 3601.into();
    world.load().await.unwrap();
    let answer = world.proxy().await.ask(get).await;
    assert_eq!((answer.status, answer.code()), (403, "grant_expired"));
    let (_, refused) = world.connect("api.example.com:443").await;
    assert_eq!(refused.code(), "grant_expired");
    assert_eq!(world.upstream.arrived().len(), 1);
}
