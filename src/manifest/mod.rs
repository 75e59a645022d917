//! Files → [`Desired`].
//!
//! [`locate`] says which tree is meant, [`load`] reads it. Every file is read by itself: what is
//! wrong in one of them holds the sandboxes that it concerns and nothing else, and everything that
//! is wrong in a tree is told at once, with its place.
//!
//! | module | what it does |
//! |---|---|
//! | `tree`, `inputs` | all that is read from the file system, bounded |
//! | `frontmatter`, `yaml`, `source` | text → values that know where they stand |
//! | `keys`, `field`, `host` | typed access, the tables of keys, the grammars |
//! | `bottle`, `agent`, `proxy` and their sections | values → what the model calls them |
//! | `resolve` | agents in their bottles, skills, overlays |
//! | [`edit`] | the smallest change of a file's text that says something new |
//! | [`diagnostic`], [`schema`] | for people, for editors |

mod agent;
mod bottle;
mod build;
mod cred_proxy;
pub mod diagnostic;
pub mod edit;
mod egress;
mod field;
mod frontmatter;
mod git;
mod guard;
mod host;
mod image;
mod inputs;
mod keep;
mod keys;
mod limits;
mod locate;
mod proxy;
mod resolve;
pub mod schema;
mod services;
mod setup;
mod skill;
mod snapshots;
mod source;
mod suffix;
mod tools;
mod tree;
mod trust;
mod workspace;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use keys::nearest;
pub(crate) use limits::{bytes as amount, thousandths};
pub use locate::{LocateError, Location, Surroundings, locate};
pub use trust::{exposed_folder, is_descriptor, mount_table, operators_file};

use crate::model::{BackendKind, Desired, Diagnostic, MountTable, Tree};

/// What to load, and what the operator said beside it.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The operator's tree.
    pub tree: PathBuf,
    /// A project's folder that brings agents of its own, in `agents/`.
    pub overlay: Option<PathBuf>,
    /// What `backend: auto` means, over what `bottle.yaml` says.
    pub default_backend: Option<BackendKind>,
    /// The operator's home folder: `~`, and where skills are looked for after the tree.
    pub home: Option<PathBuf>,
    /// The operator's `PATH`, on which a bottle's `tools` are looked for.
    pub search_path: Option<OsString>,
    /// The state folder: no sandbox may see it, and digests of inputs are kept in its `cache`.
    pub state_dir: PathBuf,
    /// Where skills go in the guest, when not to `$HOME/.claude/skills`.
    pub skills_dir_override: Option<String>,
    /// What files of the tree say instead of what they hold, by their paths in it: what would be so if they
    /// said it. Each of them has to be there.
    pub instead: BTreeMap<PathBuf, Vec<u8>>,
}

impl LoadOptions {
    /// A tree by itself, with everything else as it is by default.
    #[must_use]
    pub fn new(tree: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            tree: tree.into(),
            overlay: None,
            default_backend: None,
            home: None,
            search_path: None,
            state_dir: state_dir.into(),
            skills_dir_override: None,
            instead: BTreeMap::new(),
        }
    }

    fn inputs_cache(&self) -> PathBuf {
        self.state_dir.join("cache").join("inputs.json")
    }
}

/// Why a tree could not be loaded at all: there is no plan for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The folder cannot be read.
    #[error("the tree {} cannot be read: {reason}", path.display())]
    Tree {
        /// The folder, as it was named.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder of the overlay cannot be read.
    #[error("the overlay {} cannot be read: {reason}", path.display())]
    Overlay {
        /// The folder, as it was named.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others can change what the tree, or the overlay, says.
    #[error("{what} can be changed by others: `{}` {who}; to mend it: {mend}", path.display())]
    Untrusted {
        /// Which.
        what: &'static str,
        /// The folder that others can change.
        path: PathBuf,
        /// Who can.
        who: String,
        /// What to do.
        mend: String,
    },
    /// `bottle.yaml` does not hold, so nobody knows whose the tree's sandboxes are.
    #[error("bottle.yaml does not validate")]
    Settings {
        /// Every finding of the tree, those of `bottle.yaml` among them.
        diagnostics: Vec<Diagnostic>,
    },
    /// The folder for skills in the guest is none.
    #[error("BOTTLE_GUEST_SKILLS_DIR is `{0}`: expected an absolute path in its shortest form")]
    SkillsDir(String),
}

/// Reads a tree, and the overlay over it.
///
/// # Errors
/// [`LoadError`] when the tree as a whole cannot be read. Whatever is wrong in one file is a
/// diagnostic in [`Desired`], and holds the sandboxes that it concerns.
pub fn load(options: &LoadOptions) -> Result<Desired, LoadError> {
    load_among(options, mount_table())
}

/// The same, with what is mounted where: what is compared with the tree's paths is looked up in the same table.
///
/// # Errors
/// [`LoadError`] in the same cases.
pub fn load_among(options: &LoadOptions, mounts: MountTable) -> Result<Desired, LoadError> {
    check_skills_dir(options)?;
    resolve::Loader::open(options, mounts)?.load()
}

/// Reads whose a tree is: `bottle.yaml`, and nothing that takes longer the more agents there are.
///
/// # Errors
/// [`LoadError`] in the same cases as [`load`].
pub fn identify(options: &LoadOptions) -> Result<Tree, LoadError> {
    check_skills_dir(options)?;
    resolve::Loader::open(options, mount_table())?.identify()
}

fn check_skills_dir(options: &LoadOptions) -> Result<(), LoadError> {
    if let Some(dir) = options.skills_dir_override.as_ref() {
        let fits = host::is_canonical_guest_path(dir) && Path::new(dir) != Path::new("/");
        if !fits {
            return Err(LoadError::SkillsDir(dir.clone()));
        }
    }
    Ok(())
}
