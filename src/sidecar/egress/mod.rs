//! The proxy: it moves bytes by what `policy` decides.

mod dial;
mod headers;
pub mod limits;
mod resolve;
mod slots;
mod upload;
mod upstream;

pub use resolve::System;
