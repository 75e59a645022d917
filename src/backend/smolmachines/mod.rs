//! MicroVMs of the `smolvm` program, driven by its command line.
//!
//! The program keeps the machines; their labels are the truth about what exists, and one listing
//! shows them all. `command` is the one place that starts it, `version` knows what it can do,
//! `parse` and `labels` are pure. A machine comes to be in `image`, `create` and `run`; `guest`
//! sets each run of it up before `exec`, `copy` and `logs` work in it. `orphans` knows the calls of a
//! `bottle` that was killed.
//!
//! A machine has no network, unless it has a sidecar (`sidecar`): then every connection ends there.
#![expect(clippy::disallowed_methods, reason = "a backend is effects")]

mod command;
mod copy;
mod create;
mod doctor;
mod exec;
mod guest;
mod image;
mod labels;
mod logs;
mod observe;
mod orphans;
mod parse;
mod port;
mod record;
mod run;
mod sidecar;
mod version;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

pub use command::Settings;

use super::docker::Docker;
use super::hostside::Program;
use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, Observation, Progress, Scope, TarSink, TarStream, Upload,
};
use crate::backend::port::Port;
use crate::model::spec::ResourceSpec;
use crate::model::{BackendKind, Instance, InstanceId, Leftover, MachineSpec, ResourceKind};

/// The smolmachines backend. Making one starts nothing and looks for nothing.
#[derive(Clone)]
pub struct Smolmachines {
    settings: Arc<Settings>,
    /// Where images come from that only the local engine has.
    docker: Arc<Docker>,
    /// What is known of the guests.
    guests: Arc<Mutex<HashMap<InstanceId, guest::Guest>>>,
    locks: Arc<Mutex<HashMap<String, Lock>>>,
    /// What sidecars are.
    program: Program,
}

type Lock = Arc<tokio::sync::Mutex<()>>;

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these locks is never half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Smolmachines {
    /// The program that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(Settings::from_env(), Docker::from_env())
    }

    /// The program that `settings` name, with images from `docker`.
    #[must_use]
    pub fn new(settings: Settings, docker: Docker) -> Self {
        let program = settings.sidecar_program.as_deref().map_or_else(Program::this, Program::at);
        Self {
            program,
            settings: Arc::new(settings),
            docker: Arc::new(docker),
            guests: Arc::default(),
            locks: Arc::default(),
        }
    }

    /// Calls on one machine, or on one image, do not overlap.
    fn lock(&self, name: &str) -> Lock {
        locked(&self.locks).entry(name.to_owned()).or_default().clone()
    }
}

#[async_trait]
impl Backend for Smolmachines {
    fn kind(&self) -> BackendKind {
        BackendKind::Smolmachines
    }

    async fn settle(&self, scope: &Scope) {
        orphans::settled(scope, orphans::BEFORE_ACTING).await;
        run::settle(self, scope).await;
    }

    /// The listing shows all that can be seen: there is nothing deeper.
    async fn observe(&self, scope: &Scope, _depth: Depth) -> Result<Observation, BackendError> {
        observe::observe(self, scope).await
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        sidecar::check(spec, version::of(&self.settings, scope).await?)?;
        doctor::can_boot()?;
        create::check_mount(spec)?;
        image::ready(self, scope, spec, progress).await.map(drop)
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let spec = match spec {
            ResourceSpec::Machine(spec) => spec,
            ResourceSpec::Sidecar(spec) => return sidecar::create(self, scope, spec).await,
            ResourceSpec::Network(_) | ResourceSpec::Gate(_) => {
                return Err(BackendError::Unsupported(format!(
                    "the smolmachines backend makes no {}",
                    spec.kind()
                )));
            }
        };
        let version = version::of(&self.settings, scope).await?;
        sidecar::check(spec, version)?;
        create::check_mount(spec)?;
        let source = image::ready(self, scope, spec, &Progress::silent()).await?;
        create::machine(self, scope, spec, version, &source).await
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        match instance.resource {
            ResourceKind::Sidecar => sidecar::start(self, scope, instance).await,
            _ => run::start(self, scope, instance).await,
        }
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        match instance.resource {
            ResourceKind::Sidecar => sidecar::stop(self, scope, instance).await,
            _ => run::stop(self, scope, instance).await,
        }
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        run::quiesce(self, scope, machine).await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        match instance.resource {
            ResourceKind::Sidecar => sidecar::teardown(self, scope, instance).await,
            _ => run::teardown(self, scope, instance).await,
        }
    }

    async fn mend(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        sidecar::mend(self, scope, instance).await
    }

    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        sidecar::load(self, scope, sidecar, document).await
    }

    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        sidecar::state(self, scope, sidecar).await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        image::prune(self, scope, leftover).await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        let (now, set) = observe::own(self, scope, instance).await?;
        if let Some(guest) = guest::known(self, scope, &now) {
            return Ok(guest.identity());
        }
        let (now, _) = observe::running(self, scope, &now).await?;
        Ok(guest::ready(self, scope, &now, &set).await?.identity())
    }

    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        exec::exec(self, scope, instance, spec, stdin).await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        exec::attach(self, scope, instance, spec, attach).await
    }

    async fn port(
        &self,
        scope: &Scope,
        machine: &Instance,
        port: u16,
    ) -> Result<Box<dyn Port>, BackendError> {
        observe::running(self, scope, machine).await?;
        let (backend, scope, machine) = (self.clone(), scope.clone(), machine.clone());
        Ok(Box::new(port::OfMicroVm { backend, scope, machine, port }))
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        copy::copy_in(self, scope, instance, upload).await
    }

    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        tar: TarStream,
    ) -> Result<(), BackendError> {
        copy::stream_in(self, scope, instance, tar).await
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        copy::copy_out(self, scope, instance, path, limit).await
    }

    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError> {
        copy::stream_out(self, scope, instance, path, tar).await
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        match instance.resource {
            ResourceKind::Sidecar => sidecar::logs(self, scope, instance, options, out).await,
            _ => logs::logs(self, scope, instance, options, out).await,
        }
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        logs::events(self, scope).await
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        doctor::findings(self, boot).await
    }
}
