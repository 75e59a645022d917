//! `Plan → Report`: takes no decision. It matches on the action and calls a backend.
//!
//! `run` keeps the order, the concurrency and the deadlines; `load` gives a sidecar what it is to
//! enforce; `provision` puts a guest's content in, once for all backends; `report` is what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::backend::{Backends, Scope};
use crate::model::{InstanceId, Receipt, SandboxId, SidecarSpec, SpecHash};
use crate::plan::StepId;

mod load;
mod provision;
pub mod report;
mod run;
mod settings;
mod trust;
mod upload;
mod workspace;

pub use provision::{ENV_APPEND, ENV_REPLACE, with_asked_env};
pub use report::{Outcome, Report, StepOutcome};
pub use run::apply;

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

/// All that a sidecar is given, in one piece. It holds credentials and the CA's key: it lives in
/// memory only, has no `Debug`, and is wiped.
pub struct SidecarDocument {
    /// What `bottle sidecar load` reads.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Keyed digests of the credentials in it, by variable.
    pub credentials: BTreeMap<String, String>,
    /// The fingerprint of the CA in it.
    pub ca: String,
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
    fn document(&self, spec: &SidecarSpec) -> anyhow::Result<SidecarDocument>;

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

    /// Keeps a text for later diffs.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    fn keep_text(&self, hash: SpecHash, text: &str) -> anyhow::Result<()>;
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
    /// Putting content in: a workspace can be large.
    pub provision: Duration,
    /// Starting: a microVM fetches and unpacks its image at its first start.
    pub start: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(30 * 60),
            provision: Duration::from_secs(10 * 60),
            start: Duration::from_secs(15 * 60),
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
    /// The asked-for values.
    pub secrets: &'a Secrets,
    /// What sidecars are given.
    pub sidecars: &'a dyn Sidecars,
    /// How many steps run at once.
    pub jobs: usize,
    /// How long they may take.
    pub deadlines: Deadlines,
    /// When to stop.
    pub stop: &'a Stop,
    /// Who is told.
    pub tell: Arc<dyn Fn(Event<'_>) + Send + Sync>,
}

/// Names of the values that a provisioning delivers.
pub(crate) type Names = BTreeSet<String>;
