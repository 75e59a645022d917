//! `bottle dashboard`: who runs, who is stuck, what agents ask for, what was refused; and decisions.
//!
//! It never acts by itself. `snapshot` is what it shows, as plain data, `card` what a yes to a request would
//! change, `lines` the lines of records; `tui` is the terminal, `web` the browser. What is decided is carried out by whoever runs it,
//! by the functions that the commands of the command line have.

pub mod card;
pub mod lines;
pub mod snapshot;
pub mod tui;
pub mod web;
