//! The real program, for all that needs no boot: making, listing, refusing, removing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use bottle::backend::docker::Docker;
use bottle::backend::smolmachines::{Settings, Smolmachines};
use bottle::backend::{Backend, BackendError, Depth, Health, Observation, Scope};
use bottle::model::{
    BackendKind, ImageRef, Instance, InstanceState, LeftoverKind, MachineSpec, OwnerId, Ownership,
    ResourceSpec, Resources, Restart, SandboxId, SpecHash,
};

use crate::contract::docker::docker;
use crate::support;

/// The program with a data folder of its own, and a scope.
struct Corner {
    program: PathBuf,
    backend: Smolmachines,
    scope: Scope,
    folder: tempfile::TempDir,
}

impl Corner {
    fn new() -> Option<Self> {
        let program = support::smolvm_cli("what the real smolvm says and does without a boot")?;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("smol");
        let settings = Settings {
            program: Some(program.clone()),
            cache: Some(data.join(".cache")),
            env: vec![("SMOLVM_DATA_DIR".into(), data.into())],
            ..Settings::default()
        };
        let scope = Scope {
            owner: OwnerId::new("tests").unwrap(),
            state: "here".to_owned(),
            adopted: BTreeSet::new(),
            data: folder.path().join("state"),
            hidden: Vec::new(),
            places: Default::default(),
        };
        Some(Self {
            program,
            backend: Smolmachines::new(settings, Docker::from_env()),
            scope,
            folder,
        })
    }

    /// The program, as somebody else would use it.
    fn smolvm(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.args(args).env("SMOLVM_DATA_DIR", self.folder.path().join("smol"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// From now on the backend calls the program through a script, which has `$REAL` for it and the
    /// number of the call to remove a machine in `$N`.
    fn through(&mut self, removing: &str) {
        let path = self.folder.path().join("smolvm");
        let script = format!(
            "#!/bin/sh\nREAL='{}'\ncase \"$*\" in 'machine delete '*)\n\
             echo >>'{1}'; N=$(wc -l <'{1}')\n{removing}\nesac\nexec \"$REAL\" \"$@\"\n",
            self.program.display(),
            self.folder.path().join("removals").display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = self.folder.path().join("smol");
        let settings = Settings {
            program: Some(path),
            cache: Some(data.join(".cache")),
            env: vec![("SMOLVM_DATA_DIR".into(), data.into())],
            ..Settings::default()
        };
        self.backend = Smolmachines::new(settings, Docker::from_env());
    }

    /// How often the program was asked to remove a machine since.
    fn removals(&self) -> usize {
        let removals = self.folder.path().join("removals");
        std::fs::read_to_string(removals).unwrap_or_default().lines().count()
    }

    async fn observe(&self) -> Observation {
        self.backend.observe(&self.scope, Depth::Listing).await.expect("observing")
    }

    async fn try_create(&self, spec: &MachineSpec) -> Result<Instance, BackendError> {
        self.backend.create(&self.scope, &ResourceSpec::Machine(spec.clone())).await
    }

    async fn create(&self, spec: &MachineSpec) -> Instance {
        self.try_create(spec).await.expect("creating")
    }

    async fn teardown(&self, instance: &Instance) {
        self.backend.teardown(&self.scope, instance).await.expect("tearing down");
    }
}

pub(super) fn machine(name: &str) -> MachineSpec {
    MachineSpec {
        sandbox: SandboxId::new(name).unwrap(),
        backend: BackendKind::Smolmachines,
        image: ImageRef::Bare,
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::from([("GREETING".to_owned(), "it's = \"that\"\n".to_owned())]),
        connected: false,
        waits_for_env: false,
        resources: Resources { millicpus: 1500, memory: 512 << 20, pids: 64, disk: Some(3 << 30) },
        workdir: None,
        mount: None,
        user: None,
        command: vec!["serve".to_owned(), "a b='c'".to_owned()],
        restart: Restart::default(),
        overlay: None,
    }
}

/// On a busy host the kernel takes longer to end a machine's process than the program waits for it.
#[tokio::test]
async fn one_that_dies_slowly_is_removed_all_the_same() {
    let Some(mut corner) = Corner::new() else { return };
    let slow = "echo \"machine 'x' process is still alive after stop\" >&2; exit 1";
    let made = corner.create(&machine("ada")).await;
    corner.through(&format!("[ $N -gt 2 ] || {{ {slow}; }}"));
    corner.teardown(&made).await;
    assert_eq!((corner.observe().await.instances, corner.removals()), (vec![], 3));
}

/// What it refuses for another reason is said at once.
#[tokio::test]
async fn one_that_cannot_be_removed_is_said() {
    let Some(mut corner) = Corner::new() else { return };
    let made = corner.create(&machine("ada")).await;
    corner.through("echo 'the disk is gone' >&2; exit 1");
    let refused = corner.backend.teardown(&corner.scope, &made).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(refused));
    assert!(said.contains("the disk is gone"), "{said}");
    assert_eq!(corner.removals(), 1);
}

#[tokio::test]
async fn what_is_made_is_listed_as_it_was_made() {
    let Some(corner) = Corner::new() else { return };
    let spec = machine("ada");
    let made = corner.create(&spec).await;
    let seen = corner.observe().await;
    assert_eq!(seen.instances.as_slice(), std::slice::from_ref(&made));
    assert!(seen.facts.version.starts_with("smolvm 1."), "{:?}", seen.facts);
    assert_eq!((made.hash, made.fields.clone()), (Some(spec.hash()), spec.fields()));
    assert_eq!((made.state.clone(), made.drift.clone()), (InstanceState::Created, vec![]));
    assert_eq!(made.ownership, Ownership::Ours);
    assert_eq!(corner.create(&spec).await, made, "the same again is the same");
    let other = MachineSpec { user: Some("root".to_owned()), ..spec.clone() };
    let refused = corner.try_create(&other).await.unwrap_err();
    assert!(matches!(refused, BackendError::Failed { .. }), "{refused}");
    for _ in 0..2 {
        corner.teardown(&made).await;
        assert_eq!(corner.observe().await.instances, []);
    }
    assert_ne!(corner.create(&spec).await.id, made.id);
}

#[tokio::test]
async fn only_labels_make_it_ours() {
    let Some(corner) = Corner::new() else { return };
    let name = corner.scope.object_name(&SandboxId::new("ada").unwrap());
    corner.smolvm(&["machine", "create", "--name", &name, "--mem", "256"]);
    corner.smolvm(&["machine", "create", "--name", "vm-other", "--mem", "256"]);
    let before = corner.smolvm(&["machine", "ls", "--json"]);
    let [seen] = &corner.observe().await.instances[..] else { panic!("one is in our way") };
    assert_eq!(seen.ownership, Ownership::Foreign);
    let refused = corner.try_create(&machine("ada")).await.unwrap_err();
    assert!(matches!(refused, BackendError::Conflict { .. }), "{refused}");
    let refused = corner.backend.teardown(&corner.scope, seen).await.unwrap_err();
    assert!(matches!(refused, BackendError::Conflict { .. }), "{refused}");
    assert_eq!(corner.smolvm(&["machine", "ls", "--json"]), before);
}

#[tokio::test]
async fn names_that_the_program_refuses() {
    let Some(corner) = Corner::new() else { return };
    for name in ["a--b", "ends-", &"long".repeat(15)] {
        let scope = Scope { owner: OwnerId::new("o".repeat(63)).unwrap(), ..corner.scope.clone() };
        let spec = ResourceSpec::Machine(machine(name));
        let made = corner.backend.create(&scope, &spec).await.expect(name);
        let seen = corner.backend.observe(&scope, Depth::Listing).await.unwrap().instances;
        assert_eq!((seen.len(), seen[0].sandbox.as_str()), (1, name));
        corner.backend.teardown(&scope, &made).await.expect(name);
    }
}

#[tokio::test]
async fn what_was_changed_by_hand_is_drift() {
    let Some(corner) = Corner::new() else { return };
    let made = corner.create(&machine("ada")).await;
    corner.smolvm(&["machine", "update", "--name", &made.name, "--cpus", "3", "--mem", "1024"]);
    let seen = corner.observe().await.instances.remove(0);
    let paths: Vec<&str> = seen.drift.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["resources.cpus", "resources.memory (MiB)"]);
}

#[tokio::test]
async fn eight_at_once_make_one() {
    let Some(corner) = Corner::new() else { return };
    let spec = machine("ada");
    let tries = (0..8).map(|_| corner.create(&spec));
    let made = futures_util::future::join_all(tries).await;
    assert!(made.iter().all(|one| one.id == made[0].id), "{made:#?}");
    assert_eq!(corner.observe().await.instances.len(), 1);
    let gone = futures_util::future::join_all((0..8).map(|_| corner.teardown(&made[0]))).await;
    assert_eq!((gone.len(), corner.observe().await.instances.len()), (8, 0));
}

#[tokio::test]
async fn an_image_that_is_not_to_be_had_makes_nothing() {
    let Some(corner) = Corner::new() else { return };
    let path = corner.folder.path().join("image.tar");
    std::fs::write(&path, "this is no tar").unwrap();
    let digest = SpecHash::of_bytes(b"this is no tar");
    for path in [path, "/nonexistent/image.tar".into()] {
        let spec = MachineSpec { image: ImageRef::Tar { path, digest }, ..machine("ada") };
        let refused = corner.try_create(&spec).await.unwrap_err();
        assert!(matches!(refused, BackendError::Image { .. }), "{refused}");
    }
    let seen = corner.observe().await;
    assert_eq!((seen.instances, seen.leftovers), (vec![], vec![]));
}

#[tokio::test]
async fn a_root_folder_is_handed_over_and_goes_again() {
    let Some(corner) = Corner::new() else { return };
    let root = corner.folder.path().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/sh"), "#!").unwrap();
    let digest = SpecHash::of_bytes(b"root");
    let spec = MachineSpec { image: ImageRef::Folder { path: root, digest }, ..machine("ada") };
    let made = corner.create(&spec).await;
    assert_eq!(made.image, Some(digest));
    let leftover = corner.observe().await.leftovers.remove(0);
    assert_eq!((leftover.kind, leftover.digest), (LeftoverKind::Image, Some(digest)));
    corner.backend.prune(&corner.scope, &leftover).await.expect("pruning what is in use");
    assert_eq!(corner.observe().await.leftovers, std::slice::from_ref(&leftover));
    let archives = corner.folder.path().join("smol/.cache/smolvm-image-archives");
    assert_eq!(std::fs::read_dir(&archives).unwrap().count(), 1, "the program keeps a copy");
    // Another tree's last machine with it went, and took it along: it is made anew, once.
    for copy in std::fs::read_dir(&archives).unwrap() {
        std::fs::remove_dir_all(copy.unwrap().path()).unwrap();
    }
    let state = corner.observe().await.instances.remove(0).state;
    assert!(matches!(state, InstanceState::Broken(_)), "it cannot be started: {state:?}");
    let anew = corner.create(&spec).await;
    assert_ne!(anew.id, made.id);
    assert_eq!(corner.observe().await.instances[0].state, InstanceState::Created);
    assert_eq!(corner.create(&spec).await.id, anew.id);
    assert_eq!(std::fs::read_dir(&archives).unwrap().count(), 1, "it is there again");
    corner.teardown(&anew).await;
    corner.backend.prune(&corner.scope, &leftover).await.expect("pruning");
    assert_eq!(corner.observe().await.leftovers, []);
    assert_eq!(std::fs::read_dir(&archives).unwrap().count(), 0, "it goes, too");
}

/// An image that only the local engine has; it goes with the test.
struct EngineImage(String);

impl EngineImage {
    /// Imported from a layer with this one file, over whatever has the name.
    fn import(&self, content: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "bin/sh", content.as_bytes()).unwrap();
        tar.finish().unwrap();
        let label = format!("--change=LABEL io.bottle.test={}", support::run_id());
        docker(&["import", &label, path.to_str().unwrap(), &self.0]).expect("it can be imported");
    }
}

impl Drop for EngineImage {
    fn drop(&mut self) {
        drop(docker(&["image", "rm", "--force", &self.0]));
    }
}

#[tokio::test]
async fn an_image_of_the_engine_is_exported_once_for_each_of_its_ids() {
    let Some(corner) = Corner::new() else { return };
    if !support::docker("an image of the local engine in a microVM") {
        return;
    }
    let image = EngineImage(format!("bottle-{}:1", support::unique("image")));
    let of =
        |name: &str| MachineSpec { image: ImageRef::DockerLocal(image.0.clone()), ..machine(name) };
    let refused = corner.try_create(&of("ada")).await.unwrap_err();
    assert!(matches!(refused, BackendError::Image { .. }), "{refused}");
    assert!(refused.to_string().contains("no image of that name"), "{refused}");
    assert_eq!(corner.observe().await.leftovers, []);

    image.import("first");
    let ada = corner.create(&of("ada")).await;
    let [first] = &corner.observe().await.leftovers[..] else { panic!("one archive is kept") };
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &image.0]).unwrap();
    let digest = first.digest.expect("it is known by the image's id");
    assert_eq!(id, format!("sha256:{digest}"));
    assert_eq!(ada.image, Some(digest));
    let archive = corner.scope.data.join("smolmachines/images").join(&first.id.0);
    let written = std::fs::metadata(&archive).unwrap().modified().unwrap();
    let bob = corner.create(&of("bob")).await;
    assert_eq!(bob.image, ada.image);
    assert_eq!(std::fs::metadata(&archive).unwrap().modified().unwrap(), written, "it is kept");

    // The name leads elsewhere now: another archive, and the old one goes when nothing stands on it.
    image.import("second");
    let cy = corner.create(&of("cy")).await;
    assert_ne!(cy.image, ada.image);
    assert_eq!(corner.observe().await.leftovers.len(), 2);
    corner.teardown(&ada).await;
    corner.backend.prune(&corner.scope, first).await.expect("pruning what is in use");
    assert!(archive.exists(), "bob stands on it");
    corner.teardown(&bob).await;
    corner.backend.prune(&corner.scope, first).await.expect("pruning");
    assert!(!archive.exists());
    let left = corner.observe().await.leftovers;
    assert_eq!((left.len(), left[0].digest), (1, cy.image));
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_at_the_first_start() {
    let Some(corner) = Corner::new() else { return };
    let image = ImageRef::Registry("localhost:1/bottle-test-absent:1".to_owned());
    let made = corner.create(&MachineSpec { image, ..machine("ada") }).await;
    let row = corner.smolvm(&["machine", "ls", "--json"]);
    assert!(row.contains("\"image\": \"localhost:1/bottle-test-absent:1\""), "{row}");
    let refused = corner.backend.start(&corner.scope, &made).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(refused));
    assert!(said.contains("http://localhost:1/v2/bottle-test-absent/manifests/1"), "{said}");
    assert_eq!(corner.observe().await.instances, std::slice::from_ref(&made));
    corner.teardown(&made).await;
}

#[tokio::test]
async fn what_does_not_run_is_said_to_be_so() {
    let Some(corner) = Corner::new() else { return };
    let made = corner.create(&machine("ada")).await;
    let spec = bottle::backend::ExecSpec::new(["true"]);
    let ended = corner.backend.exec(&corner.scope, &made, &spec, bytes::Bytes::new()).await;
    assert!(matches!(ended, Err(BackendError::NotRunning { .. })), "{ended:?}");
    corner.smolvm(&["machine", "delete", "--force", "--name", &made.name]);
    let ended = corner.backend.start(&corner.scope, &made).await;
    assert!(matches!(ended, Err(BackendError::NotRunning { .. })), "{ended:?}");
}

#[tokio::test]
async fn doctor_knows_the_program() {
    let Some(corner) = Corner::new() else { return };
    let findings = corner.backend.doctor(false).await;
    let program = findings.iter().find(|finding| finding.what == "smolvm").expect("it is named");
    assert_eq!(program.health, Health::Works, "{findings:?}");
}

/// The listing is all that looking at fifty machines costs.
#[tokio::test]
async fn fifty_machines_cost_one_listing() {
    let Some(corner) = Corner::new() else { return };
    for number in 0..50 {
        let spec = MachineSpec { env: BTreeMap::new(), ..machine(&format!("m{number}")) };
        corner.create(&spec).await;
    }
    let fastest = |times: &mut Vec<Duration>| times.iter().min().copied().unwrap();
    let (mut by_hand, mut by_us) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let begun = Instant::now();
        corner.smolvm(&["machine", "ls", "--json"]);
        by_hand.push(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(corner.observe().await.instances.len(), 50);
        by_us.push(begun.elapsed());
    }
    let (by_hand, by_us) = (fastest(&mut by_hand), fastest(&mut by_us));
    println!("50 machines: smolvm alone {by_hand:?}, observed {by_us:?}");
    assert!(by_us <= by_hand * 2 + Duration::from_millis(5), "{by_us:?} against {by_hand:?}");
}
