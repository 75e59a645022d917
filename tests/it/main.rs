//! Black-box tests, in one binary.

mod manifest;
mod manifest_locate;
mod manifest_resolve;
mod manifest_skill;
