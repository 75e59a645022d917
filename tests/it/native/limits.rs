//! Limits hold: for processes, for memory, and the host does not notice.

use std::fs;
use std::path::PathBuf;

use bottle::backend::{Backend, Depth, ExecUser, MainState};
use bottle::model::{Instance, MachineSpec, Resources, Restart};

use super::support::{Corner, machine, text};

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

#[tokio::test]
async fn a_fork_bomb_hits_its_limit() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let bomb = "my $n = 0; while ($n < 500) { my $p = fork; if (!defined $p) { print \"limit after $n: $!\"; \
                last } if (!$p) { sleep 20; exit } $n++ } kill 'KILL', -$$ if 0; \
                print 'no limit' if $n == 500;";
    let output = corner.exec_as(ExecUser::Sandbox, &on, &["perl", "-e", bomb]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let count: u32 = said
        .strip_prefix("limit after ")
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{}", text(&output)));
    assert!(count < 64, "{said}");
    // The host does not notice, nor does another sandbox.
    assert!(std::process::Command::new("true").status().unwrap().success());
    let bob = corner.run(&machine("bob")).await;
    assert_eq!(corner.say(&bob, "echo lives").await, "lives");
    corner.wipe().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_and_reported() {
    let corner = Corner::new();
    let greedy = "my $x = 'a' x (600 << 20); print length $x";
    let mut spec = machine("ada");
    spec.command = ["perl", "-e", greedy].map(str::to_owned).to_vec();
    spec.restart = Restart::Never;
    let on = corner.run(&spec).await;
    let output = corner.exec_as(ExecUser::Sandbox, &on, &["perl", "-e", greedy]).await;
    assert_ne!(output.code, 0, "{}", text(&output));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let by_cgroup =
        corner.cgroups(&on).iter().any(|path| path.to_string_lossy().contains("memory"));
    if by_cgroup {
        assert_eq!(output.code, 137);
        assert!(stderr.contains("killed for memory: the limit of 256M"), "{stderr}");
    } else {
        assert!(stderr.contains("Out of memory"), "{stderr}");
    }
    assert_eq!(corner.say(&on, "echo lives").await, "lives");

    corner.ready(&on).await;
    let state = corner.main_becomes(&on, |state| matches!(state, MainState::Failed(_))).await;
    if by_cgroup {
        assert_eq!(state, MainState::Failed(137));
        let log = corner.log(&on).await;
        assert!(log.contains("bottle: killed for memory: the limit of 256M was reached"), "{log}");
    }
    corner.wipe().await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_said() {
    let corner = Corner::new();
    let seen = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap();
    let said = seen.facts.unenforced;
    let on = corner.run(&machine("ada")).await;
    let by_cgroup = !corner.cgroups(&on).is_empty();
    assert_eq!(said.iter().any(|s| s.starts_with("resources.memory")), !by_cgroup, "{said:?}");
    assert!(said.iter().any(|s| s.starts_with("resources.disk")), "{said:?}");
    let big = "head -c 3000000 /dev/zero > /tmp/big";
    assert_eq!(corner.sh(&on, big).await.code, 0);
    let bounded = MachineSpec {
        resources: Resources { disk: Some(1 << 20), ..machine("bob").resources },
        ..machine("bob")
    };
    let bob = corner.run(&bounded).await;
    assert_ne!(corner.sh(&bob, big).await.code, 0);
    corner.wipe().await;
}

#[tokio::test]
async fn changed_limits_hold_at_once_or_for_what_is_started_next() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let other = Resources { memory: 320 << 20, pids: 80, ..machine("ada").resources };
    let adjusted = corner.backend.adjust(&corner.scope, &on, &other, &Default::default()).await;
    adjusted.unwrap();
    if corner.cgroups(&on).is_empty() {
        // Each process carries its own: those of what runs stay, as far as they hold.
        assert_eq!(corner.say(&on, "ulimit -d").await, (320 << 10).to_string());
        corner.wipe().await;
        return;
    }
    assert_eq!(of(&on), other);
    // What somebody else set is seen, and set right in place.
    let pids = cgroup(&on, "pids").join("pids.max");
    fs::write(&pids, "77").unwrap();
    let seen =
        corner.backend.observe(&corner.scope, Depth::Deep).await.unwrap().instances.remove(0);
    assert_eq!((seen.drift.len(), seen.mendable.len()), (0, 1), "{seen:?}");
    assert_eq!(seen.mendable[0].path, "resources.pids");
    corner.backend.mend(&corner.scope, &seen).await.unwrap();
    assert_eq!(of(&on), other);
    corner.wipe().await;
}

/// The kernel would kill for it.
#[tokio::test]
async fn a_limit_below_what_is_in_use_is_refused_and_kills_nothing() {
    let corner = Corner::new();
    let mut spec = machine("ada");
    let greedy = "my $x = 'a' x (100 << 20); sleep 1000";
    spec.command = ["perl", "-e", greedy].map(str::to_owned).to_vec();
    let on = corner.run(&spec).await;
    if corner.cgroups(&on).is_empty() {
        corner.wipe().await;
        return;
    }
    corner.ready(&on).await;
    corner.main_becomes(&on, |state| *state == MainState::Running).await;
    let stat = cgroup(&on, "memory").join("memory.stat");
    let anonymous = |text: &str| {
        let names = ["anon ", "total_rss "];
        text.lines()
            .find_map(|line| names.iter().find_map(|name| line.strip_prefix(name)?.parse().ok()))
    };
    while anonymous(&fs::read_to_string(&stat).unwrap()).unwrap_or(0_u64) < 100 << 20 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let small = Resources { memory: 64 << 20, ..spec.resources };
    let refused =
        corner.backend.adjust(&corner.scope, &on, &small, &Default::default()).await.unwrap_err();
    let refused = format!("{:#}", anyhow::Error::from(refused));
    assert!(refused.contains("nothing was changed") && refused.contains("64 MiB"), "{refused}");
    assert_eq!(of(&on), spec.resources);
    corner.main_becomes(&on, |state| *state == MainState::Running).await;
    corner.wipe().await;
}
