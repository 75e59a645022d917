//! What runs in a container, as this host's kernel tells: neither the engine nor anybody inside is asked. Seen only
//! where the engine's processes are those of this host.
#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of processes")]

use std::collections::BTreeMap;

use super::engine::Engine;
use crate::backend::Process;

/// Where engines have a container's processes, by driver and by version of control groups.
const GROUPS: [(&str, &str); 6] = [
    ("/sys/fs/cgroup/docker/", ""),
    ("/sys/fs/cgroup/system.slice/docker-", ".scope"),
    ("/sys/fs/cgroup/pids/docker/", ""),
    ("/sys/fs/cgroup/systemd/docker/", ""),
    ("/sys/fs/cgroup/pids/system.slice/docker-", ".scope"),
    ("/sys/fs/cgroup/systemd/system.slice/docker-", ".scope"),
];

/// The engine's own init, as the kernel calls it. Where another is the first process, a runtime stands between
/// this host and what runs inside.
const INIT: &str = "docker-init";

/// The processes of a container, by their numbers on this host: 0 is one that cannot be seen from here. `None`:
/// nothing here tells of them.
pub(super) fn of(engine: &Engine, id: &str) -> Option<Vec<u32>> {
    engine.endpoint.socket()?;
    let read = |(before, after): &(&str, &str)| {
        std::fs::read_to_string(format!("{before}{id}{after}/cgroup.procs")).ok()
    };
    let text = GROUPS.iter().find_map(read)?;
    let numbers = text.lines().map(|pid| pid.parse().ok());
    numbers.collect::<Option<Vec<u32>>>().filter(|numbers| !numbers.is_empty())
}

/// The processes of a machine, by their numbers inside. `None`: nothing here tells of them.
pub(super) fn inside(engine: &Engine, id: &str) -> Option<Vec<Process>> {
    let pids = of(engine, id)?;
    if pids.contains(&0) {
        return None;
    }
    // One that has ended meanwhile has no file any more.
    let statuses = pids.iter().filter_map(|pid| {
        Some((*pid, std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?))
    });
    renumbered(&statuses.collect())
}

/// From the `status` of each process, by its number on this host.
fn renumbered(statuses: &BTreeMap<u32, String>) -> Option<Vec<Process>> {
    let number =
        |text: &str, key: &str| field(text, key)?.split_ascii_whitespace().last()?.parse().ok();
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    for (pid, text) in statuses {
        numbers.insert(*pid, number(text, "NSpid:")?);
    }
    let first = numbers.iter().find(|(_, inside)| **inside == 1)?.0;
    if field(&statuses[first], "Name:") != Some(INIT) {
        return None;
    }
    let process = |(pid, text): (&u32, &String)| {
        let parent: u32 = number(text, "PPid:")?;
        Some(Process {
            pid: numbers[pid],
            // Of the first, and of what the engine has started inside, it is outside.
            parent: numbers.get(&parent).copied().unwrap_or_default(),
            ended: field(text, "State:")?.starts_with(['Z', 'X']),
        })
    };
    statuses.iter().map(process).collect()
}

/// A line's value. The kernel escapes line ends in names.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: &str, parent: u32, numbers: &str) -> String {
        format!("Name:\t{name}\nState:\t{state}\nPid:\t1\nPPid:\t{parent}\nNSpid:\t{numbers}\n")
    }

    #[test]
    fn processes_are_numbered_as_inside() {
        let mut all = BTreeMap::from([
            (500, status("docker-init", "S (sleeping)", 400, "500\t1")),
            (502, status("sh", "S (sleeping)", 500, "502\t7")),
            (503, status("a\\nNSpid:\\t1", "Z (zombie)", 502, "503\t8")),
            (600, status("claude", "R (running)", 400, "600\t9")),
        ]);
        let process = |pid, parent, ended| Process { pid, parent, ended };
        let expected =
            [process(1, 0, false), process(7, 1, false), process(8, 7, true), process(9, 0, false)];
        assert_eq!(renumbered(&all).unwrap(), expected);
        // What the kernel tells of a runtime's own processes is nothing of what runs in its sandbox.
        all.insert(500, status("runsc-sandbox", "S (sleeping)", 400, "500\t1"));
        assert_eq!(renumbered(&all), None);
        all.remove(&500);
        assert_eq!(renumbered(&all), None);
        all.insert(500, "Name:\tdocker-init\n".to_owned());
        assert_eq!(renumbered(&all), None, "an old kernel tells no numbers of inside");
    }
}
