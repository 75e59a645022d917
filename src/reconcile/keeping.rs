//! What outlives a machine: a snapshot before it goes, and back into the one that follows it.
//!
//! Between the two machines a record says what is on its way (`carried/<sandbox>.json` in the tree's state
//! folder): a run that is cut short there goes on with the next pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::state::{TreeState, now};
use super::view::View;
use crate::apply::{Keeper, Receipts as _};
use crate::backend::{Backend, BackendError, ExecSpec, Scope, guest_path};
use crate::model::{
    Bounds, Desired, Diagnostic, Fields, GuestSpec, Instance, InstanceId, InstanceState, Kept,
    Receipt, SandboxId, Why,
};
use crate::work::snapshot::{Occasion, Store, hand_on, take};

/// How long it may take to start what does not run, so that its files can be read.
const START: Duration = Duration::from_secs(300);

/// What is on its way from one machine of a sandbox to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The machine that it comes from.
    pub machine: InstanceId,
    /// The snapshot that it is in.
    pub snapshot: String,
    /// What had been put into that machine.
    pub receipt: Option<Receipt>,
    /// Whether the copy of its workspace had been made to the end: half of one is nobody's work.
    pub workspace: bool,
}

impl Carried {
    /// The sandbox has another name now.
    pub(super) fn rename(&mut self, from: &SandboxId, to: &SandboxId) {
        let time =
            self.snapshot.strip_prefix(from.as_str()).and_then(|rest| rest.strip_prefix('/'));
        if let Some(time) = time {
            self.snapshot = format!("{to}/{time}");
        }
        if let Some(receipt) = &mut self.receipt {
            receipt.sandbox = to.clone();
        }
    }
}

/// Keeps the work of a tree's agents.
pub(super) struct Keeping<'a> {
    memory: &'a TreeState,
    /// `None`: nothing is kept.
    bounds: Option<Bounds>,
    commit: Option<&'a str>,
}

impl<'a> Keeping<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let commit = view.revision.commit.as_deref();
        Self { memory: &view.memory, bounds: view.desired.tree.snapshots, commit }
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
        let receipt = self.memory.receipt(&machine.id)?;
        let occasion = Occasion {
            why,
            what: kept.what.clone(),
            when: now,
            commit: self.commit.map(str::to_owned),
            // The machine that follows has all of it.
            all: why == Why::Replace,
            receipt: receipt.clone(),
            room,
        };
        let taken = match take(&store, backend, scope, machine, &occasion).await {
            Err(error) if is_down(&error) => {
                let up = up(backend, scope, machine).await?;
                take(&store, backend, scope, &up, &occasion).await?
            }
            taken => taken?,
        };
        if of_another {
            return Ok(());
        }
        let carried = match taken {
            Some(taken) if why == Why::Replace => {
                let workspace = match &receipt {
                    Some(receipt) if receipt.workspace => true,
                    _ if machine.state != InstanceState::Running => false,
                    // As provisioning tells it where a receipt is lost.
                    _ => {
                        let probe = ExecSpec::new(["test", "-e", guest_path::WORKSPACE_DONE]);
                        let marked = backend.exec(scope, machine, &probe, Bytes::new()).await;
                        marked.is_ok_and(|marked| marked.code == 0)
                    }
                };
                let (machine, snapshot) = (machine.id.clone(), taken.id.to_string());
                Some(Carried { machine, snapshot, receipt, workspace })
            }
            _ => None,
        };
        self.memory.carry(&machine.sandbox, carried.as_ref())?;
        // Only now that the new one is there, and remembered.
        for id in &beyond {
            tracing::warn!(snapshot = %id, "an older snapshot goes: `snapshots` of bottle.yaml bounds them");
        }
        store.let_go(&beyond)
    }

    async fn carry(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        guest: &GuestSpec,
    ) -> anyhow::Result<Option<Receipt>> {
        let Some(carried) = self.memory.carried_of(&guest.sandbox)? else { return Ok(None) };
        let store = Store::of(self.memory.dir());
        let snapshot = store.find(&carried.snapshot).with_context(|| {
            let name = &guest.sandbox;
            format!("without it {name} starts anew by `--discard {name}`")
        })?;
        let meta = snapshot.meta.clone().map_err(anyhow::Error::msg);
        let meta = meta.with_context(|| format!("reading {}", snapshot.path.display()))?;
        let from = carried.receipt.as_ref().and_then(|receipt| receipt.copied_from.clone());
        // Of another folder the agent is to have another copy: what it made of this one stays in the snapshot.
        let workspace = carried.workspace
            && meta.workspace.as_ref().is_some_and(|path| is_in(path, &meta.paths))
            && guest
                .workspace
                .as_ref()
                .is_some_and(|source| from.as_ref().is_none_or(|from| *from == source.path));
        match hand_on(&snapshot, &meta, backend, scope, machine, workspace).await {
            // No later attempt can do it. Nothing is lost: the snapshot stays.
            Err(error) if is_unsupported(&error) => {
                let (sandbox, id) = (&guest.sandbox, &carried.snapshot);
                tracing::warn!(
                    sandbox = %sandbox, error = %format!("{error:#}"),
                    "what was kept of the old machine cannot go into the new one: `bottle snapshot restore {id} \
                     --to DIR` takes it out"
                );
                self.memory.carry(sandbox, None)?;
                return Ok(None);
            }
            done => done?,
        }
        let receipt = Receipt {
            instance: machine.id.clone(),
            backend: machine.backend,
            sandbox: guest.sandbox.clone(),
            guest: None,
            fields: Fields::default(),
            skills: Default::default(),
            skills_dir: None,
            env: Default::default(),
            boot: machine.boot.clone(),
            workspace,
            copied_from: from.filter(|_| workspace),
            files: Default::default(),
            under_way: Default::default(),
            ca: None,
            names: None,
            settings: carried.receipt.map(|receipt| receipt.settings).unwrap_or_default(),
        };
        self.memory.put(&receipt, true)?;
        self.memory.carry(&guest.sandbox, None)?;
        Ok(Some(receipt))
    }
}

/// Whether a path of a snapshot is one of those that it keeps, or lies in one.
fn is_in(path: &str, kept: &[String]) -> bool {
    kept.iter().any(|kept| Path::new(path).starts_with(kept))
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

/// Holds the sandboxes of which it cannot be read what is on its way into their next machines.
pub(super) fn hold_unreadable(desired: &mut Desired, unreadable: BTreeMap<SandboxId, String>) {
    for (sandbox, why) in unreadable {
        let file = format!("carried/{sandbox}.json");
        let finding = Diagnostic::error(file, why).with_hint(format!(
            "remove the file to make the machine of {sandbox} anew; `bottle snapshot list {sandbox}` names what \
             was kept"
        ));
        if !desired.diagnostics.contains(&finding) {
            desired.diagnostics.push(finding.clone());
        }
        if desired.sandboxes.remove(&sandbox).is_some() {
            desired.held.insert(sandbox, vec![finding]);
        }
    }
}

/// Forgets what is on its way to a machine that is there without it, or that nobody wants to have it. The
/// caller holds the tree's lock.
pub(super) fn tidy(view: &View) -> anyhow::Result<()> {
    let (carried, _) = view.memory.carried()?;
    if carried.is_empty() {
        return Ok(());
    }
    let receipts = view.memory.receipts()?;
    let meant = |id: &SandboxId| view.options.only.as_ref().is_none_or(|only| only.contains(id));
    for (sandbox, one) in carried {
        let came = receipts.values().any(|receipt| {
            receipt.sandbox == sandbox && receipt.instance != one.machine && receipt.guest.is_some()
        });
        let dropped = view.options.discard.has(&sandbox) && meant(&sandbox);
        if came || dropped || view.options.removes(&sandbox) {
            view.memory.carry(&sandbox, None)?;
        }
    }
    Ok(())
}
