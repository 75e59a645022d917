//! The git gate, alive: the built program between plain git and a real sshd.

mod basic;
mod bombs;
mod confinement;
mod docker;
mod kills;
mod local;
mod native;
mod packs;
mod place;
mod policy;
mod secrets;
mod troubles;
pub(crate) mod upstream;
mod world;
