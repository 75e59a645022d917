//! The built-in rules.

use std::sync::LazyLock;

use super::rules::Rules;

static BUILT_IN: LazyLock<Rules> = LazyLock::new(|| {
    Rules::from_trusted(include_str!("pack.toml")).expect("a test reads the same text")
});

impl Rules {
    /// The built-in rules: token formats that their vendors published.
    #[must_use]
    pub fn builtin() -> &'static Self {
        &BUILT_IN
    }
}
