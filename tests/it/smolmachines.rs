//! The smolmachines backend without any boot: programs that misbehave, and the real one.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get ends the test")]

mod fakes;
mod real;
mod sandboxes;
