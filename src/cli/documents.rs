//! What `-o json` puts on stdout: one document, also when it fails.

use schemars::JsonSchema;
use serde::Serialize;

use super::error::CliError;
use super::saved::SavedOptions;
use crate::apply::report::OutcomeDocument;
use crate::model::Diagnostic;
use crate::plan::document::{PlanDocument, VERSION};

/// Why a command failed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ErrorDocument {
    /// `failed`, `refused`, `locked`, `sandbox` or `interrupted`.
    pub(super) kind: &'static str,
    /// What failed.
    pub(super) message: String,
    /// Its causes, outermost first.
    pub(super) causes: Vec<String>,
    /// What to do about it.
    pub(super) hints: Vec<String>,
}

/// A plan, and what became of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ReportDocument {
    /// The plan.
    #[serde(flatten)]
    pub(super) plan: PlanDocument,
    /// What became of every step, once it was tried to carry them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcomes: Option<Vec<OutcomeDocument>>,
    /// In a saved plan: with what to look again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<SavedOptions>,
    /// Why it was not carried out, or not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ErrorDocument>,
}

impl From<PlanDocument> for ReportDocument {
    fn from(plan: PlanDocument) -> Self {
        Self { plan, outcomes: None, options: None, error: None }
    }
}

/// A failure without a plan.
#[derive(Debug, Serialize)]
struct FailureDocument<'a> {
    version: u32,
    diagnostics: &'a [Diagnostic],
    error: ErrorDocument,
}

/// The document of a command that failed.
pub(super) fn failure(error: &CliError) -> serde_json::Result<String> {
    match &error.document {
        Some(document) => {
            let error = Some(ErrorDocument::of(error));
            serde_json::to_string_pretty(&ReportDocument { error, ..document.as_ref().clone() })
        }
        None => serde_json::to_string_pretty(&FailureDocument::of(error)),
    }
}

/// The same on one line, without a plan.
pub(super) fn failure_line(error: &CliError) -> serde_json::Result<String> {
    serde_json::to_string(&FailureDocument::of(error))
}

impl ErrorDocument {
    fn of(error: &CliError) -> Self {
        let mut chain = error.chain().into_iter();
        Self {
            kind: error.kind.as_str(),
            message: chain.next().unwrap_or_default(),
            causes: chain.collect(),
            hints: error.hints.clone(),
        }
    }
}

impl<'a> FailureDocument<'a> {
    fn of(error: &'a CliError) -> Self {
        Self { version: VERSION, diagnostics: &error.diagnostics, error: ErrorDocument::of(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_a_failure_is_whole() {
        let text = failure(&CliError::failed("no").hint("yes")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "version": 1,
                "diagnostics": [],
                "error": { "kind": "failed", "message": "no", "causes": [], "hints": ["yes"] },
            })
        );
    }
}
