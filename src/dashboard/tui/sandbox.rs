//! One sandbox, opened.

use ratatui::layout::Rect;

use super::app::{App, Drawn, Opened, Tab};
use super::draw::age;
use super::paint::{Ink, Paper};
use super::records;
use super::requests::labelled;
use super::sandboxes::plan;
use crate::dashboard::snapshot::{Detail, Sandbox};

pub(super) fn opened(app: &App, one: &Opened, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    let Some(sandbox) = app.chosen_sandbox() else { return Drawn::default() };
    let mut title = format!("{} · {}", sandbox.name, sandbox.state);
    if !sandbox.backend.is_empty() {
        title.push_str(&format!(" · {}", sandbox.backend));
    }
    if let Some(made) = sandbox.made {
        title.push_str(&format!(" · made {} ago", age(app.now.epoch.saturating_sub(made))));
    }
    paper.line(body, 0, &title, Ink::Bold);
    let mut x = 0;
    for tab in Tab::ALL {
        let ink = if tab == one.tab { Ink::Chosen } else { Ink::Plain };
        x = paper.put(x, body.y + 1, body.width, &format!(" {} ", tab.word()), ink);
    }
    let body = Rect { y: body.y + 2, height: body.height.saturating_sub(2), ..body };
    let detail = app.detail.as_deref().filter(|it| it.name == one.name);
    let width = usize::from(body.width);
    let lines = match (one.tab, detail) {
        (Tab::Egress, _) => return records::egress(app, paper, body),
        (Tab::Plan, detail) => about(app, sandbox, detail, paper, width),
        (Tab::Runs, _) => runs(app, sandbox, paper, width),
        (_, None) => vec![("looking …".to_owned(), Ink::Dim)],
        (Tab::Log, Some(detail)) => {
            let all: Vec<String> =
                detail.log.iter().flat_map(|it| paper.wrapped(it, width)).collect();
            if all.is_empty() {
                vec![("its main process wrote nothing".to_owned(), Ink::Dim)]
            } else {
                return records::from_end(app.back, all.len(), paper, body, |at| {
                    (all[at].clone(), Ink::Plain)
                });
            }
        }
        (Tab::Policy, Some(detail)) => plain(&detail.policy, paper, width, "it reaches nothing"),
        (Tab::Prompt, Some(detail)) => plain(&detail.prompt, paper, width, "it has no prompt"),
        (Tab::Snapshots, Some(detail)) => return snapshots(one, detail, paper, body),
    };
    let rows = usize::from(body.height);
    let most = lines.len().saturating_sub(rows);
    let from = one.scroll.min(most);
    for (row, (line, ink)) in (0..body.height).zip(lines.iter().skip(from)) {
        paper.line(body, row, line, *ink);
    }
    Drawn { page: rows, most }
}

fn plain(text: &[String], paper: &Paper<'_>, width: usize, nothing: &str) -> Vec<(String, Ink)> {
    if text.is_empty() {
        return vec![(nothing.to_owned(), Ink::Dim)];
    }
    text.iter().flat_map(|line| paper.wrapped(line, width)).map(|it| (it, Ink::Plain)).collect()
}

fn about(
    app: &App,
    sandbox: &Sandbox,
    detail: Option<&Detail>,
    paper: &Paper<'_>,
    width: usize,
) -> Vec<(String, Ink)> {
    let mut lines = Vec::new();
    let (text, _) = plan(sandbox);
    lines.extend(labelled(paper, "plan", &text, width));
    let mut label = "machine";
    for line in detail.iter().flat_map(|it| &it.machine) {
        lines.extend(labelled(paper, std::mem::take(&mut label), line, width));
    }
    if let Some(last) = &sandbox.last {
        lines.extend(labelled(paper, "last", last, width));
    }
    if let Some(egress) = &sandbox.egress {
        let mut denied: Vec<(&String, &u64)> = egress.denied.iter().collect();
        denied.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), *code));
        let mut text = format!("{} ok", egress.allowed);
        for (code, count) in denied {
            text.push_str(&format!(", {code} ×{count}"));
        }
        lines.extend(labelled(paper, "egress", &text, width));
    }
    let mut label = "asked";
    let asks = app.snapshot.iter().flat_map(|it| &it.requests);
    for ask in asks.filter(|ask| ask.sandbox == sandbox.name) {
        let text = format!("{} {}", ask.id, ask.asks);
        lines.extend(labelled(paper, std::mem::take(&mut label), &text, width));
    }
    let mut label = "notes";
    for note in &sandbox.notes {
        lines.extend(labelled(paper, std::mem::take(&mut label), note, width));
    }
    let mut label = "output";
    for line in &sandbox.output {
        let line = format!("│ {line}");
        lines.extend(labelled(paper, std::mem::take(&mut label), &line, width));
    }
    lines
}

fn runs(app: &App, sandbox: &Sandbox, paper: &Paper<'_>, width: usize) -> Vec<(String, Ink)> {
    if sandbox.runs.is_empty() {
        let told = format!("no detached run; `bottle run -d {}` starts one", sandbox.name);
        return vec![(told, Ink::Dim)];
    }
    let mut lines = Vec::new();
    for run in sandbox.runs.iter().rev() {
        let since = age(app.now.epoch.saturating_sub(run.since));
        let text =
            format!("{} {}, began {since} ago: {}", run.id, run.state, run.command.join(" "));
        let running = run.state == "running";
        let ink = if running { Ink::Good } else { Ink::Plain };
        lines.extend(paper.wrapped(&text, width).into_iter().map(|line| (line, ink)));
        if running {
            lines.push((format!("  bottle attach {} {}", sandbox.name, run.id), Ink::Dim));
        }
    }
    lines
}

fn snapshots(one: &Opened, detail: &Detail, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    if detail.snapshots.is_empty() {
        let told = format!("no snapshot; `bottle snapshot save {}` makes one", one.name);
        paper.line(body, 0, &told, Ink::Dim);
        return Drawn::default();
    }
    let rows = usize::from(body.height.max(1));
    let at =
        one.snapshot.as_ref().and_then(|id| detail.snapshots.iter().position(|it| it.id == *id));
    let top = super::draw::page_of(at, rows);
    let seen = (top..).zip(detail.snapshots.iter().skip(top));
    for (row, (index, kept)) in (0..body.height).zip(seen) {
        let chosen = Some(index) == at;
        let mark = if chosen { "▸" } else { " " };
        let ink = if chosen { Ink::Bold } else { Ink::Plain };
        paper.line(body, row, &format!("{mark} {}  {}", kept.id, kept.about), ink);
    }
    Drawn { page: rows, most: 0 }
}
