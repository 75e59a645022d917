//! Connections by the proxy of a network: a CONNECT, and what it says to that.
//!
//! The proxy is the operator's, so its own address is dialled wherever it is. What it is asked for is an
//! address that was checked here, or a name where only the proxy can resolve names. Of its answers nothing
//! reaches the machine: each has a code of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use zeroize::Zeroizing;

use super::dial::dial;
use super::limits;
use super::resolve::Resolver;
use super::trouble::{Trouble, plain};
use super::verified::failed;
use crate::sidecar::document::ProxyPart;
use crate::sidecar::{CheckedAddr, Cidr, Code, Host};

/// The way to an upstream, below whatever is spoken with it.
pub(super) type Way = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The proxy by which upstreams are reached.
pub(super) struct Proxy {
    host: Host,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// What stands in `Proxy-Authorization`.
    login: Option<Zeroizing<String>>,
    /// It is asked for names.
    by_name: bool,
    direct: Direct,
    patience: Duration,
}

/// What is dialled all the same.
#[derive(Default)]
struct Direct {
    exact: Vec<String>,
    /// `*.` in front.
    one_label: Vec<String>,
    /// `**.` in front.
    any_labels: Vec<String>,
    networks: Vec<Cidr>,
}

impl Direct {
    fn new(items: &[String]) -> Result<Self, String> {
        let mut direct = Self::default();
        for item in items {
            if item.contains('/') {
                direct.networks.push(Cidr::parse(item)?);
                continue;
            }
            let (list, name) = match (item.strip_prefix("**."), item.strip_prefix("*.")) {
                (Some(name), _) => (&mut direct.any_labels, name),
                (None, Some(name)) => (&mut direct.one_label, name),
                (None, None) => (&mut direct.exact, item.as_str()),
            };
            if Host::parse(name.as_bytes()).ok().as_ref().and_then(Host::name) != Some(name) {
                return Err(format!("`{item}` is neither a host nor a network"));
            }
            list.push(name.to_owned());
        }
        Ok(direct)
    }

    fn covers(&self, name: &str) -> bool {
        let below = |parent: &String| {
            let prefix = name.strip_suffix(parent.as_str())?.strip_suffix('.')?;
            (!prefix.is_empty()).then_some(prefix)
        };
        self.exact.iter().any(|exact| exact == name)
            || self.one_label.iter().filter_map(below).any(|prefix| !prefix.contains('.'))
            || self.any_labels.iter().filter_map(below).next().is_some()
    }
}

impl Proxy {
    /// Checks all that a document says of it. `patience`: how long it may take to answer.
    pub(super) fn new(
        part: &ProxyPart,
        tls: &ClientConfig,
        patience: Duration,
    ) -> Result<Self, String> {
        let host = match part.host.parse::<IpAddr>() {
            Ok(address) => Host::Ip(address),
            Err(_) => Host::parse(part.host.as_bytes())
                .ok()
                .filter(|host| host.name() == Some(part.host.as_str()))
                .ok_or("its host is neither a host name in lower case nor an address")?,
        };
        if part.port == 0 {
            return Err("0 is not a port".to_owned());
        }
        let tls = match part.secure {
            false => None,
            true => {
                let name = ServerName::try_from(part.host.clone());
                let mut tls = tls.clone();
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                let name = name.map_err(|_| "its host cannot have a certificate")?;
                Some((Arc::new(tls).into(), name))
            }
        };
        let login = part.login.as_ref().map(|login| {
            let encoded = Zeroizing::new(BASE64_STANDARD.encode(login.reveal()));
            Zeroizing::new(format!("Basic {}", *encoded))
        });
        let direct = Direct::new(&part.no_proxy)?;
        Ok(Self { host, port: part.port, tls, login, by_name: part.by_name, direct, patience })
    }

    /// Whether it is not asked for a host of this name.
    pub(super) fn is_passed_by(&self, name: &str) -> bool {
        self.direct.covers(name)
    }

    /// Whether it resolves names itself.
    pub(super) fn resolves(&self) -> bool {
        self.by_name
    }

    /// Those of the addresses of a name that are dialled all the same.
    pub(super) fn passed_by(&self, addresses: &[CheckedAddr]) -> Vec<CheckedAddr> {
        let within = |address: &&CheckedAddr| {
            self.direct.networks.iter().any(|network| network.contains(address.get().ip()))
        };
        addresses.iter().filter(within).copied().collect()
    }

    /// A way to the first of these addresses that the proxy reaches.
    pub(super) async fn reach(
        &self,
        addresses: &[CheckedAddr],
        resolver: &Resolver,
    ) -> Result<(Way, CheckedAddr), Trouble> {
        let mut last = Trouble::from(Code::ProxyFailed);
        for address in addresses.iter().take(limits::PROXY_ADDRESSES) {
            match self.tunnel(&address.get().to_string(), resolver).await {
                Ok(way) => return Ok((way, *address)),
                Err(trouble) if trouble.code == Code::ProxyFailed => last = trouble,
                Err(trouble) => return Err(trouble),
            }
        }
        Err(last)
    }

    /// A way to `place`, a host and a port.
    pub(super) async fn tunnel(&self, place: &str, resolver: &Resolver) -> Result<Way, Trouble> {
        let mut way = self.dial(resolver).await?;
        let asked = self.ask(&mut way, place);
        tokio::time::timeout(self.patience, asked).await.unwrap_or_else(|_| {
            Err(self.trouble(Code::ProxyTimeout, None, "has not answered in time"))
        })?;
        Ok(way)
    }

    async fn dial(&self, resolver: &Resolver) -> Result<Way, Trouble> {
        let unreachable = |why: &str| self.trouble(Code::ProxyUnreachable, None, why);
        let addresses = match &self.host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => resolver.addresses(name.as_str()).await.map_err(|trouble| {
                let why = trouble.detail.unwrap_or_else(|| "its name has no address".to_owned());
                unreachable(&why)
            })?,
        };
        let mut places: Vec<SocketAddr> =
            addresses.into_iter().map(|address| SocketAddr::new(address, self.port)).collect();
        places.truncate(limits::DIAL_ADDRESSES);
        let dialled = dial(&places, |place| *place).await;
        let (stream, _) = dialled.map_err(|_| unreachable("nobody answers there"))?;
        let Some((tls, name)) = &self.tls else { return Ok(Either::Left(stream)) };
        let handshake = tls.connect(name.clone(), stream);
        let stream = tokio::time::timeout(limits::UPSTREAM_HANDSHAKE, handshake)
            .await
            .map_err(|_| self.trouble(Code::ProxyTimeout, None, "does not go on with TLS"))?
            .map_err(|error| {
                let found = failed(&error, false);
                let why = found.detail.unwrap_or_else(|| "it closed the connection".to_owned());
                match found.code {
                    Code::UpstreamTls => self.trouble(Code::ProxyTls, None, &why),
                    _ => unreachable(&format!(
                        "{why} in the TLS handshake: is it one that speaks TLS?"
                    )),
                }
            })?;
        Ok(Either::Right(Box::new(stream)))
    }

    /// Sends a CONNECT and reads what is said to it.
    async fn ask(
        &self,
        way: &mut (impl AsyncRead + AsyncWrite + Unpin),
        place: &str,
    ) -> Result<(), Trouble> {
        let closed = || {
            self.trouble(Code::ProxyUnreachable, None, "closed the connection without an answer")
        };
        let mut request = Zeroizing::new(String::with_capacity(4 * 1024));
        for part in ["CONNECT ", place, " HTTP/1.1\r\nHost: ", place, "\r\nUser-Agent: bottle\r\n"]
        {
            request.push_str(part);
        }
        if let Some(login) = &self.login {
            for part in ["Proxy-Authorization: ", login, "\r\n"] {
                request.push_str(part);
            }
        }
        request.push_str("\r\n");
        way.write_all(request.as_bytes()).await.map_err(|_| closed())?;
        way.flush().await.map_err(|_| closed())?;
        let mut head = Vec::with_capacity(1024);
        let end = loop {
            if let Some(at) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() >= limits::PROXY_HEAD {
                return Err(self.trouble(Code::ProxyUnreachable, None, "answers without an end"));
            }
            match way.read_buf(&mut head).await {
                Ok(0) | Err(_) => return Err(closed()),
                Ok(_) => {}
            }
        };
        self.judge(&head[..end])?;
        // Whoever is behind it waits to be asked, by TLS as well as by HTTP.
        match head.len() == end {
            true => Ok(()),
            false => Err(self.trouble(Code::ProxyUnreachable, None, "says more than was asked")),
        }
    }

    /// What the head of an answer means.
    fn judge(&self, head: &[u8]) -> Result<(), Trouble> {
        let Some((status, schemes)) = read(head) else {
            let why = "answers with something that is no HTTP";
            return Err(self.trouble(Code::ProxyUnreachable, None, why));
        };
        let said = format!("answers {status}");
        Err(match status {
            200..=299 => return Ok(()),
            407 => {
                let basic = schemes.is_empty() || schemes.iter().any(|it| it == "basic");
                let next = match (&self.login, basic) {
                    (_, false) => Some(
                        "the proxy of this network takes no Basic login, which is the only one that is spoken to it: the operator puts a proxy in between that logs in, and names that in bottle.yaml",
                    ),
                    (Some(_), true) => Some(
                        "the proxy of this network refuses the login that it gets: the operator looks at the user and the password of `proxy` in bottle.yaml",
                    ),
                    (None, true) => None,
                };
                let wants = match schemes.is_empty() {
                    true => String::new(),
                    false => format!(", and takes {}", schemes.join(", ")),
                };
                self.trouble(Code::ProxyLogin, next, &format!("{said}{wants}"))
            }
            500..=599 => self.trouble(Code::ProxyFailed, None, &said),
            _ if self.by_name => self.trouble(Code::ProxyRefused, None, &said),
            _ => {
                let next = "the proxy of this network does not let this host and port pass: do not retry; the operator asks whoever runs it, since many let 443 pass alone; where it decides by name, `resolve: proxy` in bottle.yaml gives it names";
                self.trouble(Code::ProxyRefused, Some(next), &said)
            }
        })
    }

    /// `why` is the end of a sentence about the proxy.
    fn trouble(&self, code: Code, next: Option<&'static str>, why: &str) -> Trouble {
        let detail = plain(&format!("the proxy {}:{} {why}", self.host, self.port));
        Trouble { code, next, detail: Some(detail) }
    }
}

/// The status of an answer, and in which ways one may log in.
fn read(head: &[u8]) -> Option<(u16, Vec<String>)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (version, rest) = lines.next()?.split_once(' ')?;
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return None;
    }
    let digits = rest.split(' ').next().filter(|digits| digits.len() == 3)?;
    let status = digits.parse().ok().filter(|status| (200..600).contains(status))?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let asks = fields.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate"));
    let scheme = |(_, value): (&str, &str)| {
        let word: String = value.trim().chars().take_while(char::is_ascii_alphanumeric).collect();
        word.to_ascii_lowercase()
    };
    Some((status, asks.map(scheme).take(8).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(items: &[&str]) -> Direct {
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        Direct::new(&items).unwrap()
    }

    #[test]
    fn names_that_are_dialled_all_the_same() {
        let direct = direct(&["a.example", "*.b.example", "**.c.example", "10.0.0.0/8"]);
        for name in ["a.example", "x.b.example", "x.c.example", "x.y.c.example"] {
            assert!(direct.covers(name), "{name}");
        }
        for name in
            ["x.a.example", "b.example", "x.y.b.example", "c.example", "xc.example", "10.0.0.1"]
        {
            assert!(!direct.covers(name), "{name}");
        }
        let wrong = |item: &str| Direct::new(&[item.to_owned()]).is_err();
        for item in ["", "*", "A.example", "10.0.0.1", "10.0.0.1/8", "*.*.a", "a b"] {
            assert!(wrong(item), "{item}");
        }
    }

    #[test]
    fn answers() {
        let of = |head: &str| read(head.as_bytes());
        assert_eq!(of("HTTP/1.1 200 Connection established\r\n\r\n"), Some((200, vec![])));
        assert_eq!(of("HTTP/1.0 200\r\n\r\n"), Some((200, vec![])));
        let both = "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: Basic realm=\"a\"\r\n\r\n";
        assert_eq!(of(both), Some((407, vec!["negotiate".into(), "basic".into()])));
        for bad in [
            "",
            "\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/1.1 2000\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 +20 x\r\n\r\n",
            "HTTP/1.1 600 x\r\n\r\n",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
