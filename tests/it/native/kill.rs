//! kill -9 at any moment leaves nothing that is not seen, and the next try goes through.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bottle::backend::{Backend, Depth, ExecSpec, Progress};
use bottle::model::{InstanceState, ResourceSpec};

use super::support::{Corner, machine, program};

/// What this program does when it is started again by the test below: one life of a sandbox, over
/// and over, until it is killed.
const FOLDER: &str = "BOTTLE_TEST_KILLED";

/// Not a test by itself: started by the one below, in the folder that it names.
#[tokio::test]
async fn lives_of_a_sandbox() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let corner = std::mem::ManuallyDrop::new(Corner::in_folder(folder.as_ref()));
    let mut spec = machine("ada");
    spec.command = vec!["sleep".to_owned(), "1000".to_owned()];
    loop {
        let made = corner.create(&spec).await;
        let started = corner.start(&made).await;
        assert_eq!(corner.sh(&started, "true").await.code, 0);
        corner.teardown(&started).await;
    }
}

/// Processes of the host whose name is init's.
fn inits() -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.contains("(bottle-init) ") && !stat.contains("(bottle-init) Z"))
    })
    .collect()
}

/// Those of them that write to a file of a sandbox of this corner: their mounts tell nothing.
fn inits_of(corner: &Corner) -> usize {
    let ours = |pid: &i32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|path| path.starts_with(corner.beside()))
    };
    inits().iter().filter(|pid| ours(pid)).count()
}

/// X19: what is left is removed, and the next run goes through.
#[tokio::test(flavor = "multi_thread")]
async fn at_fifty_moments() {
    let corner = Corner::new();
    let lives = |corner: &Corner| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "native::kill::lives_of_a_sandbox"])
            .env(FOLDER, corner.beside())
            .env(super::support::PROGRAM, program())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    // With a second one, what sandboxes share is made once, and lives are short.
    let bob = corner.run(&machine("bob")).await;
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..50u32 {
        let mut child = lives(&corner);
        // Spread over several lives, which take tens of milliseconds each.
        tokio::time::sleep(Duration::from_micros(20_000 + u64::from(round) * 3_700)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // Its helper dies with it, and with that an init that was not ready.
        let began = Instant::now();
        let observed = loop {
            let observed = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap();
            let running =
                observed.instances.iter().filter(|i| i.state == InstanceState::Running).count();
            if inits_of(&corner) == running {
                break observed;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "round {round}: {observed:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let state =
            observed.instances.first().map_or("nothing".to_owned(), |i| format!("{:?}", i.state));
        *seen.entry(state).or_default() += 1;
        for leftover in &observed.leftovers {
            corner.backend.prune(&corner.scope, leftover).await.unwrap();
        }
        // What a reconciler does next goes through.
        let mut spec = machine("ada");
        spec.command = vec!["sleep".to_owned(), "1000".to_owned()];
        corner.backend.prepare(&corner.scope, &spec, &Progress::silent()).await.unwrap();
        let made =
            corner.backend.create(&corner.scope, &ResourceSpec::Machine(spec)).await.unwrap();
        let started = corner.start(&made).await;
        assert_eq!(corner.sh(&started, "true").await.code, 0);
        corner.teardown(&started).await;
        assert_eq!(inits_of(&corner), 1);
    }
    println!("killed at: {seen:?}");
    assert!(seen.len() > 1, "the moments were all alike: {seen:?}");
    assert_eq!(corner.say(&bob, "echo lives").await, "lives");
    corner.wipe().await;
    assert_nothing_left(&corner);
}

/// No mount, no cgroup, no file: but the locks, and one copy of the shared `/etc` for the next.
fn assert_nothing_left(corner: &Corner) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = corner.beside().to_str().unwrap();
    assert!(!mounts.contains(folder), "{mounts}");
    let names = |folder: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let native = corner.scope.data.join("native");
    let mut left = names(&native);
    left.retain(|name| name != ".lock" && name != ".bases-lock" && name != ".bases");
    assert!(left.is_empty(), "{left:?}");
    let copies = names(&native.join(".bases"));
    assert!(copies.len() <= 1, "{copies:?}");
}

#[tokio::test]
async fn an_init_that_is_killed_is_a_stopped_sandbox() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    corner
        .say(&on, "echo kept > $HOME/note; echo kept > /tmp/note; (sleep 600 >/dev/null 2>&1 &)")
        .await;
    let before = corner.cgroups(&on);
    let pid = rustix::process::Pid::from_raw(corner.init(&on)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let began = Instant::now();
    while corner.only().await.state == InstanceState::Running {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    let stopped = corner.only().await;
    assert_eq!(stopped.state, InstanceState::Stopped { code: None });
    let again = corner.start(&stopped).await;
    assert_ne!(again.boot, on.boot);
    assert_eq!(corner.say(&again, "cat $HOME/note /tmp/note").await, "kept\nkept");
    assert_eq!(corner.cgroups(&again), before, "the same cgroups again");
    corner.teardown(&again).await;
    assert!(corner.cgroups(&again).is_empty());
    corner.wipe().await;
    assert_nothing_left(&corner);
}

/// What ends with its sandbox has no exit code of its own; what is killed by itself has.
#[tokio::test]
async fn a_command_that_ends_with_its_sandbox_has_no_exit_code() {
    let corner = Corner::new();
    let mut ada = corner.run(&machine("ada")).await;
    assert_eq!(corner.sh(&ada, "kill -9 $$").await.code, 137);
    let spec = ExecSpec::new(["sh", "-c", "while :; do sleep 0.01; done"]);
    for round in 0..8 {
        let loops: Vec<_> = (0..4)
            .map(|_| corner.backend.exec(&corner.scope, &ada, &spec, bytes::Bytes::new()))
            .collect();
        let init = corner.init(&ada);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(20 + 15 * round)).await;
            let pid = rustix::process::Pid::from_raw(init).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        let (ended, ()) = tokio::join!(futures_util::future::join_all(loops), kill);
        for ended in ended {
            assert!(ended.is_err(), "{round}: {ended:?}");
        }
        ada = corner.start(&ada).await;
    }
    corner.wipe().await;
}

#[tokio::test]
async fn a_reused_pid_is_not_a_running_sandbox() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let path = corner.scope.data.join("native/ada/run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut run: serde_json::Value = serde_json::from_str(&text).unwrap();
    run["start_time"] = 1.into();
    let other_start = run.to_string();
    // Of another start of the host nothing runs.
    run["start_time"] =
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["start_time"].clone();
    run["host_boot"] = "00000000-0000-0000-0000-000000000000".into();
    let other_host = run.to_string();
    // The init that is on these files says so itself.
    for receipt in [&other_start, &other_host, &text] {
        std::fs::write(&path, receipt).unwrap();
        let seen = corner.only().await;
        assert_eq!((seen.state, seen.boot), (InstanceState::Running, on.boot.clone()), "{receipt}");
    }
    for name in ["main", "main.same"] {
        std::fs::write(path.with_file_name(name), "").unwrap();
    }
    for receipt in [&other_start, &other_host] {
        std::fs::write(&path, receipt).unwrap();
        assert_eq!(corner.only().await.state, InstanceState::Stopped { code: None }, "{receipt}");
    }
    std::fs::write(&path, &text).unwrap();
    corner.wipe().await;
}

#[tokio::test]
async fn a_base_goes_with_the_last_that_stands_on_it() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let bases = corner.scope.data.join("native/.bases");
    let names = || {
        let entries = std::fs::read_dir(&bases).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // As if the host had changed, and another sandbox had been made since.
    std::fs::create_dir(bases.join("newer")).unwrap();
    let bob = corner.create(&machine("bob")).await;
    corner.teardown(&bob).await;
    assert_eq!(names().len(), 2);
    assert_eq!(corner.say(&on, "ls /etc/profile").await, "/etc/profile");
    let seen = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap();
    assert!(seen.leftovers.is_empty(), "{seen:#?}");
    corner.teardown(&on).await;
    assert_eq!(names(), ["newer"]);
    corner.wipe().await;
}

#[tokio::test]
async fn half_of_a_sandbox_is_seen_and_removed() {
    let corner = Corner::new();
    let native = corner.scope.data.join("native");
    std::fs::create_dir_all(native.join("ada/upper/root/etc")).unwrap();
    std::fs::create_dir_all(native.join(".making-x/root")).unwrap();
    std::fs::create_dir_all(native.join(".removing-x/work/work")).unwrap();
    let seen = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap();
    // Its files are there and its record is not: whose they are is not known.
    let InstanceState::Unknown(why) = &seen.instances[0].state else { panic!("{seen:#?}") };
    assert!(why.contains("native/ada/machine.json is missing"), "{why}");
    assert_eq!(seen.leftovers.len(), 2);
    corner.wipe().await;
    assert_nothing_left(&corner);
}
