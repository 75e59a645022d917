//! Hints that something moved: a sandbox ended, came or went.
//!
//! The end of one is seen at once, on the pidfd of its init. What came or went by another `bottle`
//! is found by looking at the names in the state folder, which is cheap and in no hurry.

#![expect(clippy::disallowed_methods, reason = "the state folder is listed")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::mpsc;

use super::enter;
use super::state::{Run, Store};
use crate::backend::{BackendError, Hint, Scope, hostside};
use crate::model::{BackendKind, SandboxId};

/// How often the names are looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

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
    /// Of each sandbox, and of each sidecar, its last process.
    seen: BTreeMap<String, Option<Run>>,
    inits: Vec<(String, OwnedFd)>,
}

impl Watch {
    fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), seen: BTreeMap::new(), inits: Vec::new() }
    }

    /// Waits for an end, or until it is time to look; says what happened.
    fn wait(&mut self) -> Vec<String> {
        let mut polled: Vec<PollFd<'_>> =
            self.inits.iter().map(|(_, init)| PollFd::new(init, PollFlags::IN)).collect();
        if rustix::event::poll(&mut polled, Some(&LOOK)).is_err() {
            return Vec::new();
        }
        let mut ended =
            polled.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        let mut news = Vec::new();
        self.inits.retain(|(id, _)| {
            let ended = ended.next().unwrap_or(false);
            if ended {
                news.push(format!("{id} ended"));
            }
            !ended
        });
        news.extend(self.look());
        news
    }

    /// Looks at what there is; says what is new.
    fn look(&mut self) -> Vec<String> {
        let mut now = BTreeMap::new();
        let store = Store::of(&self.scope);
        for entry in std::fs::read_dir(store.path()).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| SandboxId::new(name).ok())
            else {
                continue;
            };
            let run = store.sandbox(&id).run().ok().flatten();
            now.insert(format!("sandbox {id}"), run);
        }
        for (id, run) in hostside::processes(&self.scope, BackendKind::Native) {
            now.insert(format!("sidecar {id}"), run);
        }
        let mut news = Vec::new();
        for (id, run) in &now {
            if self.seen.get(id) == Some(run) {
                continue;
            }
            news.push(format!("{id} came or was started"));
            if let Some(run) = run
                && let Ok(Some(init)) = enter::init_of(run)
            {
                self.inits.push((id.clone(), init));
            }
        }
        let went = self.seen.keys().filter(|id| !now.contains_key(*id));
        news.extend(went.map(|id| format!("{id} went")));
        self.seen = now;
        news
    }
}
