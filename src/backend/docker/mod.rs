//! Containers of a Docker engine, over its HTTP API.
//!
//! A machine is one container: hardened, without a network, with a small main process of our own
//! (`main.sh`) that starts and restarts the bottle's command. The labels on it are the truth about
//! what exists; nothing is remembered about containers but what saves a call.

mod attach;
mod auth;
mod connect;
mod copy;
mod create;
mod doctor;
mod engine;
mod error;
mod exec;
mod facts;
mod feed;
mod image;
mod labels;
mod logs;
mod observe;
mod parse;
mod remove;
mod rootfs;
mod run;
mod settings;
mod tarball;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

pub use connect::Settings;
use engine::Engine;
use facts::Cache;

use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, Observation, Progress, Scope, Upload,
};
use crate::model::spec::ResourceSpec;
use crate::model::{BackendKind, Instance, InstanceId, Leftover, MachineSpec, Ownership, SpecHash};

/// The engine's network that is none.
const NO_NETWORK: &str = "none";

/// What is known of a machine and saves a call.
#[derive(Debug, Clone)]
struct Known {
    identity: Identity,
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
            settings,
            engine: tokio::sync::Mutex::default(),
            caches: Mutex::default(),
            image_locks: Mutex::default(),
            prepared: Mutex::default(),
            known: Mutex::default(),
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

    fn image_lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        locked(&self.image_locks).entry(name.to_owned()).or_default().clone()
    }

    fn with_cache<T>(&self, scope: &Scope, work: impl FnOnce(&mut Cache) -> T) -> T {
        let mut caches = locked(&self.caches);
        work(caches.entry(scope.data.clone()).or_insert_with(|| Cache::load(scope)))
    }

    fn remember(&self, sets: impl IntoIterator<Item = (InstanceId, labels::Set)>) {
        let mut known = locked(&self.known);
        for (id, set) in sets {
            known.entry(id).or_insert_with(|| Known { identity: set.identity(), dirs: None });
        }
    }

    fn known(&self, id: &InstanceId) -> Option<Known> {
        locked(&self.known).get(id).cloned()
    }
}

/// An act on what is not ours is refused, whoever asks for it.
fn ours(instance: &Instance) -> Result<(), BackendError> {
    match instance.ownership {
        Ownership::Ours => Ok(()),
        _ => Err(BackendError::Conflict { name: instance.name.clone() }),
    }
}

#[async_trait]
impl Backend for Docker {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        let engine = self.engine().await?;
        let mut seen = observe::listing(&engine, scope).await?;
        if depth == Depth::Deep {
            observe::deepen(&engine, &mut seen).await?;
        }
        let root_images = self.with_cache(scope, |cache| cache.root_images());
        seen.observation.facts.root_images = root_images;
        self.remember(seen.sets);
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
        let ready = image::ready(self, &engine, scope, spec, progress).await?;
        locked(&self.prepared).insert(spec.hash(), ready);
        Ok(())
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let ResourceSpec::Machine(spec) = spec else {
            return Err(BackendError::Unsupported(format!(
                "the docker backend makes machines only, and {} of {} is none",
                spec.kind(),
                spec.sandbox()
            )));
        };
        let engine = self.engine().await?;
        create::check_mount(&engine, spec)?;
        let prepared = locked(&self.prepared).remove(&spec.hash());
        let ready = match prepared {
            Some(ready) => ready,
            None => image::ready(self, &engine, scope, spec, &Progress::silent()).await?,
        };
        let traits = engine.traits();
        let parts = create::Parts { image: &ready.name, user: &ready.user, traits: &traits };
        let body = create::body(scope, spec, &parts);
        let made = create::machine(&engine, scope, spec, body).await?;
        let known = Known { identity: ready.user.identity, dirs: Some(ready.dirs) };
        locked(&self.known).insert(made.id.clone(), known);
        Ok(made)
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        ours(instance)?;
        run::start(&*self.engine().await?, scope, instance).await
    }

    async fn mend(&self, _scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        ours(instance)?;
        run::disconnect(&*self.engine().await?, instance).await
    }

    async fn teardown(&self, _scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        ours(instance)?;
        remove::machine(&*self.engine().await?, instance).await?;
        locked(&self.known).remove(&instance.id);
        Ok(())
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        remove::leftover(&*self.engine().await?, scope, leftover).await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        if let Some(known) = self.known(&instance.id) {
            return Ok(known.identity);
        }
        let set = observe::set_of(&*self.engine().await?, scope, instance).await?;
        let identity = set.identity();
        self.remember([(instance.id.clone(), set)]);
        Ok(identity)
    }

    async fn exec(
        &self,
        _scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        exec::exec(&*self.engine().await?, instance, spec, stdin).await
    }

    async fn attach(
        &self,
        _scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        attach::attach(&*self.engine().await?, instance, spec, attach).await
    }

    async fn copy_in(
        &self,
        _scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        let known = self.known(&instance.id).and_then(|known| known.dirs);
        copy::copy_in(&*self.engine().await?, instance, known.as_ref(), upload).await
    }

    async fn copy_out(
        &self,
        _scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        copy::copy_out(&*self.engine().await?, instance, path, limit).await
    }

    async fn logs(
        &self,
        _scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        logs::logs(&*self.engine().await?, instance, options, out).await
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        logs::events(&*self.engine().await?, scope).await
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        doctor::findings(self.engine().await, boot).await
    }
}
