//! The status as people read it: a table of at most the terminal's width. Pure.

use std::fmt::Write as _;

use super::ui::{harmless, paint, style};
use super::{numbers, render, text};
use crate::plan::Verdict;
use crate::reconcile::status::{SandboxStatus, Status};
use crate::sidecar::git::mirror::Activity;

const HEAD: [&str; 5] = ["NAME", "BACKEND", "STATE", "AGE", "LAST"];
/// The last column, in which lines of their own may follow.
const DRIFT: &str = "DRIFT";

/// `wide`: with what each uses.
pub(super) fn render(document: &Status, now: u64, width: usize, wide: bool) -> String {
    let count = text::plural(document.sandboxes.len(), "sandbox", "sandboxes");
    let mut text = text::beside(&render::tree_line(&document.tree), &count, width);
    if let Some(commit) =
        document.last_commit.as_ref().filter(|c| Some(*c) != document.tree.commit.as_ref())
    {
        let _ = writeln!(text, "last applied from {}", commit.get(..7).unwrap_or(commit));
    }
    text.push('\n');
    if document.sandboxes.is_empty() {
        text.push_str("the tree declares no sandbox, and none exists\n");
    } else {
        table(&mut text, document, now, width, wide);
    }
    requests(&mut text, document, width);
    runs(&mut text, document, now, width);
    failures(&mut text, document, now, width);
    upstreams(&mut text, document, width);
    denials(&mut text, document, width);
    let notes =
        text::by_note(document.sandboxes.iter().map(|s| (s.sandbox.as_str(), s.notes.as_slice())));
    if !notes.is_empty() {
        text.push('\n');
    }
    for (words, names) in notes {
        let line = format!("{}: {words}", text::some_of(&names));
        text::note(&mut text, "note:", style::HINT, &line, width);
    }
    let told = render::diagnostics(&document.diagnostics, width);
    if !told.is_empty() {
        text.push('\n');
        text.push_str(&told);
    }
    text
}

fn table(text: &mut String, document: &Status, now: u64, width: usize, wide: bool) {
    let more = if wide { &numbers::HEAD[..] } else { &[] };
    let head: Vec<&str> = HEAD.iter().chain(more).copied().collect();
    let row = |status: &SandboxStatus| -> Vec<String> {
        let numbers = wide.then(|| numbers::cells(status, None));
        cells(status, now).into_iter().chain(numbers.into_iter().flatten()).collect()
    };
    let rows: Vec<Vec<String>> = document.sandboxes.iter().map(row).collect();
    let longest = |index: usize| {
        let longest = rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
        longest.max(head[index].len())
    };
    let mut columns: Vec<usize> = (0..head.len()).map(longest).collect();
    columns[0] = columns[0].min(render::MAX_NAME);
    let mut line = String::new();
    for (column, head) in columns.iter().zip(&head) {
        let _ = write!(line, "{head:column$}  ");
    }
    line.push_str(DRIFT);
    let _ = writeln!(text, "{}", paint(style::DIM, &line));
    for (row, status) in rows.iter().zip(&document.sandboxes) {
        for (index, (column, cell)) in columns.iter().zip(row).enumerate() {
            let length = cell.chars().count();
            let shown = if index == 2 { paint(colour(status), cell) } else { cell.clone() };
            match column.checked_sub(length) {
                Some(pad) => {
                    let _ = write!(text, "{shown}{:pad$}", "", pad = pad + 2);
                }
                None => {
                    let _ = write!(text, "{shown}\n{:pad$}", "", pad = column + 2);
                }
            }
        }
        let _ = writeln!(text, "{}", drift(status.verdict));
        let why: Vec<String> =
            status.drift.iter().map(|part| harmless(part).replace(['\n', '\t'], " ")).collect();
        for part in text::columns(&why, width.saturating_sub(4)) {
            let _ = writeln!(text, "    {part}");
        }
    }
}

/// Who asks for something.
fn requests(text: &mut String, document: &Status, width: usize) {
    let waiting: Vec<String> = document
        .sandboxes
        .iter()
        .filter_map(|status| {
            let pending = status.requests.as_ref()?.pending;
            (pending > 0).then(|| {
                format!(
                    "{}: {}",
                    status.sandbox,
                    text::plural(pending, "request waits", "requests wait")
                )
            })
        })
        .collect();
    if waiting.is_empty() {
        return;
    }
    let line = format!("{}; `bottle requests` shows them", waiting.join("; "));
    text.push('\n');
    text::note(text, "asked:", style::HINT, &line, width);
}

/// Detached runs: those that are under way, and of each sandbox the last one that has ended.
fn runs(text: &mut String, document: &Status, now: u64, width: usize) {
    let mut lines = Vec::new();
    for status in &document.sandboxes {
        let last = status.runs.iter().rposition(|run| run.state != "running");
        for (index, run) in status.runs.iter().enumerate() {
            if run.state == "running" || Some(index) == last {
                let since = age(now.saturating_sub(run.ended.unwrap_or(run.since)));
                let ago = if run.ended.is_some() { " ago" } else { "" };
                lines.push(format!("{}: {} {} {since}{ago}", status.sandbox, run.id, run.state()));
            }
        }
    }
    if !lines.is_empty() {
        text.push('\n');
    }
    for line in lines {
        text::note(text, "detached:", style::HINT, &line, width);
    }
}

fn drift(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Keep => "none",
        other => render::look_of(other).1,
    }
}

fn cells(status: &SandboxStatus, now: u64) -> [String; 5] {
    let state = match status.code {
        Some(code) => format!("{} ({code})", status.state),
        None => status.state.clone(),
    };
    let last = status.last.as_ref().map(|last| {
        let word = if last.error.is_some() { "failed" } else { done(last.verdict) };
        format!("{word} {}", age(now.saturating_sub(last.at)))
    });
    [
        status.sandbox.to_string(),
        status.backend.map_or_else(|| "-".to_owned(), |kind| kind.to_string()),
        state,
        status.age.map_or_else(|| "-".to_owned(), age),
        last.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn colour(status: &SandboxStatus) -> anstyle::Style {
    match status.state.as_str() {
        "running" | "completed" => style::GOOD,
        "failed" | "failing" | "broken" => style::BAD,
        _ => style::CHANGE,
    }
}

fn done(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Create => "created",
        Verdict::Reprovision => "reprovisioned",
        Verdict::Replace => "replaced",
        Verdict::Teardown => "torn down",
        Verdict::Keep | Verdict::Hold => "done",
    }
}

/// What fails: the error of the last pass, and the last lines of output.
fn failures(text: &mut String, document: &Status, now: u64, width: usize) {
    for status in &document.sandboxes {
        let error = status.last.as_ref().and_then(|last| Some((last.at, last.error.as_ref()?)));
        if let Some((at, error)) = error {
            text.push('\n');
            let ago = age(now.saturating_sub(at));
            let line = format!("{}, {ago} ago: {error}", status.sandbox);
            text::note(text, "failed:", style::BAD, &line, width);
        }
        if !status.output.is_empty() {
            let _ = writeln!(text, "\nlast output of {}:", status.sandbox);
            for line in &status.output {
                let _ = writeln!(text, "  {}", harmless(line));
            }
        }
    }
}

/// What sidecars and gates refused: the reasons, most often first.
fn denials(text: &mut String, document: &Status, width: usize) {
    for status in &document.sandboxes {
        let by_sidecar = status.sidecar.as_ref().map(|sidecar| (&sidecar.denied, "--sidecar"));
        let by_gate = status.git.as_ref().map(|gate| (&gate.denied, "--git"));
        for (denied, log) in by_sidecar.into_iter().chain(by_gate) {
            if denied.is_empty() {
                continue;
            }
            let mut denied: Vec<(&String, &u64)> = denied.iter().collect();
            denied.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), *code));
            let list: Vec<String> =
                denied.iter().map(|(code, count)| format!("{} ×{count}", harmless(code))).collect();
            text.push('\n');
            let line = format!(
                "{}: {}; `bottle logs {0} {log}` shows each",
                status.sandbox,
                list.join(", ")
            );
            text::note(text, "denied:", style::CHANGE, &line, width);
        }
    }
}

/// What became of each upstream of a git gate since that was started.
fn upstreams(text: &mut String, document: &Status, width: usize) {
    let mut lines = Vec::new();
    for status in &document.sandboxes {
        let Some(gate) = &status.git else { continue };
        lines.extend(gate.relay.iter().map(|how| format!("{}: {}", status.sandbox, harmless(how))));
        for (name, activity) in &gate.upstreams {
            let Activity { fetches, pushes, refusals, last_fetch, mirror, trouble, .. } = activity;
            let mut line = format!(
                "{} {}: {}, {}",
                status.sandbox,
                harmless(name),
                text::plural(usize::try_from(*fetches).unwrap_or(usize::MAX), "fetch", "fetches"),
                text::plural(usize::try_from(*pushes).unwrap_or(usize::MAX), "push", "pushes"),
            );
            if *refusals > 0 {
                let _ = write!(line, ", {refusals} refused");
            }
            if let Some(at) = last_fetch {
                let _ = write!(line, "; last fetch {}", harmless(at));
            }
            if mirror != "ready" {
                let _ = write!(line, "; mirror: {}", harmless(mirror));
            }
            if let Some(trouble) = trouble {
                let _ = write!(line, "; {}", harmless(trouble));
            }
            lines.push(line);
        }
    }
    if !lines.is_empty() {
        text.push('\n');
    }
    for line in lines {
        text::note(text, "git:", style::HINT, &line, width);
    }
}

/// `42s`, `7m`, `3h`, `12d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
