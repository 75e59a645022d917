//! The sidecar, alive: the built program, with a document, name servers and upstreams of the test's
//! own. Names of cases (H01, T02, …) are those of the catalogue of attacks, `docs/security-cases.md`.

mod answers;
mod asks;
mod basic;
mod bombs;
mod client;
mod credentials;
mod disguises;
mod floods;
mod framing;
mod grpc;
mod handshakes;
mod hosts;
mod http2;
mod identity;
mod leaks;
mod malformed;
mod memory;
mod mistakes;
mod names;
mod packed_heads;
#[path = "../../src/sidecar/packing.rs"]
mod packing;
mod parts;
mod proxied;
mod redacted;
mod running;
mod services;
mod spellings;
mod told;
mod tunnel;
mod uploads;
mod upstream;
mod websockets;
mod within;
mod world;
