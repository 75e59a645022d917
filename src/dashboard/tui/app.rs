//! The state of the dashboard: what is shown, what is chosen, what is being asked. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::{At, Order, Terms};
use crate::dashboard::card::Card;
use crate::dashboard::lines::Passed;
use crate::dashboard::snapshot::{Ask, Detail, Sandbox, Snapshot};
use crate::model::supervise::RequestId;

/// Keys that come so soon after a redraw that moved what was chosen were meant for what was there before.
pub const GUARD: u64 = 400;

/// So many lines of records are held.
pub(super) const HELD: usize = 2000;

/// How it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looks {
    /// Colours may be used.
    pub colour: bool,
    /// The terminal has more than ASCII.
    pub unicode: bool,
}

/// Which list is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// Every sandbox.
    #[default]
    Sandboxes,
    /// What agents ask for.
    Requests,
    /// What sidecars decided.
    Egress,
    /// What was done to the tree.
    Log,
}

impl Page {
    pub(super) const ALL: [Self; 4] = [Self::Sandboxes, Self::Requests, Self::Egress, Self::Log];
}

/// What is shown of one sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tab {
    /// What the next pass would do.
    #[default]
    Plan,
    /// What it may reach.
    Policy,
    /// What its sidecar decided.
    Egress,
    /// What its main process wrote.
    Log,
    /// Its system prompt.
    Prompt,
    /// Its detached runs.
    Runs,
    /// Its snapshots.
    Snapshots,
}

impl Tab {
    pub(super) const ALL: [Self; 7] = [
        Self::Plan,
        Self::Policy,
        Self::Egress,
        Self::Log,
        Self::Prompt,
        Self::Runs,
        Self::Snapshots,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Policy => "policy",
            Self::Egress => "egress",
            Self::Log => "log",
            Self::Prompt => "prompt",
            Self::Runs => "runs",
            Self::Snapshots => "snapshots",
        }
    }
}

/// One sandbox, opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) tab: Tab,
    pub(super) scroll: usize,
    /// By its name, and never by where it stands.
    pub(super) snapshot: Option<String>,
}

/// What a line that is typed is for. Each is bound to what it is about, not to where that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asking {
    Filter,
    Deny(RequestId),
    Until(RequestId),
    Token(RequestId),
}

/// A line that is being typed.
#[derive(Debug, Clone)]
pub(super) struct Prompt {
    pub(super) asking: Asking,
    pub(super) text: String,
}

/// A question whose only yes is `y`.
#[derive(Debug, Clone)]
pub(super) struct Confirm {
    pub(super) question: String,
    pub(super) order: Order,
    /// When it was first drawn: nothing that came before that is its answer.
    pub(super) drawn: Option<u64>,
}

/// A line about what has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) bad: bool,
}

/// What was drawn, as far as it decides how keys move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drawn {
    /// So many rows has a page of the list.
    pub page: usize,
    /// So far can what is scrolled be scrolled.
    pub most: usize,
}

/// The dashboard.
#[derive(Debug)]
pub struct App {
    pub(super) looks: Looks,
    pub(super) now: At,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) blind: Option<String>,
    pub(super) page: Page,
    pub(super) filters: BTreeMap<Page, String>,
    pub(super) sandbox: Option<String>,
    pub(super) request: Option<RequestId>,
    pub(super) opened: Option<Opened>,
    pub(super) detail: Option<Box<Detail>>,
    /// What a yes to the chosen request would do, and by which terms.
    pub(super) card: Option<(RequestId, Terms, Result<Box<Card>, String>)>,
    pub(super) card_scroll: usize,
    /// The review that was last asked for: an answer to another one is late.
    pub(super) wanted: Option<(RequestId, Terms)>,
    /// The card has the whole body.
    pub(super) card_whole: bool,
    /// A yes is asked for as soon as this is known.
    pub(super) confirm_when: Option<(RequestId, Terms)>,
    pub(super) prompt: Option<Prompt>,
    pub(super) confirm: Option<Confirm>,
    pub(super) help: bool,
    pub(super) message: Option<Message>,
    pub(super) working: BTreeMap<u64, String>,
    pub(super) numbers: u64,
    pub(super) leaving: bool,
    pub(super) passed: VecDeque<Passed>,
    pub(super) follows: bool,
    pub(super) audit: Vec<String>,
    /// How far from its end a record is shown, by page; `None`: it follows.
    pub(super) back: usize,
    pub(super) held: Option<VecDeque<Passed>>,
    pub(super) drawn: Drawn,
    /// What was chosen stands elsewhere, and that was not drawn yet.
    pub(super) moved: bool,
    pub(super) guard: u64,
    pub(super) dirty: bool,
    pub(super) drawn_at: u64,
}

impl App {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(looks: Looks) -> Self {
        Self {
            looks,
            now: At::default(),
            snapshot: None,
            blind: None,
            page: Page::Sandboxes,
            filters: BTreeMap::new(),
            sandbox: None,
            request: None,
            opened: None,
            detail: None,
            card: None,
            card_scroll: 0,
            wanted: None,
            card_whole: false,
            confirm_when: None,
            prompt: None,
            confirm: None,
            help: false,
            message: None,
            working: BTreeMap::new(),
            numbers: 0,
            leaving: false,
            passed: VecDeque::new(),
            follows: false,
            audit: Vec::new(),
            back: 0,
            held: None,
            drawn: Drawn::default(),
            moved: false,
            guard: 0,
            dirty: true,
            drawn_at: 0,
        }
    }

    /// Whether it looks other than when it was last drawn.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// It has to be drawn, whatever it shows.
    pub fn redraw(&mut self) {
        self.dirty = true;
    }

    /// Says something.
    pub fn note(&mut self, text: &str) {
        self.complain(text);
    }

    /// It was drawn, at this time.
    pub fn was_drawn(&mut self, at: At, drawn: Drawn) {
        self.dirty = false;
        self.drawn = drawn;
        self.drawn_at = at.epoch;
        self.card_scroll = self.card_scroll.min(drawn.most);
        if let Some(opened) = &mut self.opened {
            opened.scroll = opened.scroll.min(drawn.most);
        }
        self.back = self.back.min(drawn.most);
        if std::mem::take(&mut self.moved) {
            self.guard = at.ms + GUARD;
        }
        if let Some(confirm) = &mut self.confirm {
            confirm.drawn.get_or_insert(at.ms);
        }
    }

    pub(super) fn filter(&self) -> &str {
        self.filters.get(&self.page).map_or("", String::as_str)
    }

    /// The sandboxes that the filter lets through.
    pub(super) fn sandboxes(&self) -> Vec<&Sandbox> {
        let filter = self.filters.get(&Page::Sandboxes).map_or("", String::as_str);
        let all = self.snapshot.iter().flat_map(|snapshot| &snapshot.sandboxes);
        all.filter(|it| {
            filter.is_empty()
                || it.name.contains(filter)
                || it.state.contains(filter)
                || it.backend.contains(filter)
        })
        .collect()
    }

    /// The requests that the filter lets through.
    pub(super) fn requests(&self) -> Vec<&Ask> {
        let filter = self.filters.get(&Page::Requests).map_or("", String::as_str);
        let all = self.snapshot.iter().flat_map(|snapshot| &snapshot.requests);
        all.filter(|it| {
            filter.is_empty()
                || it.sandbox.contains(filter)
                || it.id.as_str().contains(filter)
                || it.asks.contains(filter)
        })
        .collect()
    }

    /// Where the chosen sandbox stands.
    pub(super) fn sandbox_at(&self) -> Option<usize> {
        let chosen = self.sandbox.as_ref()?;
        self.sandboxes().iter().position(|it| it.name == *chosen)
    }

    /// Where the chosen request stands.
    pub(super) fn request_at(&self) -> Option<usize> {
        let chosen = self.request.as_ref()?;
        self.requests().iter().position(|it| it.id == *chosen)
    }

    pub(super) fn chosen_sandbox(&self) -> Option<&Sandbox> {
        let name = match &self.opened {
            Some(opened) => &opened.name,
            None => self.sandbox.as_ref()?,
        };
        self.snapshot.as_ref()?.sandboxes.iter().find(|it| it.name == *name)
    }

    pub(super) fn chosen_request(&self) -> Option<&Ask> {
        let id = self.request.as_ref()?;
        self.snapshot.as_ref()?.requests.iter().find(|it| it.id == *id)
    }

    /// The card of the chosen request, once it is known.
    pub(super) fn shown_card(&self) -> Option<&Result<Box<Card>, String>> {
        let (id, _, card) = self.card.as_ref()?;
        (Some(id) == self.request.as_ref()).then_some(card)
    }

    /// The lines of records that are shown, of one sandbox where one is opened.
    pub(super) fn passed(&self) -> Vec<&Passed> {
        let filter = self.filters.get(&Page::Egress).map_or("", String::as_str);
        let only = self.opened.as_ref().map(|opened| opened.name.as_str());
        let all = self.held.as_ref().unwrap_or(&self.passed);
        all.iter()
            .filter(|it| match only {
                Some(only) => it.sandbox == only,
                None => filter.is_empty() || it.text().contains(filter),
            })
            .collect()
    }

    /// The lines of the audit record that the filter lets through.
    pub(super) fn audited(&self) -> Vec<&str> {
        let filter = self.filters.get(&Page::Log).map_or("", String::as_str);
        self.audit.iter().map(String::as_str).filter(|it| it.contains(filter)).collect()
    }

    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.message = Some(Message { text: text.into(), bad: false });
        self.dirty = true;
    }

    pub(super) fn complain(&mut self, text: impl Into<String>) {
        self.message = Some(Message { text: text.into(), bad: true });
        self.dirty = true;
    }
}
