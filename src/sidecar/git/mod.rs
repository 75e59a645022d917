//! The git gate: an agent pushes with plain git and holds no key, and nothing secret leaves.
//!
//! Two processes on the host, for one sandbox:
//!
//! ```text
//! guest's git ──git://──▶ worker  reads what the guest sends; confined: no network, no file but its mirrors
//!                           ├─ git, in jails: index-pack, rev-list, cat-file, pack-objects, upload-pack, fetch
//!                           ▼ asks for a connection: a name and a service, nothing else
//!                         keeper ── ssh, with the operator's identity and the pinned key ──▶ upstream
//! ```
//!
//! - `keep` is the keeper: control, log, the worker's start and end, and `ssh` its command lines.
//! - `work` is the worker: `front` reads what a connection is for, `mirror` makes the upstream's mirror be what
//!   the upstream is before anything is offered of it, `push` takes a push into a quarantine.
//! - `policy` decides ref by ref, `search` looks at every object that is new, `judge` says which findings count,
//!   and only then does `forward` send it, and pass the upstream's verdict on. What is refused goes with its
//!   quarantine.
//! - git gets one open connection at most, as two descriptors: it has no way to open another.

mod check;
#[cfg(target_os = "linux")]
mod commands;
pub mod document;
#[cfg(target_os = "linux")]
mod entry;
#[cfg(target_os = "linux")]
mod forward;
#[cfg(target_os = "linux")]
mod front;
#[cfg(target_os = "linux")]
mod ipc;
#[cfg(target_os = "linux")]
mod jail;
#[cfg(target_os = "linux")]
mod judge;
#[cfg(target_os = "linux")]
pub mod keep;
#[cfg(target_os = "linux")]
mod listen;
#[cfg(target_os = "linux")]
mod listing;
#[cfg(target_os = "linux")]
pub mod look;
#[cfg(target_os = "linux")]
pub mod mirror;
mod pkt;
mod policy;
#[cfg(all(target_os = "linux", any(test, feature = "testing")))]
pub mod probe;
#[cfg(target_os = "linux")]
mod push;
mod refs;
#[cfg(target_os = "linux")]
mod relayed;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod search;
mod sentence;
#[cfg(target_os = "linux")]
mod ssh;
#[cfg(target_os = "linux")]
mod stop;
#[cfg(target_os = "linux")]
mod store;
#[cfg(test)]
mod testing;
#[cfg(target_os = "linux")]
mod tunnel;
#[cfg(target_os = "linux")]
mod wire;
#[cfg(target_os = "linux")]
pub mod work;
