//! What is said about a manifest that is wrong: where, what was found, what was expected, what to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Holds the sandboxes that it concerns.
    Error,
    /// Is said and holds nothing.
    Warning,
}

/// One finding in one file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostic {
    /// The file, relative to the tree where it lies inside (`agents/ada.md`), with `/` separators.
    pub file: String,
    /// 1-based line; 0 where the finding is about the file as a whole.
    pub line: usize,
    /// 1-based column, in characters; 0 where the finding is about the file as a whole.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What was found and what was expected, in one line.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The path of the field (`egress.allowlist[2]`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is written beside the caret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The file whose own findings are the cause of this one.
    #[serde(skip)]
    pub cause: Option<String>,
    /// The source line, for the caret; control characters are already replaced.
    #[serde(skip)]
    pub source_line: Option<String>,
    /// How many characters the caret underlines; at least 1.
    #[serde(skip)]
    pub width: usize,
}

impl Diagnostic {
    /// An error about a file as a whole.
    #[must_use]
    pub fn error(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
            field: None,
            label: None,
            cause: None,
            source_line: None,
            width: 1,
        }
    }

    /// A warning about a file as a whole.
    #[must_use]
    pub fn warning(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, message) }
    }

    /// The same finding with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
