//! The sidecar: a sandbox's only way out.

pub mod dlp;
