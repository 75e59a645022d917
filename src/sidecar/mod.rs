//! The machine's only way out.

pub mod ca;
pub mod document;
