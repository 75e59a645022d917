//! One pass: load → observe → plan → apply.
#![expect(clippy::disallowed_methods, reason = "observations and passes are timed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::accepted;
use super::ahead::Ahead;
use super::authorities::Authorities;
use super::carried;
use super::detached;
use super::git::{self, Revision};
use super::keeping::Keeping;
use super::lock::Claims;
use super::names::HostNames;
use super::renames;
use super::requests;
use super::sidecars::{self, Documents, Roots};
use super::state::{State, TreeState, now};
use super::stops;
use super::tokens::Credentials;
use super::values::{self, Sources};
use super::view::View;
use crate::apply::{self, Deadlines, Event, Outcome, Report, Slots, Stop};
use crate::backend::{Backend, BackendError, Backends, Depth, Observation, Scope};
use crate::manifest::{self, LoadOptions};
use crate::model::{
    AgentsFolder, BackendChoice, BackendKind, Desired, Diagnostic, Elsewhere, HostSource,
    InstanceState, MountTable, Observed, OwnerId, Ownership, SandboxId, Severity, Tree,
};
use crate::plan::{self, Options, Order, Plan, Step, StepId};

/// A backend that does not answer within this is unreachable.
pub(super) const OBSERVE_DEADLINE: Duration = Duration::from_secs(20);

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
    /// How many steps run at once, of all kinds together; `None`: so many as suit each backend.
    pub jobs: Option<usize>,
    /// How long they may take.
    pub deadlines: Deadlines,
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
    /// Of one process several runs may be under way at once: a step's number counts in its own.
    run: u32,
    event: &'a str,
    step: usize,
    action: &'a str,
    backend: BackendKind,
    sandbox: Option<&'a SandboxId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Which steps of a plan are done together, and how.
pub(super) struct Run<'a> {
    /// Only these; all of them where none are named.
    pub(super) only: Option<&'a BTreeSet<StepId>>,
    /// How many run at once.
    pub(super) slots: &'a Slots,
    /// What is trusted on this machine, read once for runs that belong together.
    pub(super) roots: Roots,
    /// Whether a step may still begin.
    pub(super) may: &'a (dyn Fn(&Step) -> bool + Send + Sync),
    /// The caller holds the locks of the sandboxes.
    pub(super) claimed: bool,
}

/// What a backend says of what exists.
pub(super) type Answer = Result<Observation, BackendError>;

pub(super) async fn ask(
    kind: BackendKind,
    backend: &dyn Backend,
    scope: &Scope,
    depth: Depth,
) -> Answer {
    let asked = Instant::now();
    let observing = tokio::time::timeout(OBSERVE_DEADLINE, backend.observe(scope, depth));
    let answer = observing.await.unwrap_or_else(|_| {
        Err(BackendError::Deadline {
            what: "observing".to_owned(),
            seconds: OBSERVE_DEADLINE.as_secs(),
        })
    });
    tracing::debug!(backend = %kind, elapsed = ?asked.elapsed(), ok = answer.is_ok(), "observed");
    answer
}

/// New sandboxes whose backend depends on which of them answer: they wait until all have.
fn undecided(desired: &Desired, observed: &Observed) -> Vec<SandboxId> {
    let exists = |id: &SandboxId| {
        observed.instances.iter().any(|instance| instance.sandbox == *id)
            || observed.receipts.values().any(|receipt| receipt.sandbox == *id)
    };
    let open = desired
        .sandboxes
        .values()
        .filter(|spec| matches!(spec.backend, BackendChoice::Auto { default: None }));
    open.map(|spec| &spec.id).filter(|id| !exists(id)).cloned().collect()
}

/// The backends on which there are to be sandboxes.
fn wanted(desired: &Desired) -> BTreeSet<BackendKind> {
    let chosen = desired.sandboxes.values().filter_map(|spec| match spec.backend {
        BackendChoice::Fixed(kind) | BackendChoice::Auto { default: Some(kind) } => Some(kind),
        BackendChoice::Auto { default: None } => None,
    });
    chosen.collect()
}

/// What exists, which backends are late, and the commit of the tree.
pub(super) type Looked = (Observed, BTreeSet<BackendKind>, Revision);

/// All answers together.
pub(super) fn gathered(answers: Vec<(BackendKind, Answer)>) -> Observed {
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

/// What became of each sandbox of a plan.
pub(super) fn outcomes(plan: &Plan, report: &Report) -> Vec<(SandboxId, LastOutcome)> {
    let verdicts = plan.verdicts();
    let mut errors: BTreeMap<&SandboxId, Option<String>> = BTreeMap::new();
    for outcome in &report.outcomes {
        let Some(sandbox) = &plan.steps[outcome.step].sandbox else { continue };
        let error = errors.entry(sandbox).or_default();
        match &outcome.outcome {
            Outcome::Failed(why) => *error = Some(why.clone()),
            Outcome::Cancelled if error.is_none() => *error = Some("cancelled".to_owned()),
            _ => {}
        }
    }
    let at = now();
    errors
        .into_iter()
        .filter_map(|(sandbox, error)| {
            let verdict = *verdicts.get(sandbox)?;
            Some((sandbox.clone(), LastOutcome { at, verdict, error }))
        })
        .collect()
}

impl Reconciler {
    /// Reads the tree.
    ///
    /// # Errors
    /// When the tree as a whole cannot be read: then there is no plan.
    pub async fn desired(&self) -> anyhow::Result<Desired> {
        self.desired_among(manifest::mount_table()).await
    }

    /// The same, with what is mounted where.
    pub(super) async fn desired_among(&self, mounts: MountTable) -> anyhow::Result<Desired> {
        let options = self.load.clone();
        let load = move || -> anyhow::Result<Desired> {
            let mut desired = manifest::load_among(&options, mounts)?;
            sidecars::check_rules(&mut desired);
            Ok(desired)
        };
        let load = tokio::task::spawn_blocking(load).await.context("reading the tree")?;
        let mut desired = load?;
        let (elsewhere, warnings) = self.elsewhere(&desired.tree.owner).await?;
        plan::sources::hold_exposed(&mut desired, &elsewhere);
        desired.diagnostics.extend(warnings);
        Ok(desired)
    }

    /// What the sandboxes of all other trees are given. Of a tree whose record is lost, the machines
    /// themselves are asked, and a warning says so.
    async fn elsewhere(
        &self,
        owner: &OwnerId,
    ) -> anyhow::Result<(Vec<Elsewhere>, Vec<Diagnostic>)> {
        let (root, owner) = (self.state.root().to_owned(), owner.clone());
        let read = tokio::task::spawn_blocking(move || accepted::others(&root, &owner)).await;
        let mut others = read.context("reading what other trees are given")??;
        let mut warnings = Vec::new();
        if others.lost.is_empty() {
            return Ok((others.accepted, warnings));
        }
        let trees = self.state.owners()?;
        let table = manifest::mount_table();
        for lost in &others.lost {
            let tree = trees.get(&lost.owner).unwrap_or(&lost.dir);
            let scope = Scope {
                owner: lost.owner.clone(),
                state: self.state.id().to_owned(),
                adopted: BTreeSet::new(),
                data: lost.dir.clone(),
                hidden: Vec::new(),
                places: Default::default(),
            };
            let seen = self.observe(&scope).await;
            let given = seen.instances.iter().filter_map(|i| accepted::given(tree, i, &table));
            others.accepted.extend(given);
            let unread = seen.instances.iter().filter_map(|instance| match &instance.state {
                InstanceState::Unknown(why) => Some(format!("{} ({why})", instance.backend)),
                _ => None,
            });
            let unseen: BTreeSet<String> =
                seen.unreachable.keys().map(ToString::to_string).chain(unread).collect();
            warnings.push(lost.warning(&unseen.into_iter().collect::<Vec<_>>()));
        }
        Ok((others.accepted, warnings))
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
            adopted: memory.adopted()?.0,
            data: memory.dir().to_owned(),
            hidden: hidden.chain([canonical(self.state.root())]).collect(),
            // Where that cannot be read, all is held.
            places: memory.places().unwrap_or_default(),
        })
    }

    /// Looks at tree and backends and plans. Changes nothing.
    ///
    /// # Errors
    /// When the tree or the state folder cannot be read, or a given value is unusable.
    pub async fn look(&self, options: Options) -> anyhow::Result<View> {
        let (desired, ahead) = self.read_beside(&self.identify().await?.owner).await?;
        self.look_with(desired, options, ahead).await
    }

    /// The same, for a tree that is loaded already.
    ///
    /// # Errors
    /// When the state folder cannot be read, or a given value is unusable.
    pub async fn look_at(&self, desired: Desired, options: Options) -> anyhow::Result<View> {
        let looking = async |scope: &Scope, _: &BTreeSet<BackendKind>| {
            let (observed, revision) =
                tokio::join!(self.observe(scope), git::revision(&self.load.tree));
            (observed, BTreeSet::new(), revision)
        };
        self.look_through(desired, options, manifest::mount_table(), looking).await
    }

    /// The same, with what was seen while it was being loaded.
    ///
    /// # Errors
    /// When the state folder cannot be read, or a given value is unusable.
    pub async fn look_with(
        &self,
        desired: Desired,
        options: Options,
        ahead: Ahead,
    ) -> anyhow::Result<View> {
        let mounts = ahead.mounts.clone();
        let looking = async |scope: &Scope, _: &BTreeSet<BackendKind>| {
            let (observed, revision) = ahead.of(scope);
            let observed = match observed {
                Some(observed) => observed,
                None => self.observe(scope).await,
            };
            (observed, BTreeSet::new(), revision)
        };
        self.look_through(desired, options, mounts, looking).await
    }

    /// The same, with what `looking` shows for those backends that the tree wants: what exists, which of the
    /// backends have not answered in time, and the commit of the tree.
    pub(super) async fn look_through(
        &self,
        mut desired: Desired,
        mut options: Options,
        mounts: MountTable,
        looking: impl AsyncFnOnce(&Scope, &BTreeSet<BackendKind>) -> Looked,
    ) -> anyhow::Result<View> {
        // What goes, or stops, does so whatever the tree says.
        if !options.remove_all && options.order != Order::Stop {
            must_be_read(&desired)?;
        }
        let memory = self.state.tree(&desired.tree.owner)?;
        for doubt in self.state.doubts(&desired.tree.owner, &desired.tree.path)? {
            // A view may be made again from the tree of an earlier one.
            if !desired.diagnostics.contains(&doubt) {
                desired.diagnostics.push(doubt);
            }
        }
        let forgotten = memory.adopted()?.1.map(|damage| {
            let hint = "objects of other state folders are theirs again: `bottle apply --adopt` takes \
                        them over and writes it anew; else remove it";
            Diagnostic::warning("adopted.json", damage).with_hint(hint)
        });
        for warning in full_disk(self.state.root()).into_iter().chain(forgotten) {
            if !desired.diagnostics.contains(&warning) {
                desired.diagnostics.push(warning);
            }
        }
        let earlier = renames::earlier(&memory, &desired);
        let authorities = Authorities::of(&memory).judge(&mut desired, &earlier);
        let mut scope = self.scope(&desired.tree.owner, &memory)?;
        let mut names = HostNames::read()?.told();
        (options.cas, options.lost_cas) = (authorities.in_force, authorities.lost);
        let wanted = wanted(&desired);
        let (observed, late, revision) = looking(&scope, &wanted).await;
        // Elsewhere other servers are near.
        names.retain(|kind, _| !observed.facts.get(kind).is_some_and(|facts| facts.elsewhere));
        let summaries = names.iter().map(|(kind, told)| (*kind, told.summary.clone()));
        options.names = summaries.collect();
        let (accepted, keeps) = match memory.accepted(&mounts) {
            Err(error) => {
                // Whatever it says, all goes; and what is only looked at is shown.
                if !options.remove_all {
                    hold_all(&mut desired, &memory, &error);
                }
                Default::default()
            }
            Ok(accepted) => accepted,
        };
        let (carried, unreadable) = memory.carried()?;
        let (stopped, doubtful) = memory.stopped()?;
        let mut observed = Observed {
            receipts: memory.receipts()?,
            stopped,
            carrying: carried.into_iter().map(|(id, one)| (id, one.machine)).collect(),
            keeps,
            accepted,
            elsewhere: self.elsewhere(&desired.tree.owner).await?.0,
            ..observed
        };
        let whatever = options.remove_all;
        let was = !whatever && options.order != Order::Stop;
        let known = renames::known(&memory, &mut desired, &mut observed, whatever, was);
        scope.places = plan::renames::resolve(&mut desired, &mut observed, &known);
        if !options.remove_all {
            carried::hold_unreadable(&mut desired, renames::forward(unreadable, &observed));
            let doubtful = renames::forward(doubtful, &observed);
            stops::hold_unreadable(&mut desired, doubtful, &options);
            let accepted = observed.accepted.clone();
            hold_beside_unrecorded(&mut desired, &observed, &accepted);
        }
        let trusted = values::trusted(&self.sources, &desired, &observed)?;
        let given = values::read(&desired, trusted).await?;
        // What goes, or stops, needs no token.
        let needed = !options.remove_all && options.order != Order::Stop;
        let ask = needed.then_some(&self.sources.hung);
        let credentials =
            Credentials::gather(&mut desired, &observed, &given, ask, &self.state).await;
        options.tokens = credentials.digests();
        desired
            .diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        let secrets = values::gather(&desired, &self.sources, given, &self.state)?;
        let told = Arc::new(requests::Told::of(
            memory.requests()?,
            memory.muted()?,
            &desired,
            requests::now(),
        ));
        let supervised = desired.sandboxes.values().filter(|spec| spec.policy.supervise);
        options.requests = told.all(supervised.map(|spec| &spec.id));
        options.values =
            secrets.0.iter().map(|(name, secret)| (name.clone(), secret.digest.clone())).collect();
        if !late.is_empty() {
            options.deferred.extend(undecided(&desired, &observed));
        }
        let mut plan = plan::plan(&desired, &observed, &options);
        note_left_out(&mut plan).await;
        detached::note(&mut plan, &memory, |id| observed.renames.get(id).cloned());
        Ok(View {
            desired,
            observed,
            options,
            plan,
            secrets,
            credentials,
            scope,
            revision,
            memory,
            places: known.places,
            names,
            told,
        })
    }

    /// Asks every backend, all at once.
    pub async fn observe(&self, scope: &Scope) -> Observed {
        let asked = self.backends.iter().map(async |(kind, backend)| {
            (*kind, ask(*kind, backend.as_ref(), scope, self.depth).await)
        });
        let mut observed = gathered(join_all(asked).await);
        scope.places.assign(&mut observed.instances);
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

    /// Slots for one run, or for all runs of a loop.
    #[must_use]
    pub fn slots(&self) -> Slots {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Slots::new(self.jobs, cores)
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
        self.accept(view)?;
        stops::wake(&view.memory, &view.options).context("remembering what is started")?;
        self.requests_of(view).await;
        if view.plan.is_empty() {
            // Under the lock nobody has written any since they were read.
            let read = &view.observed.receipts;
            let receipts = match view.memory.holds_receipts(read.len())? {
                true => read.clone(),
                false => view.memory.sweep_receipts()?,
            };
            self.tidy_by(view, receipts)?;
            self.nothing_done(view);
            return Ok(Report::default());
        }
        self.begin(view)?;
        let slots = self.slots();
        let roots = Roots::default();
        let run = Run { only: None, slots: &slots, roots, may: &|_| true, claimed: false };
        let report = self.run(view, &run, stop, tell).await;
        self.remember(view, outcomes(&view.plan, &report), &BTreeSet::new());
        if let Err(error) = self.tidy(view) {
            tracing::warn!(error = %format!("{error:#}"), "the state folder cannot be tidied");
        }
        if let Err(error) = carried::settle(view, &report) {
            tracing::warn!(error = %format!("{error:#}"), "what was on its way is not forgotten");
        }
        if let Err(error) = renames::tidy(view, &report) {
            tracing::warn!(error = %format!("{error:#}"), "where sandboxes were is not forgotten");
        }
        Ok(report)
    }

    /// Remembers what of the host the plan gives to whom, before anything of it is done.
    pub(super) fn accept(&self, view: &View) -> anyhow::Result<()> {
        renames::accept(view).context("remembering where sandboxes are")?;
        accepted::accept(&self.state, view).context("remembering what sandboxes are given")
    }

    /// Nothing to do for this commit is an outcome too.
    pub(super) fn nothing_to_do(&self, view: &View) -> anyhow::Result<()> {
        self.tidy(view)?;
        self.nothing_done(view);
        Ok(())
    }

    fn nothing_done(&self, view: &View) {
        let known: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
        let (commit, dirty) = (view.revision.commit.clone(), view.revision.dirty);
        if view.plan.refused.is_none() && (known.commit != commit || known.dirty != dirty) {
            let last = Last { commit, dirty, ..known };
            if let Err(error) = view.memory.set_last(&last) {
                tracing::warn!(error = %format!("{error:#}"), "the outcome cannot be remembered");
            }
        }
    }

    /// Before anything is done, and while nothing else is under way.
    pub(super) fn begin(&self, view: &View) -> anyhow::Result<()> {
        view.memory.sweep_texts().context("tidying the state folder")
    }

    /// Does steps of a view's plan, and writes the audit record.
    pub(super) async fn run(
        &self,
        view: &View,
        run: &Run<'_>,
        stop: &Stop,
        tell: Arc<dyn Fn(Event<'_>) + Send + Sync>,
    ) -> Report {
        let (plan, memory) = (&view.plan, view.memory.clone());
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| (step.action.name(), step.backend, step.sandbox.clone()))
            .collect();
        let id = getrandom::u32().unwrap_or_default();
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
                run: id,
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
            keeper: &Keeping::of(view, &self.backends),
            secrets: &view.secrets,
            sidecars: &Documents::sharing(
                &view.memory,
                &view.credentials,
                run.roots.clone(),
                view.names.clone(),
                view.told.clone(),
            ),
            slots: run.slots,
            may: run.may,
            deadlines: self.deadlines,
            stop,
            tell,
        };
        let mine = |step: &&Step| run.only.is_none_or(|ids| ids.contains(&step.id));
        let steps = plan.steps.iter().filter(mine).filter(|_| !run.claimed);
        // A policy goes in beside whatever else is under way for its sandbox.
        let sandboxes = steps
            .filter(|step| !matches!(step.action, plan::Action::Load { .. }))
            .flat_map(|step| {
                let from = match &step.action {
                    plan::Action::Rename { from } => Some(from.clone()),
                    _ => None,
                };
                step.sandbox.clone().into_iter().chain(from)
            })
            .collect();
        // What a snapshot is being restored into is not replaced meanwhile.
        let claims = tokio::select! {
            () = stop.drain.cancelled() => Ok(Claims::default()),
            claims = view.memory.claim(&sandboxes, Duration::MAX) => claims,
        };
        // Without such a file nothing is restored either.
        if let Err(error) = &claims {
            tracing::warn!(error = %format!("{error:#}"), "sandboxes cannot be locked one by one");
        }
        // What was stopped or started while this waited is planned anew.
        let of = plan.steps.iter().filter(mine).filter_map(|step| step.sandbox.as_ref());
        let outdated = stops::outdated(view, of);
        let current: BTreeSet<StepId> = plan
            .steps
            .iter()
            .filter(mine)
            .filter(|step| step.sandbox.as_ref().is_none_or(|id| !outdated.contains(id)))
            .map(|step| step.id)
            .collect();
        let report = apply::apply(plan, Some(&current), &context).await;
        drop(claims);
        if let Err(error) = accepted::settle(view, &report) {
            tracing::warn!(error = %format!("{error:#}"), "what sandboxes are given cannot be remembered");
        }
        self.settle_requests(view, &report).await;
        report
    }

    /// Writes down how it went, for `status`. The view may be older than what is under way for
    /// sandboxes that are `busy`.
    pub(super) fn remember(
        &self,
        view: &View,
        outcomes: impl IntoIterator<Item = (SandboxId, LastOutcome)>,
        busy: &BTreeSet<SandboxId>,
    ) {
        let mut last: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
        last.sandboxes.extend(outcomes);
        last.commit.clone_from(&view.revision.commit);
        last.dirty = view.revision.dirty;
        // What neither the tree nor a backend knows any more is not shown to anyone.
        let existing: BTreeSet<_> = view.observed.instances.iter().map(|i| &i.sandbox).collect();
        last.sandboxes.retain(|id, _| {
            view.desired.sandboxes.contains_key(id)
                || view.desired.held.contains_key(id)
                || existing.contains(id)
                || busy.contains(id)
        });
        if let Err(error) = view.memory.set_last(&last) {
            tracing::warn!(error = %format!("{error:#}"), "the outcome cannot be remembered");
        }
    }
}

/// Holds what lies in what a machine of this tree can write of which nothing is recorded: by its own record.
fn hold_beside_unrecorded(
    desired: &mut Desired,
    observed: &Observed,
    accepted: &BTreeMap<SandboxId, Vec<HostSource>>,
) {
    let ours = observed.instances.iter().filter(|i| i.ownership == Ownership::Ours);
    let mut unrecorded = ours.filter(|i| !accepted.contains_key(&i.sandbox)).peekable();
    if unrecorded.peek().is_some() {
        let (tree, table) = (desired.tree.path.clone(), manifest::mount_table());
        let given: Vec<Elsewhere> =
            unrecorded.filter_map(|i| accepted::given(&tree, i, &table)).collect();
        plan::sources::hold_exposed(desired, &given);
    }
}

/// Nothing is done for a tree of which nobody knows what its sandboxes were given.
fn hold_all(desired: &mut Desired, memory: &TreeState, error: &anyhow::Error) {
    let file = memory.dir().join("sources.json").display().to_string();
    let diagnostic = Diagnostic::error(file, format!("{error:#}"));
    let all = std::mem::take(&mut desired.sandboxes);
    let held = all.into_keys().map(|id| (id, vec![diagnostic.clone()]));
    desired.held.extend(held);
    if !desired.diagnostics.contains(&diagnostic) {
        desired.diagnostics.push(diagnostic);
    }
}

/// Notes what copies of workspaces that are to be made would leave out.
async fn note_left_out(plan: &mut Plan) {
    let mut seen: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
    for step in &plan.steps {
        let plan::Action::Provision { guest, prior, .. } = &step.action else { continue };
        let Some(source) = &guest.workspace else { continue };
        if prior.as_ref().is_some_and(|receipt| receipt.workspace) {
            continue;
        }
        if !seen.contains_key(&source.path) {
            let path = source.path.clone();
            let looked = tokio::task::spawn_blocking(move || apply::survey(&path)).await;
            let words = match looked {
                Ok(Ok(left_out)) => left_out.words(),
                Ok(Err(error)) => Some(format!("the workspace cannot be copied: {error:#}")),
                Err(_) => None,
            };
            seen.insert(source.path.clone(), words);
        }
        let words = seen.get(&source.path).and_then(Option::as_ref);
        let machine = crate::model::ResourceKind::Machine;
        if let Some(words) = words
            && let Some(change) = plan
                .changes
                .iter_mut()
                .find(|change| change.sandbox == guest.sandbox && change.resource == machine)
        {
            change.notes.push(words.clone());
        }
    }
}

/// What cannot be read is not empty: a tree of which a folder cannot be read has no plan, whatever
/// the operator said.
fn must_be_read(desired: &Desired) -> anyhow::Result<()> {
    let tree = desired.tree.path.display();
    let advice = "nothing was planned and nothing is touched; make it readable and try again";
    if let AgentsFolder::Unreadable(reason) = &desired.agents {
        anyhow::bail!("{tree}/agents cannot be read: {reason}; {advice}");
    }
    let bottles = |d: &&Diagnostic| d.file == "bottles" && d.severity == Severity::Error;
    if let Some(found) = desired.diagnostics.iter().find(bottles) {
        anyhow::bail!("{tree}/bottles: {}; {advice}", found.message);
    }
    Ok(())
}

/// That the disk of the state folder is as good as full.
fn full_disk(state: &std::path::Path) -> Option<Diagnostic> {
    let low = crate::backend::reserve::LOW >> 20;
    let message = format!(
        "less than {low} MiB are free where the state folder lies: native sandboxes cannot write, and \
         sidecars refuse requests once what they have set aside for their log is used up"
    );
    let hint = "make room there: look which sandbox fills it (`du -s`, below `trees/*/native`)";
    crate::backend::reserve::is_low(state)
        .then(|| Diagnostic::warning(state.display().to_string(), message).with_hint(hint))
}

/// The folder of the tree, canonical where it exists.
#[must_use]
pub fn canonical(path: &std::path::Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
