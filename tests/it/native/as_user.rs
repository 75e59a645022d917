//! The same tests, as an ordinary user.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::PROGRAM;
use crate::support::left_out;

/// An ordinary user has one id, so in its sandboxes every file has the same owner; and where no
/// cgroup is delegated to it, there is no cgroup to read limits from.
const NEED_ROOT: [&str; 5] = [
    "on_native::copied_in_as_packed",
    "on_native::copied_over_what_is_there",
    "on_native::folders_that_exist_keep_owner_and_mode",
    "on_native::limits_are_set",
    "on_native::limits_change_while_it_runs_on",
];

/// Runs every test of this backend once more, as uid 1000, when they run as root now.
#[test]
fn as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Of a folder that this user can look into.
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(folder.path());
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        open(&to);
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let program = copy(&super::support::program(), "bottle");
    let output = std::fs::File::create(folder.path().join("output")).unwrap();
    let mut command = Command::new(tests);
    // The filter is a part of a name: the reconciler's tests on this backend are not meant.
    command.args(["native::", "--skip", "as_an_ordinary_user", "--skip", "reconcile::"]);
    for name in NEED_ROOT {
        left_out(name, "as an ordinary user: there is one id, and no cgroup");
        command.args(["--skip", name]);
    }
    let status = command
        .env("HOME", "/tmp")
        .env("RUST_BACKTRACE", "0")
        .env(PROGRAM, program)
        .env_remove("BOTTLE_TEST_DOCKER")
        .current_dir("/tmp")
        .uid(1000)
        .gid(1000)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    let said = std::fs::read_to_string(folder.path().join("output")).unwrap();
    assert!(status.success(), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
}
