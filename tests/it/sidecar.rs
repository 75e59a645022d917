//! The sidecar, alive: the built program, with a document, name servers and upstreams of the test's
//! own. Names of cases (H01, T02, …) are those of the catalogue of attacks in `docs/threat-model.md`.

mod client;
mod credentials;
mod framing;
mod hosts;
mod leaks;
mod memory;
mod names;
mod running;
mod tunnel;
mod upstream;
mod world;
