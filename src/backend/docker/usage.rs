//! What a container uses, as its engine tells: one sample, for which the engine waits for no second.

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;

use super::engine::Engine;
use crate::backend::BackendError;
use crate::model::Usage;

/// What this container uses; `None`: it does not run.
pub(super) async fn of(engine: &Engine, id: &str) -> Result<Option<Usage>, BackendError> {
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let mut samples = Box::pin(engine.client.stats(id, Some(options)));
    match samples.next().await {
        Some(Ok(sample)) => Ok(read(&sample)),
        Some(Err(error)) => Err(engine.failed("asking what a container uses", error)),
        None => Ok(None),
    }
}

fn read(sample: &ContainerStatsResponse) -> Option<Usage> {
    // One that does not run uses nothing, and none of its numbers is one.
    let cpu = sample.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage.filter(|ns| *ns > 0)?;
    let memory = sample.memory_stats.as_ref();
    let pids = sample.pids_stats.as_ref();
    Some(Usage {
        cpu_milliseconds: Some(cpu / 1_000_000),
        memory_bytes: memory.and_then(in_use),
        memory_limit_bytes: memory.and_then(|memory| memory.limit),
        pids: pids.and_then(|pids| pids.current),
        // Where there is none, the engine says the largest number.
        pids_limit: pids.and_then(|pids| pids.limit).filter(|limit| *limit < u64::from(u32::MAX)),
    })
}

/// What cannot be dropped: files that were only read can, by either version of control groups.
fn in_use(memory: &ContainerMemoryStats) -> Option<u64> {
    let of = |name: &str| memory.stats.as_ref()?.get(name).copied();
    let anonymous = of("anon").or_else(|| of("total_rss"));
    let shared = of("shmem").or_else(|| of("total_shmem")).unwrap_or(0);
    match anonymous {
        Some(anonymous) => Some(anonymous + shared),
        None => {
            let files = of("inactive_file").or_else(|| of("total_inactive_file")).unwrap_or(0);
            Some(memory.usage?.saturating_sub(files))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(json: &str) -> ContainerStatsResponse {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn numbers_are_read_by_either_version() {
        let two = sample(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":2500000000}},"pids_stats":{"current":3,"limit":64},
                "memory_stats":{"usage":9000,"limit":134217728,"stats":{"anon":4000,"shmem":96,"inactive_file":100}}}"#,
        );
        let usage = read(&two).unwrap();
        assert_eq!((usage.cpu_milliseconds, usage.memory_bytes), (Some(2500), Some(4096)));
        assert_eq!((usage.pids, usage.pids_limit), (Some(3), Some(64)));
        assert_eq!(usage.memory_limit_bytes, Some(134_217_728));
        let one = sample(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":1000000}},"pids_stats":{"limit":18446744073709551615},
                "memory_stats":{"usage":9000,"stats":{"total_inactive_file":1000}}}"#,
        );
        let usage = read(&one).unwrap();
        assert_eq!((usage.cpu_milliseconds, usage.memory_bytes), (Some(1), Some(8000)));
        assert_eq!((usage.pids, usage.pids_limit, usage.memory_limit_bytes), (None, None, None));
    }

    #[test]
    fn what_does_not_run_uses_nothing_that_is_known() {
        let stopped =
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":0}},"pids_stats":{},"memory_stats":{}}"#;
        assert_eq!(read(&sample(stopped)), None);
        assert_eq!(read(&sample("{}")), None);
    }
}
