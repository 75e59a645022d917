//! Requests as people read them. What an agent wrote stands in a block of its own, and nothing of it acts. Pure.

use std::fmt::Write as _;

use super::super::ui::{paint, style};
use crate::dashboard::card::sign;
use crate::model::supervise::{Ask, Standing};
use crate::model::text::{quoted_lines, spelled_line};
use crate::model::{Desired, Moment};
use crate::plan::Verdict;
use crate::reconcile::requests::review::{Review, ago};
use crate::reconcile::requests::{Edited, Record};

/// So many lines of an agent's words are shown.
const LINES: usize = 20;

/// A line each.
pub(super) fn list(
    records: &[Record],
    desired: Option<&Desired>,
    all: bool,
    now: Moment,
    width: usize,
) -> String {
    let name = records.iter().map(|it| it.sandbox.as_str().len()).max().unwrap_or(0).min(30);
    let mut text = String::new();
    for record in records {
        let since = ago(record.last, now);
        let since = since.strip_suffix(" ago").unwrap_or(&since);
        let state = if all { format!("{:<11} ", record.state.as_str()) } else { String::new() };
        let head = format!(
            "{}  {:<name$}  {:<10}  {state}",
            record.id,
            record.sandbox.as_str(),
            record.ask.kind()
        );
        let room = width.saturating_sub(head.chars().count() + since.len() + 2).max(20);
        let asks = cut(&record.asks(desired), room);
        let _ = writeln!(text, "{head}{asks:<room$}  {since}");
    }
    let waiting = records.iter().filter(|it| it.state == Standing::Pending).count();
    let _ = match waiting {
        0 if records.is_empty() => writeln!(text, "nobody asks for anything"),
        0 => Ok(()),
        1 => writeln!(text, "1 request waits. `bottle requests show ID`"),
        more => writeln!(text, "{more} requests wait. `bottle requests show ID`"),
    };
    text
}

fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Who asks, what for, and whether it is true.
pub(super) fn head(record: &Record, now: Moment, width: usize) -> String {
    let mut text = format!(
        "{} · {} · {} · {}",
        paint(style::BOLD, record.id.as_str()),
        record.sandbox,
        record.backend,
        ago(record.received, now)
    );
    match record.asked {
        0 | 1 => {}
        2 => text.push_str(", asked twice"),
        more => drop(write!(text, ", asked {more} times")),
    }
    text.push('\n');
    let _ = writeln!(text, "  {} says (not checked):", record.sandbox);
    for line in quoted_lines(&record.reason, "  │ ", width, LINES) {
        let _ = writeln!(text, "{line}");
    }
    let evidence = &record.evidence;
    if evidence.denied > 0 {
        let codes: Vec<String> = evidence.codes.keys().map(|code| spelled_line(code)).collect();
        let last = evidence.last.map(|last| format!(", last {}", ago(last, now)));
        let times = if evidence.denied == 1 { "time" } else { "times" };
        let _ = writeln!(
            text,
            "  refused {} {times}{} ({})",
            evidence.denied,
            last.unwrap_or_default(),
            codes.join(", ")
        );
    } else if matches!(record.ask, Ask::Egress(_)) {
        let _ = writeln!(text, "  nothing to that host was refused yet");
    }
    let _ = writeln!(text, "  asks for {}", record.asks(None));
    text
}

/// What became of one that was decided.
pub(super) fn outcome(record: &Record, now: Moment) -> String {
    let mut text = format!("  {}", record.state);
    if let Some(decision) = &record.decision {
        let by = match decision.by.as_str() {
            "hand" => "the tree grants it by itself".to_owned(),
            name => format!("by {}", spelled_line(name)),
        };
        let _ = write!(text, ": {by}, {}", ago(decision.at, now));
        if let Some(until) = decision.until {
            let ended = if until <= now { ", which has ended" } else { "" };
            let _ = write!(text, ", until {}{ended}", until.in_seconds());
        }
        if let Some(message) = &decision.message {
            let _ = write!(text, "\n  you said: {}", spelled_line(message));
        }
    }
    for made in [&record.edit, &record.undo].into_iter().flatten() {
        let commit = match (&made.commit, &made.untracked) {
            (Some(commit), _) => format!("commit {}", commit.get(..7).unwrap_or(commit)),
            (None, Some(why)) => format!("not committed: {}", spelled_line(why)),
            (None, None) => "not committed".to_owned(),
        };
        let _ = write!(text, "\n  {} · {commit}", made.file);
    }
    if let Some(error) = &record.error {
        let _ = write!(text, "\n  {}", spelled_line(error));
    }
    text.push('\n');
    text
}

/// All that a yes would do.
pub(super) fn review(review: &Review, now: Moment, width: usize) -> String {
    let mut text = String::new();
    for record in &review.records {
        text.push_str(&head(record, now, width));
        text.push('\n');
    }
    for edited in &review.edited {
        text.push_str(&diff(edited, width));
        text.push('\n');
    }
    for (index, line) in review.delta.iter().enumerate() {
        let label =
            if index == 0 || review.delta[index - 1].what != line.what { line.what } else { "" };
        let _ = writeln!(text, "  {label:<8}{} {}", line.sign, spelled_line(&line.text));
    }
    if let Some(view) = &review.view {
        let mut by_verdict: std::collections::BTreeMap<(Verdict, String), Vec<String>> =
            Default::default();
        for (sandbox, verdict) in review.verdicts() {
            let changes: Vec<_> =
                view.plan.changes.iter().filter(|it| it.sandbox == sandbox).collect();
            let replaces = changes.iter().any(|it| it.loses.is_some());
            let says = match verdict {
                Verdict::Keep if review.edited.is_empty() => {
                    "its sidecar is loaded anew".to_owned()
                }
                Verdict::Keep => "nothing is to be done".to_owned(),
                Verdict::Reprovision => "in place; nothing restarts, nothing is lost".to_owned(),
                Verdict::Create => "is made".to_owned(),
                Verdict::Hold => "is held: see `bottle plan`".to_owned(),
                _ if replaces => {
                    let of = |pick: fn(&crate::plan::Change) -> &Option<Vec<String>>| {
                        let all: Vec<String> =
                            changes.iter().filter_map(|it| pick(it).clone()).flatten().collect();
                        all.join(", ")
                    };
                    format!(
                        "a new machine; keeps {}; loses {}",
                        of(|it| &it.keeps),
                        of(|it| &it.loses)
                    )
                }
                _ => "a new machine".to_owned(),
            };
            by_verdict.entry((verdict, says)).or_default().push(sandbox.to_string());
        }
        for (index, ((verdict, says), sandboxes)) in by_verdict.iter().enumerate() {
            let label = if index == 0 { "plan" } else { "" };
            let sign = sign(*verdict);
            let _ = writeln!(text, "  {label:<8}{sign} {}   {says}", sandboxes.join(", "));
        }
    }
    text
}

/// The lines of a file that change, with their numbers and a line around them.
fn diff(edited: &Edited, width: usize) -> String {
    let mut text = format!("{}\n", edited.file);
    let diff = similar::TextDiff::from_lines(&edited.before, &edited.after);
    for (index, group) in diff.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            text.push_str("    …\n");
        }
        for op in group {
            for change in diff.iter_changes(op) {
                let (sign, colour) = match change.tag() {
                    similar::ChangeTag::Equal => (' ', None),
                    similar::ChangeTag::Insert => ('+', Some(style::GOOD)),
                    similar::ChangeTag::Delete => ('-', Some(style::BAD)),
                };
                let number = change.new_index().or(change.old_index()).unwrap_or(0) + 1;
                let line = change.value().trim_end_matches(['\n', '\r']);
                let line = cut(&spelled_line(line), width.saturating_sub(9).max(20));
                let line = format!("{number:>5} │{sign} {line}");
                let line = line.trim_end();
                let _ = match colour {
                    Some(colour) => writeln!(text, "{}", paint(colour, line)),
                    None => writeln!(text, "{line}"),
                };
            }
        }
    }
    text
}
