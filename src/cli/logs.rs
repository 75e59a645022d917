//! `bottle logs`: the main process's output, or the sidecar's record.

use std::io;

use super::args::{Global, LogsArgs};
use super::error::{CliError, Exit};
use super::target::{self, Target};
use crate::backend::{BackendError, LogOptions};

pub(super) async fn run(global: &Global, args: &LogsArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    let instance = match (args.sidecar, &target.sidecar) {
        (false, _) => &target.machine,
        (true, Some(sidecar)) => sidecar,
        (true, None) => {
            return Err(CliError::failed(format!(
                "{} has no sidecar, so there is no record of one",
                target.sandbox
            ))
            .hint("its machine has no network at all"));
        }
    };
    let options = LogOptions { follow: args.follow, tail: args.tail };
    let mut out = tokio::io::stdout();
    match target.backend.logs(&target.scope, instance, options, &mut out).await {
        Err(error) if !reader_is_gone(&error) => Err(target::explain(error)),
        _ => Ok(Exit::Done),
    }
}

/// Whoever read has seen enough.
fn reader_is_gone(error: &BackendError) -> bool {
    let BackendError::Failed { source, .. } = error else { return false };
    source
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
