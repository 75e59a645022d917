//! Starting a sandbox, seen from the host: its limits, its first process, the receipt.
//!
//! The order is what makes a kill at any moment harmless. Init waits at a gate until the receipt
//! that names it is written, and dies with the helper until it is ready: so there is never a live
//! sandbox that nothing names, and never half of one.

#![expect(clippy::disallowed_methods, reason = "files of the state folder are opened")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use super::init::{self, Init, READY};
use super::limits::Cgroups;
use super::log::Log;
use super::seccomp::Filters;
use super::state::{self, Folder, IDS, Mode, Record, Run};
use super::status::{LOCK, Life, MAIN, NAMES};
use super::sys::{self, Fork};
use super::{enter, namespaces, stray};
use crate::backend::durable;

/// How long init may take until it is ready.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long after its helper an init may die.
const FOLLOWING: Duration = Duration::from_millis(500);

/// Starts the sandbox in `folder`, unless it runs. This process bears its mark.
pub(super) fn start(folder: &Path, hidden: &[PathBuf], mark: &str) -> anyhow::Result<Run> {
    rustix::process::chdir(folder).with_context(|| format!("entering {}", folder.display()))?;
    let here = Folder(".".into());
    let _lock = lock()?;
    // While it was waited for the lock, the sandbox may have been taken away, and another made.
    let named = rustix::fs::stat(folder).map(|stat| stat.st_ino);
    anyhow::ensure!(named == rustix::fs::stat(".").map(|stat| stat.st_ino), "it was removed");
    let record = here.record()?.context("its record machine.json is missing")?;
    let host_boot = state::host_boot()?;
    if let Some(run) = here.run()? {
        let mut life = here.life(&run, &host_boot, true);
        if life != Life::Over && !here.is_said_by(&run) {
            // One whose helper was killed while it was set up follows at once.
            std::thread::sleep(FOLLOWING);
            life = here.life(&run, &host_boot, true);
        }
        anyhow::ensure!(
            life != Life::Unclear,
            "{} is missing or damaged, and its init, process {}, lives",
            folder.join(MAIN).display(),
            run.pid
        );
        if life == Life::Runs {
            // One that was found without its receipt gets it back.
            if !matches!(durable::read_json::<Run>(Path::new(state::RUN)), Ok(Some(_))) {
                state::write_json(Path::new(state::RUN), &run).context("writing the receipt")?;
            }
            return Ok(run);
        }
        // It is about to die, and has no future.
        if let Some(doomed) = enter::init_of(&run)? {
            enter::kill(&doomed, DEADLINE)?;
        }
    }
    let cgroups = Cgroups::discover();
    let own = cgroups.of(&record.id);
    // What runs there and is named by no receipt is on the same files: a second init beside it would
    // spoil them.
    own.end(DEADLINE).context("ending what a lost receipt named")?;
    // One that never ran has none of these.
    if [state::RUN, NAMES[0], NAMES[1], state::LOG[0]].iter().any(|name| here.join(name).exists()) {
        stray::end(folder, mark, DEADLINE)?;
    }
    own.make(&record.resources).context("making its cgroups")?;
    let doors = own.doors().context("opening its cgroups")?;
    let (gate, gate_opens) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (result, result_goes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let init = Init {
        userns: userns(&record, IDS)?,
        programs_userns: userns(&record, SYSTEM_IDS)?,
        workspace_userns: workspace_userns(&record),
        hidden: hidden.to_owned(),
        gate,
        result: result_goes,
        filters: Filters::compile(record.mount.is_some())?,
        log: Log::open()?,
        status: here
            .open_status()
            .with_context(|| format!("opening {}", folder.join(MAIN).display()))?,
        oom: own.oom_counter(),
        cgroups,
        record,
    };
    sys::unshare(UnshareFlags::NEWPID)
        .map_err(|error| anyhow::anyhow!("{error}: {}", namespaces::why_refused()))
        .context("making a process namespace")?;
    let pid = match sys::fork().context("starting init")? {
        Fork::Child => init::main(init),
        Fork::Parent(pid) => pid,
    };
    // Only init holds its ends now: that it dies is seen as an end of file.
    drop(init);
    let started =
        admit(pid, &doors, host_boot, &gate_opens).and_then(|run| ready(&result).map(|()| run));
    if started.is_err() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
    started
}

/// One start at a time.
fn lock() -> anyhow::Result<File> {
    let lock = durable::lock_file(Path::new(LOCK))?;
    lock.lock()?;
    Ok(lock)
}

/// Puts init under its limits, writes the receipt, and only then lets it go on.
fn admit(pid: Pid, doors: &[File], host_boot: String, gate: &OwnedFd) -> anyhow::Result<Run> {
    let pid = pid.as_raw_pid();
    join(doors, pid)?;
    let start_time = state::start_time(pid).context("init died at once")?;
    let run = Run { pid, start_time, host_boot };
    state::write_json(Path::new(state::RUN), &run).context("writing the receipt")?;
    rustix::io::write(gate, run.boot().as_bytes())?;
    Ok(run)
}

/// Puts a process into these cgroups.
pub(super) fn join(doors: &[File], pid: i32) -> anyhow::Result<()> {
    for door in doors {
        rustix::io::write(door, pid.to_string().as_bytes()).context("joining a cgroup")?;
    }
    Ok(())
}

fn ready(result: &OwnedFd) -> anyhow::Result<()> {
    let timeout = Timespec::try_from(DEADLINE)?;
    let polled = rustix::io::retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(result, PollFlags::IN)], Some(&timeout))
    })?;
    anyhow::ensure!(polled > 0, "its init was not ready within {} s", DEADLINE.as_secs());
    let mut text = String::new();
    // Init's error, or READY, is written whole; reading to the end would wait for init's death.
    let mut buffer = [0; 4096];
    let length = File::from(result.try_clone()?).read(&mut buffer)?;
    text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    anyhow::ensure!(!text.is_empty(), "its init died while it was set up");
    anyhow::ensure!(text == READY, text);
    Ok(())
}

/// The ids of the host's system accounts, which its programs belong to.
const SYSTEM_IDS: u32 = 1000;

/// The namespace with the first `ids` of the sandbox's.
fn userns(record: &Record, ids: u32) -> anyhow::Result<Option<OwnedFd>> {
    let Mode::Root { base } = record.mode else { return Ok(None) };
    let map = format!("0 {base} {ids}");
    Ok(Some(namespaces::mapped(&map, &map)?))
}

/// Maps the owner of the mounted workspace to the sandbox's user. Where that cannot be, the folder
/// is shown with the host's own ids.
fn workspace_userns(record: &Record) -> Option<OwnedFd> {
    let metadata = std::fs::metadata(&record.mount.as_ref()?.path).ok()?;
    let map = |inner: u32, host: u32| Some(format!("{host} {} 1", record.mode.host_id(inner)?));
    let uid_map = map(record.user.uid, metadata.uid())?;
    let gid_map = map(record.user.gid, metadata.gid())?;
    namespaces::mapped(&uid_map, &gid_map).ok()
}

impl Init {
    /// The descriptors that init goes on with.
    pub(super) fn kept(&self) -> Vec<std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        let mut kept =
            vec![self.gate.as_raw_fd(), self.result.as_raw_fd(), self.status.as_raw_fd()];
        kept.extend(self.log.fds());
        let oom = self.oom.iter().flat_map(|oom| oom.files());
        kept.extend(oom.map(|file| file.as_fd().as_raw_fd()));
        kept.extend(self.userns.iter().map(AsRawFd::as_raw_fd));
        kept.extend(self.programs_userns.iter().map(AsRawFd::as_raw_fd));
        kept.extend(self.workspace_userns.iter().map(AsRawFd::as_raw_fd));
        kept
    }
}
