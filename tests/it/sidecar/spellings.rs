//! Other spellings of what is refused: a filter that knows the usual one of an address or a name has to
//! know all of them.

use std::collections::BTreeSet;

use serde_json::json;

use super::client::Client;
use super::world::{PUBLIC, World, allowing};

/// Loopback, private, link-local and metadata addresses, as resolvers, browsers and libraries write
/// them. N01, N02, N03, N05.
const HOSTS: &[(&str, u16, &str)] = &[
    // Numbers of one part, in each base, and beyond its range.
    ("2130706433", 400, "ambiguous_ip"),
    ("2852039166", 400, "ambiguous_ip"),
    ("4294967295", 400, "ambiguous_ip"),
    ("017700000001", 400, "ambiguous_ip"),
    ("0x7f000001", 400, "ambiguous_ip"),
    ("0X7F000001", 400, "ambiguous_ip"),
    ("0xA9FEA9FE", 400, "ambiguous_ip"),
    ("0x0000007f000001", 400, "ambiguous_ip"),
    ("18446744071545225217", 400, "ambiguous_ip"),
    // Fewer parts than four, and more.
    ("127.1", 400, "ambiguous_ip"),
    ("127.0.1", 400, "ambiguous_ip"),
    ("127.65530", 400, "ambiguous_ip"),
    ("169.254.43518", 400, "ambiguous_ip"),
    ("10.5", 400, "ambiguous_ip"),
    ("127.0.0.1.1", 400, "ambiguous_ip"),
    ("127..0.0.1", 400, "malformed_authority"),
    // Parts in other bases, and mixed.
    ("0177.0.0.1", 400, "ambiguous_ip"),
    ("0x7f.0.0.1", 400, "ambiguous_ip"),
    ("127.0.0.0x1", 400, "ambiguous_ip"),
    ("0x7f.0.0.0x1", 400, "ambiguous_ip"),
    ("0251.0376.0251.0376", 400, "ambiguous_ip"),
    ("0xa9.254.0251.254", 400, "ambiguous_ip"),
    ("127.0.0.01", 400, "ambiguous_ip"),
    ("127.000.000.001", 400, "ambiguous_ip"),
    ("127.0.0.256", 400, "ambiguous_ip"),
    ("127.0.0.1.", 400, "ambiguous_ip"),
    ("2130706433.", 400, "ambiguous_ip"),
    ("0", 400, "ambiguous_ip"),
    ("00", 400, "ambiguous_ip"),
    ("0x", 400, "ambiguous_ip"),
    ("0x0", 400, "ambiguous_ip"),
    // Plain ones.
    ("127.0.0.1", 403, "ssrf_denied"),
    ("127.255.255.254", 403, "ssrf_denied"),
    ("0.0.0.0", 403, "ssrf_denied"),
    ("10.0.0.5", 403, "ssrf_denied"),
    ("169.254.169.254", 403, "ssrf_denied"),
    ("255.255.255.255", 403, "ssrf_denied"),
    // A public one too: what is listed are names.
    ("93.184.216.34", 403, "ssrf_denied"),
    // IPv6, with an IPv4 address inside, in each way that there is.
    ("[::1]", 403, "ssrf_denied"),
    ("[0:0:0:0:0:0:0:1]", 403, "ssrf_denied"),
    ("[0000:0000:0000:0000:0000:0000:0000:0001]", 403, "ssrf_denied"),
    ("[::]", 403, "ssrf_denied"),
    ("[::127.0.0.1]", 403, "ssrf_denied"),
    ("[::7f00:1]", 403, "ssrf_denied"),
    ("[::ffff:127.0.0.1]", 403, "ssrf_denied"),
    ("[::FFFF:7F00:1]", 403, "ssrf_denied"),
    ("[::ffff:169.254.169.254]", 403, "ssrf_denied"),
    ("[::ffff:a9fe:a9fe]", 403, "ssrf_denied"),
    ("[::ffff:0:127.0.0.1]", 403, "ssrf_denied"),
    ("[64:ff9b::7f00:1]", 403, "ssrf_denied"),
    ("[64:ff9b::169.254.169.254]", 403, "ssrf_denied"),
    ("[64:ff9b:1::a00:5]", 403, "ssrf_denied"),
    ("[2002:7f00:1::]", 403, "ssrf_denied"),
    ("[2002:a9fe:a9fe::1]", 403, "ssrf_denied"),
    ("[2001:0:7f00:1::]", 403, "ssrf_denied"),
    ("[fe80::1]", 403, "ssrf_denied"),
    ("[fec0::1]", 403, "ssrf_denied"),
    ("[fc00::1]", 403, "ssrf_denied"),
    ("[fd00:ec2::254]", 403, "ssrf_denied"),
    ("[fe80::5efe:127.0.0.1]", 403, "ssrf_denied"),
    ("[ff02::1]", 403, "ssrf_denied"),
    ("[2606:2800:220:1::1]", 403, "ssrf_denied"),
    ("[fe80::1%eth0]", 400, "malformed_authority"),
    ("[fe80::1%251]", 400, "malformed_authority"),
    ("[::1%lo]", 400, "malformed_authority"),
    ("[::ffff:0177.0.0.1]", 400, "malformed_authority"),
    ("[::ffff:127.1]", 400, "malformed_authority"),
    ("[127.0.0.1]", 400, "malformed_authority"),
    ("[0x7f.0.0.1]", 400, "malformed_authority"),
    ("[v1.::1]", 400, "malformed_authority"),
    ("[::1].", 400, "malformed_authority"),
    ("[::1", 400, "malformed_authority"),
    ("::1", 400, "malformed_authority"),
    // Names that lead there. Nobody is asked about them.
    ("localhost", 403, "host_not_allowed"),
    ("LOCALHOST.", 403, "host_not_allowed"),
    ("localhost.localdomain", 403, "host_not_allowed"),
    ("ip6-localhost", 403, "host_not_allowed"),
    ("127.0.0.1.nip.io", 403, "host_not_allowed"),
    ("7f000001.rbndr.us", 403, "host_not_allowed"),
    ("1.0.0.127.in-addr.arpa", 403, "host_not_allowed"),
    ("metadata", 403, "host_not_allowed"),
    ("metadata.google.internal.", 403, "host_not_allowed"),
    ("host.docker.internal", 403, "host_not_allowed"),
    ("kubernetes.default.svc", 403, "host_not_allowed"),
    // The sidecar's own name is no upstream.
    ("sidecar", 403, "host_not_allowed"),
    // Digits and dots of other scripts, escapes, and what a URL parser would drop.
    ("127%2e0%2e0%2e1", 400, "malformed_authority"),
    ("%31%32%37.0.0.1", 400, "malformed_authority"),
    ("127\u{3002}0\u{3002}0\u{3002}1", 400, "malformed_request"),
    ("\u{2460}\u{2461}\u{2466}.0.0.1", 400, "malformed_request"),
    ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", 400, "malformed_request"),
    ("127.0.0.1\\", 400, "malformed_authority"),
    ("127.0.0.1,93.184.216.34", 400, "malformed_authority"),
    ("+127.0.0.1", 400, "malformed_authority"),
    ("-127.0.0.1", 400, "malformed_authority"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_refused_in_every_spelling() {
    let world = World::start(allowing(&["api.example.com", "*.example.net"])).await;
    let mut denials = 0;
    for (host, status, code) in HOSTS {
        for port in [443, 8081] {
            let connect = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
            let absolute =
                format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
            for request in [connect, absolute] {
                let answer = world.proxy().await.ask(&request).await;
                assert_eq!((answer.status, answer.code()), (*status, *code), "{request}");
                denials += 1;
                assert_eq!(world.log("deny").len(), denials, "{request}: one line each");
                assert_eq!(world.log("deny")[denials - 1]["code"], *code, "{request}");
                world.untouched();
            }
        }
        // Named within a tunnel: it contradicts it, whatever else is wrong.
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = world.inside("api.example.com:443").await.ask(&request).await;
        assert!(matches!(answer.status, 400 | 421), "{request}: {answer:?}");
        denials += 1;
        world.wait_for("deny", denials).await;
        world.untouched();
    }
}

/// Addresses that an allowed name may have, and which are not dialled. N08, N11.
const ANSWERS: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.255.255.254",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::5db8:d822",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:5db8:d822::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "93.184.216.99",
    "::ffff:93.184.216.99",
    "64:ff9b::5db8:d863",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_name_leads_to_public_addresses_alone() {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    // Wherever it would be dialled, somebody listens.
    for address in ANSWERS {
        let at = std::net::SocketAddr::new(address.parse().unwrap(), 443).to_string();
        world.document["testing"]["dial"][at] = json!(world.upstream.secure.to_string());
    }
    world.load().await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    for (count, address) in ANSWERS.iter().enumerate() {
        world.names.set("api.example.com", &[&[address]]);
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (403, "ssrf_denied"), "{address}");
        assert!(!answer.text().contains(address), "{address}");
        assert_eq!(world.log("deny").len(), count + 1, "{address}");
        assert_eq!(world.upstream.connections(), 0, "{address}");
    }
}

/// N11: the address behind an alias is judged, however long the way to it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_of_a_private_address_is_refused() {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    let request = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    for (address, status) in [("192.168.1.1", 403), ("127.0.0.1", 403), (PUBLIC, 200)] {
        for aliases in
            [&["internal.test"][..], &["a.test", "localhost", "metadata.google.internal"]]
        {
            world.names.alias("api.example.com", aliases);
            world.names.set("api.example.com", &[&[address]]);
            let answer = world.inside("api.example.com:443").await.ask(request).await;
            assert_eq!(answer.status, status, "{aliases:?} {address}: {answer:?}");
            assert_eq!(world.upstream.connections() > 0, status == 200, "{aliases:?} {address}");
            // Begins anew, with nothing kept.
            world.load().await.unwrap();
        }
    }
    assert!(world.log("deny").iter().all(|line| line["code"] == "ssrf_denied"));
}

/// H01 to H04: names around those that are listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_around_a_listed_one_are_refused() {
    let hosts = ["example.com", "*.example.com", "*.cdn.example.net", "**.deep.example.org"];
    let world = World::start(allowing(&hosts)).await;
    let refused = [
        "evil-example.com",
        "evilexample.com",
        "example.com.evil.test",
        "example.comevil.test",
        "example.co",
        "xample.com",
        "example.com-evil.test",
        "example.com_",
        "a.b.example.com",
        "www.example.com.evil.test",
        "cdn.example.net",
        "a.b.cdn.example.net",
        "acdn.example.net",
        "deep.example.org",
        "xdeep.example.org",
        "example.org",
        "com",
        "example",
        "xn--exmple-cua.com",
        "xn--xample-9ua.com",
        "www.xn--exmple-cua.com",
    ];
    let mut seen = BTreeSet::new();
    for (count, host) in refused.iter().enumerate() {
        assert!(seen.insert(host));
        let (_, head) = world.connect(&format!("{host}:443")).await;
        assert_eq!((head.status, head.code()), (403, "host_not_allowed"), "{host}");
        assert_eq!(world.wait_for("deny", count + 1).await[count]["host"], format!("{host}:443"));
        world.untouched();
    }
    for host in ["example.com", "A.EXAMPLE.com", "x.cdn.example.net.", "a.b.c.deep.example.org"] {
        let (_, head) = world.connect(&format!("{host}:443")).await;
        assert_eq!(head.status, 200, "{host}");
    }
    world.untouched();
}

/// H16, H17, H19: what is no host and port at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_authority_is_refused() {
    let world = World::start(allowing(&["api.example.com", "*.example.com"])).await;
    let authorities = [
        "api.example.com",
        "api.example.com:",
        "api.example.com:0",
        "api.example.com:00443",
        "api.example.com:0443",
        "api.example.com:+443",
        "api.example.com:-443",
        "api.example.com:65536",
        "api.example.com:65979",
        "api.example.com:4294967739",
        "api.example.com:443:443",
        "api.example.com:443/",
        "api.example.com:443?x",
        "api.example.com:https",
        "api.example.com:0x1bb",
        "api.example.com::443",
        ".:443",
        "..:443",
        ".api.example.com:443",
        "api..example.com:443",
        "api.example.com..:443",
        "*.example.com:443",
        "**:443",
        "-api.example.com:443",
        "api-.example.com:443",
        "api.example.com,evil.test:443",
        "api.example.com;evil.test:443",
        "api.example.com\\evil.test:443",
        "api.example.com/evil.test:443",
        "api.example.com%00:443",
        "api.example.com%0d%0aX:443",
        "api%2eexample.com:443",
        "[api.example.com]:443",
        "[[::1]]:443",
        "[]:443",
        "[::1]]:443",
        "[::1]:443]",
        "(api.example.com):443",
        "<api.example.com>:443",
        "\"api.example.com\":443",
        "$HOME:443",
        "https://api.example.com:443",
        "//api.example.com:443",
        "/",
    ];
    for (count, authority) in authorities.iter().enumerate() {
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n");
        let mut client: Client = world.proxy().await;
        let answer = client.ask(&request).await;
        assert_eq!((answer.status, answer.code()), (400, "malformed_authority"), "{authority}");
        assert_eq!(client.rest().await, b"", "{authority}: the connection ends");
        world.wait_for("deny", count + 1).await;
        world.untouched();
    }
    for (count, authority) in [
        "a@api.example.com:443",
        "api.example.com@evil.test:443",
        "@api.example.com:443",
        "a:b@c:1",
    ]
    .iter()
    .enumerate()
    {
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n");
        let answer = world.proxy().await.ask(&request).await;
        assert_eq!((answer.status, answer.code()), (400, "userinfo_forbidden"), "{authority}");
        world.wait_for("deny", authorities.len() + count + 1).await;
        world.untouched();
    }
}
