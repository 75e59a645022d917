//! What this host says about names: which servers it asks, and its `/etc/hosts`. A laptop that changes
//! networks changes both, and a confined sidecar cannot read them again: they are loaded into it.
#![expect(clippy::disallowed_methods, reason = "reads the host's own settings")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use crate::model::{BackendKind, Fields};
use crate::sidecar::egress::NameServers;

/// The port of name servers.
const DNS: u16 = 53;
/// A longer `/etc/hosts` is not sent along: the sidecar keeps what it read when it started.
const LONGEST: usize = 1 << 20;

/// Where a local resolver keeps the servers that it asks itself.
const BEHIND: &str = "/run/systemd/resolve/resolv.conf";
/// Where an engine is told which servers its containers ask: what stands there counts.
const DAEMON: &str = "/etc/docker/daemon.json";

/// What the host says about names now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostNames {
    /// The servers to ask; empty where nothing is known about them.
    pub(super) resolver: Vec<SocketAddr>,
    /// Those of them that a container reaches, or that the host's own resolver asks; empty where the engine
    /// knows better.
    pub(super) reachable: Vec<SocketAddr>,
    /// The lines of `/etc/hosts` that say something.
    pub(super) hosts: Option<String>,
}

/// What the sidecars of a backend are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The servers to ask; empty: those that the sidecar has found itself.
    pub(super) resolver: Vec<SocketAddr>,
    /// None: what the sidecar has read itself.
    pub(super) hosts: Option<String>,
    /// Identifies it, and says to a reader what it is.
    pub(super) summary: String,
}

impl HostNames {
    /// Reads both files. What is not there says nothing.
    pub(super) fn read() -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let resolver = NameServers::read().asked;
        let hosts = fs::read("/etc/hosts").ok();
        let found = Self {
            reachable: reachable(&resolver, &read(BEHIND), &read(DAEMON)),
            resolver,
            hosts: hosts.and_then(|text| lines(&String::from_utf8_lossy(&text))),
        };
        super::sidecars::names_for_tests(found)
    }

    /// What the sidecars of each backend are to know. Containers have a `hosts` of their own, and the
    /// engine's servers are those of the host when they were started.
    pub(super) fn told(&self) -> BTreeMap<BackendKind, Told> {
        let own = Told {
            resolver: self.resolver.clone(),
            hosts: self.hosts.clone(),
            summary: self.summary(),
        };
        let reachable = self.reachable.clone();
        let summary = match reachable.as_slice() {
            [] => "what the engine asks".to_owned(),
            servers => list(servers),
        };
        let contained = Told { resolver: reachable, hosts: None, summary };
        BTreeMap::from([
            (BackendKind::Native, own.clone()),
            (BackendKind::Smolmachines, own),
            (BackendKind::Docker, contained),
        ])
    }

    /// Identifies it, and says to a reader what it is.
    pub(super) fn summary(&self) -> String {
        let mut fields = Fields::default();
        fields.set("hosts", self.hosts.clone().unwrap_or_default());
        let digest = fields.hash("bottle.hosts.v1").to_string();
        let servers = match self.resolver.as_slice() {
            [] => "no name server, so those found at its start".to_owned(),
            servers => list(servers),
        };
        format!("{servers}; hosts {}", digest.get(..12).unwrap_or(&digest))
    }
}

fn list(servers: &[SocketAddr]) -> String {
    servers.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Which of these servers a container reaches, over IPv4 and no loopback; of a resolver of the host's own
/// those that stand `behind` it. None where the operator has told the engine, in `daemon`, which to ask.
fn reachable(servers: &[SocketAddr], behind: &str, daemon: &str) -> Vec<SocketAddr> {
    let daemon: serde_json::Value = serde_json::from_str(daemon).unwrap_or_default();
    if daemon.get("dns").and_then(|dns| dns.as_array()).is_some_and(|dns| !dns.is_empty()) {
        return Vec::new();
    }
    let far = |server: &SocketAddr| server.is_ipv4() && !server.ip().is_loopback();
    let reached: Vec<SocketAddr> = servers.iter().copied().filter(far).collect();
    if !reached.is_empty() || !servers.iter().any(|server| server.ip().is_loopback()) {
        return reached;
    }
    let named = behind.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address =
            words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, DNS))
    });
    named.filter(far).collect()
}

/// Where a server is; its port only where it is another than theirs.
fn shown(server: &SocketAddr) -> String {
    let whole = server.to_string();
    let ends = format!(":{DNS}");
    match whole.strip_suffix(&ends) {
        Some(place) => place.trim_start_matches('[').trim_end_matches(']').to_owned(),
        None => whole,
    }
}

/// Without comments: they change nothing.
fn lines(text: &str) -> Option<String> {
    let said = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let lines: Vec<String> = text.lines().map(said).filter(|line| !line.is_empty()).collect();
    Some(lines.join("\n")).filter(|text| text.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_told_apart_and_comments_are_not() {
        let names = |resolver: &[&str], hosts: &str| HostNames {
            resolver: resolver.iter().map(|at| at.parse().unwrap()).collect(),
            hosts: lines(hosts),
            ..HostNames::default()
        };
        let first = names(&["192.0.2.1:53", "[2001:db8::1]:53"], "127.0.0.1 localhost # mine\n");
        assert!(first.summary().starts_with("192.0.2.1, 2001:db8::1; hosts "), "{first:?}");
        let same = names(&["192.0.2.1:53", "[2001:db8::1]:53"], "# a\n\n127.0.0.1 localhost\n");
        assert_eq!(first.summary(), same.summary());
        let other = names(&["192.0.2.1:53", "[2001:db8::1]:53"], "127.0.0.2 localhost");
        assert_ne!(first.summary(), other.summary());
        assert_ne!(first.summary(), names(&["192.0.2.2:53"], "127.0.0.1 localhost").summary());
        assert_eq!(lines(&"a b\n".repeat(LONGEST)), None);
        assert!(
            names(&[], "")
                .summary()
                .starts_with("no name server, so those found at its start; hosts ")
        );
        let shown = names(&["192.0.2.1:5353", "[fe80::1%4]:53", "[2001:db8::1]:54"], "").summary();
        assert!(shown.starts_with("192.0.2.1:5353, fe80::1%4, [2001:db8::1]:54; "), "{shown}");
    }

    #[test]
    fn a_container_is_told_what_it_reaches() {
        let at = |servers: &[&str]| -> Vec<SocketAddr> {
            servers.iter().map(|server| format!("{server}:53").parse().unwrap()).collect()
        };
        let behind = "# c\nnameserver 192.0.2.7\nnameserver fe80::1%eth0\nsearch lan\n";
        let asked = |servers: &[&str], daemon: &str| reachable(&at(servers), behind, daemon);
        assert_eq!(asked(&["192.0.2.1", "[2001:db8::1]"], ""), at(&["192.0.2.1"]));
        assert_eq!(asked(&["127.0.0.1", "192.0.2.1"], "{}"), at(&["192.0.2.1"]));
        // The host's own resolver asks others.
        assert_eq!(asked(&["127.0.0.53"], r#"{"dns": []}"#), at(&["192.0.2.7"]));
        // Nothing is known, or the engine was told.
        assert_eq!(asked(&["[2001:db8::1]"], ""), at(&[]));
        assert_eq!(asked(&["192.0.2.1"], r#"{"dns": ["198.51.100.1"]}"#), at(&[]));
        let names = HostNames {
            resolver: at(&["127.0.0.53"]),
            reachable: at(&["192.0.2.7"]),
            hosts: lines("192.0.2.9 printer"),
        };
        let told = names.told();
        let (docker, native) = (&told[&BackendKind::Docker], &told[&BackendKind::Native]);
        assert_eq!((docker.summary.as_str(), docker.hosts.as_ref()), ("192.0.2.7", None));
        assert!(native.hosts.is_some() && native.summary.starts_with("127.0.0.53; hosts "));
    }
}
