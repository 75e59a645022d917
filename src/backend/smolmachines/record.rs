//! What this backend remembers in the tree's state folder. Losing any of it costs a question to a
//! machine or to the program, nothing else; but for the doors of the sidecars, which running machines
//! were given.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Scope;
use crate::backend::durable::{self, Keep};

/// Where it is.
pub(super) fn folder(scope: &Scope) -> PathBuf {
    scope.data.join("smolmachines")
}

/// Makes a folder of ours.
pub(super) fn make(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// What is remembered under this name; nothing, where nothing can be read.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    durable::read_json(path).ok()?
}

/// Remembers, whole or not at all. A failure is only worth a line in the log.
pub(super) fn write(path: &Path, value: &impl Serialize) {
    if let Err(error) = keep(path, value) {
        tracing::warn!(path = %path.display(), %error, "cannot remember");
    }
}

/// Keeps what must not be lost, whole or not at all.
pub(super) fn keep(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    make(path.parent().unwrap_or(path))?;
    durable::write_json(path, value, Keep::Durably)
}

/// Forgets; what is not there is forgotten already.
pub(super) fn forget(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot forget");
    }
}
