//! The worker: it reads what a guest sends, and searches and serves it, and can neither dial nor read anything
//! but its own folder.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use time::OffsetDateTime;

use super::document::{Document, Upstream};
use super::entry::Entry;
use super::front;
use super::ipc::Channel;
use super::keep::{Told, Worker};
use super::listen::Listeners;
use super::mirror::{FRESH, Mirror, With};
use super::run::Git;
use super::stop::Stop;
use super::store::Store;
use super::tunnel::Tunnels;
use crate::sidecar::confine;
use crate::sidecar::dlp::{Known, Rules, Scanner, Suppression};

/// Connections of the machine at once.
const CONNECTIONS: usize = 32;

/// What all connections share.
pub(super) struct Shared {
    pub(super) git: Git,
    pub(super) tunnels: Tunnels,
    store: Store,
    log: Mutex<Channel>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// By their names, of what is declared now.
    mirrors: Mutex<BTreeMap<String, Arc<Mirror>>>,
    /// By names and places, all that there ever were.
    places: Mutex<BTreeMap<(String, String), Arc<Mirror>>>,
    connections: AtomicUsize,
    /// Who fetches.
    pub(super) fetching: AtomicUsize,
}

/// A document that holds.
pub(super) struct Loaded {
    pub(super) generation: u64,
    pub(super) document: Document,
    pub(super) scanner: Arc<Scanner>,
}

/// Serves until the keeper ends.
///
/// Has to be called before the process has a second thread.
///
/// # Errors
/// When it cannot begin.
pub fn work(folder: &Path) -> anyhow::Result<()> {
    confine::keep_to_itself().context("forbidding core dumps")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let channels: [Channel; 4] = [channel(3)?, channel(4)?, channel(5)?, channel(6)?];
    let mut keep: Vec<RawFd> = vec![3, 4, 5, 6];
    keep.extend(confine::random_sources());
    confine::close_all_but(&keep);
    confine::raise_descriptors();
    let (git, store) = shut_in(folder)?;
    let [tell, ask, tunnels, log] = channels;
    let shared = Arc::new(Shared {
        git,
        tunnels: Tunnels::new(tunnels),
        store,
        log: Mutex::new(log),
        loaded: Mutex::default(),
        mirrors: Mutex::default(),
        places: Mutex::default(),
        connections: AtomicUsize::new(0),
        fetching: AtomicUsize::new(0),
    });
    let of = Arc::clone(&shared);
    std::thread::Builder::new().name("state".to_owned()).spawn(move || {
        while let Ok(Some(_)) = ask.receive() {
            let state = serde_json::to_vec(&of.state()).unwrap_or_default();
            if ask.send(&state, &[]).is_err() {
                return;
            }
        }
    })?;
    let mut listeners = Listeners::default();
    while let Some((text, with)) = tell.receive()? {
        let told: Told = serde_json::from_slice(&text)?;
        let done = match told {
            Told::Load { document, generation } => shared.load(*document, generation),
            Told::Listen {} => listeners.listen(&shared, with),
            Told::Attach {} => listeners.attach(&shared, with),
            Told::Detach {} => {
                listeners.detach();
                Ok(())
            }
        };
        tell.send(&serde_json::to_vec(&done)?, &[])?;
    }
    Ok(())
}

/// Finds what it needs, and gives up all else.
pub(super) fn shut_in(folder: &Path) -> anyhow::Result<(Git, Store)> {
    let git = Git::find()?;
    let own = folder.join("git");
    let store = Store::open(&own).context("opening its folder")?;
    let mut files = git.files();
    files.write.push(own);
    confine::drop_capabilities().context("giving up what is not needed")?;
    files.confine().context("giving up what is not needed")?;
    confine::refuse_dialling().context("giving up what is not needed")?;
    Ok((git, store))
}

#[expect(unsafe_code, reason = "the keeper hands its channels on by their numbers")]
fn channel(number: RawFd) -> io::Result<Channel> {
    // SAFETY: nothing in this process has opened a descriptor yet, and each number is taken once; the call
    // below fails when it is not open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Ok(Channel::new(fd)),
        Err(error) => {
            // What is not open must not be closed either.
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// Room for one more of something. Dropped, there is room again.
pub(super) struct Room(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Drop for Room {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    pub(super) fn take(
        shared: &Arc<Shared>,
        of: fn(&Shared) -> &AtomicUsize,
        most: usize,
    ) -> Option<Self> {
        let room = Self(Arc::clone(shared), of);
        // Dropped where there is none, it is given back.
        (of(shared).fetch_add(1, Ordering::Relaxed) < most).then_some(room)
    }
}

impl Shared {
    /// Serves one connection, by a thread of its own.
    pub(super) fn accepted(self: &Arc<Self>, socket: OwnedFd) {
        let Some(room) = Room::take(self, |shared| &shared.connections, CONNECTIONS) else {
            front::busy(&socket);
            return;
        };
        let shared = Arc::clone(self);
        // Without a thread the connection is closed.
        let _ = std::thread::Builder::new().name("connection".to_owned()).spawn(move || {
            front::serve(&shared, socket);
            drop(room);
        });
    }

    pub(super) fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works by another document.
    fn load(self: &Arc<Self>, document: Document, generation: u64) -> Result<(), String> {
        let before = self.loaded();
        let suppressions = suppressions(&document)?;
        let same = before.filter(|before| before.document.rules == document.rules);
        let scanner = match same {
            Some(before) => before.scanner.with_suppressions(suppressions),
            None => scanner(document.rules.as_deref(), suppressions)?,
        };
        let scanner = Arc::new(scanner);
        if self.loaded().is_none() {
            let kept = self.store.keep_only(&document.upstreams);
            kept.map_err(|error| format!("removing mirrors that are not declared: {error}"))?;
        }
        let mut mirrors = BTreeMap::new();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for upstream in &document.upstreams {
            let key = (upstream.name.clone(), upstream.place());
            // One for each place, whatever else has changed: something may be at work in it.
            if !places.contains_key(&key) {
                let repository = self.store.repository(upstream);
                let repository = repository
                    .map_err(|error| format!("making the mirror of {}: {error}", upstream.name))?;
                places.insert(key.clone(), Arc::new(Mirror::new(repository)));
            }
            mirrors
                .extend(places.get(&key).map(|mirror| (upstream.name.clone(), Arc::clone(mirror))));
        }
        drop(places);
        *self.mirrors.lock().unwrap_or_else(PoisonError::into_inner) = mirrors;
        let loaded = Arc::new(Loaded { generation, document, scanner });
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&loaded));
        let shared = Arc::clone(self);
        // Whoever fetches first waits for it where it could not be begun now.
        let _ = std::thread::Builder::new()
            .name("mirrors".to_owned())
            .spawn(move || shared.fill(&loaded));
        Ok(())
    }

    /// Begins the mirrors, before somebody waits for them.
    fn fill(&self, loaded: &Loaded) {
        for upstream in &loaded.document.upstreams {
            let Some(mirror) = self.mirror(&upstream.name) else { continue };
            if let Err(stop) = mirror.sync(self.with(loaded.generation, upstream, None), FRESH) {
                self.failed(upstream, &stop);
            }
        }
    }

    pub(super) fn mirror(&self, name: &str) -> Option<Arc<Mirror>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(super) fn with<'a>(
        &'a self,
        generation: u64,
        upstream: &'a Upstream,
        guest: Option<BorrowedFd<'a>>,
    ) -> With<'a> {
        With { git: &self.git, tunnels: &self.tunnels, generation, upstream, guest }
    }

    /// Writes a line of the log.
    ///
    /// # Errors
    /// When it could not be written; then what it says must not happen.
    pub(super) fn log(&self, entry: &Entry) -> io::Result<()> {
        let text = serde_json::to_vec(entry)?;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match log.call(&text, &[])?.as_slice() {
            b"1" => Ok(()),
            _ => Err(io::Error::other("the log cannot be written")),
        }
    }

    /// Writes down that something failed.
    pub(super) fn failed(&self, upstream: &Upstream, stop: &Stop) {
        let Some(code) = stop.code() else { return };
        let detail = match stop {
            Stop::Failed(error) => {
                let text =
                    super::sentence::harmless(error.to_string().replace('\n', " ").as_bytes());
                let clean = self.loaded().is_some_and(|loaded| loaded.is_clean(upstream, &text));
                Some(if clean { text } else { "it holds what must not be told".to_owned() })
            }
            _ => None,
        };
        let entry = Entry {
            event: "error".to_owned(),
            upstream: Some(upstream.name.clone()),
            code: Some(code.to_owned()),
            detail,
            ..Entry::default()
        };
        // It fails whether or not the log can say so.
        let _ = self.log(&entry);
    }

    fn state(&self) -> Worker {
        let mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |mirror: &Mirror| {
            mirror.activity.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        Worker {
            connections: self.connections.load(Ordering::Relaxed),
            upstreams: mirrors.iter().map(|(name, mirror)| (name.clone(), of(mirror))).collect(),
        }
    }
}

impl Loaded {
    /// Whether a text holds nothing that must not be told.
    pub(super) fn is_clean(&self, upstream: &Upstream, text: &str) -> bool {
        self.scanner.scan(&upstream.host, today(), text.as_bytes()).is_empty()
    }
}

/// The day by which exceptions end.
pub(super) fn today() -> time::Date {
    OffsetDateTime::from(crate::sidecar::clock::now()).date()
}

fn suppressions(document: &Document) -> Result<Vec<Suppression>, String> {
    document.dlp_allow.iter().map(crate::sidecar::egress::suppression).collect()
}

/// What searches by the built-in rules and the operator's own.
pub(super) fn scanner(
    own: Option<&str>,
    suppressions: Vec<Suppression>,
) -> Result<Scanner, String> {
    let rules = match own {
        None => Rules::builtin().clone(),
        Some(own) => {
            let own = Rules::from_toml(own).map_err(|error| format!("`rules`: {error}"))?;
            Rules::builtin().merge(&own)
        }
    };
    let known =
        Known::new(std::iter::empty::<(&str, &str)>()).map_err(|error| error.to_string())?;
    Ok(Scanner::new(Arc::new(rules), Arc::new(known), suppressions))
}
