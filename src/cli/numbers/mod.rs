//! What sandboxes use, as people read it: `bottle top`, and the columns of `bottle status --wide`. `metrics` is the
//! same for a collector.

pub(super) mod metrics;
pub(super) mod top;

use crate::reconcile::status::SandboxStatus;

/// The columns.
pub(super) const HEAD: [&str; 5] = ["CPU", "MEMORY", "PIDS", "ALLOWED", "DENIED"];

/// What stands for what is not known.
const UNKNOWN: &str = "-";

/// The cells of one sandbox; `share`: so much of one core it has taken lately, in percent, where that was measured.
pub(super) fn cells(status: &SandboxStatus, share: Option<f64>) -> [String; 5] {
    let usage = status.usage.clone().unwrap_or_default();
    let cpu = match (share, usage.cpu_milliseconds) {
        (Some(share), _) => Some(format!("{share:.1}%")),
        (None, milliseconds) => milliseconds.map(time),
    };
    let sidecar = status.sidecar.as_ref();
    let denied = |sidecar: &crate::reconcile::status::SidecarStatus| {
        sidecar.denied.values().sum::<u64>().to_string()
    };
    [
        cpu,
        of(usage.memory_bytes.map(size), usage.memory_limit_bytes.map(size)),
        of(usage.pids.map(|n| n.to_string()), usage.pids_limit.map(|n| n.to_string())),
        sidecar.map(|sidecar| sidecar.allowed.to_string()),
        sidecar.map(denied),
    ]
    .map(|cell| cell.unwrap_or_else(|| UNKNOWN.to_owned()))
}

/// `3/64`, or `3` where there is no limit.
fn of(used: Option<String>, limit: Option<String>) -> Option<String> {
    match (used, limit) {
        (Some(used), Some(limit)) => Some(format!("{used}/{limit}")),
        (used, _) => used,
    }
}

/// `512K`, `12M`, `1.5G`.
fn size(bytes: u64) -> String {
    const K: u64 = 1 << 10;
    match bytes {
        0..1_048_576 => format!("{}K", bytes.div_ceil(K)),
        1_048_576..1_073_741_824 => format!("{}M", bytes / (K * K)),
        _ => {
            let tenths = u128::from(bytes) * 10 / u128::from(K * K * K);
            match tenths % 10 {
                0 => format!("{}G", tenths / 10),
                tenth => format!("{}.{tenth}G", tenths / 10),
            }
        }
    }
}

/// The time of a core: `0.4s`, `75s`, `12m`, `3h`.
fn time(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{}.{}s", milliseconds / 1000, milliseconds % 1000 / 100),
        10_000..120_000 => format!("{}s", milliseconds / 1000),
        120_000..7_200_000 => format!("{}m", milliseconds / 60_000),
        _ => format!("{}h", milliseconds / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1, 1024, 1_048_576, 134_217_728, 1_610_612_736, 2 << 30].map(size);
        assert_eq!(sizes, ["0K", "1K", "1K", "1M", "128M", "1.5G", "2G"]);
        let times = [0, 440, 9_999, 75_000, 720_000, 7_200_000].map(time);
        assert_eq!(times, ["0.0s", "0.4s", "9.9s", "75s", "12m", "2h"]);
        assert_eq!(of(Some("3".into()), Some("64".into())).as_deref(), Some("3/64"));
        assert_eq!(of(Some("3".into()), None).as_deref(), Some("3"));
        assert_eq!(of(None, Some("64".into())), None);
    }
}
