//! The dashboard in the browser: one page for one person on this machine.
//!
//! `guard` says who may ask for what, and is pure; `serve` takes connections; `page` is what is sent besides answers.
//! What there is to show, and what is done, comes from a [`Desk`], which calls what the command line calls.
//!
//! ```text
//! GET  /?t=TOKEN                       once: a cookie
//! GET  /, /app.js, /app.css            the page
//! GET  /api/events                     the status whenever it changes, as server-sent events
//! GET  /api/requests/ID                a request, and what a yes would change
//! GET  /api/sandboxes/NAME             its output and its record of traffic, the last lines
//! GET  /api/history                    commits of the tree
//! POST /api/requests/ID/approve, deny, undo
//! ```

mod guard;
mod page;
mod serve;

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::watch;

pub use serve::{Ended, Served, link, serve};

use crate::model::SandboxId;
use crate::model::supervise::RequestId;

/// What there is to show: a status as JSON, or why there is none.
pub type State = Option<Result<Arc<str>, String>>;

/// How a question or an order was answered: JSON, or why not.
pub type Answer = Result<String, Refusal>;

/// Why something was not answered or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing of that name.
    Unknown(String),
    /// What was seen is not what would be done now.
    Stale(String),
    /// It cannot be done.
    Blocked(String),
    /// It failed.
    Failed(String),
}

/// How a request is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// `2h`, or a time as RFC 3339 has it.
    pub until: Option<String>,
    /// These methods only.
    pub methods: Option<Vec<String>>,
    /// These paths only.
    pub paths: Option<Vec<String>>,
    /// The name of the variable that holds a new route's token.
    pub token_ref: Option<String>,
}

/// A yes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// What was seen.
    pub review: String,
    /// `2h`, or a time as RFC 3339 has it.
    pub until: Option<String>,
    /// These methods only.
    pub methods: Option<Vec<String>>,
    /// These paths only.
    pub paths: Option<Vec<String>>,
    /// The name of the variable that holds a new route's token.
    pub token_ref: Option<String>,
    /// A word to the agent.
    pub message: Option<String>,
}

/// A no.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// What was seen.
    pub review: String,
    /// The word to the agent.
    pub message: String,
}

/// Shows and does what the page asks for.
#[async_trait]
pub trait Desk: Send + Sync {
    /// What there is to show, from now on.
    fn states(&self) -> watch::Receiver<State>;
    /// A request, and what a yes on these terms would change: what `bottle requests show -o json` prints.
    async fn show(&self, id: RequestId, terms: Terms) -> Answer;
    /// Grants it.
    async fn approve(&self, id: RequestId, yes: Approve) -> Answer;
    /// Refuses it.
    async fn deny(&self, id: RequestId, no: Deny) -> Answer;
    /// Takes back what was granted.
    async fn undo(&self, id: RequestId) -> Answer;
    /// A sandbox's output and its record of traffic.
    async fn sandbox(&self, name: SandboxId) -> Answer;
    /// Commits of the tree.
    async fn history(&self) -> Answer;
}
