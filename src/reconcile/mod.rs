//! Keeps the tree and what exists the same: one pass, and the loop around it.
//!
//! `pass` is load → observe → plan → apply. `daemon` runs passes: files, backend events, a periodic
//! resync and retries (`trigger`, `files`, `backoff`) are one stream of triggers, which coalesce;
//! the cause is logged and never given to the planner. `state` is the state folder, `lock` its
//! lock, `owners` which path speaks for which name, `git` tells the tree's commit, `values` finds
//! asked-for values, `sidecars` what sidecars are given.

pub mod backoff;
pub mod daemon;
mod files;
pub mod git;
pub mod lock;
pub mod owners;
pub mod pass;
mod settle;
pub mod sidecars;
pub mod state;
pub mod trigger;
pub mod values;

pub use daemon::{Failing, Published, WatchConfig, watch};
pub use lock::{Holder, Lock, Locked};
pub use owners::OwnerTaken;
pub use pass::{Last, LastOutcome, Reconciler, View};
pub use state::{State, TreeState};
pub use trigger::Trigger;
pub use values::Sources;
