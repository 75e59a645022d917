//! Commands in machines.

use bottle::apply::ENV_APPEND;
use bottle::backend::{Attach, BackendError, ExecSpec, ExecUser, Upload, guest_path};
use bottle::model::{BackendKind, Instance, MachineSpec};
use bytes::Bytes;

use super::ENV_REPLACE;
use super::{
    Fixture, ada, create, exec, is_real, machine, only, printenv, running, start, tarball,
};

/// More than any pipe or frame holds.
fn three_mebibytes() -> Bytes {
    (0..3 << 20).map(|n: u32| b'a' + (n / 7 % 26) as u8).collect::<Vec<u8>>().into()
}

async fn code(f: &dyn Fixture, on: &Instance, argv: &[&str]) -> i32 {
    exec(f, on, argv, "").await.code
}

pub(crate) async fn exit_codes_are_the_commands(f: &dyn Fixture) {
    let machine = running(f).await;
    assert_eq!(code(f, &machine, &["true"]).await, 0);
    assert_eq!(code(f, &machine, &["sh", "-c", "exit 7"]).await, 7);
    assert_eq!(code(f, &machine, &["no-such-program"]).await, 127);
    assert_eq!(code(f, &machine, &["/no/such/program"]).await, 127);
    assert_eq!(code(f, &machine, &["/etc/passwd"]).await, 126);
}

pub(crate) async fn a_signal_is_128_and_its_number(f: &dyn Fixture) {
    let machine = running(f).await;
    assert_eq!(code(f, &machine, &["sh", "-c", "kill -9 $$"]).await, 128 + 9);
    assert_eq!(code(f, &machine, &["sh", "-c", "kill -TERM $$"]).await, 128 + 15);
}

pub(crate) async fn streams_are_kept_apart(f: &dyn Fixture) {
    let machine = running(f).await;
    let said = exec(f, &machine, &["echo", "out", "  kept  "], "").await;
    assert_eq!(
        (said.stdout.as_slice(), said.stderr.as_slice()),
        (&b"out   kept  \n"[..], &b""[..])
    );
    let said = exec(f, &machine, &["sh", "-c", "echo err >&2"], "").await;
    assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (&b""[..], &b"err\n"[..]));
}

pub(crate) async fn stdin_arrives_whole(f: &dyn Fixture) {
    let machine = running(f).await;
    let stdin = three_mebibytes();
    let said = exec(f, &machine, &["wc", "-c"], stdin.clone()).await;
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "3145728");
    let wrote = exec(f, &machine, &["sh", "-c", "cat > /tmp/big"], stdin.clone()).await;
    assert_eq!(wrote.code, 0);
    let out = f.backend().copy_out(f.scope(), &machine, "/tmp/big", 4 << 20).await;
    let out = super::tarball::unpack("/tmp/big", &out.expect("copying out"));
    assert!(out[""].kind == super::tarball::Kind::File(stdin.to_vec()));
    assert_eq!(exec(f, &machine, &["cat"], "").await.stdout, b"", "no stdin is an empty one");
    assert_eq!(exec(f, &machine, &["true"], stdin).await.code, 0, "nobody has to read it");
}

pub(crate) async fn output_is_bounded(f: &dyn Fixture) {
    let machine = running(f).await;
    let stdin = three_mebibytes();
    let said = exec(f, &machine, &["cat"], stdin.clone()).await;
    assert_eq!(said.code, 0, "what is not kept is read all the same");
    assert_eq!(said.stdout.len(), 1 << 20);
    assert!(said.stdout == stdin[..1 << 20]);
}

pub(crate) async fn environment_user_and_folder(f: &dyn Fixture) {
    let spec = MachineSpec { workdir: Some("/workspace".to_owned()), ..machine(f, ada()) };
    let machine = start(f, &create(f, &spec).await).await;
    let say = async |spec: &ExecSpec| {
        let said = f.backend().exec(f.scope(), &machine, spec, Bytes::new()).await;
        let said = said.expect("running a command");
        String::from_utf8(said.stdout).expect("it is UTF-8").trim_end().to_owned()
    };
    assert_eq!(say(&ExecSpec::new(printenv(f, "GREETING"))).await, "hello 'there'");
    assert_eq!(say(&ExecSpec::new(["pwd"])).await, "/workspace");
    if is_real(f.backend().kind()) {
        assert_eq!(say(&ExecSpec::new(printenv(f, "LANG"))).await, "C.UTF-8");
    }
    assert_eq!(say(&ExecSpec::new(["id", "-u"])).await, "1000");
    assert_eq!(say(&ExecSpec::new(["id", "-g"])).await, "1000");
    let root = ExecSpec {
        user: ExecUser::Root,
        workdir: Some("/etc".to_owned()),
        env: vec![("GREETING".to_owned(), "a=b c\n".to_owned())],
        ..ExecSpec::new(["id", "-u"])
    };
    assert_eq!(say(&root).await, "0");
    let with = |argv: Vec<String>| ExecSpec { argv, ..root.clone() };
    assert_eq!(say(&with(vec!["pwd".to_owned()])).await, "/etc");
    assert_eq!(say(&with(printenv(f, "GREETING"))).await, "a=b c");
}

pub(crate) async fn the_sandboxs_user(f: &dyn Fixture) {
    let machine_node = running(f).await;
    let identity = f.backend().identity(f.scope(), &machine_node).await.expect("it runs");
    assert_eq!((identity.uid, identity.gid), (1000, 1000));
    assert!(identity.home.starts_with('/'), "{identity:?}");
    let spec = ExecSpec::new(printenv(f, "HOME"));
    let home = f.backend().exec(f.scope(), &machine_node, &spec, Bytes::new()).await;
    let home = home.expect("running a command");
    assert_eq!(String::from_utf8_lossy(&home.stdout).trim_end(), identity.home);
    f.backend().teardown(f.scope(), &machine_node).await.expect("tearing down");

    for (user, uid, gid) in [("root", 0, 0), ("1000", 1000, 1000), ("4321:55", 4321, 55)] {
        let spec = MachineSpec { user: Some(user.to_owned()), ..machine(f, ada()) };
        let machine = start(f, &create(f, &spec).await).await;
        let identity = f.backend().identity(f.scope(), &machine).await.expect("it runs");
        assert_eq!((identity.uid, identity.gid), (uid, gid), "{user}");
        assert!(identity.home.starts_with('/'), "{identity:?}");
        let said = exec(f, &machine, &["id", "-u"], "").await;
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim_end(), uid.to_string());
        f.backend().teardown(f.scope(), &machine).await.expect("tearing down");
    }
}

pub(crate) async fn what_does_not_run_runs_nothing(f: &dyn Fixture) {
    let refused = async |machine: &Instance, state: &str| {
        let spec = ExecSpec::new(["true"]);
        let ended = f.backend().exec(f.scope(), machine, &spec, Bytes::new()).await;
        assert!(matches!(ended, Err(BackendError::NotRunning { .. })), "{state}: {ended:?}");
        let known = f.backend().identity(f.scope(), machine).await;
        assert!(
            matches!(known, Err(BackendError::NotRunning { .. }) | Ok(_)),
            "{state}: {known:?}"
        );
    };
    let machine = create(f, &machine(f, ada())).await;
    refused(&machine, "never started").await;
    start(f, &machine).await;
    f.stop(&machine).await;
    refused(&machine, "stopped").await;
    f.remove(&only(f).await).await;
    refused(&machine, "gone").await;
}

pub(crate) async fn attached_commands_have_exit_codes(f: &dyn Fixture) {
    let machine = running(f).await;
    let attach = Attach { stdin: false, tty: false };
    for (argv, code) in [(&["true"][..], 0), (&["sh", "-c", "exit 7"], 7), (&["nope"], 127)] {
        let spec = ExecSpec::new(argv.iter().copied());
        let ended = f.backend().attach(f.scope(), &machine, &spec, attach).await;
        assert_eq!(ended.expect("running a command"), code, "{argv:?}");
    }
}

pub(crate) async fn the_volatile_folder_is_private_and_forgets(f: &dyn Fixture) {
    let machine = running(f).await;
    let said = exec(f, &machine, &["stat", "-c", "%a %u %g", guest_path::RUN], "").await;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "700 1000 1000\n");
    let wrote = exec(f, &machine, &["sh", "-c", ENV_REPLACE], "export TOKEN='s3cret'\n").await;
    assert_eq!(wrote.code, 0, "{wrote:?}");
    let read = exec(f, &machine, &["cat", guest_path::ENV], "").await;
    assert_eq!(read.stdout, b"export TOKEN='s3cret'\n");
    let said = exec(f, &machine, &["stat", "-c", "%a %u %g", guest_path::ENV], "").await;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "600 1000 1000\n");
    f.stop(&machine).await;
    let again = start(f, &machine).await;
    assert_eq!(code(f, &again, &["cat", guest_path::ENV]).await, 1, "it is gone");
    assert_eq!(code(f, &again, &["ls", guest_path::RUN]).await, 0, "the folder is there");
    let wrote = exec(f, &again, &["sh", "-c", ENV_REPLACE], "").await;
    assert_eq!(wrote.code, 0, "and is the user's");
}

pub(crate) async fn delivered_values_are_loaded_before_a_command(f: &dyn Fixture) {
    let machine = running(f).await;
    let say = async |name: &str| {
        let spec = ExecSpec { values: true, ..ExecSpec::new(printenv(f, name)) };
        let said = f.backend().exec(f.scope(), &machine, &spec, Bytes::new()).await;
        let said = said.expect("running a command");
        String::from_utf8(said.stdout).expect("it is UTF-8").trim_end().to_owned()
    };
    assert_eq!(say("GREETING").await, "hello 'there'", "also before any was delivered");
    let first = "export TOKEN='it'\\''s a $HOME \\ s3cret'\nexport OTHER='1'\n";
    assert_eq!(exec(f, &machine, &["sh", "-c", ENV_REPLACE], first).await.code, 0);
    assert_eq!(say("TOKEN").await, "it's a $HOME \\ s3cret");
    let more = "unset OTHER\nexport THIRD=''\nexport TOKEN='new'\n";
    assert_eq!(exec(f, &machine, &["sh", "-c", ENV_APPEND], more).await.code, 0);
    assert_eq!((say("TOKEN").await.as_str(), say("OTHER").await.as_str()), ("new", ""));
}

pub(crate) async fn walls(f: &dyn Fixture) {
    assert!(is_real(f.backend().kind()), "the fake has no walls");
    let machine = running(f).await;
    let say = async |user: ExecUser, script: &str| {
        let spec = ExecSpec { user, ..ExecSpec::new(["sh", "-c", script]) };
        let said = f.backend().exec(f.scope(), &machine, &spec, Bytes::new()).await;
        let said = said.expect("running a command");
        assert_eq!(said.code, 0, "{script}: {said:?}");
        String::from_utf8(said.stdout).expect("it is UTF-8").trim_end().to_owned()
    };
    // The wall of a microVM is its own kernel; what root may do to that one is its own affair.
    let vm = f.backend().kind() == BackendKind::Smolmachines;
    if vm {
        let boot_id = "/proc/sys/kernel/random/boot_id";
        let ours = std::fs::read_to_string(boot_id).expect("the host has one");
        assert_ne!(say(ExecUser::Root, &format!("cat {boot_id}")).await, ours.trim_end());
    }
    for user in [ExecUser::Sandbox, ExecUser::Root].into_iter().filter(|_| !vm) {
        let status = "sed -n 's/^\\(CapEff\\|CapPrm\\|CapBnd\\|NoNewPrivs\\|Seccomp\\):\\t//p' /proc/self/status";
        let lines = say(user, status).await;
        let lines: Vec<&str> = lines.lines().collect();
        let none = "0000000000000000";
        assert_eq!(lines, [none, none, none, "1", "2"], "{user:?}");
    }
    let interfaces = say(ExecUser::Sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1").await;
    let interfaces: Vec<&str> = interfaces.lines().map(str::trim).collect();
    // A kernel may put tunnels that lead nowhere into every namespace.
    let beyond = |name: &&&str| **name != "lo" && !name.ends_with('0');
    assert_eq!(interfaces.iter().find(beyond), None, "{interfaces:?}");
    assert_eq!(say(ExecUser::Sandbox, "wc -l < /proc/net/route").await, "1", "only the heading");
    let mounts = say(ExecUser::Sandbox, "grep ' /run/bottle ' /proc/mounts | cut -d' ' -f3").await;
    assert_eq!(mounts, "tmpfs");
    let first = say(ExecUser::Sandbox, "ls -d /proc/[0-9]* | wc -l").await;
    assert!(first.parse::<u32>().expect("a number") < 20, "it sees only its own processes");
}

/// Puts the plain values in, as provisioning does.
pub(super) async fn put_values(f: &dyn Fixture, machine: &Instance, lines: &str) {
    let entries = [
        ("etc/bottle", tarball::folder(0o755, 0)),
        ("etc/bottle/env", tarball::file(lines, 0o644, 0)),
    ];
    let upload = Upload { tar: tarball::pack(&entries), ..Upload::default() };
    f.backend().copy_in(f.scope(), machine, upload).await.expect("copying in");
}

pub(crate) async fn plain_values_stand_beside_those_that_are_asked_for(f: &dyn Fixture) {
    let machine = running(f).await;
    let say = async |name: &str, values: bool| {
        let spec = ExecSpec { values, ..ExecSpec::new(printenv(f, name)) };
        let said = f.backend().exec(f.scope(), &machine, &spec, Bytes::new()).await;
        let said = said.expect("running a command");
        String::from_utf8(said.stdout).expect("it is UTF-8").trim_end().to_owned()
    };
    put_values(f, &machine, "unset GREETING\nexport A='it'\\''s $A'\nexport B='plain'\n").await;
    // One that was asked for before may stand there still.
    let asked = "export C='asked'\nexport B='before'\nunset A\n";
    assert_eq!(exec(f, &machine, &["sh", "-c", ENV_REPLACE], asked).await.code, 0);
    let values = [say("GREETING", true).await, say("A", true).await, say("B", true).await];
    assert_eq!(values, ["", "it's $A", "plain"]);
    let without = [say("GREETING", false).await, say("A", false).await, say("C", false).await];
    assert_eq!(without, ["hello 'there'", "", ""], "what sets a machine up does without");
    put_values(f, &machine, "export A='2'\n").await;
    assert_eq!((say("A", true).await.as_str(), say("C", true).await.as_str()), ("2", "asked"));
}
