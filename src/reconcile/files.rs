//! Watches the files that a tree consists of. Events are hints: the pass reads everything anew.
#![expect(clippy::disallowed_methods, reason = "looks at which folders there are to watch")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use notify::{Config, ErrorKind, Event, EventKind, PollWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::trigger::Trigger;
use crate::manifest::LoadOptions;

/// How often files are looked at where the kernel has no watches left.
const POLL: Duration = Duration::from_secs(1);

/// The longest chain of links that is followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Which file system object stands at a path: another one under the same name is watched anew.
type Object = (u64, u64);

/// The folders whose content counts, as they stand now: shared with whoever hears of events.
type Ours = Arc<RwLock<Vec<PathBuf>>>;

/// How often something has moved that says which sandboxes there are, and from what they are made.
/// It counts in the very moment of the event, before anyone is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves(Arc<(AtomicU64, Notify)>);

impl Moves {
    pub(super) fn count(&self) -> u64 {
        self.0.0.load(Ordering::SeqCst)
    }

    fn another(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Waits until something has moved since it had so often.
    pub(super) async fn beyond(&self, count: u64) {
        loop {
            let told = self.0.1.notified();
            tokio::pin!(told);
            // Before counting: what moves in between is told.
            told.as_mut().enable();
            if self.count() != count {
                return;
            }
            told.await;
        }
    }
}

/// How much of a folder counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// All that is below it.
    All,
    /// What is in it.
    Entries,
    /// Where it is.
    Nothing,
}

/// The watches on a tree.
pub(super) struct Files {
    watcher: Box<dyn Watcher + Send>,
    watched: BTreeMap<PathBuf, (Object, RecursiveMode)>,
    send: UnboundedSender<Trigger>,
    load: LoadOptions,
    ours: Ours,
    moves: Moves,
    polling: bool,
}

impl Files {
    /// Sets up the watches; where the kernel has none left, files are polled.
    pub(super) fn new(load: &LoadOptions, send: UnboundedSender<Trigger>) -> anyhow::Result<Self> {
        let (ours, moves) = (Ours::default(), Moves::default());
        let handler = handler(ours.clone(), moves.clone(), send.clone());
        let (watcher, polling): (Box<dyn Watcher + Send>, bool) =
            match notify::recommended_watcher(handler) {
                Ok(watcher) => (Box::new(watcher), false),
                Err(error) => {
                    tracing::warn!(%error, "no file watches are left: polling");
                    (Box::new(poller(ours.clone(), moves.clone(), send.clone())?), true)
                }
            };
        let (watched, load) = (BTreeMap::new(), load.clone());
        let mut files = Self { watcher, watched, send, load, ours, moves, polling };
        files.arm();
        Ok(files)
    }

    /// What counts how often the tree has moved.
    pub(super) fn moves(&self) -> Moves {
        self.moves.clone()
    }

    /// The folders that the tree is read from; `None` where nobody says when something in them moves.
    pub(super) fn content(&self) -> Option<Vec<(PathBuf, Content)>> {
        if self.polling {
            return None;
        }
        let ours = self.ours.read().unwrap_or_else(PoisonError::into_inner);
        let content = |(path, (_, mode)): (&PathBuf, &(Object, RecursiveMode))| {
            let content = match mode {
                RecursiveMode::Recursive => Content::All,
                RecursiveMode::NonRecursive if ours.contains(path) => Content::Entries,
                RecursiveMode::NonRecursive => Content::Nothing,
            };
            (path.clone(), content)
        };
        let mut folders: Vec<_> = self.watched.iter().map(content).collect();
        // A commit moves no file that is watched.
        let git: Vec<_> =
            folders.iter().filter(|(_, content)| *content == Content::Entries).collect();
        let git: Vec<_> =
            git.iter().map(|(path, _)| (path.join(".git"), Content::Entries)).collect();
        folders.extend(git);
        Some(folders)
    }

    /// Watches what there is to watch by now. Says whether that is something else than before: then
    /// files may have been written before they were watched.
    pub(super) fn arm(&mut self) -> bool {
        let moved = self.watch_anew();
        if moved {
            self.moves.another();
        }
        moved
    }

    fn watch_anew(&mut self) -> bool {
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
                    match poller(self.ours.clone(), self.moves.clone(), self.send.clone()) {
                        Ok(poller) => {
                            self.watcher = Box::new(poller);
                            self.polling = true;
                            self.watched.clear();
                            self.watch_anew();
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

fn poller(ours: Ours, moves: Moves, send: UnboundedSender<Trigger>) -> notify::Result<PollWatcher> {
    PollWatcher::new(handler(ours, moves, send), Config::default().with_poll_interval(POLL))
}

/// The folders of a tree, as they stand now. The parents are watched for the tree itself: it may be
/// renamed away and back, or be a symlink that is flipped, or leads to nothing for a while.
fn wanted(load: &LoadOptions) -> BTreeMap<PathBuf, (Object, RecursiveMode)> {
    let mut paths = Vec::new();
    for tree in [Some(&load.tree), load.overlay.as_ref()].into_iter().flatten() {
        let places = places(tree);
        for place in &places {
            if let Some(parent) = place.parent() {
                paths.push((parent.to_owned(), RecursiveMode::NonRecursive));
            }
        }
        let Some(real) = places.last() else { continue };
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

/// Where a tree lies: its path, and where each link of a chain leads, the folder itself last. The
/// parent of each is canonical, so that no folder is watched under two names: the kernel has one
/// watch a folder, and would tell of it under one of them only.
fn places(tree: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let mut next = tree.to_owned();
    while let (Some(parent), Some(name)) = (next.parent(), next.file_name())
        && places.len() < MAX_LINKS
        && let Ok(parent) = std::fs::canonicalize(parent)
    {
        let place = parent.join(name);
        let target = std::fs::read_link(&place);
        places.push(place);
        match target {
            Ok(target) => next = parent.join(target),
            Err(_) => break,
        }
    }
    places
}

/// The folders whose content counts.
fn ours(load: &LoadOptions) -> Vec<PathBuf> {
    let trees = [Some(&load.tree), load.overlay.as_ref()].into_iter().flatten();
    let mut ours: Vec<PathBuf> = trees.flat_map(|tree| places(tree)).collect();
    ours.extend(load.home.as_ref().map(|home| home.join(".claude/skills")));
    ours
}

fn handler(
    ours: Ours,
    moves: Moves,
    send: UnboundedSender<Trigger>,
) -> impl Fn(notify::Result<Event>) + Send + 'static {
    move |event| {
        let trigger = match event {
            Ok(event) if event.need_rescan() => {
                moves.another();
                Trigger::Files("too much".to_owned())
            }
            Ok(event) => {
                let ours = ours.read().unwrap_or_else(PoisonError::into_inner);
                match relevant(&event, &ours) {
                    Some(path) => {
                        if !of_a_skill(path) {
                            moves.another();
                        }
                        Trigger::Files(path.display().to_string())
                    }
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

/// A skill's file changes what is put into a sandbox, and never which sandboxes there are.
fn of_a_skill(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.iter().any(|part| part == "skills"))
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

    /// A tree behind a link, and what is heard of it.
    struct Linked {
        folder: tempfile::TempDir,
        files: Files,
        heard: tokio::sync::mpsc::UnboundedReceiver<Trigger>,
    }

    impl Linked {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for tree in ["one/agents", "other/two/agents"] {
                std::fs::create_dir_all(folder.path().join(tree)).unwrap();
            }
            flip(folder.path(), "one");
            let (send, heard) = tokio::sync::mpsc::unbounded_channel();
            let load = LoadOptions::new(folder.path().join("tree"), folder.path().join("state"));
            Self { files: Files::new(&load, send).unwrap(), folder, heard }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        async fn hears(&mut self, name: &str) {
            let told = Trigger::Files(self.path(name).display().to_string());
            let hearing = async { while self.heard.recv().await.as_ref() != Some(&told) {} };
            tokio::time::timeout(Duration::from_secs(5), hearing).await.expect(name);
        }
    }

    fn flip(folder: &Path, to: &str) {
        std::os::unix::fs::symlink(to, folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join("tree")).unwrap();
    }

    #[tokio::test]
    async fn a_link_that_leads_to_another_tree_by_now_is_followed() {
        let mut tree = Linked::new();
        flip(tree.folder.path(), "other/two");
        tree.hears("tree").await;
        assert!(tree.files.arm());
        std::fs::write(tree.path("other/two/agents/ada.md"), "x").unwrap();
        tree.hears("other/two/agents/ada.md").await;
    }

    #[tokio::test]
    async fn a_tree_that_comes_back_behind_its_link_is_heard() {
        let mut tree = Linked::new();
        flip(tree.folder.path(), "other/two");
        tree.files.arm();
        std::fs::rename(tree.path("other/two"), tree.path("away")).unwrap();
        tree.hears("other/two").await;
        // The link leads to nothing now.
        tree.files.arm();
        while tree.heard.try_recv().is_ok() {}
        std::fs::rename(tree.path("away"), tree.path("other/two")).unwrap();
        tree.hears("other/two").await;
        tree.files.arm();
        std::fs::write(tree.path("other/two/agents/ada.md"), "x").unwrap();
        tree.hears("other/two/agents/ada.md").await;
    }
}
