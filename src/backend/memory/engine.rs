//! The virtual engine: what exists on it, and each effect of the trait as one plain function.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::faults::Rng;
use super::files::Entry;
use super::object::{Image, Labels, Left, Object};
use super::programs;
use crate::backend::{BackendError, Depth, Identity, MainState, Observation, Scope};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendFacts, BackendKind, ImageRef, Instance, InstanceId, InstanceState, Leftover,
    LeftoverKind, MachineSpec, Ownership, ResourceKind, SandboxId,
};

/// Everything that the engine holds.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) kind: BackendKind,
    rng: Rng,
    ticks: u64,
    pub(super) objects: BTreeMap<InstanceId, Object>,
    pub(super) left: Vec<Left>,
    /// Images that are here, by reference.
    pub(super) images: BTreeMap<String, Image>,
    /// Images that a pull would get.
    pub(super) registry: BTreeMap<String, Image>,
    /// Image tars and folders of the host.
    pub(super) sources: BTreeMap<PathBuf, Image>,
    pub(super) unreachable: Option<String>,
    /// What sidecars say of themselves, where a test has said so.
    pub(super) said: BTreeMap<SandboxId, String>,
}

impl Engine {
    pub(super) fn new(kind: BackendKind, seed: u64) -> Self {
        Self {
            kind,
            // Two engines of one seed give their objects different ids, as real ones do.
            rng: Rng::new(seed ^ 0x0062_6f74_746c_6500 ^ (kind as u64) << 56),
            ticks: 1_700_000_000,
            objects: BTreeMap::new(),
            left: Vec::new(),
            images: BTreeMap::new(),
            registry: BTreeMap::new(),
            sources: BTreeMap::new(),
            unreachable: None,
            said: BTreeMap::new(),
        }
    }

    pub(super) fn fresh_id(&mut self) -> InstanceId {
        InstanceId(format!("{:016x}", self.rng.next()))
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    pub(super) fn reach(&self) -> Result<(), BackendError> {
        match &self.unreachable {
            None => Ok(()),
            Some(reason) => {
                Err(BackendError::Unreachable { backend: self.kind, reason: reason.clone() })
            }
        }
    }

    pub(super) fn observe(&self, scope: &Scope, depth: Depth) -> Observation {
        let see = |object| self.see(scope, object, depth);
        let mut root_images = BTreeSet::new();
        for (name, image) in &self.images {
            if image.user.is_none() && programs::find_named(&image.files, "1000").is_none() {
                root_images.insert(name.clone());
            }
        }
        let mine = |left: &&Left| left.owner == scope.owner && ours(scope, &left.state);
        Observation {
            instances: self.objects.values().filter_map(see).collect(),
            leftovers: self.left.iter().filter(mine).map(|left| left.leftover.clone()).collect(),
            facts: BackendFacts {
                version: format!("{} in memory", self.kind),
                root_images,
                ..BackendFacts::default()
            },
        }
    }

    /// The object as `scope` sees it, if it does.
    pub(super) fn see(&self, scope: &Scope, object: &Object, depth: Depth) -> Option<Instance> {
        let prefix = format!("bottle-{}-", scope.owner);
        let labels = object.labels.as_ref().filter(|labels| labels.owner == scope.owner);
        let (sandbox, ownership) = match labels {
            Some(labels) if ours(scope, &labels.state) => (labels.sandbox.clone(), Ownership::Ours),
            Some(labels) => (labels.sandbox.clone(), Ownership::OtherState(labels.state.clone())),
            None => {
                let name = object.name.strip_prefix(&prefix)?;
                let name = name.split_once('.').map_or(name, |(sandbox, _)| sandbox);
                (SandboxId::new(name).ok()?, Ownership::Foreign)
            }
        };
        let mut drift = object.drift.clone();
        if depth == Depth::Deep {
            drift.extend(object.deep_drift.iter().cloned());
        }
        Some(Instance {
            id: object.id.clone(),
            backend: self.kind,
            resource: object.resource,
            sandbox,
            place: None,
            name: object.name.clone(),
            ownership,
            hash: labels.and_then(|labels| labels.hash),
            fields: labels.map(|labels| labels.fields.clone()).unwrap_or_default(),
            state: match object.state {
                InstanceState::Stopped { .. } if is_aside(&object.name) => InstanceState::Aside,
                _ => object.state.clone(),
            },
            boot: object.boot.clone(),
            drift,
            mendable: object.mendable.clone(),
            notes: Vec::new(),
            image: object.image,
            created: Some(object.created),
            overlay: labels.and_then(|labels| labels.overlay.clone()),
        })
    }

    /// Makes the image be here: pulled or imported. Touches nothing when it is not to be had.
    pub(super) fn fetch(&mut self, scope: &Scope, image: &ImageRef) -> Result<(), BackendError> {
        let name = image.to_string();
        let missing =
            |reason: &str| BackendError::Image { image: name.clone(), reason: reason.to_owned() };
        let (found, imported) = match image {
            ImageRef::Host | ImageRef::Bare => (Image::default(), None),
            _ if self.images.contains_key(&name) => (self.images[&name].clone(), image.digest()),
            ImageRef::Registry(_) => {
                let pulled = self.registry.get(&name).cloned();
                (pulled.ok_or_else(|| missing("manifest unknown"))?, None)
            }
            ImageRef::DockerLocal(_) => return Err(missing("no such image on the engine")),
            ImageRef::Tar { path, digest }
            | ImageRef::Folder { path, digest }
            | ImageRef::Built { path, digest, .. }
            | ImageRef::Pack { path, digest } => {
                let source = self.sources.get(path).cloned();
                let reason = format!("{}: no such file or directory", path.display());
                (source.ok_or_else(|| missing(&reason))?, Some(*digest))
            }
        };
        self.images.insert(name.clone(), found);
        if let Some(digest) = imported
            && !self
                .left
                .iter()
                .any(|left| left.owner == scope.owner && left.leftover.digest == Some(digest))
        {
            let id = self.fresh_id();
            self.left.push(Left {
                owner: scope.owner.clone(),
                state: scope.state.clone(),
                leftover: Leftover {
                    backend: self.kind,
                    kind: LeftoverKind::Image,
                    id,
                    name,
                    digest: Some(digest),
                },
            });
        }
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        scope: &Scope,
        spec: &ResourceSpec,
        midway: bool,
    ) -> Result<Instance, BackendError> {
        let name = object_name(scope, spec.sandbox(), spec.kind());
        if let Some(there) = self.objects.values().find(|object| object.name == name) {
            let instance = self.see(scope, there, Depth::Listing);
            return match instance {
                Some(instance) if instance.ownership == Ownership::Ours => {
                    let broken = matches!(instance.state, InstanceState::Broken(_));
                    if instance.hash == Some(spec.hash()) && !broken {
                        return Ok(instance);
                    }
                    Err(BackendError::failed(
                        format!("creating {name}"),
                        anyhow::anyhow!("one that was made from something else stands there"),
                    ))
                }
                _ => Err(BackendError::Conflict { name }),
            };
        }
        let (image, user) = match spec {
            ResourceSpec::Machine(machine) => {
                let name = machine.image.to_string();
                let built_in = matches!(machine.image, ImageRef::Host | ImageRef::Bare);
                let image = match self.images.get(&name) {
                    Some(image) => image.clone(),
                    None if built_in => Image::default(),
                    None => {
                        let reason = "it is not on the engine".to_owned();
                        return Err(BackendError::Image { image: name, reason });
                    }
                };
                let user = sandbox_user(machine, &image)?;
                (image, user)
            }
            ResourceSpec::Network(_) | ResourceSpec::Sidecar(_) | ResourceSpec::Gate(_) => {
                (Image::default(), Identity { uid: 0, gid: 0, home: "/root".to_owned() })
            }
        };
        let machine = match spec {
            ResourceSpec::Machine(machine) => Some(machine.clone()),
            ResourceSpec::Network(_) | ResourceSpec::Sidecar(_) | ResourceSpec::Gate(_) => None,
        };
        let (id, created) = (self.fresh_id(), self.tick());
        let state = match spec.kind() {
            _ if midway => InstanceState::Broken("half made".to_owned()),
            // A network has nothing to start.
            ResourceKind::Network => InstanceState::Running,
            _ => InstanceState::Created,
        };
        let mut object = Object {
            id: id.clone(),
            name,
            resource: spec.kind(),
            labels: Some(Labels {
                owner: scope.owner.clone(),
                state: scope.state.clone(),
                sandbox: spec.sandbox().clone(),
                hash: Some(spec.hash()),
                fields: spec.fields(),
                overlay: machine.as_ref().and_then(|machine| machine.overlay.clone()),
            }),
            state,
            boot: None,
            drift: Vec::new(),
            deep_drift: Vec::new(),
            mendable: Vec::new(),
            image: machine.as_ref().and_then(|machine| machine.image.digest()),
            created,
            spec: machine,
            user,
            files: image.files,
            main: MainState::Idle,
            command: None,
            log: Vec::new(),
            loaded: None,
        };
        if let Some(workdir) = object.spec.as_ref().and_then(|spec| spec.workdir.clone()) {
            let folder = Entry::folder(0o755, object.user.uid, object.user.gid);
            let made = object.files.make_folder(&workdir, folder);
            made.map_err(|error| BackendError::failed("making the working directory", error))?;
        }
        let seen = self.see(scope, &object, Depth::Listing).expect("the labels are the scope's");
        self.objects.insert(id, object);
        Ok(seen)
    }

    pub(super) fn start(&mut self, id: &InstanceId) -> Result<(), BackendError> {
        let boot = format!("boot-{}", self.tick());
        let Some(object) = self.objects.get_mut(id) else {
            return Err(gone(id));
        };
        match &object.state {
            InstanceState::Running => {}
            InstanceState::Paused => object.state = InstanceState::Running,
            InstanceState::Created | InstanceState::Stopped { .. } | InstanceState::Aside => {
                object.start(boot);
            }
            InstanceState::Broken(what) | InstanceState::Unknown(what) => {
                let state = format!("broken: {what}");
                return Err(BackendError::NotRunning { name: object.name.clone(), state });
            }
        }
        Ok(())
    }

    pub(super) fn teardown(&mut self, id: &InstanceId, midway: bool) {
        if !midway {
            self.objects.remove(id);
        } else if let Some(object) = self.objects.get_mut(id) {
            object.state = InstanceState::Broken("half removed".to_owned());
            object.boot = None;
        }
    }

    pub(super) fn prune(&mut self, scope: &Scope, leftover: &Leftover) {
        // An import is its owner's own: what other owners made from the same source has theirs.
        let used = leftover.digest.is_some()
            && self.objects.values().any(|object| {
                object.image == leftover.digest
                    && object.labels.as_ref().is_some_and(|l| l.owner == scope.owner)
            });
        if used {
            return;
        }
        let before = self.left.len();
        self.left.retain(|left| {
            left.leftover.id != leftover.id
                || left.owner != scope.owner
                || !ours(scope, &left.state)
        });
        let shared = self.left.iter().any(|left| left.leftover.name == leftover.name);
        if before != self.left.len() && leftover.kind == LeftoverKind::Image && !shared {
            self.images.remove(&leftover.name);
        }
    }

    /// The object behind an instance that may be acted on: ours, and still there.
    pub(super) fn object(
        &mut self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<&mut Object>, BackendError> {
        let Some(object) = self.objects.get_mut(&instance.id) else { return Ok(None) };
        let labels = object.labels.as_ref();
        if labels.is_some_and(|l| l.owner == scope.owner && ours(scope, &l.state)) {
            Ok(Some(object))
        } else {
            Err(BackendError::Conflict { name: object.name.clone() })
        }
    }

    /// The object behind an instance, which must run.
    pub(super) fn running(
        &mut self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<&mut Object, BackendError> {
        let object = self.object(scope, instance)?.ok_or_else(|| gone(&instance.id))?;
        let state = match &object.state {
            InstanceState::Running => return Ok(object),
            InstanceState::Created => "not started",
            InstanceState::Paused => "paused",
            InstanceState::Stopped { .. } | InstanceState::Aside => "stopped",
            InstanceState::Broken(_) => "broken",
            InstanceState::Unknown(_) => "unknown",
        };
        Err(BackendError::NotRunning { name: object.name.clone(), state: state.to_owned() })
    }
}

/// The user as the manifest's contract finds it: the bottle's, else the image's, else uid 1000,
/// else root.
fn sandbox_user(spec: &MachineSpec, image: &Image) -> Result<Identity, BackendError> {
    let root = Identity { uid: 0, gid: 0, home: "/root".to_owned() };
    match spec.user.as_ref().or(image.user.as_ref()) {
        Some(name) => programs::find_user(&image.files, name).ok_or_else(|| {
            let reason = anyhow::anyhow!("the image knows no user `{name}`");
            BackendError::failed("finding the sandbox's user", reason)
        }),
        None => Ok(programs::find_named(&image.files, "1000").unwrap_or(root)),
    }
}

/// What an object is called. A dot cannot stand in a sandbox's name, so no two can meet.
pub(super) fn object_name(scope: &Scope, sandbox: &SandboxId, kind: ResourceKind) -> String {
    let name = scope.object_name(sandbox);
    if kind == ResourceKind::Machine { name } else { format!("{name}.{kind}") }
}

/// How the name of a machine ends that was set aside.
pub(super) const ASIDE: &str = ".aside";

pub(super) fn is_aside(name: &str) -> bool {
    name.ends_with(ASIDE)
}

fn ours(scope: &Scope, state: &str) -> bool {
    state == scope.state || scope.adopted.contains(state)
}

pub(super) fn gone(id: &InstanceId) -> BackendError {
    BackendError::NotRunning { name: id.to_string(), state: "gone".to_owned() }
}
