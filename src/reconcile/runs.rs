//! What is under way: a run a sandbox, never two of one. A pass plans for all and begins runs; it
//! waits for none of them. What came of a pass is published when the last of its runs has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use super::files::Moves;
use super::pass::{Reconciler, Run};
use super::sidecars::Roots;
use super::trigger::Trigger;
use super::view::View;
use crate::apply::{Event, Report, Slots, StepOutcome, Stop};
use crate::model::SandboxId;
use crate::plan::{Action, Step, StepId, Target};

/// Who hears of steps.
pub(super) type Tell = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// For what a run works: for a sandbox, or for what belongs to none.
type Key = Option<SandboxId>;

/// A pass of which runs are under way.
pub(super) struct Round {
    pub(super) view: View,
    pub(super) causes: Vec<Trigger>,
    outcomes: Mutex<Vec<StepOutcome>>,
    open: Mutex<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Round {
    /// What came of it so far.
    pub(super) fn report(&self) -> Report {
        let mut outcomes = lock(&self.outcomes).clone();
        outcomes.sort_by_key(|outcome| outcome.step);
        Report { outcomes }
    }
}

/// A run that has ended.
pub(super) struct Ended {
    key: Key,
    /// A sidecar's load, beside a run of the same sandbox.
    beside: bool,
    pub(super) round: Arc<Round>,
    pub(super) report: Report,
}

/// One that is under way.
struct Active {
    /// Steps that are not yet done and are no provisioning.
    open: Arc<Mutex<BTreeSet<StepId>>>,
    /// Something else is to be done for it once it has ended.
    again: bool,
    /// Its sidecar is being loaded beside it.
    loading: bool,
}

/// All that is under way.
pub(super) struct Runs {
    reconciler: Arc<Reconciler>,
    slots: Arc<Slots>,
    stop: Stop,
    moves: Moves,
    tasks: JoinSet<Ended>,
    active: BTreeMap<Key, Active>,
}

impl Runs {
    pub(super) fn new(reconciler: Arc<Reconciler>, stop: Stop, moves: Moves) -> Self {
        let slots = Arc::new(reconciler.slots());
        Self { reconciler, slots, stop, moves, tasks: JoinSet::new(), active: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The sandboxes for which something is under way.
    pub(super) fn sandboxes(&self) -> BTreeSet<SandboxId> {
        self.active.keys().flatten().cloned().collect()
    }

    /// Waits for the end of a run; `None` where none is under way. Nothing is lost when it is
    /// dropped.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        match self.tasks.join_next().await? {
            Ok(ended) => Some(ended),
            // A panic: its sandbox stays busy, which is better than two runs of it.
            Err(error) => {
                tracing::error!(%error, "a run has ended in a way that it should not");
                None
            }
        }
    }

    /// Books the end of a run. Says whether it was the last of its round, and whether its sandbox
    /// is to be looked at again.
    pub(super) fn ended(&mut self, ended: &Ended) -> (bool, Option<Trigger>) {
        let again = if ended.beside {
            if let Some(active) = self.active.get_mut(&ended.key) {
                active.loading = false;
            }
            false
        } else {
            self.active.remove(&ended.key).is_some_and(|active| active.again)
        };
        lock(&ended.round.outcomes).extend(ended.report.outcomes.iter().cloned());
        let mut open = lock(&ended.round.open);
        *open -= 1;
        let free = again.then(|| ended.key.clone().map_or(Trigger::Retry, Trigger::Free));
        (*open == 0, free)
    }

    /// Leaves out of a plan what must wait because something is under way, and notes for whom there
    /// is more to do. What a sidecar is no longer to allow waits for nothing: it is loaded beside a
    /// guest that is being provisioned, which may take as long as that guest likes. Returns those
    /// loads.
    pub(super) fn leave_out(&mut self, view: &mut View, waiting: Vec<SandboxId>) -> Vec<Step> {
        let pruning = self.active.contains_key(&None);
        let mut deferred: BTreeSet<SandboxId> = waiting.into_iter().collect();
        let mut loads = Vec::new();
        for step in &view.plan.steps {
            let Some(sandbox) = &step.sandbox else { continue };
            let key = Some(sandbox.clone());
            // What is under way for the name that it had ends first.
            if let Action::Rename { from } = &step.action
                && let Some(active) = self.active.get_mut(&Some(from.clone()))
            {
                active.again = true;
                deferred.insert(sandbox.clone());
                continue;
            }
            if let Some(active) = self.active.get_mut(&key) {
                active.again = true;
                if !deferred.contains(sandbox) && !active.loading && is_load_of_its_own(step) {
                    let provisioning_only = lock(&active.open).is_empty();
                    if provisioning_only {
                        active.loading = true;
                        loads.push(step.clone());
                    }
                }
                deferred.insert(sandbox.clone());
            } else if pruning && matches!(step.action, Action::Prepare(_)) {
                // The image that it wants could be the one that goes.
                if let Some(pruning) = self.active.get_mut(&None) {
                    pruning.again = true;
                }
                deferred.insert(sandbox.clone());
            }
        }
        if !deferred.is_empty() {
            view.defer(deferred);
        }
        // What belongs to nobody may be what a run is making. Prunes come last in a plan.
        let busy = !self.active.is_empty();
        view.plan.steps.retain(|step| step.sandbox.is_some() || (!busy && step.after.is_empty()));
        for load in &mut loads {
            load.id = view.plan.steps.len();
            view.plan.steps.push(load.clone());
        }
        loads
    }

    /// Begins a run for each sandbox of the view's plan. `read` is how often the tree had moved when
    /// it was read: when it has moved since, nothing is removed. Without it, it goes all the same.
    pub(super) fn begin(
        &mut self,
        view: View,
        causes: Vec<Trigger>,
        loads: &[Step],
        read: Option<u64>,
        tell: impl Fn(&Arc<Round>) -> Tell,
    ) -> Arc<Round> {
        let beside: BTreeSet<StepId> = loads.iter().map(|load| load.id).collect();
        let mut groups: BTreeMap<Key, BTreeSet<StepId>> = BTreeMap::new();
        for step in view.plan.steps.iter().filter(|step| !beside.contains(&step.id)) {
            groups.entry(step.sandbox.clone()).or_default().insert(step.id);
        }
        let round = Arc::new(Round {
            view,
            causes,
            outcomes: Mutex::default(),
            open: Mutex::new(groups.len() + beside.len()),
        });
        let roots = Roots::default();
        for load in loads {
            let ids = BTreeSet::from([load.id]);
            let open = Arc::default();
            self.spawn(&round, load.sandbox.clone(), true, ids, &roots, &open, read, tell(&round));
        }
        for (key, ids) in groups {
            let steps = &round.view.plan.steps;
            let provisioning = |id: &StepId| matches!(steps[*id].action, Action::Provision { .. });
            // What comes after it, or makes it good, is no reason to wait either.
            let first = |id: &&StepId| {
                let step = &steps[**id];
                !provisioning(id) && step.undoes.is_empty() && !step.after.iter().any(provisioning)
            };
            let open = Arc::new(Mutex::new(ids.iter().filter(first).copied().collect()));
            self.spawn(&round, key.clone(), false, ids, &roots, &open, read, tell(&round));
            self.active.insert(key, Active { open, again: false, loading: false });
        }
        round
    }

    #[expect(clippy::too_many_arguments, reason = "all that a task takes with it")]
    fn spawn(
        &mut self,
        round: &Arc<Round>,
        key: Key,
        beside: bool,
        ids: BTreeSet<StepId>,
        roots: &Roots,
        open: &Arc<Mutex<BTreeSet<StepId>>>,
        read: Option<u64>,
        tell: Tell,
    ) {
        let (reconciler, slots, stop) =
            (self.reconciler.clone(), self.slots.clone(), self.stop.clone());
        let (round, roots, open, moves) =
            (round.clone(), roots.clone(), open.clone(), self.moves.clone());
        self.tasks.spawn(async move {
            let tell: Tell = Arc::new(move |event: Event<'_>| {
                if let Event::Ended(ended) = &event {
                    lock(&open).remove(&ended.step);
                }
                tell(event);
            });
            // Between the reading and this very step the tree may have moved.
            let may = move |step: &Step| {
                let goes = matches!(
                    step.action,
                    Action::Teardown { .. } | Action::Keep { .. } | Action::SetAside(_)
                );
                !goes || read.is_none_or(|read| read == moves.count())
            };
            let run = Run { only: Some(&ids), slots: &slots, roots, may: &may, claimed: false };
            let report = reconciler.run(&round.view, &run, &stop, tell).await;
            Ended { key, beside, round, report }
        });
    }
}

/// A sidecar that stays is loaded, and nothing is done to it before.
fn is_load_of_its_own(step: &Step) -> bool {
    matches!(&step.action, Action::Load { sidecar: Target::Existing(_), .. })
        && step.after.is_empty()
}
