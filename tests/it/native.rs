//! The native backend, seen from outside: real sandboxes, as root and as an ordinary user.

pub(crate) mod contract;
mod life;
pub(crate) mod limits;
mod support;
mod walls;
