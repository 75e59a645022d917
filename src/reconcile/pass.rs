//! One pass: load → observe → plan → apply.
#![expect(clippy::disallowed_methods, reason = "observations and passes are timed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::git::{self, Revision};
use super::sidecars::{self, Authorities, Credentials, Documents};
use super::state::{State, TreeState, now};
use super::values::{self, Sources};
use crate::apply::{self, Deadlines, Event, Outcome, Report, Secrets, Stop};
use crate::backend::{BackendError, Backends, Depth, Scope};
use crate::manifest::{self, LoadOptions};
use crate::model::{
    BackendKind, Desired, Instance, Observed, OwnerId, Ownership, SandboxId, SpecHash, Tree,
};
use crate::plan::document::{PlanDocument, TreeDocument, document, fingerprint};
use crate::plan::{self, Options, Plan};

/// A backend that does not answer within this is unreachable.
const OBSERVE_DEADLINE: Duration = Duration::from_secs(20);

/// What a reconciler works with, for as long as it lives.
pub struct Reconciler {
    /// How the tree is read.
    pub load: LoadOptions,
    /// The state folder.
    pub state: State,
    /// What makes machines.
    pub backends: Backends,
    /// Where asked-for values come from.
    pub sources: Sources,
    /// How closely backends are looked at.
    pub depth: Depth,
    /// How many steps run at once.
    pub jobs: usize,
    /// How long they may take.
    pub deadlines: Deadlines,
}

/// Everything that one look at tree and backends has shown, and the plan that follows from it.
pub struct View {
    /// What is desired.
    pub desired: Desired,
    /// What exists.
    pub observed: Observed,
    /// What the operator said.
    pub options: Options,
    /// What follows.
    pub plan: Plan,
    /// The asked-for values that are at hand.
    pub secrets: Secrets,
    /// The credentials that routes refer to and that are set.
    pub credentials: Credentials,
    /// On whose behalf backends are called.
    pub scope: Scope,
    /// The commit of the tree.
    pub revision: Revision,
    /// What is remembered of the tree.
    pub memory: TreeState,
}

impl View {
    /// The tree, as documents name it.
    #[must_use]
    pub fn tree(&self) -> TreeDocument {
        TreeDocument {
            name: self.desired.tree.owner.to_string(),
            path: self.desired.tree.path.display().to_string(),
            commit: self.revision.commit.clone(),
            branch: self.revision.branch.clone(),
            dirty: self.revision.dirty,
        }
    }

    /// A digest of all that the plan was made from.
    #[must_use]
    pub fn fingerprint(&self) -> SpecHash {
        fingerprint(&self.desired, &self.observed, &self.options)
    }

    /// The plan as a document.
    #[must_use]
    pub fn document(&self) -> PlanDocument {
        document(self.tree(), &self.plan, &self.desired.diagnostics, self.fingerprint())
    }

    /// The old contents that diffs of this plan want, as far as they are remembered.
    #[must_use]
    pub fn old_texts(&self) -> BTreeMap<SpecHash, String> {
        let wanted: BTreeSet<SpecHash> = plan::diff::wanted(&self.plan).into_iter().collect();
        wanted.into_iter().filter_map(|hash| Some((hash, self.memory.text(&hash)?))).collect()
    }
}

/// How the last pass went, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// By sandbox.
    pub sandboxes: BTreeMap<SandboxId, LastOutcome>,
    /// The commit from which the last pass worked.
    #[serde(default)]
    pub commit: Option<String>,
    /// The tree differed from it.
    #[serde(default)]
    pub dirty: bool,
}

/// How the last pass that did something for a sandbox went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOutcome {
    /// When, in seconds since the epoch.
    pub at: u64,
    /// The verdict that was carried out.
    pub verdict: plan::Verdict,
    /// Why it failed, when it did.
    pub error: Option<String>,
}

/// One line of the audit record.
#[derive(Debug, Serialize)]
struct Audit<'a> {
    at: u64,
    pid: u32,
    event: &'a str,
    step: usize,
    action: &'a str,
    backend: BackendKind,
    sandbox: Option<&'a SandboxId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Reconciler {
    /// Reads the tree.
    ///
    /// # Errors
    /// When the tree as a whole cannot be read: then there is no plan.
    pub async fn desired(&self) -> anyhow::Result<Desired> {
        let options = self.load.clone();
        let load = move || -> anyhow::Result<Desired> {
            let mut desired = manifest::load(&options)?;
            sidecars::check_rules(&mut desired);
            Ok(desired)
        };
        tokio::task::spawn_blocking(load).await.context("reading the tree")?
    }

    /// Reads whose the tree is, and nothing else of it.
    ///
    /// # Errors
    /// When the tree as a whole cannot be read.
    pub async fn identify(&self) -> anyhow::Result<Tree> {
        let options = self.load.clone();
        let read = tokio::task::spawn_blocking(move || manifest::identify(&options)).await;
        Ok(read.context("reading the tree")??)
    }

    /// On whose behalf backends are called for this owner's tree.
    ///
    /// # Errors
    /// When the state folder cannot be read.
    pub fn scope(&self, owner: &OwnerId, memory: &TreeState) -> anyhow::Result<Scope> {
        let hidden = [Some(&self.load.tree), self.load.overlay.as_ref()];
        let hidden = hidden.into_iter().flatten().map(|path| canonical(path));
        Ok(Scope {
            owner: owner.clone(),
            state: self.state.id().to_owned(),
            adopted: memory.adopted()?,
            data: memory.dir().to_owned(),
            hidden: hidden.chain([canonical(self.state.root())]).collect(),
        })
    }

    /// Looks at tree and backends and plans. Changes nothing.
    ///
    /// # Errors
    /// When the tree or the state folder cannot be read, or a given value is unusable.
    pub async fn look(&self, options: Options) -> anyhow::Result<View> {
        let desired = self.desired().await?;
        self.look_at(desired, options).await
    }

    /// The same, for a tree that is loaded already.
    ///
    /// # Errors
    /// When the state folder cannot be read, or a given value is unusable.
    pub async fn look_at(
        &self,
        mut desired: Desired,
        mut options: Options,
    ) -> anyhow::Result<View> {
        let memory = self.state.tree(&desired.tree.owner)?;
        for doubt in self.state.doubts(&desired.tree.owner, &desired.tree.path)? {
            // A view may be made again from the tree of an earlier one.
            if !desired.diagnostics.contains(&doubt) {
                desired.diagnostics.push(doubt);
            }
        }
        let credentials = Credentials::gather(&mut desired, &self.state);
        desired
            .diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        let scope = self.scope(&desired.tree.owner, &memory)?;
        let secrets = values::gather(&desired, &self.sources, &self.state).await?;
        options.values =
            secrets.0.iter().map(|(name, secret)| (name.clone(), secret.digest.clone())).collect();
        options.tokens = credentials.digests();
        let with_sidecar = desired.sandboxes.values().filter(|spec| spec.sidecar.is_some());
        options.cas = Authorities::of(&memory).fingerprints(with_sidecar.map(|spec| &spec.id));
        let (observed, revision) =
            tokio::join!(self.observe(&scope), git::revision(&self.load.tree),);
        let observed = Observed { receipts: memory.receipts()?, ..observed };
        let plan = plan::plan(&desired, &observed, &options);
        Ok(View { desired, observed, options, plan, secrets, credentials, scope, revision, memory })
    }

    /// Asks every backend, all at once.
    pub async fn observe(&self, scope: &Scope) -> Observed {
        let answers = join_all(self.backends.iter().map(async |(kind, backend)| {
            let asked = Instant::now();
            let answer =
                match tokio::time::timeout(OBSERVE_DEADLINE, backend.observe(scope, self.depth)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(BackendError::Deadline {
                        what: "observing".to_owned(),
                        seconds: OBSERVE_DEADLINE.as_secs(),
                    }),
                };
            tracing::debug!(backend = %kind, elapsed = ?asked.elapsed(), ok = answer.is_ok(), "observed");
            (*kind, answer)
        }))
        .await;
        let mut observed = Observed::default();
        for (kind, answer) in answers {
            match answer {
                Ok(mut seen) => {
                    observed.instances.append(&mut seen.instances);
                    observed.leftovers.append(&mut seen.leftovers);
                    observed.facts.insert(kind, seen.facts);
                }
                // Whatever went wrong, what exists there is not known: that is not "nothing".
                Err(BackendError::Unreachable { reason, .. }) => {
                    observed.unreachable.insert(kind, reason);
                }
                Err(error) => {
                    observed.unreachable.insert(kind, format!("{:#}", anyhow::Error::from(error)));
                }
            }
        }
        observed
    }

    /// Takes over what other state folders made for this owner; the next look sees it as ours.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn adopt(&self, view: &View) -> anyhow::Result<bool> {
        let others: BTreeSet<String> = view
            .observed
            .instances
            .iter()
            .filter_map(|instance| match &instance.ownership {
                Ownership::OtherState(state) => Some(state.clone()),
                _ => None,
            })
            .collect();
        if !others.is_empty() {
            view.memory.adopt(&others)?;
        }
        Ok(!others.is_empty())
    }

    /// Carries the plan out. The caller holds the tree's lock.
    ///
    /// # Errors
    /// When the state folder cannot be written: then nothing was begun.
    pub async fn carry_out(
        &self,
        view: &View,
        stop: &Stop,
        tell: Arc<dyn Fn(Event<'_>) + Send + Sync>,
    ) -> anyhow::Result<Report> {
        if view.plan.is_empty() {
            self.tidy(view)?;
            // Nothing to do for this commit is an outcome too.
            let known: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
            let (commit, dirty) = (view.revision.commit.clone(), view.revision.dirty);
            if view.plan.refused.is_none() && (known.commit != commit || known.dirty != dirty) {
                let last = Last { commit, dirty, ..known };
                if let Err(error) = view.memory.set_last(&last) {
                    tracing::warn!(error = %format!("{error:#}"), "the outcome cannot be remembered");
                }
            }
            return Ok(Report::default());
        }
        view.memory.sweep_texts().context("tidying the state folder")?;
        let (plan, memory) = (&view.plan, view.memory.clone());
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| (step.action.name(), step.backend, step.sandbox.clone()))
            .collect();
        let tell = Arc::new(move |event: Event<'_>| {
            let (event_name, step, error) = match &event {
                Event::Started(step) => ("started", *step, None),
                Event::Ended(ended) => match &ended.outcome {
                    Outcome::Done => ("done", ended.step, None),
                    Outcome::Failed(error) => ("failed", ended.step, Some(error.as_str())),
                    Outcome::Skipped { .. } => ("skipped", ended.step, None),
                    Outcome::Cancelled => ("cancelled", ended.step, None),
                },
                Event::Progress(..) => return tell(event),
            };
            let (action, backend, sandbox) = &steps[step];
            let entry = Audit {
                at: now(),
                pid: std::process::id(),
                event: event_name,
                step,
                action,
                backend: *backend,
                sandbox: sandbox.as_ref(),
                error,
            };
            if let Err(error) = memory.audit(&entry) {
                tracing::warn!(error = %format!("{error:#}"), "the audit record cannot be written");
            }
            tell(event);
        });
        let context = apply::Context {
            backends: &self.backends,
            scope: &view.scope,
            receipts: &view.memory,
            secrets: &view.secrets,
            sidecars: &Documents::new(&view.memory, &view.credentials),
            jobs: self.jobs,
            deadlines: self.deadlines,
            stop,
            tell,
        };
        let report = apply::apply(plan, &context).await;
        if let Err(error) = self.remember(view, &report) {
            tracing::warn!(error = %format!("{error:#}"), "the outcome cannot be remembered");
        }
        Ok(report)
    }

    /// Writes down how it went and drops the receipts of what is gone.
    fn remember(&self, view: &View, report: &Report) -> anyhow::Result<()> {
        let mut last: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
        let verdicts = view.plan.verdicts();
        let mut errors: BTreeMap<&SandboxId, Option<String>> = BTreeMap::new();
        for outcome in &report.outcomes {
            let Some(sandbox) = &view.plan.steps[outcome.step].sandbox else { continue };
            let error = errors.entry(sandbox).or_default();
            match &outcome.outcome {
                Outcome::Failed(why) => *error = Some(why.clone()),
                Outcome::Cancelled if error.is_none() => *error = Some("cancelled".to_owned()),
                _ => {}
            }
        }
        let at = now();
        for (sandbox, error) in errors {
            if let Some(verdict) = verdicts.get(sandbox) {
                last.sandboxes
                    .insert(sandbox.clone(), LastOutcome { at, verdict: *verdict, error });
            }
        }
        last.commit.clone_from(&view.revision.commit);
        last.dirty = view.revision.dirty;
        // What neither the tree nor a backend knows any more is not shown to anyone.
        let existing: BTreeSet<_> = view.observed.instances.iter().map(|i| &i.sandbox).collect();
        last.sandboxes.retain(|id, _| {
            view.desired.sandboxes.contains_key(id)
                || view.desired.held.contains_key(id)
                || existing.contains(id)
        });
        view.memory.set_last(&last)?;
        self.tidy(view)
    }

    /// Drops the receipts of what is gone: a run that was killed between a removal and its receipt
    /// leaves one. The caller holds the tree's lock.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub fn tidy(&self, view: &View) -> anyhow::Result<()> {
        // What is torn down has no receipt any more.
        let receipts = view.memory.receipts()?;
        let mut wanted: BTreeSet<&SandboxId> = receipts.values().map(|r| &r.sandbox).collect();
        if !view.options.remove_all {
            wanted.extend(view.desired.sandboxes.keys().chain(view.desired.held.keys()));
        }
        Authorities::of(&view.memory).sweep(&wanted)?;
        // A receipt of a machine that was not there when its backend was observed, and that no step
        // of this run has made, speaks of nothing. It is dropped only after its sandbox was made
        // anew, for until then it tells where the sandbox was.
        let seen: BTreeSet<_> = view.observed.instances.iter().map(|i| &i.id).collect();
        let stale: Vec<_> = view
            .observed
            .receipts
            .iter()
            .filter(|(id, receipt)| {
                view.observed.facts.contains_key(&receipt.backend) && !seen.contains(id)
            })
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let now_there = view.memory.receipts()?;
        for (id, receipt) in stale {
            let made_anew = now_there.values().any(|other| {
                let lives = seen.contains(&other.instance)
                    || !view.observed.receipts.contains_key(&other.instance);
                other.sandbox == receipt.sandbox && lives
            });
            let declared = view.desired.sandboxes.contains_key(&receipt.sandbox)
                || view.desired.held.contains_key(&receipt.sandbox);
            if made_anew || !declared {
                crate::apply::Receipts::forget(&view.memory, id)?;
            }
        }
        Ok(())
    }

    /// The machine of a sandbox, for `exec`, `run` and `logs`.
    ///
    /// # Errors
    /// When the tree or its backend cannot be read, or there is no such machine.
    pub async fn find(&self, sandbox: &SandboxId) -> anyhow::Result<(Scope, Instance, Observed)> {
        let tree = self.identify().await?;
        let memory = self.state.tree(&tree.owner)?;
        let scope = self.scope(&tree.owner, &memory)?;
        let observed = Observed { receipts: memory.receipts()?, ..self.observe(&scope).await };
        let machine = observed.instances.iter().find(|instance| {
            instance.sandbox == *sandbox
                && instance.resource == crate::model::ResourceKind::Machine
                && instance.ownership == Ownership::Ours
        });
        if let Some(machine) = machine.cloned() {
            return Ok((scope, machine, observed));
        }
        let unreachable =
            observed.receipts.values().filter(|receipt| receipt.sandbox == *sandbox).find_map(
                |receipt| Some((receipt.backend, observed.unreachable.get(&receipt.backend)?)),
            );
        if let Some((backend, why)) = unreachable {
            anyhow::bail!("{sandbox} is on {backend}, which cannot be reached: {why}");
        }
        let known: BTreeSet<&str> =
            observed.instances.iter().map(|instance| instance.sandbox.as_str()).collect();
        if known.is_empty() {
            anyhow::bail!(
                "there is no sandbox {sandbox}: nothing of this tree exists yet; `bottle apply` makes it"
            );
        }
        let known: Vec<&str> = known.into_iter().collect();
        anyhow::bail!("there is no sandbox {sandbox}; there are: {}", known.join(", "))
    }
}

/// The folder of the tree, canonical where it exists.
#[must_use]
pub fn canonical(path: &std::path::Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
