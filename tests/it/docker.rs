//! What only the Docker backend does, on a real engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bottle::backend::docker::{Docker, Settings};
use bottle::backend::{
    Backend, BackendError, Depth, ExecOutput, ExecSpec, GuestDir, Health, LogOptions, Observation,
    Progress, Scope, Upload,
};
use bottle::model::{
    BackendKind, Fields, ImageRef, Instance, InstanceId, InstanceState, LeftoverKind, MachineSpec,
    OwnerId, Ownership, ResourceKind, ResourceSpec, Resources, Restart, SandboxId, SpecHash,
    Workspace, WorkspaceMode,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::contract::docker::{BUSYBOX, docker, images, settings, sidecar_program, socket};
use crate::support;

mod build;
mod cases;
mod drift;
mod engine;
mod guest;
mod image;
mod mounted;
mod set_id;
mod sidecar;
mod walls;

/// A corner of the engine, emptied when it goes.
struct Corner {
    backend: Docker,
    scope: Scope,
    folder: tempfile::TempDir,
}

impl Corner {
    /// None, after it was said, where there is no engine.
    fn new(what: &str) -> Option<Self> {
        support::docker("what only the docker backend does").then(|| {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let scope = Scope {
                owner: OwnerId::new(support::unique(what)).expect("the name is valid"),
                state: "here".to_owned(),
                adopted: BTreeSet::new(),
                data: folder.path().join("data"),
                hidden: Vec::new(),
                places: Default::default(),
            };
            Self { backend: Docker::new(settings()), scope, folder }
        })
    }

    async fn prepare(&self, spec: &MachineSpec) -> Result<(), BackendError> {
        self.backend.prepare(&self.scope, spec, &Progress::silent()).await
    }

    async fn create(&self, spec: &MachineSpec) -> Instance {
        self.prepare(spec).await.expect("preparing");
        let spec = ResourceSpec::Machine(spec.clone());
        self.backend.create(&self.scope, &spec).await.expect("creating")
    }

    async fn run(&self, spec: &MachineSpec) -> Instance {
        let made = self.create(spec).await;
        self.backend.start(&self.scope, &made).await.expect("starting")
    }

    async fn observe(&self, depth: Depth) -> Observation {
        self.backend.observe(&self.scope, depth).await.expect("observing")
    }

    async fn only(&self, depth: Depth) -> Instance {
        let mut seen = self.observe(depth).await.instances;
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    async fn sh(&self, on: &Instance, script: &str) -> ExecOutput {
        let spec = ExecSpec::new(["sh", "-c", script]);
        self.backend.exec(&self.scope, on, &spec, Bytes::new()).await.expect("running a command")
    }

    async fn says(&self, on: &Instance, script: &str) -> String {
        let said = self.sh(on, script).await;
        assert_eq!(said.code, 0, "{script}: {said:?}");
        String::from_utf8(said.stdout).expect("it is UTF-8").trim().to_owned()
    }

    /// A name of this test's own, for what is made past the backend.
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.scope.owner)
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        let owner = self.scope.owner.as_str();
        let label = format!("label=io.bottle.owner={owner}");
        let names = format!("name={owner}");
        for filter in [&label, &names] {
            let ids = docker(&["ps", "--all", "--quiet", "--filter", filter]).unwrap_or_default();
            for id in ids.lines() {
                docker(&["rm", "--force", "--volumes", id]).ok();
            }
        }
        // What holds their workspaces, where root has mounted it.
        let held = std::path::Path::new("/run/bottle-mounts").join(&self.scope.state);
        for entry in std::fs::read_dir(&held).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{owner}.")) {
                std::process::Command::new("umount").arg("-l").arg(entry.path()).status().ok();
                std::fs::remove_dir(entry.path()).ok();
            }
        }
        // Nobody else's is taken away: one that is in use stays.
        if held.is_dir() {
            std::process::Command::new("umount")
                .arg(&held)
                .stderr(std::process::Stdio::null())
                .status()
                .ok();
            std::fs::remove_dir(&held).ok();
        }
        let networks =
            docker(&["network", "ls", "--quiet", "--filter", &label]).unwrap_or_default();
        for id in networks.lines() {
            docker(&["network", "rm", id]).ok();
        }
        let listed = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        for image in listed.unwrap_or_default().lines().filter(|image| image.contains(owner)) {
            docker(&["rmi", "--force", image]).ok();
        }
        // Of the sidecars that ran here; what another test's stand on stays.
        for program in [sidecar_program().to_owned(), self.folder.path().join("program")] {
            if let Ok(bytes) = std::fs::read(program) {
                let name = format!("bottle-sidecar:{}", SpecHash::of_bytes(&bytes).short());
                docker(&["rmi", &name]).ok();
            }
        }
    }
}

fn named(name: &str) -> SandboxId {
    SandboxId::new(name).expect("the name is valid")
}

fn machine(image: ImageRef) -> MachineSpec {
    MachineSpec {
        sandbox: named("ada"),
        backend: BackendKind::Docker,
        image,
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::new(),
        connected: false,
        waits_for_env: false,
        resources: Resources { millicpus: 500, memory: 256 << 20, pids: 64, disk: None },
        workdir: None,
        mount: None,
        user: None,
        command: Vec::new(),
        restart: Restart::default(),
        overlay: None,
    }
}

fn busybox() -> MachineSpec {
    machine(ImageRef::Registry(BUSYBOX.to_owned()))
}

/// The whole text of an error and its causes.
fn text(error: BackendError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
