//! A network with a proxy: upstreams are reached by that, and by nothing else.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::running::ECHO;
use super::upstream::{Certificate, Upstream};
use super::world::{PUBLIC, World, allowing, base64};
use crate::support::proxy::{Asked, Manner, Proxy};

const HOSTS: &[&str] = &["api.example.com", "other.example.com"];
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOGIN: &str = "CORP\\ada:pass word: ünd mehr";

fn part(proxy: &Proxy) -> Value {
    json!({ "host": proxy.address.ip().to_string(), "port": proxy.address.port() })
}

/// A sidecar that is not loaded yet, and cannot reach its upstreams but by a proxy.
async fn unloaded(policy: Value, upstream: Upstream) -> World {
    let mut world = World::unloaded(policy, upstream, &[]).await;
    world.document["testing"]["dial"] = json!({
        format!("{PUBLIC}:443"): "127.0.0.1:1",
        format!("{PUBLIC}:80"): "127.0.0.1:1",
    });
    world
}

/// A proxy that leads to the upstreams of a world, by their address and by name.
fn leading(world: &World, login: Option<&str>, secure: bool) -> Proxy {
    let (tls, plain) = (world.upstream.secure, world.upstream.plain);
    let leads = [
        ("93.184.216.34:443", tls),
        ("93.184.216.34:80", plain),
        ("93.184.216.36:443", tls),
        ("api.example.com:443", tls),
        ("other.example.com:443", tls),
    ];
    Proxy::new(LOCAL, &leads, login, secure)
}

/// With a proxy that leads everywhere.
async fn world() -> (World, Proxy) {
    let mut world = unloaded(allowing(HOSTS), Upstream::start(Certificate::Good).await).await;
    let proxy = leading(&world, None, false);
    world.document["proxy"] = part(&proxy);
    world.load().await.unwrap();
    (world, proxy)
}

/// N20: what is asked for is the address that was checked; names are resolved and addresses checked here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_asked_for_the_checked_address() {
    let (world, proxy) = world().await;
    let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.asked(), [Asked { place: "93.184.216.34:443".to_owned(), login: None }]);
    assert_eq!(world.upstream.one().header("host"), ["api.example.com"]);
    let allowed = world.log("allow");
    assert_eq!((allowed.len(), &allowed[0]["via"]), (1, &json!("proxy")), "{allowed:#?}");
    for address in ["10.0.0.5", "127.0.0.1", "169.254.169.254", "93.184.216.99"] {
        world.names.set("other.example.com", &[&[address]]);
        let request = "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
        let answer = world.inside("other.example.com:443").await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"), "{address}");
        assert_eq!(proxy.places(), Vec::<String>::new());
    }
    let (_, head) = world.connect("evil.test:443").await;
    assert_eq!((head.status, head.code()), (403, "host_not_allowed"));
    assert_eq!(proxy.places(), Vec::<String>::new());
}

/// N21: where the proxy resolves names nothing is resolved here, and a name that is not listed goes nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_resolves_is_asked_for_the_name() {
    let (mut world, proxy) = world().await;
    world.document["proxy"]["by_name"] = json!(true);
    world.load().await.unwrap();
    for _ in 0..2 {
        let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // The connection is kept.
    assert_eq!(proxy.places(), ["api.example.com:443"]);
    assert_eq!(world.names.asked(), Vec::<String>::new());
    let (_, head) = world.connect("evil.test:443").await;
    assert_eq!((head.status, head.code()), (403, "host_not_allowed"));
    let (_, head) = world.connect("api.example.com:22").await;
    assert_eq!((head.status, head.code()), (403, "port_not_allowed"));
    assert_eq!((proxy.places(), world.names.asked()), (vec![], vec![]));
}

/// All that goes out goes by it: HTTP/1 and HTTP/2, with and without TLS, and with a credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_by_the_proxy() {
    const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    let mut policy = allowing(HOSTS);
    policy["allow"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "host": "other.example.com", "port": 80 }));
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "/v3",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let mut world = unloaded(policy, Upstream::start(Certificate::Good).await).await;
    let proxy = leading(&world, None, false);
    world.document["proxy"] = part(&proxy);
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();

    let door = "GET /gh/x HTTP/1.1\r\nHost: sidecar\r\n\r\n";
    assert_eq!(world.proxy().await.ask(door).await.status, 200);
    assert_eq!(world.upstream.one().header("authorization"), [format!("Bearer {TOKEN}")]);
    assert_eq!(proxy.places(), ["93.184.216.34:443"]);
    world.upstream.forget();

    let plain = "GET http://other.example.com/echo HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    let answer = world.proxy().await.ask(plain).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.places(), ["93.184.216.34:80"]);
    assert_eq!(world.upstream.one().target, "/echo");
    world.upstream.forget();

    let stream = world.inside_http2("other.example.com:443").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = hyper::Request::get("https://other.example.com/echo");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
    let arrived = world.upstream.arrived();
    assert!(arrived.iter().all(|one| one.version == hyper::Version::HTTP_2), "{arrived:#?}");
    assert_eq!((arrived.len(), proxy.places()), (3, vec!["93.184.216.34:443".to_owned()]));
    assert!(world.log("allow").iter().all(|line| line["via"] == "proxy"));
}

/// What `no_proxy` names is dialled, by name before anything is resolved, by network after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_excepted_is_dialled() {
    let (mut world, proxy) = world().await;
    world.document["testing"]["dial"][format!("{PUBLIC}:443")] = json!(world.upstream.secure);
    let other = "GET /echo HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    for (items, direct, by_proxy) in [
        (json!(["api.example.com"]), "api.example.com", Some("other.example.com")),
        (json!(["*.example.com"]), "other.example.com", None),
        (json!(["93.184.216.0/24"]), "other.example.com", None),
        (json!(["10.0.0.0/8", "2606:2800::/32"]), "", Some("api.example.com")),
    ] {
        world.document["proxy"]["no_proxy"] = items.clone();
        world.load().await.unwrap();
        let ask = async |host: &str| {
            let request = if host == "other.example.com" { other } else { ECHO };
            let answer = world.inside(&format!("{host}:443")).await.ask(request).await;
            assert_eq!(answer.status, 200, "{items}, {host}: {}", answer.text());
            world.log("allow").last().unwrap().clone()
        };
        if !direct.is_empty() {
            assert_eq!(ask(direct).await["via"], Value::Null);
            assert_eq!(proxy.places(), Vec::<String>::new(), "{items}");
        }
        if let Some(host) = by_proxy {
            assert_eq!(ask(host).await["via"], "proxy");
            assert_eq!(proxy.places(), ["93.184.216.34:443"], "{items}");
        }
    }
}

/// A name with several addresses is tried with those that the proxy reaches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_the_proxy_does_not_reach_is_not_the_last() {
    let (world, proxy) = world().await;
    world.names.set("api.example.com", &[&["93.184.216.35", "93.184.216.36"]]);
    let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.places(), ["93.184.216.35:443", "93.184.216.36:443"]);
}

/// C22: the login goes to the proxy, and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_goes_to_the_proxy_alone() {
    for secure in [false, true] {
        let mut world = unloaded(allowing(HOSTS), Upstream::start(Certificate::Good).await).await;
        let proxy = leading(&world, Some(LOGIN), secure);
        world.document["proxy"] = part(&proxy);
        world.document["proxy"]["login"] = json!(LOGIN);
        world.document["proxy"]["secure"] = json!(secure);
        if secure {
            world.document["more_roots"] = json!([of_pem(&proxy.authority)]);
        }
        world.load().await.unwrap();
        let request = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\nProxy-Authorization: Basic bWluZQ==\r\n\r\n";
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let expected =
            Asked { place: "93.184.216.34:443".to_owned(), login: Some(LOGIN.to_owned()) };
        assert_eq!(proxy.asked(), [expected]);
        assert_eq!(world.upstream.one().header("proxy-authorization"), Vec::<String>::new());

        // With another one it is refused, and nobody is told either.
        world.document["proxy"]["login"] = json!("ada:another-secret-word");
        world.load().await.unwrap();
        let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
        assert_eq!((answer.status, answer.code()), (502, "proxy_login"));
        assert!(answer.text().contains("refuses the login"), "{}", answer.text());
        let state = format!("{:?}", world.state().await);
        let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
        for text in [log, answer.text(), format!("{:?}", answer.headers), state] {
            for secret in [LOGIN, "another-secret-word", "pass word", &base64(LOGIN.as_bytes())] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
        }
    }
}

fn of_pem(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// Whatever the proxy says instead, it is told by a code and a reason of its own, and nothing of its page
/// arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_refuses_is_told_from_an_upstream_that_does() {
    let (mut world, proxy) = world().await;
    world.document["testing"]["proxy_ms"] = json!(300);
    world.load().await.unwrap();
    let says = |head: &'static str| Manner::Says(head);
    let forbidden = "HTTP/1.1 403 Forbidden\r\nX-Bottle-Block: lies\r\nContent-Length: 22\r\n\r\n<h1>corporate page</h1";
    let negotiate =
        "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n";
    let long: &'static str = Box::leak(format!("HTTP/1.1 200 {}", "x".repeat(40_000)).into());
    let mut count = 0;
    for (manner, status, code, next, detail) in [
        (says(forbidden), 403, "proxy_refused", "`resolve: proxy`", "answers 403"),
        (says("HTTP/1.1 404 x\r\n\r\n"), 403, "proxy_refused", "443", "answers 404"),
        (says("HTTP/1.1 407 x\r\n\r\n"), 502, "proxy_login", "password_ref", "answers 407"),
        (says(negotiate), 502, "proxy_login", "no Basic login", "negotiate, ntlm"),
        (says("HTTP/1.0 502 x\r\n\r\n"), 502, "proxy_failed", "try again", "answers 502"),
        (says("HTTP/1.1 503 x\r\n\r\n"), 502, "proxy_failed", "try again", "answers 503"),
        (says("SSH-2.0-x\r\n\r\n"), 502, "proxy_unreachable", "bottle.yaml", "no HTTP"),
        (says("HTTP/1.1 200 OK\r\n"), 502, "proxy_unreachable", "bottle.yaml", "closed"),
        (says(long), 502, "proxy_unreachable", "bottle.yaml", "without an end"),
        (Manner::Closes, 502, "proxy_unreachable", "bottle.yaml", "closed"),
        (Manner::Talks, 502, "proxy_unreachable", "bottle.yaml", "more than was asked"),
        (Manner::Hangs, 504, "proxy_timeout", "in time", "not answered in time"),
    ] {
        proxy.behaves(manner);
        let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{manner:?}");
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        let said = page["next"].as_str().unwrap();
        assert!(said.contains(next), "{manner:?}: {said}");
        assert!(!answer.text().contains("corporate"), "{}", answer.text());
        count += 1;
        let told = world.wait_for("deny", count).await;
        let told = told.last().unwrap()["detail"].as_str().unwrap().to_owned();
        assert!(told.contains(detail), "{manner:?}: {told}");
        assert!(told.contains(&proxy.address.to_string()), "{told}");
    }
    assert!(world.upstream.arrived().is_empty() && world.log("allow").is_empty());

    // Nobody is there; it has a name without an address; it speaks no TLS, or shows what nobody vouches for.
    let secure = leading(&world, None, true);
    for (part, code, detail) in [
        (json!({ "host": "127.0.0.1", "port": 1 }), "proxy_unreachable", "nobody answers"),
        (json!({ "host": "proxy.test", "port": 1 }), "proxy_unreachable", "no address"),
        (
            json!({ "host": "127.0.0.1", "port": secure.address.port(), "secure": true }),
            "proxy_tls",
            "certificate",
        ),
        (
            json!({ "host": "127.0.0.1", "port": secure.address.port() }),
            "proxy_unreachable",
            "no HTTP",
        ),
    ] {
        world.document["proxy"] = part.clone();
        world.load().await.unwrap();
        let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
        assert_eq!(answer.code(), code, "{part}: {}", answer.text());
        count += 1;
        let told = world.wait_for("deny", count).await;
        let told = told.last().unwrap()["detail"].as_str().unwrap().to_owned();
        // Of bytes that are no HTTP it depends on their number when that is seen.
        let closed = told.contains("closed") || told.contains("in time");
        assert!(told.contains(detail) || (code == "proxy_unreachable" && closed), "{part}: {told}");
    }
}

/// A proxy that looks into TLS shows a certificate of its own authority, which `more_roots` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_the_networks_own_is_trusted_where_it_is_named() {
    let (mut world, _proxy) = world().await;
    let root = world.document["roots"][0].clone();
    // No authority of the web's has signed it.
    world.document["roots"] = json!([]);
    world.load().await.unwrap();
    let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_tls"));
    assert!(answer.text().contains("`ca` of `proxy`"), "{}", answer.text());
    world.document["more_roots"] = json!([root]);
    world.load().await.unwrap();
    let answer = world.inside("api.example.com:443").await.ask(ECHO).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Another proxy is loaded like any policy: what runs goes on, what begins goes by the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_proxy_is_loaded_into_what_runs() {
    let (mut world, first) = world().await;
    let mut stream = world.inside("api.example.com:443").await;
    stream.send("GET /forever HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    assert_eq!(stream.head().await.status, 200);
    assert_eq!(first.places(), ["93.184.216.34:443"]);
    let mut kept = world.inside("api.example.com:443").await;
    assert_eq!(kept.ask(ECHO).await.status, 200);
    first.asked();

    let second = leading(&world, None, false);
    world.document["proxy"] = part(&second);
    assert_eq!(world.load().await.unwrap().generation, 2);
    assert_eq!(kept.ask(ECHO).await.status, 200, "on a connection that was open before");
    assert_eq!((first.places(), second.places()), (vec![], vec!["93.184.216.34:443".to_owned()]));
    stream.so_far();
    assert!(stream.more().await.is_some(), "it goes on");

    // And none at all: then it is dialled, where nobody is.
    world.document["proxy"] = Value::Null;
    world.load().await.unwrap();
    let answer = kept.ask(ECHO).await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_unreachable"));
    assert_eq!((first.places(), second.places()), (vec![], vec![]));
}

/// A proxy that cannot be is refused with the whole document, and what was loaded stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_makes_no_sense_changes_nothing() {
    let (mut world, proxy) = world().await;
    let good = world.document["proxy"].clone();
    let secret = "ada:q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    for (field, value) in [
        ("host", json!("")),
        ("host", json!("Proxy.test")),
        ("host", json!("127.1")),
        ("host", json!("a b")),
        ("host", json!("a@b")),
        ("port", json!(0)),
        ("port", json!(65536)),
        ("login", json!([secret])),
        ("no_proxy", json!(["*"])),
        ("no_proxy", json!(["10.0.0.1/8"])),
        ("no_proxy", json!([secret])),
        ("password", json!(secret)),
    ] {
        world.document["proxy"] = good.clone();
        world.document["proxy"][field] = value.clone();
        let error = world.load().await.expect_err(&format!("{field} {value}"));
        if field != "no_proxy" {
            assert!(!error.contains(secret), "{error}");
        }
    }
    world.document["proxy"] = good;
    world.document["more_roots"] = json!(["AAAA"]);
    world.load().await.expect_err("no certificate");
    assert_eq!(world.state().await.generation, 1);
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
    assert_eq!(proxy.places().len(), 1);
}
