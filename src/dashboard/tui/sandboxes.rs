//! The list of sandboxes.

use ratatui::layout::Rect;

use super::app::{App, Drawn};
use super::draw::{age, page_of};
use super::paint::{Ink, Paper, columns};
use crate::dashboard::card::sign;
use crate::dashboard::snapshot::Sandbox;
use crate::model::text::quoted_lines;
use crate::plan::Verdict;

/// So many lines about the chosen one stand below the list, at most.
const BELOW: u16 = 7;

/// Where columns begin, and how wide they are.
struct Table {
    name: u16,
    backend: u16,
    state: u16,
    plan: u16,
    egress: u16,
    age: u16,
}

impl Table {
    fn of(width: u16, longest: usize) -> Self {
        let name = u16::try_from(longest).unwrap_or(u16::MAX).clamp(7, (width / 4).max(7)) + 2;
        let (backend, state, age) = (14, 10, 5);
        let egress = if width >= 76 { 17 } else { 0 };
        let plan = width.saturating_sub(2 + name + backend + state + egress + age);
        Self { name, backend, state, plan, egress, age }
    }

    fn row(&self, paper: &mut Paper<'_>, y: u16, cells: [&str; 6], inks: [Ink; 6]) {
        let widths = [self.name, self.backend, self.state, self.plan, self.egress, self.age];
        let mut x = 2;
        for ((cell, ink), width) in cells.iter().zip(inks).zip(widths) {
            // One column stays free, so that two cells are never one word.
            paper.put(x, y, width.saturating_sub(1), cell, ink);
            x += width;
        }
    }
}

/// Only the rows that are seen are drawn.
pub(super) fn sandboxes(app: &App, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    let all = app.sandboxes();
    let at = app.sandbox_at();
    let mut below = at.map(|at| about(all[at], paper, body.width.into())).unwrap_or_default();
    let problems = app.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.problems);
    if let Some(first) = problems.first() {
        let more = match problems.len() {
            1 => String::new(),
            all => format!(" (and {} more: `bottle check`)", all - 1),
        };
        below.insert(0, (format!("! {first}{more}"), Ink::Bad));
    }
    let room = if body.height >= 12 { BELOW } else { 2 };
    let below: Vec<(String, Ink)> = below.into_iter().take(room.into()).collect();
    let foot = u16::try_from(below.len()).unwrap_or(0);
    let rows = usize::from(body.height.saturating_sub(foot + 1).max(1));
    let top = page_of(at, rows);
    let seen = &all[top.min(all.len())..(top + rows).min(all.len())];
    let longest = seen.iter().map(|it| columns(&it.name)).max().unwrap_or(0);
    let table = Table::of(body.width, longest);
    let heads = ["sandbox", "backend", "state", "plan", "egress", "age"];
    table.row(paper, body.y, heads, [Ink::Dim; 6]);
    if all.is_empty() {
        let told = match app.filter() {
            "" => "the tree declares no sandbox, and none exists".to_owned(),
            filter => format!("no sandbox has {filter} in it"),
        };
        paper.line(body, 1, &format!("  {told}"), Ink::Plain);
    }
    for (row, (index, sandbox)) in (body.y + 1..).zip((top..).zip(seen)) {
        let chosen = Some(index) == at;
        if chosen {
            paper.put(0, row, 1, "▸", Ink::Bold);
        }
        let name = if chosen { Ink::Bold } else { Ink::Plain };
        let backend = if sandbox.backend.is_empty() { "-" } else { &sandbox.backend };
        let state = match sandbox.code {
            Some(code) => format!("{} {code}", sandbox.state),
            None => sandbox.state.clone(),
        };
        let (plan, plan_ink) = plan(sandbox);
        let egress = match &sandbox.egress {
            Some(egress) => match sandbox.denied() {
                0 => format!("{} ok", egress.allowed),
                denied => format!("{} ok {denied} denied", egress.allowed),
            },
            None => "-".to_owned(),
        };
        let made = sandbox.made.map(|made| age(app.now.epoch.saturating_sub(made)));
        let made = made.unwrap_or_else(|| "-".to_owned());
        let inks = [name, Ink::Plain, state_ink(sandbox), plan_ink, Ink::Plain, Ink::Plain];
        table.row(paper, row, [&sandbox.name, backend, &state, &plan, &egress, &made], inks);
    }
    for (row, (line, ink)) in (body.height - foot..).zip(below) {
        paper.line(body, row, &line, ink);
    }
    Drawn { page: rows, most: 0 }
}

fn state_ink(sandbox: &Sandbox) -> Ink {
    match sandbox.state.as_str() {
        "running" | "completed" => Ink::Good,
        "failed" | "failing" | "broken" | "unreadable" => Ink::Bad,
        _ => Ink::Change,
    }
}

/// What the next pass would do, in one line.
pub(super) fn plan(sandbox: &Sandbox) -> (String, Ink) {
    let why = sandbox.why.join("; ");
    let word = match sandbox.verdict {
        Verdict::Keep => "as it should be",
        Verdict::Hold => "held",
        Verdict::Reprovision => "reprovision",
        Verdict::Create => "create",
        Verdict::Replace => "replace",
        Verdict::Teardown => "teardown",
    };
    let ink = match sandbox.verdict {
        Verdict::Keep => Ink::Dim,
        Verdict::Hold | Verdict::Teardown => Ink::Bad,
        Verdict::Create => Ink::Good,
        Verdict::Reprovision | Verdict::Replace => Ink::Change,
    };
    match (sandbox.verdict, why.is_empty()) {
        (Verdict::Keep, _) => (word.to_owned(), ink),
        (verdict, true) => (format!("{} {word}", sign(verdict)), ink),
        (verdict, false) => (format!("{} {why}", sign(verdict)), ink),
    }
}

/// What there is to say of the chosen one.
fn about(sandbox: &Sandbox, paper: &Paper<'_>, width: usize) -> Vec<(String, Ink)> {
    let mut lines = Vec::new();
    if let Some(last) = &sandbox.last {
        lines.extend(paper.wrapped(last, width).into_iter().map(|line| (line, Ink::Bad)));
    }
    for note in &sandbox.notes {
        lines.extend(paper.wrapped(note, width).into_iter().map(|line| (line, Ink::Change)));
    }
    if !sandbox.output.is_empty() {
        lines.push((format!("{}, last lines", sandbox.name), Ink::Dim));
        let all = sandbox.output.join("\n");
        lines.extend(quoted_lines(&all, "│ ", width, 5).into_iter().map(|it| (it, Ink::Plain)));
    }
    if !lines.is_empty() {
        lines.insert(0, (String::new(), Ink::Plain));
    }
    lines
}
