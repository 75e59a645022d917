//! What follows a decision: a pass. Where `watch` holds the tree's lock it makes that pass, and is waited for; else
//! this process makes one, for the sandboxes that it is about and no others.
#![expect(clippy::disallowed_methods, reason = "waiting is timed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::error::{CliError, Kind};
use super::super::progress::Progress;
use super::super::ui::Ui;
use super::super::{render, signals};
use crate::apply::Stop;
use crate::apply::report::OutcomeDocument;
use crate::model::SandboxId;
use crate::model::supervise::{RequestId, Standing};
use crate::plan::Options;
use crate::reconcile::requests;
use crate::reconcile::{Lock, Locked, Reconciler, TreeState};

/// How long whoever holds the tree's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// A field of what every sidecar is loaded with, and nothing else has.
const SIDECARS: &str = "egress.dlp_action";
/// How long a sidecar that `watch` is to tell of a decision is waited for.
const TELLING: Duration = Duration::from_secs(10);
/// So many passes in a row: a machine is changed by the first, and its agent told by the second.
const PASSES: u32 = 3;

/// Has decisions that edited the tree applied.
pub(in crate::cli) async fn apply(
    ui: &Arc<Ui>,
    stop: &Stop,
    reconciler: &Reconciler,
    memory: &TreeState,
    ids: &[RequestId],
    sandboxes: BTreeSet<SandboxId>,
) -> Result<Vec<OutcomeDocument>, CliError> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        if let Some(_lock) = free(memory).await? {
            return passes(ui, stop, reconciler, sandboxes).await;
        }
        if is_over(memory, ids)? || begun.elapsed() > PATIENCE {
            return Ok(Vec::new());
        }
        if !said && begun.elapsed() > Duration::from_secs(3) {
            ui.say("  waiting for the bottle that works on this tree");
            said = true;
        }
        signals::or_stop(stop, async {
            tokio::time::sleep(LOOK).await;
            Ok(())
        })
        .await?;
    }
}

/// Whether a pass has done what was decided. What was taken back is over once its sidecar was told.
fn is_over(memory: &TreeState, ids: &[RequestId]) -> Result<bool, CliError> {
    let receipts = memory.receipts()?;
    for id in ids {
        let Some(record) = memory.request(id)? else { continue };
        let path = format!("decision {id}");
        let mut sidecars = receipts
            .values()
            .filter(|it| it.sandbox == record.sandbox && it.fields.0.contains_key(SIDECARS));
        let over = match record.state {
            Standing::Approved => false,
            Standing::Undone | Standing::Denied => sidecars
                .all(|it| it.requests.get(&path).is_some_and(|told| told == record.state.as_str())),
            _ => true,
        };
        if !over {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether sidecars know since when, and until when, no requests are taken.
fn know_of_muting(memory: &TreeState, sandboxes: &BTreeSet<SandboxId>) -> Result<bool, CliError> {
    let muted = memory.muted()?;
    let receipts = memory.receipts()?;
    Ok(receipts
        .values()
        .filter(|it| sandboxes.contains(&it.sandbox) && it.fields.0.contains_key(SIDECARS))
        .all(|it| {
            let until = muted.get(&it.sandbox).map(|until| requests::muted_until(*until));
            it.requests.get(requests::MUTED) == until.as_ref()
        }))
}

async fn free(memory: &TreeState) -> Result<Option<Lock>, CliError> {
    match memory.lock("requests", Duration::ZERO).await {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.is::<Locked>() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Passes for these sandboxes. The lock is held.
async fn passes(
    ui: &Arc<Ui>,
    stop: &Stop,
    reconciler: &Reconciler,
    sandboxes: BTreeSet<SandboxId>,
) -> Result<Vec<OutcomeDocument>, CliError> {
    let tree = reconciler.identify().await?;
    reconciler.state.claim(&tree.owner, &tree.path, false)?;
    reconciler.settle(&tree.owner).await?;
    let mut outcomes = Vec::new();
    for _ in 0..PASSES {
        let options = Options { only: Some(sandboxes.clone()), ..Options::default() };
        let view = signals::or_stop(stop, async { Ok(reconciler.look(options).await?) }).await?;
        if let Some(refusal) = &view.plan.refused {
            let (message, hint) = render::refusal_text(refusal);
            return Err(CliError::new(Kind::Refused, anyhow::Error::msg(message)).hint(hint));
        }
        let nothing = view.plan.is_empty();
        let progress = Progress::new(ui, &view.plan);
        let done = reconciler.carry_out(&view, stop, progress.teller()).await;
        progress.finish();
        let done = done?;
        let failed = !done.succeeded();
        outcomes.extend(done.document());
        if failed || nothing || stop.drain.is_cancelled() {
            break;
        }
    }
    Ok(outcomes)
}

/// Has sidecars told of decisions that edit nothing: a load, and nothing else. Where `watch` works on the tree, it
/// does so.
pub(in crate::cli) async fn tell(
    ui: &Arc<Ui>,
    stop: &Stop,
    reconciler: &Reconciler,
    memory: &TreeState,
    ids: &[RequestId],
    sandboxes: BTreeSet<SandboxId>,
) -> Result<Vec<OutcomeDocument>, CliError> {
    let begun = Instant::now();
    let _lock = loop {
        if let Some(lock) = free(memory).await? {
            break lock;
        }
        if is_over(memory, ids)? && know_of_muting(memory, &sandboxes)? {
            return Ok(Vec::new());
        }
        if begun.elapsed() > TELLING {
            ui.say("  the agent is told by the next pass of the bottle that works on this tree");
            return Ok(Vec::new());
        }
        signals::or_stop(stop, async {
            tokio::time::sleep(LOOK).await;
            Ok(())
        })
        .await?;
    };
    let options = Options { only: Some(sandboxes), ..Options::default() };
    let view = signals::or_stop(stop, async { Ok(reconciler.look(options).await?) }).await?;
    let done = reconciler.load_only(&view, stop).await;
    if !done.succeeded() {
        ui.warn("  the agent is told by the next pass: its sidecar could not be loaded");
    }
    Ok(done.document())
}
