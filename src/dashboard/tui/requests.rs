//! What agents ask for: a list, and the card of the chosen one.

use ratatui::layout::Rect;

use super::app::{App, Drawn};
use super::draw::{age, page_of};
use super::paint::{Ink, Paper};
use crate::dashboard::card::{Card, Part};
use crate::model::text::quoted_lines;

/// So many lines of an agent's words are shown.
const SAID: usize = 20;

pub(super) fn requests(app: &App, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    let all = app.requests();
    let at = app.request_at();
    if all.is_empty() {
        let told = match app.filter() {
            "" => "nobody asks for anything".to_owned(),
            filter => format!("no request has {filter} in it"),
        };
        paper.line(body, 1, &format!("  {told}"), Ink::Plain);
        return Drawn::default();
    }
    if app.card_whole {
        return card(app, paper, body);
    }
    let count = u16::try_from(all.len()).unwrap_or(u16::MAX);
    let rows = count.clamp(1, (body.height / 3).max(2));
    let sandbox = if body.width >= 76 { 12 } else { 10 };
    let cells = |paper: &mut Paper<'_>, y: u16, cells: [&str; 5], inks: [Ink; 5]| {
        let asks = body.width.saturating_sub(2 + 12 + sandbox + 12 + 5);
        let mut x = 2;
        for ((cell, ink), width) in cells.iter().zip(inks).zip([12, sandbox, 12, asks, 5]) {
            paper.put(x, y, width.saturating_sub(1), cell, ink);
            x += width;
        }
    };
    cells(paper, body.y, ["id", "sandbox", "kind", "asks for", "age"], [Ink::Dim; 5]);
    let top = page_of(at, rows.into());
    for (y, (index, ask)) in (body.y + 1..=body.y + rows).zip((top..).zip(all.iter().skip(top))) {
        let chosen = Some(index) == at;
        if chosen {
            paper.put(0, y, 1, "▸", Ink::Bold);
        }
        let ink = if chosen { Ink::Bold } else { Ink::Plain };
        let since = age(app.now.epoch.saturating_sub(ask.received.seconds()));
        let row = [ask.id.as_str(), &ask.sandbox, ask.kind, &ask.asks, &since];
        cells(paper, y, row, [ink, ink, Ink::Plain, Ink::Plain, Ink::Plain]);
    }
    let used = rows + 1;
    let rest = Rect { y: body.y + used, height: body.height.saturating_sub(used), ..body };
    let drawn = card(app, paper, rest);
    Drawn { page: drawn.page, ..drawn }
}

/// The card of the chosen request, in a frame.
fn card(app: &App, paper: &mut Paper<'_>, area: Rect) -> Drawn {
    if area.height < 3 {
        return Drawn::default();
    }
    let width = usize::from(area.width);
    let name = app.request.as_ref().map_or("", |id| id.as_str());
    let fill = |count: usize| "─".repeat(count);
    let title = format!("┌ {name} {}┐", fill(width.saturating_sub(name.len() + 4)));
    paper.line(area, 0, &title, Ink::Plain);
    let inner = width.saturating_sub(4);
    let lines = match app.shown_card() {
        None => vec![("looking at what a yes would do …".to_owned(), Ink::Dim)],
        Some(Err(why)) => wrapped(paper, why, inner, Ink::Bad),
        Some(Ok(card)) => lines(card, paper, inner),
    };
    let rows = usize::from(area.height - 2);
    let most = lines.len().saturating_sub(rows);
    let from = app.card_scroll.min(most);
    for row in 1..area.height - 1 {
        let y = area.y + row;
        paper.put(0, y, 1, "│", Ink::Plain);
        paper.put(area.width - 1, y, 1, "│", Ink::Plain);
        if let Some((line, ink)) = lines.get(from + usize::from(row) - 1) {
            paper.put(2, y, area.width - 4, line, *ink);
        }
    }
    let more = match most {
        0 => String::new(),
        _ => format!(" {}-{} of {} ", from + 1, (from + rows).min(lines.len()), lines.len()),
    };
    let end = format!("└{}{more}─┘", fill(width.saturating_sub(more.len() + 3)));
    paper.line(area, area.height - 1, &end, Ink::Plain);
    Drawn { page: rows, most }
}

fn wrapped(paper: &Paper<'_>, text: &str, width: usize, ink: Ink) -> Vec<(String, Ink)> {
    paper.wrapped(text, width).into_iter().map(|line| (line, ink)).collect()
}

/// A card in lines of at most so many columns. What an agent says stands behind a bar, and nowhere else.
pub(super) fn lines(card: &Card, paper: &Paper<'_>, width: usize) -> Vec<(String, Ink)> {
    let mut lines = Vec::new();
    if let Some(why) = &card.blocked {
        lines.extend(wrapped(paper, &format!("cannot be approved: {why}"), width, Ink::Bad));
        lines.push((String::new(), Ink::Plain));
    }
    let mut label = "";
    for part in &card.parts {
        match part {
            Part::Said(words) => {
                lines.push((format!("{} says (not checked):", card.sandbox), Ink::Plain));
                let quoted = quoted_lines(words, "│ ", width, SAID);
                lines.extend(quoted.into_iter().map(|line| (line, Ink::Dim)));
            }
            Part::Fact(fact) => lines.extend(wrapped(paper, fact, width, Ink::Plain)),
            Part::File(file) => lines.push((file.clone(), Ink::Bold)),
            Part::Same(number, line) => lines.push((format!("  {number:>3}   {line}"), Ink::Plain)),
            Part::Added(number, line) => lines.push((format!("+ {number:>3}   {line}"), Ink::Good)),
            Part::Removed(number, line) => {
                lines.push((format!("- {number:>3}   {line}"), Ink::Bad))
            }
            Part::Gap => lines.push(("  …".to_owned(), Ink::Dim)),
            Part::Delta(what, sign, text) => {
                let first = if label == *what { "" } else { *what };
                label = what;
                lines.extend(labelled(paper, first, &format!("{sign} {text}"), width));
            }
            Part::Plan(sign, names, says) => {
                let first = if label == "plan" { "" } else { "plan" };
                label = "plan";
                let text = format!("{sign} {}: {says}", names.join(", "));
                lines.extend(labelled(paper, first, text.trim_start(), width));
            }
            Part::Blank => lines.push((String::new(), Ink::Plain)),
        }
    }
    lines
}

/// Text behind a word.
pub(super) fn labelled(
    paper: &Paper<'_>,
    label: &str,
    text: &str,
    width: usize,
) -> Vec<(String, Ink)> {
    let lines = paper.wrapped(text, width.saturating_sub(8));
    let mut label = Some(label);
    lines
        .into_iter()
        .map(|line| (format!("{:<8}{line}", label.take().unwrap_or("")), Ink::Plain))
        .collect()
}
