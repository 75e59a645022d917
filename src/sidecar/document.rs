//! What a sidecar is told: one JSON document, sent whole at every load.
//!
//! It holds the only secrets that a sidecar ever sees, so nothing of it is printed: `Secret` has no
//! text of its own in `Debug`, and is wiped when it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::part::PolicyPart;
use crate::model::supervise::Section;

/// The one version of the document that this program writes and reads.
pub const VERSION: u32 = 1;

/// Everything that a sidecar works by.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The sandbox whose only way out it is; only for the log and the CA's name.
    pub sandbox: String,
    /// What may pass; no secret is in it.
    pub policy: PolicyPart,
    /// The names, and addresses, under which the machine reaches the sidecar's own door: what a
    /// request to `/<path>/` may say in `Host`.
    #[serde(default)]
    pub names: Vec<String>,
    /// Addresses that no exception opens: the sidecar's own, and the gateways around it.
    #[serde(default)]
    pub forbidden: Vec<IpAddr>,
    /// The sandbox's own certificate authority; without it nothing inside TLS is reachable.
    #[serde(default)]
    pub ca: Option<CaPart>,
    /// Certificates, in DER and base64, which upstreams are verified against; none: the web's own
    /// roots.
    #[serde(default)]
    pub roots: Vec<String>,
    /// More of them, which are trusted whatever `roots` holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_roots: Vec<String>,
    /// By which proxy upstreams are reached; none: they are dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyPart>,
    /// Each credential's value by its name. A route whose credential is not here answers 503.
    #[serde(default)]
    pub credentials: BTreeMap<String, Secret>,
    /// The name servers to ask; none: those of the system.
    #[serde(default)]
    pub resolver: Vec<SocketAddr>,
    /// What the host's `/etc/hosts` says; none: what the sidecar read itself when it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
    /// What of requests it may take, and what became of those that were made; none: the agent cannot ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervise: Option<Section>,
    /// What only tests may ask for.
    #[cfg(any(test, feature = "testing"))]
    #[serde(default)]
    pub testing: Testing,
}

/// A sandbox's certificate authority.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaPart {
    /// In PEM; what the machine trusts.
    pub certificate: String,
    /// In PEM, PKCS #8.
    pub key: Secret,
}

/// The proxy by which upstreams are reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyPart {
    /// Its name, or its address; IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// It is spoken to over TLS.
    #[serde(default)]
    pub secure: bool,
    /// `user:password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Secret>,
    /// What is dialled all the same: `host`, `*.host`, `**.host`, or a network in CIDR notation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
    /// It is asked for names, and resolves them; else for addresses that were checked here.
    #[serde(default)]
    pub by_name: bool,
}

/// Switches for tests, which no release knows.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Testing {
    /// Where a connection to a checked address really goes, so that an upstream on loopback can stand
    /// for one of the internet's without any check being lifted.
    #[serde(default)]
    pub dial: BTreeMap<SocketAddr, SocketAddr>,
    /// How long an upstream may take to answer, in milliseconds.
    #[serde(default)]
    pub response_head_ms: Option<u64>,
    /// How long a proxy may take to answer, in milliseconds.
    #[serde(default)]
    pub proxy_ms: Option<u64>,
    /// A request for this path panics.
    #[serde(default)]
    pub panic_path: Option<String>,
    /// How long a call waits for the operator, in milliseconds.
    #[serde(default)]
    pub wait_ms: Option<u64>,
    /// How often it is told so meanwhile, in milliseconds.
    #[serde(default)]
    pub beat_ms: Option<u64>,
    /// By how many seconds the sidecar's clock is ahead.
    #[serde(default)]
    pub clock_ahead: Option<u64>,
}

/// A value that is never shown, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `value`.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, for the one place that has to use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"version":1,"sandbox":"dev","policy":{
        "allow":[{"host":"*.example.com","port":443}],"dlp":{"action":"block"},
        "routes":[{"path":"/gh/","host":"api.example.com","port":443,"auth_scheme":"token",
                   "credential":"GH_TOKEN"}]},
        "credentials":{"GH_TOKEN":"correct-horse"}}"#;

    #[test]
    fn it_survives_the_way_there() {
        let document: Document = serde_json::from_str(SMALL).unwrap();
        let again: Document =
            serde_json::from_slice(&serde_json::to_vec(&document).unwrap()).unwrap();
        assert_eq!(again.policy, document.policy);
        assert_eq!(again.credentials["GH_TOKEN"].reveal(), "correct-horse");
    }

    #[test]
    fn what_is_printed_holds_no_value() {
        let document: Document = serde_json::from_str(SMALL).unwrap();
        assert!(!format!("{document:?}").contains("correct-horse"));
    }

    #[test]
    fn an_unknown_field_is_refused_at_every_depth() {
        for (known, with) in [
            (r#""version":1"#, r#""version":1,"allow_all":true"#),
            (r#""port":443}"#, r#""port":443,"tls":"skip"}"#),
            (r#""credential":"GH_TOKEN""#, r#""credential":"GH_TOKEN","value":"x""#),
        ] {
            let text = SMALL.replacen(known, with, 1);
            assert_ne!(text, SMALL);
            assert!(serde_json::from_str::<Document>(&text).is_err(), "{with}");
        }
    }
}
