//! What there is to show: what `watch` publishes, or, where none does, what a look finds.
#![expect(clippy::disallowed_methods, reason = "looks are timed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::args::{Global, LookArgs};
use super::super::error::CliError;
use super::super::setup;
use crate::dashboard::snapshot::Snapshot;
use crate::dashboard::tui::Event;
use crate::reconcile::pass::canonical;
use crate::reconcile::status::feed::{self, Feed};
use crate::reconcile::status::{self, Status};
use crate::reconcile::{Reconciler, TreeState};

/// It is looked again after so long, where nothing hints at anything.
const EVERY: Duration = Duration::from_secs(3);
/// And after so many times as long as a look takes: an idle dashboard costs nearly nothing.
const SHARE: u32 = 100;
const LONGEST: Duration = Duration::from_secs(60);
/// Files that move are let come to rest.
const REST: Duration = Duration::from_millis(150);

/// Which tree, and how it is looked at.
pub(super) struct Place {
    pub(super) global: Global,
    pub(super) look: LookArgs,
}

impl Place {
    pub(super) fn reconciler(&self) -> Result<Reconciler, CliError> {
        let load = setup::load_options(&self.global, None, &self.look.read)?;
        setup::reconciler(load, &self.look, None)
    }

    pub(super) async fn memory(&self) -> Result<TreeState, CliError> {
        let reconciler = self.reconciler()?;
        let tree = reconciler.identify().await?;
        Ok(reconciler.state.tree(&tree.owner)?)
    }

    /// What the `watch` that works on the tree publishes, where one does, and sees the same.
    async fn feed(&self) -> Option<Feed> {
        if self.look.read.overlay.is_some() {
            return None;
        }
        let memory = self.memory().await.ok()?;
        memory.watcher()?;
        feed::connect(&memory).await.ok()
    }

    /// Whether this is about the tree that is meant.
    fn is_meant(&self, status: &Status) -> bool {
        let load = setup::load_options(&self.global, None, &self.look.read);
        load.is_ok_and(|load| canonical(&load.tree).display().to_string() == status.tree.path)
            && status.tree.overlays.is_empty()
    }

    async fn status(&self) -> Result<Status, CliError> {
        Ok(status::observe(&self.reconciler()?, &BTreeSet::new()).await?)
    }
}

/// Looks, and looks again when something moved, when it is nudged, and from time to time.
pub(super) async fn look(
    place: Arc<Place>,
    send: UnboundedSender<Event>,
    mut nudged: UnboundedReceiver<()>,
) {
    let (hint, mut hints) = unbounded_channel();
    let mut heard = None;
    loop {
        // It is as new as what a look would find, and costs nothing while nothing moves.
        if let Some(mut feed) = place.feed().await {
            while let Ok(status) = feed.next().await
                && place.is_meant(&status)
            {
                if send.send(Event::Looked(Arc::new(Snapshot::of(status)))).is_err() {
                    return;
                }
            }
        }
        if heard.is_none() {
            heard = listen(&place, hint.clone()).await;
        }
        let begun = Instant::now();
        let event = match place.status().await {
            Ok(status) => Event::Looked(Arc::new(Snapshot::of(status))),
            Err(error) => Event::Blind(error.chain().join(": ")),
        };
        if send.send(event).is_err() {
            return;
        }
        let took = begun.elapsed();
        let rest = (took * SHARE).clamp(EVERY, LONGEST);
        // What moved during the look may be what it has seen, or not.
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            Some(()) = nudged.recv() => {}
            Some(()) = hints.recv() => tokio::time::sleep(REST.max(took * 2)).await,
        }
        while hints.try_recv().is_ok() || nudged.try_recv().is_ok() {}
    }
}

/// Listens for what moves in the tree and in what is remembered of it. Hints only: what is missed is found later.
async fn listen(place: &Place, hint: UnboundedSender<()>) -> Option<notify::RecommendedWatcher> {
    let memory = place.memory().await.ok()?;
    let tree = place.reconciler().ok()?.load.tree;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Whoever only reads has changed nothing; this does so itself.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = hint.send(());
        }
    })
    .ok()?;
    let folders = [
        tree.clone(),
        tree.join("bottles"),
        tree.join("agents"),
        memory.dir().to_owned(),
        memory.dir().join("requests"),
    ];
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        // One that cannot be watched is looked at all the same.
        let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
    }
    Some(watcher)
}
