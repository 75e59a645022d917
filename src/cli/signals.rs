//! The first signal drains, the second forces.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::ui::Ui;
use crate::apply::Stop;

/// Listens for SIGINT, SIGTERM and SIGHUP from now on: a terminal that is closed drains, too.
pub(super) fn listen(ui: &Arc<Ui>) -> Result<Stop, CliError> {
    let stop = Stop::default();
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    raise_descriptors();
    let (tokens, ui) = (stop.clone(), ui.clone());
    tokio::spawn(async move {
        loop {
            // Cancel-safe: `recv` of a signal stream loses nothing when it is dropped.
            let more = tokio::select! {
                more = interrupt.recv() => more,
                more = terminate.recv() => more,
                more = hangup.recv() => more,
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

/// As many descriptors as the hard limit lets there be, up to a bound: `watch` holds one a native
/// sandbox. What runs inside has a limit of its own.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(maximum.unwrap_or(u64::MAX).min(1 << 16));
    if current.is_some_and(|current| Some(current) < wanted) {
        // With fewer it looks more often instead of holding them.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum });
    }
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
