//! The native backend, seen from outside: real sandboxes, as root and as an ordinary user.
//!
//! Nothing has to be installed. Run as root, every test of `as_root` is also run as uid 1000, in a
//! process of its own (`as_user`).

mod life;
mod support;
