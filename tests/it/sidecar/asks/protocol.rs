//! The protocol: versions, lists, and what is none of it.

use serde_json::json;

use super::*;

/// Check 1: without the key there is no door, nor a hint of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_it_there_is_no_door() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let other = world.proxy().await.ask(post("/other/mcp", &[], "{}")).await;
    let door = send(&world, &[], &message(1, "tools/list", &json!({}))).await;
    assert_eq!((door.status, door.code()), (404, "route_not_found"));
    let without_id = |answer: &Answer| {
        let mut page: Value = serde_json::from_slice(&answer.body).unwrap();
        page["request_id"].take();
        page
    };
    assert_eq!(without_id(&door), without_id(&other), "as any other path");
    // Nor does a refusal speak of a tool.
    let get = "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let page = world.proxy().await.ask(get).await;
    assert!(!page.text().contains("pipelock"), "{}", page.text());
    let absolute =
        world.proxy().await.ask(post("http://sidecar:3128/.bottle/mcp", &[], "{}")).await;
    assert_eq!(absolute.code(), "host_not_allowed");
}

/// Check 2: alone, it denies all else and has the tools of its backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_it_grants_nothing() {
    let mut world =
        World::start(json!({"allow": [], "routes": [], "dlp": {"action": "block"}})).await;
    world.document["supervise"] =
        json!({"tools": ["pipelock-block", "request-status"], "what": []});
    world.load().await.unwrap();
    let (_, refused) = world.connect("api.example.com:443").await;
    assert_eq!(refused.code(), "host_not_allowed");
    let listed = said(&world, "tools/list", &json!({})).await;
    let names: Vec<&str> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["pipelock-block", "request-status"]);
    // Check 34: what the backend lacks cannot be called.
    let call = json!({"name": "capability-block", "arguments": {"what": "memory", "value": "4G", "reason": "it fails"}});
    assert_eq!(said(&world, "tools/call", &call).await["error"]["code"], -32602);
    assert!(pending(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_spoken() {
    let world = world().await;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let opened = said(&world, "initialize", &json!({"protocolVersion": version})).await;
        assert_eq!(opened["result"]["protocolVersion"], version);
        let head = [("MCP-Protocol-Version", version)];
        let listed = send(&world, &head, &message(2, "tools/list", &json!({}))).await;
        assert_eq!(listed.status, 200, "{version}");
        assert!(listed.header("mcp-session-id").is_none(), "there are no sessions");
    }
    let unknown = said(&world, "initialize", &json!({"protocolVersion": "1999-01-01"})).await;
    assert_eq!(unknown["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(said(&world, "ping", &json!({})).await["result"], json!({}));
    assert_eq!(said(&world, "resources/list", &json!({})).await["error"]["code"], -32601);
    assert_eq!(said(&world, "server/discover", &json!({})).await["error"]["code"], -32601);
    let accepted =
        send(&world, &[], r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
    let cancelled =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#;
    assert_eq!(send(&world, &[], cancelled).await.status, 202);
}

/// Check 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_without_an_opening_says_all_twice() {
    let world = world().await;
    let now = ("MCP-Protocol-Version", "2026-07-28");
    let discover = message(1, "server/discover", &json!({}));
    let at = |fields: Vec<(&'static str, &'static str)>, body: String| {
        let world = &world;
        async move {
            let answer = send(world, &fields, &body).await;
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            (answer.status, json)
        }
    };
    let (status, found) = at(vec![now, ("Mcp-Method", "server/discover")], discover.clone()).await;
    assert_eq!((status, &found["result"]["resultType"]), (200, &json!("complete")));
    assert!(found["result"]["instructions"].as_str().unwrap().contains("pending is not denied"));
    for (fields, code) in [
        (vec![now], -32020),
        (vec![now, ("Mcp-Method", "tools/list")], -32020),
        (vec![("MCP-Protocol-Version", "2027-01-01"), ("Mcp-Method", "server/discover")], -32022),
    ] {
        let (status, found) = at(fields, discover.clone()).await;
        assert_eq!((status, &found["error"]["code"]), (400, &json!(code)), "{found}");
        if code == -32022 {
            let supported = found["error"]["data"]["supported"].as_array().unwrap();
            assert_eq!(supported.len(), 5, "{found}");
        }
    }
    for method in ["ping", "initialize", "subscriptions/listen"] {
        let body = message(1, method, &json!({}));
        let fields =
            vec![now, ("Mcp-Method", Box::leak(method.to_owned().into_boxed_str()) as &str)];
        let (status, found) = at(fields, body).await;
        assert_eq!((status, &found["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
    let (status, found) =
        at(vec![now, ("Mcp-Method", "tools/list")], message(1, "tools/list", &json!({}))).await;
    assert_eq!((status, &found["result"]["cacheScope"]), (200, &json!("private")));
    let call = message(1, "tools/call", &json!({"name": "request-status", "arguments": {}}));
    let fields = vec![now, ("Mcp-Method", "tools/call"), ("Mcp-Name", "request-status")];
    let (_, found) = at(fields, call.clone()).await;
    assert_eq!(found["result"]["resultType"], "complete");
    let (status, _) = at(vec![now, ("Mcp-Method", "tools/call"), ("Mcp-Name", "x")], call).await;
    assert_eq!(status, 400);
}

/// The tools by which the protocol's own tests judge a server; they are in no release, and in no list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixtures_are_called_and_not_listed() {
    let world = world().await;
    let (text, is_error) = called(&world, "test_simple_text", json!({})).await;
    assert!(text.contains("simple text") && !is_error);
    assert!(called(&world, "test_error_handling", json!({})).await.1);
    let listed = said(&world, "tools/list", &json!({})).await.to_string();
    assert!(!listed.contains("test_"), "{listed}");
}
