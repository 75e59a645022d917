//! Names become addresses here, in this process, and nowhere else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts,
    ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{ConnectionProvider, PoolContext};

use super::limits;
use super::servers::NameServers;
use super::trouble::Trouble;
use crate::sidecar::Code;

/// What the system says about names and about itself, read once: a confined process may not read it
/// again. Where a document says what is true now, that counts.
#[derive(Clone, Default)]
pub struct System {
    servers: NameServers,
    hosts: Arc<hickory_resolver::Hosts>,
    /// Its own addresses, and its gateways'.
    pub(super) around: Vec<IpAddr>,
}

impl System {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`. What is not there says nothing.
    #[must_use]
    pub fn read() -> Self {
        Self {
            servers: NameServers::read(),
            hosts: Arc::new(hickory_resolver::Hosts::from_system().unwrap_or_default()),
            around: super::around::read(),
        }
    }
}

/// Resolves names with the servers and hosts of the document, else with those of the system.
pub(super) struct Resolver {
    resolver: hickory_resolver::Resolver<OverLinks>,
    /// Why there is no server to ask, where that is so.
    no_server: Option<String>,
    /// The servers that are asked, for the log.
    asked: String,
}

impl Resolver {
    pub(super) fn new(
        servers: &[SocketAddr],
        hosts: Option<&str>,
        system: &System,
    ) -> Result<Self, String> {
        let told = !servers.is_empty();
        let servers = if told { servers } else { &system.servers.asked };
        let no_server = system.servers.none().filter(|_| servers.is_empty());
        let asked: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let asked = asked.join(", ");
        let configs = servers.iter().map(|server| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut config| {
                    config.port = server.port();
                    config
                });
            NameServerConfig::new(server.ip(), told, connections.into())
        });
        // No search domains: a name is what the allowlist has, and nothing is appended to it.
        let config = ResolverConfig::from_parts(None, Vec::new(), configs.collect());
        let mut builder =
            hickory_resolver::Resolver::builder_with_config(config, OverLinks::new(servers));
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
        let hosts = match hosts {
            None => Arc::clone(&system.hosts),
            Some(text) => {
                let mut hosts = hickory_resolver::Hosts::default();
                let read = hosts.read_hosts_conf(text.as_bytes());
                read.map_err(|error| format!("`hosts`: {error}"))?;
                Arc::new(hosts)
            }
        };
        resolver.set_hosts(hosts);
        Ok(Self { resolver, no_server, asked })
    }

    /// Every address of a canonical name; none of them is checked yet.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Trouble> {
        let mut absolute = Name::from_ascii(name).map_err(|_| Code::UpstreamDns)?;
        absolute.set_fqdn(true);
        let answer = tokio::time::timeout(limits::DNS_DEADLINE, self.resolver.lookup_ip(absolute));
        let error = match answer.await {
            Ok(Ok(answer)) => return Ok(answer.iter().collect()),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if let Some(why) = &self.no_server {
            return Err(Trouble::no_name_server(why.clone()));
        }
        Err(match error {
            // That is an answer: the name has no address.
            Some(NetError::Dns(DnsError::NoRecordsFound(_))) => Code::UpstreamDns.into(),
            Some(NetError::Dns(DnsError::ResponseCode(code))) => {
                Trouble::name_servers_fail(&self.asked, code.to_str())
            }
            Some(error) => Trouble::name_servers_silent(&self.asked, &error.to_string()),
            None => Trouble::name_servers_silent(&self.asked, "nothing came in time"),
        })
    }
}

/// Asks servers, those of a link over their interface: to the resolver each is its address alone.
#[derive(Clone)]
struct OverLinks {
    interfaces: Arc<HashMap<Ipv6Addr, u32>>,
    runtime: TokioRuntimeProvider,
}

impl OverLinks {
    fn new(servers: &[SocketAddr]) -> Self {
        let of_link = |server: &SocketAddr| match server {
            SocketAddr::V6(server) if server.scope_id() > 0 => {
                Some((*server.ip(), server.scope_id()))
            }
            _ => None,
        };
        let interfaces = Arc::new(servers.iter().filter_map(of_link).collect());
        Self { interfaces, runtime: TokioRuntimeProvider::default() }
    }

    fn place(&self, server: IpAddr, port: u16) -> SocketAddr {
        match server {
            IpAddr::V6(address) => {
                let interface = self.interfaces.get(&address).copied().unwrap_or(0);
                SocketAddrV6::new(address, port, 0, interface).into()
            }
            IpAddr::V4(_) => SocketAddr::new(server, port),
        }
    }
}

impl ConnectionProvider for OverLinks {
    type Conn = DnsExchange<TokioRuntimeProvider>;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Self::Conn, NetError>> + Send>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let place = self.place(ip, config.port);
        let (options, runtime) = (&context.options, self.runtime.clone());
        Ok(match config.protocol {
            ProtocolConfig::Tcp => Box::pin(TcpClientStream::exchange(
                place,
                config.bind_addr,
                options.timeout,
                Some(options.max_active_requests),
                runtime,
            )),
            // No other is asked for.
            _ => {
                let stream = UdpClientStream::builder(place, runtime)
                    .with_timeout(Some(options.timeout))
                    .with_os_port_selection(options.os_port_selection)
                    .avoid_local_ports(options.avoid_local_udp_ports.clone())
                    .with_bind_addr(config.bind_addr);
                Box::pin(async move { Ok(stream.exchange()) })
            }
        })
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_a_link_is_asked_over_its_interface() {
        let servers = ["192.0.2.1:53", "[fe80::1%4]:53", "[fd00::1]:5353"];
        let servers = servers.map(|server| server.parse::<SocketAddr>().unwrap());
        let provider = OverLinks::new(&servers);
        for server in servers {
            assert_eq!(provider.place(server.ip(), server.port()), server);
        }
    }

    /// An address of a link of this machine, with the number of its interface; else loopback, which has no
    /// use for the number.
    fn of_a_link() -> (Ipv6Addr, u32) {
        #[expect(clippy::disallowed_methods, reason = "the kernel says which there are")]
        let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let found = interfaces.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let address = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
            let number = u32::from_str_radix(words.next()?, 16).ok()?;
            address.is_unicast_link_local().then_some((address, number))
        });
        found.unwrap_or((Ipv6Addr::LOCALHOST, 1))
    }

    #[tokio::test]
    async fn a_server_of_a_link_answers() {
        let (address, number) = of_a_link();
        let place = SocketAddrV6::new(address, 0, 0, number);
        let socket = tokio::net::UdpSocket::bind(place).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
                let v4 = query[end..end + 2] == [0, 1];
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, u8::from(v4), 0, 0, 0, 0]);
                answer.extend(&query[12..length.min(end + 4)]);
                if v4 {
                    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 216, 34]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        let servers = [SocketAddrV6::new(address, port, 0, number).into()];
        let resolver = Resolver::new(&servers, None, &System::default()).unwrap();
        let found = resolver.addresses("api.example.com").await.unwrap();
        assert_eq!(found, ["93.184.216.34".parse::<IpAddr>().unwrap()]);
    }

    /// A server that answers every question so, or not at all.
    async fn answering(code: Option<u8>) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (_, from) = socket.recv_from(&mut query).await.unwrap();
                let Some(code) = code else { continue };
                let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
                answer.extend(&query[12..end]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_that_fails_is_told_from_a_name_without_an_address() {
        let asked = [
            (None, Some(("do not answer", ""))),
            (Some(2), Some(("answer with an error", "Server Failure"))),
            (Some(5), Some(("answer with an error", "Query Refused"))),
            (Some(3), None),
            (Some(0), None),
        ]
        .map(async |(code, expected)| {
            let server = answering(code).await;
            let resolver = Resolver::new(&[server], None, &System::default()).unwrap();
            let trouble = resolver.addresses("api.example.com").await.unwrap_err();
            assert_eq!(trouble.code, Code::UpstreamDns);
            let (next, detail) = (trouble.next, trouble.detail.unwrap_or_default());
            let Some((words, why)) = expected else {
                assert_eq!((next, &*detail), (None, ""), "{code:?}");
                return;
            };
            let next = next.unwrap();
            assert!(next.contains(words) && next.contains("trying again may help"), "{next}");
            assert!(detail.contains(&server.to_string()), "{detail}");
            assert!(detail.to_lowercase().contains(&why.to_lowercase()), "{detail}");
        });
        futures_util::future::join_all(asked).await;
        // Nobody listens there.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = socket.local_addr().unwrap();
        drop(socket);
        let resolver = Resolver::new(&[server], None, &System::default()).unwrap();
        let trouble = resolver.addresses("api.example.com").await.unwrap_err();
        assert!(trouble.next.is_some_and(|next| next.contains("do not answer")));
        assert!(trouble.detail.is_some_and(|detail| detail.contains(&server.to_string())));
    }

    #[tokio::test]
    async fn without_a_server_the_log_says_why() {
        let passed_over = vec!["fe80::1%wlan9 is of an interface that is not there".to_owned()];
        let servers = NameServers { asked: Vec::new(), passed_over };
        let system = System { servers, ..System::default() };
        let resolver = Resolver::new(&[], Some("192.0.2.7 known.test"), &system).unwrap();
        assert_eq!(resolver.addresses("known.test").await.unwrap().len(), 1);
        let trouble = resolver.addresses("other.test").await.unwrap_err();
        assert_eq!(trouble.code, Code::UpstreamDns);
        assert!(trouble.detail.is_some_and(|detail| detail.contains("fe80::1%wlan9")));
        assert!(trouble.next.is_some_and(|next| next.contains("name server")));
    }
}
