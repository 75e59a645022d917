//! The documentation, held to the code: its manifests load, its links lead somewhere, and what it
//! says of the command line is what the binary says.

mod cases;
mod commands;
#[cfg(target_os = "linux")]
mod console;
mod links;
mod manifests;
mod markdown;
mod tables;
