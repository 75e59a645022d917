//! What programs inside a sandbox get from its sidecar when nobody sets anything up: real tools, in
//! real sandboxes, against an internet of the test's own.

mod agents;
mod asking;
mod at_work;
mod canary;
mod clock;
mod days;
mod environment;
mod forward;
mod internet;
mod java;
mod microvm;
mod networks;
mod node;
mod place;
mod proxied;
mod refused;
mod registries;
mod roles;
mod rotation;
mod search;
mod services;
mod setup;
mod tokens;
mod tools;
mod trust;
mod vendors;
pub(crate) mod world;
