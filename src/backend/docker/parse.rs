//! A row of the engine's listing, read: an instance, a leftover, or none of our business. Pure.

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};

use super::labels::{self, Labels, Set};
use super::pin;
use super::wiring::{Wiring, attached};
use crate::backend::Scope;
use crate::model::{
    BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Leftover, LeftoverKind,
    Ownership, ResourceKind, SandboxId, SpecHash,
};

/// What a row is to us.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    /// An object of a sandbox, or in the place of one.
    Instance(Box<Instance>, Made),
    /// What an interrupted run left behind.
    Leftover(Leftover),
}

/// What else the labels say of how an object was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Made {
    /// The state folder that made it.
    pub state: Option<String>,
    /// What was set.
    pub set: Option<Set>,
    /// The digest of the program that a sidecar runs.
    pub program: Option<SpecHash>,
}

/// Reads a row; `None` where it is nothing to us.
pub(super) fn row(scope: &Scope, found: ContainerSummary) -> Option<Row> {
    let id = InstanceId(found.id.clone()?);
    let name = name(&found);
    let empty = std::collections::HashMap::new();
    let labels = Labels::of(found.labels.as_ref().unwrap_or(&empty));
    let ownership = labels.ownership(scope);
    let standing = sandbox_of_name(scope, &name);
    if ownership != Ownership::Foreign && labels.resource() == Some(labels::PROBE) {
        let leftover = Leftover {
            backend: BackendKind::Docker,
            kind: LeftoverKind::Scratch,
            id,
            name,
            digest: None,
        };
        return (ownership == Ownership::Ours).then_some(Row::Leftover(leftover));
    }
    let labelled = labels.sandbox().filter(|_| ownership != Ownership::Foreign);
    let fields = labels.fields();
    // An image that somebody committed from a machine carries the machine's labels, and so does all
    // that is made from it. What stands under another name is ours only if it stands on the very
    // image that its labels speak of.
    if standing.is_none() && !stands_on_own_image(scope, &found, &labels, &fields) {
        return None;
    }
    let (place, standing_as) = standing.unzip();
    let sandbox = labelled.or(place)?;
    let told = labels.resource().filter(|_| ownership != Ownership::Foreign);
    let resource = told.and_then(|text| text.parse().ok()).or(standing_as);
    let resource = resource.unwrap_or(ResourceKind::Machine);
    let state = match state(&found) {
        InstanceState::Stopped { .. } if name.ends_with(ASIDE) => InstanceState::Aside,
        state => state,
    };
    let running = matches!(state, InstanceState::Running | InstanceState::Paused);
    let ours = ownership != Ownership::Foreign;
    // What it was made from is not known then, and its files may be somebody's.
    let unknown = labels.unreadable_with::<Set>().filter(|_| ownership == Ownership::Ours);
    let state = match unknown {
        Some(why) => InstanceState::Unknown(format!("container {name}: {why}")),
        None => state,
    };
    let set = labels.set();
    let wiring = Wiring::of(scope, resource, &sandbox, set.as_ref());
    let drift = if ours { drift(&found, &fields, set.as_ref()) } else { Vec::new() };
    let mendable = wiring.drift(&found, running).filter(|_| ours).into_iter().collect();
    let notes = moved_tag(&found, &fields).filter(|_| ours).into_iter().collect();
    let instance = Instance {
        id,
        backend: BackendKind::Docker,
        resource,
        sandbox,
        place: None,
        name,
        hash: labels.hash().filter(|_| ours),
        fields: if ours { fields } else { Fields::default() },
        boot: running.then(|| boot(&found, wiring.first())).flatten(),
        state,
        drift,
        mendable,
        notes,
        image: labels.image().filter(|_| ours),
        created: found.created.and_then(|at| u64::try_from(at).ok()),
        overlay: labels.overlay().filter(|_| ours),
        ownership,
    };
    let program = labels::program(&labels);
    let made = Made { state: labels.state().map(str::to_owned), set, program };
    Some(Row::Instance(Box::new(instance), made))
}

/// The instance of a row that must be one.
pub(super) fn own(scope: &Scope, found: ContainerSummary) -> Option<Instance> {
    match row(scope, found)? {
        Row::Instance(instance, _) => Some(*instance),
        Row::Leftover(_) => None,
    }
}

/// Its own name; the others are names of links to it.
fn name(found: &ContainerSummary) -> String {
    let names = found.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    names.clone().find(|name| !name.contains('/')).unwrap_or_default().to_owned()
}

/// What a sandbox's object of this kind is called. A dot cannot stand in a sandbox's name.
pub(super) fn name_of(scope: &Scope, sandbox: &SandboxId, kind: ResourceKind) -> String {
    let name = scope.object_name(sandbox);
    if kind == ResourceKind::Sidecar { format!("{name}.{kind}") } else { name }
}

/// What this name belongs to, if it is a name that we would give to a container.
pub(super) fn sandbox_of_name(scope: &Scope, name: &str) -> Option<(SandboxId, ResourceKind)> {
    let rest = name.strip_prefix(&format!("bottle-{}-", scope.owner))?;
    let (rest, kind) = match rest.strip_suffix(".sidecar") {
        Some(rest) => (rest, ResourceKind::Sidecar),
        None => (rest.strip_suffix(ASIDE).unwrap_or(rest), ResourceKind::Machine),
    };
    let sandbox: SandboxId = rest.parse().ok()?;
    let own = name_of(scope, &sandbox, kind);
    (name == own || aside(&own) == name).then_some((sandbox, kind))
}

/// How the name of a machine ends that was set aside.
const ASIDE: &str = ".aside";

/// What a machine of this name is called while it is set aside.
pub(super) fn aside(name: &str) -> String {
    format!("{name}{ASIDE}")
}

/// Its image is the one that its labels speak of.
fn stands_on_own_image(
    scope: &Scope,
    found: &ContainerSummary,
    labels: &Labels<'_>,
    fields: &Fields,
) -> bool {
    match labels.set().and_then(|set: Set| set.image) {
        Some(id) => found.image_id.as_deref() == Some(&id),
        None => image_as_set(scope, labels, fields)
            .is_some_and(|set| found.image.as_deref() == Some(&set)),
    }
}

/// The name of the image that it was made from.
fn image_as_set(scope: &Scope, labels: &Labels<'_>, fields: &Fields) -> Option<String> {
    match labels.image() {
        Some(digest) => Some(labels::imported(scope, digest)),
        None => {
            let image = fields.0.get("image")?;
            Some(image.strip_prefix("docker:").unwrap_or(image).to_owned())
        }
    }
}

fn state(found: &ContainerSummary) -> InstanceState {
    use ContainerSummaryStateEnum as State;
    match found.state {
        Some(State::RUNNING) => InstanceState::Running,
        Some(State::PAUSED) => InstanceState::Paused,
        Some(State::CREATED) => InstanceState::Created,
        Some(State::EXITED | State::RESTARTING) => {
            InstanceState::Stopped { code: found.status.as_deref().and_then(exit_code) }
        }
        Some(State::REMOVING) => InstanceState::Broken("half removed".to_owned()),
        Some(State::DEAD) => InstanceState::Broken("dead: its removal failed".to_owned()),
        Some(_) | None => InstanceState::Broken(format!(
            "in a state that is not known: {}",
            found.status.as_deref().unwrap_or("none")
        )),
    }
}

/// `Exited (143) 5 seconds ago`, `Restarting (1) 2 seconds ago`.
fn exit_code(status: &str) -> Option<i32> {
    status.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// The engine makes a new endpoint, with a new random id, at each start; of the network `none` too.
/// That of `own` counts, and any other only where that is missing.
fn boot(found: &ContainerSummary, own: &str) -> Option<String> {
    let networks = found.network_settings.as_ref()?.networks.as_ref()?;
    let id = |name: &str| networks.get(name)?.endpoint_id.clone().filter(|id| !id.is_empty());
    id(own).or_else(|| attached(found).into_iter().find_map(id))
}

fn change(path: &str, from: &str, to: &str) -> FieldChange {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    FieldChange { path: path.to_owned(), from: some(from), to: some(to) }
}

fn drift(found: &ContainerSummary, fields: &Fields, set: Option<&Set>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let mut compare = |path: &str, from: &str, to: &str| {
        if from != to {
            changes.push(change(path, from, to));
        }
    };
    let source = mounted(fields, set);
    let source = source.as_deref();
    compare("mounts", &mounts_found(found, source), &mounts_set(fields, source));
    if let (Some(id), Some(found)) = (set.and_then(|set| set.image.as_deref()), &found.image_id) {
        compare("image", found, id);
    }
    let set = fields.0.get("image").map(|image| image.strip_prefix("docker:").unwrap_or(image));
    if let (Some(set), Some(image)) = (set, found.image.as_deref())
        && names_another_image(image, set)
    {
        compare("image", image, set);
    }
    changes
}

/// A tag that means another image by now is said, and used for new machines only.
fn moved_tag(found: &ContainerSummary, fields: &Fields) -> Option<String> {
    let set = fields.0.get("image")?;
    let imported = has_own_name(set);
    let name = set.strip_prefix("docker:").unwrap_or(set);
    (!imported && !by_id(name) && by_id(found.image.as_deref()?))
        .then(|| format!("image {name} means another image by now; new machines use that"))
}

/// Whether an image, as fields say it, was made here and is named after its digest.
fn has_own_name(image: &str) -> bool {
    ["tar", "folder", "build"]
        .iter()
        .any(|kind| image.strip_prefix(kind).is_some_and(|rest| rest.starts_with(" sha256:")))
}

/// The id of an image, or a part of it.
fn by_id(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A listing shows the name that a container was made from, or the image's id once that name means
/// another image: a tag that moved is no drift.
fn names_another_image(found: &str, set: &str) -> bool {
    let imported = has_own_name(set);
    let digest = set.rsplit_once(':').map_or("", |(_, digest)| digest);
    match imported {
        _ if by_id(found) => false,
        true => !found.ends_with(&format!(":{digest}")),
        false => familiar(found) != familiar(set),
    }
}

/// A reference without what engines add or leave out as they like: the default registry, the
/// default tag, a digest.
fn familiar(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

/// What the engine was given as the workspace: our own mount that holds it, or its path.
fn mounted(fields: &Fields, set: Option<&Set>) -> Option<String> {
    let path = fields.0.get("workspace.mount")?;
    let pin = set.and_then(|set| pin::in_setting(set.settings.get("mounts")?));
    Some(pin.map_or_else(|| path.clone(), |pin| pin.display().to_string()))
}

fn mounts_set(fields: &Fields, source: Option<&str>) -> String {
    match (source, fields.0.get("workspace.target")) {
        (Some(source), Some(target)) => format!("{source}:{target}:rw"),
        _ => String::new(),
    }
}

/// Whether the engine named a volume, as it does those that an image asks for.
pub(super) fn anonymous(volume: &str) -> bool {
    volume.len() == 64 && volume.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The host's folders in it. Volumes without a name are the image's own.
fn mounts_found(found: &ContainerSummary, source_set: Option<&str>) -> String {
    let mut mounts: Vec<String> = found
        .mounts
        .iter()
        .flatten()
        .filter(|mount| match mount.typ.as_deref() {
            Some("tmpfs") => false,
            Some("volume") => !mount.name.as_deref().is_some_and(anonymous),
            _ => true,
        })
        .map(|mount| {
            let source = mount.source.as_deref().unwrap_or_default();
            // An engine in a virtual machine sees the host's folders below one of its own.
            let source = match source_set {
                Some(set) if source.ends_with(set) => set,
                _ => source,
            };
            let target = mount.destination.as_deref().unwrap_or_default();
            format!("{source}:{target}:{}", if mount.rw == Some(false) { "ro" } else { "rw" })
        })
        .collect();
    mounts.sort_unstable();
    mounts.join(" ")
}

#[cfg(test)]
mod tests;
