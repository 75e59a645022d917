//! The integration tests: one binary, because a second one would link every dependency again.
//!
//! Plain `cargo test` runs what needs nothing but this machine, and says on stderr what it left
//! out; `tests/run` brings a Docker engine and leaves nothing out.
#![expect(clippy::disallowed_methods, reason = "tests make files, run programs and read clocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail so")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test says")]

mod alike;
mod cli;
mod contract;
mod convergence;
mod docker;
mod docs;
#[cfg(target_os = "linux")]
mod egress;
mod examples;
mod fuzz;
#[cfg(target_os = "linux")]
mod gate;
mod layering;
mod manifest;
mod manifest_build;
mod manifest_git;
mod manifest_guard;
mod manifest_hostile;
mod manifest_keep;
mod manifest_locate;
mod manifest_policy;
mod manifest_proxy;
mod manifest_resolve;
mod manifest_setup;
mod manifest_skill;
mod manifest_tools;
mod manifest_trust;
mod manifest_was;
mod moving;
#[cfg(target_os = "linux")]
mod native;
mod reconcile;
mod requests;
#[cfg(target_os = "linux")]
mod sidecar;
mod sidecar_dlp;
mod smolmachines;
// Not every test file uses all of it yet, and each new one should find it ready.
#[allow(dead_code)]
mod support;
