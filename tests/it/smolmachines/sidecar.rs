//! The one way out of a microVM: its door on the host, who is let in by it, and what a real guest can
//! reach.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bottle::backend::docker::Docker;
use bottle::backend::smolmachines::{Settings, Smolmachines};
use bottle::backend::{Backend, BackendError, Depth, LogOptions, Progress, Scope};
use bottle::model::{
    BackendKind, Fields, Instance, InstanceState, MachineSpec, OwnerId, Policy, ResourceKind,
    ResourceSpec, SandboxId, SidecarSpec, access,
};

use super::real::machine;
use crate::support::{self, Far};

/// A backend with a data folder of its own.
struct Corner {
    program: PathBuf,
    backend: Smolmachines,
    scope: Scope,
    folder: tempfile::TempDir,
}

impl Corner {
    fn new(program: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("bsm").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let data = folder.path().join("smol");
        let settings = Settings {
            program: Some(program.clone()),
            path: std::env::var_os("PATH"),
            cache: Some(data.join(".cache")),
            sidecar_program: Some(env!("CARGO_BIN_EXE_bottle").into()),
            env: vec![("SMOLVM_DATA_DIR".into(), data.into())],
        };
        let scope = Scope {
            owner: OwnerId::new("tests").unwrap(),
            state: "here".to_owned(),
            adopted: BTreeSet::new(),
            data: folder.path().join("state"),
            hidden: Vec::new(),
            places: Default::default(),
        };
        Self { program, backend: Smolmachines::new(settings, Docker::from_env()), scope, folder }
    }

    /// With a program that lists no machines.
    fn empty() -> Self {
        Self::fake("1.32.2")
    }

    fn fake(version: &str) -> Self {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n--version) echo 'smolvm {version}' ;;\n'machine ls --json') echo '[]' ;;\n\
             *) exit 1 ;;\nesac\n"
        );
        let mut corner = Self::new("/nonexistent".into());
        let program = corner.folder.path().join("smolvm");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let settings = Settings {
            program: Some(program.clone()),
            path: std::env::var_os("PATH"),
            sidecar_program: Some(env!("CARGO_BIN_EXE_bottle").into()),
            ..Settings::default()
        };
        let backend = Smolmachines::new(settings, Docker::from_env());
        corner.program = program;
        corner.backend = backend;
        corner
    }

    fn smolvm(&self, args: &[&str]) {
        let mut command = Command::new(&self.program);
        command.args(args).env("SMOLVM_DATA_DIR", self.folder.path().join("smol"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    async fn create(&self) -> Instance {
        let spec = SidecarSpec {
            sandbox: SandboxId::new("ada").unwrap(),
            fields: Fields::default(),
            policy: Arc::default(),
            proxy: None,
        };
        let spec = ResourceSpec::Sidecar(spec);
        self.backend.create(&self.scope, &spec).await.expect("creating")
    }

    async fn start(&self, instance: &Instance) -> Instance {
        match self.backend.start(&self.scope, instance).await {
            Ok(started) => started,
            Err(error) => panic!("starting: {error}: {:?}", std::error::Error::source(&error)),
        }
    }

    async fn load(&self, sidecar: &Instance, far: &Far) {
        let document = far.document("ada", &["allowed.test"]);
        self.backend.load(&self.scope, sidecar, document).await.expect("loading");
    }

    async fn seen(&self, kind: ResourceKind) -> Instance {
        let seen = self.backend.observe(&self.scope, Depth::Deep).await.expect("observing");
        let mut seen = seen.instances;
        seen.retain(|instance| instance.resource == kind);
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    async fn teardown(&self, instance: &Instance) {
        self.backend.teardown(&self.scope, instance).await.expect("tearing down");
    }

    async fn record(&self, sidecar: &Instance) -> String {
        let mut out = Vec::new();
        let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
        self.backend.logs(&self.scope, sidecar, options, &mut out).await.expect("its record");
        String::from_utf8(out).unwrap()
    }

    /// Where the machine's connections are delivered, and the token that they begin with.
    fn door(&self) -> (u16, Vec<u8>) {
        let path = self.scope.data.join("smolmachines/doors/ada.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let door: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let token = door["token"].as_str().unwrap();
        (u16::try_from(door["port"].as_u64().unwrap()).unwrap(), hex::decode(token).unwrap())
    }

    fn process(&self) -> i32 {
        let path = self.scope.data.join("sidecars/smolmachines/ada/run.json");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        i32::try_from(run["process"]["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for Corner {
    /// A test that failed has not torn down.
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let Ok(seen) = self.backend.observe(&self.scope, Depth::Listing).await else {
                        return;
                    };
                    for instance in seen.instances.iter().rev() {
                        self.backend.teardown(&self.scope, instance).await.ok();
                    }
                });
            });
        });
    }
}

/// Says, as `smolvm` does for its machine, who it is and where it wants to go; what it is answered.
fn knock(port: u16, token: &[u8], to: SocketAddr) -> Option<(u8, TcpStream)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut hello = b"SMOLICPT\x01".to_vec();
    hello.extend(token);
    hello.push(if to.is_ipv4() { 4 } else { 6 });
    hello.extend(to.port().to_be_bytes());
    match to.ip() {
        std::net::IpAddr::V4(ip) => hello.extend(ip.octets()),
        std::net::IpAddr::V6(ip) => hello.extend(ip.octets()),
    }
    stream.write_all(&hello).ok()?;
    let mut answer = [0];
    stream.read_exact(&mut answer).ok()?;
    Some((answer[0], stream))
}

const HERE: &str = "100.96.0.1:3128";

/// What the proxy behind the door answers.
fn get(port: u16, token: &[u8], host: &str) -> String {
    let (answer, mut stream) = knock(port, token, HERE.parse().unwrap()).expect("it is let in");
    assert_eq!(answer, 0);
    let request =
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn its_door() {
    let (corner, far) = (Corner::empty(), Far::new());
    let sidecar = corner.start(&corner.create().await).await;
    assert_eq!(corner.seen(ResourceKind::Sidecar).await, sidecar);
    assert!(sidecar.mendable.is_empty() && sidecar.state == InstanceState::Running);
    crate::support::keeps_to_itself(corner.process());
    let (port, token) = corner.door();
    assert!(get(port, &token, "allowed.test").contains("503"), "nothing was loaded");
    corner.load(&sidecar, &far).await;
    assert!(get(port, &token, "allowed.test").contains("200"));
    assert!(get(port, &token, "denied.test").contains("403"));
    assert_eq!(far.seen().iter().filter(|line| line.starts_with("http")).count(), 1);
    // Only connections to the sidecar, and only the machine's.
    for past in ["100.96.0.1:22", "127.0.0.1:3128", "93.184.216.34:80", "[::1]:3128"] {
        let (answer, mut stream) = knock(port, &token, past.parse().unwrap()).expect("an answer");
        assert_eq!(answer, 111, "{past}");
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "{past}");
    }
    let mut wrong = token.clone();
    wrong[31] ^= 1;
    assert!(knock(port, &wrong, HERE.parse().unwrap()).is_none());
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    plain
        .write_all(b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n........")
        .unwrap();
    let mut said = Vec::new();
    plain.read_to_end(&mut said).ok();
    assert_eq!(said, b"", "another program of the host is told nothing");
    assert!(far.seen().is_empty());
    let record = corner.record(&sidecar).await;
    assert!(record.contains("100.96.0.1:22") && record.contains("93.184.216.34:80"), "{record}");
    assert!(!record.contains(&hex::encode(&token)));
    corner.teardown(&sidecar).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    assert!(!corner.scope.data.join("smolmachines/doors").exists());
    assert!(!corner.scope.data.join("sidecars").exists());
}

#[tokio::test]
async fn its_door_stays_the_same() {
    let (corner, far) = (Corner::empty(), Far::new());
    let sidecar = corner.start(&corner.create().await).await;
    let before = corner.door();
    let pid = rustix::process::Pid::from_raw(corner.process()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for _ in 0..400 {
        if corner.seen(ResourceKind::Sidecar).await.state != InstanceState::Running {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let again = corner.start(&corner.seen(ResourceKind::Sidecar).await).await;
    assert_ne!(again.boot, sidecar.boot);
    assert_eq!(corner.door(), before);
    corner.load(&again, &far).await;
    assert!(get(before.0, &before.1, "allowed.test").contains("200"));
    // One that was cut short before its door was open.
    let noted = corner.scope.data.join("sidecars/smolmachines/ada/attached.json");
    std::fs::remove_file(noted).unwrap();
    let seen = corner.seen(ResourceKind::Sidecar).await;
    assert_eq!(seen.mendable.len(), 1, "{seen:?}");
    corner.backend.mend(&corner.scope, &seen).await.unwrap();
    assert!(corner.seen(ResourceKind::Sidecar).await.mendable.is_empty());
    assert_eq!(corner.door(), before);
    assert!(get(before.0, &before.1, "allowed.test").contains("200"), "it keeps what it has");
    // Its port was taken while nobody listened, and no machine runs that was told of it.
    corner.teardown(&again).await;
    let made = corner.create().await;
    let first = corner.start(&made).await;
    let taken = corner.door();
    let pid = rustix::process::Pid::from_raw(corner.process()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut thief = None;
    for _ in 0..400 {
        thief = TcpListener::bind((Ipv4Addr::LOCALHOST, taken.0)).ok();
        if thief.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(thief.is_some());
    let moved = corner.start(&first).await;
    assert_ne!(corner.door().0, taken.0);
    corner.teardown(&moved).await;
}

#[tokio::test]
async fn a_release_that_cannot_hold_a_machine_to_it_is_refused() {
    let corner = Corner::fake("1.31.9");
    let spec = MachineSpec { connected: true, ..machine("ada") };
    let prepared = corner.backend.prepare(&corner.scope, &spec, &Progress::silent()).await;
    let created = corner.backend.create(&corner.scope, &ResourceSpec::Machine(spec)).await;
    for refused in [prepared.unwrap_err(), created.unwrap_err()] {
        assert!(matches!(refused, BackendError::Unsupported(_)), "{refused}");
        assert!(refused.to_string().contains("install 1.32.0 or later"), "{refused}");
    }
}

#[tokio::test]
async fn a_machine_that_has_one_is_made_for_it() {
    let Some(program) = support::smolvm_cli("what the real smolvm shows of a machine's network")
    else {
        return;
    };
    let corner = Corner::new(program);
    let spec = ResourceSpec::Machine(MachineSpec { connected: true, ..machine("ada") });
    let made = corner.backend.create(&corner.scope, &spec).await.expect("creating");
    assert_eq!((&made.drift, &made.state), (&vec![], &InstanceState::Created));
    let alone = corner.backend.start(&corner.scope, &made).await.unwrap_err();
    assert!(alone.to_string().contains("no other way out"), "{alone}");
    corner.smolvm(&["machine", "update", "--name", &made.name, "--allow-cidr", "0.0.0.0/0"]);
    let widened = corner.seen(ResourceKind::Machine).await;
    let paths: Vec<&str> = widened.drift.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["network"]);
    corner.teardown(&made).await;
}

/// N13, N14: what a real guest reaches.
#[tokio::test]
async fn everything_but_the_proxy() {
    let Some(program) = support::smolvm("what a microVM with a sidecar reaches") else { return };
    let (corner, far) = (Corner::new(program), Far::new());
    let every = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = every.local_addr().unwrap().port();
    let sidecar = corner.start(&corner.create().await).await;
    corner.load(&sidecar, &far).await;
    let ada = SandboxId::new("ada").unwrap();
    let env = access::environment(&Policy::default(), BackendKind::Smolmachines, &ada);
    let spec = MachineSpec { connected: true, env, command: Vec::new(), ..machine("ada") };
    corner.backend.prepare(&corner.scope, &spec, &Progress::silent()).await.expect("preparing");
    let made = corner.backend.create(&corner.scope, &ResourceSpec::Machine(spec)).await;
    let ada = corner.start(&made.expect("creating")).await;
    assert!(corner.seen(ResourceKind::Machine).await.drift.is_empty());
    let sh = async |script: &str| {
        let spec = bottle::backend::ExecSpec::new(["sh", "-c", script]);
        let ended = corner.backend.exec(&corner.scope, &ada, &spec, bytes::Bytes::new()).await;
        let ended = ended.expect("running a command");
        let text = [ended.stdout, ended.stderr].concat();
        (ended.code, String::from_utf8_lossy(&text).into_owned())
    };
    let (code, said) = sh("wget -T 20 -q -O - http://allowed.test/x").await;
    assert_eq!((code, said.trim()), (0, "far allowed.test"));
    let (code, said) = sh("wget -T 20 -O - http://denied.test/x").await;
    assert!(code != 0 && said.contains("403"), "{said}");
    let seen = far.seen();
    assert!(seen.iter().all(|line| line.contains("allowed.test")), "{seen:?}");
    let host = Command::new("hostname").arg("-I").output().map(|o| o.stdout).unwrap_or_default();
    let host =
        String::from_utf8_lossy(&host).split_whitespace().next().unwrap_or("10.0.2.15").to_owned();
    // Without the variables, to the host by each of its names, and beyond.
    for to in [
        format!("100.96.0.1:{port}"),
        format!("127.0.0.1:{port}"),
        format!("{host}:{port}"),
        "93.184.216.34:80".to_owned(),
        "169.254.169.254:80".to_owned(),
    ] {
        let (code, said) = sh(&format!("wget -Y off -T 10 -q -O - http://{to}/")).await;
        assert_ne!(code, 0, "{to}: {said}");
    }
    every.set_nonblocking(true).unwrap();
    assert!(every.accept().is_err(), "something has arrived");
    for name in ["allowed.test", "example.com"] {
        let (_, said) = sh(&format!("nslookup {name}")).await;
        assert!(!said.contains("93.184.216.34"), "{said}");
    }
    assert_eq!(far.seen(), Vec::<String>::new());
    // A sidecar that died is started anew beside its machine.
    let pid = rustix::process::Pid::from_raw(corner.process()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (code, said) = sh("wget -T 10 -q -O - http://allowed.test/x").await;
    assert_ne!(code, 0, "{said}");
    let again = corner.start(&corner.seen(ResourceKind::Sidecar).await).await;
    corner.load(&again, &far).await;
    let (code, said) = sh("wget -T 20 -q -O - http://allowed.test/x").await;
    assert_eq!((code, said.trim()), (0, "far allowed.test"));
    corner.teardown(&ada).await;
    corner.teardown(&again).await;
    assert!(!corner.scope.data.join("smolmachines/doors").exists());
}
