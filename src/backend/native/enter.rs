//! Entering a running sandbox, and running a command in it.

#![expect(clippy::disallowed_methods, reason = "namespaces are files of /proc")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::caps;
use super::init::exit_code;
use super::limits::{Cgroups, OomCounter};
use super::program::{self, Program};
use super::pump::{self, Streams};
use super::seccomp::Filters;
use super::start::join;
use super::state::{self, Mode, User};
use super::sys::{self, Fork};
use super::wire::{Exec, Target};
use crate::backend::hostside;

/// As whom a sandbox is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// Its root, with every capability over what is its own: for copying, and for `exec` until the
    /// command is confined.
    Root,
    /// Its user.
    User,
}

/// Moves this process into the sandbox whose init `init` (a pidfd) is. What it starts from now on
/// is in the sandbox's process namespace too.
pub(super) fn enter(target: &Target, init: &OwnedFd, who: As) -> anyhow::Result<()> {
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    let with_user = match (target.record.mode, who) {
        // Init is in the namespace of the sandbox's user. The one of its root is the one that the
        // mounts belong to, one further out.
        (Mode::Rootless, As::Root) => {
            let path = format!("/proc/{}/ns/mnt", target.run.pid);
            let mounts = File::open(path).context("looking for its namespaces")?;
            let outer = sys::owner_of_namespace(mounts.as_fd())?;
            anyhow::ensure!(alive(init), "it has just ended");
            rustix::thread::move_into_link_name_space(outer.as_fd(), Some(LinkNameSpaceType::User))
                .context("entering its root's user namespace")?;
            all
        }
        _ => all | ThreadNameSpaceType::USER,
    };
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), with_user)
        .context("entering its namespaces")?;
    let root = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    if let Mode::Root { .. } = target.record.mode {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(root.1, root.1, root.1)?;
        rustix::thread::set_thread_res_uid(root.0, root.0, root.0)?;
    }
    // A change of identity, or of namespace, must not have opened it to those inside.
    caps::undumpable()?;
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Whether the process behind a pidfd has not ended.
pub(super) use hostside::lives as alive;

/// Runs a command in a sandbox and returns its exit code.
pub(super) fn exec(exec: Exec, init: OwnedFd, stdio: [OwnedFd; 3]) -> anyhow::Result<i32> {
    let record = &exec.target.record;
    let user = if exec.as_root {
        User { uid: 0, gid: 0, name: "root".into(), home: "/root".into() }
    } else {
        record.user.clone()
    };
    // Out of reach from inside, so opened before.
    let cgroups = Cgroups::discover();
    let own = cgroups.of(&record.id);
    let doors = own.doors().context("opening its cgroups")?;
    let oom = own.oom_counter();
    let filters = Filters::compile(record.mount.is_some())?;
    let signals = pump::signals()?;

    enter(&exec.target, &init, if exec.as_root { As::Root } else { As::User })?;
    let mut env = program::environment(record, &user, &exec.env, exec.values);
    let (mut streams, child_ends) = if exec.tty {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm-256color".to_owned());
        terminal(stdio)?
    } else {
        pump::plain(stdio)?
    };
    let command = Command { exec: &exec, user: &user, env, cgroups: &cgroups, filters: &filters };
    let (gate, gate_opens) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let killed_before = oom.as_ref().map_or(0, OomCounter::read);
    let pid = match sys::fork().context("starting the command")? {
        Fork::Child => {
            drop(gate_opens);
            command.become_it(&gate, &child_ends)
        }
        Fork::Parent(pid) => pid,
    };
    drop(gate);
    drop(child_ends);
    // Joined from here: the child's number is that of the host, as long as the parent is the host's.
    if let Err(error) = join(&doors, pid.as_raw_pid())
        .and_then(|()| Ok(rustix::io::write(&gate_opens, &[1]).map(drop)?))
    {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        return Err(error);
    }
    let status = pump::until_exit(&mut streams, &signals, pid, exec.tty)?;
    let code = exit_code(status);
    // With its init everything in a sandbox is killed: that is no end of the command's own. Here /proc
    // is that of the sandbox, whose first process it is.
    let init_ends = || !alive(&init) || state::start_time(1).is_none();
    anyhow::ensure!(
        code != 128 + Signal::KILL.as_raw() || !init_ends(),
        "the sandbox ended while the command ran"
    );
    if code == 128 + Signal::KILL.as_raw()
        && oom.is_some_and(|oom| oom.read() > killed_before)
        && let Some(stderr) = streams.complaints()
    {
        let limit = crate::model::spec::human_bytes(record.resources.memory);
        let line = format!("bottle: killed for memory: the limit of {limit} was reached\r\n");
        let _ = rustix::io::write(stderr, line.as_bytes());
    }
    Ok(code)
}

struct Command<'a> {
    exec: &'a Exec,
    user: &'a User,
    env: BTreeMap<String, String>,
    cgroups: &'a Cgroups,
    filters: &'a Filters,
}

impl Command<'_> {
    /// The forked side.
    fn become_it(self, gate: &OwnedFd, ends: &[Option<OwnedFd>; 3]) -> ! {
        if let Err(error) = self.confine(gate, ends) {
            let text = format!("bottle: {error:#}\n");
            if let Some(stderr) = &ends[2] {
                let _ = rustix::io::write(stderr, text.as_bytes());
            }
            sys::exit_now(125);
        }
        let program = Program {
            argv: &self.exec.argv,
            env: self.env,
            workdir: self.exec.workdir.as_deref().or(self.exec.target.record.workdir.as_deref()),
            home: &self.user.home,
        };
        let stdio = [0, 1, 2].map(|at: usize| ends[at].as_ref().map(AsFd::as_fd));
        program.run(stdio, &self.exec.target.record.resources, self.cgroups)
    }

    fn confine(&self, gate: &OwnedFd, ends: &[Option<OwnedFd>; 3]) -> anyhow::Result<()> {
        let mut go = [0];
        anyhow::ensure!(rustix::io::read(gate, &mut go)? == 1, "its helper died");
        rustix::process::setsid()?;
        if self.exec.tty
            && let Some(terminal) = &ends[0]
        {
            rustix::process::ioctl_tiocsctty(terminal).context("taking the terminal")?;
        }
        caps::confine(self.user.uid, self.user.gid, self.filters).context("giving up rights")?;
        caps::undumpable()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before that was set; its end of the gate is then closed.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(gate, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&now)))?;
        anyhow::ensure!(!polled[0].revents().contains(PollFlags::HUP), "its helper died");
        Ok(())
    }
}

/// A terminal of the sandbox's own: what `tty` shows inside exists there. Takes the size of the
/// caller's.
fn terminal(stdio: [OwnedFd; 3]) -> anyhow::Result<(Streams, [Option<OwnedFd>; 3])> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let open = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", open, rustix::fs::Mode::empty())
        .context("opening a terminal of the sandbox")?;
    rustix::pty::unlockpt(&master)?;
    let inner = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let [input, output, _] = stdio;
    if let Ok(size) = rustix::termios::tcgetwinsize(&input) {
        let _ = rustix::termios::tcsetwinsize(&master, size);
    }
    let ends = [Some(inner.try_clone()?), Some(inner.try_clone()?), Some(inner)];
    Ok((Streams::terminal(input, output, master), ends))
}

/// A pidfd of the sandbox's init: of that very process, or of none.
pub(super) fn init_of(run: &state::Run) -> anyhow::Result<Option<OwnedFd>> {
    Ok(run.pidfd()?)
}

/// Kills init, and with it every process of the sandbox, and waits until it is gone.
pub(super) fn kill(init: &OwnedFd, deadline: std::time::Duration) -> anyhow::Result<()> {
    hostside::kill(init, deadline).context("killing its init")
}
