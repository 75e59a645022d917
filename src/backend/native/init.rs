//! Pid 1 of a sandbox: sets it up, gives up every right, and stays.
//!
//! It reaps, forwards signals, runs the command once provisioning has ended, restarts it as asked,
//! and writes its output to the log. It holds no capability and runs as the sandbox's user; nobody
//! inside may look into it.

#![expect(clippy::disallowed_methods, reason = "pid 1 is effects, clocks included")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::limits::{Cgroups, OomCounter};
use super::log::Log;
use super::main_process::{self, Ending};
use super::mounts::{self, Sources};
use super::program::{self, Program};
use super::seccomp::Filters;
use super::state::{Mode, Record};
use super::status::{COMMAND_LINE, LOOK_AGAIN, REST, RESTS_LINE, STATUS_LINE, file_line};
use super::sys::{self, Fork};
use super::{caps, namespaces, stray};
use crate::backend::{MainState, guest_path};
use crate::model::{Main as Command, Restart};

/// What init says when it is ready; anything else is an error.
pub(super) const READY: &str = "ready";

/// All that init takes with it.
pub(super) struct Init {
    pub(super) record: Record,
    pub(super) userns: Option<OwnedFd>,
    pub(super) programs_userns: Option<OwnedFd>,
    pub(super) workspace_userns: Option<OwnedFd>,
    pub(super) hidden: Vec<PathBuf>,
    pub(super) gate: OwnedFd,
    pub(super) result: OwnedFd,
    pub(super) filters: Filters,
    pub(super) log: Log,
    pub(super) status: File,
    pub(super) oom: Option<OomCounter>,
    pub(super) cgroups: Cgroups,
}

/// Signals that are handed on to the command, the one that says that a child ended, the one that
/// asks what the command does, and the one that asks for an end of all that runs.
const SIGNALS: [Signal; 10] = [
    Signal::CHILD,
    LOOK_AGAIN,
    REST,
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
];

/// The life of pid 1, from the fork on.
pub(super) fn main(init: Init) -> ! {
    let boot = match init.set_up() {
        Ok(boot) => boot,
        Err(error) => {
            let text = format!("{error:#}");
            let _ = rustix::io::write(&init.result, text.as_bytes());
            sys::exit_now(1);
        }
    };
    let Init {
        record,
        log,
        status,
        oom,
        cgroups,
        result,
        userns,
        programs_userns,
        workspace_userns,
        gate,
        ..
    } = init;
    drop((userns, programs_userns, workspace_userns, gate));
    let code = match Keeper::new(record, log, status, oom, cgroups) {
        Ok(mut keeper) => {
            keeper.show();
            let _ = rustix::process::set_parent_process_death_signal(None);
            // From now on it lives by itself, and is seen to.
            let file = file_line(&keeper.status).unwrap_or_default();
            keeper.ready = format!("{boot}\n{file}\n");
            keeper.show();
            let _ = rustix::io::write(&result, READY.as_bytes());
            drop(result);
            sys::forget_code();
            keeper.keep()
        }
        Err(error) => {
            let _ = rustix::io::write(&result, format!("starting to keep it: {error}").as_bytes());
            1
        }
    };
    sys::exit_now(code)
}

impl Init {
    /// Returns what identifies this run.
    fn set_up(&self) -> anyhow::Result<String> {
        // Until it is ready it dies with the helper; one that is dead already never opens the gate.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        sys::close_all_but(&self.kept());
        rustix::thread::set_name(stray::NAME)?;
        stray::claim(&self.status)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let mut boot = [0; 128];
        let length = rustix::io::read(&self.gate, &mut boot)?;
        anyhow::ensure!(length > 0, "its helper died");
        let boot = String::from_utf8_lossy(&boot[..length]).into_owned();
        rustix::process::setsid()?;

        sys::unshare(
            UnshareFlags::NEWNS
                | UnshareFlags::NEWNET
                | UnshareFlags::NEWIPC
                | UnshareFlags::NEWUTS
                | UnshareFlags::NEWCGROUP,
        )
        .map_err(namespaces::doing("making its namespaces"))?;
        rustix::system::sethostname(self.record.sandbox.as_str().as_bytes())?;
        sys::loopback_up().map_err(namespaces::doing("bringing lo up"))?;
        mounts::enter_root(&Sources {
            record: &self.record,
            userns: self.userns.as_ref().map(AsFd::as_fd),
            programs_userns: self.programs_userns.as_ref().map(AsFd::as_fd),
            workspace_userns: self.workspace_userns.as_ref().map(AsFd::as_fd),
            hidden: &self.hidden,
        })?;

        let user = &self.record.user;
        match (self.record.mode, &self.userns) {
            // The mounts and the network stay in the hands of the host's root.
            (Mode::Root { .. }, Some(userns)) => rustix::thread::move_into_link_name_space(
                userns.as_fd(),
                Some(LinkNameSpaceType::User),
            )
            .context("entering its user namespace")?,
            // And here in those of the namespace around it, which nothing runs in but set-up.
            _ => namespaces::enter_single(user.uid, user.gid)?,
        }
        caps::confine(user.uid, user.gid, &self.filters).context("giving up rights")?;
        caps::undumpable()?;
        // Both kinds of change of identity clear it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(boot)
    }
}

/// What the command is doing, as [`crate::backend::MainState`] reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Main {
    Idle,
    Waiting,
    Running {
        pid: Pid,
        since: Instant,
    },
    /// It is another by now.
    Ending(Ending),
    Completed,
    Failed {
        code: i32,
    },
    BackingOff {
        code: i32,
        until: Instant,
    },
}

/// How long a restart waits after so many failures in a row.
fn backoff(times: u32) -> Duration {
    Duration::from_secs(1u64 << times.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

/// How long to wait on for what was waited for so long. It may come at once, or, where a value is
/// missing, in days: it is noticed late by a tenth of the time that it took, and by no more than half
/// a second.
fn patience(waited: Duration) -> Duration {
    (waited / 10).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(1);

/// A command that ran so long has not failed in a row with what comes next.
const STEADY: Duration = Duration::from_secs(10);

struct Keeper {
    record: Record,
    log: Log,
    status: File,
    /// What it says after the first line once it is ready: which run, and in which file.
    ready: String,
    oom: Option<OomCounter>,
    oom_seen: u64,
    cgroups: Cgroups,
    signals: OwnedFd,
    output: OwnedFd,
    output_goes: OwnedFd,
    command: Command,
    main: Main,
    /// Failures in a row.
    times: u32,
    waiting_since: Instant,
    /// Someone outside asked it to end.
    ending: bool,
    /// Someone outside asked for an end of all that runs.
    resting: bool,
    /// When all that runs beside the command was first ended for that.
    resting_since: Option<Instant>,
    /// How often all that ran has ended since.
    rests: u32,
}

impl Keeper {
    fn new(
        record: Record,
        log: Log,
        status: File,
        oom: Option<OomCounter>,
        cgroups: Cgroups,
    ) -> io::Result<Self> {
        sys::block_signals(&SIGNALS)?;
        let (output, output_goes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Only our end: what the command writes waits for us, not the other way round.
        rustix::io::ioctl_fionbio(&output, true)?;
        let command = main_process::load(&record);
        Ok(Self {
            main: match main_process::ended_before(&status, &command) {
                _ if command.command.is_empty() => Main::Idle,
                Some(MainState::Completed) => Main::Completed,
                Some(MainState::Failed(code)) => Main::Failed { code },
                _ => Main::Waiting,
            },
            command,
            oom_seen: oom.as_ref().map_or(0, OomCounter::read),
            record,
            log,
            status,
            ready: String::new(),
            oom,
            cgroups,
            signals: sys::signal_fd(&SIGNALS)?,
            output,
            output_goes,
            times: 0,
            waiting_since: Instant::now(),
            ending: false,
            resting: false,
            resting_since: None,
            rests: 0,
        })
    }

    /// Runs until someone outside ends it; returns the exit code.
    fn keep(&mut self) -> i32 {
        loop {
            let timeout = self.timeout().and_then(|left| Timespec::try_from(left).ok());
            let _ = rustix::event::poll(
                &mut [
                    PollFd::new(&self.signals, PollFlags::IN),
                    PollFd::new(&self.output, PollFlags::IN),
                ],
                timeout.as_ref(),
            );
            self.drain_output();
            // Bounded: who sends them without an end is not to keep it from all else.
            for _ in 0..SIGNALS.len() {
                let Some(received) = sys::read_signal(&self.signals) else { break };
                match Signal::from_named_raw(received.number) {
                    Some(Signal::CHILD) | None => {}
                    // A `kill 1` from inside: whether the sandbox stays is not for it to say.
                    Some(_) if !received.from_outside => {}
                    Some(LOOK_AGAIN) => {
                        self.reread();
                        self.show();
                    }
                    Some(REST) => self.rest(),
                    Some(signal) => self.hand_on(signal),
                }
            }
            self.reap();
            if self.ending && !matches!(self.main, Main::Running { .. } | Main::Ending(_)) {
                return 0;
            }
            self.step();
        }
    }

    /// When to look again although nothing happens.
    fn timeout(&self) -> Option<Duration> {
        match self.main {
            _ if self.resting => Some(Duration::from_millis(5)),
            Main::Waiting => Some(patience(self.waiting_since.elapsed())),
            Main::BackingOff { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            Main::Ending(_) => Some(Duration::from_millis(50)),
            _ => None,
        }
    }

    fn step(&mut self) {
        match self.main {
            Main::Ending(ending) if ending.is_over() => self.begin_anew(),
            Main::Ending(_) => {}
            _ if self.resting => self.end_all(),
            Main::Waiting if Path::new(guest_path::READY).exists() => self.launch(),
            Main::BackingOff { until, .. } if until <= Instant::now() => self.launch(),
            _ => {}
        }
    }

    /// Ends the command; then everything else, as soon as that is over.
    fn rest(&mut self) {
        if !self.resting {
            (self.resting, self.resting_since) = (true, None);
        }
        match self.main {
            Main::Running { pid, .. } => self.main = Main::Ending(Ending::begin(pid)),
            Main::BackingOff { .. } => self.begin_anew(),
            _ => {}
        }
    }

    /// Ends whatever runs beside it. What is root's here is not its to end, and what is dead may wait for a parent
    /// outside: whoever asked for it looks after those.
    fn end_all(&mut self) {
        let since = *self.resting_since.get_or_insert_with(Instant::now);
        if sys::kill_all() && since.elapsed() < DYING {
            return;
        }
        (self.resting, self.rests) = (false, self.rests.wrapping_add(1));
        // The provisioning that follows says when the command starts.
        self.waiting_since = Instant::now();
        self.show();
    }

    /// What runs for a command that is another by now ends. The rest of the sandbox runs on.
    fn reread(&mut self) {
        let command = main_process::load(&self.record);
        let same = command.id() == self.command.id();
        self.command = command;
        match self.main {
            _ if same => {}
            Main::Running { pid, .. } => self.main = Main::Ending(Ending::begin(pid)),
            Main::Ending(_) => {}
            _ => self.begin_anew(),
        }
    }

    fn begin_anew(&mut self) {
        (self.times, self.waiting_since) = (0, Instant::now());
        self.main = if self.command.command.is_empty() { Main::Idle } else { Main::Waiting };
        self.show();
    }

    fn launch(&mut self) {
        // As provisioning put it in last.
        self.command = main_process::load(&self.record);
        if self.command.command.is_empty() {
            self.main = Main::Idle;
            return self.show();
        }
        if self.command.waits_for_env && !Path::new(guest_path::ENV).exists() {
            if self.main != Main::Waiting {
                (self.main, self.waiting_since) = (Main::Waiting, Instant::now());
                self.show();
            }
            return;
        }
        let program = Program {
            argv: &self.command.command,
            env: program::environment(&self.record, &self.record.user, &[], true),
            workdir: self.record.workdir.as_deref(),
            home: &self.record.user.home,
        };
        match sys::fork() {
            Ok(Fork::Child) => {
                let fds = [None, Some(self.output_goes.as_fd()), Some(self.output_goes.as_fd())];
                program.run(fds, &self.record.resources, &self.cgroups)
            }
            Ok(Fork::Parent(pid)) => {
                self.main = Main::Running { pid, since: Instant::now() };
                self.show();
            }
            Err(error) => {
                self.log.note(&format!("cannot start the command: {error}"));
                self.ended(126, Duration::ZERO);
            }
        }
    }

    /// To the command and all that it started in its session; without one, init itself is meant.
    fn hand_on(&mut self, signal: Signal) {
        if matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP) {
            self.ending |= signal == Signal::TERM || !matches!(self.main, Main::Running { .. });
        }
        if let Main::Running { pid, .. } = self.main {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Main::Running { pid: main, since } = self.main
                && pid == main
            {
                self.drain_output();
                let code = exit_code(status);
                self.explain(code);
                self.ended(code, since.elapsed());
            }
        }
    }

    /// Says what nobody inside can know: that it was killed for memory.
    fn explain(&mut self, code: i32) {
        let Some(oom) = &self.oom else { return };
        let count = oom.read();
        if count > self.oom_seen {
            let limit = oom.limit().unwrap_or(self.record.resources.memory);
            let limit = crate::model::spec::human_bytes(limit);
            self.log.note(&format!(
                "killed for memory: the limit of {limit} was reached (the command ended with {code})"
            ));
        }
        self.oom_seen = count;
    }

    fn ended(&mut self, code: i32, after: Duration) {
        if self.ending {
            // It did not end by itself: it runs again when the sandbox does.
            self.main = Main::Waiting;
            return self.show();
        }
        let restart = match self.command.restart {
            Restart::Always => true,
            Restart::OnFailure => code != 0,
            Restart::Never => false,
        };
        self.times = if after >= STEADY { 1 } else { self.times.saturating_add(1) };
        self.main = match (restart, code) {
            (true, _) => Main::BackingOff { code, until: Instant::now() + backoff(self.times) },
            (false, 0) => Main::Completed,
            (false, _) => Main::Failed { code },
        };
        self.show();
    }

    /// Says what the command does: to the host, and inside.
    fn show(&mut self) {
        let line = match self.main {
            Main::Idle => "idle".to_owned(),
            Main::Waiting | Main::Ending(_) => "waiting".to_owned(),
            Main::Running { .. } => "running".to_owned(),
            Main::Completed => "completed".to_owned(),
            Main::Failed { code } => format!("failed {code}"),
            Main::BackingOff { code, .. } => format!("backoff {code} {}", self.times),
        };
        // One write, padded: a reader sees the old line or the new one.
        let width = STATUS_LINE - 1;
        let mut text = format!("{line:<width$}\n{}", self.ready);
        if !self.ready.is_empty() {
            let (command, rests) = (self.command.id(), self.rests);
            text = format!("{text}{COMMAND_LINE}{command}\n{RESTS_LINE}{rests}\n");
        }
        let written = self.status.write_at(text.as_bytes(), 0);
        if written.is_ok() && !self.ready.is_empty() {
            let _ = self.status.set_len(text.len() as u64);
        }
        say_inside(&line);
    }

    fn drain_output(&mut self) {
        let mut buffer = [0; 8192];
        // Bounded, so that a command that never stops writing does not keep us from reaping.
        for _ in 0..64 {
            match rustix::io::read(&self.output, &mut buffer) {
                Ok(length) if length > 0 => self.log.write(&buffer[..length]),
                _ => break,
            }
        }
    }
}

/// Says it inside too. The folder is the user's, who may put anything there, also while this runs: so
/// what is opened is a file that did not exist, and nothing is waited for.
fn say_inside(line: &str) {
    use rustix::fs::{Mode, OFlags};
    let Ok(unique) = super::state::random_id() else { return };
    let new = format!("{}.{unique}", guest_path::MAIN);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(&new, flags, Mode::from_raw_mode(0o644)) else { return };
    let text = format!("{line}\n");
    let written = rustix::io::write(&file, text.as_bytes());
    if written != Ok(text.len()) || rustix::fs::rename(&new, guest_path::MAIN).is_err() {
        let _ = rustix::fs::unlink(&new);
    }
}

/// The code of an end as a shell counts: 128 + signal where one ended it.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_and_longer_up_to_a_minute() {
        let seconds: Vec<u64> = (1..=8).map(|times| backoff(times).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn who_has_waited_longer_looks_less_often() {
        let after = |millis: u64| patience(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 99, 1000, 3000, 86_400_000].map(after), [10, 10, 100, 300, 500]);
    }
}
