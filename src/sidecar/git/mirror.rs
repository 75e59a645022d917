#![expect(clippy::disallowed_methods, reason = "says when it was fetched")]
//! One upstream's mirror: what the upstream has, as it was a moment ago.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::document::Upstream;
use super::listing::{self, Listing};
use super::refs::{Oid, Refs};
use super::run::{Git, Place, run};
use super::stop::Stop;
use super::tunnel::{Service, Tunnels};
use super::wire::{Deadline, Out, Wire};
use super::{jail, store};

/// For an upstream to say what it has.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// For all of a fetch.
const FETCH: Duration = Duration::from_secs(600);
/// An answer that is no older is good enough to fetch by.
pub(super) const FRESH: Duration = Duration::from_secs(2);
/// With more packs than this it is packed anew.
const PACKS: usize = 50;
/// What git may allocate at once, whatever is pushed: it needs some for itself.
const MEMORY: u64 = 1 << 30;
/// What git says of all refs.
const LISTED: u64 = 64 << 20;

/// What became of an upstream, as `state` says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// When it was last asked what it has, and answered.
    pub last_sync: Option<String>,
    /// When something was last fetched from here.
    pub last_fetch: Option<String>,
    /// When something was last pushed.
    pub last_push: Option<String>,
    /// How often something was fetched from here.
    pub fetches: u64,
    /// How often the upstream took a push.
    pub pushes: u64,
    /// How often a push was refused here.
    pub refusals: u64,
    /// `none`, `fetching` or `ready`.
    pub mirror: String,
    /// Why the upstream could not be asked the last time.
    pub trouble: Option<String>,
}

/// One upstream's mirror.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) repository: PathBuf,
    known: Mutex<Known>,
    /// One push at a time.
    pub(super) pushing: Mutex<()>,
    pub(super) activity: Mutex<Activity>,
}

/// What it holds.
#[derive(Debug, Default)]
struct Known {
    refs: Option<Refs>,
    asked: Option<Instant>,
}

/// What is needed to talk to an upstream.
#[derive(Clone, Copy)]
pub(super) struct With<'a> {
    pub(super) git: &'a Git,
    pub(super) tunnels: &'a Tunnels,
    /// The document's by which it is done.
    pub(super) generation: u64,
    pub(super) upstream: &'a Upstream,
    /// Whom it is for: when they leave it ends.
    pub(super) guest: Option<BorrowedFd<'a>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    pub(super) fn new(repository: PathBuf) -> Self {
        let activity = Activity { mirror: "none".to_owned(), ..Activity::default() };
        Self {
            repository,
            known: Mutex::default(),
            pushing: Mutex::default(),
            activity: Mutex::new(activity),
        }
    }

    /// Changes what `state` says.
    pub(super) fn note(&self, change: impl FnOnce(&mut Activity)) {
        change(&mut held(&self.activity));
    }

    /// git in this repository.
    pub(super) fn place(&self, upstream: &Upstream) -> Place<'_> {
        // What the upstream has is the operator's to judge.
        Place { repository: &self.repository, incoming: None, most: upstream.max_file.max(MEMORY) }
    }

    /// Makes it be what the upstream is, unless that was so `fresh` ago, and says what that has.
    pub(super) fn sync(&self, with: With<'_>, fresh: Duration) -> Result<Refs, Stop> {
        let mut known = held(&self.known);
        if let (Some(refs), Some(asked)) = (&known.refs, known.asked)
            && !fresh.is_zero()
            && asked.elapsed() <= fresh
        {
            return Ok(refs.clone());
        }
        let asked = Instant::now();
        let outcome = self.sync_now(with, &mut known);
        let now = crate::sidecar::record::timestamp();
        self.note(|activity| match &outcome {
            Ok(_) => {
                activity.last_sync = Some(now);
                activity.mirror = "ready".to_owned();
                activity.trouble = None;
            }
            Err(stop) => activity.trouble = stop.code().map(str::to_owned),
        });
        if outcome.is_ok() {
            known.asked = Some(asked);
        } else {
            known.asked = None;
        }
        outcome
    }

    fn sync_now(&self, with: With<'_>, known: &mut Known) -> Result<Refs, Stop> {
        let listing = self.ask(with)?;
        let mut refs = match known.refs.take() {
            Some(refs) => refs,
            None => self.list(with)?,
        };
        if refs != listing.refs {
            if refs.is_empty() {
                self.note(|activity| activity.mirror = "fetching".to_owned());
            }
            let gone: Vec<&String> =
                refs.keys().filter(|name| !listing.refs.contains_key(*name)).collect();
            self.forget(with, &gone)?;
            let new = listing.refs.iter().any(|(name, oid)| refs.get(name) != Some(oid));
            if new {
                self.fetch(with)?;
            }
            refs = self.list(with)?;
        }
        if let Some(head) = &listing.head {
            store::set_head(&self.repository, head)?;
        }
        known.refs = Some(refs.clone());
        Ok(refs)
    }

    /// Asks the upstream what it has.
    fn ask(&self, with: With<'_>) -> Result<Listing, Stop> {
        let deadline = Deadline::within(ANSWER);
        let tunnel = with.tunnels.open(&with.upstream.name, with.generation, Service::Upload)?;
        let mut from = io::BufReader::with_capacity(
            64 << 10,
            Wire { from: tunnel.socket.as_fd(), deadline, guest: with.guest },
        );
        let mut to = Out { to: tunnel.socket.as_fd(), deadline, guest: with.guest };
        let heard = listing::ask(&mut from, &mut to, with.upstream);
        drop(from);
        heard.map_err(|problem| tunnel.explain(problem, with.upstream, ANSWER))
    }

    /// What the repository has.
    fn list(&self, with: With<'_>) -> Result<Refs, Stop> {
        let arguments = ["for-each-ref", "--format=%(objectname) %(refname)"];
        let command = with.git.command(self.place(with.upstream), &arguments);
        let layer = jail::Layer::writing(&[])?;
        let output = run(command, &layer, &[], b"", LISTED, Deadline::within(ANSWER), with.guest)?;
        let text = output.well("listing refs")?;
        let mut refs = Refs::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let oid = line.get(..40).and_then(Oid::parse);
            let name = line.get(41..).and_then(|name| std::str::from_utf8(name).ok());
            let (Some(oid), Some(name)) = (oid, name) else {
                return Err(io::Error::other("a ref of the mirror cannot be read").into());
            };
            refs.insert(name.to_owned(), oid);
        }
        Ok(refs)
    }

    /// Removes refs that are gone: one of them may stand where a folder has to be.
    fn forget(&self, with: With<'_>, gone: &[&String]) -> Result<(), Stop> {
        if gone.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = gone.iter().map(|name| format!("delete {name}\n")).collect();
        self.update(with, &lines.concat())
    }

    /// Changes refs of the repository.
    fn update(&self, with: With<'_>, lines: &str) -> Result<(), Stop> {
        let command = with.git.command(self.place(with.upstream), &["update-ref", "--stdin"]);
        let layer = jail::Layer::writing(&[&self.repository])?;
        let deadline = Deadline::within(ANSWER);
        run(command, &layer, &[], lines.as_bytes(), LISTED, deadline, None)?
            .well("updating refs")?;
        Ok(())
    }

    /// Fetches all that the upstream has, over one connection that is opened for it: git itself has no way to
    /// open one.
    fn fetch(&self, with: With<'_>) -> Result<(), Stop> {
        let tunnel = with.tunnels.open(&with.upstream.name, with.generation, Service::Upload)?;
        let mut arguments = vec![
            "fetch",
            "--quiet",
            "--no-tags",
            "--force",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            "fd::3",
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let more: Vec<String> = with.upstream.refs.iter().map(|p| format!("+{p}:{p}")).collect();
        arguments.extend(more.iter().map(String::as_str));
        let command = with.git.command(self.place(with.upstream), &arguments);
        let layer = jail::Layer::writing(&[&self.repository])?;
        let hand = [tunnel.socket.as_fd()];
        let deadline = Deadline::within(FETCH);
        let outcome = run(command, &layer, &hand, b"", LISTED, deadline, with.guest);
        if !matches!(&outcome, Ok(output) if output.ok) {
            store::clean_packs(&self.repository)?;
        }
        match outcome {
            Ok(output) if output.ok => Ok(()),
            Ok(output) => {
                let problem = io::Error::other(format!("fetching: {}", output.stderr));
                Err(tunnel.explain(problem, with.upstream, FETCH))
            }
            Err(error) => Err(tunnel.explain(error, with.upstream, FETCH)),
        }
    }

    /// Takes over what the upstream has taken. `adopt` moves the objects in first.
    pub(super) fn adopt(
        &self,
        with: With<'_>,
        changes: &[(String, Oid, Oid)],
        adopt: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Stop> {
        let mut known = held(&self.known);
        // Whatever comes of it, the upstream is asked again.
        known.asked = None;
        let Some(refs) = known.refs.take() else { return Ok(()) };
        adopt()?;
        let line = |(name, old, new): &(String, Oid, Oid)| match (old.is_zero(), new.is_zero()) {
            (_, true) => format!("delete {name}\n"),
            _ => format!("update {name} {new}\n"),
        };
        // Those that go first, for one may stand where a folder has to be.
        let (gone, others): (Vec<_>, Vec<_>) =
            changes.iter().partition(|(_, _, new)| new.is_zero());
        for some in [gone, others].into_iter().filter(|some| !some.is_empty()) {
            self.update(with, &some.into_iter().map(line).collect::<String>())?;
        }
        let mut refs = refs;
        for (name, _, new) in changes {
            match new.is_zero() {
                true => refs.remove(name),
                false => refs.insert(name.clone(), *new),
            };
        }
        known.refs = Some(refs);
        Ok(())
    }

    /// Packs it anew if it consists of many packs.
    pub(super) fn tidy(&self, with: With<'_>) -> Result<(), Stop> {
        if store::packs(&self.repository) <= PACKS {
            return Ok(());
        }
        let _known = held(&self.known);
        let arguments = ["repack", "-d", "-q", "--geometric=2", "--no-write-bitmap-index"];
        let command = with.git.command(self.place(with.upstream), &arguments);
        let layer = jail::Layer::writing(&[&self.repository])?;
        run(command, &layer, &[], b"", LISTED, Deadline::within(FETCH), None)?.well("repacking")?;
        Ok(())
    }
}
