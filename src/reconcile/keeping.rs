//! What outlives a machine: a snapshot before it goes, and back into the one that follows it; or, where the backend
//! can, the folders themselves, moved from one to the other.
//!
//! Between the two machines a record says what is on its way (`carried`).

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;

use super::carried::{Carried, Way, is_in};
use super::state::{TreeState, now};
use super::view::View;
use crate::apply::{Keeper, Receipts as _};
use crate::backend::{Backend, BackendError, Backends, ExecSpec, Scope, Upload, guest_path};
use crate::model::kept::lies_in;
use crate::model::{
    Bounds, Desired, GuestSpec, Instance, InstanceId, InstanceState, Kept, MachineSpec, Receipt,
    SandboxId, Why, WorkspaceMode,
};
use crate::work::snapshot::{
    Occasion, On, Planned, Store, Surveyed, hand_on, pack, pass_on, survey,
};

/// How long it may take to start what does not run, so that its files can be read.
const START: Duration = Duration::from_secs(300);

/// Keeps the work of a tree's agents.
pub(super) struct Keeping<'a> {
    memory: &'a TreeState,
    desired: &'a Desired,
    /// What there was when it was looked.
    observed: &'a [Instance],
    backends: &'a Backends,
    /// `None`: nothing is kept.
    bounds: Option<Bounds>,
    commit: Option<&'a str>,
    /// Those of which this run moves what is kept.
    moving: Mutex<BTreeSet<SandboxId>>,
    /// Those in which this run has ended what ran.
    quiet: Mutex<BTreeSet<InstanceId>>,
}

impl<'a> Keeping<'a> {
    pub(super) fn of(view: &'a View, backends: &'a Backends) -> Self {
        let commit = view.revision.commit.as_deref();
        let (memory, desired) = (&view.memory, &view.desired);
        let (observed, bounds) = (view.observed.instances.as_slice(), desired.tree.snapshots);
        let (moving, quiet) = (Mutex::default(), Mutex::default());
        Self { memory, desired, observed, backends, bounds, commit, moving, quiet }
    }
}

#[async_trait]
impl Keeper for Keeping<'_> {
    async fn keep(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        kept: &Kept,
        next: Option<&MachineSpec>,
    ) -> anyhow::Result<()> {
        let done = self.kept(backend, scope, machine, kept, next).await;
        if done.is_err() {
            self.resume(backend, scope, machine).await;
        }
        done
    }

    async fn resume(&self, backend: &dyn Backend, scope: &Scope, machine: &Instance) {
        if !lock(&self.quiet).remove(&machine.id) {
            return;
        }
        let again = match machine.state {
            InstanceState::Running | InstanceState::Paused => {
                backend.start(scope, machine).await.map(drop)
            }
            // It was read, and no more.
            _ => backend.stop(scope, machine).await,
        };
        if let Err(error) = again {
            tracing::warn!(machine = %machine.name, %error, "it does not run as it did");
        }
    }

    async fn hand_over(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
    ) -> anyhow::Result<()> {
        // A record may be of an earlier run, whose machine came back since.
        if !lock(&self.moving).contains(&machine.sandbox) {
            return Ok(());
        }
        let Some(mut carried) = self.memory.carried_of(&machine.sandbox)? else { return Ok(()) };
        let Some(Way::Moved { paths, into }) = &mut carried.way else { return Ok(()) };
        backend.hand_over(scope, &carried.machine, machine, paths).await?;
        *into = Some(machine.id.clone());
        Ok(self.memory.carry(&machine.sandbox, Some(&carried))?)
    }

    async fn carry(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        guest: &GuestSpec,
    ) -> anyhow::Result<Option<Receipt>> {
        let Some(carried) = self.memory.carried_of(&guest.sandbox)? else { return Ok(None) };
        match &carried.way {
            Some(Way::Moved { paths, into }) => {
                let target = guest.workspace.as_ref().map(|workspace| &*workspace.target);
                let workspace = carried.workspace && target.is_some_and(|at| is_in(at, paths));
                // What it was moved out of, or into, may have been removed by hand.
                let is_there = into.as_ref() == Some(&machine.id);
                let receipt = is_there.then(|| carried.all(machine, guest, workspace));
                let to = On { backend, machine };
                return self.arrived(scope, to, guest, &carried, receipt).await;
            }
            Some(Way::Read(planned)) => {
                let to = On { backend, machine };
                return self.read(scope, &carried, planned, to, guest).await;
            }
            None => {}
        }
        let store = Store::of(self.memory.dir());
        let snapshot = store.find(&carried.snapshot).with_context(|| {
            let name = &guest.sandbox;
            format!("without it {name} starts anew by `--discard {name}`")
        })?;
        let meta = snapshot.meta.clone().map_err(anyhow::Error::msg);
        let meta = meta.with_context(|| format!("reading {}", snapshot.path.display()))?;
        let workspace = carried.takes_workspace(&meta, guest);
        match hand_on(&snapshot, &meta, backend, scope, machine, workspace).await {
            // No later attempt can do it. Nothing is lost: the snapshot stays.
            Err(error) if is_unsupported(&error) => {
                not_taken(&guest.sandbox, &carried.snapshot, &error);
                let to = On { backend, machine };
                return self.arrived(scope, to, guest, &carried, None).await;
            }
            done => done?,
        }
        let receipt = carried.work(machine, guest, workspace);
        let to = On { backend, machine };
        self.arrived(scope, to, guest, &carried, Some(receipt)).await
    }
}

fn lock<T>(names: &Mutex<BTreeSet<T>>) -> MutexGuard<'_, BTreeSet<T>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What says that a workspace was copied in, and when.
fn marker(at: u64) -> std::io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(at);
        header
    };
    let name = guest_path::WORKSPACE_DONE.trim_start_matches('/');
    if let Some((folder, _)) = name.rsplit_once('/') {
        let mut header = header(tar::EntryType::Directory, 0o755);
        tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
    }
    tar.append_data(&mut header(tar::EntryType::Regular, 0o644), name, std::io::empty())?;
    Ok(tar.into_inner()?.into())
}

/// A backend, and on whose behalf it is called.
#[derive(Clone, Copy)]
struct At<'a> {
    backend: &'a dyn Backend,
    scope: &'a Scope,
}

impl Keeping<'_> {
    /// Keeps what there is.
    async fn kept(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        kept: &Kept,
        next: Option<&MachineSpec>,
    ) -> anyhow::Result<()> {
        let Some(bounds) = self.bounds else { return Ok(()) };
        // What is on its way from an earlier machine is not in this one: it stays on its way.
        let on_its_way = self.memory.carried_of(&machine.sandbox)?;
        let of_another = on_its_way.as_ref().is_some_and(|one| one.machine != machine.id);
        let why = if of_another { Why::Teardown } else { kept.why };
        let store = Store::of(self.memory.dir());
        let now = now();
        let pinned: Vec<String> =
            self.memory.carried()?.0.into_values().map(|carried| carried.snapshot).collect();
        let (beyond, room) = store.beyond(&machine.sandbox, why, bounds, now, &pinned)?;
        let occasion = Occasion {
            why,
            what: kept.what.clone(),
            when: now,
            commit: self.commit.map(str::to_owned),
            // The machine that follows has all of it.
            all: why == Why::Replace,
            receipt: self.memory.receipt(&machine.id)?,
            room,
        };
        let at = At { backend, scope };
        // Asked while it runs.
        let workspace = why == Why::Replace && self.has_workspace(at, machine, &occasion).await;
        let copied_at = match workspace {
            true => self.copied_at(at, machine).await,
            false => None,
        };
        let (quiet, surveyed) = match self.surveyed(at, machine, &occasion).await? {
            Some(found) => found,
            None if of_another => return Ok(()),
            None => return self.memory.carry(&machine.sandbox, None),
        };
        let next = next.filter(|_| why == Why::Replace);
        let way = async {
            let way = match next {
                Some(next) => self.way(at, &quiet, next, &occasion, &surveyed).await?,
                None => None,
            };
            if way.is_some() {
                return anyhow::Ok((way, None));
            }
            let planned = surveyed.planned(scope, &quiet, &occasion);
            let taken = pack(&store, backend, scope, &quiet, planned, room).await?;
            Ok((None, Some(taken.id.to_string())))
        };
        let (way, taken) = way.await?;
        if of_another {
            return Ok(());
        }
        let is_in_snapshot = taken.is_some();
        let carried = (why == Why::Replace).then(|| Carried {
            machine: machine.id.clone(),
            snapshot: taken.unwrap_or_default(),
            way,
            workspace,
            copied_at,
            receipt: occasion.receipt,
        });
        self.memory.carry(&machine.sandbox, carried.as_ref())?;
        if matches!(&carried, Some(Carried { way: Some(Way::Moved { .. }), .. })) {
            lock(&self.moving).insert(machine.sandbox.clone());
        }
        if !is_in_snapshot {
            return Ok(());
        }
        // Only now that the new one is there, and remembered.
        for id in &beyond {
            tracing::warn!(snapshot = %id, "an older snapshot goes: `snapshots` of bottle.yaml bounds them");
        }
        store.let_go(&beyond)
    }

    /// Remembers what is in a machine now, and that nothing is on its way to it any more.
    async fn arrived(
        &self,
        scope: &Scope,
        to: On<'_>,
        guest: &GuestSpec,
        carried: &Carried,
        receipt: Option<Receipt>,
    ) -> anyhow::Result<Option<Receipt>> {
        if let Some(receipt) = &receipt {
            // As where it was copied: whoever loses the receipt is not to copy it again.
            if receipt.workspace
                && let Some(at) = carried.copied_at
            {
                let upload = Upload { tar: marker(at)?, ..Upload::default() };
                let marked = to.backend.copy_in(scope, to.machine, upload).await;
                marked.context("saying that the workspace is a copy")?;
            }
            self.memory.put(receipt, true)?;
        }
        self.memory.carry(&guest.sandbox, None)?;
        Ok(receipt)
    }

    /// Puts in what the old machine has, which was set aside.
    async fn read(
        &self,
        scope: &Scope,
        carried: &Carried,
        planned: &Planned,
        to: On<'_>,
        guest: &GuestSpec,
    ) -> anyhow::Result<Option<Receipt>> {
        let name = &guest.sandbox;
        let old = self.observed.iter().find(|instance| instance.id == carried.machine);
        let backend = old.and_then(|old| self.backends.get(&old.backend));
        let (old, backend) = old.zip(backend).with_context(|| {
            format!(
                "the machine {} of {name}, which was set aside, is gone, and what it had with it: {name} starts \
                 anew by `--discard {name}`",
                carried.machine
            )
        })?;
        let from = On { backend: backend.as_ref(), machine: old };
        let workspace = carried.takes_workspace(&planned.meta, guest);
        match pass_on(scope, from, planned, to, workspace).await {
            // No later attempt can do it.
            Err(error) if is_unsupported(&error) => {
                let (store, room) = (Store::of(self.memory.dir()), u64::MAX);
                let planned = planned.clone();
                let taken = pack(&store, from.backend, scope, old, planned, room).await?;
                not_taken(name, &taken.id.to_string(), &error);
                return self.arrived(scope, to, guest, carried, None).await;
            }
            done => done?,
        }
        let receipt = carried.all(to.machine, guest, workspace);
        self.arrived(scope, to, guest, carried, Some(receipt)).await
    }

    /// What a machine has that is kept, and the machine, in which nothing runs any more. `None`: nothing.
    async fn surveyed(
        &self,
        at: At<'_>,
        machine: &Instance,
        occasion: &Occasion,
    ) -> anyhow::Result<Option<(Instance, Surveyed)>> {
        match survey(at.backend, at.scope, machine, occasion).await {
            Err(error) if is_down(&error) => {
                let quiet = self.quieted(at, machine).await?;
                let surveyed = survey(at.backend, at.scope, &quiet, occasion).await?;
                Ok(surveyed.map(|surveyed| (quiet, surveyed)))
            }
            // It is stopped all the same, and may be the first to be written to when it is asked to end.
            Ok(None) if occasion.why == Why::Replace && at.backend.kind().quiesces() => {
                let quiet = self.quieted(at, machine).await?;
                let surveyed = survey(at.backend, at.scope, &quiet, occasion).await?;
                Ok(surveyed.map(|surveyed| (quiet, surveyed)))
            }
            Ok(None) => Ok(None),
            Ok(Some(surveyed)) => Ok(Some((self.quieted(at, machine).await?, surveyed))),
            Err(error) => Err(error),
        }
    }

    /// Ends what runs in a machine: what was written from now on would be nowhere.
    async fn quieted(&self, at: At<'_>, machine: &Instance) -> anyhow::Result<Instance> {
        if !at.backend.kind().quiesces() {
            return match machine.state {
                InstanceState::Running => Ok(machine.clone()),
                _ => up(at.backend, at.scope, machine).await,
            };
        }
        lock(&self.quiet).insert(machine.id.clone());
        // Where it stays after all, it is to be provisioned: that has its command run.
        if let Some(receipt) = self.memory.receipt(&machine.id)?
            && receipt.guest.is_some()
        {
            self.memory.put(&Receipt { guest: None, ..receipt }, true)?;
        }
        let quiet = tokio::time::timeout(START, at.backend.quiesce(at.scope, machine)).await;
        let quiet = quiet.map_err(|_| BackendError::Deadline {
            what: "ending what runs in it".to_owned(),
            seconds: START.as_secs(),
        })?;
        quiet.context("ending what runs in it, so that nothing is written after it was kept")
    }

    /// How what a machine has comes into the next one without a snapshot, where all of it does.
    async fn way(
        &self,
        at: At<'_>,
        machine: &Instance,
        next: &MachineSpec,
        occasion: &Occasion,
        surveyed: &Surveyed,
    ) -> anyhow::Result<Option<Way>> {
        let paths = surveyed.paths();
        // A copy of the workspace that was cut short is nobody's work, and one of another folder stays behind.
        let workspace = machine.copied_workspace();
        let is_whole = occasion.receipt.as_ref().is_some_and(|receipt| receipt.workspace);
        let wanted = self.desired.sandboxes.get(&machine.sandbox);
        let wanted = wanted.and_then(|spec| spec.workspace.as_ref());
        let from = occasion.receipt.as_ref().and_then(|receipt| receipt.copied_from.as_ref());
        let same_folder = wanted.filter(|wanted| {
            wanted.mode == WorkspaceMode::Copy && from.is_none_or(|from| *from == wanted.path)
        });
        if workspace.is_some_and(|path| is_in(path, &paths)) && !(is_whole && same_folder.is_some())
        {
            return Ok(None);
        }
        // What a folder of the host would cover stays in a snapshot.
        let before = machine.mounts();
        let covered = |mount: &String| {
            let relates = |path: &String| lies_in(path, mount) || lies_in(mount, path);
            !before.contains(&mount.as_str()) && paths.iter().any(relates)
        };
        if next.mounts().iter().any(covered) {
            return Ok(None);
        }
        let stays = workspace == same_folder.map(|wanted| wanted.target.as_str());
        if next.backend == machine.backend
            && stays
            && at.backend.hands_over(at.scope, machine, next, &paths).await?
        {
            return Ok(Some(Way::Moved { paths, into: None }));
        }
        if !machine.backend.reads_aside() {
            return Ok(None);
        }
        let mut planned = surveyed.clone().planned(at.scope, machine, occasion);
        // An agent may have files of its own in them, which would be nowhere else.
        planned.meta.delivered.clear();
        Ok(Some(Way::Read(Box::new(planned))))
    }

    /// When the workspace of a machine was copied in.
    async fn copied_at(&self, at: At<'_>, machine: &Instance) -> Option<u64> {
        let marker = guest_path::WORKSPACE_DONE;
        let tar = at.backend.copy_out(at.scope, machine, marker, 1 << 16).await.ok()?;
        let mut archive = tar::Archive::new(tar.as_ref());
        archive.entries().ok()?.next()?.ok()?.header().mtime().ok()
    }

    /// Whether the copy of a machine's workspace was made to its end.
    async fn has_workspace(&self, at: At<'_>, machine: &Instance, occasion: &Occasion) -> bool {
        match &occasion.receipt {
            Some(receipt) if receipt.workspace => true,
            _ if machine.state != InstanceState::Running => false,
            // As provisioning tells it where a receipt is lost.
            _ => {
                let probe = ExecSpec::new(["test", "-e", guest_path::WORKSPACE_DONE]);
                let marked = at.backend.exec(at.scope, machine, &probe, Bytes::new()).await;
                marked.is_ok_and(|marked| marked.code == 0)
            }
        }
    }
}

/// Says that a machine does not take what was kept, which is in this snapshot.
fn not_taken(sandbox: &SandboxId, id: &str, error: &anyhow::Error) {
    tracing::warn!(
        sandbox = %sandbox, error = %format!("{error:#}"),
        "what was kept of the old machine cannot go into the new one: `bottle snapshot restore {id} --to DIR` takes it \
         out"
    );
}

fn is_down(error: &anyhow::Error) -> bool {
    let down = |cause: &BackendError| matches!(cause, BackendError::NotRunning { .. });
    error.chain().any(|cause| cause.downcast_ref().is_some_and(down))
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    let unsupported = |cause: &BackendError| matches!(cause, BackendError::Unsupported(_));
    error.chain().any(|cause| cause.downcast_ref().is_some_and(unsupported))
}

/// Starts a machine so that its files can be read.
async fn up(backend: &dyn Backend, scope: &Scope, machine: &Instance) -> anyhow::Result<Instance> {
    let started = tokio::time::timeout(START, backend.start(scope, machine)).await;
    let started = started.map_err(|_| BackendError::Deadline {
        what: "starting it, so that its files can be read,".to_owned(),
        seconds: START.as_secs(),
    })?;
    let started = started.context("starting it, so that its files can be read")?;
    Ok(Instance { state: InstanceState::Running, ..started })
}
