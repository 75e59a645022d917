//! The smolmachines backend: programs that misbehave, the real one without a boot, real microVMs.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get ends the test")]

mod fakes;
#[cfg(target_os = "linux")]
mod guests;
mod killed;
mod old;
mod real;
mod rig;
mod sandboxes;
#[cfg(target_os = "linux")]
mod sidecar;
