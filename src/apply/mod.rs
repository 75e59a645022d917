//! apply
pub struct Report;
