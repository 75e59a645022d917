//! The proxy: it moves bytes by what `policy` decides.
//!
//! A connection of the machine goes from `serve` to `connection`, through `framed`, and each of its
//! requests to `proxy`; a CONNECT becomes a tunnel in `connect`, with the same inside. A request's
//! body goes out as an `upload`, behind its `search`, to one of the `upstream`s, and what comes back is `outgoing`.

mod ahead;
mod around;
mod case;
mod connect;
mod connection;
mod decided;
mod dial;
mod framed;
mod headers;
pub mod limits;
mod machine;
mod outgoing;
mod page;
mod proxy;
mod relaying;
mod resolve;
mod scan;
mod search;
mod serve;
mod slots;
mod state;
mod upload;
mod upstream;

pub use resolve::System;
pub use serve::{Sidecar, State};
