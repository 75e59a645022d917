//! What a sandbox may plant, forge or use up, and what becomes of those outside of it: nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bottle::backend::{Attach, Backend, ExecSpec, ExecUser, MainState};
use bottle::model::{Instance, MachineSpec, Restart, Workspace, WorkspaceMode};

use super::support::{Corner, PROGRAM, chain, machine, program, text};

/// Runs a line of Python inside, as the sandbox's user.
async fn python(corner: &Corner, on: &Instance, script: &str) -> String {
    let output = corner.exec_as(ExecUser::Sandbox, on, &["/usr/bin/python3", "-c", script]).await;
    assert_eq!(output.code, 0, "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// X20: by every call, flag and bit, as whoever may write there.
#[tokio::test]
async fn no_set_id_file_comes_to_be_in_a_mounted_workspace() {
    let corner = Corner::new();
    let folder = corner.beside().join("work");
    std::fs::create_dir(&folder).unwrap();
    let mode = WorkspaceMode::Mount;
    let mount = Workspace { path: folder.clone(), mode, target: "/workspace".to_owned() };
    let on = corner.run(&MachineSpec { mount: Some(mount), ..machine("ada") }).await;
    let users = if rustix::process::geteuid().is_root() {
        vec![ExecUser::Sandbox]
    } else {
        vec![ExecUser::Sandbox, ExecUser::Root]
    };
    for user in users {
        let output =
            corner.exec_as(user, &on, &["/usr/bin/python3", "-c", crate::support::SET_ID]).await;
        assert_eq!(
            (output.code, &output.stdout[..]),
            (0, &b"\n"[..]),
            "{user:?}: {}",
            text(&output)
        );
    }
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o6000, 0, "{:?}", entry.path());
        seen += 1;
    }
    assert!(seen > 20, "{seen} files were made");
    corner.wipe().await;
}

/// X22: a signal whose sender is not who it says does not end the sandbox.
#[tokio::test]
async fn init_believes_no_signal_from_inside() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let forged = r#"
import ctypes, fcntl, os, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
def queue(code):
    # siginfo: number, errno, code, padding, sender, its user
    info = ctypes.create_string_buffer(struct.pack("iiiiiI", 15, 0, code, 0, 0, 0), 128)
    return libc.syscall(129, 1, 15, info), ctypes.get_errno()
sent = [code for code in (-1, -2, -3, -4, -5, -7, -60) if queue(code)[0] == 0]
assert -1 in sent, sent
# The kernel sends one where a pipe becomes readable, with no sender at all.
r, w = os.pipe()
fcntl.fcntl(r, 10, 15)
fcntl.fcntl(r, fcntl.F_SETOWN, 1)
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
os.write(w, b"x")
"#;
    for _ in 0..3 {
        python(&corner, &on, forged).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(corner.say(&on, "echo lives").await, "lives");
    assert_eq!(corner.only().await.state, bottle::model::InstanceState::Running);
    // A control: from outside the same signal does end it.
    let init = rustix::process::Pid::from_raw(corner.init(&on)).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::TERM).unwrap();
    for _ in 0..200 {
        if corner.only().await.state != bottle::model::InstanceState::Running {
            corner.wipe().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it goes on");
}

/// X22: whatever stands where init writes and reads, it goes on reaping, restarting and draining.
#[tokio::test]
async fn init_waits_for_nothing_that_was_planted() {
    let corner = Corner::new();
    for (name, plant) in [
        (
            "fifos",
            "mkfifo /run/bottle/main.new /run/bottle/env; rm -f /run/bottle/main; mkfifo /run/bottle/main",
        ),
        (
            "folders",
            "rm -f /run/bottle/main; mkdir /run/bottle/main.new /run/bottle/main /run/bottle/env",
        ),
        (
            "links",
            "ln -s /dev/tty /run/bottle/main.new; ln -sf /dev/zero /run/bottle/env; ln -sf /proc/1/fd/0 /run/bottle/main",
        ),
        (
            "full",
            "dd if=/dev/zero of=/run/bottle/fill bs=64k 2>/dev/null; ln -sf /proc/self/fd/1 /run/bottle/env",
        ),
    ] {
        let mut spec = machine("ada");
        let script = format!("{plant}; echo round; (sleep 0.1 &) ; exit 3");
        spec.command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        spec.restart = Restart::Always;
        let on = corner.run(&spec).await;
        corner.ready(&on).await;
        let again =
            |state: &MainState| matches!(state, MainState::BackingOff { code: 3, times: 2.. });
        corner.main_becomes(&on, again).await;
        assert!(corner.log(&on).await.matches("round").count() >= 2, "{name}");
        let zombies = "sleep 0.4; cat /proc/[0-9]*/stat | grep -c ') Z ' || true";
        assert_eq!(corner.say(&on, zombies).await, "0", "{name}");
        corner.teardown(&on).await;
    }
    corner.wipe().await;
}

/// X21: what a command left running in the background keeps nobody waiting.
#[tokio::test]
async fn a_command_has_ended_when_it_has_ended() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    for (script, code) in [
        ("(while :; do echo t; sleep .05; done)& exit 3", 3),
        ("(while :; do echo t >&2; done)& exit 4", 4),
        ("sleep 60 & exit 0", 0),
    ] {
        let began = Instant::now();
        assert_eq!(corner.sh(&on, script).await.code, code, "{script}");
        assert!(began.elapsed() < Duration::from_secs(8), "{script}: {:?}", began.elapsed());
        corner.sh(&on, "kill -9 -1").await;
    }
    // And what it wrote itself is there to the last byte.
    let output = corner.sh(&on, "head -c 300000 /dev/zero; sleep 60 & exit 5").await;
    assert_eq!((output.code, output.stdout.len()), (5, 300_000));
    let missing = ExecSpec { workdir: Some("/nope".into()), ..ExecSpec::new(["true"]) };
    let output =
        corner.backend.exec(&corner.scope, &on, &missing, Vec::new().into()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.code, 126, "{said}");
    assert_eq!(
        said,
        "bottle: entering the working directory /nope: No such file or directory (os error 2)\n"
    );
    corner.wipe().await;
}

/// In which folder the process below finds the sandbox, and what it runs there.
const FOLDER: &str = "BOTTLE_TEST_PIPES";
const SCRIPT: &str = "BOTTLE_TEST_SCRIPT";

/// Not a test by itself: started by those below, with stdio of theirs.
#[tokio::test]
#[expect(clippy::exit, reason = "its exit code is the command's")]
async fn on_pipes() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let corner = std::mem::ManuallyDrop::new(Corner::in_folder(folder.as_ref()));
    let on = corner.only().await;
    let spec = ExecSpec::new(["sh".to_owned(), "-c".to_owned(), std::env::var(SCRIPT).unwrap()]);
    let attach = Attach { stdin: true, tty: false };
    match corner.backend.attach(&corner.scope, &on, &spec, attach).await {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("{}", chain(&error));
            std::process::exit(99)
        }
    }
}

fn on_stdio(corner: &Corner, script: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "native::hostile::on_pipes", "--nocapture"])
        .env(FOLDER, corner.beside())
        .env(SCRIPT, script)
        .env(PROGRAM, program());
    command
}

fn nonblocking(fd: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
}

/// X21: neither read the other way round, nor written to, nor made non-blocking, nor held open.
#[tokio::test]
async fn the_callers_own_pipes_stay_the_callers() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((stdin, feed), (said, stdout)) = (pipe(), pipe());
    rustix::io::write(&stdout, b"HOSTSECRET\n").unwrap();
    rustix::io::write(&feed, b"l1\n").unwrap();
    let twin = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let script = "dd if=/proc/self/fd/1 iflag=nonblock of=/tmp/stolen 2>/dev/null; \
        (echo INJECTED >/proc/self/fd/0) 2>/dev/null; \
        perl -e 'use Fcntl; for (\\*STDIN, \\*STDOUT, \\*STDERR) { fcntl($_, F_SETFL, O_NONBLOCK) or die }'; \
        sleep 60 & exit 6";
    let mut command = on_stdio(&corner, script);
    command.stdin(twin(&stdin)).stdout(twin(&stdout)).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(!nonblocking(&stdin) && !nonblocking(&stdout));
    drop((feed, stdout));
    let mut text = String::new();
    // Nobody inside holds the other end, though something there runs on.
    File::from(said).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HOSTSECRET\n"), "{text}");
    let mut left = String::new();
    File::from(stdin).read_to_string(&mut left).unwrap();
    assert!(!left.contains("INJECTED"), "{left}");
    assert_eq!(corner.say(&on, "cat /tmp/stolen 2>/dev/null || true").await, "");
    corner.wipe().await;
}

/// X21: a reader that goes away is a broken pipe to the command, as without a sandbox between them.
#[tokio::test]
async fn a_command_whose_reader_went_away_ends() {
    let corner = Corner::new();
    corner.run(&machine("ada")).await;
    let mut command = on_stdio(&corner, "exec yes");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"not read\n").unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 4096]).unwrap();
    let began = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    assert!(began.elapsed() < Duration::from_secs(20));
    corner.wipe().await;
}

/// X23: as an ordinary user; the kernel counts what a sandbox has sent through sockets as its user's.
#[tokio::test]
async fn descriptors_on_their_way_keep_nobody_waiting() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let corner = Corner::new();
    // What a shell of the operator's has: few, and some more if it asks for them.
    let limited = |hard: u32, script: &str| {
        let inner = on_stdio(&corner, script);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={}:{hard}", hard.min(1024))).arg(inner.get_program());
        command.args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null());
        command
    };
    corner.run(&machine("ada")).await;
    let hoard = "/usr/bin/python3 -c '\nimport array, socket, time\nkept = []\nfd = open(\"/dev/null\").fileno()\n\
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array(\"i\", [fd] * 250))]\n\
        full = False\n\
        while not full:\n    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n    kept.append((a, b))\n    \
        for _ in range(8):\n        try:\n            a.sendmsg([b\"x\"], rights)\n        except OSError as e:\n            \
        full = True\nprint(\"full\", flush=True)\ntime.sleep(60)\n' & sleep 3";
    let mut hoarding = limited(4096, hoard);
    let output = hoarding.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("full"), "{output:?}");
    let began = Instant::now();
    // The operator's own limit is above what a sandbox may have: nothing is refused.
    let output = limited(4096, "echo works").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("works"), "{output:?}");
    // And where it is not, that is said, at once.
    let output = limited(512, "echo works").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(99), "{output:?}");
    assert!(said.contains("descriptors on their way"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    corner.wipe().await;
}

/// X23: nor all watches of files that the operator may have.
#[tokio::test]
async fn a_sandbox_has_half_of_its_makers_inotify_instances() {
    let writable =
        std::fs::OpenOptions::new().write(true).open("/proc/sys/user/max_user_namespaces");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let read_only = mounts.lines().any(|line| line.contains(" /proc/sys ro"));
    if rustix::process::geteuid().is_root() || read_only {
        return;
    }
    assert!(writable.is_err(), "an ordinary user sets no limits for the host");
    let limit = std::fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap();
    let half = limit.trim().parse::<u64>().unwrap() / 2;
    if half > 4096 {
        crate::support::left_out("a bound on inotify", "this host has none worth the name");
        return;
    }
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let hoard = "import ctypes\nlibc = ctypes.CDLL(None)\nn = 0\n\
        while libc.inotify_init() >= 0 and n < 5000: n += 1\nprint(n)";
    let had: u64 = python(&corner, &on, hoard).await.trim().parse().unwrap();
    assert!(0 < had && had <= half, "{had} of {limit}");
    corner.wipe().await;
}
