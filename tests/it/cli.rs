//! The command line as a black box: exit codes and both streams.
//!
//! | module | what it is about |
//! |---|---|
//! | `reading` | what only reads: usage, check, schema, man, completions, init |
//! | `answers` | what people type by habit, and what they are told then |
//! | `working` | plan, apply, status, exec, run, logs, down, on the native backend |
//! | `history` | what a tree's past means for its present: commits, and names that it has had |
//! | `flood` | output without an end, and what of it is held |
//! | `people` | terminals: questions, hidden values, signals, closed pipes |
//! | `policy` | policy check, policy show |
//! | `values` | asked-for values, whole or not at all |

#[cfg(target_os = "linux")]
mod answers;
#[cfg(target_os = "linux")]
mod flood;
mod history;
mod people;
mod policy;
mod reading;
#[cfg(target_os = "linux")]
mod values;
#[cfg(target_os = "linux")]
mod way_out;
mod working;
