//! Hints that something moved: a sandbox ended, came or went.
//!
//! The end of one is seen at once, on the pidfd of its init. What came or went by another `bottle`
//! is found by looking at the names in the state folder, which is cheap and in no hurry.

#![expect(clippy::disallowed_methods, reason = "the state folder is listed")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};
use tokio::sync::mpsc;

use super::enter;
use super::state::{Run, Store};
use crate::backend::{BackendError, Hint, Scope, hostside};
use crate::model::{BackendKind, SandboxId};

/// How long an end is waited for at once.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The names are looked at each so many waits: others' work is in no hurry, and a look asks for the
/// folder of every sandbox.
const SELDOM: u32 = 10;

/// After something was done by this process, or has ended, they are looked at so many times in a row.
const OFTEN: u32 = 20;

/// A folder that has not moved for so long looks otherwise when it moves again.
const SETTLED: Duration = Duration::from_secs(2);

/// How often this process has made, started or removed a sandbox.
static OURS: AtomicU64 = AtomicU64::new(0);

/// This process makes, starts or removes a sandbox: what comes of it should be seen soon.
pub(super) fn moving() {
    OURS.fetch_add(1, Ordering::Relaxed);
}

/// Hints for as long as they are asked for.
pub(super) fn events(
    scope: &Scope,
) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
    let (sender, receiver) = mpsc::channel(16);
    let mut watch = Watch::new(scope);
    // What is there now is no news. Looked at here, so that nothing is missed from now on.
    watch.look();
    std::thread::Builder::new()
        .name("native-events".to_owned())
        .spawn(move || {
            while !sender.is_closed() {
                for what in watch.wait() {
                    // Full: hints enough are waiting.
                    let _ = sender.try_send(Ok(Hint { what }));
                }
            }
        })
        .map_err(|error| BackendError::failed("watching native sandboxes", error))?;
    let next = |mut receiver: mpsc::Receiver<_>| async {
        receiver.recv().await.map(|hint| (hint, receiver))
    };
    Ok(stream::unfold(receiver, next).boxed())
}

struct Watch {
    scope: Scope,
    /// Of each sandbox, and of each sidecar, what its folder looked like, and its last process.
    seen: BTreeMap<String, (Option<Stamp>, Option<Run>)>,
    /// Waits for all that is held, however many they are, at the cost of those that end.
    ends: Option<OwnedFd>,
    inits: BTreeMap<u64, (String, OwnedFd)>,
    next: u64,
    /// Those for whom there is no descriptor left: they are looked at each time.
    unheld: Vec<(String, Run)>,
    /// How often this process had moved something at the last wait.
    ours: u64,
    /// So many waits are followed by a look in any case.
    eager: u32,
    waits: u32,
}

/// What a folder looks like as long as nothing comes, goes or is replaced in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    moved: (i64, i64),
}

impl Stamp {
    /// That of a folder; none where it may change again without looking otherwise: clocks of file systems
    /// are coarse.
    fn of(folder: &Path) -> Option<Self> {
        let found = std::fs::symlink_metadata(folder).ok()?;
        let moved = found.modified().ok()?;
        let settled = SystemTime::now().duration_since(moved).is_ok_and(|age| age > SETTLED);
        settled.then(|| Self { inode: found.ino(), moved: (found.mtime(), found.mtime_nsec()) })
    }
}

impl Watch {
    fn new(scope: &Scope) -> Self {
        // One for each sandbox, where that can be.
        super::call::raise_descriptors();
        Self {
            scope: scope.clone(),
            seen: BTreeMap::new(),
            ends: epoll::create(epoll::CreateFlags::CLOEXEC).ok(),
            inits: BTreeMap::new(),
            next: 0,
            unheld: Vec::new(),
            ours: 0,
            eager: OFTEN,
            waits: 0,
        }
    }

    /// Waits for an end, or until it is time to look; says what happened.
    fn wait(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for ended in self.ended() {
            if let Some((id, _)) = self.inits.remove(&ended) {
                news.push(format!("{id} ended"));
            }
        }
        if !self.unheld.is_empty()
            && let Ok(host_boot) = super::state::host_boot()
        {
            self.unheld.retain(|(id, run)| {
                let alive = run.alive(&host_boot);
                if !alive {
                    news.push(format!("{id} ended"));
                }
                alive
            });
        }
        let ours = OURS.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.ours, ours) != ours || !news.is_empty() {
            self.eager = OFTEN;
        }
        self.waits = self.waits.wrapping_add(1);
        if self.eager > 0 || self.waits.is_multiple_of(SELDOM) {
            self.eager = self.eager.saturating_sub(1);
            news.extend(self.look());
        }
        news
    }

    /// The numbers of those that have ended, at once or within the time of a look.
    fn ended(&self) -> Vec<u64> {
        let mut events = Vec::with_capacity(64);
        let waited = match &self.ends {
            Some(ends) => {
                epoll::wait(ends, rustix::buffer::spare_capacity(&mut events), Some(&LOOK))
            }
            None => Err(rustix::io::Errno::BADF),
        };
        if waited.is_err() {
            // A signal came, or there was no descriptor: it is looked at again, and not at once.
            std::thread::sleep(Duration::from_millis(500));
        }
        events.iter().map(|event| event.data.u64()).collect()
    }

    /// Looks at what there is; says what is new. Of a folder that is as it was nothing is read.
    fn look(&mut self) -> Vec<String> {
        let mut now = BTreeMap::new();
        let store = Store::of(&self.scope);
        let known = |id: &str, stamp: Option<Stamp>, read: &dyn Fn() -> Option<Run>| match self
            .seen
            .get(id)
        {
            Some((before, run)) if stamp.is_some() && *before == stamp => run.clone(),
            _ => read(),
        };
        for entry in std::fs::read_dir(store.path()).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| SandboxId::new(name).ok())
            else {
                continue;
            };
            let (name, stamp) = (format!("sandbox {id}"), Stamp::of(&entry.path()));
            let run = known(&name, stamp, &|| store.sandbox(&id).run().ok().flatten());
            now.insert(name, (stamp, run));
        }
        let kind = BackendKind::Native;
        for role in hostside::Role::ALL {
            for (id, path) in hostside::places(role, &self.scope, kind) {
                let (name, stamp) = (format!("{} {id}", role.name()), Stamp::of(&path));
                let read = || hostside::process_of(role, &self.scope, kind, &id);
                let run = known(&name, stamp, &read);
                now.insert(name, (stamp, run));
            }
        }
        let mut news = Vec::new();
        for (id, (_, run)) in &now {
            if self.seen.get(id).is_some_and(|(_, before)| before == run) {
                continue;
            }
            news.push(format!("{id} came or was started"));
            let Some(run) = run else { continue };
            let held = match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
                // Half of them are for work.
                Some(limit) if self.inits.len() as u64 >= limit / 2 => None,
                _ => enter::init_of(run).ok(),
            };
            match held {
                Some(Some(init)) => {
                    self.next += 1;
                    let data = epoll::EventData::new_u64(self.next);
                    let added = self
                        .ends
                        .as_ref()
                        .is_some_and(|ends| epoll::add(ends, &init, data, EventFlags::IN).is_ok());
                    if added {
                        self.inits.insert(self.next, (id.clone(), init));
                    } else {
                        self.unheld.push((id.clone(), run.clone()));
                    }
                }
                // It has ended.
                Some(None) => {}
                None => self.unheld.push((id.clone(), run.clone())),
            }
        }
        let went = self.seen.keys().filter(|id| !now.contains_key(*id));
        news.extend(went.map(|id| format!("{id} went")));
        self.seen = now;
        news
    }
}
