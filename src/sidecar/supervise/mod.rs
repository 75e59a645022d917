//! The door at which an agent asks its operator: `POST /.bottle/mcp`, the Model Context Protocol over HTTP.
//!
//! A message goes through [`door`] (whether its head may be there at all), [`json`] and [`rpc`] (one reading of its
//! body, and which version of the protocol it speaks), to one of [`tools`]. What its arguments ask for, [`arguments`]
//! makes of canonical values only, and the [`queue`] keeps it: nothing is ever granted here. What is decided comes
//! with the next document, so that an agent hears `applied` by the very load that makes it true.
//!
//! Who asks is known by the listener that the message came to, and never by anything in it. Everything in here is
//! pure; what waits and what is written is in `egress`.

pub mod answer;
pub mod arguments;
pub mod door;
pub mod evidence;
pub mod json;
pub mod queue;
pub mod rpc;
pub mod tools;
