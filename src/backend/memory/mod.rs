//! The seeded in-memory backend of the tests: a small virtual engine behind the same trait.
//!
//! `engine` holds what exists (`object`) and does each effect at once, `files` and `archive` are the machines'
//! file systems, `programs` the few programs they have, `faults` decides what goes wrong and who
//! runs next, and `outside` is the world beyond the reconciler: what stops, removes and breaks
//! things, and what tests read. On a single-threaded runtime, the same seed and the same calls give
//! the same history.
//!
//! It passes the same contract suite as the real backends, as far as that needs no real programs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, watch};

use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, ExecUser, Finding, Health, Hint,
    Identity, LogOptions, MainState, Observation, Progress, Scope, TarSink, TarStream, Upload,
    guest_path,
};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Instance, InstanceState, Leftover, MachineSpec, ResourceKind, Resources, Tools,
    change,
};

mod archive;
mod engine;
mod faults;
mod files;
mod object;
mod outside;
mod programs;

pub use faults::{Call, Fault, Strike, When};
pub use files::{Entry, Files, FilesError, Node};
pub use object::{Image, Labels, Left, Object};
pub use outside::Drift;

/// What is told of each call.
type Tell = dyn Fn(&Call, When) + Send + Sync;

/// Who is told of each call.
#[derive(Clone)]
struct Observer(Arc<Tell>);

/// A backend that exists only in this process. Several of them are several engines.
pub struct MemoryBackend {
    kind: BackendKind,
    engine: Mutex<engine::Engine>,
    script: Mutex<faults::Script>,
    log: Mutex<Vec<Call>>,
    observer: Mutex<Option<Observer>>,
    /// `Err`: the engine went away, for this reason.
    hints: broadcast::Sender<Result<Hint, String>>,
    revision: watch::Sender<u64>,
    hung: watch::Sender<usize>,
}

impl std::fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBackend").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Nothing is left half-done by a panic under one of these locks, so poison says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBackend {
    /// An engine without objects or images, that says it is of this kind.
    #[must_use]
    pub fn new(kind: BackendKind, seed: u64) -> Self {
        Self {
            kind,
            engine: Mutex::new(engine::Engine::new(kind, seed)),
            script: Mutex::new(faults::Script::new(seed)),
            log: Mutex::default(),
            observer: Mutex::default(),
            hints: broadcast::Sender::new(256),
            revision: watch::Sender::new(0),
            hung: watch::Sender::new(0),
        }
    }

    fn engine(&self) -> MutexGuard<'_, engine::Engine> {
        lock(&self.engine)
    }

    fn script(&self) -> MutexGuard<'_, faults::Script> {
        lock(&self.script)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Call>> {
        lock(&self.log)
    }

    fn observer(&self) -> MutexGuard<'_, Option<Observer>> {
        lock(&self.observer)
    }

    /// Says that something moved: to those who wait for events, and to those who follow a log.
    fn moved(&self, what: &str) {
        // Nobody may be listening.
        self.hints.send(Ok(Hint { what: what.to_owned() })).ok();
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// One call: others may run before and after its effect, and faults may strike. The effect is
    /// told whether it is to stop midway.
    async fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut engine::Engine, bool) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.log().push(call.clone());
        self.pass(&call, When::Before).await?;
        let midway = self.script().take(&call, When::Midway);
        let result = {
            let mut engine = self.engine();
            engine.reach()?;
            effect(&mut engine, midway.is_some())?
        };
        if call.mutating {
            let about = call.object.as_deref().unwrap_or_default();
            self.moved(&format!("{} {about}", call.name));
        }
        if let Some(strike) = midway {
            self.strike(strike).await?;
        }
        self.pass(&call, When::After).await?;
        Ok(result)
    }

    /// A point at which others may run, an observer is told, and a fault may strike.
    async fn pass(&self, call: &Call, when: When) -> Result<(), BackendError> {
        let observer = self.observer().clone();
        if let Some(Observer(tell)) = observer {
            tell(call, when);
        }
        let turns = self.script().turns();
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let strike = self.script().take(call, when);
        match strike {
            Some(strike) => self.strike(strike).await,
            None => Ok(()),
        }
    }

    async fn strike(&self, strike: Strike) -> Result<(), BackendError> {
        match strike {
            Strike::Fail(error) => Err(error),
            Strike::Hang => {
                self.hung.send_modify(|count| *count += 1);
                std::future::pending().await
            }
        }
    }

    /// Runs a program in a machine, in one effect.
    async fn run(
        &self,
        call: Call,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        self.call(call, |engine, midway| {
            let object = engine.running(scope, instance)?;
            let machine = object.spec.as_ref();
            let workdir = spec.workdir.clone().or_else(|| machine.and_then(|m| m.workdir.clone()));
            let mut env: Vec<(String, String)> =
                machine.map(|m| m.env.clone().into_iter().collect()).unwrap_or_default();
            env.extend(spec.env.iter().cloned());
            let (uid, gid, home) = match spec.user {
                ExecUser::Sandbox => (object.user.uid, object.user.gid, object.user.home.clone()),
                ExecUser::Root => (0, 0, "/root".to_owned()),
            };
            let process = programs::Process {
                files: &mut object.files,
                uid,
                gid,
                home: &home,
                workdir: workdir.as_deref().unwrap_or("/"),
                env,
                stdin,
            };
            // A program that is cut short in this machine did nothing.
            let argv = if midway { vec!["true".to_owned()] } else { spec.loading() };
            let output = programs::run(process, &argv);
            object.advance();
            Ok(output)
        })
        .await
    }
}

/// A call about an instance.
fn about(name: &'static str, instance: &Instance, mutating: bool) -> Call {
    let object = Some(instance.id.to_string());
    Call { name, sandbox: Some(instance.sandbox.clone()), object, mutating }
}

/// A call about no sandbox.
fn general(name: &'static str) -> Call {
    Call { name, sandbox: None, object: None, mutating: false }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        self.call(general("observe"), |engine, _| Ok(engine.observe(scope, depth))).await
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        let call = Call {
            name: "prepare",
            sandbox: Some(spec.sandbox.clone()),
            object: Some(spec.image.to_string()),
            mutating: true,
        };
        progress.say(&format!("fetching {}", spec.image));
        self.call(
            call,
            |engine, midway| {
                if midway { Ok(()) } else { engine.fetch(scope, &spec.image) }
            },
        )
        .await
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let call = Call {
            name: "create",
            sandbox: Some(spec.sandbox().clone()),
            object: Some(engine::object_name(scope, spec.sandbox(), spec.kind())),
            mutating: true,
        };
        self.call(call, |engine, midway| engine.create(scope, spec, midway)).await
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        self.call(about("start", instance, true), |engine, midway| {
            if engine.object(scope, instance)?.is_none() {
                return Err(engine::gone(&instance.id));
            }
            if !midway {
                engine.start(&instance.id)?;
            }
            let seen = engine.objects.get(&instance.id);
            seen.and_then(|object| engine.see(scope, object, Depth::Listing))
                .ok_or_else(|| engine::gone(&instance.id))
        })
        .await
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.call(about("stop", instance, true), |engine, midway| {
            if let Some(object) = engine.object(scope, instance)?
                && matches!(object.state, InstanceState::Running | InstanceState::Paused)
                && !midway
            {
                object.stop(Some(143));
            }
            Ok(())
        })
        .await
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        self.call(about("quiesce", machine, true), |engine, midway| {
            let object = engine.object(scope, machine)?.ok_or_else(|| engine::gone(&machine.id))?;
            let runs = matches!(object.state, InstanceState::Running | InstanceState::Paused);
            if runs && !midway {
                object.stop(Some(143));
            }
            Ok(Instance { state: object.state.clone(), boot: None, ..machine.clone() })
        })
        .await
    }

    async fn set_aside(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        self.call(about("set_aside", machine, true), |engine, midway| {
            let Some(object) = engine.object(scope, machine)? else { return Ok(()) };
            if matches!(object.state, InstanceState::Running | InstanceState::Paused) {
                object.stop(Some(143));
            }
            // It is stopped first, and may have its name still.
            if !midway && !engine::is_aside(&object.name) {
                object.name.push_str(engine::ASIDE);
            }
            Ok(())
        })
        .await
    }

    async fn bring_back(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        self.call(about("bring_back", machine, true), |engine, midway| {
            let object = engine.object(scope, machine)?;
            let object = object.ok_or_else(|| engine::gone(&machine.id))?;
            let Some(name) = object.name.strip_suffix(engine::ASIDE).map(str::to_owned) else {
                return Ok(());
            };
            if engine.objects.values().any(|object| object.name == name) {
                return Err(BackendError::Conflict { name });
            }
            if !midway && let Some(object) = engine.objects.get_mut(&machine.id) {
                object.name = name;
            }
            Ok(())
        })
        .await
    }

    async fn mend(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.call(about("mend", instance, true), |engine, midway| {
            let object = engine.object(scope, instance)?;
            let object = object.ok_or_else(|| engine::gone(&instance.id))?;
            if !midway {
                object.mendable.clear();
            }
            Ok(())
        })
        .await
    }

    async fn adjust(
        &self,
        scope: &Scope,
        machine: &Instance,
        resources: &Resources,
        _: &Tools,
    ) -> Result<(), BackendError> {
        self.call(about("adjust", machine, true), |engine, midway| {
            let kind = engine.kind;
            let object = engine.object(scope, machine)?;
            let object = object.ok_or_else(|| engine::gone(&machine.id))?;
            let Some(spec) = object.spec.as_mut().filter(|_| kind != BackendKind::Smolmachines)
            else {
                let name = &object.name;
                return Err(BackendError::Unsupported(format!("{name} keeps the limits it has")));
            };
            if !midway {
                spec.resources = Resources { disk: spec.resources.disk, ..*resources };
                if let Some(labels) = &mut object.labels
                    && let Some(hash) = labels.hash
                {
                    let (made, limits) = (&labels.fields, resources.fields());
                    let (hash, fields) = change::adjusted(kind, hash, made, &limits);
                    (labels.hash, labels.fields) = (Some(hash), fields);
                }
            }
            Ok(())
        })
        .await
    }

    async fn reread(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.call(about("reread", instance, true), |engine, midway| {
            let object = engine.running(scope, instance)?;
            if !midway {
                object.reread();
            }
            Ok(())
        })
        .await
    }

    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        self.call(about("load", sidecar, true), |engine, midway| {
            let object = engine.object(scope, sidecar)?;
            let object = object.ok_or_else(|| engine::gone(&sidecar.id))?;
            let loads = matches!(object.resource, ResourceKind::Sidecar | ResourceKind::Gate);
            if !loads || object.state != InstanceState::Running {
                let (name, state) = (object.name.clone(), format!("{:?}", object.state));
                return Err(BackendError::NotRunning { name, state });
            }
            if !midway {
                object.loaded = Some(document.to_vec());
            }
            Ok(())
        })
        .await
    }

    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        self.call(about("sidecar_state", sidecar, false), |engine, _| {
            let object = engine.object(scope, sidecar)?;
            let object = object.ok_or_else(|| engine::gone(&sidecar.id))?;
            let loaded = object.loaded.is_some();
            if let Some(said) = engine.said.get(&sidecar.sandbox) {
                return Ok(Bytes::from(said.clone()));
            }
            Ok(Bytes::from(format!("{{\"loaded\":{loaded}}}")))
        })
        .await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.call(about("teardown", instance, true), |engine, midway| {
            if engine.object(scope, instance)?.is_some() {
                engine.teardown(&instance.id, midway);
            }
            Ok(())
        })
        .await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        let object = Some(leftover.id.to_string());
        let call = Call { name: "prune", sandbox: None, object, mutating: true };
        self.call(call, |engine, midway| {
            if !midway {
                engine.prune(scope, leftover);
            }
            Ok(())
        })
        .await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        self.call(about("identity", instance, false), |engine, _| {
            // Nobody inside is asked.
            let object =
                engine.object(scope, instance)?.ok_or_else(|| engine::gone(&instance.id))?;
            Ok(object.user.clone())
        })
        .await
    }

    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        self.run(about("exec", instance, true), scope, instance, spec, stdin).await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        let mut stdin = Vec::new();
        let stdio =
            |error: std::io::Error| BackendError::failed("passing stdin and stdout on", error);
        if attach.stdin {
            let mut input = tokio::io::stdin();
            tokio::io::AsyncReadExt::read_to_end(&mut input, &mut stdin).await.map_err(stdio)?;
        }
        let call = about("attach", instance, true);
        let output = self.run(call, scope, instance, spec, stdin.into()).await?;
        tokio::io::stdout().write_all(&output.stdout).await.map_err(stdio)?;
        tokio::io::stderr().write_all(&output.stderr).await.map_err(stdio)?;
        Ok(output.code)
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        self.call(about("copy_in", instance, true), |engine, midway| {
            let failed = |error| BackendError::failed("copying in", error);
            let object = engine.running(scope, instance)?;
            let mut incoming = archive::read(&upload.tar).map_err(failed)?;
            let plain = |path: &str| path.starts_with('/') && !path.split('/').any(|p| p == "..");
            let dirs = upload.dirs.iter().map(|dir| &dir.path);
            if let Some(path) = upload.wipe.iter().chain(dirs).find(|path| !plain(path)) {
                return Err(failed(FilesError::NotAbsolute(path.clone()).into()));
            }
            for path in &upload.wipe {
                object.files.remove(path).map_err(|error| failed(error.into()))?;
            }
            for dir in &upload.dirs {
                let folder = Entry::folder(dir.mode, dir.uid, dir.gid);
                let made = object.files.make_folder(&dir.path, folder);
                made.map_err(|error| failed(error.into()))?;
            }
            if midway {
                incoming.truncate(incoming.len() / 2);
            }
            archive::unpack(&mut object.files, incoming).map_err(failed)?;
            object.advance();
            Ok(())
        })
        .await
    }

    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        mut tar: TarStream,
    ) -> Result<(), BackendError> {
        let mut all = Vec::new();
        while let Some(part) = tar.recv().await {
            all.extend_from_slice(&part.map_err(|e| BackendError::failed("copying in", e))?);
        }
        self.copy_in(scope, instance, Upload { tar: all.into(), ..Upload::default() }).await
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        self.call(about("copy_out", instance, false), |engine, _| {
            let object = engine.running(scope, instance)?;
            archive::pack(&object.files, path, limit)
                .map_err(|error| BackendError::failed(format!("copying {path} out"), error))
        })
        .await
    }

    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError> {
        // As an engine does it, also of what does not run.
        let read = |engine: &mut engine::Engine, _| {
            let object =
                engine.object(scope, instance)?.ok_or_else(|| engine::gone(&instance.id))?;
            archive::pack(&object.files, path, u64::MAX)
                .map_err(|error| BackendError::failed(format!("copying {path} out"), error))
        };
        let all = self.call(about("stream_out", instance, false), read).await?;
        drop(tar.send(all).await);
        Ok(())
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        let written = |error: std::io::Error| BackendError::failed("writing the log", error);
        if options.timed() {
            return Err(BackendError::Unsupported("the log in memory has no times".to_owned()));
        }
        let mut revision = self.revision.subscribe();
        let read = |engine: &mut engine::Engine, _| {
            let object =
                engine.object(scope, instance)?.ok_or_else(|| engine::gone(&instance.id))?;
            Ok((object.log.clone(), object.state == InstanceState::Running))
        };
        let (log, mut running) = self.call(about("logs", instance, false), read).await?;
        let mut shown = log.len();
        out.write_all(tail(&log, options.tail)).await.map_err(written)?;
        out.flush().await.map_err(written)?;
        while options.follow && running {
            // The sender is ours, so it is never gone.
            revision.changed().await.ok();
            let (log, still) = match read(&mut self.engine(), false) {
                Ok(read) => read,
                Err(BackendError::NotRunning { .. }) => break,
                Err(error) => return Err(error),
            };
            out.write_all(&log[shown.min(log.len())..]).await.map_err(written)?;
            out.flush().await.map_err(written)?;
            (shown, running) = (log.len(), still);
        }
        Ok(())
    }

    async fn main_state(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<MainState>, BackendError> {
        // As the default does it, but known to change nothing.
        let spec = ExecSpec::new(["cat", guest_path::MAIN]);
        let call = about("main_state", instance, false);
        let output = self.run(call, scope, instance, &spec, Bytes::new()).await?;
        Ok(std::str::from_utf8(&output.stdout).ok().and_then(MainState::parse))
    }

    async fn events(
        &self,
        _scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        let hints = self.hints.subscribe();
        self.call(general("events"), |_, _| Ok(())).await?;
        let backend = self.kind;
        let next = move |hints: Option<broadcast::Receiver<Result<Hint, String>>>| async move {
            let mut hints = hints?;
            match hints.recv().await {
                Ok(Ok(hint)) => Some((Ok(hint), Some(hints))),
                Ok(Err(reason)) => Some((Err(BackendError::Unreachable { backend, reason }), None)),
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    Some((Ok(Hint { what: format!("{count} events were missed") }), Some(hints)))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        };
        Ok(stream::unfold(Some(hints), next).boxed())
    }

    async fn doctor(&self, _boot: bool) -> Vec<Finding> {
        let reached = self.call(general("doctor"), |_, _| Ok(())).await;
        let (health, detail) = match reached {
            Ok(()) => (Health::Works, "it is a part of this process".to_owned()),
            Err(error) => (Health::Broken, error.to_string()),
        };
        vec![Finding { what: "engine".to_owned(), health, detail, fix: None }]
    }
}

/// The last `lines` lines.
fn tail(log: &[u8], lines: Option<u64>) -> &[u8] {
    let Some(lines) = lines else { return log };
    let body = log.strip_suffix(b"\n").unwrap_or(log);
    let mut left = lines;
    let start = body.iter().rposition(|byte| {
        left -= u64::from(*byte == b'\n' && left > 0);
        left == 0 && *byte == b'\n'
    });
    match (lines, start) {
        (0, _) => &[],
        (_, Some(newline)) => &log[newline + 1..],
        (_, None) => log,
    }
}

#[cfg(test)]
mod tests;
