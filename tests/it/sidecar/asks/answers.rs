//! What is asked for, and what an agent hears of it.

use serde_json::json;

use super::*;

/// M02, M04, M07, M08, M09. Check 11: what is no canonical name is told so, and nothing is asked, of the operator or of DNS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_granted_is_not_asked_for() {
    let world = world().await;
    for url in [
        "http://0x7f.1/",
        "https://\u{430}pi.example.com/",
        "https://u@h/",
        "https://169.254.169.254/",
        "https://*.com/",
        "https://a.example/**",
        "https://sidecar:3128/",
    ] {
        let arguments = json!({"failed_url": url, "reason": "it fails"});
        let (text, is_error) = called(&world, "pipelock-block", arguments).await;
        assert!(is_error && !text.is_empty(), "{url}: {text}");
    }
    // Check 12.
    let arguments = json!({"failed_url": "https://a.example/", "reason": "it fails", "approved": true,
        "sandbox": "grace"});
    let (text, is_error) = called(&world, "pipelock-block", arguments).await;
    assert!(is_error && text.contains("unknown argument"), "{text}");
    assert_eq!(held(&world).await, Held::default());
    world.untouched();
    assert!(world.log("request").is_empty());
}

/// What the operator is shown of a request: canonical, and what the sidecar itself has seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_holds_what_was_seen() {
    let world = world().await;
    for _ in 0..3 {
        let get = "GET http://other.example.com/x HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
        world.proxy().await.ask(get).await;
    }
    let text = asks(&world, "http://OTHER.example.com/x/y/z?q=1").await;
    assert!(text.starts_with("pending: r-") && text.contains("It is not denied."), "{text}");
    let pending = pending(&world).await;
    let request = serde_json::to_value(&pending[0]).unwrap();
    assert_eq!(request["kind"], "egress");
    assert_eq!(
        request["ask"],
        json!({"host": "other.example.com", "port": 80, "methods": ["GET", "HEAD"], "paths": ["/x/y/**"]})
    );
    assert_eq!(request["evidence"]["codes"]["host_not_allowed"], 3, "{request}");
    let lines = world.wait_for("request", 1).await;
    assert_eq!(
        (&lines[0]["request_id"], &lines[0]["code"]),
        (&json!(id_of(&text)), &json!("egress"))
    );
    // Nothing of what the agent wrote is in the log.
    assert!(!lines[0].to_string().contains("it fails"), "{lines:?}");
}

/// Checks 14 and 15: the same is one request, and a denial is not asked about again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_is_asked_once() {
    let mut world = world().await;
    let first = asks(&world, "https://other.example.com/x").await;
    for _ in 1..50 {
        assert_eq!(asks(&world, "https://other.example.com/x").await, first);
    }
    let found = pending(&world).await;
    assert_eq!((found.len(), found[0].asked), (1, 50));
    assert_eq!(world.log("request").len(), 1);
    decide(&mut world, &found[0], "denied", Some("use packages.example.org")).await;
    let again = asks(&world, "https://other.example.com/x").await;
    assert!(
        again.starts_with("denied: by the operator 0 min ago, for the same thing: \"use packages"),
        "{again}"
    );
    assert!(again.contains("It will not be asked again for 30 min."), "{again}");
    assert!(pending(&world).await.is_empty());
    let (status, _) = called(&world, "request-status", json!({"id": found[0].id.as_str()})).await;
    assert_eq!(status, "denied: by the operator. \"use packages.example.org\"");
    // Half an hour later it is asked about again.
    world.document["testing"]["clock_ahead"] = 1801.into();
    world.load().await.unwrap();
    assert!(asks(&world, "https://other.example.com/x").await.starts_with("pending: "));
}

/// Whatever a document says of a request is what its agent hears, also of a sidecar that was started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sidecar_gets_its_table_back() {
    let mut world = world().await;
    let text = asks(&world, "https://other.example.com/x").await;
    let request = pending(&world).await.remove(0);
    let mut anew = self::world().await;
    let status = json!({"id": id_of(&text), "wait_seconds": 0});
    assert!(called(&anew, "request-status", status.clone()).await.1, "it knows nothing of it");
    decide(&mut anew, &request, "pending", None).await;
    assert_eq!(called(&anew, "request-status", status.clone()).await.0, text);
    assert_eq!(asks(&anew, "https://other.example.com/x").await, text, "by the same name");
    for (state, begins) in [
        ("approved", "pending: "),
        ("failed", "failed: the operator approved it"),
        ("expired", "expired: nobody decided within 24 h"),
        ("undone", "undone: "),
        ("unsupported", "unsupported: "),
        (
            "applied",
            "applied: other.example.com:443 GET, HEAD below /x/ is allowed now. Try again.",
        ),
    ] {
        decide(&mut anew, &request, state, None).await;
        let (said, _) = called(&anew, "request-status", status.clone()).await;
        assert!(said.starts_with(begins), "{state}: {said}");
    }
    // The other one has heard nothing of it.
    decide(&mut world, &request, "denied", Some("no")).await;
    let (said, _) = called(&world, "request-status", json!({})).await;
    assert!(said.starts_with(&format!("denied: {}", request.id)), "{said}");
}

/// What is allowed already is not asked for, and the last refusal is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allowed_is_not_asked_for() {
    let mut world = world().await;
    world.document["policy"]["allow"][0]["paths"] = json!(["/open/**"]);
    world.load().await.unwrap();
    let mut inside = world.inside("api.example.com:443").await;
    inside.ask("GET /admin/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    let said = asks(&world, "https://api.example.com/open/x").await;
    assert_eq!(
        said,
        "unchanged: api.example.com:443 is allowed already; the last refusal was path_not_allowed for /admin/x."
    );
    let arguments = json!({"failed_url": "https://api.example.com/open/x", "reason": "it fails",
        "whole_host": true, "wait_seconds": 0});
    let (said, _) = called(&world, "pipelock-block", arguments).await;
    assert!(said.starts_with("pending: "), "the whole host is not: {said}");
}

/// The other two kinds, and what a backend lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_and_a_capability_are_asked_for() {
    let world = world().await;
    let arguments = json!({"upstream": "https://api.example.com/v1", "problem": "missing", "reason": "no key",
        "wait_seconds": 0});
    assert!(called(&world, "cred-proxy-block", arguments).await.0.starts_with("pending: "));
    let capability = |what: &str| json!({"what": what, "value": "4G", "reason": "it is killed", "wait_seconds": 0});
    assert!(
        called(&world, "capability-block", capability("memory")).await.0.starts_with("pending: ")
    );
    let (said, is_error) = called(&world, "capability-block", capability("disk")).await;
    assert_eq!(
        said,
        "unsupported: this sandbox cannot get `disk` without being made anew by the operator."
    );
    assert!(!is_error);
    assert!(called(&world, "capability-block", capability("root")).await.1);
    let kinds: Vec<&str> = pending(&world).await.iter().map(|request| request.ask.kind()).collect();
    assert_eq!(kinds, ["credential", "capability"]);
}

/// A credential's value that an agent has read somewhere is not shown to anybody, nor granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_value_is_taken_out_of_what_is_said() {
    let mut world = world().await;
    let value = "correct-horse-battery-staple";
    world.document["policy"]["routes"] = json!([{"path": "/gh/", "host": "api.example.com", "port": 443,
        "auth_scheme": "Bearer", "credential": "GH_TOKEN"}]);
    world.document["credentials"] = json!({"GH_TOKEN": value});
    world.load().await.unwrap();
    let arguments = json!({"failed_url": "https://other.example.com/", "wait_seconds": 0,
        "reason": format!("I have {value} and {}", crate::sidecar::world::base64(value.as_bytes()))});
    let (said, _) = called(&world, "pipelock-block", arguments).await;
    assert!(said.starts_with("pending: "), "{said}");
    let reason = pending(&world).await[0].reason.clone();
    assert!(reason.contains("<redacted:GH_TOKEN>") && !reason.contains("horse"), "{reason}");
    for url in
        [format!("https://{value}.example.com/"), format!("https://other.example.com/{value}/x/y")]
    {
        let arguments = json!({"failed_url": url, "reason": "it fails"});
        let (said, is_error) = called(&world, "pipelock-block", arguments).await;
        assert!(is_error && !said.contains(value), "{said}");
    }
    let arguments = json!({"what": "env", "value": format!("A={value}"), "reason": "it fails"});
    assert!(called(&world, "capability-block", arguments).await.1);
    assert_eq!(pending(&world).await.len(), 1);
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    assert!(!log.contains(value));
}

/// M01, M03. Check 16, the sidecar's end: text is bounded, and reaches the host as it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_kept_as_it_came_within_bounds() {
    let world = world().await;
    let hostile = "\u{1b}[2J\u{1b}]52;c;QUJD\u{7}\u{9b}2J\r\u{202e}\u{61c}\u{e0041}[y] approve";
    let reason = format!("{hostile}{}", "\n".repeat(300));
    let arguments =
        json!({"failed_url": "https://a.example/", "reason": reason, "wait_seconds": 0});
    assert!(called(&world, "pipelock-block", arguments).await.0.starts_with("pending: "));
    let reason = pending(&world).await[0].reason.clone();
    assert!(reason.starts_with(hostile));
    assert!(reason.lines().count() <= 20, "{reason:?}");
    let arguments = json!({"failed_url": "https://b.example/", "reason": "x".repeat(2001)});
    assert!(called(&world, "pipelock-block", arguments).await.1);
}

/// A message of the operator's that is more than a line is one of nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_of_the_operators_is_one_plain_line() {
    let mut world = world().await;
    asks(&world, "https://other.example.com/x").await;
    let request = pending(&world).await.remove(0);
    for message in ["a\nb", "\u{1b}[2J", &"x".repeat(501)] {
        world.document["supervise"]["requests"] =
            json!([decided(&request, "denied", Some(message))]);
        assert!(world.load().await.is_err(), "{message:?}");
    }
    let long = "é".repeat(500);
    decide(&mut world, &request, "denied", Some(&long)).await;
    let status = json!({"id": request.id.as_str()});
    assert!(called(&world, "request-status", status).await.0.contains(&long));
}

/// Check 35, the sidecar's end: a list says what the agent may do, as the host wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_says_what_may_be_done_now() {
    let mut world = world().await;
    let (none, _) = called(&world, "request-status", json!({})).await;
    assert_eq!(none, "none: nothing was asked for yet.");
    world.document["supervise"]["config"] = json!({"policy": {"allow": []}});
    world.load().await.unwrap();
    for index in 0..3 {
        asks(&world, &format!("https://h{index}.example.com/x")).await;
    }
    let (list, _) = called(&world, "request-status", json!({})).await;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("pending: r-") && lines[0].contains("h2.example.com"), "{list}");
    assert_eq!(lines.last(), Some(&r#"{"policy":{"allow":[]}}"#), "{list}");
}
