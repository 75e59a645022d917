//! Names become addresses here, in this process, and nowhere else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;

use super::limits;
use crate::sidecar::Code;

/// What the system says about names and about itself, read once: a confined process may not read it
/// again.
#[derive(Clone, Default)]
pub struct System {
    servers: Vec<NameServerConfig>,
    hosts: Arc<hickory_resolver::Hosts>,
    /// Its own addresses, and its gateways'.
    pub(super) around: Vec<IpAddr>,
}

impl System {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`. What is not there says nothing.
    #[must_use]
    pub fn read() -> Self {
        let servers = hickory_resolver::system_conf::read_system_conf()
            .map(|(config, _)| config.name_servers().to_vec())
            .unwrap_or_default();
        Self {
            servers,
            hosts: Arc::new(hickory_resolver::Hosts::from_system().unwrap_or_default()),
            around: super::around::read(),
        }
    }
}

/// Resolves names with the servers of the document, else with those of the system.
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    pub(super) fn new(servers: &[SocketAddr], system: &System) -> Result<Self, String> {
        let own = servers.iter().map(|server| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut config| {
                    config.port = server.port();
                    config
                });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let servers =
            if servers.is_empty() { system.servers.clone() } else { own.collect::<Vec<_>>() };
        // No search domains: a name is what the allowlist has, and nothing is appended to it.
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = limits::DNS_TIMEOUT;
        options.attempts = limits::DNS_ATTEMPTS;
        options.cache_size = limits::DNS_CACHE;
        options.positive_max_ttl = Some(limits::DNS_TTL);
        options.negative_max_ttl = Some(limits::DNS_TIMEOUT);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.num_concurrent_reqs = 1;
        options.try_tcp_on_error = true;
        let mut resolver = builder.build().map_err(|error| format!("`resolver`: {error}"))?;
        resolver.set_hosts(Arc::clone(&system.hosts));
        Ok(Self(resolver))
    }

    /// Every address of a canonical name; none of them is checked yet.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Code> {
        let mut absolute = Name::from_ascii(name).map_err(|_| Code::UpstreamDns)?;
        absolute.set_fqdn(true);
        let answer = tokio::time::timeout(limits::DNS_DEADLINE, self.0.lookup_ip(absolute))
            .await
            .map_err(|_| Code::UpstreamDns)?
            .map_err(|_| Code::UpstreamDns)?;
        Ok(answer.iter().collect())
    }
}
