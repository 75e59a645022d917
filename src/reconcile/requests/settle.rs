//! What became of requests that were granted, once a pass has done its steps.

use std::time::Duration;

use super::granted::{self, Granted};
use super::record::Record;
use super::store::now;
use super::told::rides;
use crate::apply::{Outcome, Report};
use crate::model::ResourceKind;
use crate::model::supervise::Standing;
use crate::plan::{Action, Reason, Verdict};
use crate::reconcile::view::View;

/// How long whoever decides is waited for. What is not written down now is by the next pass.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of one, and why.
type Became = (Standing, Option<String>);

/// Writes down what became of granted requests of which a part of a pass has ended. Of sandboxes for which this
/// plan has something to do, only where the report says what became of it.
///
/// # Errors
/// When the state folder cannot be read or written.
pub(in crate::reconcile) async fn settle(view: &View, report: &Report) -> anyhow::Result<()> {
    let became: Vec<(&Record, Became)> = view
        .told
        .open()
        .filter_map(|record| Some((record, became(view, report, record)?)))
        .filter(|(record, (state, error))| {
            record.state != *state || (*state == Standing::Failed && record.error != *error)
        })
        .collect();
    if became.is_empty() {
        return Ok(());
    }
    let lock = view.memory.decide(PATIENCE).await?;
    for (seen, (state, error)) in became {
        // Decided otherwise meanwhile: that counts.
        let Some(mut record) = view.memory.request(&seen.id)? else { continue };
        if record.state != seen.state || record.decision != seen.decision {
            continue;
        }
        // An edit that is half done is for whoever does it, or finds it.
        if record.edit.as_ref().is_some_and(|made| !made.done) {
            continue;
        }
        (record.state, record.error) = (state, error);
        view.memory.put_request(&lock, &record)?;
        view.memory.audit_request(state.as_str(), &record);
    }
    Ok(())
}

fn became(view: &View, report: &Report, record: &Record) -> Option<Became> {
    let spec = view.desired.sandboxes.get(&record.sandbox);
    let held = view
        .plan
        .changes
        .iter()
        .find(|change| change.sandbox == record.sandbox && change.verdict == Verdict::Hold);
    if let Some(held) = held {
        let why = serde_json::to_value(&held.reason).ok()?;
        let kind = why.get("kind").and_then(|kind| kind.as_str()).unwrap_or("held");
        let named = why.get("names").map(|names| format!(" {names}")).unwrap_or_default();
        let error = format!("{} is held: {kind}{named}", record.sandbox);
        return (record.state == Standing::Approved).then_some((Standing::Failed, Some(error)));
    }
    // A view of before the edit says nothing.
    if granted::by(spec?, record.granted(), now()) != Granted::Yes {
        return None;
    }
    let mine: Vec<_> =
        view.plan.steps.iter().filter(|s| s.sandbox.as_ref() == Some(&record.sandbox)).collect();
    let of_kind = |action: &Action| match rides(record.granted()) {
        true => matches!(action, Action::Load { .. }),
        false => true,
    };
    let mut done = 0;
    let matter: Vec<_> = mine.iter().filter(|step| of_kind(&step.action)).collect();
    if matter.is_empty() && !is_so(view, record) {
        return None;
    }
    for step in &matter {
        match report.outcomes.iter().find(|outcome| outcome.step == step.id).map(|it| &it.outcome) {
            Some(Outcome::Done) => done += 1,
            Some(Outcome::Failed(why)) => return Some((Standing::Failed, Some(why.clone()))),
            // Of what makes good what was not needed, and of what another part does.
            Some(Outcome::Skipped { .. } | Outcome::Cancelled) if !step.undoes.is_empty() => {
                done += 1;
            }
            Some(Outcome::Skipped { .. }) => {
                let why = "a step before it was not done".to_owned();
                return Some((Standing::Failed, Some(why)));
            }
            Some(Outcome::Cancelled) | None => return None,
        }
    }
    (done == matter.len()).then_some((Standing::Applied, None))
}

/// Whether what was granted is in force already, as far as a plan that does nothing for it shows.
fn is_so(view: &View, record: &Record) -> bool {
    if view.options.deferred.contains(&record.sandbox) {
        return false;
    }
    if rides(record.granted()) {
        let path = format!("decision {}", record.id);
        let receipts = view.observed.receipts.values();
        let mut mine = receipts.filter(|receipt| receipt.sandbox == record.sandbox);
        return mine.any(|receipt| {
            receipt.requests.get(&path).is_some_and(|told| told == Standing::Applied.as_str())
        });
    }
    view.plan.changes.iter().any(|change| {
        change.sandbox == record.sandbox
            && change.resource == ResourceKind::Machine
            && change.reason == Reason::UpToDate
    })
}
