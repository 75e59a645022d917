//! The history: what became of every step. A type of its own, for it is no intention.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::plan::StepId;

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It failed, for this reason and its causes.
    Failed(String),
    /// It was not tried, because a step that it needs was not done.
    Skipped {
        /// That step.
        because: StepId,
    },
    /// It was not tried, or dropped, because the run was stopped.
    Cancelled,
}

/// One step's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutcome {
    /// The step.
    pub step: StepId,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it ran.
    pub elapsed: Duration,
}

/// What happened: one outcome a step, in the order of the steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By step.
    pub outcomes: Vec<StepOutcome>,
}

impl Report {
    /// Every step was done.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.outcomes.iter().all(|o| o.outcome == Outcome::Done)
    }

    /// Some step was not tried because the run was stopped.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.outcomes.iter().any(|o| o.outcome == Outcome::Cancelled)
    }

    /// The outcomes as they stand in JSON.
    #[must_use]
    pub fn document(&self) -> Vec<OutcomeDocument> {
        self.outcomes
            .iter()
            .map(|outcome| OutcomeDocument {
                step: outcome.step,
                outcome: match outcome.outcome {
                    Outcome::Done => "done",
                    Outcome::Failed(_) => "failed",
                    Outcome::Skipped { .. } => "skipped",
                    Outcome::Cancelled => "cancelled",
                },
                error: match &outcome.outcome {
                    Outcome::Failed(error) => Some(error.clone()),
                    Outcome::Skipped { because } => {
                        Some(format!("step {because}, which it needs, was not done"))
                    }
                    Outcome::Done | Outcome::Cancelled => None,
                },
                seconds: outcome.elapsed.as_secs_f64(),
            })
            .collect()
    }
}

/// One step's outcome in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct OutcomeDocument {
    /// The step's number.
    pub step: StepId,
    /// `done`, `failed`, `skipped` or `cancelled`.
    pub outcome: &'static str,
    /// Why it was not done.
    pub error: Option<String>,
    /// How long it ran.
    pub seconds: f64,
}
