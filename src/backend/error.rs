//! How a call to a backend fails.

use crate::model::BackendKind;

/// Why a call to a backend failed. The message says what failed; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The backend as a whole cannot be reached: what is on it is left alone.
    #[error("{backend} cannot be reached: {reason}")]
    Unreachable {
        /// Which one.
        backend: BackendKind,
        /// Why, and where it was looked for.
        reason: String,
    },
    /// The image is not available. Nothing was touched.
    #[error("image {image} is not available: {reason}")]
    Image {
        /// As the manifest names it.
        image: String,
        /// What the registry, engine or file said.
        reason: String,
    },
    /// A name that we need is taken by something that is not ours. It was not touched.
    #[error("{name} exists and is not ours; it was left alone")]
    Conflict {
        /// The name on the engine.
        name: String,
    },
    /// The machine is not there, or not running, where it had to be.
    #[error("{name} is {state}")]
    NotRunning {
        /// The machine.
        name: String,
        /// `gone`, `stopped`, …
        state: String,
    },
    /// This backend, or this machine of the operator's, cannot do it.
    #[error("{0}")]
    Unsupported(
        /// What, why, and what to change.
        String,
    ),
    /// It took longer than it may.
    #[error("{what} did not end within {seconds} s")]
    Deadline {
        /// What was being done, as a gerund.
        what: String,
        /// The deadline.
        seconds: u64,
    },
    /// Anything else that went wrong.
    #[error("{what}")]
    Failed {
        /// What was being done, as a gerund: `creating the container`.
        what: String,
        /// What went wrong.
        #[source]
        source: anyhow::Error,
    },
}

impl BackendError {
    /// An error in the middle of `what` (a gerund), caused by `source`.
    pub fn failed(what: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }

    /// Whether it says that what was to be copied out is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        let Self::Failed { source, .. } = self else { return false };
        let text = format!("{source:#}").to_ascii_lowercase();
        ["no such file or directory", "there is no "].iter().any(|words| text.contains(words))
    }

    /// Whether it says that what was to be copied out is more than was asked for.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        let Self::Failed { source, .. } = self else { return false };
        format!("{source:#}").contains("larger than")
    }
}
