//! What sidecars decided, and what was done to the tree: from the end, and further back.

use ratatui::layout::Rect;

use super::app::{App, Drawn};
use super::paint::{Ink, Paper};

pub(super) fn egress(app: &App, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    let all = app.passed();
    let mut head = "times are UTC; follows".to_owned();
    if app.held.is_some() {
        head = "times are UTC; held, space goes on".to_owned();
    }
    paper.line(body, 0, &head, Ink::Dim);
    let body = Rect { y: body.y + 1, height: body.height - 1, ..body };
    if all.is_empty() {
        paper.line(body, 0, "  nothing yet", Ink::Plain);
        return Drawn::default();
    }
    from_end(app.back, all.len(), paper, body, |at| {
        (all[at].text(), if all[at].is_bad() { Ink::Bad } else { Ink::Plain })
    })
}

pub(super) fn log(app: &App, paper: &mut Paper<'_>, body: Rect) -> Drawn {
    let all = app.audited();
    if all.is_empty() {
        paper.line(body, 1, "  nothing was done yet", Ink::Plain);
        return Drawn::default();
    }
    from_end(app.back, all.len(), paper, body, |at| {
        let bad = all[at].contains(" failed");
        (all[at].to_owned(), if bad { Ink::Bad } else { Ink::Plain })
    })
}

/// Draws the last lines, or those so many before them.
pub(super) fn from_end(
    back: usize,
    count: usize,
    paper: &mut Paper<'_>,
    body: Rect,
    line: impl Fn(usize) -> (String, Ink),
) -> Drawn {
    let rows = usize::from(body.height);
    let most = count.saturating_sub(rows);
    let from = most - back.min(most);
    for (row, at) in (0..body.height).zip(from..count) {
        let (text, ink) = line(at);
        paper.line(body, row, &text, ink);
    }
    Drawn { page: rows, most }
}
