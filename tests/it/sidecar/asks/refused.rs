//! What does not get through the door, and what a refusal of anything else says of it.

use serde_json::json;

use super::*;

fn list() -> String {
    message(1, "tools/list", &json!({}))
}

/// M05, M12, M14. Check 9: one thing after the other, each with its own status, and nothing is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_no_agent_gets_a_page() {
    let world = world().await;
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(17 * 1024));
    let gzip = [("Content-Encoding", "gzip")];
    let plain = [("Content-Type", "text/plain")];
    for (fields, body, status) in [
        (&[("Host", "evil.test")][..], list(), 421),
        (&[("Host", "sidecar:80")], list(), 421),
        (&[("Host", "sidecar")], list(), 421),
        (&[("Host", "evil.test:3128")], list(), 421),
        (&[("Origin", "http://evil.test")], list(), 403),
        (&[("Origin", "null")], list(), 403),
        (&[("Host", HOST), ("host", HOST)], list(), 400),
        (&gzip, list(), 415),
        (&plain, list(), 415),
        (&[], long.clone(), 413),
        (&[], format!("[{}]", list()), 400),
        (&[], "{".repeat(16 * 1024), 400),
        (&[], r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}"#.to_owned(), 400),
        (&[("Origin", "http://sidecar:3128")], list(), 200),
        (&[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "cross-site")], list(), 200),
        (&[("Mcp-Session-Id", "grace")], list(), 200),
    ] {
        let answer = send(&world, fields, &body).await;
        assert_eq!(answer.status, status, "{fields:?}: {}", answer.text());
    }
    // In chunks the length is not said before.
    let head = "POST /.bottle/mcp HTTP/1.1\r\nHost: sidecar:3128\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let answer = world.proxy().await.ask(format!("{head}{chunk}")).await;
    assert_eq!((answer.status, answer.code()), (413, "message_too_large"));
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        let request = format!("{method} /.bottle/mcp HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let answer = world.proxy().await.ask(request).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    for path in ["/.bottle/", "/.bottle/mcp/", "/.bottle/mcp?x=1", "/.bottle/other"] {
        let answer = world.proxy().await.ask(post(path, &[], &list())).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    for path in ["/.bottle/../.bottle/mcp", "/.bottle//mcp", "/%2ebottle/mcp", "/.bottle%2fmcp"] {
        let answer = world.proxy().await.ask(post(path, &[], &list())).await;
        assert!(answer.status >= 400, "{path}: {answer:?}");
    }
    assert_eq!(held(&world).await, Held::default());
    world.untouched();
}

/// Two requests in one: what framing refuses is refused here as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_in() {
    let world = world().await;
    let ask = message(
        1,
        "tools/call",
        &json!({"name": "pipelock-block", "arguments":
        {"failed_url": "https://evil.test/", "reason": "smuggled", "wait_seconds": 0}}),
    );
    let inner = post("/.bottle/mcp", &[], &ask);
    for fields in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", inner.len()),
        "Content-Length: 0\r\nContent-Length: 5\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
    ] {
        let outer = format!(
            "POST /.bottle/mcp HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n{fields}\r\n0\r\n\r\n"
        );
        let mut client = world.proxy().await;
        let answer = client.ask(format!("{outer}{inner}")).await;
        assert_eq!(answer.status, 400, "{fields}: {answer:?}");
        assert!(client.rest().await.is_empty(), "{fields}: nothing is answered after it");
    }
    assert!(pending(&world).await.is_empty());
    // What is one behind the other is two, each with its answer.
    let mut client = world.proxy().await;
    let two =
        format!("{}{}", post("/.bottle/mcp", &[], &list()), post("/.bottle/mcp", &[], &list()));
    assert_eq!(client.ask(two).await.status, 200);
    assert_eq!(client.answer().await.status, 200);
}

/// Check 10: programs that ask the proxy for what is the proxy are served; a tunnel to oneself is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_is_asked_for_itself() {
    let world = world().await;
    for target in ["http://sidecar:3128/.bottle/mcp", "http://127.0.0.1:3128/.bottle/mcp"] {
        let host = &target["http://".len()..target.len() - "/.bottle/mcp".len()];
        let answer = world.proxy().await.ask(post(target, &[("Host", host)], &list())).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
    }
    for (target, host) in [
        ("http://sidecar/.bottle/mcp", "sidecar"),
        ("http://sidecar:80/.bottle/mcp", "sidecar:80"),
        ("https://sidecar:3128/.bottle/mcp", "sidecar:3128"),
        ("http://evil.test:3128/.bottle/mcp", "evil.test:3128"),
        ("http://127.0.0.1:3129/.bottle/mcp", "127.0.0.1:3129"),
        ("http://sidecar:3128/", "sidecar:3128"),
    ] {
        let answer = world.proxy().await.ask(post(target, &[("Host", host)], &list())).await;
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
    }
    let mixed = post("http://sidecar:3128/.bottle/mcp", &[("Host", "evil.test")], &list());
    assert_eq!(world.proxy().await.ask(mixed).await.status, 400);
    for authority in ["sidecar:3128", "127.0.0.1:3128"] {
        let (_, head) = world.connect(authority).await;
        assert_eq!(head.status, 403, "{authority}");
    }
    world.untouched();
}

/// Inside a tunnel the path is the upstream's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_has_no_door() {
    let world = world().await;
    let mut inside = world.inside("api.example.com:443").await;
    let answer = inside.ask(post("/.bottle/mcp", &[("Host", "api.example.com")], &list())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.upstream.arrived().len(), 1, "it went to the upstream");
    let answer = inside.ask(post("/.bottle/mcp", &[("Host", HOST)], &list())).await;
    assert_eq!(answer.status, 421);
}

/// A route cannot stand in the door's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_below_its_own_paths_does_not_load() {
    let mut world = world().await;
    let route = json!({"path": "/.bottle/mcp/", "host": "api.example.com", "port": 443,
        "auth_scheme": "Bearer", "credential": "TOKEN"});
    world.document["policy"]["routes"] = json!([route]);
    let error = world.load().await.unwrap_err();
    assert!(error.contains("the sidecar's own"), "{error}");
}

/// A refusal says by which call it is asked for, and that call asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_says_how_to_ask() {
    let world = world().await;
    let get =
        "GET http://other.example.com/a/b/c?q=secret HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    let page = world.proxy().await.ask(get).await;
    let said: Value = serde_json::from_slice(&page.body).unwrap();
    let ask = &said["ask"];
    assert_eq!(ask["tool"], "pipelock-block", "{said}");
    assert_eq!(ask["arguments"]["failed_url"], "http://other.example.com/a/b/c", "{said}");
    assert_eq!(ask["arguments"]["request_id"], said["request_id"]);
    assert!(said["next"].as_str().unwrap().contains("pipelock-block"), "{said}");
    let mut arguments = ask["arguments"].clone();
    arguments["reason"] = "it fails".into();
    arguments["wait_seconds"] = 0.into();
    let (text, is_error) = called(&world, "pipelock-block", arguments).await;
    assert!(text.starts_with("pending: ") && !is_error, "{text}");
    // In a tunnel the path is known.
    let mut world = world;
    world.document["policy"]["allow"][0]["paths"] = json!(["/open/**"]);
    world.load().await.unwrap();
    let mut inside = world.inside("api.example.com:443").await;
    let page = inside.ask("GET /shut/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    let said: Value = serde_json::from_slice(&page.body).unwrap();
    assert_eq!(said["ask"]["arguments"]["failed_url"], "https://api.example.com/shut/x");
    // What nobody can be asked for has no call.
    let get = "GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n";
    let page = world.proxy().await.ask(get).await;
    assert!(!page.text().contains("\"ask\""), "{}", page.text());
}
