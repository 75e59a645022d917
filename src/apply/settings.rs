//! The files by which tools find their credential routes.

use std::collections::BTreeSet;

use super::provision::Provision;
use super::upload::{Owner, Tar};
use crate::backend::{GuestDir, Identity, Upload};
use crate::model::{Fields, GuestSpec, roles};

/// Where such files may be, below the home folder.
const PLACES: [&str; 3] = roles::PATHS;

/// Puts the files of the roles in where they are new or have changed, and takes those out that are no
/// longer wanted. What did not change is left: the agent may have added to it.
pub(super) fn put(
    upload: &mut Upload,
    tar: &mut Tar,
    work: &Provision<'_>,
    identity: &Identity,
) -> anyhow::Result<()> {
    let unchanged = work
        .prior
        .is_some_and(|prior| prior.guest.is_some() && of(&prior.fields) == of_guest(work.guest));
    if unchanged {
        return Ok(());
    }
    let home = identity.home.trim_end_matches('/');
    let wanted = match &work.guest.access {
        Some(access) => roles::files(&access.routes, access.backend),
        None => Vec::new(),
    };
    let had = work.prior.is_some_and(|prior| !of(&prior.fields).is_empty());
    if had {
        let gone = PLACES.iter().filter(|path| wanted.iter().all(|file| file.path != **path));
        upload.wipe.extend(gone.map(|path| format!("{home}/{path}")));
    }
    let mut folders = BTreeSet::new();
    for file in &wanted {
        let mut folder = file.path;
        while let Some((parent, _)) = folder.rsplit_once('/') {
            folders.insert(parent);
            folder = parent;
        }
    }
    let folder =
        |path: String| GuestDir { path, uid: identity.uid, gid: identity.gid, mode: 0o755 };
    if !wanted.is_empty() && !home.is_empty() {
        upload.dirs.push(folder(home.to_owned()));
    }
    upload.dirs.extend(folders.into_iter().map(|path| folder(format!("{home}/{path}"))));
    for file in &wanted {
        let path = format!("{home}/{}", file.path);
        tar.file(&path, 0o644, Owner::of(identity), file.content.as_bytes())?;
    }
    Ok(())
}

fn of_guest(guest: &GuestSpec) -> Vec<(String, String)> {
    of(&guest.fields())
}

/// The fields that say what roles set up.
fn of(fields: &Fields) -> Vec<(String, String)> {
    let of_role = |path: &&String| roles::NAMES.iter().any(|role| path.starts_with(*role));
    let found = fields.0.keys().filter(of_role);
    found.map(|path| (path.clone(), fields.0[path].clone())).collect()
}
