//! Time that passes for all who look at a clock while a test takes seconds: the programs inside by a library that
//! is preloaded, `bottle` and the sidecar by switches that only a test build has.

use std::process::Command;

use serde_json::Value;

use super::place::{OVERLAY, Place};

/// What goes before a program inside, so that time passes for it.
pub(super) const PRELOADED: &str = "LD_PRELOAD=/var/tmp/clock.so";

/// The library of `tests/support/clock.rs`.
fn library() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.rs");
    let made = Command::new(option_env!("RUSTC").unwrap_or("rustc"))
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "strip=symbols", "-C"])
        .args(["opt-level=1", "-o", library.to_str().unwrap(), source])
        .output()
        .expect("there is a compiler where tests are built");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(library).unwrap()
}

/// Puts the library into a sandbox.
pub(super) fn put(place: &Place, sandbox: &str) {
    let script = "cat > /var/tmp/clock.so && echo 0 > /var/tmp/ahead";
    place.run_with(&["exec", "-i", sandbox, "--", "sh", "-c", script], &library()).exits(0);
}

/// From the next `apply` on, so many seconds have passed for `bottle` and the sidecar, over whose document this is
/// laid: an internet.
pub(super) fn pass(place: &mut Place, internet: &str, ahead: u64) {
    let mut overlay: Value = serde_json::from_str(internet).unwrap();
    overlay["testing"]["clock_ahead"] = ahead.into();
    place.cli.env("BOTTLE_TEST_CLOCK_AHEAD", ahead.to_string());
    place.cli.env(OVERLAY, overlay.to_string());
}

/// The same inside, at once.
pub(super) fn pass_inside(place: &Place, sandbox: &str, ahead: u64) {
    place.say(sandbox, &format!("echo {ahead} > /var/tmp/new && mv /var/tmp/new /var/tmp/ahead"));
}
