#![expect(clippy::disallowed_methods, reason = "reads the host's own settings")]
//! Which name servers a host asks, in a form in which a sidecar can ask them too.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The port of name servers.
const DNS: u16 = 53;

/// What a host says about its name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameServers {
    /// Where they are. One of a link has the number of its interface.
    pub asked: Vec<SocketAddr>,
    /// Those that cannot be asked, each with the reason.
    pub passed_over: Vec<String>,
}

impl NameServers {
    /// Reads `/etc/resolv.conf`, or what stands for it. What is not there says nothing.
    #[must_use]
    pub fn read() -> Self {
        let servers: Vec<IpAddr> = hickory_resolver::system_conf::read_system_conf()
            .map(|(config, _)| config.name_servers().iter().map(|server| server.ip).collect())
            .unwrap_or_default();
        // Of an address it keeps no interface.
        let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Self::of(&servers, &text, |name| {
            fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
        })
    }

    /// An address of a link (`fe80::1%eth0`) means nothing without the interface that it is named with.
    fn of(servers: &[IpAddr], text: &str, number_of: impl Fn(&str) -> Option<u32>) -> Self {
        let mut found = Self::default();
        for server in servers {
            let address = match server {
                IpAddr::V6(address) if address.is_unicast_link_local() => *address,
                _ => {
                    found.asked.push(SocketAddr::new(*server, DNS));
                    continue;
                }
            };
            let Some(interface) = interface(text, *server) else {
                found.passed_over.push(format!("{address} is named without its interface"));
                continue;
            };
            let plain = !interface.contains('/') && interface != "..";
            let number = interface.parse().ok();
            match number.or_else(|| number_of(interface).filter(|_| plain)).filter(|n| *n > 0) {
                Some(number) => {
                    let server = SocketAddrV6::new(address, DNS, 0, number);
                    // The second way to one address is no way of its own to a resolver.
                    if !found.asked.iter().any(|known| known.ip() == IpAddr::V6(address)) {
                        found.asked.push(server.into());
                    }
                }
                None => found
                    .passed_over
                    .push(format!("{address}%{interface} is of an interface that is not there")),
            }
        }
        found
    }

    /// Why there is none that can be asked, where that is so.
    pub(super) fn none(&self) -> Option<String> {
        if !self.asked.is_empty() {
            return None;
        }
        Some(match self.passed_over.as_slice() {
            [] => "the host names no name server".to_owned(),
            why => format!("no name server of the host's can be asked: {}", why.join("; ")),
        })
    }
}

/// The interface that stands with an address in `resolv.conf`.
fn interface(text: &str, server: IpAddr) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let (address, interface) = named.split_once('%')?;
        let same = address.parse::<IpAddr>().is_ok_and(|address| address == server);
        (same && !interface.is_empty()).then_some(interface)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> NameServers {
        let (config, _) = hickory_resolver::system_conf::parse_resolv_conf(text).unwrap();
        let servers: Vec<IpAddr> = config.name_servers().iter().map(|server| server.ip).collect();
        NameServers::of(&servers, text, |name| (name == "eth0").then_some(4))
    }

    #[test]
    fn one_of_a_link_has_its_interface() {
        for (text, asked, passed_over) in [
            ("nameserver fe80::1%eth0\n", &["[fe80::1%4]:53"][..], 0),
            ("nameserver fe80::1%7\n", &["[fe80::1%7]:53"], 0),
            (
                "nameserver 169.254.1.1\nnameserver fd00::1\n",
                &["169.254.1.1:53", "[fd00::1]:53"],
                0,
            ),
            (
                "# a\nnameserver 192.0.2.1\n  nameserver  fe80::1%eth0 # mine\n",
                &["192.0.2.1:53", "[fe80::1%4]:53"],
                0,
            ),
            ("nameserver fe80::1%eth0\nnameserver fe80::1%7\n", &["[fe80::1%4]:53"], 0),
            ("nameserver fe80::1%wlan9\nnameserver fe80::2%eth0\n", &["[fe80::2%4]:53"], 1),
            ("nameserver fe80::1\n", &[], 1),
        ] {
            let found = of(text);
            let shown: Vec<String> = found.asked.iter().map(ToString::to_string).collect();
            assert_eq!(shown, asked, "{text}");
            assert_eq!(found.passed_over.len(), passed_over, "{text}: {found:?}");
            // As a document has it.
            let sent = serde_json::to_string(&found.asked).unwrap();
            assert_eq!(serde_json::from_str::<Vec<SocketAddr>>(&sent).unwrap(), found.asked);
        }
    }

    #[test]
    fn where_none_can_be_asked_the_reason_is_told() {
        let why = of("nameserver fe80::1%wlan9\nnameserver fe80::2\n").none().unwrap();
        assert!(why.contains("fe80::1%wlan9 is of an interface that is not there"), "{why}");
        assert!(why.contains("fe80::2 is named without its interface"), "{why}");
        let none = NameServers::default().none();
        assert_eq!(none.as_deref(), Some("the host names no name server"));
        assert_eq!(of("nameserver fe80::1%wlan9\nnameserver 192.0.2.1\n").none(), None);
    }
}
