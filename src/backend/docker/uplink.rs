//! The uplink: one network of an owner's, by which all of its sidecars reach the world and none of
//! them another. It belongs to no sandbox, comes with the first sidecar and goes with the last.

use std::collections::HashMap;

use bollard::models::{Network, NetworkCreateRequest};

use super::engine::Engine;
use super::labels::{self, Labels};
use super::{carrier, error, network, observe};
use crate::backend::{BackendError, Scope, label};
use crate::model::{Leftover, Ownership, ResourceKind};

/// Containers on the bridge do not reach each other.
const ICC: &str = "com.docker.network.bridge.enable_icc";

/// What it is called. A dot cannot stand in an owner's name nor in a sandbox's.
pub(super) fn name(scope: &Scope) -> String {
    format!("bottle-{}.uplink", scope.owner)
}

/// The owner's uplink among these, whichever of its state folders made it.
pub(super) fn find<'a>(
    scope: &Scope,
    networks: &'a [Network],
) -> Result<Option<&'a Network>, BackendError> {
    let name = name(scope);
    let mut named: Vec<&Network> =
        networks.iter().filter(|found| found.name.as_deref() == Some(&name)).collect();
    named.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    let Some(first) = named.first() else { return Ok(None) };
    let isolates = first.options.as_ref().and_then(|options| options.get(ICC));
    let map = network::labels_of(first);
    let ours = Labels::of(&map).ownership(scope) != Ownership::Foreign;
    if ours && isolates.map(String::as_str) == Some("false") {
        Ok(Some(first))
    } else {
        Err(BackendError::Conflict { name })
    }
}

/// Sidecars that start side by side make it once: while there are two of its name, whoever starts by
/// that name is told that it is ambiguous. Other processes are kept off by the tree's lock.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Makes it where it is missing. Returns its id.
pub(super) async fn ready(engine: &Engine, scope: &Scope) -> Result<String, BackendError> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let id = |found: Option<&Network>| found.and_then(|found| found.id.clone());
    if let Some(id) = id(find(scope, &network::all(engine).await?)?) {
        return Ok(id);
    }
    let name = name(scope);
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        options: Some(HashMap::from([(ICC.to_owned(), "false".to_owned())])),
        labels: Some(labels::of_uplink(scope)),
        ..NetworkCreateRequest::default()
    };
    let made = match engine.client.create_network(request).await {
        Ok(made) => Some(made.id),
        Err(e) if error::is_status(&e, 409) => None,
        Err(e) => return Err(engine.failed(format!("creating network {name}"), e)),
    };
    // Engines allow two networks of one name: of two that were made side by side the earlier stays.
    let networks = network::all(engine).await?;
    let first = id(find(scope, &networks)?);
    if let Some(made) = made
        && first.as_ref() != Some(&made)
    {
        drop(engine.client.remove_network(&made).await);
    }
    first.ok_or_else(|| {
        BackendError::failed(
            format!("creating network {name}"),
            anyhow::anyhow!("it was gone right after it was made"),
        )
    })
}

/// Removes it when no sidecar of the owner is left, running or not.
pub(super) async fn tidy(engine: &Engine, scope: &Scope) -> Result<(), BackendError> {
    let owner = format!("{}={}", label::OWNER, scope.owner);
    let sidecar = format!("{}={}", label::RESOURCE, ResourceKind::Sidecar);
    if !observe::filtered(engine, "label", vec![owner, sidecar]).await?.is_empty() {
        return Ok(());
    }
    let networks = network::all(engine).await?;
    // What is not ours stays; whoever needs that name will say so.
    let Ok(Some(found)) = find(scope, &networks) else { return Ok(()) };
    let Some(id) = &found.id else { return Ok(()) };
    match engine.client.remove_network(id).await {
        Ok(()) => Ok(()),
        // A sidecar that was just made is on it by now.
        Err(e) if error::is_status(&e, 404) || error::words(&e).contains("active endpoints") => {
            Ok(())
        }
        Err(e) => Err(engine.failed(format!("removing network {}", name(scope)), e)),
    }
}

/// One that an interrupted run left, with no sidecar on it.
pub(super) fn leftover(scope: &Scope, networks: &[Network]) -> Option<Leftover> {
    let found = find(scope, networks).ok()??;
    let map = network::labels_of(found);
    let ours = Labels::of(&map).ownership(scope) == Ownership::Ours;
    ours.then(|| carrier::leftover(found.id.as_deref()?, &name(scope))).flatten()
}
