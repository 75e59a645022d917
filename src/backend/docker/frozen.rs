//! Sidecars that somebody stopped with a signal: the engine calls them running. Seen only where the
//! engine's processes are those of this host; one that hangs otherwise is noticed when it is loaded.
#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of processes")]

use bollard::query_parameters::RestartContainerOptionsBuilder;

use super::engine::Engine;
use crate::backend::BackendError;
use crate::model::Instance;

/// Where engines have a container's processes, by driver and by version of control groups.
const GROUPS: [(&str, &str); 6] = [
    ("/sys/fs/cgroup/docker/", ""),
    ("/sys/fs/cgroup/system.slice/docker-", ".scope"),
    ("/sys/fs/cgroup/pids/docker/", ""),
    ("/sys/fs/cgroup/systemd/docker/", ""),
    ("/sys/fs/cgroup/pids/system.slice/docker-", ".scope"),
    ("/sys/fs/cgroup/systemd/system.slice/docker-", ".scope"),
];

/// Whether every process of this container is stopped.
pub(super) fn is_stopped(engine: &Engine, id: &str) -> bool {
    if engine.endpoint.socket().is_none() {
        return false;
    }
    let read = |(before, after): &(&str, &str)| {
        std::fs::read_to_string(format!("{before}{id}{after}/cgroup.procs")).ok()
    };
    let Some(processes) = GROUPS.iter().find_map(read) else { return false };
    let stopped = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_stop(&stat)
    };
    // A number of 0 is a process that cannot be seen from here.
    !processes.trim().is_empty() && processes.lines().all(stopped)
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
