//! `bottle exec`: runs a command in a sandbox, on the caller's own stdio.

use super::args::{ExecArgs, Global};
use super::error::{CliError, Exit};
use super::target::Target;
use crate::backend::{Attach, ExecSpec};

pub(super) async fn run(global: &Global, args: &ExecArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    let spec = ExecSpec { workdir: args.workdir.clone(), ..target.command(&args.argv) };
    let attach = Attach { stdin: args.interactive || args.tty, tty: args.tty };
    target.attach(&spec, attach).await
}
