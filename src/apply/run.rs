//! Order, bounded concurrency, deadlines, cancellation. A failed step skips what depends on it,
//! with the cause; everything else goes on.
#![expect(clippy::disallowed_methods, reason = "steps are timed, for the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::brisk::Brisk;
use super::provision::{self, Provision};
use super::{Context, Deadlines, Event, Outcome, Report, StepOutcome, load, slots};
use crate::backend::{Backend, BackendError, Progress};
use crate::model::{Instance, InstanceId, InstanceState, Kept, MachineSpec, ResourceKind};
use crate::plan::{Action, Plan, Step, StepId, Target};

/// Instances as this run left them: made by a step, or started anew.
#[derive(Default)]
struct Made {
    by_step: BTreeMap<StepId, Instance>,
    by_id: BTreeMap<InstanceId, Instance>,
}

/// Carries out these steps of a plan, or all of them. What comes after a step that is not among them
/// does not wait for it.
pub async fn apply(plan: &Plan, only: Option<&BTreeSet<StepId>>, context: &Context<'_>) -> Report {
    let mine = |id: &StepId| only.is_none_or(|only| only.contains(id));
    let steps = || plan.steps.iter().filter(|step| mine(&step.id));
    let made = Mutex::new(Made::default());
    let mut outcomes: BTreeMap<StepId, StepOutcome> = BTreeMap::new();
    let mut waiting: BTreeSet<StepId> = steps().map(|step| step.id).collect();
    let mut running = FuturesUnordered::new();
    let mut dependents: BTreeMap<StepId, Vec<StepId>> = BTreeMap::new();
    let mut open: BTreeMap<StepId, usize> = BTreeMap::new();
    let mut ready: BTreeSet<StepId> = BTreeSet::new();
    for step in steps() {
        let after: Vec<&StepId> = step.after.iter().filter(|id| mine(id)).collect();
        open.insert(step.id, after.len());
        if after.is_empty() && step.undoes.is_empty() {
            ready.insert(step.id);
        }
        for before in after {
            dependents.entry(*before).or_default().push(step.id);
        }
    }
    // What makes others good is ready once something is to be made good, whatever else it stands on is done.
    let undoes: BTreeSet<StepId> =
        steps().filter(|step| !step.undoes.is_empty()).map(|step| step.id).collect();
    let settle = |outcome: StepOutcome, outcomes: &mut BTreeMap<StepId, StepOutcome>| {
        (context.tell)(Event::Ended(&outcome));
        outcomes.insert(outcome.step, outcome);
    };
    // What makes good what was begun waits for no other order.
    let mut due: BTreeSet<StepId> = BTreeSet::new();
    loop {
        let draining = context.stop.drain.is_cancelled();
        let next = |id: &StepId| !draining || due.contains(id);
        while let Some(id) = ready.iter().copied().find(next) {
            ready.remove(&id);
            waiting.remove(&id);
            running.push(run_step(&plan.steps[id], context, &made));
        }
        if running.is_empty() {
            // What waits may not start any more.
            for step in steps().filter(|step| step.undoes.is_empty()) {
                if waiting.remove(&step.id) {
                    settle(cancelled(step.id), &mut outcomes);
                }
            }
        }
        let begun = due.len();
        for step in steps().filter(|step| !step.undoes.is_empty()) {
            if !waiting.contains(&step.id) {
                continue;
            }
            match makes_good(step, &outcomes) {
                None => {}
                // It has no outcome: nothing was to be made good.
                Some(false) => drop(waiting.remove(&step.id)),
                Some(true) if due.insert(step.id) && open[&step.id] == 0 => {
                    ready.insert(step.id);
                }
                Some(true) => {}
            }
        }
        if due.len() > begun {
            continue;
        }
        // All is done.
        if running.is_empty() {
            break;
        }
        let ended = tokio::select! {
            biased;
            () = context.stop.now.cancelled() => None,
            ended = running.next() => ended,
        };
        let Some(ended) = ended else { break };
        let (id, done) = (ended.step, ended.outcome == Outcome::Done);
        settle(ended, &mut outcomes);
        if done {
            for dependent in dependents.get(&id).into_iter().flatten() {
                if let Some(count) = open.get_mut(dependent) {
                    *count -= 1;
                    let is_due = !undoes.contains(dependent) || due.contains(dependent);
                    if *count == 0 && waiting.contains(dependent) && is_due {
                        ready.insert(*dependent);
                    }
                }
            }
            continue;
        }
        // Everything that stands on it is skipped, each naming the step that it itself needs.
        let mut failed = vec![id];
        while let Some(because) = failed.pop() {
            for dependent in dependents.get(&because).into_iter().flatten() {
                if waiting.remove(dependent) {
                    ready.remove(dependent);
                    let outcome = Outcome::Skipped { because };
                    settle(
                        StepOutcome { step: *dependent, outcome, elapsed: Duration::ZERO },
                        &mut outcomes,
                    );
                    failed.push(*dependent);
                }
            }
        }
    }
    drop(running);
    for step in steps() {
        let needed = step.undoes.is_empty() || due.contains(&step.id);
        if needed && !outcomes.contains_key(&step.id) {
            settle(cancelled(step.id), &mut outcomes);
        }
    }
    Report { outcomes: outcomes.into_values().collect() }
}

fn cancelled(step: StepId) -> StepOutcome {
    StepOutcome { step, outcome: Outcome::Cancelled, elapsed: Duration::ZERO }
}

/// Whether a step has something to make good: the first of what it undoes was begun, and not all of that was
/// done. `None`: that is not known yet.
fn makes_good(step: &Step, outcomes: &BTreeMap<StepId, StepOutcome>) -> Option<bool> {
    let of = |id: &StepId| outcomes.get(id).map(|outcome| &outcome.outcome);
    let ended: Vec<&Outcome> = step.undoes.iter().map(of).collect::<Option<_>>()?;
    let begun = matches!(ended.first(), Some(Outcome::Done | Outcome::Failed(_)));
    Some(begun && ended.iter().any(|outcome| **outcome != Outcome::Done))
}

/// Waits for a slot and does the step. One that takes long gives its slot back and goes on.
async fn run_step(step: &Step, context: &Context<'_>, made: &Mutex<Made>) -> StepOutcome {
    let drain = &context.stop.drain;
    let slot = tokio::select! {
        biased;
        () = drain.cancelled(), if step.undoes.is_empty() => return cancelled(step.id),
        slot = context.slots.take(step) => slot,
    };
    if !(context.may)(step) {
        return cancelled(step.id);
    }
    (context.tell)(Event::Started(step.id));
    let begun = Instant::now();
    let deadline = match step.action {
        Action::Prepare(_) => Some(context.deadlines.prepare),
        // Each part of it has its own.
        Action::Provision { .. } | Action::Keep { .. } | Action::Teardown { .. } => None,
        Action::Start(_) => Some(context.deadlines.start),
        Action::Load { .. } => Some(context.deadlines.small),
        _ => Some(context.deadlines.other),
    };
    let work = async {
        match context.backends.get(&step.backend) {
            None => Err(anyhow::anyhow!("this bottle has no backend {}", step.backend)),
            Some(backend) => {
                let work = act(step, backend.as_ref(), context, made);
                let Some(deadline) = deadline else { return work.await };
                let done = tokio::time::timeout(deadline, work).await;
                done.unwrap_or_else(|_| Err(late(step, deadline).into()))
            }
        }
    };
    tokio::pin!(work);
    let prepares = matches!(step.action, Action::Prepare(_));
    let held = tokio::time::sleep(slots::hold(step));
    tokio::pin!(held);
    let mut slot = Some(slot);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            // It has changed nothing yet, and may take half an hour.
            () = drain.cancelled(), if prepares => {
                return StepOutcome { elapsed: begun.elapsed(), ..cancelled(step.id) };
            }
            () = &mut held, if slot.is_some() => slot = None,
        }
    };
    let outcome = match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    };
    StepOutcome { step: step.id, outcome, elapsed: begun.elapsed() }
}

fn brisk<'a>(backend: &'a dyn Backend, context: &Context<'_>) -> Brisk<'a> {
    let Deadlines { small, silence, .. } = context.deadlines;
    Brisk { inner: backend, small, silence }
}

/// What moves much data out of a machine or into it.
async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or_else(|_| {
        Err(BackendError::Deadline { what: what.to_owned(), seconds: limit.as_secs() }.into())
    })
}

fn late(step: &Step, deadline: Duration) -> BackendError {
    let what = format!("the {} step", step.action.name());
    BackendError::Deadline { what, seconds: deadline.as_secs() }
}

/// An error and its causes on one line, each once.
fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn lock(made: &Mutex<Made>) -> std::sync::MutexGuard<'_, Made> {
    made.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The instance that a step acts on, as this run left it.
fn resolve(target: &Target, made: &Mutex<Made>) -> anyhow::Result<Instance> {
    let made = lock(made);
    match target {
        Target::Existing(instance) => Ok(made.by_id.get(&instance.id).unwrap_or(instance).clone()),
        Target::CreatedBy(step) => made
            .by_step
            .get(step)
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("step {step} has made nothing")),
    }
}

/// Keeps what was worked on in a machine that is to go, or to be set aside.
async fn keep(
    step: &Step,
    backend: &dyn Backend,
    context: &Context<'_>,
    machine: &Instance,
    kept: &Kept,
    next: Option<&MachineSpec>,
) -> anyhow::Result<()> {
    (context.tell)(Event::Progress(step.id, "keeping what was worked on"));
    let brisk = brisk(backend, context);
    let keeping = context.keeper.keep(&brisk, context.scope, machine, kept, next);
    if let Err(error) = within(context.deadlines.moving, "keeping it", keeping).await {
        // At the deadline the work was dropped in its middle, with what ran in the machine ended.
        context.keeper.resume(&brisk, context.scope, machine).await;
        let name = &machine.sandbox;
        return Err(error.context(format!(
            "what {name} worked on could not be kept, so it stays (`--discard {name}` removes it all the same)"
        )));
    }
    // That may have taken minutes.
    if !(context.may)(step) {
        context.keeper.resume(&brisk, context.scope, machine).await;
        anyhow::bail!("the tree has changed since: it is looked at again");
    }
    Ok(())
}

async fn act(
    step: &Step,
    backend: &dyn Backend,
    context: &Context<'_>,
    made: &Mutex<Made>,
) -> anyhow::Result<()> {
    let scope = context.scope;
    match &step.action {
        Action::Prepare(spec) => {
            let (tell, id) = (context.tell.clone(), step.id);
            let progress = Progress::new(move |line| tell(Event::Progress(id, line)));
            backend.prepare(scope, spec, &progress).await?;
        }
        Action::Create(spec) => {
            let instance = backend.create(scope, spec).await?;
            // It is there, whatever fails from here on.
            lock(made).by_step.insert(step.id, instance.clone());
            if spec.kind() == ResourceKind::Machine {
                let moved = context.keeper.hand_over(backend, scope, &instance).await;
                moved.context("moving in what was kept of the machine before")?;
            }
        }
        Action::Start(target) => {
            let instance = resolve(target, made)?;
            let started = backend.start(scope, &instance).await?;
            let mut made = lock(made);
            match target {
                Target::CreatedBy(step) => made.by_step.insert(*step, started),
                Target::Existing(instance) => made.by_id.insert(instance.id.clone(), started),
            };
        }
        Action::Stop(instance) => backend.stop(scope, instance).await?,
        Action::Mend(instance) => {
            backend.mend(scope, instance).await?;
            // Its run has another identity on some engines, once it is on its networks again: what
            // follows is remembered for that one.
            let moved = instance.mendable.iter().any(|change| change.path == "networks");
            if moved && instance.state == InstanceState::Running {
                let now = backend.start(scope, instance).await?;
                lock(made).by_id.insert(instance.id.clone(), now);
            }
        }
        Action::Adjust { machine, resources, tools } => {
            backend.adjust(scope, machine, resources, tools).await?;
        }
        Action::Load { sidecar, spec } => {
            let instance = resolve(sidecar, made)?;
            load::load(backend, context, &instance, spec).await?;
        }
        Action::Provision { machine, guest, prior, deliver, carries } => {
            let instance = resolve(machine, made)?;
            let carried = match carries {
                true => {
                    let brisk = brisk(backend, context);
                    let carrying = context.keeper.carry(&brisk, scope, &instance, guest);
                    let carried = within(context.deadlines.moving, "putting it in", carrying).await;
                    carried.context("putting in what was kept of the machine before")?
                }
                false => None,
            };
            let work = Provision {
                instance: &instance,
                guest,
                prior: carried.as_ref().or(prior.as_deref()),
                deliver,
                fresh: matches!(machine, Target::CreatedBy(_)) && carried.is_none(),
                step: step.id,
            };
            provision::provision(&brisk(backend, context), backend, context, &work).await?;
        }
        Action::Keep { machine, kept, next } => {
            keep(step, backend, context, machine, kept, Some(next)).await?;
        }
        Action::SetAside(machine) => backend.set_aside(scope, machine).await?,
        Action::BringBack { machine, instead_of } => {
            let made = instead_of.and_then(|step| lock(made).by_step.get(&step).cloned());
            if let Some(made) = made {
                // It may be on another backend.
                let its = context.backends.get(&made.backend).map(AsRef::as_ref);
                its.unwrap_or(backend).teardown(scope, &made).await?;
                context.receipts.forget(&made.id)?;
            }
            backend.bring_back(scope, machine).await?;
        }
        Action::Teardown { instance, keeps } => {
            if let Some(kept) = keeps {
                keep(step, backend, context, instance, kept, None).await?;
            }
            let limit = context.deadlines.other;
            let gone = tokio::time::timeout(limit, backend.teardown(scope, instance)).await;
            gone.map_err(|_| late(step, limit))??;
            context.receipts.forget(&instance.id)?;
        }
        Action::Rename { from } => {
            let to = step.sandbox.as_ref().context("a rename is of a sandbox")?;
            context.receipts.rename(from, to)?;
        }
        Action::Prune(leftover) => backend.prune(scope, leftover).await?,
    }
    Ok(())
}
