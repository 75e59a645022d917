//! Which tree is meant, and which overlay.
//!
//! A tree says what agents may reach, so it is never found by looking around: whoever can write
//! the current folder could put one there. What the environment says comes in as values.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::tree::{self, Kind};

/// The file of the older layout.
const OLD_FILE: &str = "claude-bottle.json";
/// The folder of the older layout, in the home folder.
const OLD_FOLDER: &str = ".claude-bottle";
/// Where a tree is looked for in the home folder, and an overlay in the current one.
const FOLDER: &str = ".bottle";

/// What the command line and the environment say.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The tree, as the command line names it.
    pub path: Option<PathBuf>,
    /// `--overlay`.
    pub overlay: Option<PathBuf>,
    /// `$BOTTLE_TREE`; empty is the same as unset.
    pub bottle_tree: Option<OsString>,
    /// The home folder.
    pub home: Option<PathBuf>,
    /// The current folder, where there is one: it may have been removed.
    pub current: Option<PathBuf>,
}

impl Surroundings {
    fn absolute(&self, path: PathBuf) -> Result<PathBuf, LocateError> {
        match &self.current {
            Some(current) => Ok(current.join(path)),
            None if path.is_absolute() => Ok(path),
            None => Err(LocateError::NoCurrent { path }),
        }
    }
}

/// What is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The operator's tree.
    pub tree: PathBuf,
    /// The project's overlay, when there is one.
    pub overlay: Option<PathBuf>,
}

/// Why no tree was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// Nothing says which tree is meant, and there is no home folder to look in.
    #[error("no tree was named, and HOME is not set")]
    NoHome,
    /// A relative path, and nothing that it could be relative to.
    #[error("{} is relative, and the current folder is gone", path.display())]
    NoCurrent {
        /// The path, as it was named.
        path: PathBuf,
    },
    /// There is nothing at that path.
    #[error("there is no tree at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// What is there is not a folder.
    #[error("{} is {found}, not a tree", path.display())]
    NotAFolder {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// The folder of `--overlay` is not there.
    #[error("there is no overlay at {}", path.display())]
    NoOverlay {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is only what an older layout left.
    #[error("{} is of an older layout, which is no longer read", found.display())]
    OldLayout {
        /// The file or folder of the older layout.
        found: PathBuf,
        /// Where the tree would be.
        tree: PathBuf,
        /// The folder could be used as a tree as it is.
        usable: bool,
    },
}

impl LocateError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoHome => "name it: `bottle plan PATH`, or set BOTTLE_TREE".to_owned(),
            Self::NoCurrent { .. } => "name the whole path, or change to another folder".to_owned(),
            Self::Missing { path } => {
                format!("`bottle init {}` writes a small one to start from", path.display())
            }
            Self::NotAFolder { .. } => {
                "a tree is a folder with `bottles/` and `agents/`".to_owned()
            }
            Self::NoOverlay { .. } => {
                "an overlay is a folder with `agents/`, or one with `.bottle/agents/`".to_owned()
            }
            Self::OldLayout { found, tree, usable } => {
                let (found, tree) = (found.display(), tree.display());
                let convert = format!(
                    "a tree is now a folder with one Markdown file a bottle and one an agent; \
                     convert the old one: `bottle init --from {found} {tree}`"
                );
                if *usable {
                    format!("{convert}, or use it as it is: `bottle --tree {found} …`")
                } else {
                    convert
                }
            }
        }
    }
}

/// Says which tree and which overlay are meant.
///
/// The tree is what the command line names, else `$BOTTLE_TREE`, else `~/.bottle`. The overlay is
/// what `--overlay` names, else, unless the command line names the tree, `./.bottle` where that
/// holds `agents/`.
///
/// # Errors
/// [`LocateError`] when there is no such tree; one of an older layout is recognised.
pub fn locate(around: &Surroundings) -> Result<Location, LocateError> {
    let named = around.bottle_tree.as_ref().filter(|tree| !tree.is_empty()).map(PathBuf::from);
    let own = around.home.as_ref().map(|home| home.join(FOLDER));
    let tree = around.path.clone().or(named).or(own.clone()).ok_or(LocateError::NoHome)?;
    let tree = around.absolute(tree)?;
    if !is_tree(&tree)
        && let Some((found, usable)) = old_layout(around, &tree)
    {
        return Err(LocateError::OldLayout { found, tree, usable });
    }
    match tree::stat(&tree).map(|stat| stat.kind) {
        Ok(Kind::Folder) => {}
        Ok(kind) => {
            return Err(LocateError::NotAFolder { path: tree, found: kind.describe().to_owned() });
        }
        // A folder that may not be looked at exists: loading it says what is wrong.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(LocateError::Missing { path: tree });
        }
        Err(_) => {}
    }
    let overlay = match &around.overlay {
        Some(named) => {
            let overlay = around.absolute(named.clone())?;
            if !is_folder(&overlay) {
                return Err(LocateError::NoOverlay { path: overlay });
            }
            // A project's folder holds its overlay.
            let inner = overlay.join(FOLDER);
            let named = is_folder(&overlay.join("agents")) || !is_folder(&inner.join("agents"));
            Some(if named { overlay } else { inner })
        }
        None if around.path.is_some() => None,
        None => around
            .current
            .as_ref()
            .map(|current| current.join(FOLDER))
            .filter(|found| is_folder(&found.join("agents")))
            // The operator's own tree, in the home folder, is nobody's overlay.
            .filter(|found| own.as_ref().is_none_or(|own| !same(found, own))),
    };
    let overlay = overlay.filter(|overlay| !same(overlay, &tree));
    Ok(Location { tree, overlay })
}

/// Whether both lead to one place.
fn same(one: &Path, other: &Path) -> bool {
    match (tree::canonical(one), tree::canonical(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn is_folder(path: &Path) -> bool {
    tree::stat(path).is_ok_and(|stat| stat.kind == Kind::Folder)
}

/// Whether a folder holds anything that only a tree holds.
fn is_tree(path: &Path) -> bool {
    ["agents", "bottles", "bottle.yaml"]
        .iter()
        .any(|part| tree::stat_link(&path.join(part)).is_ok())
}

/// What an older layout left where a tree would be looked for, and whether it is a tree by itself.
fn old_layout(around: &Surroundings, tree: &Path) -> Option<(PathBuf, bool)> {
    let files = [Some(tree), around.current.as_deref(), around.home.as_deref()];
    let file = files.into_iter().flatten().map(|folder| folder.join(OLD_FILE));
    let file = file.into_iter().find(|path| tree::stat(path).is_ok());
    let folder = around.home.as_ref().map(|home| home.join(OLD_FOLDER));
    let folder = folder.filter(|path| path != tree && is_folder(path));
    let usable = folder.as_deref().is_some_and(is_tree);
    match (file, folder) {
        (Some(file), _) => Some((file, false)),
        (None, Some(folder)) => Some((folder, usable)),
        (None, None) => None,
    }
}
