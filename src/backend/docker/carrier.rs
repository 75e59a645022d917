//! What carries a sandbox's network: an empty bridge.
//!
//! A machine on a bridge itself can always reach the host: without an address, a route or a capability,
//! by a broadcast or a multicast packet, which the host's own stack takes from any bridge. So it is on
//! a macvlan above one: what it sends goes to its neighbours above and out through the bridge's ports,
//! and never up into the host. The bridge has one port, the sidecar's, for without any it would have
//! no carrier, and nothing above it would be sent.

use std::collections::HashMap;

use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};

use super::engine::Engine;
use super::labels::{self, Labels};
use super::network;
use super::subnet::Subnet;
use crate::backend::{BackendError, Scope};
use crate::model::{BackendKind, InstanceId, Leftover, LeftoverKind, Ownership, SandboxId};

/// The bridge has no address on the host.
const NO_ADDRESS: &str = "com.docker.network.bridge.inhibit_ipv4";

/// What newer engines call the same.
const GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";

/// How the id of a network begins as that of a leftover: the others are of containers.
const LEFTOVER: &str = "network:";

/// What it is called. A dot cannot stand in a sandbox's name.
pub(super) fn name(scope: &Scope, sandbox: &SandboxId) -> String {
    format!("{}.carrier", scope.object_name(sandbox))
}

/// The network device of a bridge, as the engine names it.
pub(super) fn device(id: &str) -> String {
    format!("br-{}", id.get(..12).unwrap_or(id))
}

/// What the driver of a sandbox's network says that it stands on.
pub(super) fn under(inner: &Network) -> Option<&String> {
    inner.options.as_ref()?.get(network::PARENT)
}

/// What carries this network.
pub(super) fn of<'a>(networks: &'a [Network], inner: &Network) -> Option<&'a Network> {
    let device_under = under(inner)?;
    networks.iter().find(|found| {
        found.id.as_deref().is_some_and(|id| device(id) == *device_under)
            && found.driver.as_deref() == Some("bridge")
    })
}

/// It has no address on the host, and nothing is routed to it.
pub(super) fn is_sound(found: &Network) -> bool {
    let option = |name: &str| found.options.as_ref().and_then(|options| options.get(name));
    found.internal == Some(true)
        && found.enable_ipv6 != Some(true)
        && option(NO_ADDRESS).map(String::as_str) == Some("true")
}

/// What the engine is asked for.
pub(super) fn request(scope: &Scope, sandbox: &SandboxId, subnet: Subnet) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: name(scope, sandbox),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        attachable: Some(false),
        enable_ipv6: Some(false),
        options: Some(HashMap::from([
            (NO_ADDRESS.to_owned(), "true".to_owned()),
            (GATEWAY_MODE.to_owned(), "isolated".to_owned()),
        ])),
        ipam: Some(ipam(subnet)),
        labels: Some(labels::of_carrier(scope, sandbox)),
        ..NetworkCreateRequest::default()
    }
}

/// Addresses of this subnet and of no other.
pub(super) fn ipam(subnet: Subnet) -> Ipam {
    let config = IpamConfig { subnet: Some(subnet.to_string()), ..IpamConfig::default() };
    Ipam { driver: Some("default".to_owned()), config: Some(vec![config]), options: None }
}

/// Those that an interrupted run left: nothing stands on them.
pub(super) fn leftovers(scope: &Scope, networks: &[Network]) -> Vec<Leftover> {
    networks
        .iter()
        .filter(|found| is_unused(scope, networks, found))
        .filter_map(|found| leftover(found.id.as_ref()?, found.name.as_ref()?))
        .collect()
}

/// A network as a leftover.
pub(super) fn leftover(id: &str, name: &str) -> Option<Leftover> {
    (!id.is_empty()).then(|| Leftover {
        backend: BackendKind::Docker,
        kind: LeftoverKind::Scratch,
        id: InstanceId(format!("{LEFTOVER}{id}")),
        name: name.to_owned(),
        digest: None,
    })
}

/// The id of the network that is left over, where it is one.
pub(super) fn left(leftover: &Leftover) -> Option<&str> {
    leftover.id.0.strip_prefix(LEFTOVER)
}

/// What stands under the name of this sandbox's carrier, is ours, and carries nothing.
pub(super) fn unused<'a>(
    scope: &Scope,
    sandbox: &SandboxId,
    networks: &'a [Network],
) -> Option<&'a Network> {
    let name = name(scope, sandbox);
    networks
        .iter()
        .find(|found| found.name.as_ref() == Some(&name) && is_unused(scope, networks, found))
}

/// A carrier of this scope's own.
pub(super) fn is_own(scope: &Scope, found: &Network) -> bool {
    let map = network::labels_of(found);
    let labels = Labels::of(&map);
    labels.resource() == Some(labels::CARRIER) && labels.ownership(scope) == Ownership::Ours
}

/// A carrier of this scope's own that carries nothing.
fn is_unused(scope: &Scope, networks: &[Network], found: &Network) -> bool {
    is_own(scope, found)
        && found.id.as_deref().is_some_and(|id| {
            let device = device(id);
            !networks.iter().any(|above| under(above) == Some(&device))
        })
}

/// Removes one that carries nothing; carries something by now, or is gone ⇒ `Ok`.
pub(super) async fn prune(engine: &Engine, scope: &Scope, id: &str) -> Result<(), BackendError> {
    let networks = network::all(engine).await?;
    let found = networks.iter().find(|found| found.id.as_deref() == Some(id));
    match found.filter(|found| is_unused(scope, &networks, found)) {
        Some(found) => network::delete(engine, id, found.name.as_deref().unwrap_or(id)).await,
        None => Ok(()),
    }
}

/// Removes that of a sandbox whose sidecar is gone, if it carries nothing.
pub(super) async fn tidy(
    engine: &Engine,
    scope: &Scope,
    sandbox: &SandboxId,
) -> Result<(), BackendError> {
    let networks = network::all(engine).await?;
    match unused(scope, sandbox, &networks).and_then(|found| found.id.clone()) {
        Some(id) => prune(engine, scope, &id).await,
        None => Ok(()),
    }
}
