//! `(Desired, Observed) → Plan`: pure. No I/O, no clock, no randomness, and nothing asked of anyone.
//!
//! `decide` gives every resource its verdict and reason (`load` what a sidecar is given, `gate` what a gate is, `guest` what a
//! machine is, `rest` what becomes of one that the operator stopped), `order` turns verdicts into steps,
//! `aside` says which of two machines stays where a replace was cut short, `renames` whose is what that had another name, `guard` refuses what would destroy too much, `reasons` says in a few words why resources change, and `render` is the plan's one textual form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use schemars::JsonSchema;

use crate::model::spec::ResourceSpec;
use crate::model::work::Looked;
use crate::model::{
    BackendKind, Class, Desired, FieldChange, GuestSpec, Instance, Kept, Leftover, LoadSpec,
    MachineSpec, Observed, Receipt, ResourceKind, Resources, SandboxId, Tools, change,
};

mod aside;
mod decide;
mod decision;
pub mod diff;
pub mod document;
mod gate;
mod guard;
mod guest;
mod kept;
mod load;
mod order;
pub mod reasons;
pub mod renames;
mod rest;
pub mod sources;
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
    /// What its manifest names leads elsewhere than when its machine was made, and the manifest
    /// says the same.
    ResolvesElsewhere {
        /// The file that names it.
        file: String,
        /// Its line.
        line: usize,
        /// The field.
        field: String,
        /// What the manifest says.
        text: String,
        /// What it led to when that was accepted: the machine has that.
        accepted: String,
        /// What it leads to now.
        now: String,
    },
    /// It is there, and its record cannot be read: nothing is done until it can be, or the operator
    /// gives it up.
    Unreadable {
        /// The file or the object, and what is wrong with it.
        what: String,
    },
    /// The sandbox is on another backend now.
    Elsewhere {
        /// Where it is.
        on: BackendKind,
    },
    /// It waits for values that nobody gave.
    NeedsInput {
        /// Their names.
        names: Vec<String>,
        /// Those of them that are tokens of routes: they come from other places than values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tokens: Vec<String>,
    },
    /// Its backend cannot make it as this machine is set up.
    Impossible {
        /// Why, and what to do about it.
        why: String,
    },
    /// The tree says to leave it exactly as it is.
    Suspended,
    /// The operator stopped it, and it stays down until the operator starts it.
    Stopped,
    /// The operator wants it to run anew.
    Restart,
    /// Something that is not ours stands under its name.
    Conflict {
        /// The name.
        name: String,
        /// Whose it is.
        holder: String,
    },
    /// It has another name now, and keeps everything.
    Renamed {
        /// The name that it had.
        #[schemars(with = "String")]
        was: SandboxId,
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
    /// What it costs those who work in the sandbox; none where nothing of what exists changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Why it takes a new machine, where it does and a field is the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// What changes, old → new.
    pub fields: Vec<FieldChange>,
    /// Of a machine that goes: what of its sandbox is kept, in the new machine or as a snapshot: `workspace`,
    /// `home`, and paths that `keep` of its bottle names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Vec<String>>,
    /// Of a machine that goes: what is lost, by the same words and `the rest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loses: Option<Vec<String>>,
    /// Of a machine that goes: what it has that nobody else has; `null` where it could not be looked at, and
    /// the notes say why. Absent where nobody is asked, as under `watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<Looked>,
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
    /// Stop a machine or what runs beside it, which stays as it is.
    Stop(Box<Instance>),
    /// Set right in place what was changed from outside.
    Mend(Box<Instance>),
    /// Give a machine other limits, in place.
    Adjust {
        /// Which machine.
        machine: Box<Instance>,
        /// Its limits from now on.
        resources: Resources,
        /// Where the programs lie that it is shown at its next start.
        tools: Box<Tools>,
    },
    /// Give a running sidecar its policy, its credentials and its CA; or a gate its upstreams.
    Load {
        /// To which.
        sidecar: Target,
        /// What it is to enforce.
        spec: Arc<LoadSpec>,
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
        /// Whether what was kept of the machine before it goes in first.
        carries: bool,
    },
    /// Keep what was worked on in a machine that is to be set aside.
    Keep {
        /// Which.
        machine: Box<Instance>,
        /// What of it.
        kept: Kept,
        /// What the machine in its place is made from.
        next: Arc<MachineSpec>,
    },
    /// Stop a machine, which stays, and take its name for the one that is made in its place.
    SetAside(Box<Instance>),
    /// Give a machine that was set aside its name again.
    BringBack {
        /// Which.
        machine: Box<Instance>,
        /// What this step made in its place goes first.
        instead_of: Option<StepId>,
    },
    /// Remove an instance.
    Teardown {
        /// Which.
        instance: Box<Instance>,
        /// What is kept of it before; `None`: nothing is.
        keeps: Option<Kept>,
    },
    /// Give all that is remembered of a sandbox to the name that it has now. What backends made stays in its
    /// place.
    Rename {
        /// The name that it had.
        from: SandboxId,
    },
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
            Self::Stop(_) => "stop",
            Self::Mend(_) => "mend",
            Self::Adjust { .. } => "adjust",
            Self::Load { .. } => "load",
            Self::Provision { .. } => "provision",
            Self::Keep { .. } => "keep",
            Self::SetAside(_) => "set_aside",
            Self::BringBack { .. } => "bring_back",
            Self::Teardown { .. } => "teardown",
            Self::Rename { .. } => "rename",
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
    /// Steps that it makes good: it is done where the first of them was begun and one of them was not done, and
    /// left out otherwise. Empty: it makes nothing good.
    pub undoes: BTreeSet<StepId>,
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
        /// How many of both `watch` has removed or replaced within the last hour.
        #[serde(skip_serializing_if = "is_zero")]
        lately: usize,
    },
    /// The tree names no agent at all while sandboxes exist.
    NoAgents {
        /// What was found instead of agents.
        found: String,
        /// How many sandboxes would go.
        removed: usize,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
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

    /// Each sandbox's verdict: see [`verdict_of`].
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<&SandboxId, Verdict> {
        let mut changes: BTreeMap<&SandboxId, Vec<&Change>> = BTreeMap::new();
        for change in &self.changes {
            changes.entry(&change.sandbox).or_default().push(change);
        }
        changes.into_iter().map(|(sandbox, all)| (sandbox, verdict_of(&all))).collect()
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
                Reason::NeedsInput { names, .. } => Some(names.iter().map(String::as_str)),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

/// The verdict of a sandbox is its machine's. What becomes of its other parts, and of duplicates of
/// the machine, brings a machine that stays up to date in place; one that is held is held.
#[must_use]
pub fn verdict_of(changes: &[&Change]) -> Verdict {
    let beside = |change: &Change| {
        matches!(change.reason, Reason::Duplicate { .. } | Reason::Elsewhere { .. })
    };
    let machine = changes
        .iter()
        .filter(|change| change.resource == ResourceKind::Machine && !beside(change))
        .map(|change| change.verdict)
        .max();
    let Some(machine) = machine else {
        return changes.iter().map(|change| change.verdict).max().unwrap_or(Verdict::Keep);
    };
    if machine == Verdict::Hold {
        return machine;
    }
    let others = changes.iter().map(|change| match change.verdict {
        kept @ (Verdict::Keep | Verdict::Hold) => kept,
        _ => Verdict::Reprovision,
    });
    others.fold(machine, Verdict::max)
}

/// How many sandboxes end up under which verdict: each under its machine's.
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

/// Of which sandboxes nothing is kept when they go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discard {
    /// Of none.
    #[default]
    Nothing,
    /// Of these.
    Of(BTreeSet<SandboxId>),
    /// Of all.
    All,
}

impl Discard {
    /// Whether nothing of this sandbox is kept.
    #[must_use]
    pub fn has(&self, sandbox: &SandboxId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Of(sandboxes) => sandboxes.contains(sandbox),
            Self::All => true,
        }
    }
}

/// What the operator orders for the sandboxes that are looked at, whatever was ordered before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Nothing: what was stopped stays so.
    #[default]
    Nothing,
    /// They stop, and nothing else is done to them.
    Stop,
    /// What was stopped is so no longer.
    Start,
    /// The same, and what runs stops and starts anew.
    Restart,
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
    /// Sandboxes of which a machine went within the last hour: the guard counts them, too.
    pub gone_lately: BTreeSet<SandboxId>,
    /// What nobody declares any more is held, for a person to remove.
    pub hold_teardowns: bool,
    /// `down`: everything goes, whatever the tree says.
    pub remove_all: bool,
    /// What is not kept of sandboxes that go.
    pub discard: Discard,
    /// Whether they are to stop or to start.
    pub order: Order,
    /// Sandboxes that back off: decided as ever, but nothing is done for them this time.
    pub deferred: BTreeSet<SandboxId>,
    /// Sandboxes that are given up, though their records cannot be read: they are made anew.
    pub replace_unknown: BTreeSet<SandboxId>,
    /// Keyed digests of the asked-for values that are at hand, by name.
    pub values: BTreeMap<String, String>,
    /// Keyed digests of the credentials at hand that routes refer to, by variable.
    pub tokens: BTreeMap<String, String>,
    /// Fingerprints of the sandboxes' CAs that are in force and need no renewal yet.
    pub cas: BTreeMap<SandboxId, String>,
    /// The sandboxes whose CA is damaged or gone, each with how and what to do about it.
    pub lost_cas: BTreeMap<SandboxId, String>,
    /// What the host says about names now, by the backends whose sidecars are given it.
    pub names: BTreeMap<BackendKind, String>,
    /// What sidecars are told of requests now, by sandbox: each decision, and whether requests are taken.
    pub requests: BTreeMap<SandboxId, BTreeMap<String, String>>,
}

impl Options {
    /// `down` removes this sandbox, whatever the tree says.
    #[must_use]
    pub fn removes(&self, sandbox: &SandboxId) -> bool {
        self.remove_all && self.is_meant(sandbox)
    }

    /// That this sandbox was stopped is over.
    #[must_use]
    pub fn wakes(&self, sandbox: &SandboxId) -> bool {
        matches!(self.order, Order::Start | Order::Restart) && self.is_meant(sandbox)
    }

    /// This sandbox is one of those that are looked at.
    #[must_use]
    pub fn is_meant(&self, sandbox: &SandboxId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(sandbox))
    }
}

/// Whether what is put in is another main process.
fn restarts_command(change: &Change) -> bool {
    let main = |field: &FieldChange| matches!(&*field.path, "command" | "restart");
    change.resource == ResourceKind::Guest && change.fields.iter().any(main)
}

/// Says what a change costs, and why it takes a new machine where it does.
fn classify(change: &mut Change) {
    change.class = match (change.verdict, &change.reason) {
        (Verdict::Replace, _) => Some(Class::Replace),
        (Verdict::Reprovision, Reason::Stopped | Reason::Restart) => Some(Class::Restart),
        // What does not run has nothing to lose by a start.
        (Verdict::Reprovision, Reason::NotRunning { .. }) => None,
        (Verdict::Reprovision, _) if restarts_command(change) => Some(Class::Restart),
        (Verdict::Reprovision, _) => Some(Class::Hot),
        _ => None,
    };
    if change.verdict == Verdict::Replace && change.resource == ResourceKind::Machine {
        let fields = change.fields.iter().filter(|field| field.path != renames::NAME);
        let why: BTreeSet<&str> = fields.map(|field| change::why_replace(&field.path)).collect();
        change.why = why.into_iter().map(str::to_owned).collect();
    }
}

/// Compares what is desired with what exists. Equal inputs, in any order, give the same plan.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, options: &Options) -> Plan {
    let mut decisions = decide::decide(desired, observed, options);
    let refused = guard::guard(desired, observed, options, &mut decisions);
    if options.hold_teardowns {
        guard::hold_teardowns(&mut decisions);
    }
    for decision in &mut decisions {
        if options.deferred.contains(&decision.sandbox) {
            decision.defer();
        }
    }
    sources::withhold_exposed(desired, observed, &mut decisions);
    renames::hint(desired, observed, &mut decisions);
    let steps = order::order(desired, observed, options, &decisions);
    let keeping = kept::Keeping { desired, observed, options };
    for decision in &mut decisions {
        keeping.tell(decision);
    }
    let mut changes: Vec<Change> =
        decisions.into_iter().flat_map(|decision| decision.changes).collect();
    changes.iter_mut().for_each(classify);
    Plan { changes, steps, refused }
}
