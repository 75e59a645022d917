//! Which keys there are.

use ratatui::layout::Rect;

use super::app::{App, Drawn, Page, Tab};
use super::paint::{Ink, Paper, columns};

const ALL: [(&str, &str); 21] = [
    ("1-4", "sandboxes, requests, egress, log"),
    ("↑↓ j k", "choose; PgUp PgDn Home End further"),
    ("⏎", "open; on a request all of it"),
    ("esc", "back; without a filter"),
    ("/", "filter"),
    ("a", "approve: asks, and takes y alone"),
    ("u", "approve until a time"),
    ("e", "edit what would be granted, then approve"),
    ("t", "name the variable that holds a token"),
    ("d", "deny, with a word to the agent"),
    ("m", "mute: no requests for an hour"),
    ("p l", "plan and log of a sandbox"),
    ("r", "its requests"),
    ("tab", "its plan, policy, egress, log, prompt, runs, snapshots"),
    ("s", "stop it, or start it"),
    ("R", "restart it"),
    ("x", "the command that opens a shell in it"),
    ("space", "hold the egress log; a page of a card"),
    ("^L", "draw anew"),
    ("^Z", "suspend"),
    ("q", "quit"),
];

pub(super) fn help(paper: &mut Paper<'_>, body: Rect) -> Drawn {
    // In two columns where one is not enough.
    let rows = usize::from(body.height).max(1);
    let columns = ALL.len().div_ceil(rows).max(1);
    let width = body.width / u16::try_from(columns).unwrap_or(1);
    for (index, (key, does)) in ALL.iter().enumerate() {
        let (column, row) = (index / rows, index % rows);
        let x = u16::try_from(column).unwrap_or(0) * width;
        let y = body.y + u16::try_from(row).unwrap_or(0);
        paper.put(x + 1, y, 8, key, Ink::Bold);
        paper.put(x + 9, y, width.saturating_sub(10), does, Ink::Plain);
    }
    Drawn::default()
}

/// The keys of what is shown, as many as fit; help and the way out always do.
pub(super) fn keys(app: &App, width: usize) -> String {
    let keys: &[&str] = match (&app.opened, app.page) {
        _ if app.help => &["any key back"],
        (Some(opened), _) if opened.tab == Tab::Snapshots => {
            &["esc back", "tab next", "↑↓ choose", "⏎ restore…"]
        }
        (Some(_), _) => &[
            "esc back",
            "tab next",
            "↑↓ scroll",
            "x exec",
            "s stop/start…",
            "R restart…",
            "r requests",
        ],
        (None, Page::Sandboxes) => &[
            "↑↓ select",
            "⏎ open",
            "r requests",
            "l log",
            "p plan",
            "/ filter",
            "s stop/start…",
            "R restart…",
            "x exec",
        ],
        (None, Page::Requests) if app.card_whole => {
            &["↑↓ scroll", "⏎ back", "a approve…", "u until…", "d deny…", "m mute…"]
        }
        (None, Page::Requests) => &[
            "a approve…",
            "u until…",
            "d deny…",
            "m mute…",
            "⏎ all of it",
            "PgDn more",
            "/ filter",
        ],
        (None, Page::Egress) => &["↑↓ further back", "space hold", "/ filter", "End last"],
        (None, Page::Log) => &["↑↓ further back", "/ filter", "End last"],
    };
    let end = "? help  q quit";
    let mut line = String::new();
    for key in keys {
        // A word that ASCII has longer signs for takes more room there.
        let room = columns(&line) + columns(key) + 2 + columns(end) + 8;
        if room <= width {
            line.push_str(key);
            line.push_str("  ");
        }
    }
    format!("{line}{end}")
}
