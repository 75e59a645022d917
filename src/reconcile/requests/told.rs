//! What sidecars are told of requests: the part of their document that says what an agent may ask for, and what
//! became of what it asked.
//!
//! A decision is in force in the very load that tells of it: one that edits a policy is told as applied together
//! with the policy that has it, and never before.

use std::collections::{BTreeMap, BTreeSet};

use super::granted::{self, Granted};
use super::record::Record;
use super::store::Muted;
use crate::model::supervise::{Ask, Decided, RequestId, Section, Standing, TOLD, What};
use crate::model::{BackendKind, Desired, Moment, SandboxId};

/// What all sidecars of a tree are told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    records: BTreeMap<SandboxId, Vec<Record>>,
    muted: Muted,
    /// Those that are told as applied, because the tree has what was granted.
    pub(super) applies: BTreeSet<RequestId>,
}

/// What a plan compares: by a field's name what the sidecar knows.
pub type Decisions = BTreeMap<String, String>;

/// The field that says that no requests are taken.
pub const MUTED: &str = "requests";

/// What it says.
#[must_use]
pub fn muted_until(until: Moment) -> String {
    format!("muted until {}", until.in_seconds())
}

impl Told {
    /// What is to be told where the tree says this.
    #[must_use]
    pub fn of(records: Vec<Record>, muted: Muted, desired: &Desired, now: Moment) -> Self {
        let mut told = Self { muted, ..Self::default() };
        for record in records {
            if let Some(spec) = desired.sandboxes.get(&record.sandbox)
                && matches!(record.state, Standing::Approved | Standing::Failed)
                && rides(record.granted())
                && granted::by(spec, record.granted(), now) == Granted::Yes
            {
                told.applies.insert(record.id.clone());
            }
            told.records.entry(record.sandbox.clone()).or_default().push(record);
        }
        told
    }

    fn standing(&self, record: &Record) -> Standing {
        if self.applies.contains(&record.id) { Standing::Applied } else { record.state }
    }

    /// The part of a sidecar's document, for one whose agent may ask.
    #[must_use]
    pub fn section(&self, sandbox: &SandboxId, backend: BackendKind) -> Section {
        let mut section = Section::new(What::offered(backend));
        section.muted_until = self.muted.get(sandbox).copied();
        let records = self.records.get(sandbox).map_or(&[][..], Vec::as_slice);
        let decided = |record: &Record| Decided {
            id: record.id.clone(),
            ask: record.ask.clone(),
            state: self.standing(record),
            granted: record.decision.as_ref().and_then(|decision| decision.granted.clone()),
            until: record.decision.as_ref().and_then(|decision| decision.until),
            message: record.decision.as_ref().and_then(|decision| decision.message.clone()),
            at: record.at(),
        };
        let mut newest: Vec<&Record> = records.iter().collect();
        newest.sort_by(|a, b| (b.at(), &b.id).cmp(&(a.at(), &a.id)));
        let (waiting, rest): (Vec<&Record>, Vec<&Record>) =
            newest.into_iter().partition(|record| record.state.waits());
        section.requests =
            waiting.into_iter().chain(rest.into_iter().take(TOLD)).map(decided).collect();
        section.requests.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        section
    }

    /// What of it makes a load due when it changes. That something waits, the sidecar knows by itself.
    #[must_use]
    pub fn decisions(&self, sandbox: &SandboxId) -> Decisions {
        // That an agent may ask, or may not any more, is news to its sidecar, too.
        let mut decisions = Decisions::from([("supervise".to_owned(), "true".to_owned())]);
        let records = self.records.get(sandbox).map_or(&[][..], Vec::as_slice);
        let mut told: Vec<&Record> =
            records.iter().filter(|record| !self.standing(record).waits()).collect();
        told.sort_by(|a, b| (b.at(), &b.id).cmp(&(a.at(), &a.id)));
        for record in told.into_iter().take(TOLD) {
            decisions.insert(format!("decision {}", record.id), self.standing(record).to_string());
        }
        if let Some(until) = self.muted.get(sandbox) {
            decisions.insert(MUTED.to_owned(), muted_until(*until));
        }
        decisions
    }

    /// The same, of all these.
    #[must_use]
    pub fn all<'a>(
        &self,
        sandboxes: impl Iterator<Item = &'a SandboxId>,
    ) -> BTreeMap<SandboxId, Decisions> {
        sandboxes.map(|id| (id.clone(), self.decisions(id))).collect()
    }

    /// The requests of which an edit or a word of the operator's is to come into force.
    pub(super) fn open(&self) -> impl Iterator<Item = &Record> {
        let open = |record: &&Record| matches!(record.state, Standing::Approved | Standing::Failed);
        self.records.values().flatten().filter(open)
    }
}

/// Whether it comes into force with the sidecar's document, and is not done to the machine.
pub(super) fn rides(ask: &Ask) -> bool {
    matches!(ask, Ask::Egress(_) | Ask::Credential(_))
}
