//! The Docker backend's fixture: a corner of a real engine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use bottle::backend::docker::{Docker, Settings};
use bottle::backend::{Backend, Scope};
use bottle::model::{ImageRef, Instance, OwnerId, Resources, SpecHash};

use super::{Capability, Fixture};
use crate::support;

/// What `tests/support/images.sh` makes.
pub(crate) const BUSYBOX: &str = "bottle-test-busybox:1";

struct Engine {
    backend: Docker,
    scopes: [Scope; 3],
    foreign: Mutex<Vec<String>>,
    _data: tempfile::TempDir,
}

/// The folder of the images that are files.
pub(crate) fn images() -> PathBuf {
    match std::env::var_os("BOTTLE_TEST_IMAGES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-images"),
    }
}

/// The engine that the environment names, with a program that a sidecar can run.
pub(crate) fn settings() -> Settings {
    Settings {
        sidecar_program: Some(sidecar_program().to_owned()),
        helper: Some(env!("CARGO_BIN_EXE_bottle").into()),
        ..Settings::from_env()
    }
}

/// The socket of that engine, which is a local one.
pub(crate) fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// What sidecars run: the program that BOTTLE_TEST_STATIC names, else a stand-in that lets nothing
/// through, which is made within seconds and kept beside cargo's own.
pub(crate) fn sidecar_program() -> &'static Path {
    static MADE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    MADE.get_or_init(|| match std::env::var_os("BOTTLE_TEST_STATIC") {
        Some(program) => program.into(),
        None => small_program("sidecar"),
    })
}

/// A program of `tests/support`, linked so that it runs where there is nothing else.
///
/// Where there is no compiler, `BOTTLE_TEST_PROGRAMS` names a folder that has them.
pub(crate) fn small_program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("BOTTLE_TEST_PROGRAMS") {
        return Path::new(&folder).join(name);
    }
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/support/{name}.rs"));
    let digest = SpecHash::of_bytes(&std::fs::read(&source).expect("it is in the repository"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(format!("{name}-{}", digest.short()));
    if program.exists() {
        return program;
    }
    let new = program.with_extension(std::process::id().to_string());
    let made = std::process::Command::new(option_env!("RUSTC").unwrap_or("rustc"))
        .args(["--edition", "2024", "-C", "target-feature=+crt-static"])
        .args(["-C", "opt-level=1", "-C", "strip=symbols", "-o"])
        .args([&new, &source])
        .output()
        .expect("there is a compiler where tests are built");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{}: {said}", source.display());
    std::fs::rename(&new, &program).expect("it was just made");
    program
}

/// The docker client: what somebody else would use.
pub(crate) fn docker(args: &[&str]) -> Result<String, String> {
    let output = std::process::Command::new("docker").args(args).output().expect("docker runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The host's address on the engine's own bridge. An engine that has just made the bridge does not
/// state a gateway yet: it takes the first address of the range.
pub(crate) fn bridge_address() -> std::net::IpAddr {
    let format = "{{with index .IPAM.Config 0}}{{.Gateway}} {{.Subnet}}{{end}}";
    let config = docker(&["network", "inspect", "bridge", "--format", format]);
    let config = config.expect("the engine has its bridge");
    let (gateway, subnet) = config.rsplit_once(' ').unwrap_or(("", config.as_str()));
    if let Ok(gateway) = gateway.trim().parse() {
        return gateway;
    }
    let base = subnet.split('/').next().and_then(|base| base.parse::<std::net::Ipv4Addr>().ok());
    let base = base.unwrap_or_else(|| panic!("the bridge has a range: {config}"));
    std::net::Ipv4Addr::from(u32::from(base) + 1).into()
}

/// A corner of the engine that nobody else uses; none where there is no engine.
pub(crate) async fn fixture() -> Option<Box<dyn Fixture>> {
    if !support::docker("the contract of the docker backend") {
        return None;
    }
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
    Some(Box::new(Engine {
        backend: Docker::new(settings()),
        scopes,
        foreign: Mutex::default(),
        _data: data,
    }))
}

#[async_trait]
impl Fixture for Engine {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn lacks(&self) -> &[Capability] {
        &[]
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
        ImageRef::Registry(BUSYBOX.to_owned())
    }

    fn absent_image(&self) -> ImageRef {
        ImageRef::Registry("localhost:1/bottle-test-absent:1".to_owned())
    }

    fn imports(&self) -> Vec<ImageRef> {
        let (tar, folder) = (images().join("busybox.tar"), images().join("busybox-root"));
        let bytes = std::fs::read(&tar).expect("tests/support/images.sh made it");
        vec![
            ImageRef::Tar { path: tar, digest: SpecHash::of_bytes(&bytes) },
            // The digest is the manifest's affair; here any will do that is this folder's own.
            ImageRef::Folder { path: folder, digest: SpecHash::of_bytes(b"busybox-root") },
        ]
    }

    async fn stop(&self, machine: &Instance) {
        docker(&["stop", &machine.id.0]).expect("it can be stopped");
    }

    async fn pause(&self, machine: &Instance) {
        docker(&["pause", &machine.id.0]).expect("it can be paused");
    }

    async fn remove(&self, machine: &Instance) {
        docker(&["rm", "--force", &machine.id.0]).expect("it can be removed");
    }

    async fn add_foreign(&self, name: &str) -> String {
        let test = format!("io.bottle.test={}", support::run_id());
        let made = docker(&[
            "run",
            "--detach",
            "--name",
            name,
            "--label",
            &test,
            "--network",
            "none",
            "--init",
            BUSYBOX,
            "sleep",
            "1000",
        ]);
        let id = made.expect("it can be made");
        self.foreign.lock().expect("no test panics with it").push(id.clone());
        id
    }

    async fn describe(&self, id: &str) -> Option<String> {
        let described = docker(&["inspect", "--type", "container", id]).ok()?;
        let changes = docker(&["diff", id]).unwrap_or_default();
        // The engine lists them in no order.
        let changes: BTreeSet<&str> = changes.lines().collect();
        Some(format!("{described}\n{changes:?}"))
    }

    fn unreachable(&self) -> Box<dyn Backend> {
        let host = Some("unix:///nonexistent/docker.sock".to_owned());
        Box::new(Docker::new(Settings { host, ..Settings::default() }))
    }

    async fn limits(&self, machine: &Instance) -> Resources {
        let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}";
        let said = docker(&["inspect", "--format", format, &machine.id.0]).expect("it is there");
        let numbers: Vec<u64> =
            said.split(' ').map(|word| word.parse().expect("a number")).collect();
        let [nano, memory, pids] = numbers[..] else { panic!("{said}") };
        let millicpus = u32::try_from(nano / 1_000_000).expect("few CPUs");
        Resources { millicpus, memory, pids: u32::try_from(pids).expect("few"), disk: None }
    }

    async fn cleanup(&self) {
        for id in self.foreign.lock().expect("no test panics with it").drain(..) {
            docker(&["rm", "--force", "--volumes", &id]).ok();
        }
    }
}
