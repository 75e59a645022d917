//! The loop: one pass at a time, and a run a sandbox, for which no pass waits. A trigger during a
//! pass means one more pass.
#![expect(clippy::disallowed_methods, reason = "the loop keeps time")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::backoff::{Backoff, Happened};
use super::files::Files;
use super::git;
use super::gone::Gone;
use super::lookout::Lookout;
use super::pass::{LastOutcome, Reconciler, outcomes};
use super::removals::{self, Removals};
use super::requests::hint::{self, Hints};
use super::requests::notify::Notifier;
use super::runs::{Ended, Round, Runs, Tell};
use super::settle;
use super::status::board::Board;
use super::status::publish;
use super::still;
use super::stops;
use super::trigger::Trigger;
use super::view::View;
use super::waiting::Waiting;
use crate::apply::{Event, Outcome, Report, Stop};
use crate::backend::{Backend, LogOptions, Scope};
use crate::manifest::mount_table;
use crate::model::{BackendKind, Instance, InstanceState, OwnerId, ResourceKind, SandboxId};
use crate::plan::{Action, OnMassTeardown, Options, Target};

/// How quickly a backend that went away is asked again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// How long it may take at most until `status` shows how a run went whose pass is not over.
const WRITE_DOWN: Duration = Duration::from_secs(1);

/// How the loop keeps time.
#[derive(Debug, Clone, Copy)]
pub struct WatchConfig {
    /// A pass is due after this long, whatever was or was not said.
    pub resync: Duration,
    /// A pass waits until no file has moved for so long; other triggers within this time of the
    /// first are one.
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
    reconciler: Arc<Reconciler>,
    owner: &OwnerId,
    options: Options,
    config: WatchConfig,
    stop: &Stop,
    publish: Publish,
) -> anyhow::Result<()> {
    let (send, mut heard) = unbounded_channel();
    let files = Files::new(&reconciler.load, send.clone())?;
    let memory = reconciler.state.tree(owner)?;
    let scope = reconciler.scope(owner, &memory)?;
    let mut listeners = JoinSet::new();
    for backend in reconciler.backends.values() {
        listeners.spawn(listen(backend.clone(), scope.clone(), send.clone()));
    }
    listeners.spawn(stops::listen(memory.clone(), send.clone()));
    listeners.spawn(hint::listen(memory.clone(), send.clone()));
    let (board, notifier) = (Arc::new(Board::new()), Arc::<Notifier>::default());
    // Without it everybody looks for themselves.
    let _place = match publish::open(&memory) {
        Ok((listener, place)) => {
            let (reconciler, notifier) = (reconciler.clone(), notifier.clone());
            let source = publish::Source { reconciler, notifier, board: board.clone() };
            listeners.spawn(publish::serve(listener, source));
            Some(place)
        }
        Err(error) => {
            tracing::warn!(%error, "the status is not published");
            None
        }
    };
    let runs = Runs::new(reconciler.clone(), stop.clone(), files.moves());
    let mut the = Loop {
        reconciler,
        owner: owner.clone(),
        options: Options { on_mass_teardown: OnMassTeardown::Hold, ..options },
        config,
        stop: stop.clone(),
        publish,
        begun: Instant::now(),
        files,
        runs,
        hints: Hints::new(send.clone()),
        notifier,
        board,
        lookout: Lookout::new(send),
        backoff: Backoff::default(),
        removals: Removals::default(),
        gone: Gone::read(&memory),
        waiting: Waiting::default(),
        ordered: memory.ordered(),
        last_pass: Duration::ZERO,
        newest: None,
        still: None,
        unwritten: BTreeMap::new(),
        written: Duration::ZERO,
        tellers: JoinSet::new(),
        published: None,
    };
    the.waiting.hear(Trigger::Start, Duration::ZERO);
    while the.until_due(&mut heard).await {
        the.pass(&mut heard).await;
    }
    // What runs may end; no new step of it begins.
    while let Some(ended) = the.runs.next().await {
        the.ended(ended);
    }
    the.write_down();
    while the.tellers.join_next().await.is_some() {}
    Ok(())
}

/// The loop and all that it remembers between passes. Times are since `begun`.
struct Loop {
    reconciler: Arc<Reconciler>,
    owner: OwnerId,
    options: Options,
    config: WatchConfig,
    stop: Stop,
    publish: Publish,
    begun: Instant,
    files: Files,
    runs: Runs,
    lookout: Lookout,
    hints: Hints,
    notifier: Arc<Notifier>,
    board: Arc<Board>,
    backoff: Backoff,
    removals: Removals,
    gone: Gone,
    waiting: Waiting,
    /// When the operator last stopped or started a sandbox, as far as that was taken into account.
    ordered: Option<SystemTime>,
    last_pass: Duration,
    newest: Option<Arc<Round>>,
    /// What everything looked like when the last pass found nothing to do, and how many looks since
    /// then have found it so.
    still: Option<(u64, u32)>,
    /// How runs went that have ended since it was last written down.
    unwritten: BTreeMap<SandboxId, LastOutcome>,
    written: Duration,
    tellers: JoinSet<()>,
    /// Ends when the newest pass that is to be published is: the next one waits for that.
    published: Option<oneshot::Receiver<()>>,
}

impl Loop {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// When the next pass is due if nothing is heard, and why.
    fn appointment(&self) -> (Duration, Trigger) {
        let resync = (self.last_pass + self.config.resync, Trigger::Resync);
        let since = self.last_pass;
        let retry = self.backoff.next(since).map(|wait| (since + wait, Trigger::Retry));
        let removal = self.removals.due(since).map(|due| (due, Trigger::Removal));
        [Some(resync), retry, removal]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or((self.last_pass, Trigger::Resync))
    }

    /// Listens until a pass is due; false when there is to be none any more.
    async fn until_due(&mut self, heard: &mut UnboundedReceiver<Trigger>) -> bool {
        loop {
            let busy_since = (!self.runs.is_empty()).then_some(self.last_pass);
            let (appointment, why) = self.appointment();
            let due = self.waiting.due(self.config.debounce, busy_since);
            let until = due.map_or(appointment, |due| due.min(appointment));
            let patience = until.saturating_sub(self.now());
            tokio::select! {
                biased;
                () = self.stop.drain.cancelled() => return false,
                Some(ended) = self.runs.next(), if !self.runs.is_empty() => self.ended(ended),
                Some(cause) = heard.recv() => self.hear(cause),
                () = tokio::time::sleep(patience) => {
                    let now = self.now();
                    if due.is_none() || until == appointment {
                        self.waiting.hear(why, now);
                    }
                    // Git says so when it is not done yet, however long it pauses.
                    if !self.waiting.overdue(now) && git::is_rewriting(&self.reconciler.load.tree) {
                        self.waiting.not_yet(now);
                        continue;
                    }
                    return true;
                }
            }
        }
    }

    /// Notes why a pass is due.
    fn hear(&mut self, cause: Trigger) {
        if let Trigger::Backend(kind, _) = &cause {
            self.lookout.hinted(*kind);
        }
        let now = self.now();
        self.waiting.hear(cause, now);
    }

    /// Reads, observes and plans, and begins what is to be done.
    async fn pass(&mut self, heard: &mut UnboundedReceiver<Trigger>) {
        self.files.arm();
        let read = self.files.moves().count();
        let now = self.now();
        let mut waited = std::mem::take(&mut self.waiting);
        if waited.has_files() || waited.has_orders() {
            self.backoff.reset();
        }
        let stamp = self.stamp();
        let before = stamp.await;
        if let Some((stamp, looks)) = self.still
            && waited.is_resync()
            && before == Some(stamp)
            && looks < still::EVERY
        {
            tracing::debug!("nothing has moved since the last pass");
            self.still = Some((stamp, looks + 1));
            self.last_pass = now;
            // A hint that was missed leaves no trace in what was looked at.
            if let Some(newest) = self.newest.clone() {
                self.requests(newest);
            }
            return;
        }
        self.still = None;
        let deferred = self.backoff.deferred(now);
        let gone_lately = self.gone.lately();
        let options = Options { deferred, gone_lately, ..self.options.clone() };
        let moves = self.files.moves();
        let overdue = waited.overdue(now);
        // What was read is read again once the tree has moved: then nobody is waited for any more.
        let hurry = async move {
            if overdue {
                std::future::pending::<()>().await;
            }
            moves.beyond(read).await;
        };
        let looking = look(&self.reconciler, &self.owner, options, &mut self.lookout, hurry);
        let looked = tokio::select! {
            () = self.stop.drain.cancelled() => return,
            looked = looking => looked,
        };
        while let Ok(cause) = heard.try_recv() {
            self.hear(cause);
        }
        let now = self.now();
        let moves = self.files.moves().count();
        if moves != read && !waited.overdue(now) {
            // What was read may be half of what is being written: it is read again.
            waited.not_yet(now);
            waited.absorb(std::mem::take(&mut self.waiting));
            self.waiting = waited;
            return;
        }
        // What was heard meanwhile makes one more pass due.
        self.last_pass = now;
        let causes = waited.take();
        for cause in &causes {
            tracing::info!(%cause, "starting a pass");
        }
        let mut view = match looked {
            Ok(view) => view,
            Err(error) => {
                return self.no_plan(&error, &causes);
            }
        };
        self.board.seen(&view.observed.instances);
        for instance in &view.observed.instances {
            if instance.resource == ResourceKind::Machine
                && !matches!(instance.state, InstanceState::Running | InstanceState::Aside)
                && !view.is_stopped(&instance.sandbox)
            {
                self.backoff.down(&instance.sandbox, now);
            }
        }
        // Before anything of it is done, as `apply` does.
        if let Err(error) = self.reconciler.accept(&view) {
            return self.no_plan(&error, &causes);
        }
        let rewriting = git::is_rewriting(&self.reconciler.load.tree);
        let removals = self.removals.read(removals::wanted(&view.plan), moves, rewriting, now);
        let loads = self.runs.leave_out(&mut view, removals.waiting);
        self.gone.note(&view.plan, &view.memory);
        if self.runs.is_empty() {
            let begun = if view.plan.is_empty() {
                self.reconciler.nothing_to_do(&view)
            } else {
                self.reconciler.begin(&view)
            };
            if let Err(error) = begun {
                return self.no_plan(&error, &causes);
            }
        }
        let publish = self.publish.clone();
        let tell = move |round: &Arc<Round>| -> Tell {
            let (publish, round) = (publish.clone(), round.clone());
            Arc::new(move |event: Event<'_>| publish(Published::Step(&round.view, event)))
        };
        let read = (!removals.insisted).then_some(moves);
        let round = self.runs.begin(view, causes, &loads, read, tell);
        self.newest = Some(round.clone());
        self.say();
        self.hints.follow(&self.reconciler, &round.view);
        self.requests(round.clone());
        if round.view.plan.is_empty() {
            // What moved while this pass looked is not taken for what it has seen.
            let stamp = self.stamp();
            let after = stamp.await;
            self.still = after.filter(|after| before == Some(*after)).map(|after| (after, 0));
            self.tell(round);
        }
    }

    /// Tells that there is no plan, and that nothing was touched.
    fn no_plan(&self, error: &anyhow::Error, causes: &[Trigger]) {
        self.board.no_plan(error);
        (self.publish)(Published::NoPlan { error, causes });
    }

    /// Writes on the board what is under way, and who waits.
    fn say(&self) {
        let now = self.now();
        let waiting = self.backoff.deferred(now);
        let waiting = waiting.into_iter().filter_map(|sandbox| {
            let (next, attempts) = self.backoff.of(&sandbox, now)?;
            Some((sandbox, next, attempts))
        });
        self.board.under_way(self.runs.sandboxes(), waiting);
    }

    /// Reads what agents ask for, which may take a moment: nobody waits for that.
    fn requests(&mut self, round: Arc<Round>) {
        let reconciler = self.reconciler.clone();
        while self.tellers.try_join_next().is_some() {}
        let notifier = self.notifier.clone();
        self.tellers.spawn(async move {
            let new = reconciler.requests_of(&round.view).await;
            notifier.tell(&round.view.desired.tree.notify, &new).await;
        });
    }

    /// What everything looks like that the last pass depended on, if that found nothing to do.
    fn stamp(&self) -> impl Future<Output = Option<u64>> + Send + use<> {
        let newest = self.newest.clone().filter(|_| self.runs.is_empty());
        let (reconciler, content) = (self.reconciler.clone(), self.files.content());
        async move { still::look(&reconciler, &newest?.view, content).await }
    }

    /// A run has ended: what its sandbox has to wait for now, and who is to hear of it.
    fn ended(&mut self, ended: Ended) {
        let now = self.now();
        let (last, free) = self.runs.ended(&ended);
        for outcome in &ended.report.outcomes {
            self.lookout.moved(ended.round.view.plan.steps[outcome.step].backend);
        }
        if let Some(cause) = free {
            self.waiting.hear(cause, now);
        }
        // What went down by an order has not crashed.
        let ordered = std::mem::replace(&mut self.ordered, ended.round.view.memory.ordered());
        let is_new = ordered != self.ordered;
        if is_new {
            self.backoff.reset();
        }
        for (sandbox, happened) in happenings(&ended.round.view, &ended.report) {
            if is_new && happened == Happened::Restarted {
                continue;
            }
            self.backoff.record(&sandbox, happened, now, jitter());
        }
        self.unwritten.extend(outcomes(&ended.round.view.plan, &ended.report));
        if last || now.saturating_sub(self.written) > WRITE_DOWN {
            self.write_down();
        }
        self.say();
        if last && self.runs.is_empty() {
            // The next start looks no further back than this.
            if let Err(error) = settle::settled(&ended.round.view.memory) {
                tracing::warn!(error = %format!("{error:#}"), "the audit record cannot be written");
            }
        }
        if last {
            self.tell(ended.round);
        }
    }

    /// Writes down how runs went, for `status`.
    fn write_down(&mut self) {
        self.written = self.now();
        let Some(newest) = &self.newest else { return };
        if !self.unwritten.is_empty() {
            let outcomes = std::mem::take(&mut self.unwritten);
            self.reconciler.remember(&newest.view, outcomes, &self.runs.sandboxes());
        }
    }

    /// Tells what a pass came to. Who keeps failing is asked for its last words, which may take a
    /// moment: nobody waits for that.
    fn tell(&mut self, round: Arc<Round>) {
        let now = self.now();
        let mut failing = Vec::new();
        for instance in &round.view.observed.instances {
            if instance.resource == ResourceKind::Machine
                && let Some((next, attempts)) = self.backoff.of(&instance.sandbox, now)
            {
                failing.push((instance.clone(), next, attempts));
            }
        }
        let (reconciler, publish) = (self.reconciler.clone(), self.publish.clone());
        let (done, next) = oneshot::channel::<()>();
        let before = self.published.replace(next);
        while self.tellers.try_join_next().is_some() {}
        self.tellers.spawn(async move {
            let view = &round.view;
            let failing = join_all(failing.into_iter().map(async |(instance, next, attempts)| {
                let lines = last_lines(&reconciler, &view.scope, &instance).await;
                Failing { sandbox: instance.sandbox, next, attempts, lines }
            }))
            .await;
            let (report, causes) = (&round.report(), &round.causes);
            // Passes are read in the order in which they ended, also where an earlier one had more to ask.
            if let Some(before) = before {
                let _ = before.await;
            }
            publish(Published::Pass { view, report, causes, failing: &failing });
            drop(done);
        });
    }
}

async fn look(
    reconciler: &Reconciler,
    owner: &OwnerId,
    options: Options,
    lookout: &mut Lookout,
    hurry: impl Future<Output = ()>,
) -> anyhow::Result<View> {
    let desired = reconciler.desired().await?;
    anyhow::ensure!(
        desired.tree.owner == *owner,
        "the tree's name is now {}, and this watch works for {owner}: nothing is touched; \
         start `bottle watch` anew",
        desired.tree.owner
    );
    // No backend that is slow is waited for, and none at all once `hurry` is over.
    let looking = async |scope: &Scope, wanted: &BTreeSet<BackendKind>| {
        let backends = &reconciler.backends;
        let observing = lookout.observe(backends, reconciler.depth, scope, wanted, hurry);
        let ((observed, late), revision) =
            tokio::join!(observing, git::revision(&reconciler.load.tree));
        (observed, late, revision)
    };
    reconciler.look_through(desired, options, mount_table(), looking).await
}

fn happenings(view: &View, report: &Report) -> BTreeMap<SandboxId, Happened> {
    let mut happened = BTreeMap::new();
    for outcome in &report.outcomes {
        let step = &view.plan.steps[outcome.step];
        let Some(sandbox) = &step.sandbox else { continue };
        let what = happened.entry(sandbox.clone()).or_insert(Happened::Done);
        match outcome.outcome {
            Outcome::Failed(_) => *what = Happened::Failed,
            Outcome::Done
                if matches!(step.action, Action::Start(Target::Existing(_)))
                    && *what == Happened::Done =>
            {
                *what = Happened::Restarted;
            }
            // What is skipped has its reason beside it.
            Outcome::Done | Outcome::Skipped { .. } | Outcome::Cancelled => {}
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
    let options = LogOptions { follow: false, tail: Some(5), ..LogOptions::default() };
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
