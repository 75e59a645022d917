//! Whether anything can have moved since a pass found nothing to do. It is asked of times, owners and
//! numbers of files, of processes, and of what the host says about names; nothing is read again.
//!
//! A pass reads, parses and compares everything, which a thousand sandboxes make long. One that has
//! found nothing to do twice, with all looking the same before and after, need not be repeated as
//! long as all looks the same; now and then it is all the same ([`EVERY`]).
#![expect(clippy::disallowed_methods, reason = "looks at the state folder")]

use std::path::PathBuf;
use std::sync::Arc;

use super::files::Content;
use super::names::HostNames;
use super::pass::Reconciler;
use super::tokens;
use super::view::View;
use crate::backend::stamp::Stamp;
use crate::backend::{Backend, Depth, reserve};
use crate::model::{BackendKind, ImageRef};
use crate::plan::Verdict;

/// So many looks in a row may find nothing; then there is a pass in any case.
pub(super) const EVERY: u32 = 10;

/// What everything looks like, as far as this pass depends on it; `None` where that cannot be told
/// without doing the pass.
pub(super) async fn look(
    reconciler: &Reconciler,
    view: &View,
    watched: Option<Vec<(PathBuf, Content)>>,
) -> Option<u64> {
    let watched = watched?;
    let backends = backends(reconciler, view)?;
    let mut stamp = Stamp::default();
    for backend in backends {
        stamp.add(backend.stamp(&view.scope, &view.observed.instances).await?);
    }
    let state = reconciler.state.root().to_owned();
    let owner = view.memory.dir().to_owned();
    let env_file = reconciler.sources.env_file.as_ref().map(|file| file.path().to_owned());
    // What a command would say is not known before it has been asked.
    let tokens = tokens::files(&view.desired)?;
    let sources: Vec<PathBuf> = view
        .desired
        .sandboxes
        .values()
        .flat_map(|spec| spec.sources.iter().map(|source| source.path.clone()))
        .collect();
    let look = move || {
        for (path, content) in watched {
            match content {
                Content::All => stamp.tree(&path),
                Content::Entries => stamp.entries(&path),
                Content::Nothing => stamp.place(&path),
            }
        }
        for name in ["id", "key", "owners.json"] {
            stamp.file(&state.join(name));
        }
        // A record is replaced as a whole, which its folder shows.
        for name in
            ["sources.json", "adopted.json", "receipts", "stopped", "ca", "places.json", "requests"]
        {
            stamp.file(&owner.join(name));
        }
        for entry in std::fs::read_dir(state.join("trees")).into_iter().flatten().flatten() {
            stamp.file(&entry.path().join("sources.json"));
        }
        for path in sources {
            stamp.place(&path);
        }
        for path in tokens {
            stamp.file(&path);
        }
        if let Some(path) = env_file {
            stamp.file(&path);
        }
        stamp.add(reserve::is_low(&state));
        let names = HostNames::read().ok()?;
        stamp.add((names.summary(), names.reachable));
        Some(stamp.digest())
    };
    tokio::task::spawn_blocking(look).await.ok()?
}

/// The backends that this pass depends on, if it is one that need not be repeated.
fn backends(reconciler: &Reconciler, view: &View) -> Option<Vec<Arc<dyn Backend>>> {
    let nothing_to_do = view.plan.is_empty()
        && view.plan.refused.is_none()
        && view.desired.held.is_empty()
        && view.plan.changes.iter().all(|change| change.verdict == Verdict::Keep);
    // What an image is made of is looked at by content.
    let of_files = view.desired.sandboxes.values().any(|spec| {
        matches!(
            spec.image,
            Some(
                ImageRef::Tar { .. }
                    | ImageRef::Folder { .. }
                    | ImageRef::Built { .. }
                    | ImageRef::Pack { .. }
            )
        )
    });
    if !nothing_to_do || of_files || reconciler.depth == Depth::Deep {
        return None;
    }
    let instances = view.observed.instances.iter().map(|instance| instance.backend);
    let receipts = view.observed.receipts.values().map(|receipt| receipt.backend);
    let kinds: std::collections::BTreeSet<BackendKind> = instances.chain(receipts).collect();
    kinds.iter().map(|kind| reconciler.backends.get(kind).cloned()).collect()
}
