//! `bottle down`: tears down what the tree owns, whatever the tree says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::args::{DownArgs, Global, LookArgs, ReadArgs};
use super::error::{CliError, Exit};
use super::text::plural;
use super::ui::Ui;
use super::{apply, setup, signals};
use crate::apply::Receipts as _;
use crate::manifest::Location;
use crate::model::{AgentsFolder, Bounds, Desired, Tree};
use crate::plan::Options;
use crate::reconcile::pass::canonical;
use crate::reconcile::{Reconciler, TreeState};
use crate::work::snapshot::Store;

pub(super) async fn run(ui: &Arc<Ui>, global: &Global, args: &DownArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    // Where the folder is gone, its path still says whose things are meant.
    let load = match setup::load_options(global, args.path.as_deref(), &ReadArgs::default()) {
        Ok(load) => load,
        Err(_) => {
            let tree = setup::tree_path(global, args.path.as_deref())?;
            setup::load_options_of(global, Location { tree, overlay: None })?
        }
    };
    let options = Options { remove_all: true, ..setup::options(&args.select)? };
    let reconciler = setup::reconciler(load, &LookArgs::default(), args.select.jobs)?;
    let desired = match signals::or_stop(&stop, async { Ok(reconciler.desired().await) }).await? {
        Ok(desired) => desired,
        // A tree that cannot be read, or is gone, may still own something.
        Err(error) => remembered(&reconciler, error)?,
    };
    let memory = reconciler.state.tree(&desired.tree.owner)?;
    let patience = Duration::from_secs(args.lock_timeout);
    let lock = apply::wait_for_lock(ui, &stop, &memory, "down", patience).await?;
    // Another tree under the same name must not be torn down by this one.
    reconciler.state.claim(&desired.tree.owner, &desired.tree.path, false)?;
    reconciler.settle(&desired.tree.owner).await?;
    let mut view = apply::look_at(&stop, &reconciler, desired, options).await?;
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    // What this state folder did not make stays; if it is one that was lost, that is all there is.
    for other in reconciler.of_other_states(&view.observed, view.options.only.as_ref()) {
        ui.warn(&other);
    }
    let exit = apply::carry_out(ui, &stop, &reconciler, &mut view, args.yes, "down").await?;
    if exit == Exit::Done && view.options.only.is_none() {
        let tree = &view.desired.tree;
        let forgotten =
            forget(&memory).and_then(|()| reconciler.state.release(&tree.owner, &tree.path));
        // The outcome is printed already, and nothing of the tree exists any more.
        if let Err(error) = forgotten {
            tracing::warn!(
                error = %format!("{error:#}"),
                "everything is gone, and the state folder still remembers this tree"
            );
        }
    }
    let kept = Store::of(memory.dir()).list(None).map_or(0, |all| all.len());
    if exit == Exit::Done && kept > 0 {
        let what = plural(kept, "snapshot stays", "snapshots stay");
        ui.say(&format!("{what} in {}", memory.dir().join("snapshots").display()));
    }
    drop(lock);
    Ok(exit)
}

/// The owner that the path last spoke for.
pub(super) fn remembered(
    reconciler: &Reconciler,
    error: anyhow::Error,
) -> Result<Desired, CliError> {
    let path = canonical(&reconciler.load.tree);
    let owners = reconciler.state.owners()?;
    let Some(owner) = owners.into_iter().find(|(_, known)| *known == path).map(|(owner, _)| owner)
    else {
        return Err(error.into());
    };
    tracing::warn!(error = %format!("{error:#}"), owner = %owner, "the tree cannot be read");
    Ok(Desired {
        tree: Tree {
            owner,
            path,
            network_pool: None,
            snapshots: Some(Bounds::default()),
            proxy: None,
            notify: Vec::new(),
        },
        sandboxes: BTreeMap::new(),
        held: BTreeMap::new(),
        unread: BTreeMap::new(),
        diagnostics: Vec::new(),
        agents: AgentsFolder::Missing,
        overlays: BTreeSet::new(),
        was: BTreeMap::new(),
    })
}

/// Nothing exists any more: what is remembered of it speaks of nothing.
fn forget(memory: &TreeState) -> anyhow::Result<()> {
    for instance in memory.receipts()?.keys() {
        memory.forget(instance)?;
    }
    memory.sweep_texts()?;
    Ok(())
}
