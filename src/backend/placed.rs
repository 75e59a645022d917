//! A backend to which sandboxes that were renamed are still under the names that it made them with: see
//! [`Places`](crate::model::Places). What it shows of itself is by place, and `Places::assign` says whose it is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

use super::port::Port;
use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, MainState, Observation, Process, Progress, Scope, TarSink, TarStream, Upload,
};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Instance, InstanceId, Leftover, MachineSpec, Resources, SandboxId, Tools, Usage,
};

/// A backend that is told places where sandboxes are meant.
pub struct Placed(Arc<dyn Backend>);

impl Placed {
    /// This backend, told so.
    pub fn around(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        Arc::new(Self(backend))
    }
}

/// An instance as its backend knows it.
fn inward(instance: &Instance) -> Instance {
    let mut own = instance.clone();
    if let Some(place) = own.place.take() {
        own.sandbox = place;
    }
    own
}

/// One that a backend gave back, as the rest of us knows it.
fn outward(sandbox: &SandboxId, mut given: Instance) -> Instance {
    if given.sandbox != *sandbox {
        given.place = Some(std::mem::replace(&mut given.sandbox, sandbox.clone()));
    }
    given
}

fn machine(scope: &Scope, spec: &MachineSpec) -> MachineSpec {
    MachineSpec { sandbox: scope.places.of(&spec.sandbox).clone(), ..spec.clone() }
}

#[async_trait]
impl Backend for Placed {
    fn kind(&self) -> BackendKind {
        self.0.kind()
    }

    fn lingers(&self) -> Duration {
        self.0.lingers()
    }

    async fn settle(&self, scope: &Scope) {
        self.0.settle(scope).await;
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        self.0.observe(scope, depth).await
    }

    async fn stamp(&self, scope: &Scope, seen: &[Instance]) -> Option<u64> {
        self.0.stamp(scope, &seen.iter().map(inward).collect::<Vec<_>>()).await
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        self.0.prepare(scope, &machine(scope, spec), progress).await
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let mut own = spec.clone();
        match &mut own {
            ResourceSpec::Network(own) => own.sandbox = scope.places.of(&own.sandbox).clone(),
            ResourceSpec::Sidecar(own) => own.sandbox = scope.places.of(&own.sandbox).clone(),
            ResourceSpec::Gate(own) => own.sandbox = scope.places.of(&own.sandbox).clone(),
            ResourceSpec::Machine(own) => own.sandbox = scope.places.of(&own.sandbox).clone(),
        }
        Ok(outward(spec.sandbox(), self.0.create(scope, &own).await?))
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        let started = self.0.start(scope, &inward(instance)).await?;
        Ok(outward(&instance.sandbox, started))
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.0.stop(scope, &inward(instance)).await
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        let quiet = self.0.quiesce(scope, &inward(machine)).await?;
        Ok(outward(&machine.sandbox, quiet))
    }

    async fn hands_over(
        &self,
        scope: &Scope,
        instance: &Instance,
        next: &MachineSpec,
        paths: &[String],
    ) -> Result<bool, BackendError> {
        self.0.hands_over(scope, &inward(instance), &machine(scope, next), paths).await
    }

    async fn hand_over(
        &self,
        scope: &Scope,
        old: &InstanceId,
        machine: &Instance,
        paths: &[String],
    ) -> Result<(), BackendError> {
        self.0.hand_over(scope, old, &inward(machine), paths).await
    }

    async fn set_aside(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        self.0.set_aside(scope, &inward(machine)).await
    }

    async fn bring_back(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        self.0.bring_back(scope, &inward(machine)).await
    }

    async fn mend(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.0.mend(scope, &inward(instance)).await
    }

    async fn adjust(
        &self,
        scope: &Scope,
        machine: &Instance,
        resources: &Resources,
        tools: &Tools,
    ) -> Result<(), BackendError> {
        self.0.adjust(scope, &inward(machine), resources, tools).await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.0.teardown(scope, &inward(instance)).await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        self.0.prune(scope, leftover).await
    }

    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        self.0.load(scope, &inward(sidecar), document).await
    }

    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        self.0.sidecar_state(scope, &inward(sidecar)).await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        self.0.identity(scope, &inward(instance)).await
    }

    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        self.0.exec(scope, &inward(instance), spec, stdin).await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        self.0.attach(scope, &inward(instance), spec, attach).await
    }

    async fn port(
        &self,
        scope: &Scope,
        machine: &Instance,
        port: u16,
    ) -> Result<Box<dyn Port>, BackendError> {
        self.0.port(scope, &inward(machine), port).await
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        self.0.copy_in(scope, &inward(instance), upload).await
    }

    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        tar: TarStream,
    ) -> Result<(), BackendError> {
        self.0.stream_in(scope, &inward(instance), tar).await
    }

    async fn processes(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<Process>>, BackendError> {
        self.0.processes(scope, &inward(instance)).await
    }

    async fn usage(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Usage>, BackendError> {
        self.0.usage(scope, &inward(instance)).await
    }

    async fn changed(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<String>>, BackendError> {
        self.0.changed(scope, &inward(instance)).await
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        self.0.copy_out(scope, &inward(instance), path, limit).await
    }

    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError> {
        self.0.stream_out(scope, &inward(instance), path, tar).await
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        self.0.logs(scope, &inward(instance), options, out).await
    }

    async fn main_state(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<MainState>, BackendError> {
        self.0.main_state(scope, &inward(instance)).await
    }

    async fn reread(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.0.reread(scope, &inward(instance)).await
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        self.0.events(scope).await
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        self.0.doctor(boot).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::backend::labels::tests;
    use crate::backend::memory::MemoryBackend;
    use crate::model::{Places, ResourceKind, SandboxId};

    #[tokio::test]
    async fn a_backend_is_told_the_place() {
        let id = |name: &str| SandboxId::new(name).unwrap();
        let memory = Arc::new(MemoryBackend::new(BackendKind::Docker, 1));
        memory.add_image("node:22", Default::default());
        let placed = Placed::around(memory.clone());
        let mut scope = tests::scope();
        scope.places.rename(&id("linus"), &id("grace"));
        let spec = ResourceSpec::Machine(tests::machine(BackendKind::Docker, "grace"));
        let made = placed.create(&scope, &spec).await.unwrap();
        assert_eq!((&made.sandbox, &made.place), (&id("grace"), &Some(id("linus"))));
        let started = placed.start(&scope, &made).await.unwrap();
        assert_eq!((&started.sandbox, &started.place), (&made.sandbox, &made.place));
        let mut seen = memory.observe(&scope, Depth::Listing).await.unwrap().instances;
        assert_eq!((seen[0].sandbox.as_str(), seen[0].resource), ("linus", ResourceKind::Machine));
        scope.places.assign(&mut seen);
        assert_eq!((&seen[0].sandbox, &seen[0].place), (&made.sandbox, &made.place));
        // Under its own name it is another one's.
        scope.places = Places::default();
        let other = placed.create(&scope, &spec).await.unwrap();
        assert_eq!((other.place.is_none(), other.id != made.id), (true, true));
        placed.teardown(&scope, &made).await.unwrap();
        let seen = memory.observe(&scope, Depth::Listing).await.unwrap().instances;
        assert_eq!(seen.iter().map(|i| &i.id).collect::<Vec<_>>(), [&other.id]);
    }

    /// The functions of a trait or of an implementation, by the text of its file.
    fn functions(text: &'static str, after: &str) -> BTreeSet<&'static str> {
        let at = text.find(after).expect("it is in its file");
        let body = &text[at..];
        let body = &body[..body.find("\n}\n").expect("it ends")];
        let names = body.lines().filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            let line = line.strip_prefix("async ").unwrap_or(line);
            line.strip_prefix("fn ")?.split(['(', '<']).next()
        });
        names.collect()
    }

    /// One that it left to the trait's own answer would never reach the backend.
    #[test]
    fn it_hands_on_all_that_a_backend_can_do() {
        let all = functions(include_str!("mod.rs"), "pub trait Backend");
        assert!(all.len() > 20, "{all:?}");
        assert_eq!(functions(include_str!("placed.rs"), "impl Backend for Placed"), all);
    }
}
