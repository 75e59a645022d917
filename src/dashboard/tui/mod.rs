//! The dashboard in a terminal.
//!
//! `app` is its state, `update` and `keys` what events change and what they want done, `draw` what it looks like:
//! all of that is pure, and the time comes with an event. `paint` is the one way by which text gets on the screen.
//! `terminal` has the terminal, and gives it back; `run` is the loop.

mod app;
mod draw;
mod event;
mod help;
mod keys;
mod paint;
mod records;
mod requests;
mod run;
mod sandbox;
mod sandboxes;
mod terminal;
#[cfg(test)]
mod tests;
mod update;

pub use app::{App, Drawn, GUARD, Looks, Page, Tab};
pub use draw::draw;
pub use event::{At, Effect, Event, Failure, Key, Order, Terms};
pub use run::{Ended, run};
