//! The sidecar as a whole: what it shares, its listeners, and what it can be told.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::AddressFamily;
use rustls::crypto::CryptoProvider;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::connection::{Socket, refuse, serve};
use super::desk::Desk;
use super::limits;
use super::machine::{Machine, Token, admit};
use super::relaying::Relaying;
use super::resolve::System;
use super::share::{Budget, budget};
use super::slots::Slots;
use super::state::Loaded;
use crate::model::Moment;
use crate::model::supervise::Held;
use crate::sidecar::record::{Event, Line, Record};
use crate::sidecar::relay::Hall;

/// What all connections share.
pub(super) struct Shared {
    pub(super) record: Arc<Record>,
    pub(super) budget: Arc<Budget>,
    /// Room for requests.
    pub(super) requests: Arc<Semaphore>,
    /// Room for HTTP/2 connections that may send far ahead.
    pub(super) wide: Arc<Semaphore>,
    pub(super) relaying: Arc<Relaying>,
    pub(super) activity: Arc<Activity>,
    desk: Desk,
    slots: Arc<Slots>,
    loaded: watch::Sender<Option<Arc<Loaded>>>,
    /// Documents are loaded one at a time.
    loading: Mutex<u64>,
    system: System,
    provider: Arc<CryptoProvider>,
    started_at: String,
    stop: CancellationToken,
    machine: Machine,
    /// Connections to the git gate.
    hall: Arc<Hall>,
}

impl Shared {
    /// What was handed in for the machine.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What its agent has asked for.
    pub(super) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// When it ends.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// What holds now.
    pub(super) fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.borrow().clone()
    }

    /// Waits until a document after this generation, or the end of something that one grants, makes `over` true.
    pub(super) fn until(
        &self,
        generation: u64,
        over: impl Fn(&Loaded) -> bool + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut changes = self.loaded.subscribe();
        Box::pin(async move {
            let mut ended = false;
            loop {
                // There may be a newer one already.
                let loaded = changes.borrow_and_update().clone();
                let new = |now: &Loaded| now.generation > generation || ended;
                if loaded.as_deref().is_some_and(|now| new(now) && over(now)) {
                    return;
                }
                let ends = loaded.as_deref().and_then(|now| now.policy.ends());
                drop(loaded);
                tokio::select! {
                    changed = changes.changed() => {
                        if changed.is_err() {
                            std::future::pending::<()>().await;
                        }
                    }
                    () = end_of(ends) => ended = true,
                }
            }
        })
    }
}

/// How a sidecar is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How many documents were loaded; 0: nothing passes yet.
    pub generation: u64,
    /// SHA-256 of the policy that holds.
    pub policy: Option<String>,
    /// The names of the credentials that were delivered.
    pub credentials: Vec<String>,
    /// Lines of the log, by what they say: `allow`, `deny:host_not_allowed`.
    pub counts: BTreeMap<String, u64>,
    /// Lines that could not be written.
    pub lost: u64,
    /// Connections of the machine.
    pub connections: usize,
    /// Since when it serves, as RFC 3339 has it.
    pub started_at: String,
    /// What the agent has asked for.
    #[serde(default)]
    pub requests: Held,
}

/// A sidecar that serves. Dropping it ends nothing; [`Sidecar::stop`] does.
#[derive(Clone)]
pub struct Sidecar(Arc<Shared>);

impl Sidecar {
    /// Starts with no policy at all: nothing passes until a document is loaded. Called within a
    /// runtime.
    ///
    /// # Errors
    /// When the log cannot say that it starts.
    pub fn start(record: Arc<Record>, system: System) -> io::Result<Self> {
        record.write(&Line::new(Event::Start))?;
        let shared = Arc::new(Shared {
            record,
            budget: budget(),
            requests: Arc::new(Semaphore::new(limits::REQUESTS)),
            wide: Arc::new(Semaphore::new(limits::WIDE_CONNECTIONS)),
            relaying: Arc::default(),
            activity: Arc::default(),
            desk: Desk::default(),
            slots: Arc::default(),
            loaded: watch::Sender::new(None),
            loading: Mutex::new(0),
            system,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            started_at: crate::sidecar::record::timestamp(),
            stop: CancellationToken::new(),
            machine: Machine::default(),
            hall: Arc::default(),
        });
        tokio::spawn(sweep(Arc::clone(&shared)));
        Ok(Self(shared))
    }

    /// Validates a document, and works by it from the next request on. On an error nothing changes.
    ///
    /// # Errors
    /// What is wrong with it; no value of a credential is in it.
    pub fn load(&self, document: &[u8]) -> Result<State, String> {
        let shared = &self.0;
        let mut generation = shared.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.loaded();
        let loaded = Loaded::new(
            document,
            *generation + 1,
            before.as_deref(),
            &shared.system,
            &shared.provider,
        );
        let from = before.as_ref().map(|before| before.digest.as_str());
        match loaded {
            Ok(loaded) => {
                let line = Line {
                    generation: Some(loaded.generation),
                    from,
                    to: Some(&loaded.digest),
                    ..Line::new(Event::ConfigReload)
                };
                shared.record.write(&line).map_err(|error| format!("writing the log: {error}"))?;
                *generation = loaded.generation;
                let compiled =
                    before.as_ref().is_none_or(|before| !loaded.scan.shares(&before.scan));
                shared.loaded.send_replace(Some(Arc::new(loaded)));
                drop(before);
                give_back_memory();
                if compiled {
                    give_back_code();
                }
                Ok(self.state())
            }
            Err(why) => {
                let line = Line { from, ..Line::new(Event::ConfigRejected) };
                // The document is refused whether or not the log can say so.
                let _ = shared.record.write(&line.detail(&why));
                Err(why)
            }
        }
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> State {
        let loaded = self.0.loaded();
        let loaded = loaded.as_deref();
        State {
            generation: loaded.map_or(0, |loaded| loaded.generation),
            policy: loaded.map(|loaded| loaded.digest.clone()),
            credentials: loaded
                .map(|loaded| loaded.credentials.keys().cloned().collect())
                .unwrap_or_default(),
            counts: self.0.record.counts(),
            lost: self.0.record.lost(),
            connections: self.0.slots.open(),
            started_at: self.0.started_at.clone(),
            requests: match loaded.is_some_and(|loaded| loaded.supervise.is_some()) {
                true => self.0.desk.held(loaded),
                false => Held::default(),
            },
        }
    }

    /// Accepts connections on these listening sockets too. Called within a runtime.
    ///
    /// # Errors
    /// What is wrong with one of them; then none of them is used.
    pub fn listen(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        if sockets.is_empty() {
            return Err("no listening socket came with the message".to_owned());
        }
        let listeners: Result<Vec<_>, String> = sockets.into_iter().map(Listener::new).collect();
        for listener in listeners? {
            let until = self.0.stop.clone();
            tokio::spawn(accept(Arc::clone(&self.0), listener, until, None));
        }
        Ok(self.state())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Where connections to the git gate wait.
    pub(in crate::sidecar) fn hall(&self) -> &Arc<Hall> {
        &self.0.hall
    }

    /// Ends it: no connection is accepted or served any more.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Waits until it ends, and says so in the log.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        // It ends whether or not the log can say so.
        let _ = self.0.record.write(&Line::new(Event::Stop));
    }
}

/// Waits for a moment; for none, for ever. The clock is asked again every now and then, for it may be set.
async fn end_of(moment: Option<Moment>) {
    let Some(moment) = moment else { return std::future::pending().await };
    loop {
        let left = moment.0.saturating_sub(crate::sidecar::clock::moment().0);
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(limits::CLOCK)).await;
    }
}

/// A listening socket of either kind.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn new(socket: OwnedFd) -> Result<Self, String> {
        let fail = |error: io::Error| format!("using a listening socket: {error}");
        let refuse = |what: &str| format!("using a listening socket: {what}");
        let listens =
            rustix::net::sockopt::socket_acceptconn(&socket).map_err(|error| fail(error.into()))?;
        if !listens {
            return Err(refuse("it does not listen"));
        }
        let family = rustix::net::sockopt::socket_domain(&socket).map_err(|e| fail(e.into()))?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| fail(error.into()))?;
        match family {
            AddressFamily::INET | AddressFamily::INET6 => {
                TcpListener::from_std(socket.into()).map(Self::Tcp).map_err(fail)
            }
            AddressFamily::UNIX => {
                UnixListener::from_std(socket.into()).map(Self::Unix).map_err(fail)
            }
            _ => Err(refuse("it is neither of TCP nor of a unix socket")),
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_send_buffer_size(&socket, limits::SEND_QUEUE)?;
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// Accepts connections until then; with a `token`, those that begin with it.
pub(super) async fn accept(
    shared: Arc<Shared>,
    listener: Listener,
    until: CancellationToken,
    token: Option<Arc<Token>>,
) {
    loop {
        let accepted = tokio::select! {
            () = until.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok(socket) = accepted else {
            // Out of descriptors, most likely: some will be closed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match shared.slots.take() {
            Some(slot) => {
                let (shared, token) = (Arc::clone(&shared), token.clone());
                tokio::spawn(async move {
                    let mut socket = socket;
                    if let Some(token) = token {
                        let admitted = tokio::select! {
                            () = slot.evicted() => false,
                            admitted = admit(&shared, &mut socket, &token) => admitted,
                        };
                        if !admitted {
                            return;
                        }
                    }
                    serve(shared, socket, slot).await;
                });
            }
            None => {
                tokio::spawn(refuse(Arc::clone(&shared), socket));
            }
        }
    }
}

/// Closes connections to upstreams that nobody has used for a while.
async fn sweep(shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        tokio::time::sleep(limits::UPSTREAM_IDLE / 2).await;
        if let Some(loaded) = shared.loaded() {
            loaded.upstreams.sweep();
        }
        give_back_memory();
    }
}

/// Large pieces go back to the system as soon as they are free: by itself, the allocator keeps ever larger
/// ones once some were freed, in one heap for each thread.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe way to be told")]
pub(in crate::sidecar) fn keep_little_memory() {
    // SAFETY: it takes two numbers, and is called before there is a second thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, limits::LARGE_PIECE) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub(in crate::sidecar) fn keep_little_memory() {}

/// What a burst has needed goes back to the system: by itself, the allocator keeps it for the next one.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe way to be told")]
fn give_back_memory() {
    // SAFETY: it takes no pointer, and can be called at any time by any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

/// The code by which a policy was compiled is not needed until the next one.
#[cfg(target_os = "linux")]
fn give_back_code() {
    crate::sidecar::pages::forget();
}

/// Elsewhere a sidecar is none that serves a machine.
#[cfg(not(target_os = "linux"))]
fn give_back_code() {}
