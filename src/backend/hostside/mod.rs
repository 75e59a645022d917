//! Sidecars and git gates that are processes of the host: what native sandboxes and microVMs have in common.
//!
//! Which of the two it is (`role`) decides little: in here both are called sidecars. One is this program again, as
//! `bottle sidecar serve` or `bottle gate keep`, in a session of its own: it outlives
//! the `bottle` that started it, and is found again by its folder (`record`). `launch` starts it so
//! that there is never a process that no record names; `process` knows it for certain; `control` is
//! how it is told what to do; `life` is what a backend calls; `log` shows its record. How a machine
//! reaches its sidecar is the backend's own business: sockets that it makes are handed over.
//!
//! What happens to one sidecar happens under the lock of its folder, so that two runs of `bottle`
//! cannot start it twice, and none is told what another has just undone.
#![expect(clippy::disallowed_methods, reason = "a backend is effects")]

mod control;
mod launch;
mod life;
mod log;
mod mark;
mod process;
mod program;
mod record;
mod role;
mod user;

pub use launch::main_if_asked;

pub(super) use life::{Sidecar, Sidecars, marks, places, process_of, processes, unrecorded};
pub(super) use mark::{Marks, bearers};
pub(super) use process::is_outside;
pub(super) use process::{Process, ask_to_end, host_boot, kill, lives, pids};
pub(super) use process::{how_it_is, start_time};
pub(super) use program::Program;
pub(super) use record::records;
pub(super) use role::Role;

/// Whether this process has a user that bottle gives to its processes.
pub(super) fn may_be_of_bottle(pid: i32) -> bool {
    process::user_of(pid).is_some_and(user::may_be_of_bottle)
}
