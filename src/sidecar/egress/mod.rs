//! The proxy: it moves bytes by what `policy` decides.
//!
//! A connection of the machine goes from `serve` to `connection`, through `framed`, and each of its
//! requests to `proxy`; a CONNECT becomes a tunnel in `connect`, with the same inside. A request's
//! body goes out as an `upload`, behind its `search`, to one of the `upstream`s, `via` a proxy where the network has one, and what comes back is `outgoing`.
//! What an agent asks its operator is no such request: `supervised` answers it from the `desk`, at once or after a while of `waiting`.

mod activity;
mod ahead;
mod around;
mod arriving;
mod aside;
mod case;
mod certificate;
mod connect;
mod connection;
mod course;
mod decided;
mod desk;
mod dial;
mod dialect;
mod framed;
mod headers;
mod heedless;
pub mod limits;
mod machine;
mod outgoing;
mod packed;
mod page;
mod proxy;
mod relaying;
mod resolve;
mod scan;
mod search;
mod serve;
mod servers;
mod share;
mod slots;
mod state;
mod supervised;
mod trouble;
mod upload;
mod upstream;
mod verified;
mod via;
mod waiting;
mod websocket;

pub use resolve::System;
pub(super) use scan::suppression;
pub(super) use serve::keep_little_memory;
pub use serve::{Sidecar, State};
pub use servers::NameServers;
