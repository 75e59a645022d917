//! Runs that live on by themselves: `bottle run -d` starts one, `bottle attach` comes back to it.
//!
//! ```text
//! runs/<id>/             in the tree's state folder, 0700
//!   run.json             what runs, in which sandbox, since when; written before anything is started
//!   lock                 held by its holder for as long as that lives
//!   socket               where attaching is asked for; gone when it has ended
//!   log, log.1           what it wrote, bounded
//!   why                  why `bottle` itself could not run it, where it could not
//!   end.json             how it ended, written once
//! ```
//!
//! Two processes of `bottle` hold a run on the host: the *holder* (`holder`) has the terminal, the socket (`wire`)
//! and the log (`log`), and the *session* is a `bottle run` on that terminal. Each notices when the other is killed,
//! and ends what runs in the sandbox. That neither lives any more is seen by the lock, which the kernel lets go.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod document;
mod ending;
mod holder;
mod inside;
mod log;
mod records;
pub mod wire;

pub use document::RunDocument;
pub(super) use ending::note;
pub use holder::{Commands, READY, hold};
pub use inside::{END_SH, MARK, marked};
pub use records::{Started, at, end, set_why};

use crate::model::SandboxId;

/// So many runs that have ended are remembered of a sandbox, and so many of a tree, the newest.
const KEPT_OF_SANDBOX: usize = 10;
const KEPT_OF_TREE: usize = 100;

/// The version of the records.
const VERSION: u32 = 1;

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Eight hexadecimal digits.
    pub id: String,
    /// Where.
    pub sandbox: SandboxId,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Since when, in seconds since the epoch.
    pub since: u64,
    /// Which start of the host that was, where that can be told.
    pub host_boot: Option<String>,
}

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// By itself, with an exit code.
    Exited,
    /// `bottle` could not run it, or its machine went away.
    Failed,
    /// What held it on the host was ended, and with it the run.
    Lost,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    version: u32,
    /// When, in seconds since the epoch; of one that was lost, when that was noticed.
    pub at: u64,
    /// How.
    pub how: How,
    /// The exit code of what ran, where there is one.
    pub code: Option<i32>,
    /// What else there is to say.
    pub why: Option<String>,
}

impl End {
    /// An end of now.
    #[must_use]
    pub fn now(how: How, code: Option<i32>, why: Option<String>) -> Self {
        Self { version: VERSION, at: super::state::now(), how, code, why }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.how, self.code) {
            (How::Exited, Some(code)) => write!(f, "ended with {code}")?,
            (How::Exited, None) => f.write_str("ended")?,
            (How::Failed, _) => f.write_str("failed")?,
            (How::Lost, _) => f.write_str("was lost")?,
        }
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is held.
    Running,
    /// Its end is known.
    Ended(End),
    /// Nobody holds it, and nobody has said how it ended.
    Dropped,
}

impl Standing {
    /// In a word: `running`, `exited`, `failed`, `lost`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ended(End { how: How::Exited, .. }) => "exited",
            Self::Ended(End { how: How::Failed, .. }) => "failed",
            Self::Ended(End { how: How::Lost, .. }) | Self::Dropped => "lost",
        }
    }
}

/// A run, and how it stands.
#[derive(Debug, Clone)]
pub struct Detached {
    /// What runs.
    pub record: Record,
    /// How it stands.
    pub standing: Standing,
    folder: PathBuf,
}

impl Detached {
    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join(log::LOG)
    }

    /// Whether it is under way.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.standing == Standing::Running
    }

    /// Why nobody holds one that was dropped, as far as that can be told.
    #[must_use]
    pub fn dropped(&self) -> End {
        let booted = records::host_boot();
        let another = self.record.host_boot.is_some() && booted != self.record.host_boot;
        let why = match another {
            true => "this machine was restarted",
            false => "the processes of bottle that held it were killed",
        };
        End::now(How::Lost, None, Some(why.to_owned()))
    }
}
