//! What went wrong, as a person is told it. The kind picks the exit code; causes are printed once,
//! as a chain.

use std::process::ExitCode;

use super::documents::ReportDocument;
use crate::manifest::LoadError;
use crate::model::Diagnostic;
use crate::reconcile::{Locked, OwnerTaken};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done; for `plan`: nothing to do.
    Done,
    /// Failed or refused.
    Failed,
    /// `plan`: there are changes.
    Changes,
    /// Partly done, or something is held.
    Partly,
    /// Another `bottle` holds the lock.
    Locked,
    /// `exec`, `run`: `bottle` itself failed.
    NoSandbox,
    /// Interrupted.
    Interrupted,
    /// The exit code of a command that ran in a sandbox.
    Of(i32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Changes => 2,
            Exit::Partly => 3,
            Exit::Locked => 75,
            Exit::NoSandbox => 125,
            Exit::Interrupted => 130,
            // An exit code has eight bits; what has more is a failure all the same.
            Exit::Of(code) => u8::try_from(code).unwrap_or(255),
        })
    }
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The operator can set it right: the tree, an option, the machine.
    Failed,
    /// The plan may not be carried out as it stands.
    Refused,
    /// Another `bottle` works on the tree.
    Locked,
    /// `exec`, `run`: the command was never started.
    Sandbox,
    /// A signal came.
    Interrupted,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Locked => "locked",
            Self::Sandbox => "sandbox",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An error at the edge.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) kind: Kind,
    pub(super) error: anyhow::Error,
    pub(super) hints: Vec<String>,
    /// What is wrong with the tree, when that is why.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The document that `-o json` prints beside the error, as far as there is one.
    pub(super) document: Option<Box<ReportDocument>>,
}

impl CliError {
    pub(super) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            error: error.into(),
            hints: Vec::new(),
            diagnostics: Vec::new(),
            document: None,
        }
    }

    /// What kept a pass of `watch` from having a plan.
    pub(super) fn from_watch(error: &anyhow::Error) -> Self {
        let diagnostics = diagnostics(error);
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        let mut copy = anyhow::Error::msg(chain.last().cloned().unwrap_or_default());
        for context in chain.into_iter().rev().skip(1) {
            copy = copy.context(context);
        }
        Self { diagnostics, ..Self::new(Kind::Failed, copy) }
    }

    /// A failure in these words.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, anyhow::Error::msg(message.into()))
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, anyhow::Error::msg(message.into()))
    }

    pub(super) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, anyhow::Error::msg("interrupted; nothing was changed"))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(super) fn document(mut self, document: ReportDocument) -> Self {
        self.document = Some(Box::new(document));
        self
    }

    /// The same error in a command that runs something in a sandbox.
    pub(super) fn in_sandbox(mut self) -> Self {
        if self.kind == Kind::Failed {
            self.kind = Kind::Sandbox;
        }
        self
    }

    pub(super) fn exit(&self) -> Exit {
        match self.kind {
            Kind::Failed | Kind::Refused => Exit::Failed,
            Kind::Locked => Exit::Locked,
            Kind::Sandbox => Exit::NoSandbox,
            Kind::Interrupted => Exit::Interrupted,
        }
    }

    /// The error and its causes, outermost first, each said once.
    pub(super) fn chain(&self) -> Vec<String> {
        let mut parts: Vec<String> = Vec::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if !parts.iter().any(|part| part.contains(&text)) {
                parts.push(text);
            }
        }
        parts
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        if error.downcast_ref::<Locked>().is_some() {
            return Self::new(Kind::Locked, error)
                .hint("`--lock-timeout SECONDS` waits longer for it");
        }
        if error.downcast_ref::<OwnerTaken>().is_some() {
            return Self::new(Kind::Failed, error)
                .hint("give this tree another `name:` in bottle.yaml")
                .hint("or say `bottle apply --adopt` if the tree has moved here");
        }
        let diagnostics = diagnostics(&error);
        Self { diagnostics, ..Self::new(Kind::Failed, error) }
    }
}

/// What is wrong with a tree that could not be loaded.
fn diagnostics(error: &anyhow::Error) -> Vec<Diagnostic> {
    match error.downcast_ref::<LoadError>() {
        Some(LoadError::Settings { diagnostics }) => diagnostics.clone(),
        _ => Vec::new(),
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file"))
            .context("reading a: no such file")
            .context("loading the tree")
            .unwrap_err();
        assert_eq!(CliError::from(error).chain(), ["loading the tree", "reading a: no such file"]);
    }

    #[test]
    fn a_lock_exits_75() {
        let error = CliError::from(anyhow::Error::from(Locked { holder: None }));
        assert_eq!((error.kind, error.exit()), (Kind::Locked, Exit::Locked));
        assert_eq!(error.in_sandbox().exit(), Exit::Locked);
    }
}
