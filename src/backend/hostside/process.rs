//! Processes that are not our children any more, and yet are known for certain.
//!
//! A number names nobody: it is given to another process once its own has ended. A process is known
//! by its number, its start, and the start of the host; it is acted on through its pidfd, which was
//! compared with these after it was opened.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backend) struct Process {
    /// As the host counts.
    pub(in crate::backend) pid: i32,
    /// In clock ticks since the host started.
    pub(in crate::backend) start_time: u64,
    /// Which start of the host that was.
    pub(in crate::backend) host_boot: String,
}

impl Process {
    /// The process with this number now; `None` when there is none, or it is dying.
    pub(in crate::backend) fn with_pid(pid: i32) -> io::Result<Option<Self>> {
        let host_boot = host_boot()?;
        Ok(start_time(pid).map(|start_time| Self { pid, start_time, host_boot }))
    }

    /// Identifies this process among all that ever were.
    pub(in crate::backend) fn boot(&self) -> String {
        let host = self.host_boot.get(..8).unwrap_or(&self.host_boot);
        format!("{}.{}.{host}", self.pid, self.start_time)
    }

    /// Whether it lives, where the host was started as `host_boot` says.
    pub(in crate::backend) fn alive(&self, host_boot: &str) -> bool {
        self.host_boot == host_boot && start_time(self.pid) == Some(self.start_time)
    }

    /// What it is acted on through; `None` when it has ended, or is dying.
    pub(in crate::backend) fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        self.open(|stat| start_of(&stat))
    }

    /// The same, also of one that is dying: it may still hold what it had open.
    pub(in crate::backend) fn remains(&self) -> io::Result<Option<OwnedFd>> {
        self.open(|stat| Stat::of(&stat).map(|stat| stat.start))
    }

    fn open(&self, start: impl Fn(String) -> Option<u64>) -> io::Result<Option<OwnedFd>> {
        if host_boot()? != self.host_boot {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Asked after it was opened: the number cannot have been given to another in between.
        let now = stat(self.pid).and_then(start);
        Ok((now == Some(self.start_time)).then_some(pidfd))
    }
}

/// Whether the process behind a pidfd has not ended.
pub(in crate::backend) fn lives(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// Asks the process to end, and waits for that. Says whether it has.
pub(in crate::backend) fn ask_to_end(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    gone(pidfd, patience)
}

/// Waits until the process is gone, for so long.
fn gone(pidfd: &OwnedFd, deadline: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
    let gone = retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout))
    })?;
    Ok(gone > 0)
}

/// Kills the process and waits until it is gone.
pub(in crate::backend) fn kill(pidfd: &OwnedFd, deadline: Duration) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    if gone(pidfd, deadline)? {
        return Ok(());
    }
    Err(io::Error::other(format!("it did not die within {} s", deadline.as_secs())))
}

/// Whether somebody has stopped this process, as by SIGSTOP.
pub(super) fn is_stopped(pid: i32) -> bool {
    let text = stat(pid).unwrap_or_default();
    let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// When this process was started, if it lives, and whether somebody has stopped it.
pub(in crate::backend) fn how_it_is(pid: i32) -> Option<(u64, bool)> {
    let stat = stat(pid)?;
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    Some((start_of(&stat)?, matches!(state, Some('T' | 't'))))
}

/// The processes whose working directory has this path, also where that has been removed since, as
/// far as they may be looked at.
pub(super) fn working_in(folder: &Path) -> io::Result<Vec<Process>> {
    let folder = match fs::canonicalize(folder) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut removed = folder.clone().into_os_string();
    removed.push(" (deleted)");
    let mut found = Vec::new();
    for pid in pids()? {
        let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else { continue };
        if cwd == folder || cwd.as_os_str() == removed {
            found.extend(Process::with_pid(pid)?);
        }
    }
    Ok(found)
}

/// All processes of the host that are in sight.
pub(in crate::backend) fn pids() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc")?;
    let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    Ok(entries.flatten().filter_map(name).collect())
}

/// Whether the arguments of this process begin with these.
pub(super) fn runs(pid: i32, arguments: &[&str]) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut found = line.split(|byte| *byte == 0).skip(1);
    arguments.iter().all(|wanted| found.next() == Some(wanted.as_bytes()))
}

/// The user that a process is, as this process counts.
pub(super) fn user_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process is in no process namespace below ours, as a guest's is.
pub(in crate::backend) fn is_outside(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.is_some_and(|pids| pids.split_ascii_whitespace().count() == 1)
}

/// Which start of the host this is.
pub(in crate::backend) fn host_boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When the process was started, in ticks since the host was; `None` when it is gone, or dead and
/// only waiting to be reaped.
pub(in crate::backend) fn start_time(pid: i32) -> Option<u64> {
    start_of(&stat(pid)?)
}

fn stat(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// The flag of a process that is on its way out (`PF_EXITING` of the kernel).
const EXITING: u64 = 0x4;
/// SIGKILL among pending signals.
const KILLED: u64 = 1 << 8;

/// What a line of `/proc/PID/stat` says.
struct Stat {
    start: u64,
    dying: bool,
}

impl Stat {
    fn of(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything, also parentheses.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
        // By their numbers in proc(5), where the name is the second.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let (flags, start, pending) = (number(9)?, number(22)?, number(31)?);
        let dead = matches!(*fields.first()?, "Z" | "X" | "x");
        // One that was killed is as good as gone: the init of many processes dies only after them.
        Some(Self { start, dying: dead || flags & EXITING != 0 || pending & KILLED != 0 })
    }
}

/// The start time in such a line, of a process that lives and goes on living.
fn start_of(stat: &str) -> Option<u64> {
    Stat::of(stat).filter(|stat| !stat.dying).map(|stat| stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_killed_is_gone() {
        let stat = |state: &str, flags: u64, pending: u64| {
            format!(
                "7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 0 0 0 0 0 0 {pending} 0"
            )
        };
        assert_eq!(start_of(&stat("S", 0x0040_0100, 0)), Some(4242));
        assert_eq!(start_of(&stat("S", 0x0040_0104, 0)), None);
        assert_eq!(start_of(&stat("R", 0x0040_0100, 256)), None);
        assert_eq!(start_of(&stat("Z", 0x0040_0100, 0)), None);
        assert_eq!(start_of("7 (a"), None);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::with_pid(own).unwrap().unwrap();
        assert!(process.alive(&host_boot().unwrap()));
        assert!(process.pidfd().unwrap().is_some_and(|pidfd| lives(&pidfd)));
        let earlier = Process { start_time: process.start_time - 1, ..process.clone() };
        assert!(earlier.pidfd().unwrap().is_none());
        let before = Process { host_boot: "another".to_owned(), ..process };
        assert!(before.pidfd().unwrap().is_none());
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn exactly_this_process_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::with_pid(pid).unwrap().unwrap();
        let pidfd = process.pidfd().unwrap().unwrap();
        kill(&pidfd, Duration::from_secs(10)).unwrap();
        assert!(!lives(&pidfd));
        assert!(process.pidfd().unwrap().is_none(), "dead, though nobody has reaped it yet");
        assert!(process.remains().unwrap().is_some_and(|pidfd| !lives(&pidfd)));
        child.wait().unwrap();
        kill(&pidfd, Duration::from_secs(10)).unwrap();
    }
}
