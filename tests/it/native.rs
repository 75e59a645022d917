//! The native backend, seen from outside: real sandboxes, as root and as an ordinary user.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get ends the test")]

mod as_user;
pub(crate) mod contract;
pub(crate) mod full_disk;
mod hostile;
mod kill;
mod leaks;
mod life;
pub(crate) mod limits;
mod no_landlock;
mod restored;
mod sidecar;
mod support;
mod terminal;
mod walls;

pub(crate) use support::program;
