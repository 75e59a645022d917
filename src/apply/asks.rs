//! What a guest is told of the door at which its agent asks: the programs of agents find it in their own files, and a
//! folder says what may be done now.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::provision::Provision;
use super::settings::{self, Found};
use super::upload::{Owner, Tar};
use crate::backend::{Backend, GuestDir, Identity, Scope, Upload};
use crate::model::Receipt;
use crate::model::policy::RouteRole;
use crate::model::supervise::guest::{self, Client};

/// Nobody writes there, and everybody reads.
const READ_ONLY: u32 = 0o444;
/// The same of its folder.
const FOLDER: u32 = 0o555;

/// Puts all of it in, or takes it out. Files that an image has brought itself stay as they are: they are added to
/// `theirs`, which a receipt remembers.
pub(super) async fn put(
    backend: &dyn Backend,
    scope: &Scope,
    upload: &mut Upload,
    tar: &mut Tar,
    work: &Provision<'_>,
    identity: &Identity,
    theirs: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let had = had(work.prior);
    theirs.extend(work.prior.into_iter().flat_map(kept));
    let Some(asks) = &work.guest.asks else {
        if had {
            let all = guest::clients(work.instance.backend).into_iter().map(|client| client.path);
            let ours = all.filter(|path| !theirs.contains(*path)).chain([guest::FOLDER]);
            upload.wipe.extend(ours.map(str::to_owned));
        }
        theirs.clear();
        return Ok(());
    };
    let folder = |path: &str, mode| GuestDir { path: path.to_owned(), uid: 0, gid: 0, mode };
    upload.dirs.push(folder(guest::FOLDER, FOLDER));
    for (name, content) in guest::files(&asks.config) {
        let path = format!("{}/{name}", guest::FOLDER);
        tar.file(&path, READ_ONLY, Owner::ROOT, content.as_bytes())?;
    }
    let mut folders = BTreeSet::new();
    for Client { path, content, may_be_theirs } in guest::clients(asks.backend) {
        if may_be_theirs && !had {
            let found = settings::read(backend, scope, work.instance, identity, path).await;
            let found = found.with_context(|| format!("reading {path}, which is left as it is"))?;
            let own = match found {
                Found::Nothing => false,
                Found::File { text, .. } => !guest::is_ours(&text),
                Found::Other(_) => true,
            };
            if own {
                tracing::warn!(path, "supervise: it is the image's own: add the server there");
                theirs.insert(path.to_owned());
            }
        }
        if !theirs.contains(path) {
            tar.file(path, 0o644, Owner::ROOT, content.as_bytes())?;
            folders.extend(path.match_indices('/').skip(2).map(|(at, _)| path[..at].to_owned()));
        }
    }
    upload.dirs.extend(folders.iter().map(|path| folder(path, 0o755)));
    let routes = work.guest.access.iter().flat_map(|access| &access.routes);
    if routes.into_iter().any(|route| route.roles.contains(&RouteRole::GeminiBaseUrl)) {
        let (path, content) = guest::gemini_with_login(asks.backend);
        tar.file(path, 0o644, Owner::ROOT, content.as_bytes())?;
    }
    Ok(())
}

/// Whether a provisioning told it of the door.
pub(super) fn had(prior: Option<&Receipt>) -> bool {
    prior.is_some_and(|prior| prior.fields.0.keys().any(|path| path.starts_with(guest::FIELDS)))
}

/// The files that stay as they are, as a receipt remembers them: nothing of ours stands there.
fn kept(prior: &Receipt) -> impl Iterator<Item = String> {
    let of_image = |(path, ours): &(&String, &String)| path.starts_with('/') && ours.is_empty();
    prior.settings.iter().filter(of_image).map(|(path, _)| path.clone())
}

/// What a receipt remembers of them.
pub(super) fn remembered(theirs: BTreeSet<String>) -> BTreeMap<String, String> {
    theirs.into_iter().map(|path| (path, String::new())).collect()
}
