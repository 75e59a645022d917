//! Plain data that every other layer speaks: no I/O, no clock, no randomness, no imports of ours.
//!
//! `id` names things, `spec` says what a sandbox is, `policy` what it may reach, `access` and `roles` how
//! its programs find the way there, `gate` how its git does, `build` what an image is built of, `kept` what of its work outlives it, `main_process` what runs in it, `change` what a change of a machine costs, `hash` gives each resource its content hash, `places` says where renamed sandboxes are, `tool` which programs of the operator's it is shown, `setup` what is run in it once, `desired` and
//! `observed` are the two inputs of the planner, and `diagnostic` is what is said about a manifest that
//! is wrong, `work` what a look at a sandbox has found, `supervise` what an agent asks for and what becomes of it, `moment` when. `text` makes what others wrote harmless for a terminal.

pub mod access;
pub mod build;
pub mod change;
pub mod desired;
pub mod diagnostic;
pub mod first_run;
pub mod fs_path;
pub mod gate;
pub mod hash;
pub mod id;
pub mod kept;
pub mod key;
pub mod main_process;
pub mod moment;
pub mod observed;
pub mod places;
pub mod policy;
pub mod roles;
pub mod setup;
pub mod skill;
pub mod source;
pub mod spec;
pub mod supervise;
pub mod text;
pub mod tool;
pub mod usage;
pub mod work;

pub use change::Class;
pub use desired::{AgentsFolder, Desired, Tree, Was};
pub use diagnostic::{Diagnostic, Severity};
pub use fs_path::{FsPath, MountTable, Writable};
pub use gate::{GateSpec, GuestGate, LoadSpec};
pub use hash::{Fields, SpecHash};
pub use id::{BackendKind, InstanceId, InvalidName, OwnerId, ResourceId, ResourceKind, SandboxId};
pub use kept::{Bounds, Keep, Kept, Why};
pub use main_process::Main;
pub use moment::Moment;
pub use observed::{
    BackendFacts, FieldChange, Instance, InstanceState, Leftover, LeftoverKind, Observed,
    Ownership, Receipt, Stopped,
};
pub use places::Places;
pub use policy::Policy;
pub use setup::{Setup, SetupCommand};
pub use skill::{SkillEntry, SkillFiles, SkillNode};
pub use source::{Elsewhere, HostSource, Located, Nesting, Place, Use};
pub use spec::{
    BackendChoice, GuestAccess, GuestSpec, ImageRef, MachineSpec, NetworkSpec, ResourceSpec,
    Resources, Restart, SandboxSpec, SidecarSpec, Unsuitable, Workspace, WorkspaceMode,
};
pub use tool::{Tool, Tools};
pub use usage::Usage;
pub use work::Work;
