//! The network of one sandbox: nothing but its sidecar and its machine is on it, and nothing leads out
//! of it: no gateway, no route, no address of the host's, and no bridge that the host listens on
//! ([`carrier`]).

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bollard::models::{Network, NetworkCreateRequest, NetworkDisconnectRequest};
use bollard::query_parameters::{InspectContainerOptions, InspectNetworkOptions};

use super::engine::Engine;
use super::labels::{self, Labels, Set};
use super::subnet::{Pool, Subnet};
use super::{carrier, error, observe, parse, wiring};
use crate::backend::{BackendError, Scope, label};
use crate::model::spec::{NetworkSpec, ResourceSpec};
use crate::model::{
    BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Ownership, ResourceKind,
    SandboxId,
};

/// Of a macvlan: what it stands on.
pub(super) const PARENT: &str = "parent";

/// Blocks that are tried before it is said that none is to be had: others make networks too.
const TRIES: usize = 32;

/// Every network of the engine, in one call: those of others say which subnets and names are taken.
pub(super) async fn all(engine: &Engine) -> Result<Vec<Network>, BackendError> {
    let listed = engine.client.list_networks(None).await;
    listed.map_err(|e| engine.failed("listing networks", e))
}

/// The labels of a network that was found, as they are read.
pub(super) fn labels_of(found: &Network) -> HashMap<String, String> {
    found.labels.clone().unwrap_or_default()
}

/// The subnets that a network takes.
fn subnets(found: &Network) -> impl Iterator<Item = Subnet> {
    let configs = found.ipam.iter().filter_map(|ipam| ipam.config.as_ref()).flatten();
    configs.filter_map(|config| config.subnet.as_ref()?.parse().ok())
}

/// The network of this sandbox that is ours and whole, and its subnet, as containers are attached to it.
pub(super) fn find<'a>(
    scope: &Scope,
    networks: &'a [Network],
    name: &str,
) -> Option<(&'a Network, Subnet)> {
    let ours = networks.iter().filter(|found| found.name.as_deref() == Some(name));
    let mut ours = ours.filter(|found| {
        Labels::of(&labels_of(found)).ownership(scope) == Ownership::Ours
            && found.id.is_some()
            && drift(networks, found).is_empty()
    });
    ours.find_map(|found| Some((found, subnets(found).find(|subnet| subnet.fits())?)))
}

/// The subnet of a sandbox's network, which has to be there.
pub(super) async fn subnet(
    engine: &Engine,
    scope: &Scope,
    sandbox: &SandboxId,
) -> Result<Subnet, BackendError> {
    let name = scope.object_name(sandbox);
    let networks = all(engine).await?;
    let found = find(scope, &networks, &name);
    found.map(|(_, subnet)| subnet).ok_or_else(|| wiring::missing(&name))
}

/// A network of a sandbox, or one that stands under the name of one; `None`: nothing to us.
pub(super) fn instance(scope: &Scope, networks: &[Network], found: &Network) -> Option<Instance> {
    let (id, name) = (InstanceId(found.id.clone()?), found.name.clone()?);
    let map = labels_of(found);
    let labels = Labels::of(&map);
    let ownership = labels.ownership(scope);
    let ours = ownership != Ownership::Foreign;
    let standing = parse::sandbox_of_name(scope, &name);
    let standing = standing.filter(|(_, kind)| *kind == ResourceKind::Machine);
    let standing = standing.map(|(sandbox, _)| sandbox);
    let sandbox = if ours {
        let network = labels.resource() == Some(ResourceKind::Network.as_str());
        // One that does not say so any more stands under the name that it had.
        labels.sandbox().filter(|_| network).or(standing.filter(|_| labels.unreadable().is_some()))
    } else {
        standing
    };
    let fields = labels.fields();
    let unknown = labels.unreadable().filter(|_| ownership == Ownership::Ours);
    // There is nothing to start.
    let state = unknown.map_or(InstanceState::Running, |why| {
        InstanceState::Unknown(format!("network {name}: {why}"))
    });
    Some(Instance {
        id,
        backend: BackendKind::Docker,
        resource: ResourceKind::Network,
        sandbox: sandbox?,
        place: None,
        name,
        hash: labels.hash().filter(|_| ours),
        fields: if ours { fields } else { Fields::default() },
        state,
        boot: None,
        drift: Vec::new(),
        // It is made anew in its place, and what was on it is attached again.
        mendable: if ours { drift(networks, found) } else { Vec::new() },
        notes: Vec::new(),
        image: None,
        created: None,
        overlay: None,
        ownership,
    })
}

/// What the walls stand on, of a network that somebody may have made by hand.
fn drift(networks: &[Network], found: &Network) -> Vec<FieldChange> {
    let flag = |flag: Option<bool>| flag.unwrap_or(false).to_string();
    let carried = match carrier::of(networks, found) {
        Some(bridge) if carrier::is_sound(bridge) => "an empty bridge",
        Some(_) => "a bridge that the host is on",
        None => "nothing",
    };
    let fits = if subnets(found).any(Subnet::fits) { "ipv4" } else { "too small" };
    [
        ("driver", found.driver.clone().unwrap_or_default(), "macvlan"),
        ("internal", flag(found.internal), "true"),
        ("ipv6", flag(found.enable_ipv6), "false"),
        ("carrier", carried.to_owned(), "an empty bridge"),
        ("subnet", fits.to_owned(), "ipv4"),
    ]
    .into_iter()
    .filter(|(_, from, to)| from != to)
    .map(|(path, from, to)| FieldChange {
        path: path.to_owned(),
        from: Some(from),
        to: Some(to.to_owned()),
    })
    .collect()
}

fn request(
    scope: &Scope,
    spec: &NetworkSpec,
    subnet: Subnet,
    carrier: &str,
) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: scope.object_name(&spec.sandbox),
        driver: Some("macvlan".to_owned()),
        internal: Some(true),
        attachable: Some(false),
        enable_ipv6: Some(false),
        options: Some(HashMap::from([(PARENT.to_owned(), carrier::device(carrier))])),
        ipam: Some(carrier::ipam(subnet)),
        labels: Some(labels::of_resource(scope, &ResourceSpec::Network(spec.clone()))),
        ..NetworkCreateRequest::default()
    }
}

/// Makes the network in a free block of addresses, or finds the one that is there already.
pub(super) async fn create(
    engine: &Engine,
    scope: &Scope,
    spec: &NetworkSpec,
) -> Result<Instance, BackendError> {
    let mut ours = None;
    let made = make_one(engine, scope, spec, &mut ours).await;
    // What this run has made to stand on, and does not. Another run may: then it stays.
    if let Some(id) = ours
        && let Err(error) = carrier::prune(engine, scope, &id).await
    {
        tracing::warn!(network = id, %error, "cannot remove a bridge that carries nothing");
    }
    made
}

/// `ours` is the carrier that was made here and that nothing of this run stands on.
async fn make_one(
    engine: &Engine,
    scope: &Scope,
    spec: &NetworkSpec,
    ours: &mut Option<String>,
) -> Result<Instance, BackendError> {
    let pool = Pool::of(spec.pool.as_deref()).map_err(BackendError::Unsupported)?;
    let name = scope.object_name(&spec.sandbox);
    // Anywhere: runs that make networks side by side should not all begin with the same block.
    let start = RandomState::new().hash_one(&name);
    let known = known(engine, scope, spec).await?;
    let mut tried = Vec::new();
    // In which words a name was refused.
    let mut refused = String::new();
    for _ in 0..TRIES {
        let networks = all(engine).await?;
        if let Some(found) = networks.iter().find(|found| found.name.as_deref() == Some(&name)) {
            return existing(scope, spec, &networks, found);
        }
        let mut taken: Vec<Subnet> = networks.iter().flat_map(subnets).collect();
        taken.extend(&tried);
        let known = known.filter(|known| !taken.iter().any(|other| other.overlaps(*known)));
        // What carried a network that was removed, or is to carry one that another run is making.
        let left = carrier::unused(scope, &spec.sandbox, &networks);
        let left = left.and_then(|found| Some((found.id.clone()?, standing(found, &taken)?)));
        let (carrier, block) = match left {
            Some((id, block)) => (id, block),
            None => {
                let Some(block) = known.or_else(|| pool.free(start, &taken)) else {
                    return Err(BackendError::Unsupported(format!(
                        "every address of {pool} is taken: name a larger `network_pool`"
                    )));
                };
                // One of this name that cannot be used is in the way of engines from 25 on.
                if let Some(found) = carrier::unused(scope, &spec.sandbox, &networks)
                    && let Some(id) = &found.id
                {
                    carrier::prune(engine, scope, id).await?;
                }
                let below = carrier::request(scope, &spec.sandbox, block.carrier());
                match make(engine, below, &name).await? {
                    Made::Id(id) => {
                        *ours = Some(id.clone());
                        (id, block)
                    }
                    Made::Addresses => {
                        tried.push(block);
                        continue;
                    }
                    Made::Name(words) => {
                        refused = words;
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
            }
        };
        // One that was made here stays for now: another run may have begun to build on it.
        match make(engine, request(scope, spec, block.inner(), &carrier), &name).await {
            Ok(Made::Id(made)) => {
                let (settled, won) = settled(engine, scope, spec, &made).await?;
                if won && ours.as_ref() == Some(&carrier) {
                    *ours = None;
                }
                return Ok(settled);
            }
            Ok(Made::Name(words)) => {
                refused = words;
                tokio::time::sleep(AGAIN).await;
            }
            Ok(Made::Addresses) => {
                tried.push(block.inner());
                // Whoever has them may be making this very network: the next listing shows it.
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => {
                let networks = all(engine).await?;
                if networks.iter().any(|found| found.id.as_ref() == Some(&carrier)) {
                    return Err(error);
                }
                // Another run, whose it was, has taken it away.
            }
        }
    }
    let why = match refused.as_str() {
        "" => format!("the engine refused {TRIES} blocks of {pool}: others take them too fast"),
        words => format!("the engine refuses its name: {words}"),
    };
    Err(BackendError::failed(format!("creating network {name}"), anyhow::anyhow!(why)))
}

/// The block of whose halves this carrier has its own, where the other is free.
fn standing(carrier: &Network, taken: &[Subnet]) -> Option<Subnet> {
    let own = subnets(carrier).next().filter(|_| carrier::is_sound(carrier))?;
    let block = Subnet::around(own.sidecar());
    let free = !taken.iter().any(|other| *other != own && other.overlaps(block));
    (block.carrier() == own && free).then_some(block)
}

/// How long a name is waited for that another run may be about to give up, or to have used.
const AGAIN: Duration = Duration::from_millis(100);

/// What came of a request for a network.
enum Made {
    /// The id of the new one.
    Id(String),
    /// Somebody was faster and has its addresses. Who, the next listing shows.
    Addresses,
    /// Something has its name, in the engine's words: engines from 25 on allow no two of one name.
    Name(String),
}

async fn make(
    engine: &Engine,
    request: NetworkCreateRequest,
    name: &str,
) -> Result<Made, BackendError> {
    match engine.client.create_network(request).await {
        Ok(made) => Ok(Made::Id(made.id)),
        Err(e) if error::words(&e).contains("already exists") => Ok(Made::Name(error::words(&e))),
        Err(e) if error::words(&e).contains("overlap") || error::is_status(&e, 409) => {
            Ok(Made::Addresses)
        }
        Err(e) => Err(engine.failed(format!("creating network {name}"), e)),
    }
}

/// The subnet that parts of the sandbox have by heart: they outlived their network.
async fn known(
    engine: &Engine,
    scope: &Scope,
    spec: &NetworkSpec,
) -> Result<Option<Subnet>, BackendError> {
    let labels = vec![
        format!("{}={}", label::OWNER, scope.owner),
        format!("{}={}", label::SANDBOX, spec.sandbox),
    ];
    let parts = observe::filtered(engine, "label", labels).await?;
    let addresses = parts.iter().filter_map(|part| {
        let labels = Labels::of(part.labels.as_ref()?);
        (labels.ownership(scope) == Ownership::Ours).then(|| labels.set::<Set>()?.address).flatten()
    });
    Ok(addresses.map(Subnet::around).next())
}

/// Engines allow two networks of one name. Of two that were made side by side the earlier one stays;
/// says whether that is the one that was made here.
async fn settled(
    engine: &Engine,
    scope: &Scope,
    spec: &NetworkSpec,
    made: &str,
) -> Result<(Instance, bool), BackendError> {
    let networks = all(engine).await?;
    let name = scope.object_name(&spec.sandbox);
    let mut named: Vec<&Network> =
        networks.iter().filter(|found| found.name.as_deref() == Some(&name)).collect();
    named.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    let first = named.first().ok_or_else(|| {
        BackendError::failed(
            format!("creating network {name}"),
            anyhow::anyhow!("it was gone right after it was made"),
        )
    })?;
    let won = first.id.as_deref() == Some(made);
    if !won {
        drop(engine.client.remove_network(made).await);
    }
    Ok((existing(scope, spec, &networks, first)?, won))
}

/// What stands under our name already: the very thing that was asked for, or an error.
fn existing(
    scope: &Scope,
    spec: &NetworkSpec,
    networks: &[Network],
    found: &Network,
) -> Result<Instance, BackendError> {
    let name = scope.object_name(&spec.sandbox);
    match instance(scope, networks, found) {
        Some(found) if found.ownership == Ownership::Ours => {
            if found.hash == Some(spec.hash()) {
                Ok(found)
            } else {
                Err(BackendError::failed(
                    format!("creating network {name}"),
                    anyhow::anyhow!("it is there already, made from another spec: remove it first"),
                ))
            }
        }
        _ => Err(BackendError::Conflict { name }),
    }
}

/// Makes one anew that has lost what its walls stand on, in the block of addresses that its sandbox has by heart. What
/// was on it is taken off, and is mended by itself.
pub(super) async fn remake(
    engine: &Engine,
    scope: &Scope,
    network: &Instance,
) -> Result<(), BackendError> {
    let networks = all(engine).await?;
    if let Some(found) = own(scope, &networks, network)? {
        if drift(&networks, found).is_empty() {
            return Ok(());
        }
        empty(engine, &network.id.0, &network.name).await?;
        delete(engine, &network.id.0, &network.name).await?;
        // Somebody may have put it on a bridge of his own.
        let carrier = carrier::of(&networks, found)
            .filter(|below| carrier::is_own(scope, below) && !carrier::is_sound(below));
        if let Some(id) = carrier.and_then(|carrier| carrier.id.as_ref()) {
            empty(engine, id, &network.name).await?;
            carrier::prune(engine, scope, id).await?;
        }
    }
    let fields = network.fields.clone();
    let spec = NetworkSpec { sandbox: network.sandbox.clone(), fields, pool: None };
    create(engine, scope, &spec).await.map(drop)
}

/// This network among those of the engine; `None`: it is gone.
fn own<'a>(
    scope: &Scope,
    networks: &'a [Network],
    network: &Instance,
) -> Result<Option<&'a Network>, BackendError> {
    let found = networks.iter().find(|found| found.id.as_ref() == Some(&network.id.0));
    match found.map(|found| Labels::of(&labels_of(found)).ownership(scope)) {
        Some(Ownership::Ours) | None => Ok(found),
        Some(_) => Err(BackendError::Conflict { name: network.name.clone() }),
    }
}

/// Takes everything off a network.
async fn empty(engine: &Engine, id: &str, name: &str) -> Result<(), BackendError> {
    for (container, shown) in attached(engine, id, name).await? {
        let request = NetworkDisconnectRequest { container, force: Some(true) };
        match engine.client.disconnect_network(id, request).await {
            Ok(()) => {}
            Err(e) if error::is_status(&e, 404) => {}
            Err(e) => return Err(engine.failed(format!("taking {shown} off {name}"), e)),
        }
    }
    Ok(())
}

/// Removes a network that is certain to be this scope's own; already gone ⇒ `Ok`.
pub(super) async fn remove(
    engine: &Engine,
    scope: &Scope,
    network: &Instance,
) -> Result<(), BackendError> {
    let networks = all(engine).await?;
    let Some(found) = own(scope, &networks, network)? else { return Ok(()) };
    // Ours by its own labels, and not because something of ours stands on it.
    let carrier = carrier::of(&networks, found).and_then(|carrier| carrier.id.clone());
    delete(engine, &network.id.0, &network.name).await?;
    match carrier {
        Some(carrier) => carrier::prune(engine, scope, &carrier).await,
        None => Ok(()),
    }
}

/// Removes a network on which nothing is left but what the engine has forgotten to take off.
pub(super) async fn delete(engine: &Engine, id: &str, name: &str) -> Result<(), BackendError> {
    let what = || format!("removing network {name}");
    match engine.client.remove_network(id).await {
        Ok(()) => return Ok(()),
        Err(e) if error::is_status(&e, 404) => return Ok(()),
        Err(e) if !error::words(&e).contains("active endpoints") => {
            return Err(engine.failed(what(), e));
        }
        Err(_) => {}
    }
    let users = attached(engine, id, name).await?;
    let mut living = BTreeSet::new();
    for (container, shown) in &users {
        let looked =
            engine.client.inspect_container(container, None::<InspectContainerOptions>).await;
        match looked {
            Ok(_) => {
                living.insert(shown.clone());
            }
            Err(e) if error::is_status(&e, 404) => {
                let container = shown.clone();
                let request = NetworkDisconnectRequest { container, force: Some(true) };
                // Whether it worked shows when the network is removed.
                drop(engine.client.disconnect_network(id, request).await);
            }
            Err(e) => return Err(engine.failed(what(), e)),
        }
    }
    if !living.is_empty() {
        let living: Vec<String> = living.into_iter().collect();
        return Err(BackendError::failed(
            what(),
            anyhow::anyhow!("{} is still on it: disconnect or remove it", living.join(", ")),
        ));
    }
    match engine.client.remove_network(id).await {
        Ok(()) => Ok(()),
        Err(e) if error::is_status(&e, 404) => Ok(()),
        Err(e) => Err(engine.failed(what(), e)),
    }
}

/// The containers on a network, by id and name.
async fn attached(
    engine: &Engine,
    id: &str,
    name: &str,
) -> Result<Vec<(String, String)>, BackendError> {
    match engine.client.inspect_network(id, None::<InspectNetworkOptions>).await {
        Ok(found) => {
            let on = found.containers.unwrap_or_default().into_iter();
            Ok(on.map(|(id, end)| (id.clone(), end.name.unwrap_or(id))).collect())
        }
        Err(e) if error::is_status(&e, 404) => Ok(Vec::new()),
        Err(e) => Err(engine.failed(format!("inspecting network {name}"), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::tests::scope;
    use super::*;

    fn spec() -> NetworkSpec {
        NetworkSpec { sandbox: "ada".parse().unwrap(), fields: Fields::default(), pool: None }
    }

    /// What an engine would list of a request.
    fn listed(id: &str, request: NetworkCreateRequest) -> Network {
        Network {
            id: Some(id.into()),
            name: Some(request.name),
            driver: request.driver,
            internal: request.internal,
            enable_ipv6: request.enable_ipv6,
            options: request.options,
            ipam: request.ipam,
            labels: request.labels,
            ..Network::default()
        }
    }

    const BELOW: &str = "0123456789abcdef";

    /// A network, and what carries it.
    fn ada() -> [Network; 2] {
        let block: Subnet = "198.18.7.16/28".parse().unwrap();
        let carrier = carrier::request(&scope(), &spec().sandbox, block.carrier());
        [listed("n1", request(&scope(), &spec(), block.inner(), BELOW)), listed(BELOW, carrier)]
    }

    #[test]
    fn a_network_of_ours_is_read_as_it_was_made() {
        let networks = ada();
        let found = instance(&scope(), &networks, &networks[0]).unwrap();
        assert_eq!((found.name.as_str(), found.sandbox.as_str()), ("bottle-team-ada", "ada"));
        assert_eq!((found.resource, found.ownership), (ResourceKind::Network, Ownership::Ours));
        assert_eq!((found.hash, found.state), (Some(spec().hash()), InstanceState::Running));
        assert_eq!((found.drift, found.mendable), (vec![], vec![]));
        let (_, subnet) = find(&scope(), &networks, "bottle-team-ada").unwrap();
        assert_eq!(subnet.to_string(), "198.18.7.16/29");
        assert_eq!(carrier::of(&networks, &networks[0]), Some(&networks[1]));
        assert!(instance(&scope(), &networks, &networks[1]).is_none(), "it is a detail");
        assert_eq!(carrier::leftovers(&scope(), &networks), []);
        let alone = &networks[1..];
        assert_eq!(carrier::leftovers(&scope(), alone)[0].id.0, format!("network:{BELOW}"));
    }

    #[test]
    fn a_network_with_our_labels_and_without_its_walls_is_seen_through() {
        for (breach, path) in [
            (
                (|n: &mut [Network; 2]| n[0].internal = Some(false)) as fn(&mut [Network; 2]),
                "internal",
            ),
            (|n| n[0].enable_ipv6 = Some(true), "ipv6"),
            (|n| n[0].options = None, "carrier"),
            (|n| n[1].id = Some("another".into()), "carrier"),
            (|n| n[1].options = None, "carrier"),
            (|n| n[1].internal = Some(false), "carrier"),
            (|n| n[0].driver = Some("bridge".into()), "driver"),
            (|n| n[0].ipam = None, "subnet"),
        ] {
            let mut networks = ada();
            breach(&mut networks);
            let found = instance(&scope(), &networks, &networks[0]).unwrap();
            let paths: Vec<_> = found.mendable.iter().map(|d| d.path.as_str()).collect();
            assert_eq!((paths, found.drift), (vec![path], vec![]));
            // Nothing is attached to it as it is.
            assert!(find(&scope(), &networks, "bottle-team-ada").is_none(), "{path}");
        }
    }

    #[test]
    fn strangers_count_in_our_place_only_and_the_uplink_is_no_sandboxs() {
        let [mut found, _] = ada();
        found.labels = None;
        let read = |found: &Network| instance(&scope(), &[], found);
        assert_eq!(read(&found).unwrap().ownership, Ownership::Foreign);
        assert!(find(&scope(), &[found.clone()], "bottle-team-ada").is_none());
        for name in ["bridge", "bottle-team-ada.sidecar", "bottle-team.uplink"] {
            found.name = Some(name.into());
            assert!(read(&found).is_none(), "{name}");
        }
        found.labels = Some(labels::of_uplink(&scope()));
        assert!(read(&found).is_none());
    }
}
