//! Containers of a Docker engine, over its HTTP API.
//!
//! A machine is one container: hardened, with a small main process of our own (`supervisor`) that starts
//! and restarts the bottle's command. It is in no network; or, where its bottle grants something, in
//! one of its own that leads to its sidecar and nowhere else. Its git gate, where it has one, is a process of this
//! machine, which no engine knows. The labels on all of it are the truth
//! about what exists; nothing is remembered about containers but what saves a call.

mod attach;
mod auth;
mod build;
mod carrier;
mod connect;
mod context;
mod copy;
mod create;
mod doctor;
mod engine;
mod error;
mod exec;
mod facts;
mod feed;
mod frozen;
mod gate;
mod hosts;
mod image;
mod labels;
#[cfg(unix)]
mod layer;
mod limits;
mod logs;
mod mend;
mod mounted;
mod network;
mod observe;
mod parse;
mod pin;
mod port;
mod processes;
mod program;
mod relay;
mod remove;
pub(in crate::backend) mod rootfs;
mod run;
mod save;
mod seccomp;
mod settings;
mod sidecar;
mod sidecar_image;
mod subnet;
mod supervisor;
pub(in crate::backend) mod tarball;
mod transport;
mod uplink;
mod usage;
pub(in crate::backend) mod user;
mod visit;
mod wiring;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

pub use connect::Settings;
use engine::Engine;
use facts::Cache;
use program::Program;
pub use relay::{Needs, relay};

use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, MainState, Observation, Process, Progress, Scope, TarSink, TarStream, Upload,
    guest_path,
};
use crate::backend::port::Port;
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Instance, InstanceId, InstanceState, Leftover, MachineSpec, OwnerId, Ownership,
    ResourceKind, Resources, SpecHash, Tools, Usage,
};

/// The engine's network that is none.
const NO_NETWORK: &str = "none";

/// What is known of a machine and saves a call.
#[derive(Debug, Clone)]
struct Known {
    /// Whose it is, by its labels.
    owner: OwnerId,
    /// The state folder that made it, by its labels.
    state: Option<String>,
    /// The sandbox's user, where its labels tell.
    identity: Option<Identity>,
    /// Whether these folders are in its image; only of a machine that this process made.
    dirs: Option<BTreeMap<String, bool>>,
}

/// The Docker backend. Making one connects to nothing.
pub struct Docker {
    settings: Settings,
    engine: tokio::sync::Mutex<Option<Arc<Engine>>>,
    /// What is known of images, by the folder that it is kept in.
    caches: Mutex<HashMap<PathBuf, Cache>>,
    /// One fetch of an image at a time.
    image_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Images that `prepare` saw to, for the `create` that follows.
    prepared: Mutex<HashMap<SpecHash, image::Ready>>,
    known: Mutex<HashMap<InstanceId, Known>>,
    /// What enters containers.
    #[cfg(target_os = "linux")]
    visitor: super::native::visit::Visitor,
    /// What git gates are, which are processes of this machine.
    gates: super::hostside::Program,
    /// What sidecars run, or why there is none: read when first needed, and never again.
    program: tokio::sync::OnceCell<Result<Arc<Program>, String>>,
}

impl Known {
    fn of(scope: &Scope, made: parse::Made) -> Self {
        let identity = made.set.map(|set| set.identity());
        Self { owner: scope.owner.clone(), state: made.state, identity, dirs: None }
    }

    fn is_of(&self, scope: &Scope) -> bool {
        self.owner == scope.owner
            && self.state.as_ref().is_some_and(|s| *s == scope.state || scope.adopted.contains(s))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these locks is never half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Docker {
    /// The engine that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(Settings::from_env())
    }

    /// The engine that `settings` name.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            visitor: super::native::visit::Visitor::new(settings.helper.as_deref()),
            gates: settings
                .helper
                .as_deref()
                .map_or_else(super::hostside::Program::this, super::hostside::Program::at),
            settings,
            engine: tokio::sync::Mutex::default(),
            caches: Mutex::default(),
            image_locks: Mutex::default(),
            prepared: Mutex::default(),
            known: Mutex::default(),
            program: tokio::sync::OnceCell::new(),
        }
    }

    /// The engine, connected. One that does not answer is asked anew at the next call.
    async fn engine(&self) -> Result<Arc<Engine>, BackendError> {
        let mut engine = self.engine.lock().await;
        if let Some(engine) = &*engine {
            return Ok(engine.clone());
        }
        let endpoint = self
            .settings
            .endpoint()
            .map_err(|reason| BackendError::Unreachable { backend: BackendKind::Docker, reason })?;
        let connected = Arc::new(Engine::connect(endpoint).await?);
        *engine = Some(connected.clone());
        Ok(connected)
    }

    async fn program(&self) -> Result<Arc<Program>, String> {
        let read = || async {
            let named = self.settings.sidecar_program.clone();
            let read = tokio::task::spawn_blocking(move || Program::find(named.as_deref()));
            let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
            read.map(Arc::new)
        };
        self.program.get_or_init(read).await.clone()
    }

    fn image_lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        locked(&self.image_locks).entry(name.to_owned()).or_default().clone()
    }

    fn with_cache<T>(&self, scope: &Scope, work: impl FnOnce(&mut Cache) -> T) -> T {
        let mut caches = locked(&self.caches);
        work(caches.entry(scope.data.clone()).or_insert_with(|| Cache::load(scope)))
    }

    /// The engine, of an instance that is certain to be a sidecar of this scope's own.
    async fn sidecar(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Arc<Engine>, BackendError> {
        if sidecar.resource != ResourceKind::Sidecar {
            return Err(BackendError::Unsupported(format!("{} is no sidecar", sidecar.name)));
        }
        Ok(self.own(scope, sidecar).await?.0)
    }

    /// Our own mount that a machine was made with.
    async fn pin(
        &self,
        engine: &Engine,
        scope: &Scope,
        machine: &Instance,
    ) -> Result<Option<PathBuf>, BackendError> {
        let mounted = machine.fields.0.contains_key("workspace.mount");
        if !mounted || engine.endpoint.socket().is_none() {
            return Ok(None);
        }
        let made = observe::by_id(engine, scope, &machine.id).await?;
        let set = made.and_then(|(_, made)| made.set);
        Ok(set.and_then(|set| pin::in_setting(set.settings.get("mounts")?)))
    }

    /// Sees to it that a machine starts with the folder that was accepted for it.
    async fn hold_workspace(
        &self,
        engine: &Engine,
        scope: &Scope,
        machine: &Instance,
    ) -> Result<(), BackendError> {
        let Some(path) = machine.fields.0.get("workspace.mount") else { return Ok(()) };
        if engine.endpoint.socket().is_none() || machine.resource != ResourceKind::Machine {
            return Ok(());
        }
        let path = std::path::Path::new(path);
        match self.pin(engine, scope, machine).await? {
            Some(pin) => pin::hold(&pin, path).map(drop),
            None => pin::check(path),
        }
    }

    /// The engine and what is known of a machine, which is certain to be this scope's own: nothing
    /// else is ever acted on, whatever the caller believes.
    async fn own(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<(Arc<Engine>, Known), BackendError> {
        let engine = self.engine().await?;
        let conflict = || BackendError::Conflict { name: instance.name.clone() };
        let known = locked(&self.known).get(&instance.id).cloned();
        if let Some(known) = known {
            return if known.is_of(scope) { Ok((engine, known)) } else { Err(conflict()) };
        }
        match observe::by_id(&engine, scope, &instance.id).await? {
            Some((found, made)) if found.ownership == Ownership::Ours => {
                let known = Known::of(scope, made);
                locked(&self.known).insert(found.id, known.clone());
                Ok((engine, known))
            }
            Some(_) => Err(conflict()),
            None => {
                Err(BackendError::NotRunning { name: instance.name.clone(), state: "gone".into() })
            }
        }
    }
}

fn is_own_sidecar(instance: &Instance) -> bool {
    instance.resource == ResourceKind::Sidecar && instance.ownership == Ownership::Ours
}

#[async_trait]
impl Backend for Docker {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    fn lingers(&self) -> Duration {
        // An engine ends what it has begun, whoever is still there to hear of it.
        Duration::from_secs(1)
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        let engine = self.engine().await?;
        let loaded = self.with_cache(scope, |cache| cache.imported());
        let mut seen = observe::listing(&engine, scope, &loaded).await?;
        for sidecar in seen.observation.instances.iter_mut().filter(|i| is_own_sidecar(i)) {
            let runs = seen.made.get(&sidecar.id).and_then(|made| made.program);
            sidecar::judge(sidecar, runs, &self.program().await);
            if sidecar.state == InstanceState::Running && frozen::is_stopped(&engine, &sidecar.id.0)
            {
                sidecar.state = InstanceState::Paused;
                sidecar.notes.push("it does not answer: its process was stopped".to_owned());
            }
        }
        if depth == Depth::Deep {
            observe::deepen(&engine, &mut seen).await?;
        }
        let named = self.settings.sidecar_program.as_deref();
        seen.observation.facts.no_sidecars = Program::check(named).err();
        seen.observation.facts.no_gates = super::native::gate::missing();
        seen.observation.instances.extend(gate::observe(self, scope, &engine.endpoint).await?);
        seen.observation.facts.elsewhere |= engine.endpoint.socket().is_none();
        seen.observation.facts.root_images = self.with_cache(scope, |cache| cache.root_images());
        let mut known = locked(&self.known);
        known.retain(|id, known| known.owner != scope.owner || seen.made.contains_key(id));
        for (id, made) in seen.made {
            known.entry(id).or_insert_with(|| Known::of(scope, made));
        }
        Ok(seen.observation)
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        let engine = self.engine().await?;
        create::check_mount(&engine, spec)?;
        if spec.connected {
            sidecar::prepare(self, &engine, scope, progress).await?;
        }
        let ready = image::ready(self, &engine, scope, spec, progress).await?;
        locked(&self.prepared).insert(spec.hash(), ready);
        Ok(())
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let engine = self.engine().await?;
        let spec = match spec {
            ResourceSpec::Machine(spec) => spec,
            ResourceSpec::Network(spec) => return network::create(&engine, scope, spec).await,
            ResourceSpec::Sidecar(spec) => {
                return sidecar::create(self, &engine, scope, spec).await;
            }
            ResourceSpec::Gate(spec) => return gate::create(self, scope, spec).await,
        };
        create::check_mount(&engine, spec)?;
        let subnet = match spec.connected {
            true => Some(network::subnet(&engine, scope, &spec.sandbox).await?),
            false => None,
        };
        let prepared = locked(&self.prepared).remove(&spec.hash());
        let ready = match prepared {
            Some(ready) => ready,
            None => image::ready(self, &engine, scope, spec, &Progress::silent()).await?,
        };
        let traits = engine.traits().await?;
        // A remote engine's folders are not to be held from here.
        let local = engine.endpoint.socket().is_some();
        let (_making, pin) = if local { pin::of_spec(scope, spec)? } else { (None, None) };
        let parts = create::Parts {
            image: &ready.name,
            user: &ready.user,
            traits: &traits,
            subnet,
            workspace: pin.as_deref(),
            language: !ready.has_language,
        };
        let name = scope.object_name(&spec.sandbox);
        let (image, hash) = (spec.image.to_string(), spec.hash());
        let plan = create::Plan { name: &name, hash, image: &image };
        let made =
            create::container(&engine, scope, &plan, create::body(scope, spec, &parts)).await;
        let made = match (made, &pin) {
            // An engine in a mount namespace of its own.
            (Err(error), Some(pin)) if create::is_unseen(&error, pin) => {
                pin::release(pin);
                let parts = create::Parts { workspace: None, ..parts };
                create::container(&engine, scope, &plan, create::body(scope, spec, &parts)).await?
            }
            (made, _) => made?,
        };
        let known = Known {
            owner: scope.owner.clone(),
            state: Some(scope.state.clone()),
            identity: Some(ready.user.identity),
            dirs: Some(ready.dirs),
        };
        // What was there already keeps what is known of it.
        locked(&self.known).entry(made.id.clone()).or_insert(known);
        Ok(made)
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        if instance.resource == ResourceKind::Gate {
            return gate::start(self, scope, instance).await;
        }
        let (engine, _) = self.own(scope, instance).await?;
        self.hold_workspace(&engine, scope, instance).await?;
        run::start(&engine, scope, instance).await
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        if instance.resource == ResourceKind::Gate {
            return gate::stop(self, scope, instance).await;
        }
        match self.own(scope, instance).await {
            Ok((engine, _)) => remove::stop(&engine, instance).await,
            Err(BackendError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        let (engine, _) = self.own(scope, machine).await?;
        remove::stop(&engine, machine).await?;
        // The engine gives out files of a container that does not run.
        let now = observe::by_id(&engine, scope, &machine.id).await?;
        now.map(|(machine, _)| machine).ok_or_else(|| BackendError::NotRunning {
            name: machine.name.clone(),
            state: "gone".to_owned(),
        })
    }

    async fn set_aside(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        match self.own(scope, machine).await {
            Ok((engine, _)) => {
                remove::stop(&engine, machine).await?;
                let name = parse::aside(&scope.object_name(&machine.sandbox));
                remove::rename(&engine, machine, &name).await
            }
            Err(BackendError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn bring_back(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        let (engine, _) = self.own(scope, machine).await?;
        remove::rename(&engine, machine, &scope.object_name(&machine.sandbox)).await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        if instance.resource == ResourceKind::Network {
            return network::remove(&*self.engine().await?, scope, instance).await;
        }
        if instance.resource == ResourceKind::Gate {
            return gate::teardown(self, scope, instance).await;
        }
        let sidecar = instance.resource == ResourceKind::Sidecar;
        match self.own(scope, instance).await {
            Ok((engine, _)) if sidecar => sidecar::teardown(&engine, scope, instance).await?,
            Ok((engine, _)) => {
                let pin = self.pin(&engine, scope, instance).await?;
                remove::machine(&engine, instance).await?;
                limits::forget(scope, &instance.id);
                if let Some(pin) = pin {
                    // The machine that stands in its place may be made with the same.
                    pin::prune(&pin, || observe::mounted(&engine, scope)).await?;
                }
            }
            // What only it needed may have stayed, where a run was cut short.
            Err(BackendError::NotRunning { .. }) if sidecar => {
                uplink::tidy(&*self.engine().await?, scope).await?;
            }
            Err(BackendError::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        locked(&self.known).remove(&instance.id);
        Ok(())
    }

    async fn mend(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        if instance.resource == ResourceKind::Network {
            return network::remake(&*self.engine().await?, scope, instance).await;
        }
        if instance.resource == ResourceKind::Gate {
            return gate::mend(self, scope, instance).await;
        }
        let (engine, _) = self.own(scope, instance).await?;
        match observe::by_id(&engine, scope, &instance.id).await? {
            Some((_, made)) => mend::container(&engine, scope, instance, &made).await,
            None => {
                Err(BackendError::NotRunning { name: instance.name.clone(), state: "gone".into() })
            }
        }
    }

    async fn adjust(
        &self,
        scope: &Scope,
        machine: &Instance,
        resources: &Resources,
        _: &Tools,
    ) -> Result<(), BackendError> {
        let (engine, _) = self.own(scope, machine).await?;
        limits::adjust(&engine, scope, machine, resources).await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        remove::leftover(&*self.engine().await?, scope, leftover).await
    }

    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        if sidecar.resource == ResourceKind::Gate {
            return gate::load(self, scope, sidecar, document).await;
        }
        let engine = self.sidecar(scope, sidecar).await?;
        sidecar::load(&engine, scope, sidecar, document).await
    }

    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        if sidecar.resource == ResourceKind::Gate {
            return gate::state(self, scope, sidecar).await;
        }
        let engine = self.sidecar(scope, sidecar).await?;
        sidecar::state(&engine, sidecar).await
    }

    /// The file is the guest's; but where it can be read from outside, none of its programs is asked.
    async fn main_state(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<MainState>, BackendError> {
        let (engine, known) = self.own(scope, instance).await?;
        let Some(user) = known.identity else {
            return super::ask_main(self, scope, instance).await;
        };
        let read = visit::get(self, &engine, instance, &user, guest_path::MAIN, 4096);
        match tokio::time::timeout(super::ANSWERING, read).await {
            Err(_) | Ok(Err(BackendError::Failed { .. })) => Ok(None),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Some(tar))) => Ok(visit::line(&tar).as_deref().and_then(MainState::parse)),
            Ok(Ok(None)) => super::ask_main(self, scope, instance).await,
        }
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        self.own(scope, instance).await?.1.identity.ok_or_else(|| {
            BackendError::failed(
                format!("looking up the user of {}", instance.name),
                anyhow::anyhow!("its label {} is gone: remove it and apply again", labels::SET),
            )
        })
    }

    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        exec::exec(&engine, instance, spec, stdin).await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        attach::attach(&engine, instance, spec, attach).await
    }

    async fn port(
        &self,
        scope: &Scope,
        machine: &Instance,
        port: u16,
    ) -> Result<Box<dyn Port>, BackendError> {
        let (engine, _) = self.own(scope, machine).await?;
        port::open(self, engine, scope, machine, port).await
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        let (engine, known) = self.own(scope, instance).await?;
        copy::check(&upload).map_err(|e| BackendError::failed(copy::copying(instance), e))?;
        let upload = supervisor::equipped(upload)
            .map_err(|e| BackendError::failed(copy::copying(instance), e))?;
        let user = self.identity(scope, instance).await?;
        if visit::put(self, &engine, instance, &user, &upload).await? {
            return Ok(());
        }
        let dirs = known.dirs.as_ref();
        if mounted::has_mount(instance) {
            return mounted::put(&engine, scope, instance, dirs, &user, upload).await;
        }
        copy::copy_in(&engine, scope, instance, dirs, Some(&user), upload).await
    }

    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        tar: TarStream,
    ) -> Result<(), BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        let user = self.identity(scope, instance).await?;
        match visit::stream(self, &engine, instance, &user, tar).await? {
            None => Ok(()),
            // An engine goes as root wherever the guest's links lead, also into the mounted workspace.
            Some(_) if mounted::has_mount(instance) => Err(BackendError::Unsupported(format!(
                "{} has a mounted workspace and cannot be entered from here: put the files into the \
                 folder that is mounted",
                instance.name
            ))),
            Some(tar) => copy::stream_in(&engine, scope, instance, tar).await,
        }
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        let user = self.identity(scope, instance).await?;
        if let Some(tar) = visit::get(self, &engine, instance, &user, path, limit).await? {
            return Ok(tar);
        }
        if mounted::has_mount(instance) {
            return mounted::get(&engine, instance, path, limit).await;
        }
        copy::copy_out(&engine, instance, path, limit).await
    }

    async fn processes(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<Process>>, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        Ok(processes::inside(&engine, &instance.id.0))
    }

    async fn usage(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Usage>, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        usage::of(&engine, &instance.id.0).await
    }

    async fn changed(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<String>>, BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        let found = engine.client.inspect_container(&instance.id.0, None).await;
        let Ok(found) = found else { return Ok(None) };
        // What is on a volume of the image is in no layer.
        let mut mounts = found.mounts.iter().flatten();
        let runtime = found.host_config.as_ref().and_then(|config| config.runtime.as_deref());
        if mounts.any(|mount| mount.typ.as_deref() == Some("volume")) || runtime != Some("runc") {
            return Ok(None);
        }
        #[cfg(unix)]
        if engine.endpoint.socket().is_some() {
            let read = tokio::task::spawn_blocking(move || layer::paths(&found)).await;
            if let Ok(Some(paths)) = read {
                return Ok(Some(paths));
            }
        }
        let changes = engine.client.container_changes(&instance.id.0).await;
        // The engine knows whose layer is whose; what it cannot tell is kept.
        let Ok(changes) = changes else { return Ok(None) };
        Ok(Some(changes.into_iter().flatten().map(|change| change.path).collect()))
    }

    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError> {
        let (engine, _) = self.own(scope, instance).await?;
        copy::stream_out(&engine, instance, path, &tar).await
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        if instance.resource == ResourceKind::Gate {
            return gate::logs(self, scope, instance, options, out).await;
        }
        let (engine, _) = self.own(scope, instance).await?;
        logs::logs(&engine, instance, options, out).await
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        let hints = logs::events(&*self.engine().await?, scope).await?;
        Ok(gate::with_ends(hints, scope))
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        let program = self.program().await.map(drop);
        doctor::findings(self.engine().await, program, boot).await
    }
}
