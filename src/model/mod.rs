//! Plain data that every other layer speaks: no I/O, no clock, no randomness, no imports of ours.
//!
//! `id` names things, `spec` says what a sandbox is, `policy` what it may reach, `access` and `roles` how
//! its programs find the way there, `hash` gives each resource its content hash, `desired` and
//! `observed` are the two inputs of the planner, and `diagnostic` is what is said about a manifest that
//! is wrong.

pub mod access;
pub mod desired;
pub mod diagnostic;
pub mod hash;
pub mod id;
pub mod observed;
pub mod policy;
pub mod roles;
pub mod skill;
pub mod spec;

pub use desired::{AgentsFolder, Desired, Tree};
pub use diagnostic::{Diagnostic, Severity};
pub use hash::{Fields, SpecHash};
pub use id::{BackendKind, InstanceId, InvalidName, OwnerId, ResourceId, ResourceKind, SandboxId};
pub use observed::{
    BackendFacts, FieldChange, Instance, InstanceState, Leftover, LeftoverKind, Observed,
    Ownership, Receipt,
};
pub use policy::Policy;
pub use skill::{SkillEntry, SkillFiles, SkillNode};
pub use spec::{
    BackendChoice, GuestAccess, GuestSpec, ImageRef, MachineSpec, NetworkSpec, ResourceSpec,
    Resources, Restart, SandboxSpec, SidecarSpec, Unsuitable, Workspace, WorkspaceMode,
};
