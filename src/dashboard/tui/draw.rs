//! What the dashboard looks like. Pure: the same state at the same size is the same picture.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::app::{App, Asking, Drawn, Page};
use super::paint::{Ink, Paper, wrap};
use super::requests::requests;
use super::sandbox::opened;
use super::sandboxes::sandboxes;
use super::{help, records};

/// Smaller than this nothing can be read, and nothing decided.
const SMALLEST: (u16, u16) = (40, 10);

/// So many lines has a question at most.
const QUESTION: usize = 5;

/// Draws the whole screen.
pub fn draw(app: &App, buffer: &mut Buffer) -> Drawn {
    let area = buffer.area;
    let mut paper = Paper { buffer, looks: app.looks };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let told = format!("too small: {} x {} at least", SMALLEST.0, SMALLEST.1);
        for (row, line) in (0..).zip(wrap(&told, area.width.into())) {
            paper.line(area, row, &line, Ink::Plain);
        }
        return Drawn::default();
    }
    header(app, &mut paper, area);
    tabs(app, &mut paper, area);
    let foot = foot(app, &mut paper, area);
    let body = Rect { y: 2, height: area.height.saturating_sub(2 + foot), ..area };
    let drawn = match (&app.opened, app.page) {
        _ if app.help => help::help(&mut paper, body),
        _ if app.snapshot.is_none() => {
            let why = app.blind.as_deref().unwrap_or("looking at the tree and its sandboxes …");
            for (row, line) in (1..).zip(paper.wrapped(why, body.width.into())) {
                paper.line(body, row, &line, Ink::Plain);
            }
            Drawn::default()
        }
        (Some(one), _) => opened(app, one, &mut paper, body),
        (None, Page::Sandboxes) => sandboxes(app, &mut paper, body),
        (None, Page::Requests) => requests(app, &mut paper, body),
        (None, Page::Egress) => records::egress(app, &mut paper, body),
        (None, Page::Log) => records::log(app, &mut paper, body),
    };
    if app.confirm.is_some() {
        paper.dim(Rect { height: area.height - foot, ..area });
    }
    drawn
}

fn header(app: &App, paper: &mut Paper<'_>, area: Rect) {
    let mut text = "bottle".to_owned();
    if let Some(snapshot) = &app.snapshot {
        text.push_str(&format!(" · {}", snapshot.tree));
        if let Some(commit) = &snapshot.commit {
            text.push_str(&format!(" · {commit}"));
        }
        text.push_str(&format!(" · {}", plural(snapshot.sandboxes.len(), "sandbox", "sandboxes")));
        if !snapshot.requests.is_empty() {
            let requests = plural(snapshot.requests.len(), "request", "requests");
            text.push_str(&format!(" · {requests}"));
        }
        match snapshot.watch {
            Some(pid) => text.push_str(&format!(" · watching (pid {pid})")),
            None => text.push_str(" · no watch"),
        }
    }
    paper.line(area, 0, &text, Ink::Bold);
}

fn tabs(app: &App, paper: &mut Paper<'_>, area: Rect) {
    let waiting = app.snapshot.as_ref().map_or(0, |it| it.requests.len());
    let mut x = 1;
    for (number, page) in (1..).zip(Page::ALL) {
        let word = match page {
            Page::Sandboxes => "sandboxes".to_owned(),
            Page::Requests if waiting > 0 => format!("requests ({waiting})"),
            Page::Requests => "requests".to_owned(),
            Page::Egress => "egress".to_owned(),
            Page::Log => "log".to_owned(),
        };
        if number > 1 {
            x = paper.put(x, 1, area.width, " │ ", Ink::Dim);
        }
        let chosen = page == app.page;
        let ink = if chosen { Ink::Chosen } else { Ink::Plain };
        x = paper.put(x, 1, area.width, &format!("{number} {word}"), ink);
    }
    let filter = app.filter();
    if !filter.is_empty() && app.opened.is_none() {
        paper.put(x + 2, 1, area.width, &format!("/{filter}"), Ink::Change);
    }
}

/// Draws the last lines, from the bottom up, and says how many they are: keys stay where they are, whatever is above.
fn foot(app: &App, paper: &mut Paper<'_>, area: Rect) -> u16 {
    let width = usize::from(area.width);
    let mut lines: Vec<(String, Ink)> = Vec::new();
    if let Some(confirm) = &app.confirm {
        let mut asked = paper.wrapped(&confirm.question, width);
        if asked.len() > QUESTION {
            asked.truncate(QUESTION);
            let room = width.saturating_sub(2);
            let last = asked.pop().unwrap_or_default();
            let last: String = last.chars().take(room).collect();
            asked.push(format!("{last} …"));
        }
        lines.extend(asked.into_iter().map(|line| (line, Ink::Bold)));
        lines.push(("y yes · n no".to_owned(), Ink::Bold));
    } else if let Some(prompt) = &app.prompt {
        let asked = match &prompt.asking {
            Asking::Filter => "/".to_owned(),
            Asking::Deny(id) => format!("deny {id}; a word to the agent: "),
            Asking::Until(id) => format!("approve {id} until (10m, 2h, a time): "),
            Asking::Token(id) => format!("{id}: the variable that holds the token: "),
        };
        let typed = paper.wrapped(&format!("{asked}{}_", prompt.text), width);
        let over = typed.len().saturating_sub(QUESTION);
        lines.extend(typed.into_iter().skip(over).map(|line| (line, Ink::Bold)));
        lines.push(("⏎ go on · esc leave it".to_owned(), Ink::Dim));
    } else {
        let shown = app.message.as_ref();
        let blind = app.blind.as_ref().filter(|_| app.snapshot.is_some());
        if let Some(message) = shown {
            let ink = if message.bad { Ink::Bad } else { Ink::Good };
            let said = paper.wrapped(&message.text, width);
            lines.extend(said.into_iter().take(QUESTION).map(|line| (line, ink)));
        } else if let Some(why) = blind {
            lines.push((format!("this is old: {why}"), Ink::Bad));
        }
        if !app.working.is_empty() {
            let words: Vec<&str> = app.working.values().map(String::as_str).collect();
            lines.push((format!("under way: {}", words.join(", ")), Ink::Change));
        }
        lines.push((help::keys(app, width), Ink::Dim));
    }
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(area.height);
    let top = area.height - height;
    for (row, (line, ink)) in (top..).zip(lines) {
        paper.line(area, row, &line, ink);
    }
    height
}

pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
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

/// Which rows of a list are on the page of the chosen one.
pub(super) fn page_of(at: Option<usize>, rows: usize) -> usize {
    at.unwrap_or(0).checked_div(rows).unwrap_or(0) * rows
}
