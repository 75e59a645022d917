//! The files by which tools find their credential routes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::beside::merged;
use super::provision::Provision;
use super::upload::{self, Owner, Tar};
use crate::backend::{Backend, GuestDir, Identity, Scope, Upload};
use crate::model::policy::RouteRole;
use crate::model::{Fields, GuestSpec, Instance, Receipt, roles};

/// A file that is larger is nobody's settings.
const LARGEST: u64 = 1 << 20;

/// What stands in one of these places.
pub(super) enum Found {
    Nothing,
    /// A file, and how its owner keeps it.
    File {
        text: String,
        mode: u32,
        owner: Owner,
    },
    /// Something that is not ours to change, in words.
    Other(&'static str),
}

/// What is to stand in the files, by path below the home folder.
pub(super) fn wanted(guest: &GuestSpec) -> BTreeMap<String, String> {
    let access = guest.access.as_ref();
    let files =
        access.map(|access| roles::files(&access.routes, access.backend, guest.workdir.as_deref()));
    let files = files.into_iter().flatten();
    let mut all: BTreeMap<String, String> =
        files.map(|file| (file.path.to_owned(), file.content)).collect();
    if let Some(gate) = &guest.gate {
        all.entry(roles::GIT.to_owned()).or_default().push_str(&gate.config());
    }
    all
}

/// All of ours that may stand in the files while `work` is under way.
pub(super) fn possible(work: &Provision<'_>) -> BTreeMap<String, String> {
    let mut all = work.prior.map(|prior| prior.settings.clone()).unwrap_or_default();
    for (path, text) in wanted(work.guest) {
        let known = all.entry(path).or_default();
        if !known.contains(&text) {
            known.push_str(&text);
        }
    }
    all
}

/// Puts the settings of the roles into their files where they are new or have changed, and takes those
/// out that are no longer wanted. What others wrote into these files stays.
pub(super) async fn put(
    backend: &dyn Backend,
    scope: &Scope,
    files: &mut Upload,
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
    let wanted = wanted(work.guest);
    let had = work.prior.is_some_and(|prior| !of(&prior.fields).is_empty());
    let mut written: BTreeSet<&str> = BTreeSet::new();
    for place in roles::PATHS {
        let new = wanted.get(place).map(String::as_str);
        let old = work.prior.and_then(|prior| prior.settings.get(place)).map(String::as_str);
        if new.is_none() && old.is_none() && !had {
            continue;
        }
        let path = format!("{home}/{place}");
        let found = read(backend, scope, work.instance, identity, &path).await;
        let found = found.with_context(|| format!("reading {path}, which is left as it is"))?;
        let (theirs, mode, owner) = match found {
            Found::Nothing => (None, 0o644, Owner::of(identity)),
            Found::File { text, mode, owner } => (Some(text), mode, owner),
            Found::Other(what) => {
                tracing::warn!(path, what, "settings of a role are not written");
                continue;
            }
        };
        let text = merged(place, theirs.as_deref().unwrap_or_default(), old, new);
        if text.is_empty() && theirs.as_ref().is_some_and(|theirs| !theirs.is_empty()) {
            files.wipe.push(path);
        } else if theirs.as_ref().is_none_or(|theirs| *theirs != text) && !text.is_empty() {
            tar.file(&path, mode, owner, text.as_bytes())?;
            written.insert(place);
        }
    }
    make_folders(files, &written, home, identity);
    Ok(())
}

/// The folders that files below the home folder stand in, and that itself.
pub(super) fn make_folders(
    files: &mut Upload,
    written: &BTreeSet<&str>,
    home: &str,
    identity: &Identity,
) {
    let mut folders = BTreeSet::new();
    for place in written {
        let mut folder = *place;
        while let Some((parent, _)) = folder.rsplit_once('/') {
            folders.insert(parent);
            folder = parent;
        }
    }
    let folder =
        |path: String| GuestDir { path, uid: identity.uid, gid: identity.gid, mode: 0o755 };
    if !written.is_empty() && !home.is_empty() {
        files.dirs.push(folder(home.to_owned()));
    }
    files.dirs.extend(folders.into_iter().map(|path| folder(format!("{home}/{path}"))));
}

/// Reads a file of the guest's. What cannot be read is not taken for what is not there.
pub(super) async fn read(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    identity: &Identity,
    path: &str,
) -> anyhow::Result<Found> {
    let archive = match backend.copy_out(scope, machine, path, LARGEST).await {
        Ok(archive) => archive,
        Err(error) if error.is_absent() => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    let file = match upload::found(&archive, identity)? {
        None => return Ok(Found::Nothing),
        Some(Err(other)) => return Ok(Found::Other(other.words())),
        Some(Ok(file)) => file,
    };
    let Ok(text) = String::from_utf8(file.content) else {
        return Ok(Found::Other("it is not UTF-8"));
    };
    // Another's file becomes the user's own: it stands in a folder where that user decides.
    let own = file.owner.uid == identity.uid;
    let owner = if own { file.owner } else { Owner::of(identity) };
    Ok(Found::File { text, mode: file.mode, owner })
}

/// Whether a provisioning set something up for this role.
pub(super) fn had(prior: &Receipt, role: RouteRole) -> bool {
    let role = format!("{}.", role.as_str());
    prior.fields.0.keys().any(|path| path.starts_with(&role))
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
