//! The virtual engine: what exists on it, and each effect of the trait as one plain function.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::faults::Rng;
use super::files::{Entry, Files};
use super::programs;
use crate::backend::{BackendError, Depth, Identity, MainState, Observation, Scope, guest_path};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendFacts, BackendKind, FieldChange, Fields, ImageRef, Instance, InstanceId, InstanceState,
    Leftover, LeftoverKind, MachineSpec, OwnerId, Ownership, ResourceKind, Restart, SandboxId,
    SpecHash,
};

/// What `bottle` writes on an object that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The tree.
    pub owner: OwnerId,
    /// The state folder.
    pub state: String,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The content hash; `None` where somebody removed the label.
    pub hash: Option<SpecHash>,
    /// The fields of that hash.
    pub fields: Fields,
    /// The overlay's folder.
    pub overlay: Option<String>,
}

/// An object of the engine, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The engine's id.
    pub id: InstanceId,
    /// Its name, unique on the engine.
    pub name: String,
    /// What it is.
    pub resource: ResourceKind,
    /// `None`: somebody else made it.
    pub labels: Option<Labels>,
    /// What it does.
    pub state: InstanceState,
    /// The current run.
    pub boot: Option<String>,
    /// What was changed from outside, as the listing shows it.
    pub drift: Vec<FieldChange>,
    /// What was changed from outside, as only an inspection shows it.
    pub deep_drift: Vec<FieldChange>,
    /// What was changed from outside and can be set right in place.
    pub mendable: Vec<FieldChange>,
    /// The source of the imported image under it.
    pub image: Option<SpecHash>,
    /// When it was made.
    pub created: u64,
    /// What it was made from, where it is a machine of ours.
    pub spec: Option<MachineSpec>,
    /// The sandbox's user.
    pub user: Identity,
    /// Its files.
    pub files: Files,
    /// What its command is doing.
    pub main: MainState,
    /// What its command wrote.
    pub log: Vec<u8>,
}

/// What an image brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its files, `/etc/passwd` among them.
    pub files: Files,
    /// The user that it names.
    pub user: Option<String>,
}

impl Image {
    /// A small root with these users (name, uid; the homes lie in `/home`) beside root.
    #[must_use]
    pub fn with_users(users: &[(&str, u32)]) -> Self {
        let mut passwd = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
        let mut entries = vec![
            ("/etc".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/home".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/root".to_owned(), Entry::folder(0o700, 0, 0)),
            ("/run".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/tmp".to_owned(), Entry::folder(0o1777, 0, 0)),
        ];
        for (name, uid) in users {
            passwd.push_str(&format!("{name}:x:{uid}:{uid}:{name}:/home/{name}:/bin/sh\n"));
            entries.push((format!("/home/{name}"), Entry::folder(0o755, *uid, *uid)));
        }
        entries.push(("/etc/passwd".to_owned(), Entry::file(passwd, 0o644, 0, 0)));
        let mut files = Files::default();
        for (path, entry) in entries {
            files.put(&path, entry).expect("the paths are plain and their parents come first");
        }
        Self { files, user: None }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::with_users(&[("node", 1000)])
    }
}

/// What belongs to no sandbox, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The tree.
    pub owner: OwnerId,
    /// The state folder.
    pub state: String,
    /// What it is.
    pub leftover: Leftover,
}

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
            name: object.name.clone(),
            ownership,
            hash: labels.and_then(|labels| labels.hash),
            fields: labels.map(|labels| labels.fields.clone()).unwrap_or_default(),
            state: object.state.clone(),
            boot: object.boot.clone(),
            drift,
            mendable: object.mendable.clone(),
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
            ResourceSpec::Network(_) | ResourceSpec::Sidecar(_) => {
                (Image::default(), Identity { uid: 0, gid: 0, home: "/root".to_owned() })
            }
        };
        let machine = match spec {
            ResourceSpec::Machine(machine) => Some(machine.clone()),
            ResourceSpec::Network(_) | ResourceSpec::Sidecar(_) => None,
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
            log: Vec::new(),
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
            InstanceState::Created | InstanceState::Stopped { .. } => object.start(boot),
            InstanceState::Broken(what) => {
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
            InstanceState::Stopped { .. } => "stopped",
            InstanceState::Broken(_) => "broken",
        };
        Err(BackendError::NotRunning { name: object.name.clone(), state: state.to_owned() })
    }
}

impl Object {
    /// A new run: what lay on tmpfs is gone, the command begins again.
    pub(super) fn start(&mut self, boot: String) {
        self.state = InstanceState::Running;
        self.boot = Some(boot);
        self.main = MainState::Waiting;
        let run = Entry::folder(0o700, self.user.uid, self.user.gid);
        let made =
            self.files.remove(guest_path::RUN).and_then(|()| self.files.put(guest_path::RUN, run));
        if let Err(error) = made {
            self.state = InstanceState::Broken(error.to_string());
        }
        self.advance();
    }

    pub(super) fn stop(&mut self, code: Option<i32>) {
        self.state = InstanceState::Stopped { code };
        self.boot = None;
    }

    /// Lets the command begin once nothing holds it back, and says so where the guest would.
    pub(super) fn advance(&mut self) {
        let Some(spec) = &self.spec else { return };
        if self.state != InstanceState::Running {
            return;
        }
        let held = !self.files.exists(guest_path::READY)
            || (spec.waits_for_env && !self.files.exists(guest_path::ENV));
        let command: Vec<&str> = spec.command.iter().map(String::as_str).collect();
        match command.as_slice() {
            [] => self.main = MainState::Idle,
            command if self.main == MainState::Waiting && !held => {
                self.main = outcome(command, spec.restart, &mut self.log);
            }
            _ => {}
        }
        let line = match &self.main {
            MainState::Idle => "idle\n".to_owned(),
            MainState::Waiting => "waiting\n".to_owned(),
            MainState::Running => "running\n".to_owned(),
            MainState::Completed => "completed\n".to_owned(),
            MainState::Failed(code) => format!("failed {code}\n"),
            MainState::BackingOff { code, times } => format!("backoff {code} {times}\n"),
        };
        let entry = Entry::file(line, 0o644, self.user.uid, self.user.gid);
        // The guest may have put something else in its place: then nobody learns the state.
        self.files.put(guest_path::MAIN, entry).ok();
    }
}

/// How a command ends. Those that the machine does not know run on.
fn outcome(command: &[&str], restart: Restart, log: &mut Vec<u8>) -> MainState {
    let code = match command {
        ["true"] => 0,
        ["false"] => 1,
        ["echo", words @ ..] => {
            log.extend_from_slice((words.join(" ") + "\n").as_bytes());
            0
        }
        ["sh", "-c", script] => {
            let mut code = None;
            for part in script.split(';').map(str::trim) {
                match part.split_once(' ') {
                    Some(("echo", words)) => {
                        log.extend_from_slice(words.as_bytes());
                        log.push(b'\n');
                    }
                    Some(("exit", number)) => code = number.parse().ok(),
                    _ => return MainState::Running,
                }
            }
            code.unwrap_or(0)
        }
        _ => return MainState::Running,
    };
    match (restart, code) {
        (Restart::Never | Restart::OnFailure, 0) => MainState::Completed,
        (Restart::Never, code) => MainState::Failed(code),
        (Restart::Always | Restart::OnFailure, code) => MainState::BackingOff { code, times: 1 },
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

fn ours(scope: &Scope, state: &str) -> bool {
    state == scope.state || scope.adopted.contains(state)
}

pub(super) fn gone(id: &InstanceId) -> BackendError {
    BackendError::NotRunning { name: id.to_string(), state: "gone".to_owned() }
}
