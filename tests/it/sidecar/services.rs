//! Services of the host: one port of its loopback by a name of its own, and nothing else of the host by any name.

use serde_json::{Value, json};

use super::client::Client;
use super::world::{World, allowing};

fn with_services(services: &[(&str, u16)]) -> Value {
    let mut policy = allowing(&["api.example.com"]);
    let services = services.iter().map(|(name, port)| json!({ "name": name, "port": port }));
    policy["services"] = services.collect();
    policy
}

/// A sidecar that lets its machine reach the plain half of the upstream as `web.host`, and that port.
async fn world() -> (World, u16) {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    let port = world.upstream.plain.port();
    world.document["policy"] = with_services(&[("web", port)]);
    world.load().await.unwrap();
    (world, port)
}

fn get(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// By the proxy, in a tunnel, and in TLS that ends at the sidecar: what arrives is plain HTTP for `localhost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_reached_in_every_way_that_clients_have() {
    let (world, port) = world().await;
    let host = format!("web.host:{port}");
    let mut proxied = world.proxy().await;
    for _ in 0..2 {
        let answer = proxied.ask(get(&format!("http://{host}/a?b=c"), &host)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let (mut tunnelled, head) = world.connect(&host).await;
    assert_eq!(head.status, 200, "{head:?}");
    assert_eq!(tunnelled.ask(get("/a?b=c", &host)).await.status, 200);
    assert_eq!(tunnelled.ask(get("/a?b=c", &host)).await.status, 200);
    let mut secure = world.inside(&host).await;
    assert_eq!(secure.ask(get("/a?b=c", &host)).await.status, 200);

    let arrived = world.upstream.arrived();
    assert_eq!(arrived.len(), 5, "{arrived:#?}");
    for one in arrived {
        assert_eq!(one.target, "/a?b=c");
        assert_eq!(
            one.header("host"),
            [format!("localhost:{port}")],
            "it is asked by its own name"
        );
    }
    // Where it sends them on by its own name they get by the one that they know.
    let own = format!("/redirect?http://localhost:{port}/next");
    let answer = tunnelled.ask(get(&own, &host)).await;
    assert_eq!(answer.header("location"), Some(&*format!("http://{host}/next")), "{answer:?}");
    assert!(world.names.asked().is_empty(), "{:?}", world.names.asked());
    let lines = world.wait_for("allow", 6).await;
    assert!(lines.iter().all(|line| line["host"] == host.as_str()), "{lines:#?}");
}

/// No other port, no other name, and no other way to the same place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_of_the_host_is_opened() {
    let (world, port) = world().await;
    world.names.set("evil.example.com", &[&["127.0.0.1"]]);
    let other = port.checked_add(1).unwrap_or(port - 1);
    for (authority, code) in [
        (format!("web.host:{other}"), "port_not_allowed"),
        ("web.host:80".to_owned(), "port_not_allowed"),
        (format!("db.host:{port}"), "host_not_allowed"),
        (format!("a.web.host:{port}"), "host_not_allowed"),
        (format!("web.host.example.com:{port}"), "host_not_allowed"),
        (format!("host:{port}"), "host_not_allowed"),
        (format!("localhost:{port}"), "host_not_allowed"),
        (format!("127.0.0.1:{port}"), "ssrf_denied"),
        (format!("[::1]:{port}"), "ssrf_denied"),
        (format!("2130706433:{port}"), "ambiguous_ip"),
        (format!("evil.example.com:{port}"), "host_not_allowed"),
    ] {
        let answer =
            world.proxy().await.ask(get(&format!("http://{authority}/"), &authority)).await;
        assert_eq!(answer.code(), code, "{authority}: {answer:?}");
        let (_, head) = world.connect(&authority).await;
        assert_eq!(head.code(), code, "{authority}: {head:?}");
    }
    // Within a tunnel to it, too.
    let host = format!("web.host:{port}");
    let (mut tunnel, _) = world.connect(&host).await;
    let answer = tunnel.ask(get("/", "api.example.com")).await;
    assert_eq!(answer.code(), "authority_mismatch", "{answer:?}");
    let (mut tunnel, _) = world.connect(&host).await;
    let answer = tunnel.ask(get(&format!("http://localhost:{port}/"), &host)).await;
    assert_eq!((answer.status, answer.code()), (400, "malformed_request"), "{answer:?}");
    world.untouched();
}

/// What is said to it is searched as everything is, and what is no HTTP goes nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_is_sent_is_searched() {
    let (world, port) = world().await;
    let host = format!("web.host:{port}");
    let token = ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    let post = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{token}",
            token.len()
        )
    };
    let answer = world.proxy().await.ask(post(&format!("http://{host}/"))).await;
    assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"), "{answer:?}");
    let (mut tunnel, _) = world.connect(&host).await;
    assert_eq!(tunnel.ask(post("/")).await.code(), "dlp:github-token");
    for bytes in [
        &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (mut tunnel, head): (Client, _) = world.connect(&host).await;
        assert_eq!(head.status, 200);
        tunnel.send(bytes).await;
        tunnel.send(b"\r\n\r\n").await;
        if let Some(answer) = tunnel.try_answer().await {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    world.untouched();
}

/// A policy without it ends it, for requests and for tunnels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_the_policy() {
    let (mut world, port) = world().await;
    let host = format!("web.host:{port}");
    let (mut tunnel, _) = world.connect(&host).await;
    assert_eq!(tunnel.ask(get("/", &host)).await.status, 200);
    world.document["policy"] = with_services(&[("other", port)]);
    world.load().await.unwrap();
    assert!(tunnel.try_answer().await.is_none(), "the tunnel is closed");
    let answer = world.proxy().await.ask(get(&format!("http://{host}/"), &host)).await;
    assert_eq!(answer.code(), "host_not_allowed");
    let (other, target) = (format!("other.host:{port}"), format!("http://other.host:{port}/"));
    assert_eq!(world.proxy().await.ask(get(&target, &other)).await.status, 200);
    assert_eq!(world.upstream.arrived().len(), 2);
}

/// A name of a service is in no list of hosts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_document_mixes_them_up() {
    let (mut world, port) = world().await;
    let route = |host: &str| json!([{ "path": "/x/", "host": host, "port": 443, "auth_scheme": "Bearer", "credential": "X" }]);
    for (key, value) in [
        ("allow", json!([{ "host": "web.host", "port": 443 }])),
        ("routes", route("web.host")),
        ("services", json!([{ "name": "a.b", "port": port }])),
        ("services", json!([{ "name": "Web", "port": port }])),
        ("services", json!([{ "name": "", "port": port }])),
        ("services", json!([{ "name": "web", "port": 0 }])),
        ("services", json!([{ "name": "web", "port": 1 }, { "name": "web", "port": 2 }])),
        ("services", json!([{ "name": "web", "port": 1, "host": "10.0.0.1" }])),
    ] {
        world.document["policy"] = with_services(&[("web", port)]);
        world.document["policy"][key] = value.clone();
        assert!(world.load().await.is_err(), "{key}: {value}");
    }
    let host = format!("web.host:{port}");
    let answer = world.proxy().await.ask(get(&format!("http://{host}/"), &host)).await;
    assert_eq!(answer.status, 200, "what was loaded before holds");
}
