//! Nothing leaves a machine but to its sidecar: tried from inside by every way there is, and measured at
//! the far end: listeners of the host and of other containers, and every packet that the kernel sees.

use std::collections::BTreeMap as Map;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bottle::backend::ExecUser;

use super::*;
use crate::contract::docker::small_program;
use crate::support::ears::{Host, Sniffer, host_addresses};

/// An address of documentation's own: whoever asked for it wanted out into the world.
const WORLD: &str = "198.51.100.7";

fn address_in(container: &str, network: &str) -> Ipv4Addr {
    let end = format!(
        "{{{{with index .NetworkSettings.Networks \"{network}\"}}}}{{{{.IPAddress}}}}{{{{end}}}}"
    );
    sidecar::inspect(container, &end).parse().expect("it has one")
}

/// Runs the probe in a machine, and returns what each try came to.
async fn probe(
    corner: &Corner,
    machine: &Instance,
    user: ExecUser,
    tries: &[String],
) -> Map<String, String> {
    let argv = ["/tmp/probe".to_owned()].into_iter().chain(tries.iter().cloned());
    let spec = ExecSpec { user, ..ExecSpec::new(argv) };
    let said = corner.backend.exec(&corner.scope, machine, &spec, Bytes::new()).await;
    let said = said.expect("it runs");
    assert_eq!(said.code, 0, "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).expect("it is UTF-8");
    let line = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    text.lines().filter_map(line).collect()
}

async fn put_probe(corner: &Corner, machine: &Instance) {
    let bytes = std::fs::read(small_program("probe")).expect("it was made");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "tmp/probe", bytes.as_slice()).expect("it fits");
    let upload = Upload { tar: tar.into_inner().expect("it is whole").into(), ..Upload::default() };
    corner.backend.copy_in(&corner.scope, machine, upload).await.expect("copying");
}

/// N13, N14, N17: neither a packet nor a name, measured at the far end.
#[tokio::test]
async fn nothing_leaves_a_machine_but_to_its_sidecar() {
    let Some(corner) = Corner::new("walls") else { return };
    let (ada, bob) = (corner.sandbox("ada").await, corner.sandbox("bob").await);
    let uplink = format!("bottle-{}.uplink", corner.scope.owner);
    let machine = address_in(&ada.machine.id.0, &ada.network.name);
    let own = address_in(&ada.sidecar.id.0, &ada.network.name);
    let others = [
        address_in(&bob.machine.id.0, &bob.network.name),
        address_in(&bob.sidecar.id.0, &bob.network.name),
        address_in(&bob.sidecar.id.0, &uplink),
        address_in(&ada.sidecar.id.0, &uplink),
    ];
    // Somebody else's container, on the engine's own bridge: it listens, and it can reach the host.
    let (stranger, label) =
        (corner.name("stranger"), format!("io.bottle.test={}", support::run_id()));
    let listen = "while :; do nc -l -p 7000 -e cat; done";
    docker(&[
        "run", "--detach", "--name", &stranger, "--label", &label, BUSYBOX, "sh", "-c", listen,
    ])
    .expect("it can be run");
    let there = address_in(&stranger, "bridge");

    let host = Host::listen();
    let word = format!("leak{}", support::unique("name").replace('-', ""));
    let sniffer = Sniffer::start(Some(machine), &word);
    put_probe(&corner, &ada.machine).await;

    let mut targets: Vec<IpAddr> = host_addresses();
    assert!(targets.iter().any(IpAddr::is_ipv4), "{targets:?}");
    let [a, b, c, d] = own.octets();
    // The bridge's own gateway, which must be nobody's, and the rest of the subnet.
    targets.extend((d - 2..d + 6).map(|d| IpAddr::V4(Ipv4Addr::new(a, b, c, d))));
    targets.extend(others.map(IpAddr::V4));
    targets.extend(
        ["255.255.255.255", "224.0.0.1", "169.254.169.254", "100.100.100.200", WORLD]
            .map(|text| text.parse::<IpAddr>().expect("an address")),
    );
    targets.extend(["ff02::1", "2001:db8::7"].map(|text| text.parse::<IpAddr>().expect("one")));
    targets.push(Ipv4Addr::new(172, 17, 0, 1).into());
    targets.retain(|target| *target != IpAddr::V4(own) && *target != IpAddr::V4(machine));
    let mut tries = Vec::new();
    for target in &targets {
        for port in [host.port(), 53, 443, 3128] {
            let at = SocketAddr::new(*target, port);
            tries.extend([format!("tcp:{at}"), format!("udp:{at}")]);
        }
    }
    tries.push(format!("tcp:{there}:7000"));
    // Link-local addresses mean something on an interface only.
    for target in targets.iter().filter(|t| t.to_string().starts_with("fe80")) {
        let interface = corner.says(&ada.machine, "cat /sys/class/net/eth0/ifindex").await;
        tries.push(format!("udp:[{target}%{interface}]:{}", host.port()));
        tries.push(format!("tcp:[{target}%{interface}]:{}", host.port()));
    }
    for server in ["127.0.0.11".to_owned(), own.to_string(), WORLD.to_owned(), there.to_string()] {
        tries.push(format!("dns:{server}:{word}.example.com"));
    }
    tries.push(format!("name:{word}.example.org"));
    for user in [ExecUser::Sandbox, ExecUser::Root] {
        let sidecars_side = corner.says(&ada.machine, "ip route").await;
        assert!(!sidecars_side.contains("default"), "{sidecars_side}");
        let ended = probe(&corner, &ada.machine, user, &tries).await;
        assert_eq!(ended.len(), tries.iter().collect::<BTreeSet<_>>().len());
        for (what, ended) in &ended {
            // The engine's own forwarder says that it cannot; nothing else says anything.
            let refusal = what.starts_with("dns:127.0.0.11:") && !ended.ends_with(", 0");
            assert!(ended.starts_with("failed") || refusal, "{user:?}: {what} {ended}");
        }
        // What no program of its own is needed for: raw packets, other routes, other addresses.
        for script in [
            "ping -c 1 -W 1 172.17.0.1",
            &format!("ping -c 1 -W 1 {WORLD}"),
            &format!("arping -c 1 -w 1 -I eth0 {}", Ipv4Addr::new(a, b, c, d - 1)),
            &format!("ip route replace default via {own}"),
            &format!(
                "ip neigh replace {} lladdr ff:ff:ff:ff:ff:ff dev eth0",
                Ipv4Addr::new(a, b, c, d - 1)
            ),
            "ip addr add 172.17.0.99/16 dev eth0",
            "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
            "mount -t proc proc /mnt",
            "nsenter -t 1 -n true",
        ] {
            let spec = ExecSpec { user, ..ExecSpec::new(["sh", "-c", script]) };
            let said = corner.backend.exec(&corner.scope, &ada.machine, &spec, Bytes::new()).await;
            assert_ne!(said.expect("it runs").code, 0, "{user:?}: {script}");
        }
    }
    assert_eq!(host.reached(), 0, "somebody reached the host");
    let log = docker(&["logs", &bob.sidecar.id.0]).expect("it has a log");
    assert!(!log.contains("connection"), "{log}");
    let caps = corner.says(&ada.machine, "grep Cap /proc/self/status | sort -u").await;
    assert!(caps.lines().all(|line| line.ends_with("0000000000000000")), "{caps}");

    // The way that there is works, and what measures would have seen any other.
    let door = format!("tcp:{own}:3128");
    let ended = probe(&corner, &ada.machine, ExecUser::Sandbox, std::slice::from_ref(&door)).await;
    assert!(ended[&door].starts_with("answered HTTP/1.1 "), "{ended:?}");
    // Its name is known without asking anybody; any other is unknown, and soon.
    let names = ["name:sidecar", "name:unknown.example.com"].map(str::to_owned);
    let ended = probe(&corner, &ada.machine, ExecUser::Sandbox, &names).await;
    assert_eq!(ended["name:sidecar"], format!("answered {own}"));
    let unknown = &ended["name:unknown.example.com"];
    let took = unknown.strip_prefix("failed after ").and_then(|rest| rest.split(' ').next());
    let took: u64 = took.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{unknown}"));
    // Without an answer, a resolver gives up after five seconds at the earliest.
    assert!(took < 5000, "a lookup took {took} ms");
    let before = host.reached();
    let reach = format!("echo {word} | nc -w 1 172.17.0.1 {}; true", host.port());
    let gateway =
        docker(&["network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]);
    // On a busy machine the kernel drops some of what a sniffer has not fetched yet: so it is sent until it was seen.
    for _ in 0..20 {
        docker(&["exec", &stranger, "sh", "-c", &reach]).expect("it runs");
        let seen = sniffer.as_ref().is_none_or(|sniffer| sniffer.seen().1.contains("172.17.0.1"));
        if seen && (host.reached() != before || gateway.as_deref() != Ok("172.17.0.1")) {
            break;
        }
    }
    if gateway.as_deref() == Ok("172.17.0.1") {
        assert_ne!(host.reached(), before, "the listener is deaf");
    }
    match sniffer {
        Some(sniffer) => {
            let (sent, told) = sniffer.seen();
            // What is told to everybody goes to what carries the network, where nobody listens.
            let last = Ipv4Addr::new(a, b, c, d + 5).to_string();
            let own = own.to_string();
            let may = [own.as_str(), "224.0.0.1", "255.255.255.255", last.as_str()];
            let sent: Vec<_> = sent.keys().filter(|to| !may.contains(&to.as_str())).collect();
            assert!(sent.is_empty(), "packets left the machine: {sent:?}");
            // The stranger's own words were seen, and nobody else's.
            let machine = machine.to_string();
            let told: Vec<&str> = told.iter().map(String::as_str).collect();
            let told: Vec<&str> =
                told.into_iter().filter(|to| *to != own && *to != machine).collect();
            assert_eq!(told, ["172.17.0.1"], "a name was told");
        }
        None => support::left_out("packets that leave a machine", "only root may look at them"),
    }
}

/// N13: a sidecar forwards no packets.
#[tokio::test]
async fn a_machine_cannot_use_its_sidecar_as_a_router() {
    let Some(corner) = Corner::new("route") else { return };
    let ada = corner.sandbox("ada").await;
    let log = docker(&["logs", &ada.sidecar.id.0]).expect("it has a log");
    // Only the stand-in says so.
    if std::env::var_os("BOTTLE_TEST_STATIC").is_none() {
        assert!(log.contains(r#""forwards":0"#), "{log}");
    }
    // With the one capability that a machine never has, beside it: what it would send is dropped.
    let own = address_in(&ada.sidecar.id.0, &ada.network.name);
    let uplink = format!("bottle-{}.uplink", corner.scope.owner);
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway =
        docker(&["network", "inspect", "--format", format, &uplink]).expect("it is there");
    let host = Host::listen();
    let (name, label) = (corner.name("router"), format!("io.bottle.test={}", support::run_id()));
    let script = format!(
        "ip route replace default via {own}; echo x | nc -w 1 {gateway} {0}; \
         echo x | nc -w 1 172.17.0.1 {0}; ping -c 1 -W 1 {gateway}; ping -c 1 -W 1 {WORLD}",
        host.port()
    );
    let args = ["run", "--rm", "--name", &name, "--label", &label, "--cap-add", "NET_ADMIN"];
    let network = ["--network", &ada.network.name, BUSYBOX, "sh", "-c", &script];
    let ended = docker(&args.into_iter().chain(network).collect::<Vec<_>>());
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(host.reached(), 0, "somebody reached the host by way of the sidecar");
}
