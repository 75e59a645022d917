//! Chaos: `kill -9`, damaged records and storms of edits, each followed by what must then be true.
//!
//! By default each is short enough for every run. `BOTTLE_TEST_CHAOS=<n>` makes them large: so many
//! kills on each backend, so many damaged files, so many checkouts (`tests/README.md`).

pub(super) mod damaged;
pub(super) mod storm;

/// How many rounds: `usual`, or as many as `BOTTLE_TEST_CHAOS` says.
pub(crate) fn rounds(usual: usize) -> usize {
    match std::env::var("BOTTLE_TEST_CHAOS") {
        Ok(text) if !text.is_empty() => {
            text.parse().unwrap_or_else(|_| panic!("BOTTLE_TEST_CHAOS is no number: {text}"))
        }
        _ => usual,
    }
}

/// Whether the rounds are as many as somebody has asked for, on a machine that is given to them.
pub(super) fn full() -> bool {
    std::env::var_os("BOTTLE_TEST_CHAOS").is_some_and(|text| !text.is_empty())
}
