//! The one way out of a native sandbox: it leads where the policy says, it comes back after every
//! death, and nothing else leads anywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle::backend::{Backend, BackendError, Depth, ExecUser, LogOptions};
use bottle::model::{
    BackendKind, Fields, Instance, InstanceState, MachineSpec, Policy, ResourceKind, ResourceSpec,
    SandboxId, SidecarSpec, access,
};

use super::support::{Corner, chain, machine, text};
use crate::support::Far;

mod killed;
mod walls;

pub(super) const BOTH: [ExecUser; 2] = [ExecUser::Sandbox, ExecUser::Root];

pub(super) fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::Sidecar(SidecarSpec {
        sandbox: SandboxId::new(name).unwrap(),
        fields: Fields::default(),
        policy: Arc::default(),
        proxy: None,
    })
}

/// A machine that is to have a way out, and is told where it is.
pub(super) fn connected(name: &str) -> MachineSpec {
    let sandbox = SandboxId::new(name).unwrap();
    let env = access::environment(&Policy::default(), BackendKind::Native, &sandbox);
    MachineSpec { connected: true, env, ..machine(name) }
}

impl Corner {
    pub(super) async fn sidecar(&self, name: &str) -> Instance {
        match self.backend.create(&self.scope, &spec(name)).await {
            Ok(made) => made,
            Err(error) => panic!("creating: {}", chain(&error)),
        }
    }

    /// A sidecar that runs and lets these hosts pass.
    pub(super) async fn way_out(&self, name: &str, far: &Far, hosts: &[&str]) -> Instance {
        let sidecar = self.start(&self.sidecar(name).await).await;
        self.load(&sidecar, far, hosts).await;
        sidecar
    }

    pub(super) async fn load(&self, sidecar: &Instance, far: &Far, hosts: &[&str]) {
        let document = far.document(sidecar.sandbox.as_str(), hosts);
        if let Err(error) = self.backend.load(&self.scope, sidecar, document).await {
            panic!("loading: {}", chain(&error));
        }
    }

    /// The sidecar, as it is seen now.
    pub(super) async fn seen(&self, name: &str) -> Instance {
        let mut all = self.observe(Depth::Deep).await;
        all.retain(|i| i.resource == ResourceKind::Sidecar && i.sandbox.as_str() == name);
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.scope.data.join("sidecars/native").join(name)
    }

    /// Its process, as the host counts.
    pub(super) fn process(&self, name: &str) -> i32 {
        let text = std::fs::read(self.folder(name).join("run.json")).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&text).unwrap();
        i32::try_from(run["process"]["pid"].as_i64().unwrap()).unwrap()
    }

    /// What the proxy answers, and the body.
    pub(super) async fn get(&self, on: &Instance, url: &str) -> (String, String) {
        let mut answers = Vec::new();
        for user in BOTH {
            let get = ["curl", "-sS", "-m", "10", "-w", "\n%{http_code}", url];
            let output = self.exec_as(user, on, &get).await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let (body, code) = said.rsplit_once('\n').unwrap_or(("", ""));
            answers.push((
                code.to_owned(),
                format!("{body}{}", String::from_utf8_lossy(&output.stderr)),
            ));
        }
        let root = answers.pop().unwrap();
        assert_eq!(root.0, answers[0].0, "both users: {answers:?} {root:?}");
        root
    }
}

pub(super) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state)) && !stat.is_empty()
}

/// The limits of whoever started it, and what else is killed under them, do not concern it.
#[tokio::test]
async fn it_has_a_cgroup_of_its_own() {
    let corner = Corner::new();
    // Where a machine gets cgroups, its sidecar does.
    let machine = corner.run(&machine("ada")).await;
    let there = !corner.cgroups(&machine).is_empty();
    let sidecar = corner.start(&corner.sidecar("ada").await).await;
    let name = format!("/bottle-sidecar-{}", sidecar.id);
    let inside =
        std::fs::read_to_string(format!("/proc/{}/cgroup", corner.process("ada"))).unwrap();
    assert_eq!(inside.contains(&name), there, "{inside}");
    let of = |hierarchy: &str| {
        inside.lines().any(|line| line.contains(hierarchy) && line.contains(&name))
    };
    assert!(!there || of(":memory:") || of("0::"), "{inside}");
    corner.teardown(&sidecar).await;
    let gone = |name: &str| {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
            assert!(!Path::new(point).join(&name[1..]).exists(), "{point}{name}");
        }
    };
    gone(&name);
    // Of one whose record is damaged, the process says what its cgroups are called.
    let sidecar = corner.start(&corner.sidecar("ada").await).await;
    let name = format!("/bottle-sidecar-{}", sidecar.id);
    std::fs::write(corner.folder("ada").join("sidecar.json"), "").unwrap();
    let damaged = corner.seen("ada").await;
    assert_ne!(damaged.id, sidecar.id);
    corner.teardown(&damaged).await;
    gone(&name);
    corner.wipe().await;
}

#[tokio::test]
async fn a_life() {
    let (corner, far) = (Corner::new(), Far::new());
    let made = corner.sidecar("ada").await;
    assert_eq!((made.resource, &made.state), (ResourceKind::Sidecar, &InstanceState::Created));
    assert_eq!((made.hash, made.boot.as_ref()), (Some(spec("ada").hash()), None));
    assert_eq!(corner.sidecar("ada").await, made, "the same hash: that one");
    assert_eq!(corner.seen("ada").await, made);
    let refused = corner.backend.load(&corner.scope, &made, "{}".into()).await.unwrap_err();
    assert!(matches!(refused, BackendError::NotRunning { .. }), "{refused}");

    let started = corner.start(&made).await;
    assert_eq!((started.id.clone(), &started.state), (made.id.clone(), &InstanceState::Running));
    assert!(started.boot.is_some() && started.drift.is_empty());
    assert_eq!(corner.start(&started).await, started, "it runs already");
    assert_eq!(corner.seen("ada").await, started);

    let state = |bytes: bytes::Bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let before = state(corner.backend.sidecar_state(&corner.scope, &started).await.unwrap());
    assert_eq!(before["generation"], 0);
    corner.load(&started, &far, &["allowed.test"]).await;
    let wrong = corner.backend.load(&corner.scope, &started, "{\"version\":1}".into()).await;
    let wrong = chain(&wrong.unwrap_err());
    assert!(wrong.contains("it refuses"), "{wrong}");
    let after = state(corner.backend.sidecar_state(&corner.scope, &started).await.unwrap());
    assert_eq!(after["generation"], 1, "what was refused changes nothing: {after}");

    let mut out = Vec::new();
    let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
    corner.backend.logs(&corner.scope, &started, options, &mut out).await.unwrap();
    let lines: Vec<serde_json::Value> =
        out.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let events: Vec<_> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events, ["start", "config_reload", "config_rejected"]);
    let (mut last, options) =
        (Vec::new(), LogOptions { follow: false, tail: Some(1), ..LogOptions::default() });
    corner.backend.logs(&corner.scope, &started, options, &mut last).await.unwrap();
    assert!(out.ends_with(&last) && last.iter().filter(|b| **b == b'\n').count() == 1);

    let process = corner.process("ada");
    assert!(alive(process));
    corner.teardown(&started).await;
    assert!(!alive(process));
    corner.teardown(&started).await;
    assert!(!corner.scope.data.join("sidecars").exists(), "nothing is left");
    let gone = corner.backend.start(&corner.scope, &started).await.unwrap_err();
    assert!(matches!(gone, BackendError::NotRunning { .. }), "{gone}");
    corner.wipe().await;
}

#[tokio::test]
async fn another_spec_another_owner_another_state() {
    let mut corner = Corner::new();
    let made = corner.start(&corner.sidecar("ada").await).await;
    let ResourceSpec::Sidecar(mut other) = spec("ada") else { unreachable!() };
    other.fields.set("x", "y");
    let other = corner.backend.create(&corner.scope, &ResourceSpec::Sidecar(other)).await;
    assert!(chain(&other.unwrap_err()).contains("another spec"));
    let process = corner.process("ada");
    corner.scope.state = "elsewhere".to_owned();
    assert_ne!(corner.seen("ada").await.ownership, bottle::model::Ownership::Ours);
    let conflict = corner.backend.teardown(&corner.scope, &made).await.unwrap_err();
    assert!(matches!(conflict, BackendError::Conflict { .. }), "{conflict}");
    let conflict = corner.backend.create(&corner.scope, &spec("ada")).await.unwrap_err();
    assert!(matches!(conflict, BackendError::Conflict { .. }), "{conflict}");
    assert!(alive(process), "it is not touched");
    corner.scope.state = "here".to_owned();
    corner.wipe().await;
    assert!(!alive(process));
}

#[tokio::test]
async fn what_is_allowed_arrives_and_nothing_else() {
    let (corner, far) = (Corner::new(), Far::new());
    corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let (code, body) = corner.get(&ada, "http://allowed.test/x").await;
    assert_eq!((code.as_str(), body.trim()), ("200", "far allowed.test"));
    let seen = far.seen();
    assert!(seen.contains(&"http allowed.test /x".to_owned()), "{seen:?}");
    let (code, body) = corner.get(&ada, "http://denied.test/secret").await;
    assert_eq!(code, "403", "{body}");
    assert!(body.contains("host_not_allowed"), "{body}");
    assert_eq!(far.seen(), Vec::<String>::new(), "a denied name is not even looked up");
    for past in ["127.0.0.1", "169.254.169.254", "10.0.0.1", "100.96.0.1", "[::1]"] {
        let (code, body) = corner.get(&ada, &format!("http://{past}:80/")).await;
        assert_ne!(code, "200", "{past}: {body}");
    }
    assert_eq!(far.seen(), Vec::<String>::new());
    corner.wipe().await;
}

#[tokio::test]
async fn one_that_was_not_loaded_lets_nothing_pass() {
    let (corner, far) = (Corner::new(), Far::new());
    corner.start(&corner.sidecar("ada").await).await;
    let ada = corner.run(&connected("ada")).await;
    let (code, body) = corner.get(&ada, "http://allowed.test/x").await;
    assert_eq!(code, "503", "{body}");
    assert_eq!(far.seen(), Vec::<String>::new());
    corner.wipe().await;
}

#[tokio::test]
async fn whichever_comes_second_is_attached() {
    let (corner, far) = (Corner::new(), Far::new());
    let ada = corner.run(&connected("ada")).await;
    let (code, _) = corner.get(&ada, "http://allowed.test/").await;
    assert_eq!(code, "000", "without a sidecar there is nothing");
    let first = corner.way_out("ada", &far, &["allowed.test"]).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    assert!(corner.seen("ada").await.mendable.is_empty());
    // Another one in its place, beside the machine that runs.
    corner.teardown(&first).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "000");
    let second = corner.way_out("ada", &far, &["other.test"]).await;
    assert_ne!(second.id, first.id);
    assert_eq!(corner.get(&ada, "http://other.test/").await.0, "200");
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "403");
    // A machine that is to have none gets none, whatever stands beside it.
    corner.way_out("bob", &far, &["allowed.test"]).await;
    let bob = corner.run(&MachineSpec { connected: false, ..connected("bob") }).await;
    assert_eq!(corner.get(&bob, "http://allowed.test/").await.0, "000");
    assert!(corner.seen("bob").await.mendable.is_empty());
    corner.wipe().await;
}

#[tokio::test]
async fn what_was_cut_short_is_mended() {
    let (corner, far) = (Corner::new(), Far::new());
    let sidecar = corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    // Killed between the handing over and the note of it.
    std::fs::remove_file(corner.folder("ada").join("attached.json")).unwrap();
    let seen = corner.seen("ada").await;
    assert_eq!(seen.mendable.len(), 1, "{seen:?}");
    assert_eq!((&seen.state, seen.drift.len()), (&InstanceState::Running, 0));
    corner.backend.mend(&corner.scope, &seen).await.unwrap();
    corner.backend.mend(&corner.scope, &seen).await.unwrap();
    assert_eq!(corner.seen("ada").await, sidecar);
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}

#[tokio::test]
async fn what_was_half_made_or_half_removed_is_made_anew() {
    let (corner, far) = (Corner::new(), Far::new());
    let first = corner.way_out("ada", &far, &[]).await;
    let pid = corner.process("ada");
    std::fs::remove_file(corner.folder("ada").join("sidecar.json")).unwrap();
    let seen = corner.seen("ada").await;
    assert!(matches!(seen.state, InstanceState::Broken(_)), "{seen:?}");
    assert_eq!(seen.hash, None);
    let second = corner.way_out("ada", &far, &["allowed.test"]).await;
    assert_ne!(second.id, first.id);
    assert!(!alive(pid), "whatever was left of it has ended");
    let ada = corner.run(&connected("ada")).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    std::fs::remove_file(corner.folder("ada").join("sidecar.json")).unwrap();
    let pid = corner.process("ada");
    corner.teardown(&corner.seen("ada").await).await;
    assert!(!alive(pid) && !corner.folder("ada").exists());
    corner.wipe().await;
}

#[tokio::test]
async fn its_address_is_taken_inside() {
    let (corner, far) = (Corner::new(), Far::new());
    let mut spec = connected("ada");
    let take = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', \
                LocalPort => 3128, Listen => 1) or die; sleep 1000";
    spec.command = ["perl", "-e", take].map(str::to_owned).to_vec();
    let ada = corner.run(&spec).await;
    corner.ready(&ada).await;
    for _ in 0..200 {
        let listening = corner.sh(&ada, "grep -q ':0C38 ' /proc/net/tcp").await;
        if listening.code == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let made = corner.sidecar("ada").await;
    let failed = corner.backend.start(&corner.scope, &made).await.unwrap_err();
    assert!(chain(&failed).contains("has taken 127.0.0.1:3128"), "{}", chain(&failed));
    let seen = corner.seen("ada").await;
    assert_eq!(seen.mendable.len(), 1, "it runs, and its machine is not attached: {seen:?}");
    assert!(corner.backend.mend(&corner.scope, &seen).await.is_err());
    // The machine made anew is attached before any program of its own runs.
    corner.teardown(&ada).await;
    let ada = corner.run(&spec).await;
    corner.load(&seen, &far, &["allowed.test"]).await;
    corner.ready(&ada).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}

#[tokio::test]
async fn one_of_another_program_is_drift() {
    let mut corner = Corner::new();
    let other = corner.beside().join("bottle");
    let mut program = std::fs::read(super::support::program()).unwrap();
    program.push(0);
    std::fs::write(&other, program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&other, mode).unwrap();
    corner.start(&corner.sidecar("ada").await).await;
    assert!(corner.seen("ada").await.drift.is_empty());
    corner.backend = bottle::backend::native::Native::with_helper(&other);
    let seen = corner.seen("ada").await;
    let paths: Vec<&str> = seen.drift.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["sidecar.program"]);
    // The file put anew with the same content is the same program.
    corner.backend = bottle::backend::native::Native::with_helper(&super::support::program());
    assert!(corner.seen("ada").await.drift.is_empty());
    corner.wipe().await;
}

#[tokio::test]
async fn a_state_folder_of_any_depth() {
    let (mut corner, far) = (Corner::new(), Far::new());
    let deep: PathBuf =
        corner.beside().join("x".repeat(120)).join("y".repeat(120)).join("z".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    corner.scope.data = deep;
    corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}

/// What the process has given up.
#[tokio::test]
async fn what_its_process_may_do() {
    let corner = Corner::new();
    corner.start(&corner.sidecar("ada").await).await;
    corner.start(&corner.sidecar("bob").await).await;
    let status = |name: &str| -> BTreeMap<String, String> {
        let path = format!("/proc/{}/status", corner.process(name));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    };
    let (ada, bob) = (status("ada"), status("bob"));
    assert_eq!((ada["NoNewPrivs"].as_str(), ada["Seccomp"].as_str()), ("1", "2"), "{ada:?}");
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(ada[set], "0000000000000000", "{set}");
    }
    let own = rustix::process::getuid().as_raw().to_string();
    if own == "0" {
        let ids: Vec<&str> = ada["Uid"].split('\t').collect();
        assert!(ids.iter().all(|id| *id == ids[0] && *id != "0"), "{ids:?}");
        assert_eq!(ada["Uid"], ada["Gid"]);
        assert_eq!(ada["Groups"].trim(), "");
        assert_ne!(ada["Uid"], bob["Uid"], "each is a user of its own");
    }
    let pid = corner.process("ada");
    crate::support::keeps_to_itself(pid);
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(session.as_raw_pid(), pid, "a session of its own");
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let words = String::from_utf8(words).unwrap();
    assert!(!words.contains(corner.scope.data.to_str().unwrap()), "{words}");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    let folder = corner.folder("ada");
    for (path, expected) in
        [("", 0o700), ("own", 0o700), ("own/log", 0o600), ("own/control", 0o600)]
    {
        assert_eq!(mode(&folder.join(path)), expected, "{path}");
    }
    corner.wipe().await;
}

/// Of what a test compares with: the text of an error that no machine should see.
#[tokio::test]
async fn an_instance_of_its_kind_is_no_machine() {
    let corner = Corner::new();
    let sidecar = corner.start(&corner.sidecar("ada").await).await;
    let spec = bottle::backend::ExecSpec::new(["true"]);
    let refused = corner.backend.exec(&corner.scope, &sidecar, &spec, bytes::Bytes::new()).await;
    assert!(refused.is_err());
    let ada = corner.run(&connected("ada")).await;
    let refused = corner.backend.exec(&corner.scope, &sidecar, &spec, bytes::Bytes::new()).await;
    assert!(refused.is_err(), "also beside its machine");
    assert_eq!(corner.sh(&ada, "true").await.code, 0, "{}", text(&corner.sh(&ada, "true").await));
    corner.wipe().await;
}

#[tokio::test]
async fn one_whose_records_are_damaged_is_found_and_ended() {
    let (corner, far) = (Corner::new(), Far::new());
    for damage in ["", "{", "\u{1}\u{2}"] {
        for name in ["run.json", "sidecar.json"] {
            corner.way_out("ada", &far, &["allowed.test"]).await;
            let pid = corner.process("ada");
            std::fs::write(corner.folder("ada").join(name), damage).unwrap();
            let second = corner.way_out("ada", &far, &["allowed.test"]).await;
            assert!(!alive(pid), "{name} {damage:?}: the first has ended");
            let pid = corner.process("ada");
            std::fs::write(corner.folder("ada").join(name), damage).unwrap();
            let seen = corner.seen("ada").await;
            assert!(seen.id == second.id || matches!(seen.state, InstanceState::Broken(_)));
            corner.backend.teardown(&corner.scope, &seen).await.unwrap();
            assert!(!alive(pid), "{name} {damage:?}: it ends with what it belongs to");
        }
    }
    corner.wipe().await;
}

#[tokio::test]
async fn one_that_hangs_is_started_anew_within_seconds() {
    let (corner, far) = (Corner::new(), Far::new());
    let first = corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let pid = corner.process("ada");
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    // A signal takes a moment.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let seen = corner.seen("ada").await;
        if seen.state == InstanceState::Paused {
            break;
        }
        assert!(std::time::Instant::now() < until, "{seen:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let begun = std::time::Instant::now();
    corner.way_out("ada", &far, &["allowed.test"]).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(!alive(pid), "it has ended");
    assert_eq!(corner.seen("ada").await.id, first.id);
    assert_eq!(corner.get(&ada, "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}
