//! `(Desired, Observed) → Plan`: pure. No I/O, no clock, no randomness, and nothing asked of anyone.
//!
//! `decide` gives every resource its verdict and reason (`load` what a sidecar is given, `guest` what a
//! machine is), `order` turns verdicts into steps,
//! `guard` refuses what would destroy too much, and `render` is the plan's one textual form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use schemars::JsonSchema;

use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, Desired, FieldChange, GuestSpec, Instance, Leftover, MachineSpec, Observed,
    Receipt, ResourceKind, SandboxId, SidecarSpec,
};

mod decide;
mod decision;
pub mod diff;
pub mod document;
mod guard;
mod guest;
mod load;
mod order;
#[cfg(test)]
mod tests;

/// What is to become of a resource, lightest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Keep,
    /// Nothing of it is touched, for the reason given.
    Hold,
    /// It is brought to what is desired in place; nothing is lost.
    Reprovision,
    /// It is made.
    Create,
    /// It is removed and made anew, because only creation can set what changed.
    Replace,
    /// It is removed.
    Teardown,
}

/// Why a verdict was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// It does not exist.
    NotFound,
    /// What it was made from is not what is desired: the fields say what.
    SpecChanged,
    /// It exists and does not run.
    NotRunning {
        /// What it is instead: `stopped (137)`.
        state: String,
    },
    /// Another instance fits, or fits better.
    Duplicate {
        /// The engine's id of the one that stays.
        keeps: String,
    },
    /// What it stands on is replaced.
    StandsOnReplaced {
        /// What that is.
        on: ResourceKind,
    },
    /// Nothing declares it any more.
    NotDeclared {
        /// The file that would declare it.
        file: String,
    },
    /// Its manifest does not hold.
    ManifestInvalid {
        /// What is wrong, in one line.
        message: String,
    },
    /// Its backend cannot be observed.
    BackendUnreachable {
        /// Which.
        backend: BackendKind,
        /// Why.
        error: String,
    },
    /// What is inside, or what it was made from, is not known: a label or a receipt is missing.
    HashMissing,
    /// It waits for values that nobody gave.
    NeedsInput {
        /// Their names.
        names: Vec<String>,
    },
    /// The tree says to leave it exactly as it is.
    Suspended,
    /// Something that is not ours stands under its name.
    Conflict {
        /// The name.
        name: String,
        /// Whose it is.
        holder: String,
    },
    /// It is as it should be.
    UpToDate,
}

/// What a person reads: one resource, its verdict, why, and field by field what changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// The sandbox.
    #[schemars(with = "String")]
    pub sandbox: SandboxId,
    /// Which part of it.
    pub resource: ResourceKind,
    /// Where it is, or will be.
    pub backend: Option<BackendKind>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// What changes, old → new.
    pub fields: Vec<FieldChange>,
    /// What else a person should know: `no network: egress is not enforced yet`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A step's number; also its place in [`Plan::steps`].
pub type StepId = usize;

/// The instance that a step acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One that was observed.
    Existing(Box<Instance>),
    /// The one that this step of the same plan makes.
    CreatedBy(StepId),
}

/// What a backend does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch and check what creation needs.
    Prepare(Arc<MachineSpec>),
    /// Make a resource.
    Create(Arc<ResourceSpec>),
    /// Start a machine.
    Start(Target),
    /// Set right in place what was changed from outside.
    Mend(Box<Instance>),
    /// Give a running sidecar its policy, its credentials and its CA.
    Load {
        /// To which sidecar.
        sidecar: Target,
        /// What it is to enforce.
        spec: Arc<SidecarSpec>,
    },
    /// Put the guest's content in.
    Provision {
        /// Into which machine.
        machine: Target,
        /// What.
        guest: Arc<GuestSpec>,
        /// What is known to be inside.
        prior: Option<Box<Receipt>>,
        /// The asked-for values to deliver, by name.
        deliver: BTreeSet<String>,
    },
    /// Remove an instance.
    Teardown(Box<Instance>),
    /// Remove what belongs to no sandbox.
    Prune(Box<Leftover>),
}

impl Action {
    /// Its name in JSON and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Mend(_) => "mend",
            Self::Load { .. } => "load",
            Self::Provision { .. } => "provision",
            Self::Teardown(_) => "teardown",
            Self::Prune(_) => "prune",
        }
    }
}

/// One call to a backend, and what must have been done before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number: its place in the plan.
    pub id: StepId,
    /// What to do.
    pub action: Action,
    /// Who does it.
    pub backend: BackendKind,
    /// For which sandbox; a prune is for none.
    pub sandbox: Option<SandboxId>,
    /// With which part.
    pub resource: ResourceKind,
    /// Steps that must have been done: if one fails, this one is skipped.
    pub after: BTreeSet<StepId>,
}

/// Why a plan may not be carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Refusal {
    /// It removes or replaces too much.
    MassTeardown {
        /// How many sandboxes it removes or replaces.
        removed: usize,
        /// Of how many that exist.
        existing: usize,
    },
    /// The tree names no agent at all while sandboxes exist.
    NoAgents {
        /// What was found instead of agents.
        found: String,
        /// How many sandboxes would go.
        removed: usize,
    },
}

/// The intention: what would change, and the steps that change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By sandbox, then by resource.
    pub changes: Vec<Change>,
    /// In an order in which they could run one by one.
    pub steps: Vec<Step>,
    /// Why it may not be carried out, when it may not.
    pub refused: Option<Refusal>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Each sandbox's heaviest verdict.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<&SandboxId, Verdict> {
        let mut verdicts = BTreeMap::new();
        for change in &self.changes {
            let verdict = verdicts.entry(&change.sandbox).or_insert(change.verdict);
            *verdict = change.verdict.max(*verdict);
        }
        verdicts
    }

    /// How many sandboxes end up under which verdict.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for verdict in self.verdicts().into_values() {
            *match verdict {
                Verdict::Keep => &mut summary.keep,
                Verdict::Hold => &mut summary.hold,
                Verdict::Reprovision => &mut summary.reprovision,
                Verdict::Create => &mut summary.create,
                Verdict::Replace => &mut summary.replace,
                Verdict::Teardown => &mut summary.teardown,
            } += 1;
        }
        summary
    }

    /// Names of values that held sandboxes wait for.
    #[must_use]
    pub fn missing_input(&self) -> BTreeSet<&str> {
        self.changes
            .iter()
            .filter_map(|change| match &change.reason {
                Reason::NeedsInput { names } => Some(names.iter().map(String::as_str)),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

/// How many sandboxes end up under which verdict: each under its heaviest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// Made.
    pub create: usize,
    /// Brought up to date in place.
    pub reprovision: usize,
    /// Removed and made anew.
    pub replace: usize,
    /// Removed.
    pub teardown: usize,
    /// Left alone, for a reason that somebody must look at.
    pub hold: usize,
    /// As they should be.
    pub keep: usize,
}

/// How many sandboxes may be torn down or replaced at once beyond what the guard lets pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AllowTeardown {
    /// None.
    #[default]
    Guarded,
    /// So many.
    Upto(usize),
    /// All.
    All,
}

/// What the guard does with a plan that destroys too much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnMassTeardown {
    /// The plan is refused as a whole.
    #[default]
    Refuse,
    /// The removals are held and the rest is done.
    Hold,
}

/// What the operator said, beside the tree.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these sandboxes; the others are not looked at.
    pub only: Option<BTreeSet<SandboxId>>,
    /// The mass-teardown flag.
    pub allow_teardown: AllowTeardown,
    /// What the guard does.
    pub on_mass_teardown: OnMassTeardown,
    /// `down`: everything goes, whatever the tree says.
    pub remove_all: bool,
    /// Sandboxes that back off: decided as ever, but nothing is done for them this time.
    pub deferred: BTreeSet<SandboxId>,
    /// Keyed digests of the asked-for values that are at hand, by name.
    pub values: BTreeMap<String, String>,
    /// Keyed digests of the credentials at hand that routes refer to, by variable.
    pub tokens: BTreeMap<String, String>,
    /// Fingerprints of the sandboxes' CAs that are in force and need no renewal yet.
    pub cas: BTreeMap<SandboxId, String>,
}

/// Compares what is desired with what exists. Equal inputs, in any order, give the same plan.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, options: &Options) -> Plan {
    let mut decisions = decide::decide(desired, observed, options);
    let refused = guard::guard(desired, observed, options, &mut decisions);
    for decision in &mut decisions {
        if options.deferred.contains(&decision.sandbox) {
            decision.defer();
        }
    }
    let steps = order::order(desired, observed, &decisions);
    let changes = decisions.into_iter().flat_map(|decision| decision.changes).collect();
    Plan { changes, steps, refused }
}
