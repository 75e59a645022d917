//! A tree, two engines, a state folder, and what can happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bottle::backend::memory::{Image, MemoryBackend, Object};
use bottle::backend::{Backend, Backends, Depth, Progress, Scope};
use bottle::manifest::LoadOptions;
use bottle::model::policy::{AllowEntry, Egress, GitRefs, GitUpstream, HostPattern, Identity};
use bottle::model::{
    AgentsFolder, BackendChoice, BackendKind, Bounds, Desired, Diagnostic, Fields, GateSpec,
    ImageRef, InstanceId, MachineSpec, NetworkSpec, OwnerId, Policy, ResourceKind, ResourceSpec,
    Resources, Restart, SandboxId, SandboxSpec, Setup, SetupCommand, SidecarSpec, SkillEntry,
    SkillFiles, SkillNode, SpecHash, Tree, Workspace, WorkspaceMode,
};
use bottle::plan::{AllowTeardown, Options};
use bottle::reconcile::{Reconciler, Sources, State};

/// The agents that a tree may have.
pub(super) const AGENTS: [&str; 4] = ["ada", "ada-b", "bob", "cyd"];
/// The engines.
pub(super) const KINDS: [BackendKind; 2] = [BackendKind::Docker, BackendKind::Native];
/// The names that are asked for.
pub(super) const ASKED: [&str; 2] = ["CONVERGENCE_A", "CONVERGENCE_B"];
/// The skills that an agent may have.
pub(super) const SKILLS: [&str; 3] = ["plan", "review", "write"];

/// What an agent's files say, in small numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) backend: u8,
    pub(super) image: u8,
    pub(super) memory: u8,
    pub(super) prompt: u8,
    pub(super) skills: u8,
    pub(super) skill_version: u8,
    pub(super) asked: u8,
    pub(super) command: u8,
    pub(super) network: u8,
    pub(super) sidecar: u8,
    pub(super) workspace: bool,
    pub(super) suspend: bool,
}

pub(super) fn agent(index: u8) -> SandboxId {
    let name = AGENTS[usize::from(index) % AGENTS.len()];
    SandboxId::new(name).expect("the names are valid")
}

pub(super) fn image(number: u8) -> ImageRef {
    match number % 4 {
        0 => ImageRef::Registry("image:1".to_owned()),
        1 => ImageRef::Registry("image:2".to_owned()),
        2 => ImageRef::Tar { path: "/images/a.tar".into(), digest: SpecHash::of_bytes(b"a") },
        _ => ImageRef::Folder { path: "/images/b".into(), digest: SpecHash::of_bytes(b"b") },
    }
}

/// The files of a skill, two versions of which share no file but one.
pub(super) fn skill(name: &str, version: u8) -> SkillFiles {
    let file = |path: &str, text: String| SkillEntry {
        path: path.to_owned(),
        mode: 0o644,
        node: SkillNode::File(text.into_bytes().into()),
    };
    let folder = format!("v{version}");
    SkillFiles::new(vec![
        file("SKILL.md", format!("{name} {version}")),
        SkillEntry { path: folder.clone(), mode: 0o755, node: SkillNode::Folder },
        file(&format!("{folder}/deep"), "deep".to_owned()),
        SkillEntry {
            path: format!("link-{version}"),
            mode: 0o777,
            node: SkillNode::Symlink("SKILL.md".to_owned()),
        },
    ])
}

/// What a sidecar may let through: a host by number.
pub(super) fn policy(number: u8) -> Policy {
    let entry = AllowEntry {
        host: HostPattern::Exact(format!("host-{number}.example.com")),
        port: 443,
        methods: Vec::new(),
        paths: Vec::new(),
        cidr: None,
        encoded_slash: false,
        expires: None,
    };
    let egress = Egress { allowlist: vec![entry], ..Egress::default() };
    Policy { egress, ..Policy::default() }
}

impl Wish {
    fn spec(&self, id: &SandboxId, workspace: &std::path::Path) -> SandboxSpec {
        let set = |bits: u8, names: &[&str]| -> BTreeSet<String> {
            let chosen = names.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
            chosen.map(|(_, name)| (*name).to_owned()).collect()
        };
        let fields = |version: u8| {
            let mut fields = Fields::default();
            fields.set("version", version.to_string());
            fields
        };
        let command: &[&str] = match self.command % 3 {
            0 => &[],
            1 => &["sleep", "1000"],
            _ => &["true"],
        };
        let sandbox = id.clone();
        SandboxSpec {
            id: id.clone(),
            host_name: id.clone(),
            bottle: "dev".to_owned(),
            source: format!("agents/{id}.md"),
            overlay: None,
            backend: match self.backend % 3 {
                0 => BackendChoice::Auto { default: None },
                1 => BackendChoice::Fixed(BackendKind::Docker),
                _ => BackendChoice::Fixed(BackendKind::Native),
            },
            // What may be on the native backend has no image that it would have to fetch.
            image: Some(image(if self.backend % 3 == 1 { self.image } else { self.image % 2 + 2 })),
            host_paths: Vec::new(),
            tools: Default::default(),
            setup: match self.image % 2 {
                0 => Setup::default(),
                _ => Setup {
                    file: "bottles/dev.md".to_owned(),
                    commands: vec![SetupCommand {
                        argv: ["sh", "-c", "exit 0"].map(str::to_owned).to_vec(),
                        line: 2,
                    }],
                },
            },
            sources: Vec::new(),
            env: BTreeMap::from([("LEVEL".to_owned(), (self.prompt % 2).to_string())]),
            asked_env: set(self.asked, &ASKED),
            resources: Resources {
                memory: u64::from(self.memory % 2 + 1) << 30,
                ..Resources::default()
            },
            workspace: self.workspace.then(|| Workspace {
                path: workspace.to_owned(),
                mode: WorkspaceMode::Copy,
                target: "/workspace".to_owned(),
            }),
            keep: Default::default(),
            user: None,
            policy: Policy::default(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            restart: Restart::default(),
            network: (!self.network.is_multiple_of(3)).then(|| NetworkSpec {
                sandbox: sandbox.clone(),
                fields: fields(self.network % 3),
                pool: None,
            }),
            sidecar: (!self.sidecar.is_multiple_of(3)).then(|| SidecarSpec {
                sandbox,
                fields: fields(self.sidecar % 3),
                policy: Arc::new(policy(self.sidecar / 3)),
                proxy: None,
            }),
            gate: gate(id, (self.backend % 3 == 2).then_some(self.sidecar)),
            run: vec!["claude".to_owned()],
            suspend: self.suspend,
            prompt: format!("prompt {}", self.prompt % 3).into(),
            skills: set(self.skills, &SKILLS)
                .into_iter()
                .map(|name| {
                    let files = skill(&name, self.skill_version % 2);
                    (name, Arc::new(files))
                })
                .collect(),
            skills_dir: None,
        }
    }
}

/// A git gate, for some of those that may have one.
fn gate(id: &SandboxId, version: Option<u8>) -> Option<GateSpec> {
    let version = version.filter(|version| version % 4 > 0)?;
    let app = GitUpstream {
        name: "app".to_owned(),
        user: "git".to_owned(),
        host: "git.example".to_owned(),
        port: 22,
        path: format!("/o/app{}", version % 4),
        identity: Identity { file: "/keys/agent".into(), agent: None, fingerprint: None },
        known_host_keys: Vec::new(),
        extra_hosts: BTreeMap::new(),
        refs: GitRefs::default(),
        max_push: 1 << 30,
        max_file: 1 << 28,
        allow: Vec::new(),
    };
    GateSpec::of(id, &Policy { git: vec![app], ..Policy::default() })
}

/// Everything there is.
pub(super) struct World {
    pub(super) engines: [Arc<MemoryBackend>; 2],
    pub(super) reconciler: Reconciler,
    pub(super) wishes: BTreeMap<SandboxId, Wish>,
    /// Agents whose files do not parse.
    pub(super) broken: BTreeSet<SandboxId>,
    /// Machines whose receipts were lost: what went in before is not known any more.
    pub(super) lost: BTreeSet<InstanceId>,
    /// Their sandboxes, and those of which somebody made a copy: a machine that follows gets what is known to
    /// nobody as the agent's own.
    pub(super) forgotten: BTreeSet<SandboxId>,
    /// Images that are not to be had.
    pub(super) unpublished: BTreeSet<String>,
    folder: tempfile::TempDir,
}

/// A folder in memory where the machine has one: the state folder's syncs cost nothing there.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary folder can be made")
}

impl World {
    /// Two engines on which others live, too, and nothing of ours.
    pub(super) async fn new(seed: u64) -> Self {
        let folder = folder();
        std::fs::create_dir(folder.path().join("work")).expect("a folder can be made");
        std::fs::write(folder.path().join("work/file"), "work").expect("a file can be written");
        let state = State::open(&folder.path().join("state")).expect("the state folder opens");
        let engines = KINDS.map(|kind| Arc::new(MemoryBackend::new(kind, seed)));
        let mut backends = Backends::new();
        for engine in &engines {
            for name in ["image:1", "image:2"] {
                engine.publish_image(name, Image::default());
            }
            for path in ["/images/a.tar", "/images/b"] {
                engine.add_source(path, Image::default());
            }
            let engine: Arc<dyn Backend> = engine.clone();
            backends.insert(engine.kind(), engine);
        }
        let reconciler = Reconciler {
            load: LoadOptions::new(folder.path(), folder.path().join("state")),
            state,
            backends,
            sources: Sources::default(),
            depth: Depth::Listing,
            jobs: Some(2),
            deadlines: bottle::apply::Deadlines::default(),
        };
        let world = Self {
            engines,
            reconciler,
            wishes: BTreeMap::new(),
            broken: BTreeSet::new(),
            lost: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            unpublished: BTreeSet::new(),
            folder,
        };
        world.settle_neighbours().await;
        world
    }

    /// Another owner's sandbox of a name that we use, with an image and a leftover.
    async fn settle_neighbours(&self) {
        let scope = Scope {
            owner: OwnerId::new("others").expect("the name is valid"),
            state: "elsewhere".to_owned(),
            adopted: BTreeSet::new(),
            data: PathBuf::from("/nowhere"),
            hidden: Vec::new(),
            places: Default::default(),
        };
        let wish = Wish { image: 2, ..PLAIN };
        for engine in &self.engines {
            let spec = wish.spec(&agent(0), self.folder.path());
            let machine: MachineSpec = spec.machine(engine.kind()).expect("it names an image");
            engine.prepare(&scope, &machine, &Progress::silent()).await.expect("no fault yet");
            let resource = ResourceSpec::Machine(machine);
            let made = engine.create(&scope, &resource).await.expect("no fault yet");
            engine.start(&scope, &made).await.expect("no fault yet");
            engine.leave_scratch(&scope, "theirs");
        }
    }

    pub(super) fn owner() -> OwnerId {
        OwnerId::new("team").expect("the name is valid")
    }

    /// Where the workspace lies on the host.
    pub(super) fn workspace(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// What the tree declares.
    pub(super) fn desired(&self) -> Desired {
        let wished = self.wishes.iter().filter(|(id, _)| !self.broken.contains(*id));
        let wrong = |id: &SandboxId| Diagnostic::error(format!("agents/{id}.md"), "does not parse");
        Desired {
            tree: Tree {
                owner: Self::owner(),
                path: "/tree".into(),
                network_pool: None,
                snapshots: Some(Bounds::default()),
                proxy: None,
                notify: Vec::new(),
            },
            sandboxes: wished
                .map(|(id, wish)| (id.clone(), wish.spec(id, &self.workspace())))
                .collect(),
            held: self.broken.iter().map(|id| (id.clone(), vec![wrong(id)])).collect(),
            unread: BTreeMap::new(),
            diagnostics: self.broken.iter().map(wrong).collect(),
            agents: AgentsFolder::Present,
            overlays: BTreeSet::new(),
            was: BTreeMap::new(),
        }
    }

    /// What the operator says: removals are no accident here.
    pub(super) fn options() -> Options {
        Options { allow_teardown: AllowTeardown::All, ..Options::default() }
    }

    /// Ends all that the operator stopped; returns what that was.
    pub(super) fn wake(&self) -> BTreeSet<SandboxId> {
        let memory = self.reconciler.state.tree(&Self::owner()).expect("it opens");
        let stopped: BTreeSet<SandboxId> =
            memory.stopped().expect("they can be read").0.into_keys().collect();
        for id in &stopped {
            memory.set_stopped(id, None).expect("it can be removed");
        }
        stopped
    }

    /// Every object of both engines that is ours, each with its engine's number.
    pub(super) fn ours(&self) -> Vec<(usize, Object)> {
        let of = |(index, engine): (usize, &Arc<MemoryBackend>)| {
            engine.objects().into_iter().map(move |object| (index, object)).collect::<Vec<_>>()
        };
        let all = self.engines.iter().enumerate().flat_map(of);
        all.filter(|(_, object)| object.labels.as_ref().is_some_and(|l| l.owner == Self::owner()))
            .collect()
    }

    /// The machines of ours, by sandbox.
    pub(super) fn machines(&self) -> BTreeMap<SandboxId, InstanceId> {
        let ours = self.ours().into_iter().filter(|(_, o)| o.resource == ResourceKind::Machine);
        ours.filter_map(|(_, object)| Some((object.labels?.sandbox, object.id))).collect()
    }

    /// Makes an image of the registry be there, or be nowhere.
    pub(super) fn publish(&mut self, number: u8, there: bool) {
        let name = image(number % 2).to_string();
        for engine in &self.engines {
            if there {
                engine.publish_image(&name, Image::default());
            } else {
                engine.remove_image(&name);
            }
        }
        if there {
            self.unpublished.remove(&name);
        } else {
            self.unpublished.insert(name);
        }
    }

    /// Every object that a pass may not touch: others', and those of sandboxes that are held or
    /// suspended.
    pub(super) fn untouchable(&self) -> BTreeMap<InstanceId, Object> {
        let suspended = |id: &SandboxId| self.wishes.get(id).is_some_and(|wish| wish.suspend);
        let objects = self.engines.iter().flat_map(|engine| engine.objects());
        objects
            .filter(|object| match &object.labels {
                Some(labels) if labels.owner == Self::owner() => {
                    self.broken.contains(&labels.sandbox) || suspended(&labels.sandbox)
                }
                _ => true,
            })
            .map(|object| (object.id.clone(), object))
            .collect()
    }
}

/// An agent that asks for nothing.
pub(super) const PLAIN: Wish = Wish {
    backend: 0,
    image: 0,
    memory: 0,
    prompt: 0,
    skills: 0,
    skill_version: 0,
    asked: 0,
    command: 0,
    network: 0,
    sidecar: 0,
    workspace: false,
    suspend: false,
};
