//! Limits: by cgroup v2 or v1 where one can be made, by rlimits else.

#![expect(clippy::disallowed_methods, reason = "cgroups are files")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use crate::backend::durable::about;
use crate::model::{Resources, Usage};

/// What a limit is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// One place where cgroups can be made, and what they limit there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// The folder that a sandbox's cgroup is made in.
    parent: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

/// Where this machine lets us make cgroups.
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Looks at what is mounted and may be written.
    pub(super) fn discover() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        let root = rustix::process::geteuid().is_root();
        Self::among(&mounts, &own, &Rights { root, writable: &writable })
    }

    /// Those of `mounts` (a `mountinfo`) where a process that stands in `own` (a `/proc/PID/cgroup`)
    /// can make cgroups.
    fn among(mounts: &str, own: &str, rights: &Rights<'_>) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let taken = |hierarchies: &[Hierarchy], controller: Controller| {
            hierarchies.iter().any(|h| h.controllers.contains(&controller))
        };
        for mount in mounts.lines().filter_map(CgroupMount::parse) {
            let (parent, mut controllers) = if mount.unified {
                let Some(found) = unified_parent(&mount, own, rights) else { continue };
                found
            } else {
                (mount.point.clone(), mount.controllers.clone())
            };
            controllers.retain(|controller| !taken(&hierarchies, *controller));
            if !controllers.is_empty() && (rights.writable)(&parent) {
                hierarchies.push(Hierarchy { parent, unified: mount.unified, controllers });
            }
        }
        Self { hierarchies }
    }

    fn limits(&self, controller: Controller) -> bool {
        self.hierarchies.iter().any(|h| h.controllers.contains(&controller))
    }

    /// The limits that cannot be enforced here, each as a sentence.
    pub(super) fn unenforced(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.limits(Controller::Memory) {
            sentences.push(
                "resources.memory holds for each process alone, not for the sandbox: no memory \
                 cgroup can be made here"
                    .to_owned(),
            );
        }
        if !self.limits(Controller::Cpu) {
            sentences
                .push("resources.cpus is not enforced: no cpu cgroup can be made here".to_owned());
        }
        sentences.push(
            "resources.disk holds for each file alone, not for the sandbox: its files lie in the \
             state folder's file system"
                .to_owned(),
        );
        sentences
    }

    /// The cgroups of the sandbox with this id, whether they exist or not.
    pub(super) fn of(&self, id: &str) -> SandboxCgroups {
        let name = format!("bottle-{id}");
        SandboxCgroups(
            self.hierarchies
                .iter()
                .map(|h| Hierarchy { parent: h.parent.join(&name), ..h.clone() })
                .collect(),
        )
    }
}

/// The id of the sandbox in whose cgroup this process is; of a sidecar or gate, what its cgroup is called by.
pub(super) fn id_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let id = text.lines().find_map(|line| line.rsplit_once("/bottle-").map(|(_, id)| id))?;
    let digits = ["sidecar-", "gate-"].iter().find_map(|role| id.strip_prefix(role)).unwrap_or(id);
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| id.to_owned())
}

/// The cgroups of one sandbox.
#[derive(Debug, Clone, Default)]
pub(super) struct SandboxCgroups(Vec<Hierarchy>);

impl SandboxCgroups {
    /// Makes them, with these limits; those that exist get them too.
    pub(super) fn make(&self, resources: &Resources) -> io::Result<()> {
        for cgroup in &self.0 {
            match fs::create_dir(&cgroup.parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(about(&cgroup.parent, &error));
                }
                _ => {}
            }
            for controller in &cgroup.controllers {
                set(cgroup, *controller, resources)?;
            }
        }
        Ok(())
    }

    /// Puts the processes in them under these limits.
    pub(super) fn set(&self, resources: &Resources) -> io::Result<()> {
        for cgroup in &self.0 {
            for controller in &cgroup.controllers {
                set(cgroup, *controller, resources)?;
            }
        }
        Ok(())
    }

    /// Whether what runs in them could go on under these limits: the kernel would kill for a limit that is
    /// below what is in use.
    pub(super) fn make_room(&self, resources: &Resources) -> io::Result<()> {
        let memory = self.0.iter().find(|c| c.controllers.contains(&Controller::Memory));
        let Some(memory) = memory else { return Ok(()) };
        let text = fs::read_to_string(memory.parent.join("memory.stat")).unwrap_or_default();
        let used = in_use(&text);
        if used <= resources.memory {
            return Ok(());
        }
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        Err(io::Error::other(format!(
            "its processes use {} and the new limit is {}: nothing was changed; end some of them, or \
             set a higher `resources.memory`",
            mib(used),
            mib(resources.memory)
        )))
    }

    /// Makes them, with no limits of their own.
    pub(super) fn make_unlimited(&self) -> io::Result<()> {
        for cgroup in &self.0 {
            match fs::create_dir(&cgroup.parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(about(&cgroup.parent, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that a process joins them by, opened now: after entering a sandbox they are out
    /// of reach.
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        let open = |cgroup: &Hierarchy| {
            let path = cgroup.parent.join("cgroup.procs");
            File::options().write(true).open(&path).map_err(|error| about(&path, &error))
        };
        self.0.iter().map(open).collect()
    }

    /// What the processes in them use; the limits are those that hold for all of them together.
    pub(super) fn usage(&self, limits: &Resources) -> Usage {
        let mut usage = Usage::default();
        for cgroup in &self.0 {
            let read = |name: &str| fs::read_to_string(cgroup.parent.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            for controller in &cgroup.controllers {
                match controller {
                    Controller::Memory => {
                        usage.memory_bytes = read("memory.stat").map(|stat| in_use(&stat));
                        usage.memory_limit_bytes = usage.memory_bytes.map(|_| limits.memory);
                    }
                    Controller::Pids => {
                        usage.pids = number("pids.current");
                        usage.pids_limit = usage.pids.map(|_| limits.pids.into());
                    }
                    Controller::Cpu if cgroup.unified => {
                        usage.cpu_milliseconds = read("cpu.stat").and_then(|stat| {
                            let line = stat.lines().find_map(|it| it.strip_prefix("usage_usec "));
                            Some(line?.trim().parse::<u64>().ok()? / 1000)
                        });
                    }
                    // Only where it is mounted together with the other.
                    Controller::Cpu => {
                        usage.cpu_milliseconds = number("cpuacct.usage").map(|ns| ns / 1_000_000);
                    }
                }
            }
        }
        usage
    }

    /// The counter of processes that were killed for memory.
    pub(super) fn oom_counter(&self) -> Option<OomCounter> {
        let memory = self.0.iter().find(|c| c.controllers.contains(&Controller::Memory))?;
        let (name, limit) = match memory.unified {
            true => ("memory.events", "memory.max"),
            false => ("memory.oom_control", "memory.limit_in_bytes"),
        };
        let open = |name: &str| File::open(memory.parent.join(name)).ok();
        Some(OomCounter { killed: open(name)?, limit: open(limit)? })
    }

    /// Removes them. Their processes are dead; the kernel may still be putting them away.
    pub(super) fn remove(&self) -> io::Result<()> {
        for cgroup in &self.0 {
            let mut tries = 0;
            loop {
                match fs::remove_dir(&cgroup.parent) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < 200 => {
                        tries += 1;
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    Err(error) => return Err(about(&cgroup.parent, &error)),
                }
            }
        }
        Ok(())
    }

    /// The processes in them, as the host counts.
    fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        for cgroup in &self.0 {
            let path = cgroup.parent.join("cgroup.procs");
            match fs::read_to_string(&path) {
                Ok(text) => found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(about(&path, &error)),
            }
        }
        found.retain(|pid| *pid > 0);
        Ok(found)
    }

    /// Whether this process is in them, in all that there are.
    pub(super) fn holds(&self, pid: i32) -> bool {
        let line = pid.to_string();
        let has = |cgroup: &Hierarchy| {
            let text = fs::read_to_string(cgroup.parent.join("cgroup.procs")).unwrap_or_default();
            text.lines().any(|found| found == line)
        };
        !self.0.is_empty() && self.0.iter().all(has)
    }

    /// Ends whatever runs in them, which no receipt names, and waits for its end.
    pub(super) fn end(&self, patience: Duration) -> io::Result<()> {
        self.end_but(None, patience)
    }

    /// Ends whatever runs in them but this process, and waits for its end.
    pub(super) fn end_but(&self, spared: Option<i32>, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        loop {
            let mut processes = self.processes()?;
            processes.retain(|pid| Some(*pid) != spared);
            if processes.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                let first = processes.first().copied().unwrap_or_default();
                return Err(io::Error::other(format!(
                    "process {first} does not end; it is in the sandbox's cgroup"
                )));
            }
            for pid in processes {
                let Some(number) = Pid::from_raw(pid) else { continue };
                // Opened first, then compared: the number may have become another's.
                let Ok(pidfd) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else {
                    continue;
                };
                if self.processes()?.contains(&pid) {
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is set now and differs from `resources`: field, found, wanted.
    pub(super) fn drift(&self, resources: &Resources) -> Vec<(String, String, String)> {
        let mut drift = Vec::new();
        for cgroup in &self.0 {
            for controller in &cgroup.controllers {
                for (file, wanted) in settings(cgroup.unified, *controller, resources) {
                    let Ok(found) = fs::read_to_string(cgroup.parent.join(file)) else { continue };
                    if !same(found.trim(), &wanted) {
                        let field = match controller {
                            Controller::Memory => "resources.memory",
                            Controller::Pids => "resources.pids",
                            Controller::Cpu => "resources.cpus",
                        };
                        drift.push((field.to_owned(), found.trim().to_owned(), wanted));
                    }
                }
            }
        }
        drift
    }
}

/// What of a cgroup's memory cannot be dropped, by its `memory.stat`: v1 calls it otherwise.
fn in_use(stat: &str) -> u64 {
    let of = |name: &str| -> Option<u64> {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(found, _)| *found == name)?.1.trim().parse().ok()
    };
    let anonymous = of("anon").or_else(|| of("total_rss")).unwrap_or(0);
    anonymous + of("shmem").or_else(|| of("total_shmem")).unwrap_or(0)
}

/// How many processes of a sandbox were killed because its memory was used up.
#[derive(Debug)]
pub(super) struct OomCounter {
    killed: File,
    limit: File,
}

impl OomCounter {
    pub(super) fn read(&self) -> u64 {
        let mut text = [0; 1024];
        let length = self.killed.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The limit that is in force now.
    pub(super) fn limit(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.limit.read_at(&mut text, 0).ok()?;
        String::from_utf8_lossy(&text[..length]).trim().parse().ok()
    }

    pub(super) fn files(&self) -> [&File; 2] {
        [&self.killed, &self.limit]
    }
}

/// The limits that a process carries itself, and gives to all that it starts.
pub(super) fn set_rlimits(resources: &Resources, cgroups: &Cgroups) -> io::Result<()> {
    let both = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    let lower = |resource: Resource, limit: u64| {
        let held = rustix::process::getrlimit(resource);
        let maximum = held.maximum.map_or(limit, |held| held.min(limit));
        rustix::process::setrlimit(resource, both(maximum))
    };
    // 0 forbids the file, but not the host's handler of core dumps (`|…` in core_pattern), which runs
    // as the host's root on what a sandbox feeds it. The kernel refuses both at 1.
    lower(Resource::Core, 1)?;
    // Half of what the operator may have: see `call::raise_descriptors`.
    let most = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    lower(Resource::Nofile, (most / 2).clamp(1, 1 << 20))?;
    if !cgroups.limits(Controller::Pids) {
        lower(Resource::Nproc, u64::from(resources.pids))?;
    }
    if !cgroups.limits(Controller::Memory) {
        lower(Resource::Data, resources.memory)?;
    }
    if let Some(disk) = resources.disk {
        lower(Resource::Fsize, disk)?;
    }
    Ok(())
}

const CPU_PERIOD: u64 = 100_000;

/// The files of a cgroup and what stands in them.
fn settings(
    unified: bool,
    controller: Controller,
    resources: &Resources,
) -> Vec<(&'static str, String)> {
    let memory = resources.memory.to_string();
    let quota = (u64::from(resources.millicpus) * CPU_PERIOD / 1000).max(1000);
    match (controller, unified) {
        (Controller::Memory, true) => {
            vec![("memory.max", memory), ("memory.swap.max", "0".to_owned())]
        }
        // In this order: the sum with swap may not be below the limit without.
        (Controller::Memory, false) => {
            vec![("memory.limit_in_bytes", memory.clone()), ("memory.memsw.limit_in_bytes", memory)]
        }
        (Controller::Pids, _) => vec![("pids.max", resources.pids.to_string())],
        (Controller::Cpu, true) => vec![("cpu.max", format!("{quota} {CPU_PERIOD}"))],
        (Controller::Cpu, false) => vec![
            ("cpu.cfs_period_us", CPU_PERIOD.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
        ],
    }
}

fn set(cgroup: &Hierarchy, controller: Controller, resources: &Resources) -> io::Result<()> {
    for (file, value) in settings(cgroup.unified, controller, resources) {
        let path = cgroup.parent.join(file);
        match write(&path, &value) {
            // Kernels without swap accounting have no file for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.contains("sw") => {}
            // Already at the limit with swap: it is lowered after, and raised before.
            Err(error) if file == "memory.limit_in_bytes" => {
                write(&cgroup.parent.join("memory.memsw.limit_in_bytes"), &value)
                    .and_then(|()| write(&path, &value))
                    .map_err(|_| about(&path, &error))?;
            }
            result => result.map_err(|error| about(&path, &error))?,
        }
    }
    Ok(())
}

/// Writes to a file of a cgroup. The kernel makes these; to create one that it does not have is
/// answered with `EACCES`, as if it were there and not ours.
fn write(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

/// Whether a cgroup file holds what was written: memory is rounded down to pages.
fn same(found: &str, wanted: &str) -> bool {
    match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) => found == wanted || found == wanted / 4096 * 4096,
        _ => found == wanted,
    }
}

/// What a process may do to the folders of cgroups.
struct Rights<'a> {
    root: bool,
    writable: &'a dyn Fn(&Path) -> bool,
}

struct CgroupMount {
    /// Which part of the hierarchy is mounted.
    root: String,
    point: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

impl CgroupMount {
    /// From a line of `mountinfo`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let unified = match kind.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = kind.nth(1)?;
        let mut mount = mount.split(' ').skip(3);
        let root = mount.next()?.to_owned();
        let point = PathBuf::from(mount.next()?);
        let controllers = Controller::ALL
            .into_iter()
            .filter(|c| !unified && options.split(',').any(|option| option == c.name()))
            .collect();
        Some(Self { root, point, unified, controllers })
    }
}

/// On v2: the nearest cgroup above us that may be written and hands its controllers down. As root
/// that is the top; an ordinary user has what was delegated to it.
fn unified_parent(
    mount: &CgroupMount,
    own: &str,
    rights: &Rights<'_>,
) -> Option<(PathBuf, Vec<Controller>)> {
    let handed_down = |path: &Path| -> Vec<Controller> {
        let listed = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |c: &Controller| listed.split_ascii_whitespace().any(|name| name == c.name());
        Controller::ALL.into_iter().filter(has).collect()
    };
    if rights.root && (rights.writable)(&mount.point) {
        let already = handed_down(&mount.point);
        for controller in Controller::ALL.iter().filter(|c| !already.contains(c)) {
            // Refused where processes stand in this very cgroup, as in a container.
            let file = mount.point.join("cgroup.subtree_control");
            let _ = write(&file, &format!("+{}", controller.name()));
        }
        return Some((mount.point.clone(), handed_down(&mount.point)));
    }
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Outside of what is mounted, or of this cgroup namespace (`/../…`), nothing is ours.
    let own = Path::new(own).strip_prefix(&mount.root).ok()?;
    if !own.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    // To move a process there takes the right to write to what is above both.
    let ours = |path: &Path| [path, &path.join("cgroup.procs")].into_iter().all(rights.writable);
    mount
        .point
        .join(own)
        .ancestors()
        .take_while(|path| path.starts_with(&mount.point))
        .filter(|path| ours(path))
        .map(|path| (path.to_owned(), handed_down(path)))
        .find(|(_, controllers)| !controllers.is_empty())
}

#[cfg(test)]
mod tests;
