//! Stopping sandboxes, and taking them away with what was left behind.

#![expect(clippy::disallowed_methods, reason = "folders of the state folder are removed")]

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::limits::{self, Cgroups};
use super::observe::Found;
use super::state::{Folder, Store};
use super::status::LOCK;
use super::{base, discard, enter, handover, ids, observe, stray};
use crate::backend::{Depth, Scope, durable, hostside};
use crate::model::{Leftover, LeftoverKind};

/// How long the processes of a sandbox may take to die.
pub(super) const DYING: Duration = Duration::from_secs(20);

/// How long the command of one that is stopped has to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the sandbox and keeps its files. Its command is asked to end first.
pub(super) fn stop(folder: &Folder, mark: &str, found: &Found) -> anyhow::Result<()> {
    // A start under way ends first, one way or the other.
    let lock = match durable::lock_file(&folder.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    lock.lock()?;
    if let Some(run) = folder.run().unwrap_or_else(|_| found.run.clone())
        && let Some(init) = enter::init_of(&run)?
    {
        hostside::ask_to_end(&init, PATIENCE).context("asking its init to end")?;
    }
    end(folder, mark, found)
}

/// Ends the sandbox and removes all that was its.
pub(super) fn teardown(
    store: &Store,
    folder: &Folder,
    mark: &str,
    found: &Found,
) -> anyhow::Result<()> {
    // A start under way ends first, one way or the other; one that comes now finds no folder.
    let lock = match durable::lock_file(&folder.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    lock.lock()?;
    end(folder, mark, found)?;
    handover::give_back(folder).context("moving back what was moved into it")?;
    // The name is free at once; what is left if this is interrupted is a leftover.
    discard(store, folder.path()).context("removing its files")?;
    if let Some(record) = &found.record {
        // Its files are gone: nothing has an owner among these ids any more.
        ids::release(store, &record.sandbox, record.mode, &record.id)
            .context("giving back its ids")?;
    }
    // A base that cannot be removed is seen as a leftover.
    let _ = base::sweep(store);
    Ok(())
}

/// Ends all its processes, and removes its cgroups. Its mounts and namespaces end with its last process.
fn end(folder: &Folder, mark: &str, found: &Found) -> anyhow::Result<()> {
    let mut ids: Vec<String> = found.record.iter().map(|record| record.id.clone()).collect();
    if found.record.is_none() {
        ids.extend(folder.salvaged_id());
    }
    if let Some(run) = folder.run().unwrap_or_else(|_| found.run.clone())
        && let Some(init) = enter::init_of(&run)?
    {
        if ids.is_empty() {
            ids.extend(limits::id_of(run.pid));
        }
        enter::kill(&init, DYING)?;
    }
    stray::end(folder.path(), mark, DYING)?;
    for id in ids {
        let cgroups = Cgroups::discover().of(&id);
        cgroups.end(DYING).context("ending what is left in its cgroups")?;
        cgroups.remove().context("removing its cgroups")?;
    }
    Ok(())
}

/// Removes a leftover, unless something stands on it by now.
pub(super) fn prune(scope: &Scope, leftover: &Leftover) -> anyhow::Result<()> {
    if stray::is_one(leftover) {
        return stray::prune(scope, leftover, DYING);
    }
    let store = Store::of(scope);
    // Names as they were observed, and nothing else.
    let path = Path::new(&leftover.id.0);
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let ours = [".making-", ".removing-", ".bases/", ".images/"];
    anyhow::ensure!(
        plain && ours.iter().any(|prefix| leftover.id.0.starts_with(prefix)),
        "`{}` is no leftover",
        leftover.id
    );
    if !store.path().exists() {
        return Ok(());
    }
    // Nothing that needs it is made meanwhile.
    let _lock = store.lock(true)?;
    let now = observe::observe(scope, Depth::Listing)?;
    let used = leftover.kind == LeftoverKind::Image
        && now.instances.iter().any(|i| i.image.is_some() && i.image == leftover.digest);
    let listed = now.leftovers.iter().any(|found| found.id == leftover.id);
    if !used && listed {
        discard(&store, &store.path().join(path))?;
    }
    if now.instances.is_empty() {
        // The folder of images itself, once it is empty.
        let _ = fs::remove_dir(store.images());
    }
    Ok(())
}
