//! The machine's `command`.

use std::time::Duration;

use bottle::backend::{LogOptions, MainState, Upload};
use bottle::model::{Instance, MachineSpec, Main, Restart};
use bytes::Bytes;

use super::ENV_REPLACE;
use super::tarball::{file, folder, pack};
use super::{Fixture, ada, create, eventually, exec, machine, running, start};

/// A machine with this command, started.
async fn with_command(f: &dyn Fixture, command: &[&str], restart: Restart) -> Instance {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let spec = MachineSpec { command, restart, ..machine(f, ada()) };
    start(f, &create(f, &spec).await).await
}

/// What the end of provisioning does.
async fn ready(f: &dyn Fixture, machine: &Instance) {
    let tar = pack(&[("etc/bottle", folder(0o755, 0)), ("etc/bottle/ready", file("", 0o644, 0))]);
    let upload = Upload { tar, ..Upload::default() };
    f.backend().copy_in(f.scope(), machine, upload).await.expect("copying in");
}

async fn state(f: &dyn Fixture, machine: &Instance) -> Option<MainState> {
    f.backend().main_state(f.scope(), machine).await.expect("it runs")
}

async fn becomes(f: &dyn Fixture, machine: &Instance, expected: MainState) {
    let mut last = None;
    for _ in 0..200 {
        last = state(f, machine).await;
        if last == Some(expected.clone()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the command is {last:?}, and not {expected:?}");
}

async fn log(f: &dyn Fixture, machine: &Instance, tail: Option<u64>) -> String {
    let mut out = Vec::new();
    let options = LogOptions { follow: false, tail, ..LogOptions::default() };
    f.backend().logs(f.scope(), machine, options, &mut out).await.expect("reading the log");
    String::from_utf8(out).expect("it is UTF-8")
}

pub(crate) async fn without_a_command_it_idles(f: &dyn Fixture) {
    let machine = running(f).await;
    becomes(f, &machine, MainState::Idle).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Idle).await;
    assert_eq!(log(f, &machine, None).await, "");
}

pub(crate) async fn it_waits_until_the_guest_is_ready(f: &dyn Fixture) {
    let machine = with_command(f, &["sleep", "1000"], Restart::OnFailure).await;
    becomes(f, &machine, MainState::Waiting).await;
    assert_eq!(exec(f, &machine, &["true"], "").await.code, 0, "one can work in it meanwhile");
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
}

pub(crate) async fn it_runs_again_after_a_restart(f: &dyn Fixture) {
    let machine = with_command(f, &["sleep", "1000"], Restart::Never).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
    f.stop(&machine).await;
    start(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
}

/// Appends as long as it may, and once more when it is asked to end.
const WRITER: &str =
    "trap 'echo last >> ~/log; exit' TERM; while :; do echo x >> ~/log; sleep 0.02; done";

pub(crate) async fn a_quiesced_machine_gives_out_its_files_and_writes_none(f: &dyn Fixture) {
    let machine = with_command(f, &["sh", "-c", WRITER], Restart::Always).await;
    let quiesce = async |machine: &Instance| f.backend().quiesce(f.scope(), machine).await;
    if !f.backend().kind().quiesces() {
        let refused = quiesce(&machine).await.expect_err("it cannot");
        assert!(matches!(refused, bottle::backend::BackendError::Unsupported(_)), "{refused:?}");
        return;
    }
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
    // What somebody left running beside it ignores that it is asked to end.
    let beside = "cd; (trap '' TERM HUP; while :; do echo y >> beside; sleep 0.02; done) >/dev/null 2>&1 </dev/null &";
    let left = exec(f, &machine, &["sh", "-c", beside], "").await;
    assert_eq!(left.code, 0, "{left:?}");
    let files = async || {
        let mut found = Vec::new();
        for path in ["/home/node/log", "/home/node/beside"] {
            let (send, mut pieces) = tokio::sync::mpsc::channel::<Bytes>(4);
            let mut tar = Vec::new();
            let taken = async {
                while let Some(piece) = pieces.recv().await {
                    tar.extend_from_slice(&piece);
                }
            };
            let out = f.backend().stream_out(f.scope(), &machine, path, send);
            let (out, ()) = tokio::join!(out, taken);
            out.expect("copying out");
            found.push(Bytes::from(tar));
        }
        found
    };
    let said = |files: &[Bytes]| String::from_utf8_lossy(&files[0]).into_owned();
    eventually("both have written", async || {
        let wrote = exec(f, &machine, &["sh", "-c", "test -s ~/log && test -s ~/beside"], "").await;
        (wrote.code == 0).then_some(())
    })
    .await;
    for _ in 0..2 {
        let quiet = quiesce(&machine).await.expect("quiescing");
        assert_eq!(quiet.id, machine.id);
        let before = files().await;
        assert!(said(&before).contains("x\nlast\n"), "its command was asked to end");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(files().await, before, "something still writes");
    }
    // Started, its command runs again.
    start(f, &super::only(f).await).await;
    becomes(f, &machine, MainState::Running).await;
    eventually("its command writes again", async || {
        let wrote = said(&files().await);
        wrote.split_once("last\n").filter(|(_, more)| more.contains('x')).map(drop)
    })
    .await;
    // Of one that does not run there are the files, and nothing else.
    f.stop(&machine).await;
    quiesce(&super::only(f).await).await.expect("quiescing one that is stopped");
    let before = files().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(files().await, before, "its command must not run");
    start(f, &super::only(f).await).await;
    becomes(f, &machine, MainState::Running).await;
}

pub(crate) async fn one_that_ends_well_is_completed(f: &dyn Fixture) {
    let machine = with_command(f, &["true"], Restart::OnFailure).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Completed).await;
    assert_eq!(exec(f, &machine, &["true"], "").await.code, 0, "the machine stays up");
    assert_eq!(super::only(f).await.state, bottle::model::InstanceState::Running);
}

pub(crate) async fn one_that_fails_and_stays_down(f: &dyn Fixture) {
    let machine = with_command(f, &["sh", "-c", "exit 7"], Restart::Never).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Failed(7)).await;
    assert_eq!(exec(f, &machine, &["true"], "").await.code, 0, "the machine stays up");
}

pub(crate) async fn one_that_fails_is_started_again(f: &dyn Fixture) {
    let machine = with_command(f, &["sh", "-c", "exit 7"], Restart::OnFailure).await;
    ready(f, &machine).await;
    eventually("the command backs off", async || match state(f, &machine).await {
        Some(MainState::BackingOff { code, times }) => {
            assert_eq!(code, 7);
            Some(times).filter(|times| *times >= 1)
        }
        _ => None,
    })
    .await;
}

pub(crate) async fn it_waits_for_asked_for_values(f: &dyn Fixture) {
    let command = vec!["sleep".to_owned(), "1000".to_owned()];
    let spec = MachineSpec { command, waits_for_env: true, ..machine(f, ada()) };
    let machine = start(f, &create(f, &spec).await).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Waiting).await;
    deliver(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
    f.stop(&machine).await;
    let again = start(f, &machine).await;
    becomes(f, &again, MainState::Waiting).await;
    deliver(f, &again).await;
    becomes(f, &again, MainState::Running).await;
}

async fn deliver(f: &dyn Fixture, machine: &Instance) {
    let stdin = "export TOKEN='it'\\''s s3cret'\n";
    let wrote = exec(f, machine, &["sh", "-c", ENV_REPLACE], stdin).await;
    assert_eq!((wrote.code, wrote.stderr.as_slice()), (0, &b""[..]));
}

/// As provisioning puts another command in.
async fn put(f: &dyn Fixture, machine: &Instance, command: &[&str], restart: Restart) {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let main = Main { command, restart, waits_for_env: false };
    let tar = pack(&[("etc/bottle/command", file(main.script(), 0o644, 0))]);
    let upload = Upload { tar, ..Upload::default() };
    f.backend().copy_in(f.scope(), machine, upload).await.expect("copying in");
}

async fn reread(f: &dyn Fixture, machine: &Instance) {
    f.backend().reread(f.scope(), machine).await.expect("its supervisor is told");
}

pub(crate) async fn another_takes_its_place(f: &dyn Fixture) {
    let machine = with_command(f, &["sleep", "1000"], Restart::Never).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
    reread(f, &machine).await;
    put(f, &machine, &["true"], Restart::OnFailure).await;
    becomes(f, &machine, MainState::Running).await;
    for _ in 0..2 {
        reread(f, &machine).await;
        becomes(f, &machine, MainState::Completed).await;
    }
    // The same one, restarted otherwise.
    put(f, &machine, &["true"], Restart::Always).await;
    reread(f, &machine).await;
    eventually("it runs again and again", async || match state(f, &machine).await {
        Some(MainState::BackingOff { code: 0, .. }) => Some(()),
        _ => None,
    })
    .await;
    put(f, &machine, &[], Restart::Never).await;
    reread(f, &machine).await;
    becomes(f, &machine, MainState::Idle).await;
    put(f, &machine, &["sleep", "1001"], Restart::Never).await;
    reread(f, &machine).await;
    becomes(f, &machine, MainState::Running).await;
    assert_eq!(super::only(f).await.boot, machine.boot, "it is the same run of the machine");
    // What was put in last counts in the next run of the machine as well.
    put(f, &machine, &["true"], Restart::OnFailure).await;
    f.stop(&machine).await;
    let again = start(f, &machine).await;
    becomes(f, &again, MainState::Completed).await;
}

pub(crate) async fn how_another_ended_says_nothing(f: &dyn Fixture) {
    let machine = with_command(f, &["sh", "-c", "exit 7"], Restart::Never).await;
    put(f, &machine, &["sh", "-c", "exit 8"], Restart::Never).await;
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Failed(8)).await;
    put(f, &machine, &["sleep", "1000"], Restart::Never).await;
    f.stop(&machine).await;
    let again = start(f, &machine).await;
    becomes(f, &again, MainState::Running).await;
}

pub(crate) async fn it_gets_its_environment(f: &dyn Fixture) {
    let script = "echo \"$GREETING/$TOKEN/$PLAIN\"; id -u; pwd";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let workdir = Some("/workspace".to_owned());
    let spec = MachineSpec { command, workdir, waits_for_env: true, ..machine(f, ada()) };
    let machine = start(f, &create(f, &spec).await).await;
    super::exec::put_values(f, &machine, "export PLAIN='p'\n").await;
    ready(f, &machine).await;
    deliver(f, &machine).await;
    becomes(f, &machine, MainState::Completed).await;
    assert_eq!(log(f, &machine, None).await, "hello 'there'/it's s3cret/p\n1000\n/workspace\n");
    let seen = exec(f, &machine, &["cat", "/proc/1/environ"], "").await;
    assert!(!String::from_utf8_lossy(&seen.stdout).contains("s3cret"));
}

pub(crate) async fn its_output_is_the_log(f: &dyn Fixture) {
    let machine =
        with_command(f, &["sh", "-c", "echo one; echo two; echo three"], Restart::Never).await;
    assert_eq!(log(f, &machine, None).await, "");
    ready(f, &machine).await;
    becomes(f, &machine, MainState::Completed).await;
    let whole = eventually("the log is written", async || {
        Some(log(f, &machine, None).await).filter(|log| log.lines().count() >= 3)
    })
    .await;
    assert_eq!(whole, "one\ntwo\nthree\n");
    assert_eq!(log(f, &machine, Some(2)).await, "two\nthree\n");
    assert_eq!(log(f, &machine, Some(0)).await, "");
    f.stop(&machine).await;
    assert_eq!(log(f, &machine, Some(1)).await, "three\n", "also of a stopped machine");
    let again = start(f, &machine).await;
    exec(f, &again, &["echo", "aside"], "").await;
    assert!(!log(f, &again, None).await.contains("aside"), "only the command is logged");
}
