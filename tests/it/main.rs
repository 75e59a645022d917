//! Black-box tests, in one binary.
#![allow(
    clippy::disallowed_methods,
    reason = "tests make the files and start the programs they need"
)]

mod manifest;
mod manifest_hostile;
mod manifest_locate;
mod manifest_resolve;
mod manifest_skill;
