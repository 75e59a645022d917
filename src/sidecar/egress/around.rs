#![expect(clippy::disallowed_methods, reason = "reads the addresses of the network that it is in")]
//! The addresses around a sidecar that no exception opens: its own, and its gateways'.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Those of this process's network, read from `/proc/net`. What is not there says nothing.
pub(super) fn read() -> Vec<IpAddr> {
    let text =
        |file: &str| std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    let mut found = own(&text("fib_trie"));
    found.extend(gateways(&text("route")));
    found.extend(own_ipv6(&text("if_inet6")));
    found.sort_unstable();
    found.dedup();
    found
}

/// An address stands on the line before the one that says that it is the host's own.
fn own(trie: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = trie.lines().collect();
    let local = lines.windows(2).filter(|pair| pair[1].contains("/32 host LOCAL"));
    local.filter_map(|pair| pair[0].split_whitespace().last()?.parse().ok()).collect()
}

/// The third field, in the processor's order of bytes, which the kernel prints as a number.
fn gateways(routes: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let number = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
        let address = Ipv4Addr::from(number.to_ne_bytes());
        (!address.is_unspecified()).then_some(IpAddr::V4(address))
    };
    routes.lines().skip(1).filter_map(gateway).collect()
}

fn own_ipv6(interfaces: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let number = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(number)))
    };
    interfaces.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_prints_them() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.0\n        /24 link UNICAST\n\
                    \x20    |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n\
                    \x20       /32 link BROADCAST\n";
        assert_eq!(own(trie), ["10.0.2.15".parse::<IpAddr>().unwrap()]);
        let number = u32::from_ne_bytes([172, 18, 0, 1]);
        let routes = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t{number:08X}\t0003\n\
             eth0\t000012AC\t00000000\t0001\n"
        );
        assert_eq!(gateways(&routes), ["172.18.0.1".parse::<IpAddr>().unwrap()]);
        let six = "fe800000000000000042acfffe120002 05 40 20 80     eth0\n";
        assert_eq!(own_ipv6(six), ["fe80::42:acff:fe12:2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn this_machine_has_its_loopback() {
        assert!(read().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
