//! What happens to the dashboard, and what it wants done. Plain data.

use std::sync::Arc;

use crate::dashboard::card::Card;
use crate::dashboard::lines::Passed;
use crate::dashboard::snapshot::{Detail, Snapshot};
use crate::model::supervise::RequestId;

/// When something happens: nothing in here reads a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Milliseconds since the dashboard began.
    pub ms: u64,
    /// Seconds since the epoch.
    pub epoch: u64,
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Backspace.
    Backspace,
    /// Tab.
    Tab,
    /// Tab with Shift.
    BackTab,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow to the left.
    Left,
    /// Arrow to the right.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
}

/// What the operator says beside yes, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// When the grant ends.
    pub until: Option<String>,
    /// The variable that holds the token of a new route.
    pub token_ref: Option<String>,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// Text was pasted.
    Paste(String),
    /// The terminal has another size, or has to be drawn anew.
    Resized,
    /// The tree and its sandboxes were looked at.
    Looked(Arc<Snapshot>),
    /// They cannot be looked at, and why.
    Blind(String),
    /// What a yes to a request would do is known, or why not.
    Reviewed(RequestId, Terms, Result<Box<Card>, String>),
    /// What is shown of one sandbox.
    Detailed(Box<Detail>),
    /// Lines of sidecars' records.
    Passed(Vec<Passed>),
    /// The audit record's last lines.
    Audited(Vec<String>),
    /// What was ordered is done, or why it is not.
    Done(u64, Result<String, Failure>),
    /// Something to be known, beside all else.
    Noted(String),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In one line.
    pub why: String,
    /// What was seen of this request is not what would be done.
    pub stale: Option<RequestId>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out what a yes would do.
    Review(RequestId, Terms),
    /// An order of the operator's, by its number.
    Order(u64, Order),
    /// Fetch what is shown of one sandbox.
    Detail(String),
    /// Read sidecars' records from now on.
    Follow,
    /// Read the audit record.
    Audit,
    /// Give the screen to what opens the grant in the operator's editor, and asks there.
    Edit(RequestId),
    /// Ring, and say in the title how many requests wait.
    Ring(usize),
    /// Stop, as job control has it.
    Suspend,
    /// End.
    Quit,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A yes to exactly what this token stands for.
    Approve(RequestId, Terms, String),
    /// A no, with a word to the agent.
    Deny(RequestId, String),
    /// Take no requests of a sandbox for an hour.
    Mute(String),
    /// Stop a sandbox.
    Stop(String),
    /// Start one.
    Start(String),
    /// Stop what runs in one, and start it again.
    Restart(String),
    /// Bring a snapshot back into its sandbox.
    Restore(String, String),
}

impl Order {
    /// In a few words, while it is under way.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Approve(id, ..) => format!("approve {id}"),
            Self::Deny(id, _) => format!("deny {id}"),
            Self::Mute(name) => format!("mute {name}"),
            Self::Stop(name) => format!("stop {name}"),
            Self::Start(name) => format!("start {name}"),
            Self::Restart(name) => format!("restart {name}"),
            Self::Restore(id, name) => format!("restore {id} into {name}"),
        }
    }
}
