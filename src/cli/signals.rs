//! The first signal drains, the second forces.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::ui::Ui;
use crate::apply::Stop;

/// Listens for SIGINT and SIGTERM from now on.
pub(super) fn listen(ui: &Arc<Ui>) -> Result<Stop, CliError> {
    let stop = Stop::default();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (tokens, ui) = (stop.clone(), ui.clone());
    tokio::spawn(async move {
        loop {
            // Cancel-safe: `recv` of a signal stream loses nothing when it is dropped.
            let more = tokio::select! {
                more = interrupt.recv() => more,
                more = terminate.recv() => more,
            };
            if more.is_none() {
                return;
            }
            if tokens.drain.is_cancelled() {
                tokens.now.cancel();
            } else {
                ui.say("stopping: no new step starts, running ones finish (once more: now)");
                tokens.drain.cancel();
            }
        }
    });
    Ok(stop)
}

/// Work that may be dropped at the first signal, because it changes nothing.
pub(super) async fn or_stop<T>(
    stop: &Stop,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        biased;
        () = stop.drain.cancelled() => Err(CliError::interrupted()),
        done = work => done,
    }
}
