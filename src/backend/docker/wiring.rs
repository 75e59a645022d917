//! Which networks a container of ours is on, with which address, and making it so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use bollard::models::{
    ContainerSummary, EndpointIpamConfig, EndpointSettings, Network, NetworkConnectRequest,
    NetworkDisconnectRequest,
};

use super::engine::Engine;
use super::labels::Set;
use super::{NO_NETWORK, carrier, error, network, uplink};
use crate::backend::{BackendError, Scope};
use crate::model::access::SIDECAR_NAME;
use crate::model::gate::GATE_NAME;
use crate::model::{FieldChange, Instance, ResourceKind, SandboxId};

/// Where a container is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wiring {
    /// In the sandbox's own network, with this address; none: in no network at all.
    own: Option<(String, Ipv4Addr)>,
    /// By these names in there.
    aliases: &'static [&'static str],
    /// Of a sidecar: the networks that it alone is on.
    beside: Option<Beside>,
}

/// The networks that a sidecar is on beside the sandbox's own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beside {
    /// What carries the sandbox's own network: it has a carrier only while something is on it.
    carrier: String,
    /// The way out.
    uplink: String,
}

impl Wiring {
    /// Of a container that was made so. Nothing leads out of one of which that is not known.
    pub(super) fn of(
        scope: &Scope,
        resource: ResourceKind,
        sandbox: &SandboxId,
        set: Option<&Set>,
    ) -> Self {
        let own = set.and_then(|set| Some((scope.object_name(sandbox), set.address?)));
        let sidecar = resource == ResourceKind::Sidecar && own.is_some();
        Self {
            own,
            aliases: if sidecar { &[SIDECAR_NAME, GATE_NAME] } else { &[] },
            beside: sidecar.then(|| Beside {
                carrier: carrier::name(scope, sandbox),
                uplink: uplink::name(scope),
            }),
        }
    }

    /// Of an instance.
    pub(super) fn of_instance(scope: &Scope, instance: &Instance, set: Option<&Set>) -> Self {
        Self::of(scope, instance.resource, &instance.sandbox, set)
    }

    /// The network whose endpoint is new with each start, as that of every network is.
    pub(super) fn first(&self) -> &str {
        self.own.as_ref().map_or(NO_NETWORK, |(name, _)| name)
    }

    /// Whether it is in any network.
    pub(super) fn is_connected(&self) -> bool {
        self.own.is_some()
    }

    fn names(&self) -> BTreeSet<&str> {
        let own = [self.first()].into_iter();
        let beside = self.beside.iter().flat_map(|b| [b.carrier.as_str(), b.uplink.as_str()]);
        own.chain(beside).collect()
    }

    /// What differs from it, in the words of a listing.
    pub(super) fn drift(&self, found: &ContainerSummary, running: bool) -> Option<FieldChange> {
        let (wanted, names) = (self.names(), attached(found));
        // Engines differ in whether they list `none` of a container that does not run.
        let nowhere = names.is_empty() && !running && !self.is_connected();
        let change = |from: String, to: String| FieldChange {
            path: "networks".to_owned(),
            from: Some(from).filter(|from| !from.is_empty()),
            to: Some(to),
        };
        let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(" ");
        if names != wanted && !nowhere {
            return Some(change(list(&names), list(&wanted)));
        }
        let (name, address) = self.own.as_ref()?;
        let found = address_in(endpoint(found, name)?)?;
        (found != *address)
            .then(|| change(format!("{name} as {found}"), format!("{name} as {address}")))
    }

    /// Names of those of its networks that are others by now than those which it was attached to:
    /// somebody removed those while it was down.
    pub(super) fn stale(
        &self,
        scope: &Scope,
        found: &ContainerSummary,
        networks: &[Network],
    ) -> Vec<&str> {
        let was = |name: &str| {
            let id = endpoint(found, name)?.network_id.as_ref();
            id.filter(|id| !id.is_empty())
        };
        let now = self.ids(scope, networks);
        let mut names = self.names();
        names.retain(|name| was(name).is_some_and(|was| now.get(name) != Some(was)));
        names.into_iter().filter(|name| *name != NO_NETWORK).collect()
    }

    /// The ids of those of its networks that are there.
    fn ids(&self, scope: &Scope, networks: &[Network]) -> BTreeMap<&str, String> {
        let mut ids = BTreeMap::new();
        let mut put = |name, found: Option<&Network>| {
            ids.extend(found.and_then(|found| Some((name, found.id.clone()?))));
        };
        let Some((name, _)) = &self.own else { return ids };
        let own = network::find(scope, networks, name).map(|(own, _)| own);
        put(name.as_str(), own);
        if let Some(beside) = &self.beside {
            put(beside.carrier.as_str(), own.and_then(|own| carrier::of(networks, own)));
            put(beside.uplink.as_str(), uplink::find(scope, networks).ok().flatten());
        }
        ids
    }

    /// Its own network has another subnet by now, and what has its addresses by heart cannot follow.
    pub(super) fn moved(&self, scope: &Scope, networks: &[Network]) -> Option<FieldChange> {
        let (name, address) = self.own.as_ref()?;
        let (_, subnet) = network::find(scope, networks, name)?;
        let place = if self.beside.is_some() { subnet.sidecar() } else { subnet.machine() };
        (place != *address).then(|| FieldChange {
            path: "address".to_owned(),
            from: Some(address.to_string()),
            to: Some(place.to_string()),
        })
    }

    /// Detaches a container from what it should not be on, and attaches it to what it should.
    pub(super) async fn mend(
        &self,
        engine: &Engine,
        scope: &Scope,
        found: &ContainerSummary,
        shown: &str,
    ) -> Result<(), BackendError> {
        let container = found.id.clone().unwrap_or_default();
        if self.beside.is_some() {
            uplink::ready(engine, scope).await?;
        }
        let networks = match self.is_connected() {
            true => network::all(engine).await?,
            false => Vec::new(),
        };
        let (wanted, stale) = (self.names(), self.stale(scope, found, &networks));
        let elsewhere = self.own.as_ref().and_then(|(name, address)| {
            let at = address_in(endpoint(found, name)?)?;
            (at != *address).then_some(name.as_str())
        });
        let mut names = attached(found);
        let wrong = |name: &&str| {
            !wanted.contains(name) || stale.contains(name) || elsewhere == Some(*name)
        };
        for name in names.clone().into_iter().filter(wrong) {
            disconnect(engine, name, &container, shown).await?;
            names.remove(name);
        }
        let Some((name, address)) = &self.own else {
            if !names.contains(NO_NETWORK) {
                connect(engine, NO_NETWORK, &container, None, shown).await?;
            }
            return Ok(());
        };
        let ids = self.ids(scope, &networks);
        for wanted in wanted.into_iter().filter(|wanted| !names.contains(wanted)) {
            let id = ids.get(wanted).ok_or_else(|| missing(wanted))?;
            let place = (wanted == name).then(|| self.endpoint(*address));
            connect(engine, id, &container, place, shown).await?;
        }
        Ok(())
    }

    /// The networks that a container is made with: engines before 25 take no second one.
    pub(super) fn endpoints(&self) -> HashMap<String, EndpointSettings> {
        let own = self.own.iter();
        own.map(|(name, address)| (name.clone(), self.endpoint(*address))).collect()
    }

    /// The place in its own network.
    fn endpoint(&self, address: Ipv4Addr) -> EndpointSettings {
        EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            aliases: (!self.aliases.is_empty())
                .then(|| self.aliases.iter().map(|alias| (*alias).to_owned()).collect()),
            ..EndpointSettings::default()
        }
    }
}

/// A sandbox's network that is not there.
pub(super) fn missing(name: &str) -> BackendError {
    BackendError::NotRunning { name: format!("network {name}"), state: "gone".to_owned() }
}

fn endpoint<'a>(found: &'a ContainerSummary, name: &str) -> Option<&'a EndpointSettings> {
    found.network_settings.as_ref()?.networks.as_ref()?.get(name)
}

/// The address that it was asked to have, which one that is down has too; else that which it has.
fn address_in(endpoint: &EndpointSettings) -> Option<Ipv4Addr> {
    let asked = endpoint.ipam_config.as_ref().and_then(|ipam| ipam.ipv4_address.as_ref());
    let has = endpoint.ip_address.as_ref();
    has.filter(|text| !text.is_empty()).or(asked)?.parse().ok()
}

/// The names of the networks that it is attached to.
pub(super) fn attached(found: &ContainerSummary) -> BTreeSet<&str> {
    let settings = found.network_settings.iter();
    let networks = settings.filter_map(|settings| settings.networks.as_ref());
    networks.flat_map(|networks| networks.keys().map(String::as_str)).collect()
}

async fn disconnect(
    engine: &Engine,
    network: &str,
    container: &str,
    shown: &str,
) -> Result<(), BackendError> {
    let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
    match engine.client.disconnect_network(network, request).await {
        Ok(()) => Ok(()),
        // Somebody was faster, or the network is gone with all that hung on it.
        Err(e) if error::is_status(&e, 404) => Ok(()),
        Err(e) if error::words(&e).contains("is not connected") => Ok(()),
        Err(e) => Err(engine.failed(format!("detaching {shown} from network {network}"), e)),
    }
}

async fn connect(
    engine: &Engine,
    network: &str,
    container: &str,
    endpoint_config: Option<EndpointSettings>,
    shown: &str,
) -> Result<(), BackendError> {
    let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config };
    match engine.client.connect_network(network, request).await {
        Ok(()) => Ok(()),
        Err(e) if error::words(&e).contains("already exists in network") => Ok(()),
        Err(e) => Err(engine.failed(format!("attaching {shown} to a network"), e)),
    }
}
