//! Why something does not go on.

use std::io;

use super::sentence::Trouble;

/// Why something does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// Whoever asked is gone.
    Left,
    /// What the agent reads, and the log's code for it.
    Told { code: &'static str, sentence: String },
    /// A mistake, or a limit, of this side.
    Failed(io::Error),
}

impl Stop {
    pub(super) fn told(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::Told { code, sentence: sentence.into() }
    }

    pub(super) fn trouble(trouble: Trouble, sentence: String) -> Self {
        Self::Told { code: trouble.code(), sentence }
    }

    /// Its code in the log; `None`: there is nothing to be logged.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Left => None,
            Self::Told { code, .. } => Some(code),
            Self::Failed(error) if error.kind() == io::ErrorKind::TimedOut => Some("timeout"),
            Self::Failed(_) => Some("failed"),
        }
    }

    /// What the agent reads. What git or the system says may hold paths of the host.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Left => "nobody is there".to_owned(),
            Self::Told { sentence, .. } => sentence.clone(),
            Self::Failed(error) if error.kind() == io::ErrorKind::TimedOut => {
                "it took too long".to_owned()
            }
            Self::Failed(_) => {
                "the git gate failed: its log says why. Tell the operator.".to_owned()
            }
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Left,
            _ => Self::Failed(error),
        }
    }
}
