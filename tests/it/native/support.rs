//! A corner of its own for each test, and the ways to ask a sandbox something.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bottle::backend::native::Native;
use bottle::backend::{
    Backend, Depth, ExecOutput, ExecSpec, ExecUser, LogOptions, MainState, Progress, Scope, Upload,
};
use bottle::model::{
    BackendKind, ImageRef, Instance, MachineSpec, OwnerId, ResourceSpec, Resources, Restart,
    SandboxId,
};
use bytes::Bytes;

/// The program that the helper is: its `main` is another than that of the tests. A user who may not
/// look into the folder that it was built in is given another copy.
pub(crate) fn program() -> PathBuf {
    std::env::var_os(PROGRAM).map_or_else(|| env!("CARGO_BIN_EXE_bottle").into(), PathBuf::from)
}

/// Names that copy.
pub(crate) const PROGRAM: &str = "BOTTLE_TEST_PROGRAM";

/// A backend and an owner that nobody else has. Takes away what it made, however the test ends.
pub(crate) struct Corner {
    pub(crate) backend: Native,
    pub(crate) scope: Scope,
    folder: Option<tempfile::TempDir>,
}

impl Corner {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bottle-native-").tempdir().unwrap();
        let mut corner = Self::in_folder(folder.path());
        corner.folder = Some(folder);
        corner
    }

    /// That of another process, in a folder of its own.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let data = folder.join("state");
        std::fs::create_dir_all(&data).unwrap();
        let scope = Scope {
            owner: OwnerId::new("tests").unwrap(),
            state: "here".to_owned(),
            adopted: BTreeSet::new(),
            data,
            hidden: Vec::new(),
            places: Default::default(),
        };
        Self { backend: Native::with_helper(&program()), scope, folder: None }
    }

    /// A folder beside the state folder.
    pub(crate) fn beside(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub(crate) async fn create(&self, spec: &MachineSpec) -> Instance {
        self.backend.prepare(&self.scope, spec, &Progress::silent()).await.expect("preparing");
        let spec = ResourceSpec::Machine(spec.clone());
        self.backend.create(&self.scope, &spec).await.expect("creating")
    }

    pub(crate) async fn start(&self, instance: &Instance) -> Instance {
        match self.backend.start(&self.scope, instance).await {
            Ok(started) => started,
            Err(error) => panic!("starting: {}", chain(&error)),
        }
    }

    pub(crate) async fn run(&self, spec: &MachineSpec) -> Instance {
        self.start(&self.create(spec).await).await
    }

    pub(crate) async fn exec_as(&self, user: ExecUser, on: &Instance, argv: &[&str]) -> ExecOutput {
        let spec = ExecSpec { user, ..ExecSpec::new(argv.iter().copied()) };
        match self.backend.exec(&self.scope, on, &spec, Bytes::new()).await {
            Ok(output) => output,
            Err(error) => panic!("running {argv:?}: {}", chain(&error)),
        }
    }

    /// A line of shell, as the sandbox's user.
    pub(crate) async fn sh(&self, on: &Instance, script: &str) -> ExecOutput {
        self.exec_as(ExecUser::Sandbox, on, &["sh", "-c", script]).await
    }

    /// What it says, trimmed; it has to succeed.
    pub(crate) async fn say(&self, on: &Instance, script: &str) -> String {
        let output = self.sh(on, script).await;
        assert_eq!(output.code, 0, "{script}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) async fn copy_in(&self, on: &Instance, upload: Upload) {
        if let Err(error) = self.backend.copy_in(&self.scope, on, upload).await {
            panic!("copying in: {}", chain(&error));
        }
    }

    /// What the end of provisioning does.
    pub(crate) async fn ready(&self, on: &Instance) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, "etc/bottle/ready", std::io::empty()).unwrap();
        let tar = tar.into_inner().unwrap().into();
        self.copy_in(on, Upload { tar, ..Upload::default() }).await;
    }

    /// Waits until the command is in such a state.
    pub(crate) async fn main_becomes(
        &self,
        on: &Instance,
        wanted: impl Fn(&MainState) -> bool,
    ) -> MainState {
        let mut last = None;
        for _ in 0..400 {
            last = self.backend.main_state(&self.scope, on).await.expect("it runs");
            if let Some(state) = last.clone().filter(|state| wanted(state)) {
                return state;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("the command is {last:?}");
    }

    pub(crate) async fn log(&self, on: &Instance) -> String {
        let mut out = Vec::new();
        let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
        self.backend.logs(&self.scope, on, options, &mut out).await.expect("reading the log");
        String::from_utf8(out).unwrap()
    }

    pub(crate) async fn only(&self) -> Instance {
        let mut seen = self.observe(Depth::Listing).await;
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    pub(crate) async fn observe(&self, depth: Depth) -> Vec<Instance> {
        self.backend.observe(&self.scope, depth).await.expect("observing").instances
    }

    pub(crate) async fn teardown(&self, instance: &Instance) {
        if let Err(error) = self.backend.teardown(&self.scope, instance).await {
            panic!("tearing down: {}", chain(&error));
        }
    }

    /// The init of a sandbox, as the host counts.
    pub(crate) fn init(&self, instance: &Instance) -> i32 {
        let path = self.scope.data.join("native").join(instance.sandbox.as_str()).join("run.json");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        i32::try_from(run["pid"].as_i64().unwrap()).unwrap()
    }

    /// Folders of the sandbox's cgroups.
    pub(crate) fn cgroups(&self, instance: &Instance) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|point| Path::new(point).join(format!("bottle-{}", instance.id)));
        points.filter(|path| path.exists()).collect()
    }

    /// Everything goes, and nothing may be left of it.
    pub(crate) async fn wipe(&self) {
        let seen = self.backend.observe(&self.scope, Depth::Listing).await.expect("observing");
        for instance in &seen.instances {
            self.teardown(instance).await;
        }
        let seen = self.backend.observe(&self.scope, Depth::Listing).await.expect("observing");
        for leftover in &seen.leftovers {
            self.backend.prune(&self.scope, leftover).await.expect("pruning");
        }
        let seen = self.backend.observe(&self.scope, Depth::Listing).await.expect("observing");
        assert!(seen.instances.is_empty() && seen.leftovers.is_empty(), "{seen:#?}");
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        // A test that failed has not torn down.
        let Some(folder) = self.folder.take() else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let Ok(seen) = self.backend.observe(&self.scope, Depth::Listing).await else {
                        return;
                    };
                    for instance in &seen.instances {
                        self.backend.teardown(&self.scope, instance).await.ok();
                    }
                });
            });
        });
        drop(folder);
    }
}

pub(crate) fn machine(name: &str) -> MachineSpec {
    MachineSpec {
        sandbox: SandboxId::new(name).unwrap(),
        backend: BackendKind::Native,
        image: ImageRef::Host,
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::new(),
        connected: false,
        waits_for_env: false,
        resources: Resources { millicpus: 1000, memory: 256 << 20, pids: 64, disk: None },
        workdir: None,
        mount: None,
        user: None,
        command: Vec::new(),
        restart: Restart::default(),
        overlay: None,
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// What a command said, for a failed test.
pub(crate) fn text(output: &ExecOutput) -> String {
    format!(
        "{} {:?} {:?}",
        output.code,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
