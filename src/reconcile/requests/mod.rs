//! What agents ask for, on the host.
//!
//! A sidecar holds what its agent asked; `pull` reads that and writes it down (`record`, `store`). A person decides:
//! `propose` makes the edit of the tree that a yes means, `delta` sees that it changes what was asked and nothing
//! else, and `commit` writes it down in git. `told` is what sidecars hear of it with their next load, `granted`
//! whether the tree has what was asked, `settle` what became of it in a pass, and `recover` goes on, or back,
//! where somebody was killed in the middle. `hint` hurries a pass, and `notify` runs the operator's program.
//!
//! It is no layer of its own: a pass reads requests, tells of them and recovers.

mod change;
pub mod commit;
mod decide;
pub mod delta;
mod ended;
pub mod files;
mod granted;
pub(super) mod hint;
pub(super) mod notify;
pub mod propose;
mod pull;
pub mod record;
mod recover;
pub mod review;
mod settle;
mod store;
mod told;

pub use change::{ChangeError, Edited};
pub use decide::{By, Done};
pub use record::{Decision, Made, Record};
pub use review::{Refused, Review};
pub use store::{Decider, Deciding, Muted, now};
pub use told::{Decisions, MUTED, Told, muted_until};

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pass::{Reconciler, Run};
use super::sidecars::Roots;
use super::view::View;
use crate::apply::{Report, Stop};
use crate::plan::{Action, StepId, Target};

/// Ends this process where a test says so, as a kill would.
pub(super) fn stop_for_tests(_place: &str) {
    #[cfg(any(test, feature = "testing"))]
    killed::at(_place);
}

#[cfg(any(test, feature = "testing"))]
mod killed {
    #![expect(clippy::disallowed_methods, reason = "a test says where by the environment")]

    pub(super) fn at(place: &str) {
        if std::env::var("BOTTLE_TEST_KILLED").is_ok_and(|named| named == place) {
            std::process::abort();
        }
    }
}

impl Reconciler {
    /// Reads what sidecars hold of requests, as a part of a pass: without that the pass goes on.
    pub(super) async fn requests_of(&self, view: &View) -> Vec<Record> {
        self.recover_requests(view).await;
        let pulled = self.pull(view).await.unwrap_or_else(|error| {
            tracing::warn!(error = %format!("{error:#}"), "requests cannot be read");
            Vec::new()
        });
        // What is in force already needs no step.
        self.settle_requests(view, &Report::default()).await;
        pulled
    }

    /// Writes down what became of granted requests.
    pub(super) async fn settle_requests(&self, view: &View, report: &Report) {
        if let Err(error) = settle::settle(view, report).await {
            tracing::warn!(error = %format!("{error:#}"), "what became of requests is not written down");
        }
    }

    /// Does of a plan what tells sidecars of decisions, and nothing else. The caller holds the tree's lock.
    pub async fn load_only(&self, view: &View, stop: &Stop) -> Report {
        let loads = view.plan.steps.iter().filter(|step| {
            matches!(&step.action, Action::Load { sidecar: Target::Existing(_), .. })
                && step.after.is_empty()
        });
        let only: BTreeSet<StepId> = loads.map(|step| step.id).collect();
        if only.is_empty() {
            return Report::default();
        }
        let slots = self.slots();
        let run = Run {
            only: Some(&only),
            slots: &slots,
            roots: Roots::default(),
            may: &|_| true,
            claimed: false,
        };
        self.run(view, &run, stop, Arc::new(|_| {})).await
    }

    /// Goes on, or back, with what somebody left who was killed in the middle.
    async fn recover_requests(&self, view: &View) {
        if let Err(error) = view.memory.recover_requests(&view.desired.tree.path).await {
            tracing::warn!(error = %format!("{error:#}"), "an approval that was cut short stays so");
        }
    }
}
