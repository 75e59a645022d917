//! `bottle stop`, `bottle start`, `bottle restart`: what the operator orders for single sandboxes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::args::{Global, LookArgs, ReadArgs, StartArgs, StopArgs};
use super::documents::ReportDocument;
use super::error::{CliError, Exit, Kind};
use super::progress::Progress;
use super::ui::Ui;
use super::{apply, down, look, report, setup, signals, snapshot};
use crate::apply::{Report, Stop};
use crate::model::{Desired, Instance, InstanceState, Ownership, ResourceKind, SandboxId};
use crate::plan::{Action, Options, Order, Plan, Verdict};
use crate::reconcile::{Lock, Reconciler, TreeState, View, stops};

/// How long a `watch` may take to bring up what is left to it.
const UP: Duration = Duration::from_secs(60);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(300);

/// The sandboxes that are named.
fn named(names: &[String]) -> Result<BTreeSet<SandboxId>, CliError> {
    let ids = names.iter().map(|name| {
        SandboxId::new(name.as_str())
            .map_err(|error| CliError::new(Kind::Failed, anyhow::Error::from(error)))
    });
    ids.collect()
}

pub(super) async fn stop(ui: &Arc<Ui>, global: &Global, args: &StopArgs) -> Result<Exit, CliError> {
    let signal = signals::listen(ui)?;
    let only = named(&args.names)?;
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let reconciler = setup::reconciler(load, &LookArgs::default(), None)?;
    let desired = match signals::or_stop(&signal, async { Ok(reconciler.desired().await) }).await? {
        Ok(desired) => desired,
        // What runs has to stop also when the tree cannot be read.
        Err(error) => down::remembered(&reconciler, error)?,
    };
    let memory = reconciler.state.tree(&desired.tree.owner)?;
    let patience = Duration::from_secs(args.lock_timeout);
    let lock = snapshot::lock(ui, &memory, "stop", patience).await?;
    reconciler.state.claim(&desired.tree.owner, &desired.tree.path, false)?;
    // A run of `watch` for one of them is waited for, and begins none meanwhile.
    let claims = memory.claim(&only, patience).await?;
    if lock.is_some() {
        reconciler.settle(&desired.tree.owner).await?;
    }
    let view = halting(&signal, &reconciler, desired, &only).await?;
    tell_runs(ui, &view);
    let report = halt(ui, &signal, &reconciler, &view, true).await?;
    drop(claims);
    if ui.json() {
        ui.document(&document(&view, &report))?;
    } else {
        told(ui, &view, &report)?;
    }
    Ok(report::exit(&view.plan, &report))
}

/// Says which detached runs end with what is about to stop.
fn tell_runs(ui: &Ui, view: &View) {
    for (sandbox, run) in view.ends() {
        ui.warn(&format!("this ends the detached run {} of {sandbox}", run.record.id));
    }
}

/// What there is to stop of these. All have to be there.
async fn halting(
    signal: &Stop,
    reconciler: &Reconciler,
    desired: Desired,
    only: &BTreeSet<SandboxId>,
) -> Result<View, CliError> {
    let options = Options { only: Some(only.clone()), order: Order::Stop, ..Options::default() };
    let view = apply::look_at(signal, reconciler, desired, options).await?;
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    let of = |id: &SandboxId| {
        view.plan
            .changes
            .iter()
            .any(|change| change.sandbox == *id && change.resource == ResourceKind::Machine)
    };
    match only.iter().find(|id| !of(id)) {
        None => Ok(view),
        Some(id) => {
            let told = format!("{id} has no machine, so there is nothing to stop");
            Err(CliError::failed(told).hint("`bottle status` shows what there is"))
        }
    }
}

async fn halt(
    ui: &Arc<Ui>,
    signal: &Stop,
    reconciler: &Reconciler,
    view: &View,
    for_good: bool,
) -> Result<Report, CliError> {
    if signal.drain.is_cancelled() {
        return Err(CliError::interrupted());
    }
    let progress = Progress::new(ui, &view.plan);
    let done = reconciler.halt(view, for_good, signal, progress.teller()).await;
    progress.finish();
    Ok(done?)
}

fn document(view: &View, report: &Report) -> ReportDocument {
    ReportDocument { outcomes: Some(report.document()), ..view.document().into() }
}

/// What became of an order to stop, for people.
fn told(ui: &Ui, view: &View, report: &Report) -> Result<(), CliError> {
    let stops: BTreeSet<&SandboxId> =
        view.plan.steps.iter().filter_map(|step| step.sandbox.as_ref()).collect();
    for sandbox in view.halts() {
        if stops.contains(sandbox) {
            continue;
        }
        let text = match view.observed.stopped.contains_key(sandbox) {
            true => format!("{sandbox} is stopped already"),
            false => format!("{sandbox} does not run, and stays so until `bottle start {sandbox}`"),
        };
        ui.say(&text);
    }
    if report::holds(&view.plan) > 0 {
        ui.data(&look::text(ui, view, false))?;
    }
    if !view.plan.is_empty() {
        ui.data(&report::render(&view.plan, report, ui.width(), "stop"))?;
    }
    Ok(())
}

pub(super) async fn start(
    ui: &Arc<Ui>,
    global: &Global,
    args: &StartArgs,
) -> Result<Exit, CliError> {
    begin(ui, global, args, Order::Start).await
}

pub(super) async fn restart(
    ui: &Arc<Ui>,
    global: &Global,
    args: &StartArgs,
) -> Result<Exit, CliError> {
    begin(ui, global, args, Order::Restart).await
}

async fn begin(
    ui: &Arc<Ui>,
    global: &Global,
    args: &StartArgs,
    order: Order,
) -> Result<Exit, CliError> {
    let command = if order == Order::Start { "start" } else { "restart" };
    let signal = signals::listen(ui)?;
    let only = named(&args.names)?;
    let load = setup::load_options(global, None, &args.look.read)?;
    let mut reconciler = setup::reconciler(load, &args.look, None)?;
    let tree = signals::or_stop(&signal, async { Ok(reconciler.identify().await?) }).await?;
    let memory = reconciler.state.tree(&tree.owner)?;
    let patience = Duration::from_secs(args.lock_timeout);
    let lock = snapshot::lock(ui, &memory, command, patience).await?;
    reconciler.state.claim(&tree.owner, &tree.path, false)?;
    let desired = apply::read(&signal, &reconciler).await?;
    apply::same_owner(&tree.owner, &desired)?;
    let options = Options { only: Some(only.clone()), order, ..Options::default() };
    if lock.is_none() {
        let beside = Beside { ui, signal: &signal, reconciler: &reconciler, memory: &memory };
        return beside.begin(desired, options, &only, patience).await;
    }
    reconciler.settle(&tree.owner).await?;
    let mut view = apply::look_at(&signal, &reconciler, desired, options.clone()).await?;
    check(&view, &only)?;
    if apply::ask_for_values(ui, &signal, &mut reconciler, &view).await? {
        view = apply::look_at(&signal, &reconciler, view.desired, options).await?;
    }
    let yes = args.yes || !goes(&view.plan);
    let exit = apply::carry_out(ui, &signal, &reconciler, &mut view, yes, command).await;
    drop::<Option<Lock>>(lock);
    exit
}

/// Whether a machine goes by this plan: then it is asked.
fn goes(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| {
        step.resource == ResourceKind::Machine && matches!(step.action, Action::Teardown { .. })
    })
}

/// None of them is to be kept down by something else: then nothing is done, and one that was stopped stays so.
fn check_startable(view: &View, only: &BTreeSet<SandboxId>) -> Result<(), CliError> {
    let suspended =
        |id: &&SandboxId| view.desired.sandboxes.get(*id).is_some_and(|spec| spec.suspend);
    match only.iter().find(suspended) {
        None => Ok(()),
        Some(id) => Err(CliError::failed(format!("{id} is suspended, so it is not started"))
            .hint(format!("take `suspend` out of its file, then `bottle start {id}`"))),
    }
}

/// All that are named have to be there, and the tree has to say what they are.
fn check(view: &View, only: &BTreeSet<SandboxId>) -> Result<(), CliError> {
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    let declared = |id: &SandboxId| {
        view.desired.sandboxes.contains_key(id)
            || view.desired.held.contains_key(id)
            || view.desired.unread.contains_key(id)
    };
    match only.iter().find(|id| !declared(id)) {
        None => check_startable(view, only),
        Some(id) => {
            let told = format!("the tree does not declare {id}, so it is not started");
            Err(CliError::failed(told)
                .hint(format!("`bottle plan --only {id}` tells what becomes of it")))
        }
    }
}

/// Beside a `watch`, which has the tree's lock and the values that are asked for: it does the work.
struct Beside<'a> {
    ui: &'a Arc<Ui>,
    signal: &'a Stop,
    reconciler: &'a Reconciler,
    memory: &'a TreeState,
}

impl Beside<'_> {
    async fn begin(
        &self,
        desired: Desired,
        options: Options,
        only: &BTreeSet<SandboxId>,
        patience: Duration,
    ) -> Result<Exit, CliError> {
        let view =
            apply::look_at(self.signal, self.reconciler, desired.clone(), options.clone()).await?;
        check(&view, only)?;
        let restart = options.order == Order::Restart;
        let kept: Vec<&SandboxId> = only.iter().filter(|id| keeps_down(&view, id)).collect();
        if restart && let Some(id) = kept.first() {
            let told = format!("{id} would not come up again, so it is not stopped");
            return Err(CliError::failed(told).hint(format!("`bottle plan --only {id}` tells why")));
        }
        let claims = self.memory.claim(only, patience).await?;
        if restart {
            let running = only.iter().filter(|id| exists(&view, id)).cloned().collect();
            let halting = halting(self.signal, self.reconciler, desired, &running).await?;
            tell_runs(self.ui, &halting);
            let report = halt(self.ui, self.signal, self.reconciler, &halting, false).await?;
            if !report.succeeded() {
                if self.ui.json() {
                    self.ui.document(&document(&halting, &report))?;
                } else {
                    let width = self.ui.width();
                    self.ui.data(&report::render(&halting.plan, &report, width, "restart"))?;
                }
                return Ok(report::exit(&halting.plan, &report));
            }
        }
        if restart {
            stops::tell(self.memory, only)?;
        }
        stops::wake(self.memory, &options)?;
        drop(claims);
        let awaited: BTreeSet<&SandboxId> = only.iter().filter(|id| !kept.contains(id)).collect();
        let late = self.come_up(&view, &awaited).await;
        if self.signal.drain.is_cancelled() {
            self.ui.warn("interrupted: `watch` goes on with it");
            return Ok(Exit::Interrupted);
        }
        for id in awaited.iter().filter(|id| !late.contains(**id)) {
            let ran = !restart && view.observed.instances.iter().any(|i| runs(i, id));
            self.ui.say(&match ran {
                true => format!("{id} runs already"),
                false => format!("{id} runs: `watch` has started it"),
            });
        }
        for id in &late {
            self.ui.warn(&format!(
                "{id} does not run after {} s: `bottle status` tells what `watch` says of it",
                UP.as_secs()
            ));
        }
        let options = Options { order: Order::Nothing, ..options };
        let now = self.reconciler.look(options).await?;
        if self.ui.json() {
            self.ui.document(&document(&now, &Report::default()))?;
        } else if !kept.is_empty() {
            self.ui.data(&look::text(self.ui, &now, false))?;
        }
        Ok(if late.is_empty() && kept.is_empty() { Exit::Done } else { Exit::Partly })
    }

    /// Waits until machines run; returns those that do not in time.
    async fn come_up<'i>(
        &self,
        view: &View,
        awaited: &BTreeSet<&'i SandboxId>,
    ) -> BTreeSet<&'i SandboxId> {
        let mut late = awaited.clone();
        let waiting = async {
            while !late.is_empty() {
                let observed = self.reconciler.observe(&view.scope).await;
                late.retain(|id| !observed.instances.iter().any(|instance| runs(instance, id)));
                if !late.is_empty() {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        tokio::select! {
            () = self.signal.drain.cancelled() => {}
            _ = tokio::time::timeout(UP, waiting) => {}
        }
        late
    }
}

/// Whether this is the machine of the sandbox, and runs.
fn runs(instance: &Instance, id: &SandboxId) -> bool {
    instance.sandbox == *id
        && instance.resource == ResourceKind::Machine
        && instance.ownership == Ownership::Ours
        && instance.state == InstanceState::Running
}

/// Whether the sandbox has a machine.
fn exists(view: &View, id: &SandboxId) -> bool {
    view.observed.instances.iter().any(|instance| {
        instance.sandbox == *id
            && instance.resource == ResourceKind::Machine
            && instance.ownership == Ownership::Ours
    })
}

/// Whether something else than an order to stop keeps the sandbox from running. Values that are missing here
/// do not: `watch` may have them.
fn keeps_down(view: &View, id: &SandboxId) -> bool {
    let suspended = view.desired.sandboxes.get(id).is_none_or(|spec| spec.suspend);
    suspended
        || view.plan.changes.iter().any(|change| {
            change.sandbox == *id
                && change.verdict == Verdict::Hold
                && !matches!(change.reason, crate::plan::Reason::NeedsInput { .. })
        })
}
