//! An init that no receipt names: the state folder was damaged, or an older copy of it was put back.
//! Nothing new is started on the files of a sandbox that still runs.
//!
//! Where there are cgroups, they say which processes are a sandbox's. Everywhere an init is known by its
//! mark (`hostside::Marks`); by the lock that it holds on the file that says what its command does, for as
//! long as it lives; and, to root, by the files of its sandbox's folder that it has open, also those
//! that were removed since.
#![expect(clippy::disallowed_methods, reason = "the processes of the host are read")]

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::limits::{self, Cgroups};
use super::observe;
use super::state::{Run, Store};
use super::status::{MAIN, NAMES};
use crate::backend::hostside::Role;
use crate::backend::{Observation, Scope, hostside};
use crate::model::{
    BackendKind, Instance, InstanceId, InstanceState, Leftover, LeftoverKind, ResourceKind,
    SandboxId,
};

/// How long it may take to ask who holds a lock.
const ASKING: Duration = Duration::from_millis(100);

/// What every init calls itself.
pub(super) const NAME: &CStr = c"bottle-init";

/// What inits bear, and what is left over of them.
pub(super) fn marks(scope: &Scope) -> hostside::Marks {
    hostside::Marks::of(scope, BackendKind::Native, "init")
}

/// Claims the files of this sandbox for the process that calls this: for init, which keeps the file
/// open as long as it lives. No guest can let go of it: to one, init's descriptors are out of reach, and
/// a program that init executes has none of them.
pub(super) fn claim(status: &File) -> anyhow::Result<()> {
    let until = Instant::now() + ASKING;
    loop {
        match rustix::fs::flock(status, FlockOperation::NonBlockingLockExclusive) {
            // Somebody may just be asking who holds it.
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => anyhow::bail!("another init is on its files"),
            // A file system without locks: what else there is has to do.
            _ => return Ok(()),
        }
    }
}

/// Ends every init that bears this mark, or holds a file of this folder, and waits until it is gone.
pub(super) fn end(folder: &Path, mark: &str, deadline: Duration) -> anyhow::Result<()> {
    let folder = fs::canonicalize(folder).context("looking for what no receipt names")?;
    let holders = NAMES.map(|name| holder(&folder.join(name)));
    let is_its = |pid: i32| {
        // Asked first: to look at all that all processes hold takes long.
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_ascii_end() == NAME.to_bytes()
            && match Bears::of(pid, mark) {
                _ if holders.contains(&Holder::Is(pid)) => true,
                Bears::This => is_first(pid),
                Bears::Another => false,
                Bears::Nothing => holds(pid, &folder),
            }
    };
    for pid in hostside::pids().context("looking for what no receipt names")? {
        if !is_its(pid) {
            continue;
        }
        // Opened first, then compared again: the number may have become another's.
        if let Some(pidfd) = Run::with_pid(pid)?.map(|run| run.remains()).transpose()?.flatten()
            && is_its(pid)
        {
            put_down(pid, &pidfd, deadline)?;
        }
    }
    let begun = Instant::now();
    let left = loop {
        let holders = NAMES.map(|name| holder(&folder.join(name)));
        let left = holders.into_iter().find(|holder| *holder != Holder::Nobody);
        match left {
            // One that is dying holds what it had open until it is dead.
            Some(Holder::Is(pid))
                if begun.elapsed() < deadline && Run::with_pid(pid)?.is_none() =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Or it was dead before it was looked for.
            Some(Holder::Somebody) if begun.elapsed() < ASKING.min(deadline) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            left => break left.unwrap_or(Holder::Nobody),
        }
    };
    match left {
        Holder::Nobody => Ok(()),
        Holder::Is(pid) => anyhow::bail!(
            "process {pid} is on its files, and is no init that could be ended: end that process"
        ),
        Holder::Somebody => anyhow::bail!(
            "{} is locked by a process that cannot be seen from here, so something runs on its \
             files: end the process that is called {mark}",
            folder.join(MAIN).display()
        ),
    }
}

/// Who has claimed the files of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Is(i32),
    /// Of another process namespace, or of a file system that counts in another way.
    Somebody,
}

/// Whether this process has claimed this file, as far as can be told.
pub(super) fn is_claimed(file: &Path, pid: i32) -> bool {
    match holder(file) {
        Holder::Nobody => false,
        Holder::Is(holder) => holder == pid,
        Holder::Somebody => true,
    }
}

fn holder(file: &Path) -> Holder {
    // Not by what lies there instead of it: a FIFO would be waited for.
    let Ok(found) = fs::symlink_metadata(file) else { return Holder::Nobody };
    if !found.is_file() {
        return Holder::Nobody;
    }
    let unlisted = match File::open(file) {
        // Shared, so that two who ask are not in each other's way.
        Ok(opened) => match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Holder::Somebody,
            _ => return Holder::Nobody,
        },
        // Nobody may read it: the kernel's list names the file all the same.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Holder::Nobody,
        Err(_) => return Holder::Nobody,
    };
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let device = found.dev();
    let place = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device),
        found.ino()
    );
    text.lines().find_map(|line| lock_of(line, &place)).map_or(unlisted, Holder::Is)
}

/// The process of a line of `/proc/locks`, if it is a lock on the whole of this file that is held.
fn lock_of(line: &str, place: &str) -> Option<i32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    (words.next()? == "FLOCK").then_some(())?;
    (words.nth(1)? == "WRITE").then_some(())?;
    let pid: i32 = words.next()?.parse().ok()?;
    (words.next()? == place && pid > 0).then_some(pid)
}

/// What mark a process bears.
enum Bears {
    This,
    /// That of a sandbox of another name: whether it is on the files of this one need not be looked for,
    /// which takes long where there are many.
    Another,
    /// None, or that of a folder that was moved.
    Nothing,
}

impl Bears {
    fn of(pid: i32, mark: &str) -> Self {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        match (first.rsplit_once(':'), mark.rsplit_once(':')) {
            _ if first == mark => Self::This,
            (Some((of, name)), Some((_, own))) if of.starts_with("bottle:") && name != own => {
                Self::Another
            }
            _ => Self::Nothing,
        }
    }
}

/// Whether it is the first process of a process namespace below ours, and this user's as far as that can
/// be compared. What an init starts is called like it for a moment, and is none.
pub(super) fn is_first(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let own = rustix::process::geteuid();
    let ours = field("Uid:").is_some_and(|uids| {
        own.is_root() || uids.first().is_some_and(|uid| *uid == own.as_raw().to_string())
    });
    let first = field("NSpid:").is_some_and(|pids| pids.last().is_some_and(|pid| pid == "1"));
    let named = field("Name:").is_some_and(|name| name == [NAME.to_string_lossy()]);
    ours && first && named
}

fn holds(pid: i32, folder: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path.starts_with(folder))
}

/// Where leftovers that are processes have their ids.
const PLACE: &str = ".stray/";

/// How the id of a machine begins of which only the process is there.
const LOST: &str = "lost-";

/// Adds the processes that no record names to what was left behind. Of a sandbox that cannot be read
/// nothing is. Where no record of any machine is as old as one that runs, all of them were lost, as by a
/// folder that was moved away or is not mounted: it is a machine that cannot be read, and nothing is
/// made in its place.
pub(super) fn observe(scope: &Scope, observation: &mut Observation) -> std::io::Result<()> {
    let boots = observation.instances.iter().filter_map(|instance| instance.boot.as_deref());
    let running: BTreeSet<i32> =
        boots.filter_map(|boot| boot.split('.').next()?.parse().ok()).collect();
    let mut strays = all(scope, &running)?;
    let store = Store::of(scope);
    let is_lost = |stray: &&Stray| {
        let recorded = observation.instances.iter().filter(|i| i.resource == ResourceKind::Machine);
        let begun = begun(&stray.process);
        let keeps = |i: &Instance| {
            i.sandbox == stray.sandbox || created(&store, i).is_none_or(|at| at < begun)
        };
        stray.what == ResourceKind::Machine && !recorded.into_iter().any(keeps)
    };
    let lost: Vec<Instance> =
        strays.iter().filter(is_lost).map(|stray| lost(scope, stray)).collect();
    observation.instances.extend(lost);
    let unknown: BTreeSet<&SandboxId> = observation
        .instances
        .iter()
        .filter(|instance| matches!(instance.state, InstanceState::Unknown(_)))
        .map(|instance| &instance.sandbox)
        .collect();
    strays.retain(|stray| !unknown.contains(&stray.sandbox));
    observation.leftovers.extend(strays.into_iter().map(|stray| Leftover {
        backend: BackendKind::Native,
        kind: LeftoverKind::Scratch,
        id: InstanceId(format!("{PLACE}{}", stray.process.boot())),
        name: format!(
            "process {}, a {} of {} that no record names",
            stray.process.pid, stray.what, stray.sandbox
        ),
        digest: None,
    }));
    Ok(())
}

/// When this machine was made, in milliseconds since the epoch: sandboxes of one pass are made within the
/// same second.
fn created(store: &Store, machine: &Instance) -> Option<u64> {
    let record = store.sandbox(&machine.sandbox).record().ok().flatten();
    let exact = record.filter(|record| record.id == machine.id.0)?.created_millis;
    exact.or_else(|| machine.created.map(|seconds| seconds * 1000))
}

/// When this process was started, in milliseconds since the epoch.
fn begun(process: &Run) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::try_from(up).unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let started = Duration::from_millis(process.start_time.saturating_mul(1000) / ticks);
    let begun = now.saturating_sub(up.saturating_sub(started));
    begun.as_millis().try_into().unwrap_or(u64::MAX)
}

fn lost(scope: &Scope, stray: &Stray) -> Instance {
    let state = InstanceState::Unknown(format!(
        "{} is gone, and its init, process {}, lives: put the folder back, or what runs is lost",
        Store::of(scope).sandbox(&stray.sandbox).path().display(),
        stray.process.pid
    ));
    let found = observe::Found { record: None, run: None, state, damaged: false };
    Instance {
        id: InstanceId(format!("{LOST}{}", stray.process.boot())),
        ..observe::instance(scope, stray.sandbox.clone(), &found)
    }
}

/// Whether only the process of this machine is there.
pub(super) fn is_lost(id: &InstanceId) -> bool {
    id.0.starts_with(LOST)
}

/// Ends a machine of which only the process is there, and what else of that sandbox no record names.
pub(super) fn end_lost(
    scope: &Scope,
    machine: &Instance,
    deadline: Duration,
) -> anyhow::Result<()> {
    let strays = all(scope, &BTreeSet::new())?;
    let mut strays: Vec<_> = strays.into_iter().filter(|s| s.sandbox == machine.sandbox).collect();
    // The sandbox first: nothing in it is to be without its sidecar.
    strays.sort_by_key(|stray| stray.what != ResourceKind::Machine);
    strays.iter().try_for_each(|stray| stray.end(deadline))
}

struct Stray {
    sandbox: SandboxId,
    what: ResourceKind,
    process: Run,
}

impl Stray {
    fn end(&self, deadline: Duration) -> anyhow::Result<()> {
        match self.process.remains()? {
            Some(pidfd) => put_down(self.process.pid, &pidfd, deadline),
            None => Ok(()),
        }
    }
}

/// All of this owner's tree, but for what is known to run.
fn all(scope: &Scope, running: &BTreeSet<i32>) -> std::io::Result<Vec<Stray>> {
    let known = |pid: i32| running.contains(&pid);
    let stray = |what: ResourceKind| {
        move |(sandbox, process): (SandboxId, Run)| Stray { sandbox, what, process }
    };
    let beside = Role::ALL.map(|role| hostside::marks(role, scope, BackendKind::Native));
    let [mut inits, sidecars, gates] =
        hostside::bearers([&marks(scope), &beside[0], &beside[1]], known)?;
    let store = Store::of(scope);
    inits.retain(|(sandbox, process)| {
        // One that is just being started has its receipt before it is an init for long.
        let named = match store.sandbox(sandbox).run() {
            Ok(run) => run.is_some_and(|run| run == *process),
            // What cannot be read may name it.
            Err(_) => true,
        };
        !named && is_first(process.pid)
    });
    let mut all: Vec<Stray> = inits.into_iter().map(stray(ResourceKind::Machine)).collect();
    for (role, found) in Role::ALL.into_iter().zip([sidecars, gates]) {
        let unrecorded = hostside::unrecorded(role, scope, BackendKind::Native, found);
        all.extend(unrecorded.into_iter().map(stray(role.kind())));
    }
    if !all.is_empty() {
        let guests = Guests::of(&store)?;
        all.retain(|stray| !guests.has(stray));
    }
    Ok(all)
}

/// The cgroups of all machines that are known, and what runs in them.
struct Guests(Vec<(SandboxId, String, Option<Run>)>);

impl Guests {
    fn of(store: &Store) -> std::io::Result<Self> {
        let host_boot = hostside::host_boot()?;
        let names = observe::names(store.path())?;
        let machine = |name: String| {
            let sandbox = SandboxId::new(name).ok()?;
            let folder = store.sandbox(&sandbox);
            let id = folder.record().ok().flatten()?.id;
            let run = folder.run().ok().flatten().filter(|run| run.alive(&host_boot));
            Some((sandbox, id, run))
        };
        Ok(Self(names.into_iter().filter_map(machine).collect()))
    }

    /// Whether it is in the cgroup of a machine that is another's, or that runs: whatever it calls itself,
    /// it belongs to that one.
    fn has(&self, stray: &Stray) -> bool {
        let Some(in_it) = limits::id_of(stray.process.pid) else { return false };
        self.0.iter().any(|(sandbox, id, run)| {
            *id == in_it
                && (*sandbox != stray.sandbox || run.as_ref().is_some_and(|r| *r != stray.process))
                && Cgroups::discover().of(id).holds(stray.process.pid)
        })
    }
}

/// Whether this leftover is a process.
pub(super) fn is_one(leftover: &Leftover) -> bool {
    leftover.id.0.starts_with(PLACE)
}

/// Ends the process that was observed as this leftover, unless a record names it by now.
pub(super) fn prune(scope: &Scope, leftover: &Leftover, deadline: Duration) -> anyhow::Result<()> {
    let boot = leftover.id.0.strip_prefix(PLACE).unwrap_or_default();
    for stray in all(scope, &BTreeSet::new())? {
        if stray.process.boot() == boot {
            stray.end(deadline)?;
        }
    }
    Ok(())
}

/// Ends a process, with its cgroups, which no record names either.
fn put_down(pid: i32, pidfd: &OwnedFd, deadline: Duration) -> anyhow::Result<()> {
    // By what stands in the cgroup, and not by what the process's is called: a name is anybody's.
    let cgroups = limits::id_of(pid).map(|id| Cgroups::discover().of(&id));
    let cgroups = cgroups.filter(|cgroups| cgroups.holds(pid));
    hostside::kill(pidfd, deadline).context("ending what no record names")?;
    if let Some(cgroups) = cgroups {
        cgroups.end(deadline).context("ending what no record names")?;
        cgroups.remove().context("removing the cgroups of what no record names")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_seen_also_when_it_was_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().canonicalize().unwrap();
        let own = std::process::id().cast_signed();
        assert!(!holds(own, &folder));
        let file = fs::File::create(folder.join("main")).unwrap();
        assert!(holds(own, &folder));
        fs::remove_file(folder.join("main")).unwrap();
        assert!(holds(own, &folder));
        // It is no init: nothing happens to it.
        end(&folder, "bottle:nobody", Duration::ZERO).unwrap();
        drop(file);
    }

    #[test]
    fn who_has_claimed_the_files_is_named_and_in_the_way() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join(MAIN);
        assert_eq!(holder(&path), Holder::Nobody);
        let status = File::create(&path).unwrap();
        assert_eq!(holder(&path), Holder::Nobody);
        claim(&status).unwrap();
        assert_eq!(holder(&path), Holder::Is(std::process::id().cast_signed()));
        // Another init refuses to begin, and whoever would start one says why.
        assert!(claim(&File::open(&path).unwrap()).is_err());
        let error = end(temporary.path(), "bottle:nobody", Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(status);
        assert_eq!(holder(&path), Holder::Nobody);
        // What cannot be a lock of ours is nobody's.
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(holder(&path), Holder::Nobody);
    }

    #[test]
    fn a_line_of_locks_names_one_process() {
        let place = "fd:00:42";
        assert_eq!(lock_of("1: FLOCK  ADVISORY  WRITE 77 fd:00:42 0 EOF", place), Some(77));
        for other in [
            "1: POSIX  ADVISORY  WRITE 77 fd:00:42 0 EOF",
            "1: FLOCK  ADVISORY  READ 77 fd:00:42 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 77 fd:00:43 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 77 fd:00:42 0 EOF",
            "1: FLOCK  ADVISORY  WRITE -1 fd:00:42 0 EOF",
            "",
        ] {
            assert_eq!(lock_of(other, place), None, "{other}");
        }
    }
}
