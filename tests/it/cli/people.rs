//! Terminals, signals and readers that go away.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::working::Rig;

/// A run with a terminal as stdin and stderr; its stdout is a file.
struct AtTerminal {
    child: Child,
    screen: File,
    seen: String,
}

impl AtTerminal {
    fn start(rig: &Rig, args: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK).unwrap();
        let child = rig
            .cli
            .command(["--tree", rig.path()].iter().chain(args))
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
            .stderr(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, screen: File::from(ours), seen: String::new() }
    }

    fn look(&mut self) {
        let mut bytes = [0; 4096];
        // A terminal whose other side is closed reads as an error; what was seen counts.
        if let Ok(count) = self.screen.read(&mut bytes) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    #[track_caller]
    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.seen.contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(30), "no `{text}` in:\n{}", self.seen);
            self.look();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn types(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().unwrap() {
                self.look();
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "still runs:\n{}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().expect("our own child can be killed");
            self.child.wait().expect("our own child can be waited for");
        }
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[test]
fn a_person_is_asked() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let mut run = AtTerminal::start(&rig, &["apply"]);
    run.sees("Do this? [y/N] ");
    run.types("\n");
    assert_eq!(run.ends().code(), Some(1));
    assert!(run.seen.contains("nothing was changed"), "{}", run.seen);
    rig.run(&["plan"]).exits(2);

    let mut run = AtTerminal::start(&rig, &["apply"]);
    run.sees("Do this? [y/N] ");
    run.types("yes\n");
    assert_eq!(run.ends().code(), Some(0), "{}", run.seen);
    rig.run(&["plan"]).exits(0);
}

#[test]
fn a_value_is_asked_for_and_never_shown() {
    const VALUE: &str = "s3cr3t-of-the-test";
    let rig = Rig::new();
    rig.bottle("env:\n  TOKEN: \"?\"");
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let held = rig.run(&["apply", "--yes"]).exits(3);
    assert!(held.stdout.contains("waits for a value of TOKEN"), "{}", held.stdout);
    let mut run = AtTerminal::start(&rig, &["-vvv", "apply", "--yes"]);
    run.sees("TOKEN for ada (hidden");
    run.types(&format!("{VALUE}\n"));
    assert_eq!(run.ends().code(), Some(0), "{}", run.seen);
    assert!(!run.seen.contains(VALUE), "{}", run.seen);
    let inside = rig.run(&["exec", "ada", "--", "sh", "-c", "echo $TOKEN"]).exits(0);
    assert_eq!(inside.stdout.trim(), VALUE);
}

#[test]
fn a_signal_while_it_asks_changes_nothing() {
    let rig = Rig::new();
    rig.bottle("env:\n  TOKEN: \"?\"");
    rig.tree.agent("ada", "dev", "", "You are ada.");
    for name in ["-INT", "-TERM"] {
        let mut run = AtTerminal::start(&rig, &["apply"]);
        run.sees("(hidden");
        signal(&run.child, name);
        assert_eq!(run.ends().code(), Some(130), "{}", run.seen);
        assert!(run.seen.contains("interrupted; nothing was changed"), "{}", run.seen);
        // What is typed is shown again.
        let modes = rustix::termios::tcgetattr(&run.screen).unwrap().local_modes;
        assert!(modes.contains(rustix::termios::LocalModes::ECHO));
    }
}

#[test]
fn a_signal_while_it_waits_for_the_lock_changes_nothing() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let _lock = rig.hold_lock();
    let mut run = AtTerminal::start(&rig, &["apply", "--yes", "--lock-timeout", "60"]);
    run.sees("waiting up to 60 s");
    signal(&run.child, "-TERM");
    assert_eq!(run.ends().code(), Some(130), "{}", run.seen);
}

#[test]
fn work_goes_on_when_nobody_reads() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let mut child = rig
        .cli
        .command(["--tree", rig.path(), "apply", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    rig.run(&["plan"]).exits(0);
}

#[test]
fn a_typed_value_whose_end_the_terminal_drops_is_refused() {
    let rig = Rig::new();
    rig.bottle("env:\n  TOKEN: \"?\"");
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let mut run = AtTerminal::start(&rig, &["apply", "--yes"]);
    run.sees("TOKEN for ada (hidden");
    for _ in 0..10 {
        run.types(&"x".repeat(500));
        std::thread::sleep(Duration::from_millis(20));
    }
    run.types("\n");
    assert_eq!(run.ends().code(), Some(1), "{}", run.seen);
    assert!(run.seen.contains("drops the rest"), "{}", run.seen);
    assert!(!run.seen.contains("xxxx"), "{}", run.seen);
    rig.run(&["plan"]).exits(3);
}
