//! Which hosts are reached: H, and the addresses behind them: N.

use serde_json::json;

use super::upstream::{Certificate, Upstream};
use super::world::{PUBLIC, World, allowing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_request_goes_through() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let mut client = world.inside("api.example.com:443").await;
    let answer = client
        .ask("POST /echo?a=b HTTP/1.1\r\nHost: api.example.com\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().ends_with("\n\nhello"), "{}", answer.text());
    let arrived = world.upstream.one();
    assert_eq!((arrived.method.as_str(), arrived.target.as_str()), ("POST", "/echo?a=b"));
    assert_eq!((arrived.header("x-a"), arrived.body.as_slice()), (vec!["1".into()], &b"hello"[..]));
    let allowed = world.wait_for("allow", 1).await;
    assert_eq!(allowed[0]["host"], "api.example.com:443");
    assert_eq!(allowed[0]["path"], "/echo");
    assert!(world.log("deny").is_empty());
}

/// H23: what an axios sends a proxy for a URL of `https`: the whole of it in the request line, and no CONNECT. It is
/// judged as within a tunnel, and goes on over TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absolute_form_of_https_goes_on_over_tls() {
    const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    let mut policy = allowing(&["api.example.com"]);
    policy["allow"][0]["paths"] = json!(["/echo"]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "other.example.com", "port": 443, "upstream_path": "",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let upstream = Upstream::start(Certificate::Good).await;
    let mut world = World::unloaded(policy, upstream, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    let ask = async |url: &str, host: &str| {
        let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        world.proxy().await.ask(request).await
    };
    for (url, host, status, code) in [
        ("https://evil.test/echo", "evil.test", 403, "host_not_allowed"),
        ("https://api.example.com/other", "api.example.com", 403, "path_not_allowed"),
        ("https://api.example.com:8443/echo", "api.example.com:8443", 403, "port_not_allowed"),
        ("https://api.example.com/echo", "other.example.com", 400, "malformed_request"),
        ("http://api.example.com:443/echo", "api.example.com:443", 403, "plain_http_refused"),
        ("HTTPS://api.example.com/echo", "api.example.com", 400, "malformed_request"),
        ("wss://api.example.com/echo", "api.example.com", 400, "malformed_request"),
    ] {
        let answer = ask(url, host).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{url}");
        world.untouched();
    }
    for (url, host) in [
        ("https://api.example.com/echo", "api.example.com"),
        ("https://api.example.com:443/echo", "api.example.com:443"),
        ("https://other.example.com/user", "other.example.com"),
    ] {
        let answer = ask(url, host).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    }
    let arrived = world.upstream.arrived();
    assert_eq!(arrived[0].header("host"), ["api.example.com"]);
    assert_eq!(arrived[2].header("authorization"), [format!("Bearer {TOKEN}")]);
    // Only behind TLS is anything there.
    world.document["testing"]["dial"][format!("{PUBLIC}:443")] = json!(world.upstream.plain);
    world.load().await.unwrap();
    let answer = world
        .proxy()
        .await
        .ask("GET https://api.example.com/echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        .await;
    assert_ne!(answer.status, 200);
    assert_eq!(world.upstream.arrived().len(), 3);
}

/// A name may have a `_`, in every place where a name is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_an_underscore_is_a_name() {
    for host in ["my_bucket.example.com", "_acme.example.com", "a.b_c.example.com"] {
        let world = World::start(allowing(&[host])).await;
        world.names.set(host, &[&[PUBLIC]]);
        let request = format!("GET /echo HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = world.inside(&format!("{host}:443")).await.ask(request).await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        assert_eq!(world.upstream.one().header("host"), [host]);
        let (_, head) = world.connect("myxbucket.example.com:443").await;
        assert_eq!(head.code(), "host_not_allowed");
    }
}

/// S14: a slash that is encoded passes where the entry of its host says so, as a part of its segment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoded_slash_passes_where_it_is_said() {
    let mut policy = allowing(&["api.example.com", "other.example.com"]);
    policy["allow"][0]["encoded_slash"] = json!(true);
    policy["allow"][0]["paths"] = json!(["/projects/*/issues"]);
    let world = World::start(policy).await;
    for (host, target, status, code) in [
        ("api.example.com", "/projects/group%2Fproject/issues", 200, "none"),
        ("api.example.com", "/projects/a%2fb%2fc/issues?x=%2F", 200, "none"),
        ("api.example.com", "/projects/group/project/issues", 403, "path_not_allowed"),
        ("api.example.com", "/projects/a%2Fb/other", 403, "path_not_allowed"),
        ("api.example.com", "/projects/a%2F..%2Fb/issues", 400, "path_not_canonical"),
        ("api.example.com", "/projects/a%252Fb/issues", 400, "path_not_canonical"),
        ("api.example.com", "/projects/a%2F%2Fb/issues", 400, "path_not_canonical"),
        ("other.example.com", "/projects/group%2Fproject/issues", 400, "path_not_canonical"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = world.inside(&format!("{host}:443")).await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{host}{target}");
    }
    let arrived: Vec<String> =
        world.upstream.arrived().into_iter().map(|arrived| arrived.target).collect();
    assert_eq!(arrived, ["/projects/group%2Fproject/issues", "/projects/a%2fb%2fc/issues?x=%2F"]);
}

/// (case, CONNECT to, status, code), under `example.com`, `*.example.com`, `*.cdn.example.net`,
/// `api.example.com`, `127.0.0.1` being no name that can be listed.
const CONNECTS: &[(&str, &str, u16, &str)] = &[
    ("H01", "evil-example.com:443", 403, "host_not_allowed"),
    ("H02", "example.com.evil.test:443", 403, "host_not_allowed"),
    ("H03", "cdn.example.net:443", 403, "host_not_allowed"),
    ("H04", "a.b.cdn.example.net:443", 403, "host_not_allowed"),
    ("H06", "api.example.com..:443", 400, "malformed_authority"),
    ("H07", "api.example.com@evil.test:443", 400, "userinfo_forbidden"),
    ("H10", "evil.test%00.example.com:443", 400, "malformed_authority"),
    ("H10", "evil%2eexample.com:443", 400, "malformed_authority"),
    ("H12", "xn--exmple-cua.com:443", 403, "host_not_allowed"),
    ("H16", ":443", 400, "malformed_authority"),
    ("H16", "*:443", 400, "malformed_authority"),
    ("H17", "api.example.com:443:80", 400, "malformed_authority"),
    ("H19", "[[::1]]:443", 400, "malformed_authority"),
    ("H19", "[api.example.com]:443", 400, "malformed_authority"),
    ("N01", "127.0.0.1:8081", 403, "ssrf_denied"),
    ("N02", "2130706433:443", 400, "ambiguous_ip"),
    ("N02", "0x7f000001:443", 400, "ambiguous_ip"),
    ("N02", "0177.0.0.1:443", 400, "ambiguous_ip"),
    ("N02", "127.1:443", 400, "ambiguous_ip"),
    ("N02", "0:443", 400, "ambiguous_ip"),
    ("N03", "metadata.google.internal:80", 403, "host_not_allowed"),
    ("N05", "[::1]:443", 403, "ssrf_denied"),
    ("N05", "[::]:443", 403, "ssrf_denied"),
    ("N05", "[::ffff:127.0.0.1]:443", 403, "ssrf_denied"),
    ("N05", "[fe80::1]:443", 403, "ssrf_denied"),
    ("N05", "[fc00::1]:443", 403, "ssrf_denied"),
    ("N05", "[ff02::1]:443", 403, "ssrf_denied"),
    ("N12", "api.example.com:22", 403, "port_not_allowed"),
    ("N12", "api.example.com:25", 403, "port_not_allowed"),
    ("N12", "api.example.com:8443", 403, "port_not_allowed"),
    (
        "N15",
        "3133373133373133373133373133373133373133373133373133373133.evil.test:443",
        403,
        "host_not_allowed",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_is_refused_at_the_connect() {
    let hosts = ["example.com", "*.example.com", "*.cdn.example.net", "api.example.com"];
    let world = World::start(allowing(&hosts)).await;
    for (count, (case, authority, status, code)) in CONNECTS.iter().enumerate() {
        let mut client = world.proxy().await;
        let answer =
            client.ask(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code()), (*status, *code), "{case} {authority}");
        assert_eq!(client.rest().await, b"", "{case}: the connection ends");
        let denials = world.log("deny");
        assert_eq!(denials.len(), count + 1, "{case} {authority}: one line each");
        assert_eq!(denials[count]["code"], *code, "{case} {authority}");
        world.untouched();
    }
}

/// (case, what is sent, status, code)
const ABSOLUTES: &[(&str, &[u8], u16, &str)] = &[
    (
        "H07",
        b"GET http://api.example.com@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        400,
        "userinfo_forbidden",
    ),
    (
        "H09",
        b"CONNECT evil.test\0.api.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "malformed_request",
    ),
    (
        "H14",
        b"GET http://evil.test\\@api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        400,
        "userinfo_forbidden",
    ),
    ("H16", b"GET http://api.example.com/ HTTP/1.1\r\nHost:\r\n\r\n", 400, "malformed_authority"),
    ("H22", b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403, "host_not_allowed"),
    (
        "N03",
        b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        403,
        "ssrf_denied",
    ),
    (
        "N12",
        b"GET http://only-tls.example.com/ HTTP/1.1\r\nHost: only-tls.example.com\r\n\r\n",
        403,
        "port_not_allowed",
    ),
    (
        "T18",
        b"TRACE http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    ("C13", b"OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 405, "method_not_allowed"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_is_refused_in_plain_http() {
    let mut policy = allowing(&["only-tls.example.com"]);
    policy["allow"].as_array_mut().unwrap().push(json!({ "host": "api.example.com", "port": 80 }));
    let world = World::start(policy).await;
    for (count, (case, request, status, code)) in ABSOLUTES.iter().enumerate() {
        let answer = world.proxy().await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (*status, *code), "{case}");
        let denials = world.log("deny");
        assert_eq!(denials.len(), count + 1, "{case}: one line each");
        world.untouched();
    }
    let mut client = world.proxy().await;
    let answer = client
        .ask("GET http://api.example.com/echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.upstream.one().header("host"), ["api.example.com"]);
}

/// H05, H06: other spellings of a host that is listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_the_same_in_every_spelling() {
    let world = World::start(allowing(&["api.example.com"])).await;
    for authority in ["API.Example.COM:443", "api.example.com.:443"] {
        let (client, head) = world.connect(authority).await;
        assert_eq!(head.status, 200, "{authority}");
        let stream = client.secure(&world.ca.certificate, "api.example.com", &[b"http/1.1"]).await;
        let mut client = super::client::Client::new(stream.unwrap());
        let request = "GET /echo HTTP/1.1\r\nHost: API.example.com.\r\n\r\n";
        assert_eq!(client.ask(request).await.status, 200, "{authority}");
    }
    let allowed = world.wait_for("allow", 2).await;
    assert!(allowed.iter().all(|line| line["host"] == "api.example.com:443"), "{allowed:#?}");
    assert!(world.upstream.arrived().iter().all(|one| {
        one.version == hyper::Version::HTTP_2 || one.header("host") == ["api.example.com"]
    }));
}

/// H20: an empty list is a list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_listed_is_nothing_reached() {
    let world = World::start(allowing(&[])).await;
    let (_, head) = world.connect("api.example.com:443").await;
    assert_eq!((head.status, head.code()), (403, "host_not_allowed"));
    world.refused("host_not_allowed");
}

/// N08, N11: what an allowed name may resolve to. (A CNAME is what its last address is.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_name_with_a_private_address_is_refused() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let private = [
        "10.0.0.5",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.5",
        "64:ff9b::a00:5",
        "93.184.216.99",
    ];
    for (count, address) in private.iter().enumerate() {
        world.names.set("api.example.com", &[&[address]]);
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
        assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"), "{address}");
        assert!(!answer.text().contains(address), "{}", answer.text());
        assert_eq!(world.log("deny").len(), count + 1);
        assert_eq!(world.upstream.connections(), 0);
    }
}

/// N08: the pair of a host and a network that the operator declares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_exception_opens_its_network_for_its_host_alone() {
    let mut policy = allowing(&["other.example.com"]);
    let entry = json!({ "host": "api.example.com", "port": 443, "cidr": "10.0.0.0/24" });
    policy["allow"].as_array_mut().unwrap().push(entry);
    let mut world = World::start(policy).await;
    let upstream = world.upstream.secure.to_string();
    for address in ["10.0.0.5:443", "10.0.1.5:443"] {
        world.document["testing"]["dial"][address] = json!(upstream);
    }
    world.load().await.unwrap();
    for (host, address, status) in [
        ("api.example.com", "10.0.0.5", 200),
        ("api.example.com", "10.0.1.5", 403),
        ("other.example.com", "10.0.0.5", 403),
    ] {
        world.names.set(host, &[&[address]]);
        let mut client = world.inside(&format!("{host}:443")).await;
        let request = format!("GET /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = client.ask(request).await;
        assert_eq!(answer.status, status, "{host} {address} {answer:?}");
        // The next one resolves again.
        world.load().await.unwrap();
    }
}

/// N09: each connection is to an address that was checked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    world.names.set("api.example.com", &[&[PUBLIC], &["127.0.0.1"]]);
    let request = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    assert_eq!(world.inside("api.example.com:443").await.ask(request).await.status, 200);
    // A kept connection is to the address that was checked; a new one is not made to another.
    assert_eq!(world.inside("api.example.com:443").await.ask(request).await.status, 200);
    world.load().await.unwrap();
    let answer = world.inside("api.example.com:443").await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"));
    assert_eq!(world.upstream.connections(), 1);
}

/// Of several addresses those that may not be reached are left out, and one that does not answer is
/// passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_address_that_may_and_does_answer_is_used() {
    let world = World::start(allowing(&["api.example.com"])).await;
    world.names.set("api.example.com", &[&["10.0.0.5", "93.184.216.35", PUBLIC]]);
    let request = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    assert_eq!(world.inside("api.example.com:443").await.ask(request).await.status, 200);
    world.names.set("api.example.com", &[&["fd00::5", "2606:2800:220:1::1"]]);
    assert_eq!(world.inside("api.example.com:443").await.ask(request).await.status, 200);
}
