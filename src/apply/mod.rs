//! `Plan → Report`: takes no decision. It matches on the action and calls a backend.
//!
//! `run` keeps the order, the concurrency and the deadlines; `load` gives a sidecar what it is to
//! enforce; `provision` puts a guest's content in, once for all backends; `report` is what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::backend::{Backend, Backends, Scope};
use crate::model::{
    BackendKind, GateSpec, GuestSpec, Instance, InstanceId, Kept, MachineSpec, Receipt, SandboxId,
    SidecarSpec, SpecHash,
};
use crate::plan::{Step, StepId};

mod asks;
mod beside;
mod brisk;
mod delivered;
mod first_run;
mod gate;
mod load;
mod pkcs12;
mod provision;
pub mod report;
mod run;
mod settings;
mod setup;
mod slots;
mod trust;
mod upload;
mod workspace;

pub use provision::ENV_APPEND;
pub use report::{Outcome, Report, StepOutcome};
pub use run::apply;
pub use slots::Slots;
pub use upload::Owner;
pub use workspace::{Copying, LeftOut, copy, forward, survey};

/// One asked-for value. It has no `Debug`, and its memory is wiped.
pub struct Secret {
    /// The value itself.
    pub value: Zeroizing<String>,
    /// Its keyed digest, as planner and receipts know it.
    pub digest: String,
}

/// The asked-for values that are at hand, by name.
#[derive(Default)]
pub struct Secrets(pub BTreeMap<String, Secret>);

/// All that a sidecar or a gate is given, in one piece. It holds credentials and the CA's key: it lives in
/// memory only, has no `Debug`, and is wiped.
pub struct SidecarDocument {
    /// What `bottle sidecar load` reads.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Keyed digests of the credentials in it, by variable.
    pub credentials: BTreeMap<String, String>,
    /// The fingerprint of the CA in it, where there is one.
    pub ca: Option<String>,
    /// What it says of the host's name servers and hosts, where it says something.
    pub names: Option<String>,
    /// Which decisions about requests it tells of.
    pub requests: BTreeMap<String, String>,
}

/// The certificate of a sandbox's own CA, never its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// As PEM.
    pub pem: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

/// Where the documents of sidecars come from.
pub trait Sidecars: Send + Sync {
    /// What this sidecar is to be given. Makes or renews its CA where that is due.
    ///
    /// # Errors
    /// When a credential is no longer at hand, or the state folder cannot be written.
    fn document(&self, spec: &SidecarSpec, backend: BackendKind)
    -> anyhow::Result<SidecarDocument>;

    /// What this gate is to be given.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn gate(&self, spec: &GateSpec) -> anyhow::Result<SidecarDocument>;

    /// The CA that this sandbox is to trust. Makes or renews it where that is due.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    fn certificate(&self, sandbox: &SandboxId) -> anyhow::Result<Certificate>;
}

/// Where receipts go. The guest is never asked what it was given.
pub trait Receipts: Send + Sync {
    /// Writes a receipt in one piece; a `durable` one survives a power cut.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    fn put(&self, receipt: &Receipt, durable: bool) -> anyhow::Result<()>;

    /// Forgets an instance; one that is not known is fine.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    fn forget(&self, instance: &InstanceId) -> anyhow::Result<()>;

    /// Gives all that is remembered of the sandbox `from` to the name `to`; done already ⇒ `Ok`. It may be cut
    /// short anywhere, and goes on where it is called again.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    fn rename(&self, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()>;

    /// Keeps a text for later diffs.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    fn keep_text(&self, hash: SpecHash, text: &str) -> anyhow::Result<()>;
}

/// Keeps what agents worked on when their machines go.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Keeps what is named of a machine that is to go; of one that is replaced, for the machine that follows, where
    /// that is known.
    ///
    /// # Errors
    /// When not all of it could be kept: the machine stays then.
    async fn keep(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        kept: &Kept,
        next: Option<&MachineSpec>,
    ) -> anyhow::Result<()>;

    /// Has a machine run again in which keeping has ended what ran, as far as it ran: it stays. It says itself what
    /// fails.
    async fn resume(&self, backend: &dyn Backend, scope: &Scope, machine: &Instance);

    /// Moves what was kept of an earlier machine of the sandbox into this one, which was made just now, where it is
    /// moved and not copied.
    ///
    /// # Errors
    /// When not all of it could be moved: what was not is where it was.
    async fn hand_over(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
    ) -> anyhow::Result<()>;

    /// Puts what was kept of an earlier machine of the sandbox into this one, and remembers that it is there.
    /// `None`: nothing was.
    ///
    /// # Errors
    /// When not all of it went in: what was kept stays.
    async fn carry(
        &self,
        backend: &dyn Backend,
        scope: &Scope,
        machine: &Instance,
        guest: &GuestSpec,
    ) -> anyhow::Result<Option<Receipt>>;
}

/// What happens while a plan is carried out, for the audit record and for people.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step begins.
    Started(StepId),
    /// A step says how far it is.
    Progress(StepId, &'a str),
    /// A step ended.
    Ended(&'a StepOutcome),
}

/// How long each kind of step may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Pulling or importing an image, which can be long.
    pub prepare: Duration,
    /// How long the copy of a workspace may go on without a single byte. Its whole has no deadline:
    /// a workspace can be large.
    pub silence: Duration,
    /// Starting: a microVM fetches and unpacks its image at its first start.
    pub start: Duration,
    /// A small command inside a machine, a small copy into it, a sidecar's document: nothing that
    /// waits for a guest has longer, but what moves much data.
    pub small: Duration,
    /// The commands of `setup`, all of them together.
    pub setup: Duration,
    /// Keeping what is in a machine before it goes, and putting it into the next one.
    pub moving: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(30 * 60),
            silence: Duration::from_secs(10 * 60),
            start: Duration::from_secs(15 * 60),
            small: Duration::from_secs(20),
            setup: Duration::from_secs(10 * 60),
            moving: Duration::from_secs(30 * 60),
            other: Duration::from_secs(120),
        }
    }
}

/// The two signals: the first lets running steps finish, the second does not.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new step starts.
    pub drain: CancellationToken,
    /// Running steps are dropped.
    pub now: CancellationToken,
}

/// All that carrying out a plan needs beside the plan.
pub struct Context<'a> {
    /// Who does it.
    pub backends: &'a Backends,
    /// For whom.
    pub scope: &'a Scope,
    /// Where receipts go.
    pub receipts: &'a dyn Receipts,
    /// What keeps the work of agents.
    pub keeper: &'a dyn Keeper,
    /// The asked-for values.
    pub secrets: &'a Secrets,
    /// What sidecars are given.
    pub sidecars: &'a dyn Sidecars,
    /// How many steps run at once.
    pub slots: &'a Slots,
    /// Whether a step may still begin: asked right before it does.
    pub may: &'a (dyn Fn(&Step) -> bool + Send + Sync),
    /// How long they may take.
    pub deadlines: Deadlines,
    /// When to stop.
    pub stop: &'a Stop,
    /// Who is told.
    pub tell: Arc<dyn Fn(Event<'_>) + Send + Sync>,
}

/// Names of the values that a provisioning delivers.
pub(crate) type Names = BTreeSet<String>;
