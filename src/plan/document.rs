//! The plan as the JSON document that `-o json` prints and `--out` saves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Change, Plan, Refusal, Summary};
use crate::model::{Desired, InstanceState, Observed};
use crate::model::{Diagnostic, Fields, ResourceKind, SpecHash};

use super::{Options, Order};

/// The version of the document's meaning.
pub const VERSION: u32 = 1;

/// Where a plan comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TreeDocument {
    /// The owner of all that the tree makes.
    pub name: String,
    /// The tree's canonical path.
    pub path: String,
    /// The commit that is checked out, when the tree is tracked by git.
    pub commit: Option<String>,
    /// The branch that is checked out, when there is one.
    #[serde(default)]
    pub branch: Option<String>,
    /// The tree differs from that commit.
    pub dirty: bool,
    /// Folders of projects whose agents were read over the tree's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlays: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StepDocument {
    /// Its number.
    pub id: usize,
    /// What is done.
    pub action: &'static str,
    /// For which sandbox; `null` for what belongs to none.
    pub sandbox: Option<String>,
    /// With which part.
    pub resource: ResourceKind,
    /// Steps that come first.
    pub after: Vec<usize>,
    /// Steps that it makes good: it is done only where the first of them was begun and one of them was not done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undoes: Vec<usize>,
}

/// The plan, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlanDocument {
    /// The version of this document's meaning.
    pub version: u32,
    /// Where it comes from.
    pub tree: TreeDocument,
    /// One entry a resource, also for those that stay.
    pub changes: Vec<Change>,
    /// What would be done.
    pub steps: Vec<StepDocument>,
    /// What is wrong with the tree.
    pub diagnostics: Vec<Diagnostic>,
    /// How many sandboxes, each under its verdict.
    pub summary: Summary,
    /// Why it may not be carried out, when it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Over all that the plan was made from. `None` only where the plan is shown as text, which has no
    /// place for it: it takes as long as the plan itself.
    #[schemars(with = "String")]
    pub fingerprint: Option<SpecHash>,
}

/// Puts the document together.
#[must_use]
pub fn document(
    tree: TreeDocument,
    plan: &Plan,
    diagnostics: &[Diagnostic],
    fingerprint: Option<SpecHash>,
) -> PlanDocument {
    let steps = plan
        .steps
        .iter()
        .map(|step| StepDocument {
            id: step.id,
            action: step.action.name(),
            sandbox: step.sandbox.as_ref().map(ToString::to_string),
            resource: step.resource,
            after: step.after.iter().copied().collect(),
            undoes: step.undoes.iter().copied().collect(),
        })
        .collect();
    PlanDocument {
        version: VERSION,
        tree,
        changes: plan.changes.clone(),
        steps,
        diagnostics: diagnostics.to_vec(),
        summary: plan.summary(),
        refused: plan.refused.clone(),
        fingerprint,
    }
}

/// A digest of all that a plan is made from: when it moves, a saved plan is void.
///
/// Asked-for values enter as the keyed digests that they already are.
#[must_use]
pub fn fingerprint(desired: &Desired, observed: &Observed, options: &Options) -> SpecHash {
    let mut all = Fields::default();
    all.set("owner", desired.tree.owner.as_str());
    all.set("agents", format!("{:?}", desired.agents));
    for (id, spec) in &desired.sandboxes {
        let key = |what: &str| format!("sandbox.{id}.{what}");
        all.set(key("backend"), format!("{:?}", spec.backend));
        for kind in observed.facts.keys() {
            let hash = spec.machine(*kind).map(|machine| machine.hash().to_string());
            all.set(key(kind.as_str()), hash.unwrap_or_else(|error| error.to_string()));
        }
        for kind in observed.facts.keys() {
            all.set(key(&format!("guest.{kind}")), spec.guest(*kind).hash().to_string());
        }
        all.set(key("policy"), format!("{:?}", spec.policy));
        if let Some(proxy) = spec.sidecar.as_ref().and_then(|sidecar| sidecar.proxy.as_ref()) {
            all.set(key("proxy"), format!("{:?}", proxy.fields()));
        }
        all.set(key("suspend"), spec.suspend.to_string());
        all.set_list(key("run"), &spec.run);
        all.set(key("keep"), spec.keep.to_string());
        let workspace = spec.workspace.as_ref().map(|w| w.path.display().to_string());
        all.set(key("workspace"), workspace.unwrap_or_default());
    }
    for (id, diagnostics) in &desired.held {
        all.set(format!("held.{id}"), format!("{diagnostics:?}"));
    }
    for overlay in &desired.overlays {
        all.set(format!("overlay.{overlay}"), "");
    }
    for instance in &observed.instances {
        let key = |what: &str| format!("instance.{}.{}.{what}", instance.backend, instance.id);
        all.set(key("name"), instance.name.clone());
        all.set(key("hash"), format!("{:?}", instance.hash));
        all.set(key("ownership"), format!("{:?}", instance.ownership));
        let state = match &instance.state {
            InstanceState::Stopped { .. } => "stopped".to_owned(),
            other => format!("{other:?}"),
        };
        all.set(key("state"), state);
        all.set(key("boot"), instance.boot.clone().unwrap_or_default());
        all.set(key("drift"), format!("{:?}{:?}", instance.drift, instance.mendable));
    }
    for leftover in &observed.leftovers {
        all.set(format!("leftover.{}.{}", leftover.backend, leftover.id), leftover.name.clone());
    }
    for id in observed.stopped.keys().filter(|id| !options.wakes(id)) {
        all.set(format!("stopped.{id}"), "");
    }
    if matches!(options.order, Order::Stop | Order::Restart) {
        all.set("order", format!("{:?}", options.order));
    }
    all.set("carrying", format!("{:?}", observed.carrying));
    all.set("keeps", format!("{} {:?}", desired.tree.snapshots.is_some(), options.discard));
    for (id, keep) in &observed.keeps {
        all.set(format!("keep.{id}"), keep.to_string());
    }
    all.set("accepted", format!("{:?}", observed.accepted));
    for (id, receipt) in &observed.receipts {
        all.set(
            format!("receipt.{id}"),
            format!(
                "{:?} {:?} {:?} {:?} {:?}",
                receipt.guest, receipt.env, receipt.ca, receipt.names, receipt.requests
            ),
        );
    }
    for (kind, error) in &observed.unreachable {
        all.set(format!("unreachable.{kind}"), error.clone());
    }
    for (name, digest) in &options.values {
        all.set(format!("value.{name}"), digest.clone());
    }
    for (name, digest) in &options.tokens {
        all.set(format!("token.{name}"), digest.clone());
    }
    for (sandbox, ca) in &options.cas {
        all.set(format!("ca.{sandbox}"), ca.clone());
    }
    for (sandbox, why) in &options.lost_cas {
        all.set(format!("lost_ca.{sandbox}"), why.clone());
    }
    for (backend, names) in &options.names {
        all.set(format!("names.{backend}"), names.clone());
    }
    for (sandbox, told) in &options.requests {
        all.set(format!("requests.{sandbox}"), format!("{told:?}"));
    }
    all.hash("bottle.fingerprint.v1")
}
