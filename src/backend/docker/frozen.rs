//! Sidecars that somebody stopped with a signal: the engine calls them running. Seen only where the
//! engine's processes are those of this host; one that hangs otherwise is noticed when it is loaded.
#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of processes")]

use bollard::query_parameters::RestartContainerOptionsBuilder;

use super::engine::Engine;
use super::processes;
use crate::backend::BackendError;
use crate::model::Instance;

/// Whether every process of this container is stopped.
pub(super) fn is_stopped(engine: &Engine, id: &str) -> bool {
    let Some(processes) = processes::of(engine, id) else { return false };
    let stopped = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_stop(&stat)
    };
    processes.iter().all(stopped)
}

/// Of a process's `stat`: its name may hold anything, also a bracket.
fn is_stop(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// Ends it at once and starts it again.
pub(super) async fn restart(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let options = RestartContainerOptionsBuilder::new().t(0).build();
    let done = engine.client.restart_container(&instance.id.0, Some(options)).await;
    done.map_err(|e| engine.failed(format!("starting {} again", instance.name), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_read_past_the_name() {
        assert!(is_stop("7 (bottle) T 1 7 7"));
        assert!(is_stop("7 (a) S (b) t 1"));
        for other in ["7 (T) S 1", "7 (bottle) R 1", "", "7 (T"] {
            assert!(!is_stop(other), "{other}");
        }
    }
}
