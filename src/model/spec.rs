//! What a sandbox is to be: fully resolved, validated, and free of secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::access;
use super::change::{self, MACHINE};
use super::gate::{self, GateSpec, GuestGate};
use super::hash::{Fields, SpecHash};
use super::id::{BackendKind, ResourceKind, SandboxId};
use super::kept::Keep;
use super::main_process::Main;
use super::observed::VARIABLES;
use super::policy::{
    CredentialRoute, PROXY_LOGIN, Policy, Proxy, SERVICES_ELSEWHERE, SERVICES_WITH_DOCKER,
};
use super::roles;
use super::setup::Setup;
use super::skill::SkillFiles;
use super::source::HostSource;
use super::supervise::guest as supervise;
use super::tool::{self, Tools};

/// Which backend a bottle asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// Decided once, at creation; `default` is what `bottle.yaml` or `--backend` name.
    Auto {
        /// The default for `auto`, when one is set.
        default: Option<BackendKind>,
    },
    /// This one.
    Fixed(BackendKind),
}

/// Where a machine's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageRef {
    /// The host's own root, read-only (native).
    Host,
    /// No image: the bare VM (smolmachines).
    Bare,
    /// A reference that the engine resolves and pulls; hashed as written.
    Registry(String),
    /// An image of the local Docker engine, by name (`docker:NAME`).
    DockerLocal(String),
    /// A docker-save or OCI tar.
    Tar {
        /// Absolute path on the host.
        path: PathBuf,
        /// Of its content.
        digest: SpecHash,
    },
    /// A folder that holds a root file system.
    Folder {
        /// Absolute path on the host.
        path: PathBuf,
        /// Of its content: paths, kinds, modes, owners and bytes.
        digest: SpecHash,
    },
    /// A folder with a Dockerfile, of which the Docker engine builds an image.
    Built {
        /// Absolute path on the host.
        path: PathBuf,
        /// Values for the `ARG`s of the Dockerfile.
        args: BTreeMap<String, String>,
        /// Of what is sent to the engine, alone.
        content: SpecHash,
        /// Of that and the arguments.
        digest: SpecHash,
    },
    /// A packed `.smolmachine`.
    Pack {
        /// Absolute path on the host.
        path: PathBuf,
        /// Of its content.
        digest: SpecHash,
    },
}

impl ImageRef {
    /// Why `backend` can make nothing of it, as the end of a sentence, and a backend that can.
    #[must_use]
    pub const fn unsuited(&self, backend: BackendKind) -> Option<(&'static str, BackendKind)> {
        match (self, backend) {
            (Self::Host, BackendKind::Docker | BackendKind::Smolmachines) => {
                Some(("works on the native backend only", BackendKind::Native))
            }
            (Self::Registry(_) | Self::DockerLocal(_), BackendKind::Native) => Some((
                "has to be fetched, and the native backend asks no registry and no engine",
                BackendKind::Docker,
            )),
            (Self::Built { .. }, BackendKind::Native) => Some((
                "is built by a Docker engine, and the native backend asks none",
                BackendKind::Docker,
            )),
            (Self::Pack { .. }, BackendKind::Native | BackendKind::Docker) => {
                Some(("works on the smolmachines backend only", BackendKind::Smolmachines))
            }
            _ => None,
        }
    }

    /// An image that is built of this content with these arguments.
    #[must_use]
    pub fn built(path: PathBuf, args: BTreeMap<String, String>, content: SpecHash) -> Self {
        let mut fields = Fields::default();
        fields.set("content", content.to_string());
        for (name, value) in &args {
            fields.set(format!("args.{name}"), value.clone());
        }
        let digest = fields.hash("bottle.build.v1");
        Self::Built { path, args, content, digest }
    }

    /// The digest of an image that comes from a file or folder of the host.
    #[must_use]
    pub fn digest(&self) -> Option<SpecHash> {
        match self {
            Self::Tar { digest, .. }
            | Self::Folder { digest, .. }
            | Self::Built { digest, .. }
            | Self::Pack { digest, .. } => Some(*digest),
            Self::Host | Self::Bare | Self::Registry(_) | Self::DockerLocal(_) => None,
        }
    }
}

/// As it is hashed and shown: of a file its content counts, not where it lies.
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Bare => f.write_str("bare"),
            Self::Registry(reference) => f.write_str(reference),
            Self::DockerLocal(name) => write!(f, "docker:{name}"),
            Self::Tar { digest, .. } => write!(f, "tar sha256:{digest}"),
            Self::Folder { digest, .. } => write!(f, "folder sha256:{digest}"),
            Self::Built { digest, .. } => write!(f, "build sha256:{digest}"),
            Self::Pack { digest, .. } => write!(f, "smolmachine sha256:{digest}"),
        }
    }
}

/// Limits of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub millicpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of the writable layer, where the backend can bound it.
    pub disk: Option<u64>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { millicpus: 2000, memory: 2 << 30, pids: 512, disk: None }
    }
}

impl Resources {
    /// Those that most backends can change while a machine runs: all but `disk`.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.set("resources.cpus", cpus(self.millicpus));
        fields.set("resources.memory", human_bytes(self.memory));
        fields.set("resources.pids", self.pids.to_string());
        fields
    }
}

/// Bytes in the largest binary unit that divides them: `2G`, `1536M`, `1000` (bytes).
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// How the workspace gets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// Copied once, at creation.
    #[default]
    Copy,
    /// Mounted, writable.
    Mount,
}

/// A host folder that the agent works on. `mode: none` is the absence of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Absolute path on the host, symlinks resolved.
    pub path: PathBuf,
    /// How it gets in.
    pub mode: WorkspaceMode,
    /// Absolute path in the guest.
    pub target: String,
}

/// What happens when a machine's `command` ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Started again, however it ended.
    Always,
    /// Started again unless it ended with 0, which completes it.
    #[default]
    OnFailure,
    /// Left as it ended.
    Never,
}

impl Restart {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

/// One agent in its bottle, as the tree declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The agent's name.
    pub id: SandboxId,
    /// Its machine's host name: the place that a backend keeps it in, which is another name once it was renamed.
    pub host_name: SandboxId,
    /// The bottle's name.
    pub bottle: String,
    /// The agent's file, relative to the tree.
    pub source: String,
    /// The project folder that brought the agent, when it came from an overlay.
    pub overlay: Option<String>,
    /// Which backend is to make it.
    pub backend: BackendChoice,
    /// The image, when the bottle names one.
    pub image: Option<ImageRef>,
    /// Host folders shown read-only (native `host` image).
    pub host_paths: Vec<PathBuf>,
    /// Programs of the operator's (native `host` image).
    pub tools: Tools,
    /// What is run once in its machine.
    pub setup: Setup,
    /// Every folder and file of the host that it is given or made from.
    pub sources: Vec<HostSource>,
    /// Plain environment values.
    pub env: BTreeMap<String, String>,
    /// Names whose values are asked for.
    pub asked_env: BTreeSet<String>,
    /// Limits.
    pub resources: Resources,
    /// The host folder to work on.
    pub workspace: Option<Workspace>,
    /// What of it outlives its machine; no part of any hash.
    pub keep: Keep,
    /// The user, when the bottle names one.
    pub user: Option<String>,
    /// What it may reach.
    pub policy: Policy,
    /// The machine's main process; empty: stay up and wait.
    pub command: Vec<String>,
    /// When `command` ends.
    pub restart: Restart,
    /// Its own network, where something may need one.
    pub network: Option<NetworkSpec>,
    /// Its sidecar, where something is enforced, or git may need one: [`Self::sidecar`] knows where.
    pub sidecar: Option<SidecarSpec>,
    /// Its git gate, where its bottle names upstreams.
    pub gate: Option<GateSpec>,
    /// What `bottle run` starts.
    pub run: Vec<String>,
    /// Leave it exactly as it is.
    pub suspend: bool,
    /// The system prompt, trimmed.
    pub prompt: Arc<str>,
    /// The skills by name.
    pub skills: BTreeMap<String, Arc<SkillFiles>>,
    /// Where skills go in the guest, when not to `$HOME/.claude/skills`.
    pub skills_dir: Option<String>,
}

/// A resource that this backend cannot make as the bottle asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsuitable(
    /// What does not fit, and what to change.
    pub String,
);

impl SandboxSpec {
    /// The machine that this sandbox needs on `backend`.
    ///
    /// # Errors
    /// [`Unsuitable`] when the bottle asks for something that this backend cannot make.
    pub fn machine(&self, backend: BackendKind) -> Result<MachineSpec, Unsuitable> {
        let image = match (&self.image, backend) {
            (Some(image), _) => match image.unsuited(backend) {
                Some((why, fitting)) => {
                    return Err(Unsuitable(format!(
                        "`image: {image}` {why}, and this sandbox is on {backend}: name another image, or \
                         move the sandbox with `backend: {fitting}`, which makes it anew"
                    )));
                }
                None => image.clone(),
            },
            (None, BackendKind::Native) => ImageRef::Host,
            (None, BackendKind::Smolmachines) => ImageRef::Bare,
            (None, _) => {
                return Err(Unsuitable(format!(
                    "bottle {} names no `image`, which the {backend} backend needs",
                    self.bottle
                )));
            }
        };
        if !self.tools.is_empty() && (backend != BackendKind::Native || image != ImageRef::Host) {
            let (what, where_) = match backend {
                BackendKind::Native => (format!("`image: {image}`"), "on native"),
                _ => (format!("the {backend} backend"), "there"),
            };
            return Err(Unsuitable(format!(
                "`tools` of bottle {} shows programs of this machine, and {what} has its own: put them into the image, \
                 with `image: {{build: ./FOLDER}}`, or leave `tools` out {where_}",
                self.bottle
            )));
        }
        if !self.policy.services.is_empty() && backend == BackendKind::Docker {
            return Err(Unsuitable(format!("{SERVICES_ELSEWHERE}: {SERVICES_WITH_DOCKER}")));
        }
        if self.gate.is_some()
            && let Some(why) = gate::unsuited(backend)
        {
            return Err(Unsuitable(why));
        }
        let mount = self.workspace.clone().filter(|w| w.mode == WorkspaceMode::Mount);
        let connected = self.sidecar(backend).is_some();
        let made = self.env.iter().filter(|(name, _)| change::is_made_with(name));
        let env = made.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(MachineSpec {
            sandbox: self.id.clone(),
            backend,
            image,
            host_paths: self.host_paths.clone(),
            tools: self.tools.clone(),
            setup: self.setup.clone(),
            env,
            connected,
            waits_for_env: self.waits_for_env(),
            resources: self.resources,
            workdir: self.workspace.as_ref().map(|w| w.target.clone()),
            mount,
            user: self.user.clone(),
            command: self.command.clone(),
            restart: self.restart,
            overlay: self.overlay.clone(),
        })
    }

    /// All that `backend` is to make for this sandbox, in the order of creation.
    ///
    /// # Errors
    /// [`Unsuitable`] when the bottle asks for something that this backend cannot make.
    pub fn resources(&self, backend: BackendKind) -> Result<Vec<ResourceSpec>, Unsuitable> {
        let machine = self.machine(backend)?;
        let proxy = self.sidecar(backend).and_then(|sidecar| sidecar.proxy.as_ref());
        if let Some(why) = proxy.and_then(|proxy| proxy.unsuited(backend)) {
            return Err(Unsuitable(why));
        }
        let network =
            self.network.clone().filter(|_| backend.has_networks() && self.leads(backend));
        let network = network.map(ResourceSpec::Network);
        let sidecar = self.sidecar(backend).cloned().map(ResourceSpec::Sidecar);
        let gate = self.gate(backend).cloned().map(ResourceSpec::Gate);
        let beside = network.into_iter().chain(sidecar).chain(gate);
        Ok(beside.chain([ResourceSpec::Machine(machine)]).collect())
    }

    /// The sidecar that it has there.
    #[must_use]
    pub fn sidecar(&self, backend: BackendKind) -> Option<&SidecarSpec> {
        self.sidecar.as_ref().filter(|_| backend.has_sidecars() && self.leads(backend))
    }

    /// Whether its sidecar has something to let through there: that may be git alone.
    fn leads(&self, backend: BackendKind) -> bool {
        self.gate.is_none() || self.policy.needs_sidecar() || backend.gates_by_sidecar()
    }

    /// The git gate that it has there.
    #[must_use]
    pub fn gate(&self, backend: BackendKind) -> Option<&GateSpec> {
        self.gate.as_ref().filter(|_| backend.has_gates())
    }

    /// What is put into the running machine.
    #[must_use]
    pub fn guest(&self, backend: BackendKind) -> GuestSpec {
        GuestSpec {
            sandbox: self.id.clone(),
            host_name: self.host_name.clone(),
            prompt: self.prompt.clone(),
            skills: self.skills.clone(),
            skills_dir: self.skills_dir.clone(),
            setup: self.setup.clone(),
            asked_env: self.asked_env.clone(),
            env: self.values(backend),
            unset: BTreeSet::new(),
            workspace: self.workspace.clone().filter(|w| w.mode == WorkspaceMode::Copy),
            workdir: self.workspace.as_ref().map(|workspace| workspace.target.clone()),
            gated: !self.command.is_empty(),
            main: Some(Main {
                command: self.command.clone(),
                restart: self.restart,
                waits_for_env: self.waits_for_env(),
            }),
            access: self.sidecar(backend).map(|_| GuestAccess {
                backend,
                routes: self
                    .policy
                    .routes
                    .iter()
                    .filter(|r| !r.roles.is_empty())
                    .cloned()
                    .collect(),
            }),
            gate: self.gate(backend).map(GateSpec::guest),
            asks: self
                .sidecar(backend)
                .and(self.policy.asks.as_ref())
                .map(|asks| GuestAsks { backend, config: asks.config(&self.policy, backend) }),
        }
    }
}

impl SandboxSpec {
    /// Whether its `command` waits for values.
    fn waits_for_env(&self) -> bool {
        !self.asked_env.is_empty() && !self.command.is_empty()
    }

    /// The plain values of its programs' environment that can change while its machine stays.
    fn values(&self, backend: BackendKind) -> BTreeMap<String, String> {
        let mut env = match self.sidecar(backend) {
            Some(_) => access::environment(&self.policy, backend, &self.host_name),
            None => BTreeMap::new(),
        };
        // What the bottle itself says stands over what leads to the sidecar.
        env.extend(self.env.clone());
        env.retain(|name, _| !change::is_made_with(name) && !self.asked_env.contains(name));
        env
    }
}

/// What programs speak where neither image nor bottle says (`LANG`): no language, in UTF-8.
pub const LANGUAGE: &str = "C.UTF-8";

/// The network of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What only its creation can set.
    pub fields: Fields,
    /// The range from which the subnets of new networks are taken; no part of the hash.
    pub pool: Option<String>,
}

impl NetworkSpec {
    /// The content hash.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.fields.hash("bottle.network.v1")
    }
}

/// The sidecar of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What only its creation can set.
    pub fields: Fields,
    /// What it enforces. It is loaded into the running sidecar: no part of [`Self::hash`].
    pub policy: Arc<Policy>,
    /// By which proxy it reaches upstreams. That is loaded as well.
    pub proxy: Option<Arc<Proxy>>,
}

impl SidecarSpec {
    /// The hash of what only creation can set.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.fields.hash("bottle.sidecar.v1")
    }

    /// The hash of what is loaded into it.
    #[must_use]
    pub fn content_hash(&self) -> SpecHash {
        self.content().hash("bottle.policy.v1")
    }

    /// The fields of what is loaded into it.
    #[must_use]
    pub fn content(&self) -> Fields {
        let mut fields = self.policy.fields();
        fields.0.extend(self.proxy.iter().flat_map(|proxy| proxy.fields().0));
        if let Some(asks) = &self.policy.asks {
            // It does not matter on which backend: that of a sidecar stays the same.
            let told = asks.config(&Policy::default(), BackendKind::Native).to_string();
            let told = SpecHash::of_bytes(told.as_bytes());
            fields.set("supervise.machine", format!("sha256:{told}"));
        }
        fields
    }

    /// The credentials that it is given, each by the name under which it is known, with the name by which a
    /// person knows it.
    pub fn credentials(&self) -> impl Iterator<Item = (&str, &str)> {
        let routes = self.policy.routes.iter().map(|route| (&*route.token_ref, &*route.token_ref));
        let login = self.proxy.iter().filter_map(|proxy| Some((PROXY_LOGIN, proxy.login.name()?)));
        routes.chain(login)
    }
}

/// A resource that a backend makes. (The guest is none: provisioning puts it in.)
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are machines")]
pub enum ResourceSpec {
    /// A network.
    Network(NetworkSpec),
    /// A sidecar.
    Sidecar(SidecarSpec),
    /// A git gate.
    Gate(GateSpec),
    /// A machine.
    Machine(MachineSpec),
}

impl ResourceSpec {
    /// Which part of the sandbox it is.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Network(_) => ResourceKind::Network,
            Self::Sidecar(_) => ResourceKind::Sidecar,
            Self::Gate(_) => ResourceKind::Gate,
            Self::Machine(_) => ResourceKind::Machine,
        }
    }

    /// The sandbox that it is a part of.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxId {
        match self {
            Self::Network(spec) => &spec.sandbox,
            Self::Sidecar(spec) => &spec.sandbox,
            Self::Gate(spec) => &spec.sandbox,
            Self::Machine(spec) => &spec.sandbox,
        }
    }

    /// All fields.
    #[must_use]
    pub fn fields(&self) -> Fields {
        match self {
            Self::Network(spec) => spec.fields.clone(),
            Self::Sidecar(spec) => spec.fields.clone(),
            Self::Gate(spec) => spec.fields.clone(),
            Self::Machine(spec) => spec.fields(),
        }
    }

    /// The fields that only creation can set.
    #[must_use]
    pub fn making(&self) -> Fields {
        match self {
            Self::Machine(spec) => spec.making(),
            _ => self.fields(),
        }
    }

    /// Of the fields of something that was found the same.
    #[must_use]
    pub fn making_of(&self, found: &Fields) -> Fields {
        match self {
            Self::Machine(spec) => change::making(spec.backend, found),
            _ => found.clone(),
        }
    }

    /// Whether something that was made as `hash` and `fields` say is this, apart from what can change
    /// in place. Earlier versions hashed that too: what they made is known by the fields of its hash.
    #[must_use]
    pub fn is(&self, hash: Option<SpecHash>, fields: &Fields) -> bool {
        let Some(hash) = hash else { return false };
        let Self::Machine(spec) = self else { return hash == self.hash() };
        hash == spec.hash()
            || (change::is_earlier(spec.backend, hash, fields)
                && change::making(spec.backend, fields) == spec.making())
    }

    /// The content hash.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        match self {
            Self::Network(spec) => spec.hash(),
            Self::Sidecar(spec) => spec.hash(),
            Self::Gate(spec) => spec.hash(),
            Self::Machine(spec) => spec.hash(),
        }
    }
}

/// What a machine is made with. What of it can change in place is no part of its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Who makes it.
    pub backend: BackendKind,
    /// Its root file system.
    pub image: ImageRef,
    /// Host folders shown read-only.
    pub host_paths: Vec<PathBuf>,
    /// Programs of the operator's. Their names are a part of the hash; where they lie is none.
    pub tools: Tools,
    /// What is run in it once, as provisioning does.
    pub setup: Setup,
    /// Environment values that only creation can set.
    pub env: BTreeMap<String, String>,
    /// It has a sidecar, its only way out. Without one there is none.
    pub connected: bool,
    /// `command` waits until asked-for values were delivered in this run of the machine.
    pub waits_for_env: bool,
    /// Limits.
    pub resources: Resources,
    /// Where programs start, when not where the image says.
    pub workdir: Option<String>,
    /// The workspace, when it is mounted.
    pub mount: Option<Workspace>,
    /// The user, when the bottle names one.
    pub user: Option<String>,
    /// The main process until provisioning puts one in; empty: stay up and wait. No part of its fields, as
    /// all that [`Main`] says.
    pub command: Vec<String>,
    /// When the main process ends.
    pub restart: Restart,
    /// The overlay's folder, for the label; no part of the hash.
    pub overlay: Option<String>,
}

impl MachineSpec {
    /// Where folders of the host will be in it: absolute paths.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let mount = self.mount.iter().map(|mount| mount.target.clone());
        let shown = self.host_paths.iter().map(PathBuf::as_path).chain(tool::folders(&self.tools));
        mount.chain(shown.map(|path| path.display().to_string())).collect()
    }

    /// All of it but the main process, by the names that the manifest uses.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.set("backend", self.backend.as_str());
        fields.set("image", self.image.to_string());
        if self.connected {
            fields.set("network", "its sidecar");
        }
        for path in &self.host_paths {
            fields.set(format!("host_paths.{}", path.display()), "read-only");
        }
        for (name, found) in &self.tools {
            fields.set(tool::field(name), found.to_string());
        }
        fields.0.extend(self.setup.fields().0);
        for (name, value) in &self.env {
            if !(self.connected && access::is_constant(self.backend, &self.sandbox, name, value)) {
                fields.set(format!("env.{name}"), value.clone());
            }
        }
        fields.0.extend(self.resources.fields().0);
        if let Some(disk) = self.resources.disk {
            fields.set("resources.disk", human_bytes(disk));
        }
        if let Some(workdir) = &self.workdir {
            fields.set("workspace.target", workdir.clone());
        }
        if let Some(mount) = &self.mount {
            fields.set("workspace.mount", mount.path.display().to_string());
        }
        if let Some(user) = &self.user {
            fields.set("user", user.clone());
        }
        fields
    }

    /// The fields that only creation can set: those that are hashed.
    #[must_use]
    pub fn making(&self) -> Fields {
        change::making(self.backend, &self.fields())
    }

    /// The content hash.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.making().hash(MACHINE)
    }
}

/// Thousandths of a CPU as the manifest writes CPUs: `0.5`.
#[must_use]
pub fn cpus(millicpus: u32) -> String {
    let text = format!("{}.{:03}", millicpus / 1000, millicpus % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What is put into a running machine. A change of it is a reprovision, in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its machine's host name.
    pub host_name: SandboxId,
    /// The system prompt.
    pub prompt: Arc<str>,
    /// The skills by name.
    pub skills: BTreeMap<String, Arc<SkillFiles>>,
    /// Where skills go, when not to `$HOME/.claude/skills`.
    pub skills_dir: Option<String>,
    /// What is run once, before anything of the agent's starts; it is hashed with the machine.
    pub setup: Setup,
    /// Names whose values are asked for.
    pub asked_env: BTreeSet<String>,
    /// Plain values for the environment of its programs, and what leads them to its sidecar.
    pub env: BTreeMap<String, String>,
    /// Names that an earlier version set when it made the machine, and that are wanted no more.
    pub unset: BTreeSet<String>,
    /// Copied in once, at creation; no part of the hash.
    pub workspace: Option<Workspace>,
    /// Where its programs start, if that is a workspace; no part of the hash.
    pub workdir: Option<String>,
    /// The machine's `command` waits for the end of provisioning; no part of the hash.
    pub gated: bool,
    /// The main process of its machine, unless that is one that an earlier version built in.
    pub main: Option<Main>,
    /// What it needs to use its sidecar, where it has one.
    pub access: Option<GuestAccess>,
    /// What its git needs to find its gate, where it has one.
    pub gate: Option<GuestGate>,
    /// What it is told of the door at which its agent asks, where there is one.
    pub asks: Option<GuestAsks>,
}

/// What a guest is told of the door at which its agent asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAsks {
    /// The backend, which says where that is.
    pub backend: BackendKind,
    /// What it may do now: [`guest::Asks::config`](super::supervise::guest::Asks::config).
    pub config: serde_json::Value,
}

/// What a guest needs to use its sidecar, beside the environment of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAccess {
    /// The backend, which says where the sidecar is.
    pub backend: BackendKind,
    /// The routes that set something up on the agent's side.
    pub routes: Vec<CredentialRoute>,
}

impl GuestSpec {
    /// The fields that are hashed.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.set("prompt", format!("sha256:{}", SpecHash::of_bytes(self.prompt.as_bytes())));
        for (name, files) in &self.skills {
            fields.set(format!("skills.{name}"), format!("sha256:{}", files.hash()));
        }
        if let Some(dir) = &self.skills_dir {
            fields.set("skills_dir", dir.clone());
        }
        for name in &self.asked_env {
            fields.set(format!("env.{name}"), "asked for");
        }
        let backend = self.access.as_ref().map(|access| access.backend);
        let constant = |name: &str, value: &str| {
            backend
                .is_some_and(|backend| access::is_constant(backend, &self.host_name, name, value))
        };
        let mut constants = Fields::default();
        for (name, value) in &self.env {
            // What leads to the sidecar is no choice of the bottle's, and shown as one thing.
            let fields = if constant(name, value) { &mut constants } else { &mut fields };
            // Quoted where it could be taken for a word of ours.
            fields.set_list(format!("env.{name}"), &[value]);
        }
        if !constants.0.is_empty() {
            fields.set(VARIABLES, format!("sha256:{}", constants.hash("variables")));
        }
        for name in &self.unset {
            fields.set(format!("env.{name}"), "not set");
        }
        if let Some(main) = &self.main {
            fields.0.extend(main.fields().0);
        }
        if let Some(access) = &self.access {
            fields.set("ca", "this sandbox's own");
            let preload = SpecHash::of_bytes(access::NODE_PROXY.as_bytes());
            fields.set("node_proxy", format!("sha256:{preload}"));
            for route in &access.routes {
                for role in &route.roles {
                    let url = access::route_url(access.backend, route);
                    let upstream = roles::upstream(route);
                    let path = format!("{}.{}", role.as_str(), route.path);
                    fields.set(path, format!("{url} for {upstream}"));
                }
            }
        }
        if let Some(gate) = &self.gate {
            gate.set_fields(&mut fields);
        }
        if let Some(asks) = &self.asks {
            let config = SpecHash::of_bytes(asks.config.to_string().as_bytes());
            fields.set(format!("{}config", supervise::FIELDS), format!("sha256:{config}"));
            let clients = supervise::clients(asks.backend).into_iter();
            let clients: String = clients.map(|client| client.content).collect();
            let clients = SpecHash::of_bytes(clients.as_bytes());
            fields.set(format!("{}clients", supervise::FIELDS), format!("sha256:{clients}"));
        }
        fields
    }

    /// The content hash.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.fields().hash("bottle.guest.v1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_cpus_read_as_written() {
        for (bytes, text) in [(2 << 30, "2G"), (512 << 20, "512M"), (1000, "1000"), (0, "0")] {
            assert_eq!(human_bytes(bytes), text);
        }
        for (milli, text) in [(2000, "2"), (500, "0.5"), (1250, "1.25"), (10_000, "10")] {
            assert_eq!(cpus(milli), text);
        }
    }
}
