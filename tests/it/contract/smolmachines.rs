//! The smolmachines backend's fixture: real microVMs, in a corner of what `smolvm` keeps.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bottle::backend::docker::Docker;
use bottle::backend::smolmachines::{Settings, Smolmachines};
use bottle::backend::{Backend, ExecSpec, Scope};
use bottle::model::{ImageRef, Instance, OwnerId, ResourceKind, Resources, SpecHash};
use serde_json::Value;

use super::docker::images;
use super::{Capability, Fixture};
use crate::support;

struct Machines {
    program: PathBuf,
    backend: Smolmachines,
    scopes: [Scope; 3],
    foreign: Mutex<Vec<String>>,
    _data: tempfile::TempDir,
}

/// A corner that nobody else uses; none where no microVM boots.
pub(crate) async fn fixture() -> Option<Box<dyn Fixture>> {
    let program = support::smolvm("the contract of the smolmachines backend")?;
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let (ours, theirs) = (support::unique("ours"), support::unique("theirs"));
    let scope = |owner: &str, state: &str| Scope {
        owner: OwnerId::new(owner).expect("the name is valid"),
        state: state.to_owned(),
        adopted: BTreeSet::new(),
        data: data.path().join(owner),
        hidden: Vec::new(),
        places: Default::default(),
    };
    let scopes = [scope(&ours, "here"), scope(&theirs, "here"), scope(&ours, "there")];
    let settings = Settings {
        program: Some(program.clone()),
        sidecar_program: Some(env!("CARGO_BIN_EXE_bottle").into()),
        ..Settings::from_env()
    };
    Some(Box::new(Machines {
        program,
        backend: Smolmachines::new(settings, Docker::from_env()),
        scopes,
        foreign: Mutex::default(),
        _data: data,
    }))
}

impl Machines {
    /// The program, as somebody else would use it.
    fn smolvm(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program).args(args).output().expect("smolvm runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Ends the process of a sidecar, which is one of the host.
    fn kill_sidecar(&self, sidecar: &Instance) {
        let folder = self.scopes[0].data.join("sidecars/smolmachines");
        let path = folder.join(sidecar.sandbox.as_str()).join("run.json");
        let text = std::fs::read(path).expect("it was started");
        let run: Value = serde_json::from_slice(&text).expect("it is JSON");
        let pid = run["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).expect("it names its process");
        let flags = rustix::process::PidfdFlags::empty();
        let process = rustix::process::pidfd_open(pid, flags).expect("it runs");
        let kill = rustix::process::Signal::KILL;
        rustix::process::pidfd_send_signal(&process, kill).expect("it can be killed");
        let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).expect("it ends");
    }

    /// What the listing shows of a machine, by `NAME@NONCE`.
    fn row(&self, id: &str) -> Option<Value> {
        let listed = self.smolvm(&["machine", "ls", "--json"]).expect("it can be listed");
        let rows: Vec<Value> = serde_json::from_str(&listed).expect("it is JSON");
        let (name, nonce) = id.split_once('@').expect("an id is a name and a number");
        rows.into_iter().find(|row| {
            let labelled = row["labels"]["io.bottle.id"].as_str().map(str::to_owned);
            let found = labelled.unwrap_or_else(|| format!("at-{}", row["created_at"]));
            row["name"] == name && found == nonce
        })
    }
}

#[async_trait]
impl Fixture for Machines {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn lacks(&self) -> &[Capability] {
        // A paused microVM is one that was saved and ended: nothing that happens from outside.
        &[Capability::Pause]
    }

    fn patience(&self) -> Duration {
        // Under emulation a first start takes half a minute.
        Duration::from_secs(900)
    }

    fn at_once(&self) -> usize {
        // smolvm gives up on a machine that stands still for half a minute, which four of them at once
        // do where each instruction is emulated.
        if std::env::var_os("BOTTLE_TEST_EMULATED").is_some() { 1 } else { usize::MAX }
    }

    fn touched(&self, scope: &Scope) -> bool {
        // Whatever is done in a scope begins with a note on the program's version.
        scope.data.exists()
    }

    fn scope(&self) -> &Scope {
        &self.scopes[0]
    }

    fn other_owner(&self) -> &Scope {
        &self.scopes[1]
    }

    fn other_state(&self) -> &Scope {
        &self.scopes[2]
    }

    fn image(&self) -> ImageRef {
        self.imports().swap_remove(0)
    }

    fn absent_image(&self) -> ImageRef {
        let digest = SpecHash::of_bytes(b"absent");
        ImageRef::Tar { path: "/nonexistent/image.tar".into(), digest }
    }

    fn imports(&self) -> Vec<ImageRef> {
        let (tar, folder) = (images().join("busybox.tar"), images().join("busybox-root"));
        let bytes = std::fs::read(&tar).expect("tests/support/images.sh made it");
        vec![
            ImageRef::Tar { path: tar, digest: SpecHash::of_bytes(&bytes) },
            ImageRef::Folder { path: folder, digest: SpecHash::of_bytes(b"busybox-root") },
        ]
    }

    async fn stop(&self, machine: &Instance) {
        if machine.resource == ResourceKind::Sidecar {
            return self.kill_sidecar(machine);
        }
        self.smolvm(&["machine", "stop", "--name", &machine.name]).expect("it can be stopped");
    }

    async fn pause(&self, machine: &Instance) {
        panic!("{} cannot be paused from outside", machine.name);
    }

    async fn remove(&self, machine: &Instance) {
        let args = ["machine", "delete", "--force", "--name", &machine.name];
        self.smolvm(&args).expect("it can be removed");
    }

    async fn add_foreign(&self, name: &str) -> String {
        let args = ["machine", "create", "--name", name, "--cpus", "1", "--mem", "256"];
        self.smolvm(&args).expect("it can be made");
        self.foreign.lock().expect("no test panics with it").push(name.to_owned());
        let listed = self.smolvm(&["machine", "ls", "--json"]).expect("it can be listed");
        let rows: Vec<Value> = serde_json::from_str(&listed).expect("it is JSON");
        let row = rows.iter().find(|row| row["name"] == name).expect("it was just made");
        format!("{name}@at-{}", row["created_at"])
    }

    async fn describe(&self, id: &str) -> Option<String> {
        self.row(id).map(|row| row.to_string())
    }

    fn unreachable(&self) -> Box<dyn Backend> {
        let program = Some("/nonexistent/smolvm".into());
        let settings = Settings { program, ..Settings::default() };
        Box::new(Smolmachines::new(settings, Docker::from_env()))
    }

    async fn limits(&self, machine: &Instance) -> Resources {
        let row = self.row(&machine.id.0).expect("it is there");
        let cpus = row["cpus"].as_u64().and_then(|cpus| u32::try_from(cpus).ok());
        let memory = row["memory_mib"].as_u64().expect("it has memory") << 20;
        let millicpus = cpus.expect("it has CPUs") * 1000;
        let spec = ExecSpec::new(["sh", "-c", "ulimit -u"]);
        let said = self.backend.exec(self.scope(), machine, &spec, bytes::Bytes::new()).await;
        let said = String::from_utf8(said.expect("it runs").stdout).expect("it is a number");
        let pids = said.trim().parse().expect("it is a number");
        Resources { millicpus, memory, pids, disk: None }
    }

    fn enforced(&self, asked: Resources) -> Resources {
        // Whole CPUs.
        Resources { millicpus: asked.millicpus.next_multiple_of(1000), ..asked }
    }

    async fn cleanup(&self) {
        for name in self.foreign.lock().expect("no test panics with it").drain(..) {
            self.smolvm(&["machine", "delete", "--force", "--name", &name]).ok();
        }
    }
}
