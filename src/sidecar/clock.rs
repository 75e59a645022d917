#![expect(clippy::disallowed_methods, reason = "it is the clock")]
//! The time of day, by which certificates are made and renewed. Tests let days pass.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;

use crate::model::Moment;

/// The present time.
#[must_use]
pub fn now() -> SystemTime {
    SystemTime::now() + ahead()
}

/// The same as people write it.
#[must_use]
pub fn moment() -> Moment {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The same for the checks of certificates.
#[must_use]
pub fn unix() -> UnixTime {
    UnixTime::since_unix_epoch(now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(not(any(test, feature = "testing")))]
fn ahead() -> Duration {
    Duration::ZERO
}

#[cfg(any(test, feature = "testing"))]
fn ahead() -> Duration {
    Duration::from_secs(testing::seconds().load(std::sync::atomic::Ordering::Relaxed))
}

/// Days that pass by a test's word: no release knows of it.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// So many seconds a test's clock is ahead, for `bottle` itself.
    const VARIABLE: &str = "BOTTLE_TEST_CLOCK_AHEAD";

    pub(super) fn seconds() -> &'static AtomicU64 {
        static AHEAD: OnceLock<AtomicU64> = OnceLock::new();
        AHEAD.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            AtomicU64::new(text.parse().unwrap_or_default())
        })
    }

    /// For a sidecar, which has no environment: its document says it.
    pub(crate) fn set(ahead: u64) {
        seconds().store(ahead, Ordering::Relaxed);
    }
}
