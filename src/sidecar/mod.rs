//! The machine's only way out.

pub mod document;
