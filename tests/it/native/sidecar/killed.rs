//! kill -9, of whatever there is, at whatever moment.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use bottle::backend::{Backend, Depth};
use bottle::model::{InstanceState, ResourceKind};

use super::{alive, connected};
use crate::native::support::{Corner, PROGRAM, program};
use crate::support::Far;

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn the_sidecar() {
    let (corner, far) = (Corner::new(), Far::new());
    let first = corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let pid = corner.process("ada");
    kill(pid);
    until("it dies", || !alive(pid)).await;
    let seen = corner.seen("ada").await;
    assert_eq!((&seen.state, &seen.boot), (&InstanceState::Stopped { code: None }, &None));
    assert!(seen.mendable.is_empty(), "it is started, which attaches its machine");
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "000");
    let again = corner.start(&seen).await;
    assert_eq!(again.id, first.id);
    assert_ne!(again.boot, first.boot, "a new run: what was loaded is lost");
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "503");
    corner.load(&again, &far, &["allowed.test"]).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}

#[tokio::test]
async fn whoever_watches_is_told() {
    use futures_util::StreamExt;
    let (corner, far) = (Corner::new(), Far::new());
    let sidecar = corner.way_out("ada", &far, &[]).await;
    let mut hints = corner.backend.events(&corner.scope).await.unwrap();
    let mut told = async |wanted: &str| {
        let heard = async {
            while let Some(hint) = hints.next().await {
                if hint.unwrap().what == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect(wanted);
    };
    kill(corner.process("ada"));
    told("sidecar ada ended").await;
    corner.start(&sidecar).await;
    told("sidecar ada came or was started").await;
    corner.teardown(&sidecar).await;
    told("sidecar ada went").await;
    corner.wipe().await;
}

#[tokio::test]
async fn the_machine() {
    let (corner, far) = (Corner::new(), Far::new());
    let sidecar = corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let process = corner.process("ada");
    for _ in 0..3 {
        assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
        let sockets = sockets(process);
        kill(corner.init(&ada));
        until("the socket of a dead machine is closed", || {
            sockets.is_none() || self::sockets(process) < sockets
        })
        .await;
        assert_eq!(corner.seen("ada").await, sidecar, "it stays as it is");
        corner.start(&ada).await;
        assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    }
    corner.wipe().await;
}

/// How many sockets a process has open; `None` where that is not ours to see.
fn sockets(pid: i32) -> Option<usize> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Some(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}

/// What this program does when it is started again by the test below: one life of a sidecar and its
/// machine, over and over, until it is killed.
const FOLDER: &str = "BOTTLE_TEST_KILLED_SIDECAR";

/// Not a test by itself: started by the one below, in the folder that it names.
#[tokio::test]
async fn lives_of_a_sidecar() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let corner = std::mem::ManuallyDrop::new(Corner::in_folder(folder.as_ref()));
    let far = Far::new();
    let machine = corner.create(&connected("ada")).await;
    let machine = corner.start(&machine).await;
    loop {
        let sidecar = corner.way_out("ada", &far, &["allowed.test"]).await;
        assert_eq!(corner.get(&machine, "http://allowed.test/").await.0, "200");
        corner.teardown(&sidecar).await;
    }
}

/// Sidecars, of whatever corner, that live.
fn all() -> BTreeSet<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| pair == [b"sidecar", &b"serve"[..]]) && alive(*pid)
    };
    pids.filter(ours).collect()
}

/// Those of them that stand in this corner.
fn of(corner: &Corner) -> BTreeSet<i32> {
    let folder = corner.scope.data.canonicalize().unwrap();
    let ours = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
    };
    all().into_iter().filter(ours).collect()
}

/// X19: no sidecar is left without a record.
#[tokio::test(flavor = "multi_thread")]
async fn bottle_at_forty_moments() {
    let corner = Corner::new();
    let far = Far::new();
    let mut seen = BTreeSet::new();
    for round in 0..40_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "native::sidecar::killed::lives_of_a_sidecar"])
            .env(FOLDER, corner.beside())
            .env(PROGRAM, program())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(60 + round * 17)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // One at the gate ends when it sees that nobody will open it.
        let named = || -> Option<i32> {
            let text = std::fs::read(corner.folder("ada").join("run.json")).ok()?;
            let run: serde_json::Value = serde_json::from_slice(&text).ok()?;
            i32::try_from(run["process"]["pid"].as_i64()?).ok()
        };
        until("a process that no record names is left", || {
            of(&corner).iter().all(|pid| named() == Some(*pid))
        })
        .await;
        let observed = corner.backend.observe(&corner.scope, Depth::Deep).await.unwrap();
        let sidecar = observed.instances.iter().find(|i| i.resource == ResourceKind::Sidecar);
        seen.insert(sidecar.map_or("none".to_owned(), |sidecar| {
            format!("{:?}", sidecar.state).split(['(', ' ']).next().unwrap_or_default().to_owned()
        }));
        // The next try goes through: on top of what there is, or anew.
        if let Some(broken) = sidecar.filter(|i| matches!(i.state, InstanceState::Broken(_))) {
            corner.teardown(broken).await;
        }
        let machine = corner.run(&connected("ada")).await;
        corner.way_out("ada", &far, &["allowed.test"]).await;
        for found in corner.observe(Depth::Deep).await {
            if !found.mendable.is_empty() {
                corner.backend.mend(&corner.scope, &found).await.unwrap();
            }
        }
        assert_eq!(corner.get(&machine, "http://allowed.test/").await.0, "200");
        corner.wipe().await;
        assert_eq!(of(&corner), BTreeSet::new());
    }
    assert!(seen.len() > 1, "it was always killed at the same moment: {seen:?}");
}
