//! Calls that wait.

use std::time::Instant;

use serde_json::json;

use super::*;

fn egress(url: &str) -> Value {
    json!({"failed_url": url, "reason": "it fails"})
}

/// A call hears of the decision by the document that makes it true: the first request after it passes. Check 26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_after_applied_passes() {
    let mut world = world().await;
    let url = "https://other.example.com/x/y";
    for round in 0..200 {
        // There are ten new ones a minute.
        if round % 10 == 9 {
            world = self::world().await;
        }
        let mut call = waits(&world, "pipelock-block", egress(url), Some("t")).await;
        let request = until_pending(&world, 1).await.remove(0);
        let hears = async {
            let answer = call.answer().await;
            let mut inside = world.inside("other.example.com:443").await;
            let got = inside.ask("GET /x/y HTTP/1.1\r\nHost: other.example.com\r\n\r\n").await;
            (answer, got.status)
        };
        let mut document = world.document.clone();
        document["policy"]["allow"]
            .as_array_mut()
            .unwrap()
            .push(json!({"host": "other.example.com",
            "port": 443, "methods": ["GET", "HEAD"], "paths": ["/x/**"]}));
        document["supervise"]["requests"] = json!([decided(&request, "applied", None)]);
        let control = world.control();
        let loads = async {
            let text = serde_json::to_vec(&document).unwrap();
            bottle::sidecar::control::load::<bottle::sidecar::egress::State>(&control, &text)
                .await
                .unwrap();
        };
        let ((answer, status), ()) = tokio::join!(hears, loads);
        let events = events(&answer);
        let (text, _) = text_of(events.last().unwrap());
        assert!(text.starts_with("applied: other.example.com:443"), "round {round}: {text}");
        assert_eq!(status, 200, "round {round}");
        // Anew: without the grant.
        world.document["supervise"]["requests"] = json!([decided(&request, "undone", None)]);
        world.load().await.unwrap();
    }
}

/// Something comes every now and then, with the caller's token; at the end there is an answer, never silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_says_so_and_ends() {
    let mut world = world().await;
    world.document["testing"]["beat_ms"] = 100.into();
    world.document["testing"]["wait_ms"] = 1050.into();
    world.load().await.unwrap();
    let mut call =
        waits(&world, "pipelock-block", egress("https://a.example/"), Some("mine")).await;
    let answer = call.answer().await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let all = events(&answer);
    let (last, beats) = all.split_last().unwrap();
    assert!((5..=10).contains(&beats.len()), "{all:?}");
    for (index, beat) in beats.iter().enumerate() {
        assert_eq!(beat["method"], "notifications/progress");
        assert_eq!(beat["params"]["progressToken"], "mine");
        assert_eq!(beat["params"]["progress"], index + 1);
    }
    assert_eq!(last["id"], 7);
    let (text, is_error) = text_of(last);
    assert!(
        text.starts_with("pending: ") && text.contains("It is not denied.") && !is_error,
        "{text}"
    );
    // Without a token it is a comment.
    let id = id_of(&text);
    let mut call = waits(&world, "request-status", json!({"id": id}), None).await;
    let answer = call.answer().await;
    assert!(answer.text().matches(": it waits\n\n").count() >= 5, "{}", answer.text());
    assert_eq!(events(&answer).len(), 1);
    // The connection goes on.
    let listed = call.ask(post("/.bottle/mcp", &[], &message(9, "ping", &json!({})))).await;
    assert_eq!(listed.status, 200);
}

/// Whoever takes no events is held, and answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_events_is_held() {
    let mut world = world().await;
    let call = json!({"name": "pipelock-block", "arguments": egress("https://a.example/")});
    let mut client = world.proxy().await;
    client.send(post("/.bottle/mcp", &[], &message(3, "tools/call", &call))).await;
    let request = until_pending(&world, 1).await.remove(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    decide(&mut world, &request, "denied", Some("no")).await;
    let answer = client.answer().await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let (text, _) = text_of(&serde_json::from_slice(&answer.body).unwrap());
    assert_eq!(text, "denied: by the operator. \"no\"");
}

/// There are eight places; who finds none is told at once, and who goes gives the place back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_wait_and_the_ninth_is_told_at_once() {
    let world = world().await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(waits(&world, "pipelock-block", egress("https://a.example/"), None).await);
    }
    for call in &mut calls {
        assert_eq!(call.head().await.header("content-type"), Some("text/event-stream"));
    }
    let began = Instant::now();
    let mut ninth = waits(&world, "pipelock-block", egress("https://a.example/"), None).await;
    let answer = ninth.answer().await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.text().contains("pending: r-") && began.elapsed() < Duration::from_secs(5));
    // Other traffic is served meanwhile.
    let mut inside = world.inside("api.example.com:443").await;
    let got = inside.ask("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    assert_eq!(got.status, 200);
    drop(calls.pop());
    for _ in 0..500 {
        let mut next = waits(&world, "pipelock-block", egress("https://a.example/"), None).await;
        if next.head().await.header("content-type") == Some("text/event-stream") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place is not given back");
}

/// Who gives up withdraws nothing: the decision is kept for whoever asks next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_hears_of_it_later() {
    let mut world = world().await;
    let call = waits(&world, "pipelock-block", egress("https://other.example.com/x"), None).await;
    let request = until_pending(&world, 1).await.remove(0);
    drop(call);
    apply(&mut world, &request).await;
    let (text, _) = called(&world, "request-status", json!({"id": request.id.as_str()})).await;
    assert!(text.starts_with("applied: "), "{text}");
}

/// A policy without the key ends what waits, and a stop does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_is_shut_ends_what_waits() {
    let mut world = world().await;
    let mut call = waits(&world, "pipelock-block", egress("https://a.example/"), None).await;
    until_pending(&world, 1).await;
    let open = world.document["supervise"].take();
    world.document.as_object_mut().unwrap().remove("supervise");
    world.load().await.unwrap();
    let answer = call.answer().await;
    assert!(answer.text().contains("pending: "), "{}", answer.text());
    assert_eq!(world.state().await.requests, Held::default());
    world.document["supervise"] = open;
    world.load().await.unwrap();
    let mut call = waits(&world, "pipelock-block", egress("https://a.example/"), None).await;
    call.head().await;
    bottle::sidecar::control::stop::<bottle::sidecar::egress::State>(&world.control())
        .await
        .unwrap();
    assert!(call.try_answer().await.is_none(), "the connection ends");
}

/// As a client waits that is not a test: something comes within 20 seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_beat_comes_in_time() {
    let world = world().await;
    let began = Instant::now();
    let mut call = waits(&world, "pipelock-block", egress("https://a.example/"), Some("t")).await;
    assert_eq!(call.head().await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "the head comes at once");
    call.more().await.expect("a beat");
    let waited = began.elapsed();
    assert!((19..26).contains(&waited.as_secs()), "{waited:?}");
}
