//! `bottle watch`: reconciles until it is stopped, and tells what it does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::args::{Global, WatchArgs};
use super::documents::{self, ReportDocument};
use super::error::{CliError, Exit};
use super::ui::{Ui, harmless};
use super::{apply, look, progress, report, setup, signals};
use crate::apply::{Event, Report};
use crate::model::SandboxId;
use crate::plan::{Options, Verdict};
use crate::reconcile::daemon::Publish;
use crate::reconcile::{self, Failing, Published, Trigger, View, WatchConfig};

pub(super) async fn run(ui: &Arc<Ui>, global: &Global, args: &WatchArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let load = setup::load_options(global, args.path.as_deref(), &args.look.read)?;
    let mut reconciler = setup::reconciler(load, &args.look, None)?;
    let desired = apply::read(&stop, &reconciler).await?;
    let patience = Duration::from_secs(args.lock.lock_timeout);
    let (_lock, desired) = apply::lock(ui, &stop, &reconciler, desired, "watch", patience).await?;
    let owner = desired.tree.owner.clone();
    reconciler.state.claim(&owner, &desired.tree.path, args.lock.adopt)?;
    reconciler.settle(&owner).await?;
    let asks = desired.sandboxes.values().any(|spec| !spec.asked_env.is_empty());
    if args.lock.adopt || (asks && ui.can_ask()) {
        let view = apply::look_at(&stop, &reconciler, desired, Options::default()).await?;
        if args.lock.adopt {
            reconciler.adopt(&view)?;
        }
        apply::ask_for_values(ui, &stop, &mut reconciler, &view).await?;
    }
    ui.say("watching; Ctrl-C stops");
    let config = WatchConfig { resync: args.resync, debounce: args.debounce };
    let teller = Mutex::new(Teller { ui: ui.clone(), told: None, failing: BTreeMap::new() });
    let publish: Publish = Arc::new(move |what| {
        teller.lock().unwrap_or_else(PoisonError::into_inner).tell(&what);
    });
    let options = Options { hold_teardowns: args.hold_teardown, ..Options::default() };
    reconcile::watch(Arc::new(reconciler), &owner, options, config, &stop, publish).await?;
    Ok(if stop.now.is_cancelled() { Exit::Interrupted } else { Exit::Done })
}

/// One pass as a line of JSON.
#[derive(Serialize)]
struct PassDocument<'a> {
    #[serde(flatten)]
    report: ReportDocument,
    causes: Vec<String>,
    failing: Vec<FailingDocument<'a>>,
}

/// A sandbox that keeps failing.
#[derive(Serialize)]
struct FailingDocument<'a> {
    sandbox: &'a SandboxId,
    attempts: u32,
    next_seconds: f64,
    output: &'a [String],
}

/// Tells of passes. In text only what is news: a pass that finds everything as it was is none.
struct Teller {
    ui: Arc<Ui>,
    /// What was wrong, the last time that it was told.
    told: Option<String>,
    failing: BTreeMap<SandboxId, u32>,
}

impl Teller {
    fn tell(&mut self, what: &Published<'_>) {
        let written = match what {
            Published::Step(view, Event::Ended(ended)) => {
                let label = progress::label(&view.plan.steps[ended.step]);
                self.ui.say(&progress::ended(&label, ended));
                Ok(())
            }
            Published::Step(..) => Ok(()),
            Published::Pass { view, report, causes, failing } => {
                self.pass(view, report, causes, failing)
            }
            Published::NoPlan { error, .. } => self.no_plan(error),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "stdout cannot be written");
        }
    }

    fn pass(
        &mut self,
        view: &View,
        report: &Report,
        causes: &[Trigger],
        failing: &[Failing],
    ) -> std::io::Result<()> {
        if self.ui.json() {
            return self.line(&serde_json::to_string(&PassDocument {
                report: ReportDocument {
                    outcomes: Some(report.document()),
                    ..view.document().into()
                },
                causes: causes.iter().map(ToString::to_string).collect(),
                failing: failing
                    .iter()
                    .map(|f| FailingDocument {
                        sandbox: &f.sandbox,
                        attempts: f.attempts,
                        next_seconds: f.next.as_secs_f64(),
                        output: &f.lines,
                    })
                    .collect(),
            })?);
        }
        let wrong = wrong(view);
        if !view.plan.is_empty() || self.told.as_ref() != Some(&wrong) {
            self.ui.data(&look::text(&self.ui, view, false))?;
            if view.plan.refused.is_some() {
                self.ui
                    .say("nobody can permit that here: end `watch`, and do it with `bottle apply`");
            }
        }
        self.told = Some(wrong);
        if !view.plan.is_empty() {
            self.ui.data(&report::render(&view.plan, report, self.ui.width(), "apply"))?;
        }
        self.failing.retain(|sandbox, _| failing.iter().any(|f| f.sandbox == *sandbox));
        for f in failing {
            if self.failing.insert(f.sandbox.clone(), f.attempts) == Some(f.attempts) {
                continue;
            }
            let (name, times, next) = (&f.sandbox, f.attempts, report::seconds(f.next));
            self.ui.say(&format!("{name} has failed {times} times in a row; next try in {next}"));
            for line in &f.lines {
                self.ui.say(&format!("  {}", harmless(line)));
            }
        }
        Ok(())
    }

    fn no_plan(&mut self, error: &anyhow::Error) -> std::io::Result<()> {
        let error = CliError::from_watch(error);
        let text = documents::failure_line(&error)?;
        if self.ui.json() {
            return self.line(&text);
        }
        if self.told.as_ref() != Some(&text) {
            self.ui.error(&error);
        }
        self.told = Some(text);
        Ok(())
    }

    fn line(&self, json: &str) -> std::io::Result<()> {
        self.ui.data(&format!("{json}\n"))
    }
}

/// What a person should look at, as something to compare.
fn wrong(view: &View) -> String {
    let held: Vec<_> = view.plan.changes.iter().filter(|c| c.verdict == Verdict::Hold).collect();
    format!("{held:?} {:?} {:?}", view.desired.diagnostics, view.plan.refused)
}
