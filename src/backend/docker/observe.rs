//! What exists of an owner: a few listing calls side by side, however many machines there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::{ContainerSummary, ImageSummary};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
};
use futures_util::StreamExt;

use super::engine::{Engine, GVISOR};
use super::parse::{self, Made, Row};
use super::wiring::Wiring;
use super::{carrier, error, hosts, labels, limits, network, pin, settings, sidecar_image, uplink};
use crate::backend::{BackendError, Observation, Scope, label};
use crate::model::{
    BackendKind, FieldChange, Instance, InstanceId, InstanceState, Leftover, LeftoverKind,
    Ownership, ResourceKind, SpecHash,
};

/// How many objects are inspected at once.
const INSPECTIONS: usize = 16;

/// What was seen, and how each object of ours was made.
pub(super) struct Seen {
    pub observation: Observation,
    pub made: HashMap<InstanceId, Made>,
}

/// `loaded` are the images of sidecars that this state folder knows to have loaded.
pub(super) async fn listing(
    engine: &Engine,
    scope: &Scope,
    loaded: &BTreeSet<String>,
) -> Result<Seen, BackendError> {
    let (labelled, images, networks, (traits, count)) = tokio::try_join!(
        containers(engine, "label", format!("{}={}", label::OWNER, scope.owner)),
        images(engine, scope),
        network::all(engine),
        engine.refresh(),
    )?;
    let mut rows = BTreeMap::new();
    // What has this owner's names and not its label is somebody else's, or has lost it. The engine would
    // describe all that was just described once more: where there is nothing else, it is not asked to.
    let all = count == Some(labelled.len());
    let named = if all { Vec::new() } else { named(engine, scope).await? };
    for container in labelled.into_iter().chain(named) {
        rows.entry(container.id.clone()).or_insert(container);
    }
    let mut observation = Observation { facts: traits.facts(), ..Observation::default() };
    let mut ours = HashMap::new();
    observation
        .instances
        .extend(networks.iter().filter_map(|n| network::instance(scope, &networks, n)));
    let standing: BTreeSet<String> = rows.values().filter_map(|row| row.image_id.clone()).collect();
    if engine.endpoint.socket().is_some() {
        observation.leftovers.extend(pin::leftovers(scope, &sources(rows.values())));
    }
    let attached = attached(rows.values());
    let mut sidecars = false;
    let limited = limits::any(scope);
    for container in rows.into_values() {
        match parse::row(scope, container.clone()) {
            Some(Row::Instance(mut instance, mut made)) => {
                if limited {
                    limits::overlay(scope, &mut instance, &mut made);
                }
                sidecars |= instance.resource == ResourceKind::Sidecar
                    && instance.ownership != Ownership::Foreign;
                if instance.ownership == Ownership::Ours {
                    if engine.endpoint.socket().is_some()
                        && instance.state == InstanceState::Running
                    {
                        instance.notes.extend(unpinned(&instance, &container));
                    }
                    let wiring = Wiring::of_instance(scope, &instance, made.set.as_ref());
                    instance.drift.extend(wiring.moved(scope, &networks));
                    let stale = wiring.stale(scope, &container, &networks).join(" ");
                    if !stale.is_empty() && instance.mendable.is_empty() {
                        let standing = networks.iter().any(|n| n.name.as_ref() == Some(&stale));
                        let what = if standing { "broken" } else { "removed" };
                        instance.mendable.push(FieldChange {
                            path: "networks".to_owned(),
                            from: Some(format!("{stale}, {what} since")),
                            to: Some(stale),
                        });
                    }
                    if instance.state == InstanceState::Running
                        && instance.resource == ResourceKind::Machine
                        && let Some(set) = &made.set
                    {
                        instance.mendable.extend(hosts::lost(engine, &traits, &instance, set));
                    }
                    let runtime = made.set.as_ref().map(|set| set.settings.get("runtime"));
                    if traits.gvisor && runtime.is_some_and(|r| r.is_none_or(|r| r != GVISOR)) {
                        let note = "made before the engine had runsc: a new machine would run under gVisor";
                        instance.notes.push(note.to_owned());
                    }
                    ours.insert(instance.id.clone(), made);
                }
                observation.instances.push(*instance);
            }
            Some(Row::Leftover(leftover)) => observation.leftovers.push(leftover),
            None => {}
        }
    }
    // What a sidecar is on carries a network again as soon as that is made anew.
    let unused = carrier::leftovers(scope, &networks).into_iter();
    observation
        .leftovers
        .extend(unused.filter(|left| carrier::left(left).is_none_or(|id| !attached.contains(id))));
    if !sidecars {
        observation.leftovers.extend(uplink::leftover(scope, &networks));
    }
    let unused: Vec<&ImageSummary> = images
        .iter()
        .filter(|image| loaded.contains(&image.id) && !standing.contains(&image.id))
        .collect();
    observation.leftovers.extend(sidecar_images(engine, &unused).await?);
    let tags = images.into_iter().flat_map(|image| image.repo_tags);
    for name in tags.collect::<BTreeSet<String>>() {
        if let Some(digest) = labels::digest_of(scope, &name) {
            observation.leftovers.push(Leftover {
                backend: BackendKind::Docker,
                kind: LeftoverKind::Image,
                id: InstanceId(name.clone()),
                name,
                digest: Some(digest),
            });
        }
    }
    Ok(Seen { observation, made: ours })
}

/// That what was mounted for this container is mounted no more, where that is so. It has it until it is restarted.
fn unpinned(instance: &Instance, container: &ContainerSummary) -> Option<String> {
    let mounts = container.mounts.iter().flatten();
    let lost = mounts.filter_map(|m| m.source.as_ref()).find(|at| pin::is_lost(Path::new(at)))?;
    Some(format!(
        "{lost} was unmounted, and whoever restarts it without bottle gives it an empty folder for its workspace: \
         `bottle restart {}` mounts it again",
        instance.sandbox
    ))
}

/// What is mounted into these containers.
fn sources<'a>(rows: impl Iterator<Item = &'a ContainerSummary>) -> BTreeSet<PathBuf> {
    let mounts = rows.flat_map(|row| row.mounts.iter().flatten());
    mounts.filter_map(|mount| mount.source.as_ref().map(PathBuf::from)).collect()
}

/// The networks that these containers are on, or come up on.
fn attached<'a>(rows: impl Iterator<Item = &'a ContainerSummary>) -> BTreeSet<String> {
    let on = rows.filter_map(|row| row.network_settings.as_ref()?.networks.as_ref());
    on.flat_map(HashMap::values).filter_map(|end| end.network_id.clone()).collect()
}

/// What is mounted into this owner's containers now.
pub(super) async fn mounted(
    engine: &Engine,
    scope: &Scope,
) -> Result<BTreeSet<PathBuf>, BackendError> {
    let (labelled, named) = tokio::try_join!(
        containers(engine, "label", format!("{}={}", label::OWNER, scope.owner)),
        named(engine, scope),
    )?;
    Ok(sources(labelled.iter().chain(&named)))
}

/// The containers under this owner's names, whoever's they are.
async fn named(engine: &Engine, scope: &Scope) -> Result<Vec<ContainerSummary>, BackendError> {
    containers(engine, "name", format!("^/?bottle-{}-", scope.owner)).await
}

async fn containers(
    engine: &Engine,
    filter: &str,
    value: String,
) -> Result<Vec<ContainerSummary>, BackendError> {
    filtered(engine, filter, vec![value]).await
}

pub(super) async fn filtered(
    engine: &Engine,
    filter: &str,
    values: Vec<String>,
) -> Result<Vec<ContainerSummary>, BackendError> {
    let filters = HashMap::from([(filter.to_owned(), values)]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = engine.client.list_containers(Some(options)).await;
    listed.map_err(|e| engine.failed("listing containers", e))
}

async fn images(engine: &Engine, scope: &Scope) -> Result<Vec<ImageSummary>, BackendError> {
    let repositories = vec![labels::repository(scope), sidecar_image::REPOSITORY.to_owned()];
    let filters = HashMap::from([("reference".to_owned(), repositories)]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let listed = engine.client.list_images(Some(options)).await;
    listed.map_err(|e| engine.failed("listing images", e))
}

/// Those of these images of sidecars that no container of anybody's stands on.
async fn sidecar_images(
    engine: &Engine,
    unused: &[&ImageSummary],
) -> Result<Vec<Leftover>, BackendError> {
    let name_of = |image: &ImageSummary| {
        image.repo_tags.iter().find(|name| sidecar_image::is_name(name)).cloned()
    };
    let named: Vec<(&ImageSummary, String)> =
        unused.iter().filter_map(|image| Some((*image, name_of(image)?))).collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let ids = named.iter().map(|(image, _)| image.id.clone()).collect();
    let users = filtered(engine, "ancestor", ids).await?;
    let used: BTreeSet<String> = users.into_iter().filter_map(|user| user.image_id).collect();
    let leftover = |(image, name): (&ImageSummary, String)| Leftover {
        backend: BackendKind::Docker,
        kind: LeftoverKind::Image,
        id: InstanceId(image.id.clone()),
        name,
        digest: None,
    };
    Ok(named.into_iter().filter(|(image, _)| !used.contains(&image.id)).map(leftover).collect())
}

/// What stands under exactly this name.
pub(super) async fn by_name(
    engine: &Engine,
    name: &str,
) -> Result<Option<ContainerSummary>, BackendError> {
    let name = name.replace('.', "\\.");
    Ok(containers(engine, "name", format!("^/?{name}$")).await?.pop())
}

/// The ids of all that is this owner's.
pub(super) async fn ids(engine: &Engine, scope: &Scope) -> Result<BTreeSet<String>, BackendError> {
    let all = containers(engine, "label", format!("{}={}", label::OWNER, scope.owner)).await?;
    Ok(all.into_iter().filter_map(|found| found.id).collect())
}

/// The row of the listing with this id.
pub(super) async fn raw_by_id(
    engine: &Engine,
    id: &InstanceId,
) -> Result<Option<ContainerSummary>, BackendError> {
    Ok(containers(engine, "id", id.0.clone()).await?.pop())
}

/// A machine as it is now, and how it was made; `None` when it is gone or nothing to us.
pub(super) async fn by_id(
    engine: &Engine,
    scope: &Scope,
    id: &InstanceId,
) -> Result<Option<(Instance, Made)>, BackendError> {
    let found = raw_by_id(engine, id).await?;
    Ok(match found.and_then(|found| parse::row(scope, found)) {
        Some(Row::Instance(mut instance, mut made)) => {
            limits::overlay(scope, &mut instance, &mut made);
            Some((*instance, made))
        }
        _ => None,
    })
}

/// Whether a machine of this owner stands on the imported image of this digest.
pub(super) async fn in_use(
    engine: &Engine,
    scope: &Scope,
    digest: SpecHash,
) -> Result<bool, BackendError> {
    let filter =
        vec![format!("{}={}", label::OWNER, scope.owner), format!("{}={digest}", label::IMAGE)];
    Ok(!filtered(engine, "label", filter).await?.is_empty())
}

/// Inspects every machine of ours and adds what differs from what was set.
pub(super) async fn deepen(engine: &Engine, seen: &mut Seen) -> Result<(), BackendError> {
    let instances = std::mem::take(&mut seen.observation.instances);
    let looks = instances.into_iter().map(|instance| {
        let set = seen.made.get(&instance.id).and_then(|made| made.set.as_ref());
        async move { look(engine, instance, set).await }
    });
    let mut looks = futures_util::stream::iter(looks).buffered(INSPECTIONS);
    while let Some(instance) = looks.next().await {
        seen.observation.instances.extend(instance?);
    }
    Ok(())
}

async fn look(
    engine: &Engine,
    mut instance: Instance,
    set: Option<&labels::Set>,
) -> Result<Option<Instance>, BackendError> {
    // The listing of networks shows all of them.
    if instance.ownership != Ownership::Ours || instance.resource == ResourceKind::Network {
        return Ok(Some(instance));
    }
    let inspected =
        engine.client.inspect_container(&instance.id.0, None::<InspectContainerOptions>).await;
    match (inspected, set) {
        (Ok(found), Some(set)) => {
            let changes = settings::drift(&found, set, &instance.fields).into_iter();
            let (mendable, drift): (Vec<_>, Vec<_>) =
                changes.partition(|change| settings::MENDABLE.contains(&change.path.as_str()));
            instance.drift.extend(drift);
            instance.mendable.extend(mendable);
            if instance.state == InstanceState::Running
                && instance.resource == ResourceKind::Machine
            {
                instance.mendable.extend(hosts::lost_by_engine(engine, &instance, set).await);
            }
            Ok(Some(instance))
        }
        // What it was made with cannot be read any more, so nothing vouches for it.
        (Ok(_), None) => {
            debug_assert!(matches!(instance.state, InstanceState::Unknown(_)), "{}", instance.name);
            Ok(Some(instance))
        }
        (Err(e), _) if error::is_status(&e, 404) => Ok(None),
        (Err(e), _) => Err(engine.failed(format!("inspecting {}", instance.name), e)),
    }
}
