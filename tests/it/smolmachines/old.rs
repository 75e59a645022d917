//! smolvm 1.9, by a program that behaves as that one was measured to: all that it can do is used, and
//! what it cannot do is said.

use std::os::unix::fs::PermissionsExt;

use bottle::backend::docker::Docker;
use bottle::backend::smolmachines::{Settings, Smolmachines};
use bottle::backend::{
    Backend, BackendError, Depth, ExecSpec, ExecUser, Health, LogOptions, Scope,
};
use bottle::model::{
    ImageRef, Instance, InstanceState, MachineSpec, OwnerId, ResourceSpec, SandboxId,
};
use bytes::Bytes;

struct Old {
    backend: Smolmachines,
    scope: Scope,
    folder: tempfile::TempDir,
}

impl Old {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("smolvm");
        std::fs::write(&program, include_str!("smolvm-1.9.sh")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var_os("PATH");
        let settings = Settings { program: Some(program), path, ..Settings::default() };
        let scope = Scope {
            owner: OwnerId::new("tests").unwrap(),
            state: "here".to_owned(),
            adopted: std::collections::BTreeSet::new(),
            data: folder.path().join("state"),
            hidden: Vec::new(),
            places: Default::default(),
        };
        Self { backend: Smolmachines::new(settings, Docker::from_env()), scope, folder }
    }

    async fn create(&self, spec: &MachineSpec) -> Instance {
        let spec = ResourceSpec::Machine(spec.clone());
        self.backend.create(&self.scope, &spec).await.expect("creating")
    }

    async fn start(&self, made: &Instance) -> Result<Instance, BackendError> {
        self.backend.start(&self.scope, made).await
    }

    async fn exec(&self, on: &Instance, spec: &ExecSpec) -> Result<(i32, String), BackendError> {
        let ended = self.backend.exec(&self.scope, on, spec, Bytes::new()).await?;
        Ok((ended.code, String::from_utf8(ended.stdout).unwrap()))
    }

    /// What it was called with that a later release would have understood, too.
    fn refused(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.folder.path().join("calls")).unwrap();
        let later = |call: &&str| call.contains("--user") || call.contains("--error-format");
        calls.lines().filter(later).map(str::to_owned).collect()
    }
}

fn machine(user: Option<&str>) -> MachineSpec {
    MachineSpec {
        image: ImageRef::Registry("node:22".to_owned()),
        user: user.map(str::to_owned),
        sandbox: SandboxId::new("ada").unwrap(),
        ..super::real::machine("ada")
    }
}

#[tokio::test]
async fn what_it_can_do_is_used() {
    let old = Old::new();
    let made = old.create(&machine(None)).await;
    assert_eq!(old.create(&machine(None)).await.id, made.id);
    let on = old.start(&made).await.expect("starting");
    assert_eq!(on.state, InstanceState::Running);
    let identity = old.backend.identity(&old.scope, &on).await.unwrap();
    assert_eq!((identity.uid, identity.home.as_str()), (1000, "/home/node"));
    // Another user than root is the guest's own affair, by its `su`.
    assert_eq!(old.exec(&on, &ExecSpec::new(["id"])).await.unwrap(), (0, "node\n".to_owned()));
    let root = ExecSpec { user: ExecUser::Root, ..ExecSpec::new(["id"]) };
    assert_eq!(old.exec(&on, &root).await.unwrap(), (0, "root\n".to_owned()));
    assert_eq!(old.exec(&on, &ExecSpec::new(["seven"])).await.unwrap().0, 7);
    // It tells its own failures in words only, and yet they are no exit code of the command's.
    let broken = old.exec(&on, &ExecSpec::new(["broken"])).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(broken));
    assert!(said.contains("the connection was reset"), "{said}");

    let seen = old.backend.observe(&old.scope, Depth::Listing).await.unwrap();
    assert_eq!((seen.instances.len(), seen.instances[0].drift.as_slice()), (1, &[][..]));
    assert_eq!(seen.facts.version, "smolvm 1.9.2");
    old.backend.teardown(&old.scope, &on).await.unwrap();
    let seen = old.backend.observe(&old.scope, Depth::Listing).await.unwrap();
    assert_eq!(seen.instances, []);
    assert_eq!(old.refused(), Vec::<String>::new());
}

#[tokio::test]
async fn one_that_dies_in_its_boot_is_booted_again_and_not_for_ever() {
    let old = Old::new();
    let made = old.create(&machine(None)).await;
    let dies = |how: &str| std::fs::write(old.folder.path().join("dies"), how).unwrap();
    dies("ends\nstalls\n");
    assert_eq!(old.start(&made).await.expect("starting").state, InstanceState::Running);
    old.backend.teardown(&old.scope, &made).await.unwrap();

    let made = old.create(&machine(None)).await;
    dies(&"ends\n".repeat(10));
    let refused = old.start(&made).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(refused));
    assert!(said.contains("before the agent was ready"), "{said}");
    let left = std::fs::read_to_string(old.folder.path().join("dies")).unwrap();
    assert_eq!(left.lines().count(), 7, "three boots");
}

#[tokio::test]
async fn what_it_cannot_do_is_said() {
    let old = Old::new();
    // Without an account there is nobody to `su` to.
    let made = old.create(&machine(Some("4321:55"))).await;
    let refused = old.start(&made).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(refused));
    assert!(said.contains("smolvm 1.9.2 runs commands as root"), "{said}");
    assert!(said.contains("install smolvm 1.32 or later"), "{said}");
    old.backend.teardown(&old.scope, &made).await.unwrap();

    // It keeps no log: what the guest has kept is shown, but cannot be followed.
    let on = old.start(&old.create(&machine(None)).await).await.expect("starting");
    let mut log = Vec::new();
    let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
    old.backend.logs(&old.scope, &on, options, &mut log).await.unwrap();
    assert_eq!(log, b"the log\n");
    let options = LogOptions { follow: true, tail: None, ..LogOptions::default() };
    let refused = old.backend.logs(&old.scope, &on, options, &mut log).await.unwrap_err();
    assert!(refused.to_string().contains("from 1.32 on"), "{refused}");

    let findings = old.backend.doctor(false).await;
    let program = findings.iter().find(|finding| finding.what == "smolvm").unwrap();
    assert_eq!(program.health, Health::Limited);
    assert!(program.detail.contains("1.9.2") && program.detail.contains("as root only"));
    assert_eq!(program.fix.as_deref(), Some("install 1.32 or later"));
    assert_eq!(old.refused(), Vec::<String>::new());
}
