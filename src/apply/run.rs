//! Order, bounded concurrency, deadlines, cancellation. A failed step skips what depends on it,
//! with the cause; everything else goes on.
#![expect(clippy::disallowed_methods, reason = "steps are timed, for the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::provision::{self, Provision};
use super::{Context, Event, Outcome, Report, StepOutcome, load};
use crate::backend::{Backend, BackendError, Progress};
use crate::model::{Instance, InstanceId};
use crate::plan::{Action, Plan, Step, StepId, Target};

/// Instances as this run left them: made by a step, or started anew.
#[derive(Default)]
struct Made {
    by_step: BTreeMap<StepId, Instance>,
    by_id: BTreeMap<InstanceId, Instance>,
}

/// Carries out a plan.
pub async fn apply(plan: &Plan, context: &Context<'_>) -> Report {
    let made = Mutex::new(Made::default());
    let mut outcomes: BTreeMap<StepId, StepOutcome> = BTreeMap::new();
    let mut waiting: BTreeSet<StepId> = plan.steps.iter().map(|step| step.id).collect();
    let mut running = FuturesUnordered::new();
    let mut dependents: BTreeMap<StepId, Vec<StepId>> = BTreeMap::new();
    let mut open: BTreeMap<StepId, usize> = BTreeMap::new();
    let mut ready: BTreeSet<StepId> = BTreeSet::new();
    for step in &plan.steps {
        open.insert(step.id, step.after.len());
        if step.after.is_empty() {
            ready.insert(step.id);
        }
        for before in &step.after {
            dependents.entry(*before).or_default().push(step.id);
        }
    }
    let settle = |outcome: StepOutcome, outcomes: &mut BTreeMap<StepId, StepOutcome>| {
        (context.tell)(Event::Ended(&outcome));
        outcomes.insert(outcome.step, outcome);
    };
    loop {
        while !context.stop.drain.is_cancelled()
            && running.len() < context.jobs.max(1)
            && let Some(id) = ready.pop_first()
        {
            waiting.remove(&id);
            (context.tell)(Event::Started(id));
            running.push(run_step(&plan.steps[id], context, &made));
        }
        // All is done, or what waits may not start any more.
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
                    if *count == 0 && waiting.contains(dependent) {
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
    for step in &plan.steps {
        if !outcomes.contains_key(&step.id) {
            let outcome = Outcome::Cancelled;
            settle(StepOutcome { step: step.id, outcome, elapsed: Duration::ZERO }, &mut outcomes);
        }
    }
    Report { outcomes: outcomes.into_values().collect() }
}

async fn run_step(step: &Step, context: &Context<'_>, made: &Mutex<Made>) -> StepOutcome {
    let begun = Instant::now();
    let deadline = match step.action {
        Action::Prepare(_) => context.deadlines.prepare,
        Action::Provision { .. } => context.deadlines.provision,
        Action::Start(_) => context.deadlines.start,
        _ => context.deadlines.other,
    };
    let result = match context.backends.get(&step.backend) {
        None => Err(anyhow::anyhow!("this bottle has no backend {}", step.backend)),
        Some(backend) => {
            match tokio::time::timeout(deadline, act(step, backend.as_ref(), context, made)).await {
                Ok(result) => result,
                Err(_) => Err(BackendError::Deadline {
                    what: format!("the {} step", step.action.name()),
                    seconds: deadline.as_secs(),
                }
                .into()),
            }
        }
    };
    let outcome = match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    };
    StepOutcome { step: step.id, outcome, elapsed: begun.elapsed() }
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
            lock(made).by_step.insert(step.id, instance);
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
        Action::Mend(instance) => backend.mend(scope, instance).await?,
        Action::Load { sidecar, spec } => {
            let instance = resolve(sidecar, made)?;
            load::load(backend, context, &instance, spec).await?;
        }
        Action::Provision { machine, guest, prior, deliver } => {
            let instance = resolve(machine, made)?;
            let fresh = matches!(machine, Target::CreatedBy(_));
            let work =
                Provision { instance: &instance, guest, prior: prior.as_deref(), deliver, fresh };
            provision::provision(backend, context, &work).await?;
        }
        Action::Teardown(instance) => {
            backend.teardown(scope, instance).await?;
            context.receipts.forget(&instance.id)?;
        }
        Action::Prune(leftover) => backend.prune(scope, leftover).await?,
    }
    Ok(())
}
