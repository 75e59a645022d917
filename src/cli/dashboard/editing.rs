//! What opens a grant in the operator's editor, and asks there: the command that does so on its own.
#![expect(clippy::disallowed_methods, reason = "starts this program again, on the same terminal")]

use std::io;

use tokio::process::Command;

use super::super::runs;
use super::source::Place;
use crate::model::supervise::RequestId;
use crate::reconcile::pass::canonical;

pub(super) fn command(place: &Place, id: &RequestId) -> io::Result<Command> {
    let reconciler = place.reconciler().map_err(|error| io::Error::other(error.error))?;
    let load = reconciler.load;
    let mut command = Command::new(runs::program().map_err(io::Error::other)?);
    command.args(runs::globals(canonical(&load.tree), load.state_dir, place.global.backend));
    command.args(["requests", "approve", id.as_str(), "--edit"]);
    let look = &place.look;
    for (option, path) in [("--overlay", &look.read.overlay), ("--env-file", &look.env_file)] {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    Ok(command)
}
