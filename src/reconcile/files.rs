//! Watches the files that a tree consists of. Events are hints: the pass reads everything anew.
#![expect(clippy::disallowed_methods, reason = "looks at which folders there are to watch")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use notify::{Config, ErrorKind, Event, EventKind, PollWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;

use super::trigger::Trigger;
use crate::manifest::LoadOptions;

/// How often files are looked at where the kernel has no watches left.
const POLL: Duration = Duration::from_secs(1);

/// Which file system object stands at a path: another one under the same name is watched anew.
type Object = (u64, u64);

/// The folders whose content counts, as they stand now: shared with whoever hears of events.
type Ours = Arc<RwLock<Vec<PathBuf>>>;

/// The watches on a tree.
pub(super) struct Files {
    watcher: Box<dyn Watcher + Send>,
    watched: BTreeMap<PathBuf, (Object, RecursiveMode)>,
    send: UnboundedSender<Trigger>,
    load: LoadOptions,
    ours: Ours,
    polling: bool,
}

impl Files {
    /// Sets up the watches; where the kernel has none left, files are polled.
    pub(super) fn new(load: &LoadOptions, send: UnboundedSender<Trigger>) -> anyhow::Result<Self> {
        let ours = Ours::default();
        let handler = handler(ours.clone(), send.clone());
        let (watcher, polling): (Box<dyn Watcher + Send>, bool) =
            match notify::recommended_watcher(handler) {
                Ok(watcher) => (Box::new(watcher), false),
                Err(error) => {
                    tracing::warn!(%error, "no file watches are left: polling");
                    (Box::new(poller(ours.clone(), send.clone())?), true)
                }
            };
        let mut files =
            Self { watcher, watched: BTreeMap::new(), send, load: load.clone(), ours, polling };
        files.arm();
        Ok(files)
    }

    /// Watches what there is to watch by now. Says whether that is something else than before: then
    /// files may have been written before they were watched.
    pub(super) fn arm(&mut self) -> bool {
        // Before anything is watched: a symlinked tree may lead to another folder by now.
        *self.ours.write().unwrap_or_else(PoisonError::into_inner) = ours(&self.load);
        let wanted = wanted(&self.load);
        let mut moved = false;
        let gone: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(path, watch)| wanted.get(*path) != Some(watch))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            moved = true;
            self.watched.remove(&path);
            // The watch may have gone with its folder.
            let _ = self.watcher.unwatch(&path);
        }
        for (path, watch) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.watcher.watch(&path, watch.1) {
                Ok(()) => {
                    moved = true;
                    self.watched.insert(path, watch);
                }
                Err(error) if !self.polling && exhausted(&error) => {
                    tracing::warn!(%error, "no file watches are left: polling");
                    match poller(self.ours.clone(), self.send.clone()) {
                        Ok(poller) => {
                            self.watcher = Box::new(poller);
                            self.polling = true;
                            self.watched.clear();
                            self.arm();
                            return true;
                        }
                        Err(error) => tracing::warn!(%error, "files cannot be polled either"),
                    }
                }
                // It may have gone in this very moment; the next pass looks again.
                Err(error) => tracing::debug!(path = %path.display(), %error, "cannot watch"),
            }
        }
        moved
    }
}

fn exhausted(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::MaxFilesWatch => true,
        // ENOSPC: no watches; EMFILE: no instances.
        ErrorKind::Io(error) => matches!(error.raw_os_error(), Some(28 | 24)),
        _ => false,
    }
}

fn poller(ours: Ours, send: UnboundedSender<Trigger>) -> notify::Result<PollWatcher> {
    PollWatcher::new(handler(ours, send), Config::default().with_poll_interval(POLL))
}

/// The folders of a tree, as they stand now. The parents are watched for the tree itself: it may be
/// renamed away and back, or be a symlink that is flipped.
fn wanted(load: &LoadOptions) -> BTreeMap<PathBuf, (Object, RecursiveMode)> {
    let mut paths = Vec::new();
    for tree in [Some(&load.tree), load.overlay.as_ref()].into_iter().flatten() {
        let real = std::fs::canonicalize(tree).unwrap_or_else(|_| tree.clone());
        for path in [tree, &real] {
            if let Some(parent) = path.parent() {
                paths.push((parent.to_owned(), RecursiveMode::NonRecursive));
            }
        }
        for folder in ["", "agents", "bottles"] {
            paths.push((real.join(folder), RecursiveMode::NonRecursive));
        }
        paths.push((real.join("skills"), RecursiveMode::Recursive));
    }
    if let Some(home) = &load.home {
        paths.push((home.join(".claude/skills"), RecursiveMode::Recursive));
    }
    paths
        .into_iter()
        .filter_map(|(path, mode)| {
            let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_dir)?;
            Some((path, ((found.dev(), found.ino()), mode)))
        })
        .collect()
}

/// The folders whose content counts: trees as they are named and as they really lie.
fn ours(load: &LoadOptions) -> Vec<PathBuf> {
    let mut ours: Vec<PathBuf> = Vec::new();
    for tree in [Some(&load.tree), load.overlay.as_ref()].into_iter().flatten() {
        ours.push(tree.clone());
        ours.extend(std::fs::canonicalize(tree));
    }
    ours.extend(load.home.as_ref().map(|home| home.join(".claude/skills")));
    ours
}

fn handler(
    ours: Ours,
    send: UnboundedSender<Trigger>,
) -> impl Fn(notify::Result<Event>) + Send + 'static {
    move |event| {
        let trigger = match event {
            Ok(event) if event.need_rescan() => Trigger::Files("too much".to_owned()),
            Ok(event) => {
                let ours = ours.read().unwrap_or_else(PoisonError::into_inner);
                match relevant(&event, &ours) {
                    Some(path) => Trigger::Files(path.display().to_string()),
                    None => return,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a file watch failed");
                return;
            }
        };
        // The loop is gone only when the process is about to be.
        let _ = send.send(trigger);
    }
}

/// The path that matters, if one does: our own reading and a repository's inner life do not.
fn relevant<'a>(event: &'a Event, ours: &[PathBuf]) -> Option<&'a Path> {
    if matches!(event.kind, EventKind::Access(_)) {
        return None;
    }
    event.paths.iter().map(PathBuf::as_path).find(|path| {
        ours.iter().any(|tree| {
            path.strip_prefix(tree)
                .is_ok_and(|inside| !inside.components().any(|part| part.as_os_str() == ".git"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind};

    #[test]
    fn only_what_belongs_to_the_tree_counts() {
        let ours = [PathBuf::from("/t/tree")];
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let create = EventKind::Create(CreateKind::File);
        let counts = |event: &Event| relevant(event, &ours).is_some();
        assert!(counts(&event(create, "/t/tree/agents/ada.md")));
        assert!(counts(&event(create, "/t/tree")));
        assert!(!counts(&event(create, "/t/other")));
        assert!(!counts(&event(create, "/t/tree/.git/index.lock")));
        assert!(!counts(&event(EventKind::Access(AccessKind::Read), "/t/tree/agents/ada.md")));
    }

    #[tokio::test]
    async fn a_link_that_leads_to_another_tree_by_now_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for tree in ["one/agents", "two/agents"] {
            std::fs::create_dir_all(path(tree)).unwrap();
        }
        let flip = |to: &str| {
            std::os::unix::fs::symlink(path(to), path("new")).unwrap();
            std::fs::rename(path("new"), path("tree")).unwrap();
        };
        flip("one");
        let (send, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut files = Files::new(&LoadOptions::new(path("tree"), path("state")), send).unwrap();
        flip("two");
        assert!(files.arm());
        while heard.try_recv().is_ok() {}
        std::fs::write(path("two/agents/ada.md"), "x").unwrap();
        let ada = path("two/agents/ada.md").display().to_string();
        let told = async { while heard.recv().await != Some(Trigger::Files(ada.clone())) {} };
        tokio::time::timeout(Duration::from_secs(5), told).await.expect("the edit is heard");
    }
}
