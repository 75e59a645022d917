//! What exists: the second input of the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hash::{Fields, SpecHash};
use super::id::{BackendKind, InstanceId, ResourceKind, SandboxId};
use super::kept::Keep;
use super::source::{Elsewhere, HostSource};
use super::tool;

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// Made by this state folder for this owner, or adopted by it.
    Ours,
    /// Carries our owner's label, but another state folder made it.
    OtherState(String),
    /// Stands under a name that we need and is not of our making.
    Foreign,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceState {
    /// Made, never started.
    Created,
    /// Up.
    Running,
    /// Frozen from outside.
    Paused,
    /// Down, with its exit code where one is known.
    Stopped {
        /// The exit code.
        code: Option<i32>,
    },
    /// Down, and set aside for the machine that takes its place: it has given up its name.
    Aside,
    /// Not usable, and not to be repaired by starting it: a half-made or half-removed object.
    Broken(String),
    /// It is there, and this build cannot read what it was made from. What is not known is never
    /// destroyed unasked: it names the file or the object, and what is wrong with it.
    Unknown(String),
}

/// One field that differs, old → new, for people; of secrets only a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldChange {
    /// By the manifest's name: `resources.memory`.
    pub path: String,
    /// What it is.
    pub from: Option<String>,
    /// What it is to be.
    pub to: Option<String>,
}

/// One object of a backend that carries our owner's label, or stands under a name that we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The engine's id.
    pub id: InstanceId,
    /// Who made it.
    pub backend: BackendKind,
    /// Which part of the sandbox it is.
    pub resource: ResourceKind,
    /// The sandbox that it belongs to, or whose name it takes.
    pub sandbox: SandboxId,
    /// The name of a sandbox under which its backend has it, where that is not this one: the sandbox was
    /// renamed since.
    pub place: Option<SandboxId>,
    /// Its name on the engine.
    pub name: String,
    /// Whose it is.
    pub ownership: Ownership,
    /// The content hash that it was made from; `None` where the label is missing or unreadable.
    pub hash: Option<SpecHash>,
    /// The fields that it was made from, where the label is readable.
    pub fields: Fields,
    /// What it is doing.
    pub state: InstanceState,
    /// Identifies the current run of the machine: changes on every start, whoever started it.
    pub boot: Option<String>,
    /// What was changed from outside since it was made, and only a replace sets right; `from` is
    /// as found, `to` as it was set.
    pub drift: Vec<FieldChange>,
    /// What was changed from outside and can be set right in place: a network attached by hand.
    pub mendable: Vec<FieldChange>,
    /// What a person should know and nothing is done about: a tag that means another image by now.
    pub notes: Vec<String>,
    /// The digest of the imported image that it stands on.
    pub image: Option<SpecHash>,
    /// When it was made, in seconds since the epoch.
    pub created: Option<u64>,
    /// The overlay that brought its agent.
    pub overlay: Option<String>,
}

impl Instance {
    /// The paths in a machine where folders of the host are mounted, by what it was made from.
    #[must_use]
    pub fn mounts(&self) -> Vec<&str> {
        let fields = &self.fields.0;
        let mounted = fields.contains_key("workspace.mount");
        let target = fields.get("workspace.target").filter(|_| mounted);
        let shown = fields.keys().filter_map(|field| field.strip_prefix("host_paths."));
        let tools = fields.iter().filter(|(field, _)| tool::named(field).is_some());
        let tools = tools.flat_map(|(_, value)| tool::shown(value));
        target.map(String::as_str).into_iter().chain(shown).chain(tools).collect()
    }

    /// The path in a machine of its workspace, where that is a copy.
    #[must_use]
    pub fn copied_workspace(&self) -> Option<&str> {
        let fields = &self.fields.0;
        let mounted = fields.contains_key("workspace.mount");
        fields.get("workspace.target").filter(|_| !mounted).map(String::as_str)
    }
}

/// What was left behind and belongs to no sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeftoverKind {
    /// An image that we imported.
    Image,
    /// A helper object that an interrupted run left: never wanted.
    Scratch,
}

/// Something of ours that belongs to no one sandbox: an imported image, or what an interrupted run
/// left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Who holds it.
    pub backend: BackendKind,
    /// What it is.
    pub kind: LeftoverKind,
    /// The engine's id.
    pub id: InstanceId,
    /// For people.
    pub name: String,
    /// The digest of an image's source.
    pub digest: Option<SpecHash>,
}

/// What is true of a backend as a whole, as far as a plan should say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendFacts {
    /// Name and version: `docker 28.5.1`.
    pub version: String,
    /// Its machines are on another host, as far as can be told: what this one says about names is not true
    /// there.
    pub elsewhere: bool,
    /// gVisor (`runsc`) is registered and used for new machines.
    pub gvisor: bool,
    /// Images (as [`super::ImageRef`] displays them) that are known to run as root, because they
    /// name no user and have no uid 1000.
    pub root_images: BTreeSet<String>,
    /// Limits that this machine cannot enforce, each as a sentence.
    pub unenforced: Vec<String>,
    /// Why no machine can be made or started, and what to do about it.
    pub no_machines: Option<String>,
    /// Why no sidecar can be made, and what to do about it.
    pub no_sidecars: Option<String>,
    /// Why no git gate can be made, and what to do about it.
    pub no_gates: Option<String>,
}

/// What was put into a machine, a sidecar or a gate, as this state folder remembers it. They are not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What it was put into; earlier versions did not say, see [`Self::is_of_machine`].
    #[serde(default = "machine")]
    pub kind: ResourceKind,
    /// That machine, sidecar or gate.
    pub instance: InstanceId,
    /// Who made it.
    pub backend: BackendKind,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The hash of what is inside; `None` while provisioning is under way or was interrupted.
    pub guest: Option<SpecHash>,
    /// The fields of that hash.
    pub fields: Fields,
    /// Names of the skills that may be inside, wanted or not.
    pub skills: BTreeSet<String>,
    /// The folder that the skills are in, when not the default.
    pub skills_dir: Option<String>,
    /// Keyed digests of the delivered asked-for values, by name; empty while a delivery is under
    /// way or was cut short.
    pub env: BTreeMap<String, String>,
    /// The run of the machine into which those values were delivered.
    pub boot: Option<String>,
    /// The workspace was copied in.
    pub workspace: bool,
    /// The folder of the host that it is a copy of; earlier versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<PathBuf>,
    /// Content hashes of the prompt and of the skills' files, by path, for `--diff`.
    #[serde(default)]
    pub files: BTreeMap<String, SpecHash>,
    /// What else may stand in the skills' files, by path: contents of provisionings that were begun and
    /// did not end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub under_way: BTreeMap<String, BTreeSet<SpecHash>>,
    /// The fingerprint of the sandbox's CA: of a machine the one that it trusts, of a sidecar the
    /// one that it was given.
    #[serde(default)]
    pub ca: Option<String>,
    /// Of a sidecar: what it was given of what the host says about names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// What may stand of ours in files that the agent writes as well, by path below the home folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Of a sidecar: which decisions about requests it was told of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
}

fn machine() -> ResourceKind {
    ResourceKind::Machine
}

impl Receipt {
    /// Whether it is a machine's. Of an earlier version only a sidecar's has names.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        self.kind == ResourceKind::Machine && self.names.is_none()
    }

    /// Whether any values for the environment of programs may be inside.
    #[must_use]
    pub fn has_values(&self) -> bool {
        let plain = |path: &String| path.starts_with("env.") || path == VARIABLES;
        !self.env.is_empty() || self.fields.0.keys().any(plain)
    }
}

/// The field of a guest that stands for what leads its programs to the sidecar.
pub const VARIABLES: &str = "sidecar_variables";

/// That the operator stopped a sandbox, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// In seconds since the epoch.
    pub since: u64,
}

/// What exists, as far as it could be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every object of ours, and those under names that we need.
    pub instances: Vec<Instance>,
    /// Backends that could not be observed, and why.
    pub unreachable: BTreeMap<BackendKind, String>,
    /// Facts of those that could.
    pub facts: BTreeMap<BackendKind, BackendFacts>,
    /// What belongs to no sandbox.
    pub leftovers: Vec<Leftover>,
    /// What was put into the machines, by their ids.
    pub receipts: BTreeMap<InstanceId, Receipt>,
    /// The sandboxes whose work is on its way into a new machine, and the machine that it comes from.
    pub carrying: BTreeMap<SandboxId, InstanceId>,
    /// What the tree last said is kept of each sandbox, where that is not the default.
    pub keeps: BTreeMap<SandboxId, Keep>,
    /// The sandboxes that the operator stopped: they stay down until they are started.
    pub stopped: BTreeMap<SandboxId, Stopped>,
    /// The sandboxes that are renamed, by their new names, with the old ones: `was` of their agents says so,
    /// or a run that was cut short has begun it.
    pub renames: BTreeMap<SandboxId, SandboxId>,
    /// What of the host was accepted for the sandboxes that exist, or that are being made.
    pub accepted: BTreeMap<SandboxId, Vec<HostSource>>,
    /// The same of the other trees of this state folder.
    pub elsewhere: Vec<Elsewhere>,
}
