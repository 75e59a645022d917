//! The machine that `exec`, `run` and `logs` are about.

use std::sync::Arc;

use super::args::{Global, LookArgs, ReadArgs};
use super::error::{CliError, Exit, Kind};
use super::setup;
use crate::apply::with_asked_env;
use crate::backend::{Attach, Backend, BackendError, Backends, ExecSpec, Scope};
use crate::model::{Instance, Observed, SandboxId};
use crate::reconcile::Reconciler;

/// One sandbox's machine, and who made it.
pub(super) struct Target {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) scope: Scope,
    pub(super) machine: Instance,
    observed: Observed,
}

impl Target {
    /// Finds it, asking only the backend that holds it where a receipt says which.
    pub(super) async fn find(global: &Global, name: &str) -> Result<Self, CliError> {
        let sandbox = SandboxId::new(name).map_err(anyhow::Error::from)?;
        let load = setup::load_options(global, None, &ReadArgs::default())?;
        let mut reconciler = setup::reconciler(global, load, &LookArgs::default(), None)?;
        let all = reconciler.backends.clone();
        if let Some(named) = named_by_receipt(&reconciler, &sandbox, &all).await? {
            reconciler.backends = named;
            if let Ok(found) = reconciler.find(&sandbox).await {
                return Self::new(&all, found);
            }
            reconciler.backends.clone_from(&all);
        }
        Self::new(&all, reconciler.find(&sandbox).await?)
    }

    fn new(
        backends: &Backends,
        (scope, machine, observed): (Scope, Instance, Observed),
    ) -> Result<Self, CliError> {
        let backend = backends.get(&machine.backend).cloned().ok_or_else(|| {
            CliError::failed(format!("this bottle has no backend {}", machine.backend))
        })?;
        Ok(Self { backend, scope, machine, observed })
    }

    /// A command line that has the asked-for values in its environment, where any were delivered.
    pub(super) fn command(&self, argv: &[String]) -> Vec<String> {
        let receipt = self.observed.receipts.get(&self.machine.id);
        match receipt.is_some_and(|receipt| !receipt.env.is_empty()) {
            true => with_asked_env(argv),
            false => argv.to_vec(),
        }
    }

    /// Runs a command on the caller's own stdio.
    pub(super) async fn attach(&self, spec: &ExecSpec, attach: Attach) -> Result<Exit, CliError> {
        let code = self.backend.attach(&self.scope, &self.machine, spec, attach).await;
        code.map(Exit::Of).map_err(|error| self.explain(error))
    }

    /// A backend's error, with what to do about it.
    pub(super) fn explain(&self, error: BackendError) -> CliError {
        let stopped = matches!(error, BackendError::NotRunning { .. });
        let error = CliError::new(Kind::Failed, error);
        if stopped { error.hint("`bottle apply` starts it again") } else { error }
    }
}

async fn named_by_receipt(
    reconciler: &Reconciler,
    sandbox: &SandboxId,
    all: &Backends,
) -> Result<Option<Backends>, CliError> {
    let desired = reconciler.desired().await?;
    let memory = reconciler.state.tree(&desired.tree.owner)?;
    let named: Backends = memory
        .receipts()?
        .values()
        .filter(|receipt| receipt.sandbox == *sandbox)
        .filter_map(|receipt| Some((receipt.backend, all.get(&receipt.backend)?.clone())))
        .collect();
    Ok((!named.is_empty() && named.len() < all.len()).then_some(named))
}
