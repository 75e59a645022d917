//! Limits hold: for processes, for memory, and the host does not notice.

use std::fs;
use std::path::PathBuf;

use bottle::model::{Instance, Resources};

/// The folder of the sandbox's cgroup for this controller.
fn cgroup(machine: &Instance, controller: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = format!("bottle-{}", machine.id);
    let fits = |line: &&str| {
        line.contains(" - cgroup2 ")
            || line.contains(" - cgroup ")
                && line.rsplit(' ').next().unwrap().split(',').any(|option| option == controller)
    };
    let points = mounts.lines().filter(fits).filter_map(|line| line.split(' ').nth(4));
    let found = points.map(|point| PathBuf::from(point).join(&name)).find(|path| {
        path.join(format!("{controller}.max")).exists()
            || path.join("cgroup.procs").exists() && !path.join("cgroup.controllers").exists()
    });
    found.unwrap_or_else(|| panic!("no {controller} cgroup of {name}"))
}

/// The limits that the kernel holds a sandbox to.
pub(super) fn of(machine: &Instance) -> Resources {
    let read = |controller: &str, names: &[&str]| -> String {
        let folder = cgroup(machine, controller);
        let text = names.iter().find_map(|name| fs::read_to_string(folder.join(name)).ok());
        text.unwrap_or_else(|| panic!("none of {names:?} in {}", folder.display()))
    };
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    let quota = read("cpu", &["cpu.max", "cpu.cfs_quota_us"]);
    let quota = number(quota.split(' ').next().unwrap());
    Resources {
        millicpus: u32::try_from(quota / 100).unwrap(),
        memory: number(&read("memory", &["memory.max", "memory.limit_in_bytes"])),
        pids: u32::try_from(number(&read("pids", &["pids.max"]))).unwrap(),
        disk: None,
    }
}
