//! The plan's one textual form: a `String` from the plan's document and what is known beside it.
//! Pure, so that it can be compared with exact text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::text::{beside, by_note, columns, note, plural, some_of, wrap};
use super::ui::{harmless, paint, style};
use crate::manifest::diagnostic;
use crate::model::kept::REST;
use crate::model::work::Looked;
use crate::model::{Class, Diagnostic, ResourceKind};
use crate::plan::diff::FileDiff;
use crate::plan::document::{PlanDocument, TreeDocument};
use crate::plan::reasons::{self, BELOW, reasons};
use crate::plan::{Change, Reason, Refusal, Summary, Verdict, verdict_of};

/// Longest name for which the column is made wider; a longer one has a line of its own.
pub(super) const MAX_NAME: usize = 18;

/// What the text says beside the document.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// What a sandbox is, by name: `bottle dev, image node:22-slim`.
    pub(super) about: BTreeMap<String, String>,
    /// The backends that the sandboxes are on, with their versions.
    pub(super) backends: Vec<String>,
    /// How files of guests change.
    pub(super) diffs: Vec<FileDiff>,
    /// The unified diffs are shown too.
    pub(super) show_diffs: bool,
    /// What a change costs is said also where that is nothing.
    pub(super) classes: bool,
    /// Everything goes, whatever the tree says.
    pub(super) down: bool,
    /// So many columns.
    pub(super) width: usize,
}

impl Around {
    /// What of it says why resources change.
    fn words(&self) -> reasons::Around<'_> {
        reasons::Around { about: &self.about, diffs: &self.diffs, down: self.down }
    }
}

/// The plan as people read it.
pub(super) fn plan(document: &PlanDocument, around: &Around) -> String {
    let mut text = header(document, around);
    let rows = rows(document, around);
    if rows.is_empty() && document.steps.is_empty() {
        end_block(&mut text);
        below(&mut text, document, around);
        text.push_str(&no_changes(document));
        text.push('\n');
        return text;
    }
    text.push('\n');
    table(&mut text, &rows, around.width);
    let pruned = document.steps.iter().filter(|step| step.action == "prune").count();
    if pruned > 0 {
        let what = plural(pruned, "leftover of earlier runs goes", "leftovers of earlier runs go");
        let _ = writeln!(text, "  {} {what}", paint(style::BAD, "-"));
    }
    let kept = as_they_should_be(document);
    if kept > 0 {
        let _ = writeln!(text, "  {kept} as it should be");
    }
    text.push('\n');
    below(&mut text, document, around);
    if document.steps.is_empty() {
        text.push_str(&no_changes(document));
    } else {
        let command = if around.down { "down" } else { "plan" };
        let _ = write!(text, "{}", paint(style::BOLD, &format!("{command}:")));
        let _ = write!(text, " {}", summary(&document.summary, pruned));
    }
    text.push('\n');
    text
}

/// An empty line, unless one is there already.
fn end_block(text: &mut String) {
    if !text.ends_with("\n\n") {
        text.push('\n');
    }
}

pub(super) fn tree_line(tree: &TreeDocument) -> String {
    let mut line = format!("tree {}", paint(style::BOLD, &harmless(&tree.name)));
    if let Some(commit) = &tree.commit {
        let branch = tree.branch.as_ref().map_or_else(String::new, |branch| format!("{branch}@"));
        let short = commit.get(..7).unwrap_or(commit);
        let _ = write!(line, " · {}{short}", harmless(&branch));
        if tree.dirty {
            line.push_str(" with changes");
        }
    }
    line
}

fn header(document: &PlanDocument, around: &Around) -> String {
    let names: BTreeSet<&str> = document.changes.iter().map(|c| c.sandbox.as_str()).collect();
    let mut what = plural(names.len(), "sandbox", "sandboxes");
    if !around.backends.is_empty() {
        let _ = write!(what, " on {}", around.backends.join(", "));
    }
    let mut text = beside(&tree_line(&document.tree), &harmless(&what), around.width);
    for overlay in &document.tree.overlays {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "overlay {}", paint(style::BOLD, &harmless(overlay)));
    }
    text
}

/// One line of the plan, or several.
#[derive(Clone)]
struct Row {
    verdict: Verdict,
    name: String,
    backend: String,
    /// Why, in parts that share a line where they fit in one.
    parts: Vec<String>,
    /// What it costs, and why: lines of their own.
    cost: Vec<String>,
}

/// One row a sandbox that does not simply stay, by verdict, then by name.
fn rows(document: &PlanDocument, around: &Around) -> Vec<Row> {
    let mut by_sandbox: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &document.changes {
        by_sandbox.entry(change.sandbox.as_str()).or_default().push(change);
    }
    let mut rows: Vec<Row> = by_sandbox
        .into_iter()
        .filter_map(|(name, changes)| row(name, &changes, document, around))
        .collect();
    rows.sort_by_key(|row| match row.verdict {
        Verdict::Create => 0,
        Verdict::Reprovision => 1,
        Verdict::Replace => 2,
        Verdict::Teardown => 3,
        Verdict::Hold => 4,
        Verdict::Keep => 5,
    });
    together(rows)
}

/// So many that are held by one finding have rows of their own.
const HELD_APART: usize = 3;

/// Puts those that one finding holds into the row of the first of them, where they are many.
fn together(rows: Vec<Row>) -> Vec<Row> {
    let alike = |one: &Row, other: &Row| {
        let below = one.parts.len() == 1 && one.parts[0].ends_with(BELOW);
        let held = one.verdict == Verdict::Hold && other.verdict == Verdict::Hold;
        held && below && one.parts == other.parts && one.backend == other.backend
    };
    let mut merged: Vec<(Row, Vec<String>)> = Vec::new();
    for row in &rows {
        let first = merged.iter().position(|(first, _)| alike(first, row));
        let many = rows.iter().filter(|other| alike(row, other)).count() > HELD_APART;
        match first.filter(|_| many).and_then(|at| merged.get_mut(at)) {
            Some((_, names)) => names.push(row.name.clone()),
            None => merged.push((row.clone(), Vec::new())),
        }
    }
    let with_names = |(mut row, names): (Row, Vec<String>)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if !names.is_empty() {
            row.parts.push(format!("it also holds {}", some_of(&names)));
        }
        row
    };
    merged.into_iter().map(with_names).collect()
}

fn row(name: &str, changes: &[&Change], document: &PlanDocument, around: &Around) -> Option<Row> {
    let verdict = Some(verdict_of(changes)).filter(|v| *v != Verdict::Keep)?;
    let heaviest: Vec<&&Change> = changes.iter().filter(|c| c.verdict != Verdict::Keep).collect();
    let of = |changes: &[&Change]| -> BTreeSet<&'static str> {
        changes.iter().filter_map(|c| c.backend.map(|kind| kind.as_str())).collect()
    };
    let mut backends = of(&heaviest.iter().map(|c| **c).collect::<Vec<_>>());
    if backends.is_empty() {
        // A part that is made says of none.
        backends = of(changes);
    }
    let mut parts: Vec<String> = Vec::new();
    for change in &heaviest {
        for part in reasons(change, document, around.words()) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
    Some(Row {
        verdict,
        name: name.to_owned(),
        backend: backends.into_iter().collect::<Vec<_>>().join(", "),
        parts: parts.iter().map(|part| harmless(part).replace(['\n', '\t'], " ")).collect(),
        cost: cost(verdict, changes, around),
    })
}

/// What a change costs those who work in the sandbox, and why it takes a new machine.
fn cost(verdict: Verdict, changes: &[&Change], around: &Around) -> Vec<String> {
    // A sidecar is replaced beside its machine, which loses nothing.
    let replaced = changes
        .iter()
        .find(|c| c.verdict == Verdict::Replace && c.resource == ResourceKind::Machine);
    if let Some(machine) = replaced {
        let why = (!machine.why.is_empty())
            .then(|| format!("takes a new machine: {}", machine.why.join("; ")));
        return why.into_iter().chain([kept(machine)]).chain(work(machine)).collect();
    }
    let goes = |c: &&&Change| c.verdict == Verdict::Teardown && c.resource == ResourceKind::Machine;
    if let Some(lines) = (verdict == Verdict::Teardown).then(|| changes.iter().filter(goes)) {
        return lines.filter_map(|change| work(change)).collect();
    }
    match changes.iter().filter_map(|c| c.class).max() {
        Some(Class::Hot) if around.classes && verdict == Verdict::Reprovision => {
            vec!["hot: nothing restarts".to_owned()]
        }
        Some(Class::Restart) if changes.iter().any(|c| c.reason == Reason::SpecChanged) => {
            vec!["restarts its command; nothing else in it ends".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// What a look at a machine that goes has found.
fn work(change: &Change) -> Option<String> {
    match change.work? {
        Looked::Found(work) => Some(format!("has {work}")),
        Looked::Unknown => Some("what it has is not known (below)".to_owned()),
    }
}

/// What of a machine that goes is kept, and what is lost.
fn kept(change: &Change) -> String {
    match (&change.keeps, &change.loses) {
        (Some(keeps), Some(loses)) if !keeps.is_empty() => {
            format!("keeps {}; loses {}", all_of(keeps), all_of(loses))
        }
        _ => "loses what was written inside the sandbox".to_owned(),
    }
}

/// All of them, in a sentence.
fn all_of(names: &[String]) -> String {
    match names {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        names => names.join(""),
    }
}

pub(super) fn look_of(verdict: Verdict) -> (&'static str, &'static str, anstyle::Style) {
    match verdict {
        Verdict::Keep => (" ", "keep", style::DIM),
        Verdict::Hold => ("!", "hold", style::WARNING),
        Verdict::Reprovision => ("~", "reprovision", style::CHANGE),
        Verdict::Create => ("+", "create", style::GOOD),
        Verdict::Replace => ("±", "replace", style::CHANGE),
        Verdict::Teardown => ("-", "teardown", style::BAD),
    }
}

fn table(text: &mut String, rows: &[Row], width: usize) {
    let longest = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let name = longest(|row| row.name.chars().count()).min(MAX_NAME);
    let verdict = longest(|row| look_of(row.verdict).1.len());
    let backend = longest(|row| row.backend.len());
    let indent = 4 + name + 2 + verdict + 2 + if backend == 0 { 0 } else { backend + 2 };
    for row in rows {
        let (symbol, word, colour) = look_of(row.verdict);
        let mut line = format!("  {} {:name$}", paint(colour, symbol), row.name);
        if row.name.chars().count() > name {
            let _ = write!(line, "\n{:pad$}", "", pad = 4 + name);
        }
        let _ = write!(line, "  {}{:pad$}", paint(colour, word), "", pad = verdict - word.len());
        if backend > 0 {
            let _ = write!(line, "  {:backend$}", row.backend);
        }
        let room = width.saturating_sub(indent).max(24);
        let mut details = columns(&row.parts, room);
        details.extend(row.cost.iter().flat_map(|line| wrap(line, room, 0)));
        for (index, part) in details.iter().enumerate() {
            let _ = match index {
                0 => write!(line, "  {part}"),
                _ => write!(line, "\n{:indent$}{part}", ""),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// What stands below the table: notes, diffs, what is wrong, why it is refused.
fn below(text: &mut String, document: &PlanDocument, around: &Around) {
    let before = text.len();
    let suspended = suspended(document);
    if !suspended.is_empty() {
        let line = format!("suspended, left as it is: {}", some_of(&suspended));
        note(text, "note:", style::HINT, &line, around.width);
    }
    let stopped = stopped(document);
    if !stopped.is_empty() {
        let line = format!("stopped by you, and stays so: {}", some_of(&stopped));
        note(text, "note:", style::HINT, &line, around.width);
    }
    for line in leaving(document) {
        note(text, "note:", style::HINT, &line, around.width);
    }
    let notes = by_note(document.changes.iter().map(|c| (c.sandbox.as_str(), c.notes.as_slice())));
    for (words, names) in notes {
        note(text, "note:", style::HINT, &format!("{}: {words}", some_of(&names)), around.width);
    }
    for (backend, (error, names)) in unreachable(document) {
        let line = format!(
            "{backend} cannot be reached, so nothing is done for {}: {error}",
            some_of(&names)
        );
        note(text, "warning:", style::WARNING, &line, around.width);
    }
    let (values, tokens) = waiting(document);
    if let Some(name) = values.first() {
        let line = format!(
            "values come from lines of NAME=value in `--env-file FILE`, else from BOTTLE_ENV_{name}"
        );
        note(text, "hint:", style::HINT, &line, around.width);
    }
    if let Some(name) = tokens.first() {
        let line = format!(
            "the token of a route, or a proxy's password, comes from a line {name}=value in `--env-file FILE`, \
             else from the environment: `export {name}=…`; or write `token_from`, or `password_from`, for a \
             command or a file"
        );
        note(text, "hint:", style::HINT, &line, around.width);
    }
    if text.len() > before {
        text.push('\n');
    }
    if around.show_diffs {
        diffs(text, &around.diffs);
    }
    let told =
        if around.down { String::new() } else { diagnostics(&document.diagnostics, around.width) };
    if !told.is_empty() {
        text.push_str(&told);
        text.push('\n');
    }
    if let Some(refusal) = &document.refused {
        let (message, hint) = refusal_text(refusal);
        let _ = writeln!(text, "{} {message}", paint(style::ERROR, "refused:"));
        let _ = writeln!(text, "  {} {hint}\n", paint(style::HINT, "hint:"));
    }
}

/// Why a plan may not be carried out, and what permits it.
pub(super) fn refusal_text(refusal: &Refusal) -> (String, String) {
    match refusal {
        Refusal::MassTeardown { removed, existing, lately: 0 } => (
            format!(
                "this would remove or replace {removed} of the {existing} sandboxes that exist"
            ),
            format!("`--allow-teardown {removed}` permits it"),
        ),
        Refusal::MassTeardown { removed, existing, lately } => (
            format!(
                "this would make it {removed} of {existing} sandboxes that were removed or replaced within an \
                 hour, {lately} of them before"
            ),
            "end `watch`, and `bottle apply` does it; or wait until an hour has passed".to_owned(),
        ),
        Refusal::NoAgents { found, removed } => (
            format!("{}, and {removed} would be removed", harmless(found)),
            format!(
                "if that is meant, `--allow-teardown {removed}` permits it, here or in `bottle down`"
            ),
        ),
    }
}

/// What of sandboxes that go stays as a snapshot, and what the removal of the others costs.
fn leaving(document: &PlanDocument) -> Vec<String> {
    let goes = |change: &&Change| {
        change.verdict == Verdict::Teardown
            && change.resource == ResourceKind::Machine
            && matches!(change.reason, Reason::NotDeclared { .. })
    };
    // What waits for a second reading does not go by this plan: what is kept of it is not decided.
    let going: BTreeSet<&str> = document
        .steps
        .iter()
        .filter(|step| step.action == "teardown")
        .filter_map(|step| step.sandbox.as_deref())
        .collect();
    let now = |change: &&Change| change.keeps.is_some() || going.contains(change.sandbox.as_str());
    let mut kept: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut lost: BTreeSet<&str> = BTreeSet::new();
    for change in document.changes.iter().filter(goes).filter(now) {
        match change.keeps.as_deref() {
            None | Some([]) => lost.insert(change.sandbox.as_str()),
            Some(keeps) => {
                let also = change.loses.iter().flatten().filter(|name| *name != REST);
                let also: Vec<String> = also.cloned().collect();
                let also = match also.len() {
                    0 => String::new(),
                    1 => format!("; {} is lost", also[0]),
                    _ => format!("; {} are lost", all_of(&also)),
                };
                let what = (all_of(keeps), also);
                kept.entry(what).or_default().insert(change.sandbox.as_str())
            }
        };
    }
    let listed = |names: &BTreeSet<&str>| some_of(&names.iter().copied().collect::<Vec<_>>());
    let mut lines: Vec<String> = Vec::new();
    for ((what, also), names) in &kept {
        let snapshot = if names.len() == 1 { "a snapshot" } else { "snapshots" };
        let names = listed(names);
        lines.push(format!("{names}: what was written to {what} is kept as {snapshot}{also}"));
    }
    let its = match lost.len() {
        0 => return lines,
        1 => "its",
        _ => "their",
    };
    lines.push(format!("{}: {its} files are lost", listed(&lost)));
    lines
}

fn unreachable(document: &PlanDocument) -> BTreeMap<&'static str, (&str, Vec<&str>)> {
    let mut found: BTreeMap<&'static str, (&str, Vec<&str>)> = BTreeMap::new();
    for change in &document.changes {
        if let Reason::BackendUnreachable { backend, error } = &change.reason {
            let entry = found.entry(backend.as_str()).or_insert((error, Vec::new()));
            entry.1.push(change.sandbox.as_str());
        }
    }
    found
}

/// The values that are waited for, and the tokens of routes.
fn waiting(document: &PlanDocument) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let needs = document.changes.iter().filter_map(|change| match &change.reason {
        Reason::NeedsInput { names, tokens } => Some((names, tokens)),
        _ => None,
    });
    let (mut values, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    for (names, tokens) in needs {
        let (of_routes, others) = names
            .iter()
            .map(String::as_str)
            .partition::<Vec<_>, _>(|n| tokens.iter().any(|t| t == n));
        waiting.extend(of_routes);
        values.extend(others);
    }
    (values, waiting)
}

fn suspended(document: &PlanDocument) -> Vec<&str> {
    let is = |change: &&Change| change.reason == Reason::Suspended;
    document.changes.iter().filter(is).map(|change| change.sandbox.as_str()).collect()
}

/// Those that the operator stopped, where nothing is done to them.
fn stopped(document: &PlanDocument) -> Vec<&str> {
    let mut verdicts: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &document.changes {
        verdicts.entry(change.sandbox.as_str()).or_default().push(change);
    }
    let is = |changes: &[&Change]| {
        let machine =
            |c: &&Change| c.resource == ResourceKind::Machine && c.reason == Reason::Stopped;
        verdict_of(changes) == Verdict::Keep && changes.iter().any(machine)
    };
    verdicts.into_iter().filter(|(_, changes)| is(changes)).map(|(name, _)| name).collect()
}

/// How many stay because they are what the tree says.
fn as_they_should_be(document: &PlanDocument) -> usize {
    let rest = suspended(document).len() + stopped(document).len();
    document.summary.keep.saturating_sub(rest)
}

fn summary(counts: &Summary, pruned: usize) -> String {
    let Summary { create, reprovision, replace, teardown, hold, keep } = *counts;
    let mut parts: Vec<String> = [
        (create, "create"),
        (reprovision, "reprovision"),
        (replace, "replace"),
        (teardown, "teardown"),
        (hold, "hold"),
        (keep, "keep"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    if pruned > 0 {
        parts.push(plural(pruned, "leftover", "leftovers"));
    }
    parts.join(", ")
}

fn no_changes(document: &PlanDocument) -> String {
    let mut text = paint(style::GOOD, "no changes:");
    let (suspended, stopped) = (suspended(document).len(), stopped(document).len());
    let held = document.summary.hold;
    let mut parts = match (as_they_should_be(document), held + suspended + stopped) {
        (0, 0) => vec!["there is nothing to do".to_owned()],
        (0, _) => vec![],
        (1, _) => vec!["1 sandbox is as it should be".to_owned()],
        (kept, _) => vec![format!("{kept} sandboxes are as they should be")],
    };
    for (count, word) in [(held, "held"), (suspended, "suspended"), (stopped, "stopped by you")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let _ = write!(text, " {}", parts.join(", "));
    text
}

fn diffs(text: &mut String, diffs: &[FileDiff]) {
    for file in diffs {
        let Some(unified) = &file.unified else {
            let _ = writeln!(
                text,
                "{}/{} changes (no text, or too long to compare)\n",
                file.sandbox,
                harmless(&file.path)
            );
            continue;
        };
        for line in unified.lines() {
            let line = harmless(line);
            let colour = match line.as_bytes().first() {
                Some(b'+') if !line.starts_with("+++") => style::GOOD,
                Some(b'-') if !line.starts_with("---") => style::BAD,
                Some(b'@') => style::HINT,
                _ => anstyle::Style::new(),
            };
            let _ = writeln!(text, "{}", paint(colour, &line));
        }
        text.push('\n');
    }
}

/// Diagnostics with their source lines and carets, an empty line between them.
pub(super) fn diagnostics(all: &[Diagnostic], width: usize) -> String {
    // Colour is taken out at the end, with everything else's.
    diagnostic::render_all(all, diagnostic::Drawing { width, colour: true })
}
