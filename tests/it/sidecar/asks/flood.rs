//! An agent that asks all the time, in every wrong way.

use std::time::Instant;

use serde_json::json;

use super::*;

/// A source of numbers with a seed, so that what it finds can be found again.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.next(all.len())]
    }
}

/// One call that is wrong in some way, or in none.
fn wild(random: &mut Random) -> (Vec<(&'static str, &'static str)>, String) {
    let long = "x".repeat(3000);
    let url = match random.next(8) {
        0 => random
            .of(&["https://u@h/", "http://0x7f.1/", "https://[::1]/", "", "\u{202e}"])
            .to_owned(),
        1 => format!("https://h.example/{long}"),
        2 => format!("https://h{}.example/{}/x/y", random.next(1000), random.next(10)),
        _ => format!("https://h{}.example/a", random.next(4)),
    };
    let reason =
        random.of(&["it fails", "", "\u{1b}[2J", "a\n\n\n\n\n\nb", "\u{e0041}\u{202e}x", &long]);
    let mut arguments = json!({"failed_url": url, "reason": reason, "wait_seconds": 0});
    match random.next(10) {
        0 => arguments["sandbox"] = "grace".into(),
        1 => arguments["methods"] = json!(["GET", 7, null]),
        2 => arguments["wait_seconds"] = json!(1e300),
        3 => arguments["whole_host"] = json!({"a": [[[[]]]]}),
        _ => {}
    }
    let tool = random.of(&[
        "pipelock-block",
        "pipelock-block",
        "pipelock-block",
        "cred-proxy-block",
        "capability-block",
        "request-status",
        "shell",
        "",
    ]);
    let mut body = message(1, "tools/call", &json!({"name": tool, "arguments": arguments}));
    match random.next(12) {
        0 => body = body.chars().take(body.chars().count() / 2).collect(),
        1 => body = format!("[{body}]"),
        2 => body = "[".repeat(random.next(16_000)),
        3 => body = format!("{}{}", r#"{"a":"#.repeat(500), "}".repeat(500)),
        4 => body = body.replacen("\"id\"", "\"id\":1,\"id\"", 1),
        5 => body = "\0".repeat(random.next(17_000)),
        _ => {}
    }
    let head = match random.next(8) {
        0 => vec![("Host", "evil.test:3128")],
        1 => vec![("Origin", "http://evil.test")],
        2 => vec![("MCP-Protocol-Version", "2026-07-28")],
        3 => vec![("Content-Type", "text/plain")],
        _ => Vec::new(),
    };
    let body = String::from_utf8_lossy(body.as_bytes()).into_owned();
    (head, body)
}

/// M10. Check 13: a thousand calls in ten seconds, each different: few wait, the log is told once, nothing grows, and
/// whoever else asks for something is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_in_ten_seconds() {
    let world = world().await;
    let began = Instant::now();
    let mut client = world.proxy().await;
    for index in 0..1000 {
        let arguments = json!({"failed_url": format!("https://h{index}.example/x"), "wait_seconds": 0,
            "reason": format!("{index} {}", "\u{10ffff}".repeat(1990))});
        let call = json!({"name": "pipelock-block", "arguments": arguments});
        let answer =
            client.ask(post("/.bottle/mcp", &[], &message(index, "tools/call", &call))).await;
        let (text, is_error) = text_of(&serde_json::from_slice(&answer.body).unwrap());
        assert!(!is_error, "{text}");
        let begins = if index < 5 { "pending: " } else { "busy: 5 requests" };
        assert!(text.starts_with(begins), "{index}: {text}");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let held = held(&world).await;
    assert_eq!((held.pending.len(), held.known.len()), (5, 0));
    assert!(serde_json::to_vec(&held).unwrap().len() < 64 * 1024);
    assert_eq!(world.log("request").len(), 5);
    let floods = world.log("deny");
    assert_eq!(floods.len(), 1, "{floods:?}");
    assert_eq!(floods[0]["code"], "too_many_requests");
    let mut inside = world.inside("api.example.com:443").await;
    let got = inside.ask("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    assert_eq!(got.status, 200);
    memory::bounded(&world);
}

/// Ten new ones a minute, also where each is decided at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_new_ones_a_minute() {
    let mut world = world().await;
    for index in 0..10 {
        let text = asks(&world, &format!("https://h{index}.example/x")).await;
        assert!(text.starts_with("pending: "), "{text}");
        let request = pending(&world).await.remove(0);
        decide(&mut world, &request, "denied", None).await;
    }
    let text = asks(&world, "https://h10.example/x").await;
    assert!(text.starts_with("busy: this sandbox has asked too often"), "{text}");
    world.document["testing"]["clock_ahead"] = 61.into();
    world.load().await.unwrap();
    assert!(asks(&world, "https://h10.example/x").await.starts_with("pending: "));
}

/// Muted, nothing is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_muted_is_told_until_when() {
    let mut world = world().await;
    world.document["supervise"]["muted_until"] = "2099-01-01T20:00:00Z".into();
    world.load().await.unwrap();
    let text = asks(&world, "https://a.example/x").await;
    assert_eq!(text, "denied: the operator takes no requests until 20:00 UTC on 2099-01-01.");
    assert!(pending(&world).await.is_empty());
}

/// Wrong in every way, by a seed: there is always an answer, few wait, and nothing grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_in_every_way() {
    let mut world = world().await;
    let mut random = Random(0x5eed);
    let mut most = 0;
    for round in 0..1500 {
        let (head, body) = wild(&mut random);
        let mut client = world.proxy().await;
        let answer = client.ask(post("/.bottle/mcp", &head, &body)).await;
        assert!(
            matches!(answer.status, 200 | 202 | 400 | 403 | 404 | 413 | 415 | 421),
            "{round}: {answer:?}"
        );
        if answer.status == 200 {
            let said: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(said["id"], 1, "{round}: {said}");
        }
        if round % 50 == 0 {
            let pending = pending(&world).await;
            most = most.max(pending.len());
            assert!(pending.len() <= 5, "{pending:?}");
            if let Some(request) = pending.first() {
                let state = random.of(&["denied", "applied", "failed", "undone"]);
                decide(&mut world, &request.clone(), state, None).await;
            }
            world.document["testing"]["clock_ahead"] = (round * 60).into();
        }
    }
    assert!(most > 0);
    let held = held(&world).await;
    assert!(held.pending.len() + held.known.len() <= 50);
    assert_eq!(world.names.asked(), Vec::<String>::new());
    memory::bounded(&world);
}
