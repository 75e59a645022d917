//! Which command an init runs, and how one ends that is another by now.

#![expect(clippy::disallowed_methods, reason = "a part of pid 1, which is effects")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::program;
use super::state::Record;
use super::status::{COMMAND_LINE, STATUS_LINE};
use crate::backend::{MainState, guest_path};
use crate::model::Main;

/// How long a command that is another by now may take to end, with what it has started.
const GRACE: Duration = Duration::from_secs(10);

/// How long after it was killed something may still be in its group: dead, with a parent that does not ask for it.
const DEAD: Duration = Duration::from_secs(2);

/// More than is ever written into the status file.
const LENGTH: usize = 4096;

/// The command that provisioning has put in, else the one that the machine was made with.
pub(super) fn load(record: &Record) -> Main {
    let made = || Main {
        command: record.command.clone(),
        restart: record.restart,
        waits_for_env: record.waits_for_env,
    };
    let inside = program::read_inside(guest_path::COMMAND);
    inside.and_then(|text| Main::parse(&text)).unwrap_or_else(made)
}

/// How this command ended in an earlier run of the machine, where that was final: it outlives a stop.
pub(super) fn ended_before(status: &File, main: &Main) -> Option<MainState> {
    let mut text = vec![0; LENGTH];
    let length = status.read_at(&mut text, 0).ok()?;
    let text = String::from_utf8_lossy(&text[..length]);
    let of = text.lines().find_map(|line| line.strip_prefix(COMMAND_LINE));
    // An earlier version did not say which one.
    if of.is_some_and(|of| of != main.id()) {
        return None;
    }
    let line = text.get(..STATUS_LINE.min(text.len()))?;
    match MainState::parse(line.lines().next()?)? {
        ended @ (MainState::Completed | MainState::Failed(_)) => Some(ended),
        _ => None,
    }
}

/// A command that is to end, with all that is in its process group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ending {
    group: Pid,
    until: Instant,
}

impl Ending {
    pub(super) fn begin(group: Pid) -> Self {
        let _ = rustix::process::kill_process_group(group, Signal::TERM);
        Self { group, until: Instant::now() + GRACE }
    }

    /// Whether all of it has ended. What takes too long is killed.
    pub(super) fn is_over(&self) -> bool {
        if rustix::process::test_kill_process_group(self.group).is_err() {
            return true;
        }
        if self.until <= Instant::now() {
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
        self.until + DEAD <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Restart;

    #[test]
    fn a_shell_reads_the_same() {
        let words = ["it's 'a' $HOME", "two\nlines", "", "-n"];
        let command = ["printf", "<%s>"].iter().chain(&words).map(|word| (*word).to_owned());
        let main =
            Main { command: command.collect(), restart: Restart::Never, waits_for_env: false };
        let script = main.script();
        let run = |shell: &str| {
            let lines = format!("{script}main ignored; echo $main_id");
            let ran = std::process::Command::new(shell).args(["-c", &lines]).output().unwrap();
            String::from_utf8(ran.stdout).unwrap()
        };
        let all: String = words.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(run("sh"), all);
    }
}
