//! What a sandbox uses: by its cgroups where it has some, else summed over its processes.
#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of processes, now")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::limits::SandboxCgroups;
use super::state::Record;
use crate::model::Usage;

/// Processes are counted for all sandboxes together, and again after so long.
const COUNTED: Duration = Duration::from_millis(500);

/// What the sandbox uses whose first process this is.
pub(super) fn of(record: &Record, cgroups: &SandboxCgroups, init: i32) -> Usage {
    let mut usage = cgroups.usage(&record.resources);
    if usage.cpu_milliseconds.is_none() || usage.memory_bytes.is_none() || usage.pids.is_none() {
        let counted = namespace(init).and_then(|inside| census().get(&inside).copied());
        if let Some(counted) = counted {
            usage.cpu_milliseconds.get_or_insert(counted.ticks * 1000 / ticks_per_second());
            usage.memory_bytes.get_or_insert(counted.bytes);
            usage.pids.get_or_insert(counted.threads);
        }
    }
    usage
}

/// What the processes of one namespace take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    ticks: u64,
    bytes: u64,
    threads: u64,
}

/// By the inode of their namespace of processes.
type Census = HashMap<u64, Counted>;

/// The newest, and when it was taken.
static NEWEST: Mutex<Option<(Instant, Arc<Census>)>> = Mutex::new(None);

fn census() -> Arc<Census> {
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, census)) = &*newest
        && at.elapsed() < COUNTED
    {
        return census.clone();
    }
    let census = Arc::new(count());
    *newest = Some((Instant::now(), census.clone()));
    census
}

fn count() -> Census {
    let page = rustix::param::page_size() as u64;
    let mut census = Census::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return census };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that is another user's, or has ended meanwhile, tells nothing.
        let Some(inside) = namespace(pid) else { continue };
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((ticks, threads, pages)) = parse(&text) else { continue };
        let counted = census.entry(inside).or_default();
        counted.ticks += ticks;
        counted.threads += threads;
        counted.bytes += pages * page;
    }
    census
}

/// The namespace of processes that a process is in.
fn namespace(pid: i32) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Ticks of it and of what it has waited for, threads and pages, by a `/proc/PID/stat`. Its name may hold anything.
fn parse(stat: &str) -> Option<(u64, u64, u64)> {
    let rest = stat.get(stat.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // `state` is the third of the manual's numbers: 14 to 17 are times, 20 is threads, 24 is pages.
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some((ticks, number(17)?, number(21)?))
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_is_read_whatever_the_name() {
        let stat = "7 (a ) R 1) S 1 7 7 0 -1 4194560 100 200 0 0 11 12 13 14 20 0 5 0 300 1000000 42 18446744073709551615 1";
        assert_eq!(parse(stat), Some((50, 5, 42)));
        assert_eq!(parse("7 (sh"), None);
        assert_eq!(parse("7 (sh) S 1"), None);
    }

    #[test]
    fn this_process_is_counted() {
        let own = namespace(std::process::id().cast_signed()).unwrap();
        let counted = count()[&own];
        assert!(counted.threads >= 1 && counted.bytes > 0, "{counted:?}");
    }
}
