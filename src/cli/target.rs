//! The machine that `exec`, `run` and `logs` are about.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::{Global, LookArgs, ReadArgs};
use super::error::{CliError, Exit, Kind};
use super::setup;
use crate::backend::{Attach, Backend, BackendError, Backends, ExecSpec, Scope};
use crate::manifest::mount_table;
use crate::model::{
    BackendKind, Desired, HostSource, Instance, InstanceState, Observed, Ownership, Receipt,
    ResourceKind, SandboxId, Use, Writable,
};
use crate::reconcile::state::TreeState;
use crate::reconcile::{Reconciler, accepted};

/// One sandbox's machine, and who made it.
pub(super) struct Target {
    pub(super) sandbox: SandboxId,
    reconciler: Reconciler,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) scope: Scope,
    pub(super) machine: Instance,
    /// Its sidecar, where it has one.
    pub(super) sidecar: Option<Instance>,
    /// Its git gate, where it has one.
    pub(super) gate: Option<Instance>,
    receipt: Option<Receipt>,
}

impl Target {
    /// Finds it, asking only the backend that holds it where a receipt says which, and reading
    /// nothing of the tree but whose it is.
    pub(super) async fn find(global: &Global, name: &str) -> Result<Self, CliError> {
        let sandbox = SandboxId::new(name).map_err(anyhow::Error::from)?;
        let load = setup::load_options(global, None, &ReadArgs::default())?;
        let mut reconciler = setup::reconciler(load, &LookArgs::default(), None)?;
        let tree = reconciler.identify().await?;
        let memory = reconciler.state.tree(&tree.owner)?;
        let mut scope = reconciler.scope(&tree.owner, &memory)?;
        let receipts = memory.receipts()?;
        let all = reconciler.backends.clone();
        reconciler.backends = all
            .iter()
            .filter(|(kind, _)| {
                receipts.values().any(|r| r.sandbox == sandbox && r.backend == **kind)
            })
            .map(|(kind, backend)| (*kind, backend.clone()))
            .collect();
        let known = !reconciler.backends.is_empty();
        let mut observed = reconciler.observe(&scope).await;
        observed.receipts.clone_from(&receipts);
        reconciler.place_lost(&memory, &mut scope, &mut observed)?;
        let mut found = part(&observed, &sandbox, ResourceKind::Machine);
        // What does not answer is not asked again.
        if let Some((backend, why)) = observed.unreachable.first_key_value()
            && known
            && found.is_none()
        {
            return Err(CliError::failed(format!(
                "{sandbox} is on {backend}, which cannot be reached: {why}"
            )));
        }
        if found.is_none() {
            // No receipt, or one of a machine that is gone. This also says why there is none.
            reconciler.backends.clone_from(&all);
            let (placed, machine, all) = reconciler.find(&sandbox).await?;
            (scope, found, observed) = (placed, Some(machine), all);
        }
        let sidecar = part(&observed, &sandbox, ResourceKind::Sidecar);
        let gate = part(&observed, &sandbox, ResourceKind::Gate);
        let machine =
            found.ok_or_else(|| CliError::failed(format!("there is no sandbox {sandbox}")))?;
        let backend = backend(&all, &machine)?;
        let receipt = receipts.get(&machine.id).cloned();
        Ok(Self { sandbox, reconciler, backend, scope, machine, sidecar, gate, receipt })
    }

    /// What the tree declares.
    pub(super) async fn desired(&self) -> Result<Desired, CliError> {
        Ok(self.reconciler.desired().await?)
    }

    /// The folder of the tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.reconciler.load.tree.clone()
    }

    /// The folders of this machine that sandboxes can write.
    pub(super) fn writable(&self) -> Result<Writable, CliError> {
        Ok(accepted::writable(self.reconciler.state.root())?)
    }

    /// What is remembered of the tree.
    pub(super) fn memory(&self) -> Result<TreeState, CliError> {
        Ok(self.reconciler.state.tree(&self.scope.owner)?)
    }

    /// The folder of the host that its workspace is a copy of. A bottle may name another one by now.
    pub(super) fn copied_from(&self) -> Result<Option<PathBuf>, CliError> {
        let told = self.receipt.as_ref().and_then(|receipt| receipt.copied_from.clone());
        if told.is_some() {
            return Ok(told);
        }
        // Of a machine that an earlier version made: what was accepted when it was made.
        let accepted = self.memory()?.accepted(&mount_table())?.0;
        let sources = accepted.get(&self.sandbox).into_iter().flatten();
        let copied =
            |source: &&HostSource| source.field == "workspace.path" && source.usage == Use::Read;
        Ok(sources.filter(copied).map(|source| source.path.clone()).next())
    }

    /// A command that has the values of the bottle in its environment, where any were put in.
    pub(super) fn command(&self, argv: &[String]) -> ExecSpec {
        let values = self.receipt.as_ref().is_some_and(Receipt::has_values);
        ExecSpec { values, ..ExecSpec::new(argv) }
    }

    /// Runs a command on the caller's own stdio.
    pub(super) async fn attach(&self, spec: &ExecSpec, attach: Attach) -> Result<Exit, CliError> {
        self.must_be_known()?;
        let mut spec = spec.clone();
        spec.env.extend(super::setup::colours().filter(|_| attach.tty));
        let code = self.backend.attach(&self.scope, &self.machine, &spec, attach).await;
        code.map(Exit::Of).map_err(explain)
    }

    fn must_be_known(&self) -> Result<(), CliError> {
        let InstanceState::Unknown(what) = &self.machine.state else { return Ok(()) };
        let (name, sandbox) = (&self.machine.name, &self.sandbox);
        let hint = format!(
            "put the record back; `bottle apply --replace-unknown {sandbox}` gives the sandbox up, with \
             all its files, and makes it anew"
        );
        let told = format!("what {name} is cannot be read: {what}");
        Err(CliError::failed(told).hint(hint))
    }

    /// Whether its machine runs, and what to do where it does not.
    pub(super) fn must_run(&self) -> Result<(), CliError> {
        self.must_be_known()?;
        let state = match &self.machine.state {
            InstanceState::Running => return Ok(()),
            InstanceState::Created => "created, and not started",
            InstanceState::Paused => "paused",
            InstanceState::Stopped { .. } | InstanceState::Aside => "stopped",
            InstanceState::Broken(_) | InstanceState::Unknown(_) => "broken",
        };
        let name = self.machine.name.clone();
        Err(explain(BackendError::NotRunning { name, state: state.to_owned() }))
    }
}

/// The log of one sandbox.
pub(super) struct Logged {
    pub(super) sandbox: SandboxId,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) scope: Scope,
    pub(super) instance: Instance,
}

/// Logs of several sandboxes, by name, and of which backends nobody knows what there is.
pub(super) struct Several {
    pub(super) logs: Vec<Logged>,
    pub(super) unreachable: Vec<String>,
}

/// The sandboxes of these names, and where there are none all that exist; or what is beside
/// them. One that is named and
/// is not there is an error, before anything is shown.
pub(super) async fn several(
    global: &Global,
    names: &[String],
    kind: ResourceKind,
) -> Result<Several, CliError> {
    let mut wanted: Vec<SandboxId> = Vec::new();
    for name in names {
        let id = SandboxId::new(name.as_str()).map_err(anyhow::Error::from)?;
        if !wanted.contains(&id) {
            wanted.push(id);
        }
    }
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let reconciler = setup::reconciler(load, &LookArgs::default(), None)?;
    let tree = reconciler.identify().await?;
    let memory = reconciler.state.tree(&tree.owner)?;
    let mut scope = reconciler.scope(&tree.owner, &memory)?;
    let mut observed = reconciler.observe(&scope).await;
    observed.receipts = memory.receipts()?;
    reconciler.place_lost(&memory, &mut scope, &mut observed)?;
    let machine = |id: &SandboxId| part(&observed, id, ResourceKind::Machine);
    let of = |id: &SandboxId| part(&observed, id, kind);
    let mut unreachable = Vec::new();
    if names.is_empty() {
        let ours = observed.instances.iter().filter(|i| i.ownership == Ownership::Ours);
        let all: BTreeSet<&SandboxId> = ours.map(|instance| &instance.sandbox).collect();
        // A machine without a way out has no sidecar, and that is no error of all of them.
        wanted = all.into_iter().filter(|id| of(id).is_some()).cloned().collect();
        let holds = |kind: &BackendKind| observed.receipts.values().any(|r| r.backend == *kind);
        let silent = observed.unreachable.iter().filter(|(kind, _)| holds(kind));
        unreachable.extend(silent.map(|(kind, why)| {
            format!("{kind} cannot be reached, so nothing of it is shown: {why}")
        }));
    }
    let mut logs = Vec::new();
    for sandbox in wanted {
        if machine(&sandbox).is_none() && !names.is_empty() {
            // This says why there is none.
            reconciler.find(&sandbox).await?;
            return Err(CliError::failed(format!("there is no sandbox {sandbox}")));
        }
        let instance = of(&sandbox).ok_or_else(|| none_beside(&sandbox, kind))?;
        let backend = backend(&reconciler.backends, &instance)?;
        logs.push(Logged { sandbox, backend, scope: scope.clone(), instance });
    }
    Ok(Several { logs, unreachable })
}

/// That a sandbox has no such part.
pub(super) fn none_beside(sandbox: &SandboxId, kind: ResourceKind) -> CliError {
    let error = CliError::failed(format!("{sandbox} has no {kind}, so there is no record of one"));
    error.hint(match kind {
        ResourceKind::Gate => "its bottle names no `git`",
        _ => "its machine reaches nothing by a sidecar",
    })
}

/// A backend's error, with what to do about it.
pub(super) fn explain(error: BackendError) -> CliError {
    let stopped = matches!(error, BackendError::NotRunning { .. });
    let error = CliError::new(Kind::Failed, error);
    if stopped { error.hint("`bottle start NAME` starts it") } else { error }
}

fn part(observed: &Observed, sandbox: &SandboxId, kind: ResourceKind) -> Option<Instance> {
    let ours = |instance: &&Instance| {
        instance.sandbox == *sandbox
            && instance.resource == kind
            && instance.ownership == Ownership::Ours
    };
    // Rather than one that was set aside for it.
    let its = observed.instances.iter().filter(ours);
    its.min_by_key(|instance| instance.state == InstanceState::Aside).cloned()
}

fn backend(all: &Backends, machine: &Instance) -> Result<Arc<dyn Backend>, CliError> {
    all.get(&machine.backend)
        .cloned()
        .ok_or_else(|| CliError::failed(format!("this bottle has no backend {}", machine.backend)))
}
