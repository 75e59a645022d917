//! Nothing leaves a microVM but to its sidecar: tried from inside by every way there is, and measured
//! at the far end.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};

use super::place::Place;
use crate::contract::docker::small_program;
use crate::support;
use crate::support::ears::{Host, Sniffer, host_addresses};

const API: &str = "api.example.com";
/// An address of documentation's own: whoever asked for it wanted out into the world.
const WORLD: &str = "198.51.100.7";

#[test]
fn nothing_leaves_it_but_to_its_sidecar() {
    let Some(place) = Place::smolmachines("what leaves a microVM") else { return };
    let host = Host::listen();
    let word = format!("leak{}", support::unique("name").replace('-', ""));
    let sniffer = Sniffer::start(None, &word);
    place.internet.put(API, "/x", "it is here\n");
    place.one(&[API], "user: root\n");

    // The way that there is works.
    let curl = format!("curl -sS -m 30 https://{API}/x");
    assert_eq!(place.say("ada", &curl), "it is here");
    let tree = place.tree.path().to_str().unwrap();
    let put = ["--tree", tree, "exec", "-i", "ada", "--", "sh", "-c"];
    let script = "cat >/tmp/probe && chmod 755 /tmp/probe";
    let probe = std::fs::read(small_program("probe")).unwrap();
    place.cli.run_with(put.into_iter().chain([script]), &probe).exits(0);

    let mut targets: Vec<IpAddr> = host_addresses();
    assert!(targets.iter().any(IpAddr::is_ipv4), "{targets:?}");
    let own = place.say("ada", "cat /proc/net/fib_trie /proc/net/if_inet6");
    // The interceptor's network, its gateway and neighbours; the world; and the usual suspects.
    for text in [
        "100.96.0.1",
        "100.96.0.2",
        "100.96.0.3",
        "100.96.0.255",
        "172.17.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "255.255.255.255",
        "224.0.0.1",
        "1.1.1.1",
        WORLD,
        "ff02::1",
        "2001:db8::7",
        "fd00::1",
    ] {
        targets.push(text.parse().unwrap());
    }
    let mut tries = BTreeSet::new();
    for target in &targets {
        for port in [host.port(), 22, 53, 443, 3128] {
            let at = SocketAddr::new(*target, port);
            // The one door that there is.
            if at.to_string() != "100.96.0.1:3128" {
                tries.insert(format!("tcp:{at}"));
            }
            tries.insert(format!("udp:{at}"));
        }
    }
    for server in ["127.0.0.1", "127.255.255.254", "100.96.0.1", "1.1.1.1", WORLD] {
        tries.insert(format!("dns:{server}:{word}.example.com"));
    }
    tries.insert(format!("name:{word}.example.org"));
    for part in tries.iter().collect::<Vec<_>>().chunks(60) {
        let list = part.iter().map(|one| format!("'{one}'")).collect::<Vec<_>>().join(" ");
        let said = place.say("ada", &format!("/tmp/probe {list}"));
        assert_eq!(said.lines().count(), part.len(), "{said}");
        for line in said.lines() {
            let (what, ended) = line.split_once(' ').unwrap();
            // smolvm itself answers questions on names: there is no such, or a failure where it cannot
            // read the question. Nothing else says anything.
            let none = match what.split(':').next() {
                Some("dns") => ended.ends_with(" bytes, 3"),
                Some("udp") => what.ends_with(":53") && ended == "answered 12 bytes, 2",
                _ => false,
            };
            let silent = ended.starts_with("failed") || ended == "answered ";
            assert!(silent || none, "{what}: {ended}\n{own}");
        }
    }
    // Past the proxy and by it, to the host itself and to the world, by name and by address.
    let mut script = String::new();
    for to in targets.iter().filter(|to| to.is_ipv4()).map(IpAddr::to_string).chain([WORLD.into()])
    {
        for how in ["", "--noproxy '*'"] {
            let url = format!("http://{to}:{}/{word}", host.port());
            script +=
                &format!("timeout 5 curl -s -m 3 -o /dev/null -w '%{{http_code}} ' {how} {url}; ");
        }
    }
    script += &format!("curl -s -m 5 --noproxy '*' -w '%{{http_code}} ' https://{API}/{word}; ");
    let said = place.say("ada", &(script + "true"));
    assert!(!said.contains("200"), "{said}");
    // Pings too. The microVM answers itself, and so does its gateway, a part of its own process.
    let near = |to: &&IpAddr| {
        to.is_loopback() || to.is_multicast() || to.to_string().starts_with("100.96.0.")
    };
    let mut script = String::new();
    for to in targets.iter().filter(|to| !near(to)) {
        script += &format!("busybox ping -c 1 -W 1 -p 5a {to}; ");
    }
    let said = place.say("ada", &(script + "true"));
    assert!(said.contains("packet loss") && !said.contains("bytes from"), "{said}");
    assert_eq!(host.reached(), 0, "somebody reached the host");
    let asked: BTreeSet<String> = place.internet.asked().into_iter().collect();
    assert_eq!(asked, BTreeSet::from([API.to_owned()]), "names that were asked for");

    // What measures would have seen it.
    let to = SocketAddr::from(([127, 0, 0, 1], host.port()));
    std::io::Write::write_all(&mut TcpStream::connect(to).unwrap(), word.as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_ne!(host.reached(), 0, "the listener is deaf");
    match sniffer {
        Some(sniffer) => {
            let (_, told) = sniffer.seen();
            assert_eq!(told, BTreeSet::from(["127.0.0.1".to_owned()]), "the word was told");
        }
        None => support::left_out("packets that leave a microVM", "only root may look at them"),
    }
}
