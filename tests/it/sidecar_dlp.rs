//! Leak detection from outside: what is found, what is not, and that it makes no difference how a
//! body arrives.

use std::sync::{Arc, LazyLock};

use bottle::sidecar::dlp::{Finding, Known, Rules, Scanner};
use time::{Date, Month};

mod attacks;
mod clean;
mod stream;
mod vectors;

const HOST: &str = "api.example.com";

fn today() -> Date {
    Date::from_calendar_date(2030, Month::January, 15).unwrap()
}

/// The built-in rules alone.
static BUILT_IN: LazyLock<Arc<Scanner>> = LazyLock::new(|| {
    let rules = Rules::builtin().merge(&Rules::default());
    Arc::new(Scanner::new(Arc::new(rules), Arc::new(Known::default()), Vec::new()))
});

fn found(scanner: &Scanner, text: &[u8]) -> Vec<String> {
    let found = scanner.scan(HOST, today(), text);
    found.into_iter().map(|Finding { rule, .. }| rule).collect()
}

/// The value of a token in `tests`: from parts, so that this repository holds none as a whole.
fn github_token() -> String {
    ["gh", "p_", "x7Qv2LmZ9cR4tB6nK1wY8sD3fG5hJ0aEpU4i"].concat()
}

/// Noise that is the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() & 0xff) as u8).collect()
    }
}
