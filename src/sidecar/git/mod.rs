//! The git gate: an agent pushes with plain git, and nothing secret leaves.

pub mod document;
