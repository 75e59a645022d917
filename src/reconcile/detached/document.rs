//! A run as a document.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Detached, Standing};
use crate::model::SandboxId;

/// A run, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDocument {
    /// Its name.
    pub id: String,
    /// Where.
    pub sandbox: SandboxId,
    /// `running`, `exited`, `failed`, `lost`.
    pub state: String,
    /// In seconds since the epoch.
    pub since: u64,
    /// When it ended, in seconds since the epoch.
    pub ended: Option<u64>,
    /// The exit code of what ran, where it has ended and there is one.
    pub exit_code: Option<i32>,
    /// Why it failed or was lost.
    pub why: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What it wrote.
    pub log: PathBuf,
}

impl RunDocument {
    /// Of this run.
    #[must_use]
    pub fn of(run: &Detached) -> Self {
        let end = match &run.standing {
            Standing::Running => None,
            Standing::Ended(end) => Some(end.clone()),
            Standing::Dropped => Some(run.dropped()),
        };
        let known = matches!(run.standing, Standing::Ended(_));
        Self {
            id: run.record.id.clone(),
            sandbox: run.record.sandbox.clone(),
            state: run.standing.word().to_owned(),
            since: run.record.since,
            ended: end.as_ref().filter(|_| known).map(|end| end.at),
            exit_code: end.as_ref().and_then(|end| end.code),
            why: end.and_then(|end| end.why),
            command: run.record.argv.clone(),
            log: run.log(),
        }
    }

    /// `running`, `exited (3)`.
    #[must_use]
    pub fn state(&self) -> String {
        match self.exit_code {
            Some(code) => format!("{} ({code})", self.state),
            None => self.state.clone(),
        }
    }
}
