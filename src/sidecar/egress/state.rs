//! What a sidecar works by: one loaded document, whole, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::crypto::CryptoProvider;
use sha2::{Digest as _, Sha256};

use super::resolve::{Resolver, System};
use super::scan::{Scan, basic_users};
use super::upstream::{Upstreams, client_config};
use super::via::Proxy;
use crate::model::supervise::{Section, is_message};
use crate::sidecar::Host;
use crate::sidecar::ca::Ca;
use crate::sidecar::credential::check;
use crate::sidecar::document::{CaPart, Document, ProxyPart, Secret, VERSION};
use crate::sidecar::policy::Policy;

/// A document that was found to be in order, made ready.
pub(super) struct Loaded {
    pub(super) generation: u64,
    /// Of the policy, so that whoever delivered it sees which one holds.
    pub(super) digest: String,
    pub(super) policy: Policy,
    /// What a request at the path door may call the sidecar.
    pub(super) names: Vec<Host>,
    pub(super) forbidden: Vec<IpAddr>,
    pub(super) ca: Option<Arc<Ca>>,
    ca_part: Option<CaPart>,
    pub(super) scan: Scan,
    /// Where there is a door at which the agent asks.
    pub(super) supervise: Option<Section>,
    pub(super) credentials: BTreeMap<String, Secret>,
    /// Whom routes write into Basic credentials, each with the credential's name.
    users: BTreeSet<(String, String)>,
    pub(super) upstreams: Upstreams,
    #[cfg(any(test, feature = "testing"))]
    pub(super) testing: crate::sidecar::document::Testing,
}

impl Loaded {
    /// Checks all of a document before any of it holds.
    pub(super) fn new(
        text: &[u8],
        generation: u64,
        before: Option<&Self>,
        system: &System,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let document = parse(text)?;
        #[cfg(any(test, feature = "testing"))]
        if let Some(ahead) = document.testing.clock_ahead {
            crate::sidecar::clock::testing::set(ahead);
        }
        let policy = Policy::compile(&document.policy)?;
        for (name, value) in &document.credentials {
            check(name, value.reveal().as_bytes()).map_err(|error| error.to_string())?;
        }
        let names = document.names.iter().map(|name| door_name(name)).collect::<Result<_, _>>()?;
        let roots = document
            .roots
            .iter()
            .map(|root| BASE64_STANDARD.decode(root).map_err(|_| "`roots`: not base64".to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let more = document
            .more_roots
            .iter()
            .map(|root| {
                BASE64_STANDARD.decode(root).map_err(|_| "`more_roots`: not base64".to_owned())
            })
            .collect::<Result<Vec<_>, _>>()?;
        // A reload leaves the leaves that were signed.
        let same = before.filter(|before| match (&before.ca_part, &document.ca) {
            (Some(old), Some(new)) => old.certificate == new.certificate && old.key == new.key,
            _ => false,
        });
        let ca = match (same.and_then(|before| before.ca.clone()), &document.ca) {
            (Some(ca), _) => Some(ca),
            (None, Some(part)) => Some(Arc::new(Ca::load(part, &document.sandbox, provider)?)),
            (None, None) => None,
        };
        let users = basic_users(&document);
        let same_values = before
            .filter(|before| before.credentials == document.credentials && before.users == users);
        let same_values = same_values.map(|before| &before.scan);
        let resolver = Resolver::new(&document.resolver, document.hosts.as_deref(), system)?;
        let tls = client_config(&roots, &more, provider)?;
        let proxy = document.proxy.as_ref().map(|part| Proxy::new(part, &tls, patience(&document)));
        let proxy = proxy.transpose().map_err(|why| format!("`proxy`: {why}"))?;
        Ok(Self {
            generation,
            digest: digest(&document)?,
            names,
            ca,
            upstreams: Upstreams::new(resolver, tls, proxy, dial_route(&document)),
            scan: Scan::new(&document, same_values)?,
            policy,
            forbidden: document.forbidden.into_iter().chain(system.around.clone()).collect(),
            ca_part: document.ca,
            supervise: supervise(document.supervise)?,
            credentials: document.credentials,
            users,
            #[cfg(any(test, feature = "testing"))]
            testing: document.testing,
        })
    }
}

/// Reads a document. What a parser says about a wrong value would hold it, so only its place is
/// told.
fn parse(text: &[u8]) -> Result<Document, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| {
        format!(
            "the document cannot be read at line {}, column {}: a field is unknown, missing or of \
             the wrong type",
            error.line(),
            error.column()
        )
    })?;
    if document.version == VERSION {
        Ok(document)
    } else {
        Err(format!("`version` is {}: this sidecar reads {VERSION}", document.version))
    }
}

/// What a document says of requests, in order: an agent reads the operator's words as they are.
fn supervise(section: Option<Section>) -> Result<Option<Section>, String> {
    let Some(section) = section else { return Ok(None) };
    let messages = section.requests.iter().filter_map(|told| told.message.as_deref());
    match messages.into_iter().all(is_message) {
        true => Ok(Some(section)),
        false => {
            Err("`supervise`: a message is not one line of at most 500 plain characters".into())
        }
    }
}

fn door_name(name: &str) -> Result<Host, String> {
    // An IPv6 address is written without brackets in a list of names.
    let bare = name.parse::<IpAddr>().ok().map(Host::Ip);
    bare.map_or_else(|| Host::parse(name.as_bytes()), Ok)
        .map_err(|_| format!("`names`: `{name}` is neither a host name nor an address"))
}

/// The digest of a document's policy, and of its proxy without the login, in hex.
fn digest(document: &Document) -> Result<String, String> {
    let proxy = document.proxy.clone().map(|proxy| ProxyPart { login: None, ..proxy });
    let policy = serde_json::to_vec(&document.policy);
    let proxy = proxy.map(|proxy| serde_json::to_vec(&proxy)).transpose();
    let written = |error: serde_json::Error| format!("writing the policy: {error}");
    let text = [policy.map_err(written)?, proxy.map_err(written)?.unwrap_or_default()].concat();
    Ok(hex::encode(Sha256::digest(text)))
}

/// How long a proxy may take to answer.
#[cfg(not(any(test, feature = "testing")))]
fn patience(_document: &Document) -> Duration {
    super::limits::PROXY_ANSWER
}

#[cfg(any(test, feature = "testing"))]
fn patience(document: &Document) -> Duration {
    document.testing.proxy_ms.map_or(super::limits::PROXY_ANSWER, Duration::from_millis)
}

/// Where a checked address is dialled: there. Tests stand upstreams of their own behind it.
#[cfg(not(any(test, feature = "testing")))]
fn dial_route(_document: &Document) -> Box<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync> {
    Box::new(|address| address)
}

#[cfg(any(test, feature = "testing"))]
fn dial_route(document: &Document) -> Box<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync> {
    let routes = document.testing.dial.clone();
    Box::new(move |address| routes.get(&address).copied().unwrap_or(address))
}
