//! The loop: one pass at a time; a trigger during a pass means one more pass.
#![expect(clippy::disallowed_methods, reason = "the loop keeps time")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::backoff::{Backoff, Happened};
use super::files::Files;
use super::pass::{Reconciler, View};
use super::trigger::Trigger;
use crate::apply::{Event, Outcome, Report, Stop};
use crate::backend::{Backend, LogOptions, Scope};
use crate::model::{Instance, OwnerId, ResourceKind, SandboxId};
use crate::plan::{Action, OnMassTeardown, Options, Target};

/// How quickly a backend that went away is asked again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// So many changed files are named one by one.
const NAMED: usize = 8;

/// How the loop keeps time.
#[derive(Debug, Clone, Copy)]
pub struct WatchConfig {
    /// A pass is due after this long, whatever was or was not said.
    pub resync: Duration,
    /// Triggers within this time of the first are one.
    pub debounce: Duration,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { resync: Duration::from_secs(30), debounce: Duration::from_millis(200) }
    }
}

/// A sandbox that keeps failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Which.
    pub sandbox: SandboxId,
    /// When it is tried again.
    pub next: Duration,
    /// How often it has failed in a row.
    pub attempts: u32,
    /// The last lines of its output.
    pub lines: Vec<String>,
}

/// What a pass came to, for people and for the record.
pub enum Published<'a> {
    /// A pass was run.
    Pass {
        /// What was seen and planned.
        view: &'a View,
        /// What was done.
        report: &'a Report,
        /// Why the pass was due.
        causes: &'a [Trigger],
        /// Who keeps failing.
        failing: &'a [Failing],
    },
    /// There was no plan, and nothing was touched.
    NoPlan {
        /// Why.
        error: &'a anyhow::Error,
        /// Why the pass was due.
        causes: &'a [Trigger],
    },
    /// A step begins, goes on or ends.
    Step(&'a View, Event<'a>),
}

/// Who is told of every pass.
pub type Publish = Arc<dyn Fn(Published<'_>) + Send + Sync>;

/// Reconciles until `stop` says so. The caller holds the lock of `owner`'s tree.
///
/// # Errors
/// When the state folder cannot be used, or files can neither be watched nor polled.
pub async fn watch(
    reconciler: &Reconciler,
    owner: &OwnerId,
    options: Options,
    config: WatchConfig,
    stop: &Stop,
    publish: Publish,
) -> anyhow::Result<()> {
    let (send, mut receive) = unbounded_channel();
    let mut files = Files::new(&reconciler.load, send.clone())?;
    let memory = reconciler.state.tree(owner)?;
    let scope = reconciler.scope(owner, &memory)?;
    let mut listeners = JoinSet::new();
    for backend in reconciler.backends.values() {
        listeners.spawn(listen(backend.clone(), scope.clone(), send.clone()));
    }
    let options = Options { on_mass_teardown: OnMassTeardown::Hold, ..options };
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    let mut causes = vec![Trigger::Start];
    while !stop.drain.is_cancelled() {
        if causes.iter().any(|cause| matches!(cause, Trigger::Files(_))) {
            backoff.reset();
        }
        if files.arm() && causes != [Trigger::Start] {
            // What was written before it was watched is read by this pass or by the next.
            let _ = send.send(Trigger::Files("a folder of the tree".to_owned()));
        }
        for cause in &causes {
            tracing::info!(%cause, "starting a pass");
        }
        let options = Options { deferred: backoff.deferred(begun.elapsed()), ..options.clone() };
        pass(reconciler, owner, options, stop, &publish, &causes, &mut backoff, begun).await;
        let patience =
            backoff.next(begun.elapsed()).map_or(config.resync, |next| next.min(config.resync));
        let retry = patience < config.resync;
        causes = tokio::select! {
            () = stop.drain.cancelled() => break,
            causes = next(&mut receive, config.debounce) => causes,
            () = tokio::time::sleep(patience) => {
                vec![if retry { Trigger::Retry } else { Trigger::Resync }]
            }
        };
    }
    Ok(())
}

/// Waits for a trigger and gathers those that follow it closely, each cause once.
async fn next(receive: &mut UnboundedReceiver<Trigger>, debounce: Duration) -> Vec<Trigger> {
    let mut causes = BTreeSet::new();
    match receive.recv().await {
        Some(first) => causes.insert(first),
        // The sender lives as long as the loop.
        None => std::future::pending().await,
    };
    let until = tokio::time::sleep(debounce);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            more = receive.recv() => if let Some(more) = more { causes.insert(more); },
        }
    }
    few(causes)
}

/// A checkout moves thousands of files: a few of them are named, and how many more there are.
fn few(causes: BTreeSet<Trigger>) -> Vec<Trigger> {
    let is_file = |cause: &Trigger| matches!(cause, Trigger::Files(_));
    let (files, mut few): (Vec<_>, Vec<_>) = causes.into_iter().partition(is_file);
    let more = files.len().saturating_sub(NAMED);
    few.extend(files.into_iter().take(NAMED));
    if more > 0 {
        few.push(Trigger::Files(format!("{more} more files")));
    }
    few
}

#[expect(clippy::too_many_arguments, reason = "the loop's own state, passed once")]
async fn pass(
    reconciler: &Reconciler,
    owner: &OwnerId,
    options: Options,
    stop: &Stop,
    publish: &Publish,
    causes: &[Trigger],
    backoff: &mut Backoff,
    begun: Instant,
) {
    let looked = async {
        let desired = reconciler.desired().await?;
        anyhow::ensure!(
            desired.tree.owner == *owner,
            "the tree's name is now {}, and this watch works for {owner}: nothing is touched; \
             start `bottle watch` anew",
            desired.tree.owner
        );
        reconciler.look_at(desired, options).await
    };
    let view = match looked.await {
        Ok(view) => Arc::new(view),
        Err(error) => return publish(Published::NoPlan { error: &error, causes }),
    };
    let (teller, seen) = (publish.clone(), view.clone());
    let tell = Arc::new(move |event: Event<'_>| teller(Published::Step(&seen, event)));
    let report = match reconciler.carry_out(&view, stop, tell).await {
        Ok(report) => report,
        Err(error) => return publish(Published::NoPlan { error: &error, causes }),
    };
    for (sandbox, happened) in happenings(&view, &report) {
        backoff.record(&sandbox, happened, begun.elapsed(), jitter());
    }
    let mut failing = Vec::new();
    for instance in &view.observed.instances {
        let Some((next, attempts)) = backoff.of(&instance.sandbox, begun.elapsed()) else {
            continue;
        };
        if instance.resource == ResourceKind::Machine {
            let lines = last_lines(reconciler, &view.scope, instance).await;
            failing.push(Failing { sandbox: instance.sandbox.clone(), next, attempts, lines });
        }
    }
    publish(Published::Pass { view: &view, report: &report, causes, failing: &failing });
}

fn happenings(view: &View, report: &Report) -> BTreeMap<SandboxId, Happened> {
    let mut happened = BTreeMap::new();
    for outcome in &report.outcomes {
        let step = &view.plan.steps[outcome.step];
        let Some(sandbox) = &step.sandbox else { continue };
        let what = happened.entry(sandbox.clone()).or_insert(Happened::Done);
        match outcome.outcome {
            Outcome::Failed(_) | Outcome::Skipped { .. } => *what = Happened::Failed,
            Outcome::Done
                if matches!(step.action, Action::Start(Target::Existing(_)))
                    && *what == Happened::Done =>
            {
                *what = Happened::Restarted;
            }
            Outcome::Done | Outcome::Cancelled => {}
        }
    }
    happened
}

/// A random number in `0.0..1.0`; the middle where there is no randomness.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

async fn last_lines(reconciler: &Reconciler, scope: &Scope, instance: &Instance) -> Vec<String> {
    let Some(backend) = reconciler.backends.get(&instance.backend) else { return Vec::new() };
    let mut out = Vec::new();
    let options = LogOptions { follow: false, tail: Some(5) };
    let logs = backend.logs(scope, instance, options, &mut out);
    match tokio::time::timeout(Duration::from_secs(2), logs).await {
        Ok(Ok(())) => String::from_utf8_lossy(&out).lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Passes a backend's hints on. When it goes away it is asked again until it is back, which is a
/// hint by itself: whatever happened meanwhile was not heard.
async fn listen(backend: Arc<dyn Backend>, scope: Scope, send: UnboundedSender<Trigger>) {
    let kind = backend.kind();
    let mut delay = RECONNECT.0;
    let mut lost = false;
    loop {
        if let Ok(mut events) = backend.events(&scope).await {
            delay = RECONNECT.0;
            if std::mem::take(&mut lost)
                && send.send(Trigger::Backend(kind, "is back".to_owned())).is_err()
            {
                return;
            }
            while let Some(Ok(hint)) = events.next().await {
                if send.send(Trigger::Backend(kind, hint.what)).is_err() {
                    return;
                }
            }
            // A pass now says that it cannot be reached, rather than the next resync.
            if send.send(Trigger::Backend(kind, "went away".to_owned())).is_err() {
                return;
            }
        }
        lost = true;
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RECONNECT.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_files_a_few_are_named() {
        let file = |n: usize| Trigger::Files(format!("/t/agents/a{n:05}.md"));
        let mut causes: BTreeSet<Trigger> = (0..5000).map(file).collect();
        causes.insert(Trigger::Resync);
        let told = few(causes);
        assert_eq!(told.len(), 1 + NAMED + 1);
        assert!(told.contains(&Trigger::Resync) && told.contains(&file(0)));
        assert_eq!(told[1 + NAMED], Trigger::Files("4992 more files".to_owned()));
        assert_eq!(few(BTreeSet::from([file(1)])), [file(1)]);
    }
}
