//! The proxy by which sidecars reach upstreams, where a network has one: `proxy` of `bottle.yaml`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::TokenFrom;
use crate::model::hash::{Fields, SpecHash};
use crate::model::id::BackendKind;
use crate::model::source::Place;

/// By this name the login is known where credentials are: no variable of the host can have it.
pub const PROXY_LOGIN: &str = "proxy.login";

/// Where a tree's sidecars find the proxy, and for what they use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name in lower case, or its address; IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// It is spoken to over TLS.
    pub secure: bool,
    /// How one logs in.
    pub login: Login,
    /// What is reached without it: `host`, `*.host`, `**.host`, or a network in CIDR notation.
    pub no_proxy: Vec<String>,
    /// Authorities that are trusted for upstreams, and for the proxy itself, beside this machine's.
    pub ca: Option<CaFile>,
    /// Who resolves the names of upstreams.
    pub resolve: Resolve,
    /// Where the tree names it.
    pub place: Place,
}

/// Who resolves the names of upstreams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolve {
    /// The sidecar, which checks the address and asks the proxy for that.
    #[default]
    Here,
    /// The proxy, which is asked for a name.
    Proxy,
}

impl Resolve {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Proxy => "proxy",
        }
    }
}

/// How one logs in at the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// It wants none.
    None,
    /// `user:password`, as the URL has it.
    Written(Hidden),
    /// What the tree only refers to.
    Referred {
        /// The user, where the URL names one: then the password alone is referred to, else `user:password`.
        user: Option<Hidden>,
        /// The variable that holds it, or a name that stands for `from`.
        name: String,
        /// Where it comes from, when not by its name.
        from: Option<TokenFrom>,
    },
}

impl Login {
    /// The name for which a sandbox waits that needs it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Written(_) => Some(PROXY_LOGIN),
            Self::Referred { name, .. } => Some(name),
        }
    }

    /// Where it comes from, when from a command or a file.
    #[must_use]
    pub fn from(&self) -> Option<&TokenFrom> {
        match self {
            Self::Referred { from, .. } => from.as_ref(),
            Self::None | Self::Written(_) => None,
        }
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Arc<Zeroizing<String>>);

impl Hidden {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text, for the one place that has to use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// Certificates of authorities, read once: what was checked is what is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFile {
    /// Where they were read.
    pub path: PathBuf,
    /// In DER, one after the other.
    pub certificates: Arc<[Vec<u8>]>,
}

impl CaFile {
    /// Of the certificates.
    #[must_use]
    pub fn digest(&self) -> SpecHash {
        SpecHash::of_bytes(&self.certificates.concat())
    }
}

impl Proxy {
    /// Host and port, as a URL has them.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Without any login.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }

    /// What of it a sidecar is given, by the names that the manifest uses. Of a login it holds how it is come by.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.set("proxy.url", self.url());
        match &self.login {
            Login::None => {}
            Login::Written(_) => fields.set("proxy.login", "in the URL"),
            Login::Referred { name, from: None, .. } => fields.set("proxy.login", name.clone()),
            Login::Referred { from: Some(from), .. } => {
                fields.set("proxy.login", from.source.to_string());
            }
        }
        if !self.no_proxy.is_empty() {
            fields.set("proxy.no_proxy", self.no_proxy.join(", "));
        }
        if let Some(ca) = &self.ca {
            fields.set("proxy.ca", format!("sha256:{}", ca.digest()));
        }
        fields.set("proxy.resolve", self.resolve.as_str());
        fields
    }

    /// Why the sidecars of a backend cannot reach it, where that is known.
    #[must_use]
    pub fn unsuited(&self, backend: BackendKind) -> Option<String> {
        let local = match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        };
        (local && backend == BackendKind::Docker).then(|| {
            format!(
                "`proxy` of bottle.yaml is {}, which is the loopback of this machine: a sidecar on docker is in a \
                 container, and has one of its own; let the proxy listen on an address that containers reach, such \
                 as that of the bridge `docker0`, and name that",
                self.url()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Proxy {
        Proxy {
            host: host.into(),
            port: 3128,
            secure: false,
            login: Login::Written(Hidden::new("ada:correct-horse".into())),
            no_proxy: vec!["**.corp.example".into()],
            ca: None,
            resolve: Resolve::Here,
            place: Place::default(),
        }
    }

    #[test]
    fn a_login_is_nowhere_to_be_seen() {
        let proxy = at("proxy.corp.example");
        let fields = proxy.fields();
        for text in [format!("{proxy:?}"), format!("{fields:?}"), proxy.url()] {
            assert!(!text.contains("ada") && !text.contains("correct-horse"), "{text}");
        }
        assert_eq!(fields.0["proxy.url"], "http://proxy.corp.example:3128");
        assert_eq!(fields.0["proxy.login"], "in the URL");
        assert_eq!(at("2001:db8::1").url(), "http://[2001:db8::1]:3128");
    }

    #[test]
    fn the_loopback_of_the_host_is_no_containers() {
        for host in ["127.0.0.1", "127.8.0.1", "::1", "localhost", "proxy.localhost", "0.0.0.0"] {
            assert!(at(host).unsuited(BackendKind::Docker).is_some(), "{host}");
            assert!(at(host).unsuited(BackendKind::Native).is_none(), "{host}");
        }
        for host in ["172.17.0.1", "proxy", "2001:db8::1"] {
            assert!(at(host).unsuited(BackendKind::Docker).is_none(), "{host}");
        }
    }
}
