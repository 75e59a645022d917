//! Sandboxes of Linux namespaces, made by `bottle` itself: no daemon, no image to fetch, no program
//! to install.
//!
//! One file a concern, in the order in which a sandbox comes to be: `create` writes its folder
//! (`state`), `call` starts the helper (`helper`, `wire`, `sealed`), `start` makes its first process, `init`,
//! which puts its view together (`namespaces`, `mounts`, `base`, `etc`, `image`), gives up every right
//! (`caps`, `landlock`, `seccomp`; `limits` were set before) and stays. `enter`, `pump`, `program` and
//! `copy` work in one that runs; `observe` and `log` read what is on the host. All that is unsafe is
//! in `sys`.

#![expect(clippy::disallowed_methods, reason = "a backend is effects")]

pub mod astray;
mod base;
mod call;
mod caps;
mod copy;
mod create;
mod doctor;
mod enter;
mod etc;
mod events;
mod exec;
mod fence;
pub mod filesystem;
pub(in crate::backend) mod gate;
mod handover;
mod helper;
mod holes;
mod ids;
mod image;
mod init;
mod inside;
mod landlock;
mod limits;
mod log;
mod main_process;
mod maker;
mod mounts;
mod namespaces;
mod observe;
mod port;
mod program;
mod pump;
mod quiesce;
mod remove;
mod sealed;
mod seccomp;
mod sidecar;
mod start;
mod state;
mod status;
mod stray;
mod sys;
mod times;
mod usage;
pub(in crate::backend) mod visit;
mod wire;

pub(in crate::backend) use sidecar::{cgroup_of, remove_cgroups, set_apart};

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;
use tokio::sync::OnceCell;

use self::call::Helper;
use self::limits::Cgroups;
use self::observe::Found;
use self::state::{Folder, Mode, Store};
use self::wire::{Request, Target};
use super::hostside::{Program, Role};
use super::port::Port;
use super::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, MainState, Observation, Progress, Scope, TarSink, TarStream, Upload, guest_path,
};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Instance, InstanceId, InstanceState, Leftover, MachineSpec, Ownership,
    ResourceKind, Resources, SandboxId, Tools, Usage, change, tool,
};

/// How long what should take milliseconds may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How much of a tar goes on at once.
const PIECE: usize = 64 << 10;

/// How long files may take on their way in or out, but for a stream: whoever feeds that one looks
/// after it.
const COPYING: Duration = Duration::from_secs(600);

/// Does the helper's work and ends the process, if this process was started for that. A program that
/// uses this backend calls it first thing, before it has a second thread.
pub fn helper_main() {
    helper::run_if_asked();
}

/// Closes every descriptor but the first three. A process that outlives its starter calls it before it opens
/// any of its own.
pub fn close_inherited() {
    sys::close_all_but(&[0, 1, 2]);
}

/// The native backend.
#[derive(Debug)]
pub struct Native {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    helper: Helper,
    /// What sidecars are.
    program: Program,
    digests: base::Digests,
    /// Whether namespaces can be made here; asked once.
    works: OnceCell<Result<(), String>>,
}

impl Default for Native {
    fn default() -> Self {
        Self::new()
    }
}

impl Native {
    /// With this very program as its helper.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Helper::this_program(), Program::this())
    }

    /// With another build of the program as its helper: for tests, whose own program has another
    /// `main`.
    #[must_use]
    pub fn with_helper(program: &Path) -> Self {
        Self::with(Helper::at(program), Program::at(program))
    }

    fn with(helper: Helper, program: Program) -> Self {
        Self {
            shared: Arc::new(Shared {
                helper,
                program,
                digests: base::Digests::default(),
                works: OnceCell::new(),
            }),
        }
    }

    /// Has its init run.
    async fn run(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("starting", move |shared| {
            let what = format!("starting {}", instance.name);
            let (folder, found) = find(&scope, &instance)?;
            let mode = found.record.as_ref().map(|record| record.mode);
            check_mode(mode).map_err(|why| BackendError::failed(&what, why))?;
            let data = scope.data.canonicalize().unwrap_or_else(|_| scope.data.clone());
            let hidden = scope.hidden.iter().cloned().chain([data]).collect();
            let folder_path =
                folder.path().canonicalize().map_err(|error| BackendError::failed(&what, error))?;
            let mark = stray::marks(&scope).mark(&instance.sandbox);
            let request = Request::Start { folder: folder_path, hidden, mark };
            shared.helper.call(&what, &request, &[], mode, Some(DEADLINE))?;
            shared.attach(&scope, &instance.sandbox)?;
            let found = observe::look(&folder, &host_boot()?);
            Ok(observe::instance(&scope, instance.sandbox, &found))
        })
        .await
    }

    /// Does blocking work elsewhere.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Shared) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|panic| Err(BackendError::failed(what, panic)))
    }
}

/// Which of the two it is that stands beside a machine.
fn role_of(instance: &Instance) -> Result<Role, BackendError> {
    Role::of(instance.resource).ok_or_else(|| {
        BackendError::Unsupported(format!("{} is neither a sidecar nor a gate", instance.name))
    })
}

/// Of an instance: its folder, and what is in it now.
fn find(scope: &Scope, instance: &Instance) -> Result<(Folder, Found), BackendError> {
    let gone = || BackendError::NotRunning { name: instance.name.clone(), state: "gone".into() };
    let store = Store::of(scope);
    let mut folder = store.sandbox(&instance.sandbox);
    let aside = store.aside(&instance.sandbox);
    // Known by its id, wherever it stands by now.
    let is_it = |record: &state::Record| record.id == instance.id.0;
    if aside.record().ok().flatten().as_ref().is_some_and(is_it) {
        folder = aside;
    }
    if !folder.path().exists() {
        return Err(gone());
    }
    let found = observe::look(&folder, &host_boot()?);
    let now = observe::instance(scope, instance.sandbox.clone(), &found);
    if let InstanceState::Unknown(why) = &found.state
        && !matches!(instance.state, InstanceState::Unknown(_))
    {
        // Not gone: what cannot be read now is not acted on.
        let why = anyhow::anyhow!(why.clone());
        return Err(BackendError::failed(format!("looking at {}", instance.name), why));
    }
    if now.id != instance.id {
        return Err(gone());
    }
    if now.ownership != Ownership::Ours {
        return Err(BackendError::Conflict { name: now.name });
    }
    Ok((folder, found))
}

fn host_boot() -> Result<String, BackendError> {
    state::host_boot().map_err(|error| BackendError::failed("reading the host's boot id", error))
}

/// What inits of a sandbox bear. One that was set aside has none: what bears its sandbox's mark by now is the
/// machine in its place.
fn mark(scope: &Scope, sandbox: &SandboxId, folder: &Folder) -> String {
    let mark = stray::marks(scope).mark(sandbox);
    if folder.path() == Store::of(scope).aside(sandbox).path() { mark + ".aside" } else { mark }
}

/// Gives a sandbox's folder another name, which survives a power cut.
fn rename(from: &Folder, to: &Folder, store: &Store) -> anyhow::Result<()> {
    anyhow::ensure!(!to.path().exists(), "{} exists", to.path().display());
    std::fs::rename(from.path(), to.path())
        .with_context(|| format!("giving it the name {}", to.path().display()))?;
    Ok(File::open(store.path())?.sync_all()?)
}

/// Of an instance that has to run: what to enter.
fn running(scope: &Scope, instance: &Instance) -> Result<(Target, OwnedFd), BackendError> {
    let stopped = |state: &str| BackendError::NotRunning {
        name: instance.name.clone(),
        state: state.to_owned(),
    };
    let (_, found) = find(scope, instance)?;
    let (Some(record), Some(run)) = (found.record, found.run) else {
        return Err(stopped("not started"));
    };
    if found.state != InstanceState::Running {
        return Err(stopped("stopped"));
    }
    let init = enter::init_of(&run)
        .map_err(|error| BackendError::failed("looking for its init", error))?
        .ok_or_else(|| stopped("stopped"))?;
    Ok((Target { record, run }, init))
}

/// Other limits for a sandbox, running or not. What it has of cgroups holds at once; a process's own
/// limits, where there is no cgroup, hold for what is started from now on. Its tools are
/// shown where they lie now when it starts the next time.
fn adjust(
    folder: &Folder,
    found: Found,
    resources: &Resources,
    tools: Tools,
) -> anyhow::Result<()> {
    let record = found.record.context("its record machine.json is missing")?;
    let resources = Resources { disk: record.resources.disk, ..*resources };
    if found.state == InstanceState::Running {
        let cgroups = Cgroups::discover().of(&record.id);
        cgroups.make_room(&resources)?;
        cgroups.set(&resources)?;
    }
    let mut changed = resources.fields();
    for (name, found) in &tools {
        changed.set(tool::field(name), found.to_string());
    }
    let (hash, fields) =
        change::adjusted(BackendKind::Native, record.hash, &record.fields, &changed);
    let record = state::Record { resources, tools, hash, fields, ..record };
    state::write_json(&folder.join(state::MACHINE), &record).context("writing its record")
}

/// Removes a folder of ours with all that is in it, whatever a sandbox has made of it.
fn remove_folder(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match File::open(parent) {
        Ok(parent) => inside::remove_tree(parent.as_fd(), name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a folder that others may look for: it has no name of meaning any more before it has lost
/// anything, so that nobody takes what is left of it for the whole.
fn discard(store: &Store, path: &Path) -> io::Result<()> {
    let scratch = store.scratch("removing")?;
    match std::fs::rename(path, &scratch) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.and_then(|()| remove_folder(&scratch)),
    }
}

/// An anonymous file with these bytes, to be read from its beginning.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("bottle", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[async_trait]
impl Backend for Native {
    fn kind(&self) -> BackendKind {
        BackendKind::Native
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        let (what, scope) = ("observing native sandboxes", scope.clone());
        self.blocking(what, move |shared| {
            let failed = |error| BackendError::failed(what, error);
            let mut observation = observe::observe(&scope, depth).map_err(failed)?;
            for role in Role::ALL {
                let beside = sidecar::observe(shared.beside(role, &scope), &scope);
                observation.instances.extend(beside.map_err(failed)?);
            }
            observation.facts.no_gates = gate::missing();
            stray::observe(&scope, &mut observation).map_err(failed)?;
            Ok(observation)
        })
        .await
    }

    async fn stamp(&self, scope: &Scope, seen: &[Instance]) -> Option<u64> {
        let scope = scope.clone();
        let seen: Vec<_> = seen
            .iter()
            .filter(|instance| instance.backend == BackendKind::Native)
            .map(observe::Seen::of)
            .collect();
        let look = move |_: &Shared| Ok(observe::stamp(&scope, &seen));
        self.blocking("looking at native sandboxes", look).await.ok()
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        let (scope, spec, progress) = (scope.clone(), spec.clone(), progress.clone());
        let works = self
            .shared
            .works
            .get_or_init(|| async {
                let probed = self.blocking("trying to make namespaces", |shared| {
                    shared
                        .helper
                        .call(
                            "trying",
                            &Request::Probe,
                            &[],
                            Some(namespaces::mode()),
                            Some(DEADLINE),
                        )
                        .map(drop)
                });
                probed.await.map_err(|error| {
                    std::error::Error::source(&error)
                        .map_or_else(|| error.to_string(), ToString::to_string)
                })
            })
            .await;
        if let Err(why) = works {
            return Err(BackendError::Unsupported(format!(
                "native sandboxes cannot be made here: {why}"
            )));
        }
        self.blocking("preparing", move |shared| {
            create::check(&scope, &spec)?;
            image::ensure(&shared.helper, &Store::of(&scope), &spec.image, &progress).map_err(
                |error| BackendError::Image {
                    image: spec.image.to_string(),
                    reason: format!("{error:#}"),
                },
            )
        })
        .await
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        events::moving();
        let scope = scope.clone();
        let spec = match spec {
            ResourceSpec::Machine(spec) => spec.clone(),
            ResourceSpec::Sidecar(_) | ResourceSpec::Gate(_) => {
                let spec = spec.clone();
                let role =
                    if spec.kind() == ResourceKind::Gate { Role::Gate } else { Role::Sidecar };
                let make = move |shared: &Shared| shared.beside(role, &scope).create(&spec);
                return self.blocking("creating what is beside a machine", make).await;
            }
            ResourceSpec::Network(_) => {
                return Err(BackendError::Unsupported(format!(
                    "the native backend makes no {}: a machine's network is a part of it",
                    spec.kind()
                )));
            }
        };
        let (scope, spec) = (scope.clone(), spec.clone());
        self.blocking("creating", move |shared| {
            let name = scope.object_name(&spec.sandbox);
            let folder = Store::of(&scope).sandbox(&spec.sandbox);
            let what = format!("creating {name}");
            let look = |id: &SandboxId| -> Result<Instance, BackendError> {
                Ok(observe::instance(&scope, id.clone(), &observe::look(&folder, &host_boot()?)))
            };
            if !folder.path().exists() {
                create::create(&scope, &spec, &shared.digests)
                    .map_err(|error| BackendError::failed(&what, error))?;
                return look(&spec.sandbox);
            }
            let there = look(&spec.sandbox)?;
            if there.ownership != Ownership::Ours {
                return Err(BackendError::Conflict { name });
            }
            if there.hash != Some(ResourceSpec::Machine(spec).hash()) {
                let why = anyhow::anyhow!("it exists, made from another spec");
                return Err(BackendError::failed(what, why));
            }
            Ok(there)
        })
        .await
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        events::moving();
        if let Some(role) = Role::of(instance.resource) {
            return self.start_beside(role, scope, instance).await;
        }
        let started = self.run(scope, instance).await?;
        let (there, of) = (scope.clone(), instance.clone());
        let looking = move |_: &Shared| find(&there, &of).map(|(folder, _)| folder);
        let folder = self.blocking("looking at a machine", looking).await?;
        if quiesce::is_held_back(&folder) {
            let tar = quiesce::ready().map_err(|e| BackendError::failed("making an archive", e))?;
            self.copy_in(scope, instance, Upload { tar, ..Upload::default() }).await?;
            let what = format!("letting the command of {} run again", instance.name);
            quiesce::forget(&folder).map_err(|error| BackendError::failed(what, error))?;
        }
        Ok(started)
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        events::moving();
        let (scope, instance) = (scope.clone(), instance.clone());
        if let Some(role) = Role::of(instance.resource) {
            let end = move |shared: &Shared| {
                let was_in = sidecar::cgroup_of(shared.beside(role, &scope), &instance);
                let cgroups = || sidecar::remove_cgroups(&instance, was_in.as_deref());
                shared.beside(role, &scope).stop(&instance, cgroups)
            };
            return self.blocking("stopping what is beside a machine", end).await;
        }
        self.blocking("stopping", move |_| match find(&scope, &instance) {
            Ok((folder, found)) => {
                let mark = stray::marks(&scope).mark(&instance.sandbox);
                remove::stop(&folder, &mark, &found).map_err(|error| {
                    BackendError::failed(format!("stopping {}", instance.name), error)
                })
            }
            Err(BackendError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        events::moving();
        let (there, of) = (scope.clone(), machine.clone());
        let what = format!("ending what runs in {}", machine.name);
        let failed = move |error| BackendError::failed(what.clone(), error);
        let begin = {
            let failed = failed.clone();
            move |_: &Shared| {
                let (folder, found) = find(&there, &of)?;
                let runs = found.state == InstanceState::Running;
                let held = match runs {
                    true => quiesce::remember(&folder),
                    false => quiesce::hold_back(&folder),
                };
                held.map_err(|error| failed(error.into()))?;
                Ok(runs)
            }
        };
        if !self.blocking("looking at a machine", begin).await? {
            return self.run(scope, machine).await;
        }
        let wipe = vec![guest_path::READY.to_owned()];
        self.copy_in(scope, machine, Upload { wipe, ..Upload::default() }).await?;
        let (there, of) = (scope.clone(), machine.clone());
        let quiet = self.blocking("ending what runs", move |_| {
            let (folder, _) = find(&there, &of)?;
            let (target, init) = running(&there, &of)?;
            let is_quiet = quiesce::quiesce(&folder, &target.run, &init, &target.record.id);
            if !is_quiet.map_err(failed)? {
                return Ok(None);
            }
            let found = observe::look(&folder, &host_boot()?);
            Ok(Some(observe::instance(&there, of.sandbox, &found)))
        });
        match quiet.await? {
            Some(quiet) => Ok(quiet),
            // Whatever stands in init's way ends with it.
            None => {
                self.stop(scope, machine).await?;
                self.run(scope, machine).await
            }
        }
    }

    async fn hands_over(
        &self,
        scope: &Scope,
        machine: &Instance,
        next: &MachineSpec,
        paths: &[String],
    ) -> Result<bool, BackendError> {
        let (scope, machine) = (scope.clone(), machine.clone());
        let (next, paths) = (next.clone(), paths.to_vec());
        self.blocking("looking at what is kept", move |_| {
            let (folder, found) = find(&scope, &machine)?;
            let Some(record) = found.record else { return Ok(false) };
            handover::is_possible(&Store::of(&scope), &folder, &record, &next, &paths).map_err(
                |error| {
                    BackendError::failed(format!("looking at what {} has", machine.name), error)
                },
            )
        })
        .await
    }

    async fn hand_over(
        &self,
        scope: &Scope,
        old: &InstanceId,
        machine: &Instance,
        paths: &[String],
    ) -> Result<(), BackendError> {
        let (scope, machine) = (scope.clone(), machine.clone());
        let (old, paths) = (old.clone(), paths.to_vec());
        self.blocking("moving what is kept", move |_| {
            let (folder, found) = find(&scope, &machine)?;
            let what = format!("moving what was kept into {}", machine.name);
            let failed = |error| BackendError::failed(&what, error);
            let aside = Store::of(&scope).aside(&machine.sandbox);
            let record = aside.record().map_err(|error| failed(error.into()))?;
            let is_old = record.is_some_and(|record| record.id == old.0);
            if found.state != InstanceState::Created || !is_old {
                return Err(failed(anyhow::anyhow!("it is not in the place of {old}")));
            }
            handover::hand_over(&aside, &old.0, &folder, &paths).map_err(failed)
        })
        .await
    }

    async fn set_aside(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        events::moving();
        let (scope, machine) = (scope.clone(), machine.clone());
        self.blocking("setting a machine aside", move |_| match find(&scope, &machine) {
            Ok((folder, found)) => {
                let store = Store::of(&scope);
                let aside = store.aside(&machine.sandbox);
                if folder.path() == aside.path() {
                    return Ok(());
                }
                let mark = mark(&scope, &machine.sandbox, &folder);
                let done = remove::stop(&folder, &mark, &found)
                    .and_then(|()| rename(&folder, &aside, &store));
                let what = format!("setting {} aside", machine.name);
                done.map_err(|error| BackendError::failed(what, error))
            }
            Err(BackendError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn bring_back(&self, scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        events::moving();
        let (scope, machine) = (scope.clone(), machine.clone());
        self.blocking("bringing a machine back", move |_| {
            let (folder, _) = find(&scope, &machine)?;
            let store = Store::of(&scope);
            let own = store.sandbox(&machine.sandbox);
            if folder.path() == own.path() {
                return Ok(());
            }
            let what = format!("bringing {} back", machine.name);
            rename(&folder, &own, &store).map_err(|error| BackendError::failed(what, error))
        })
        .await
    }

    async fn mend(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("mending", move |shared| {
            if instance.mendable.iter().any(|field| field.path == status::MAIN) {
                let (folder, found) = find(&scope, &instance)?;
                let mended = found.run.map_or(Ok(()), |run| folder.mend_status(&run));
                let what = format!("mending {}", folder.join(status::MAIN).display());
                mended.map_err(|error| BackendError::failed(what, error))?;
            }
            if instance.mendable.iter().any(|field| field.path.starts_with("resources.")) {
                let (_, found) = find(&scope, &instance)?;
                let set = found.record.map_or(Ok(()), |record| {
                    Cgroups::discover().of(&record.id).set(&record.resources)
                });
                let what = format!("setting the limits of {}", instance.name);
                set.map_err(|error| BackendError::failed(what, error))?;
            }
            shared.attach(&scope, &instance.sandbox)
        })
        .await
    }

    async fn adjust(
        &self,
        scope: &Scope,
        machine: &Instance,
        resources: &Resources,
        tools: &Tools,
    ) -> Result<(), BackendError> {
        let (scope, machine, resources) = (scope.clone(), machine.clone(), *resources);
        let tools = tools.clone();
        self.blocking("changing limits", move |_| {
            let (folder, found) = find(&scope, &machine)?;
            let what = format!("changing the limits of {}", machine.name);
            adjust(&folder, found, &resources, tools)
                .map_err(|error| BackendError::failed(what, error))
        })
        .await
    }

    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        let (scope, instance) = (scope.clone(), sidecar.clone());
        let role = role_of(&instance)?;
        self.blocking("loading what is beside a machine", move |shared| {
            shared.beside(role, &scope).own(&instance)?.load(&document)
        })
        .await
    }

    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        let (scope, instance) = (scope.clone(), sidecar.clone());
        let role = role_of(&instance)?;
        self.blocking("asking what is beside a machine", move |shared| {
            shared.beside(role, &scope).own(&instance)?.state().map(Bytes::from)
        })
        .await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        events::moving();
        let (scope, instance) = (scope.clone(), instance.clone());
        if let Some(role) = Role::of(instance.resource) {
            let end = move |shared: &Shared| {
                let was_in = sidecar::cgroup_of(shared.beside(role, &scope), &instance);
                let cgroups = || sidecar::remove_cgroups(&instance, was_in.as_deref());
                shared.beside(role, &scope).teardown(&instance, cgroups)
            };
            return self.blocking("tearing down what is beside a machine", end).await;
        }
        self.blocking("tearing down", move |_| match find(&scope, &instance) {
            _ if stray::is_lost(&instance.id) => {
                let what = format!("tearing {} down", instance.name);
                stray::end_lost(&scope, &instance, remove::DYING)
                    .map_err(|error| BackendError::failed(what, error))
            }
            Ok((folder, found)) => {
                let what = format!("tearing {} down", instance.name);
                let mark = mark(&scope, &instance.sandbox, &folder);
                remove::teardown(&Store::of(&scope), &folder, &mark, &found)
                    .map_err(|error| BackendError::failed(what, error))
            }
            Err(BackendError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        let (scope, leftover) = (scope.clone(), leftover.clone());
        self.blocking("pruning", move |_| {
            remove::prune(&scope, &leftover)
                .map_err(|error| BackendError::failed(format!("removing {}", leftover.name), error))
        })
        .await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("asking who its user is", move |_| {
            let (_, found) = find(&scope, &instance)?;
            let user = found.record.map(|record| record.user).ok_or_else(|| {
                BackendError::NotRunning { name: instance.name.clone(), state: "broken".into() }
            })?;
            Ok(Identity { uid: user.uid, gid: user.gid, home: user.home })
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
        let (scope, instance, spec) = (scope.clone(), instance.clone(), spec.clone());
        let cancel = exec::Cancel::default();
        let slot = cancel.slot();
        self.blocking("running a command", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("running a command in {}", instance.name);
            let helper = &shared.helper;
            exec::Command { helper, what, target, init, spec, slot }.captured(&stdin)
        })
        .await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        let (scope, instance, spec) = (scope.clone(), instance.clone(), spec.clone());
        let cancel = exec::Cancel::default();
        let slot = cancel.slot();
        self.blocking("running a command", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("running a command in {}", instance.name);
            let helper = &shared.helper;
            exec::Command { helper, what, target, init, spec, slot }.attached(attach)
        })
        .await
    }

    async fn port(
        &self,
        scope: &Scope,
        machine: &Instance,
        port: u16,
    ) -> Result<Box<dyn Port>, BackendError> {
        let of = (scope.clone(), machine.clone());
        self.blocking("looking at a sandbox", move |_| running(&of.0, &of.1).map(drop)).await?;
        let native = Self { shared: self.shared.clone() };
        let (scope, machine) = (scope.clone(), machine.clone());
        Ok(Box::new(port::OfSandbox { native, scope, machine, port }))
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("copying files in", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("copying files into {}", instance.name);
            let tar = in_memory(&upload.tar).map_err(|error| BackendError::failed(&what, error))?;
            let dirs =
                upload.dirs.into_iter().map(|dir| (dir.path, dir.uid, dir.gid, dir.mode)).collect();
            let request = Request::CopyIn { target, wipe: upload.wipe, dirs };
            let fds = [init.as_fd(), tar.as_fd()];
            shared.helper.call(&what, &request, &fds, None, Some(COPYING)).map(drop)
        })
        .await
    }

    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        mut tar: TarStream,
    ) -> Result<(), BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        let cancel = exec::Cancel::default();
        let slot = cancel.slot();
        self.blocking("copying files in", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("copying files into {}", instance.name);
            let failed = |error: io::Error| BackendError::failed(&what, error);
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| failed(error.into()))?;
            // Ends when the tar does, or when nobody reads it any more.
            let writer = std::thread::spawn(move || -> io::Result<()> {
                let mut pipe = File::from(write);
                while let Some(part) = tar.blocking_recv() {
                    pipe.write_all(&part?)?;
                }
                Ok(())
            });
            let fds = [init.as_fd(), read.as_fd()];
            let request = Request::StreamIn { target };
            let done = shared.helper.begin(&what, &request, &fds, None, None).and_then(|call| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                    call.socket().try_clone().ok();
                call.answer()
            });
            drop(read);
            let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            // The reader's reason first: a writer that finds no reader has none of its own.
            done.and_then(|_| written.map_err(failed))
        })
        .await
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        let (scope, instance, path) = (scope.clone(), instance.clone(), path.to_owned());
        self.blocking("copying files out", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("copying {path} out of {}", instance.name);
            let failed = |error: io::Error| BackendError::failed(&what, error);
            let mut tar = in_memory(&[]).map_err(failed)?;
            let request = Request::CopyOut { target, path, limit };
            let fds = [init.as_fd(), tar.as_fd()];
            shared.helper.call(&what, &request, &fds, None, Some(COPYING))?;
            let mut bytes = Vec::new();
            tar.rewind().and_then(|()| tar.read_to_end(&mut bytes)).map_err(failed)?;
            Ok(bytes.into())
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
        let (scope, instance, path) = (scope.clone(), instance.clone(), path.to_owned());
        let cancel = exec::Cancel::default();
        let slot = cancel.slot();
        self.blocking("copying files out", move |shared| {
            let (target, init) = running(&scope, &instance)?;
            let what = format!("copying {path} out of {}", instance.name);
            let failed = |error: io::Error| BackendError::failed(&what, error);
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| failed(error.into()))?;
            // Ends when the tar does. Whether all of it was taken: else the writer finds no reader.
            let reader = std::thread::spawn(move || -> io::Result<bool> {
                let mut pipe = File::from(read);
                loop {
                    let mut piece = BytesMut::zeroed(PIECE);
                    let count = pipe.read(&mut piece)?;
                    piece.truncate(count);
                    if count == 0 {
                        return Ok(true);
                    }
                    if tar.blocking_send(piece.freeze()).is_err() {
                        return Ok(false);
                    }
                }
            });
            let request = Request::CopyOut { target, path, limit: u64::MAX };
            let fds = [init.as_fd(), write.as_fd()];
            let call = shared.helper.begin(&what, &request, &fds, None, None);
            // The helper's end is the last.
            drop(write);
            let done = call.and_then(|call| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                    call.socket().try_clone().ok();
                call.answer()
            });
            let passed = reader.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            match passed {
                Ok(true) => done.map(drop),
                Ok(false) => Ok(()),
                Err(error) => done.and_then(|_| Err(failed(error))),
            }
        })
        .await
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        if let Some(role) = Role::of(instance.resource) {
            let record = self.shared.beside(role, scope).own(instance)?.record_of();
            return record.show(options, out).await;
        }
        let (folder, found) = find(scope, instance)?;
        let init = match &found.run {
            Some(run) => enter::init_of(run)
                .map_err(|error| BackendError::failed("looking for its init", error))?,
            None => None,
        };
        let alive = || init.as_ref().is_some_and(enter::alive);
        match log::show(&folder, options, alive, out).await {
            // Nobody reads on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| {
                BackendError::failed(format!("reading the log of {}", instance.name), error)
            }),
        }
    }

    async fn main_state(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<MainState>, BackendError> {
        let (folder, found) = find(scope, instance)?;
        if found.state != InstanceState::Running {
            let state = "stopped".to_owned();
            return Err(BackendError::NotRunning { name: instance.name.clone(), state });
        }
        // What init wrote through its descriptor: nothing inside can write there.
        Ok(MainState::parse(&folder.status().0))
    }

    async fn usage(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Usage>, BackendError> {
        let (folder, found) = find(scope, instance)?;
        let running = found.run.filter(|_| found.state == InstanceState::Running);
        let record = folder.record().ok().flatten();
        let (Some(run), Some(record)) = (running, record) else { return Ok(None) };
        self.blocking("counting what a sandbox uses", move |_| {
            let cgroups = Cgroups::discover().of(&record.id);
            Ok(Some(usage::of(&record, &cgroups, run.pid)))
        })
        .await
    }

    async fn reread(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("restarting a command", move |_| {
            let (_, init) = running(&scope, &instance)?;
            rustix::process::pidfd_send_signal(&init, status::LOOK_AGAIN).map_err(|error| {
                BackendError::failed(format!("restarting the command of {}", instance.name), error)
            })
        })
        .await
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        events::events(scope)
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        let found = self.blocking("looking at this machine", move |shared| {
            Ok(doctor::findings(&shared.helper))
        });
        let mut findings = found.await.unwrap_or_default();
        if boot {
            findings.push(doctor::boot(self).await);
        }
        findings
    }
}

/// A sandbox that root made has files of many owners; one that a user made, of that user.
fn check_mode(mode: Option<Mode>) -> anyhow::Result<()> {
    let able = namespaces::mode();
    match mode {
        Some(Mode::Root { .. }) if able == Mode::Rootless => Err(anyhow::anyhow!(
            "it was made by root, whose rights this process does not have: run bottle as root"
        )),
        _ => Ok(()),
    }
}
