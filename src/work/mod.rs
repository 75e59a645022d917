//! An agent's work: how it gets out of a sandbox, and into one.

mod bare;
mod bundle;
mod differ;
mod extract;
pub mod git;
mod inspect;
mod listing;
mod names;
mod pieces;
mod plain;
pub mod snapshot;
mod undo;
pub mod way;

pub use bundle::{Because, Brought, Fetched, Skipped, fetch, is_repository, new_commits};
pub use differ::{Changed, Differ, Left, commits};
pub use extract::{Extracted, Place, Refused, extract};
pub use inspect::inspect;
pub use pieces::{Outgoing, Pieces};
