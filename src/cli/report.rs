//! What became of a plan, as people read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::error::Exit;
use super::render::MAX_NAME;
use super::text::{plural, wrap};
use super::ui::{harmless, paint, style};
use crate::apply::{Outcome, Report};
use crate::model::{ResourceKind, SandboxId};
use crate::plan::{Action, Plan, Reason, Verdict};

/// What became of one sandbox.
struct Row {
    verdict: Verdict,
    /// What was done in place, in words of its own.
    order: Option<(&'static str, &'static str)>,
    elapsed: Duration,
    error: Option<String>,
    cancelled: bool,
    /// Something of it was removed already, or may have been.
    touched: bool,
    /// What was begun was made good, or not.
    undone: Option<bool>,
}

/// How the program ends after this report.
pub(super) fn exit(plan: &Plan, report: &Report) -> Exit {
    if report.cancelled() {
        Exit::Interrupted
    } else if !report.succeeded() || holds(plan) > 0 {
        Exit::Partly
    } else {
        Exit::Done
    }
}

/// How many sandboxes are held, in whole or in part.
pub(super) fn holds(plan: &Plan) -> usize {
    let held = plan.changes.iter().filter(|change| change.verdict == Verdict::Hold);
    held.map(|change| &change.sandbox).collect::<std::collections::BTreeSet<_>>().len()
}

/// The report: a line a sandbox, what it comes to, and what to do next.
pub(super) fn render(plan: &Plan, report: &Report, width: usize, command: &str) -> String {
    let (rows, pruned) = rows(plan, report, command);
    let mut text = String::new();
    let name_width = rows.keys().map(|name| name.len()).max().unwrap_or(0).min(MAX_NAME);
    let word_width = rows.values().map(|row| words(row).chars().count()).max().unwrap_or(0);
    for (name, row) in &rows {
        let (symbol, colour) = match row {
            Row { error: Some(_), .. } => ("✗", style::BAD),
            Row { cancelled: true, .. } => ("·", style::CHANGE),
            _ => ("✓", style::GOOD),
        };
        let mut line = format!(
            "  {} {name:name_width$}  {:word_width$}  {:>8}",
            paint(colour, symbol),
            words(row),
            seconds(row.elapsed),
        );
        let indent = 4 + name_width + 2 + word_width + 2 + 8 + 2;
        if let Some(error) = &row.error {
            let mut error = harmless(error).replace(['\n', '\t'], " ");
            error.push_str(match row.undone {
                Some(true) => "; the old one runs again",
                Some(false) => "; the old one is still set aside, and the next run brings it back",
                None if row.verdict == Verdict::Replace && !row.touched => {
                    "; the old one was left as it is"
                }
                None => "",
            });
            for (index, part) in
                wrap(&error, width.saturating_sub(indent).max(30), 0).iter().enumerate()
            {
                let _ = match index {
                    0 => write!(line, "  {part}"),
                    _ => write!(line, "\n{:indent$}{part}", ""),
                };
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    for error in pruned.iter().flatten() {
        let _ =
            writeln!(text, "  {} a leftover stays: {}", paint(style::BAD, "✗"), harmless(error));
    }
    let gone = pruned.iter().filter(|error| error.is_none()).count();
    if gone > 0 {
        let what =
            plural(gone, "leftover of earlier runs removed", "leftovers of earlier runs removed");
        let _ = writeln!(text, "  {} {what}", paint(style::GOOD, "✓"));
    }
    text.push_str(&last_line(plan, &rows, command));
    text.push('\n');
    text
}

type Pruned = Vec<Option<String>>;

fn rows<'p>(plan: &'p Plan, report: &Report, command: &str) -> (BTreeMap<&'p str, Row>, Pruned) {
    let verdicts = plan.verdicts();
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut pruned = Vec::new();
    for outcome in &report.outcomes {
        let step = &plan.steps[outcome.step];
        let Some(sandbox) = &step.sandbox else {
            match &outcome.outcome {
                Outcome::Done => pruned.push(None),
                Outcome::Failed(error) => pruned.push(Some(error.clone())),
                Outcome::Skipped { .. } | Outcome::Cancelled => {}
            }
            continue;
        };
        let row = rows.entry(sandbox.as_str()).or_insert_with(|| Row {
            verdict: verdicts.get(sandbox).copied().unwrap_or(Verdict::Keep),
            order: ordered(plan, sandbox, command),
            elapsed: Duration::ZERO,
            error: None,
            cancelled: false,
            touched: false,
            undone: None,
        });
        row.elapsed += outcome.elapsed;
        match &outcome.outcome {
            Outcome::Failed(error) if row.error.is_none() => row.error = Some(error.clone()),
            Outcome::Cancelled => row.cancelled = true,
            _ => {}
        }
        if !step.undoes.is_empty() {
            let done = outcome.outcome == Outcome::Done;
            row.undone = Some(done && row.undone != Some(false));
        }
        let began = matches!(outcome.outcome, Outcome::Done | Outcome::Failed(_));
        row.touched |= began && matches!(step.action, Action::Teardown { .. });
    }
    (rows, pruned)
}

/// What an order of the operator comes to for a machine that stays.
fn ordered(
    plan: &Plan,
    sandbox: &SandboxId,
    command: &str,
) -> Option<(&'static str, &'static str)> {
    let machine = plan
        .changes
        .iter()
        .find(|c| c.sandbox == *sandbox && c.resource == ResourceKind::Machine)?;
    match machine.reason {
        Reason::Stopped => Some(("stopped", "stop")),
        Reason::Restart => Some(("restarted", "restart")),
        Reason::NotRunning { .. } if command == "start" => Some(("started", "start")),
        _ => None,
    }
}

fn words(row: &Row) -> String {
    let plain = match row.verdict {
        Verdict::Create => ("created", "create"),
        Verdict::Reprovision => ("reprovisioned", "reprovision"),
        Verdict::Replace => ("replaced", "replace"),
        Verdict::Teardown => ("torn down", "teardown"),
        Verdict::Keep | Verdict::Hold => ("done", "step"),
    };
    let order = row.order.filter(|_| row.verdict == Verdict::Reprovision);
    let (did, does) = order.unwrap_or(plain);
    match row {
        Row { error: Some(_), .. } => format!("{does} failed"),
        Row { cancelled: true, .. } => format!("{does} cancelled"),
        _ => did.to_owned(),
    }
}

pub(super) fn seconds(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0..60 => format!("{:.2} s", elapsed.as_secs_f64()),
        whole => format!("{}m {:02}s", whole / 60, whole % 60),
    }
}

fn last_line(plan: &Plan, rows: &BTreeMap<&str, Row>, command: &str) -> String {
    let failed = rows.values().filter(|row| row.error.is_some()).count();
    let cancelled = rows.values().filter(|row| row.error.is_none() && row.cancelled).count();
    let done = rows.len() - failed - cancelled;
    let held = holds(plan);
    let mut text = format!("{done} of {} done", rows.len());
    for (count, word) in [(failed, "failed"), (cancelled, "cancelled"), (held, "held")] {
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    text.push('.');
    let text = paint(style::BOLD, &text);
    let next = match (failed, held, cancelled) {
        (0, 0, 0) => return text,
        (0, 0, _) => format!("`bottle {command}` goes on"),
        (0, ..) => format!("set right what is held, then `bottle {command}`"),
        _ => format!("set right what failed, then `bottle {command}`"),
    };
    format!("{text} Next: {next}.")
}
