//! Keeps the tree and what exists the same: one pass, and the loop around it.
//!
//! `pass` is load → observe → plan → apply; `view` is what a look has shown, `ahead` looks while the tree is
//! read, `tidy` removes what is left of what is gone, and `find` is for commands that work on one sandbox.
//!
//! `daemon` runs passes: files, backend events, a periodic resync and retries (`trigger`, `files`, `backoff`) are
//! one stream of triggers, which coalesce (`waiting`); the cause is logged and never given to the planner. A pass
//! plans for all; each sandbox then has a run of its own (`runs`). A removal takes two readings (`removals`), and so
//! many within an hour (`gone`).
//!
//! `state` is the state folder, `lock` its lock, `owners` which path speaks for which name. `git` tells the tree's
//! commit, `values` finds asked-for values, `keeping` what outlives a machine, `carried` what of it is on its way, `stops` what the operator stopped,
//! `detached` the runs that live on by themselves.
//! `status` is how everything stands, for people and programs, and `socket` where `watch` publishes it.
//! `accepted` is what of the host sandboxes were given, `sidecars` what sidecars are given, `gates` what gates are, `authorities` the
//! certificate authority of each, `names` what the host says about names.

pub mod accepted;
mod ahead;
pub mod authorities;
pub mod backoff;
mod carried;
pub mod daemon;
pub mod detached;
mod files;
mod find;
mod gates;
pub mod git;
mod gone;
mod inspect;
mod keeping;
pub mod lock;
mod lookout;
mod names;
pub mod owners;
pub mod pass;
mod removals;
mod renames;
pub mod requests;
mod runs;
mod settle;
pub mod sidecars;
mod socket;
pub mod state;
pub mod status;
mod still;
pub mod stops;
mod tidy;
pub mod tokens;
pub mod trigger;
pub mod values;
mod view;
mod waiting;

pub use ahead::Ahead;
pub use daemon::{Failing, Published, WatchConfig, watch};
pub use lock::{Claims, Holder, Lock, Locked};
pub use owners::OwnerTaken;
pub use pass::{Last, LastOutcome, Reconciler};
pub use state::{State, TreeState};
pub use trigger::Trigger;
pub use values::Sources;
pub use view::View;
