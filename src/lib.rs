//! `bottle`: a declarative reconciler for the sandboxes that AI coding agents work in.
//!
//! Data flows one way:
//!
//! ```text
//! manifest files → Desired ─┐
//!                           ├─ plan → apply → Report
//! backends       → Observed ┘
//! ```
//!
//! Planning is pure; effects sit at the edges. The modules, in the order in which they may import
//! each other (a test holds them to it):
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | 0 | [`model`] | plain data: what a sandbox is, what exists, content hashes |
//! | 1 | [`manifest`] | files → [`model::Desired`] |
//! | 1 | [`plan`] | ([`model::Desired`], [`model::Observed`]) → [`plan::Plan`] |
//! | 1 | [`backend`] | what makes machines |
//! | 1 | [`sidecar`] | a sandbox's only way out |
//! | 2 | [`apply`] | [`plan::Plan`] → [`apply::Report`] |
//! | 2 | [`work`] | what an agent made: out of a sandbox, and into one |
//! | 3 | [`reconcile`] | one pass, and the loop around it |
//! | 4 | [`dashboard`] | what a person watches and decides by |
//! | 5 | [`cli`] | one file per command |

pub mod apply;
pub mod backend;
pub mod cli;
pub mod dashboard;
pub mod manifest;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod sidecar;
pub mod work;
