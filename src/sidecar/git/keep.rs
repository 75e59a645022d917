#![expect(clippy::disallowed_methods, reason = "starts the worker")]
//! The keeper: it alone reaches upstreams, by ssh, with the operator's identity, and reads nothing that a
//! guest sends. The worker is its child, and asks it for connections.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::document::{Document, Upstream};
use super::entry::Entry;
use super::ipc::Channel;
use super::mirror::Activity;
use super::relayed::{self, Relayed};
use super::ssh::{self, Ssh};
use super::tunnel::{Ended, Service, Wanted};
use super::wire::Deadline;
use super::{check, jail};
use crate::sidecar::confine;
use crate::sidecar::control::{self, Served};
use crate::sidecar::egress::{keep_little_memory, limits};
use crate::sidecar::record::{Event, Line, Record, timestamp};
use crate::sidecar::start::{Endpoint, tell_of_panics};

/// For a document that the worker has taken to hold here too.
const SETTLING: Duration = Duration::from_secs(5);
/// Connections to upstreams at once.
const TUNNELS: usize = 64;

/// How a gate is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the machine's connections come in; more can be handed in later.
    pub listen: Vec<Endpoint>,
    /// Where it is told what to do.
    pub control: Endpoint,
    /// The log; none: stdout.
    pub log: Option<PathBuf>,
    /// Where its mirrors and pins are.
    pub folder: PathBuf,
    /// It gives up what it does not need. The worker always does.
    pub confine: bool,
}

/// How a gate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How many documents were loaded; 0: nothing passes yet.
    pub generation: u64,
    /// SHA-256 of the document that holds.
    pub policy: Option<String>,
    /// There are none: a gate has no credentials.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// Lines of the log, by what they say: `push`, `deny:secret`.
    pub counts: BTreeMap<String, u64>,
    /// Lines that could not be written.
    pub lost: u64,
    /// Connections of the machine.
    pub connections: usize,
    /// Since when it serves, as RFC 3339 has it.
    pub started_at: String,
    /// What became of each upstream.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Activity>,
    /// How the relay is that brings the machine's connections, in its own words. None: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

/// What the keeper tells the worker to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Told {
    Load { document: Box<Document>, generation: u64 },
    Listen {},
    Attach {},
    Detach {},
}

/// How the worker is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) connections: usize,
    pub(super) upstreams: BTreeMap<String, Activity>,
}

/// What holds.
#[derive(Debug, Clone)]
struct Held {
    generation: u64,
    digest: String,
    document: Arc<Document>,
}

struct Shared {
    record: Arc<Record>,
    folder: PathBuf,
    ssh: Ssh,
    held: Mutex<Option<Held>>,
    loading: Mutex<u64>,
    tell: Mutex<Channel>,
    ask: Mutex<Channel>,
    relayed: Mutex<Option<Relayed>>,
    started_at: String,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Keeper(Arc<Shared>);

/// Keeps a gate until it is told to stop, or its worker ends.
///
/// Has to be called before the process has a second thread, and by one that goes on until its end: the worker
/// ends with it.
///
/// # Errors
/// When it cannot begin, or when its worker has ended.
pub fn keep(options: &Options) -> anyhow::Result<()> {
    keep_little_memory();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    confine::keep_to_itself().context("forbidding core dumps")?;
    let record = match &options.log {
        Some(path) => Record::file(path, limits::LOG)
            .with_context(|| format!("opening the log {}", path.display()))?,
        None => Record::stdout()?,
    };
    let record = Arc::new(record);
    let open =
        |endpoint: &Endpoint| endpoint.open().with_context(|| format!("listening at {endpoint}"));
    if matches!(options.control, Endpoint::Address(_)) {
        anyhow::bail!(
            "control at {}: anybody can reach an address; expected `unix:/PATH` or `fd:N`",
            options.control
        );
    }
    let control = open(&options.control)?;
    let listeners: Vec<OwnedFd> = options.listen.iter().map(open).collect::<Result<_, _>>()?;
    let folder = std::fs::canonicalize(&options.folder)
        .with_context(|| format!("opening the folder {}", options.folder.display()))?;
    let ssh = Ssh::find()?;
    if options.confine {
        let mut keep: Vec<RawFd> = listeners.iter().map(OwnedFd::as_raw_fd).collect();
        keep.push(control.as_raw_fd());
        keep.extend(record.descriptor());
        keep.extend(confine::random_sources());
        confine::close_all_but(&keep);
        confine::drop_capabilities().context("giving up what is not needed")?;
    }
    confine::raise_descriptors();
    tell_of_panics(&record);
    let (worker, channels) = start_worker(&folder).context("starting its worker")?;
    let [tell, ask, tunnels, log] = channels;
    let keeper = Keeper(Arc::new(Shared {
        record: Arc::clone(&record),
        folder,
        ssh,
        held: Mutex::default(),
        loading: Mutex::new(0),
        tell: Mutex::new(tell),
        ask: Mutex::new(ask),
        relayed: Mutex::default(),
        started_at: timestamp(),
        stop: CancellationToken::new(),
    }));
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work)
    };
    let of = keeper.clone();
    spawn("tunnels", Box::new(move || of.open_tunnels(&tunnels)))?;
    let writing = Arc::clone(&record);
    spawn("log", Box::new(move || write_lines(&writing, &log)))?;
    // Its first answer: it is confined, and its folder is in order.
    keeper.worker().context("starting its worker")?;
    if !listeners.is_empty() {
        keeper.pass_on(&Told::Listen {}, &listeners).map_err(anyhow::Error::msg)?;
    }
    let ended = watch(worker, &keeper.0.stop)?;
    record.write(&Line::new(Event::Start)).context("writing the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(serve(control, keeper.clone()))?;
    runtime.shutdown_background();
    // It ends whether or not the log can say so.
    let _ = record.write(&Line::new(Event::Stop));
    match ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(how) => anyhow::bail!("its worker has ended: {how}"),
        None => Ok(()),
    }
}

async fn serve(control: OwnedFd, keeper: Keeper) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let control = tokio::net::UnixListener::from_std(control.into())?;
    tokio::spawn(control::serve(control, keeper.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = keeper.0.stop.cancelled() => {}
    }
    Ok(())
}

/// Starts the worker, with one end of each channel.
fn start_worker(folder: &Path) -> anyhow::Result<(Child, [Channel; 4])> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..4 {
        let (our, their) = Channel::pair()?;
        ours.push(our);
        theirs.push(their);
    }
    let hand: Vec<RawFd> = theirs.iter().map(|channel| channel.as_fd().as_raw_fd()).collect();
    let mut copies = vec![-1; hand.len()];
    let mut command = Command::new("/proc/self/exe");
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "bottle".into()));
    command.args(["gate", "work", "--folder"]).arg(folder).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    jail::before_exec(&mut command, move || {
        jail::die_with_parent()?;
        jail::hand_on(&hand, &mut copies)
    });
    let worker = command.spawn()?;
    let ours =
        <[Channel; 4]>::try_from(ours).map_err(|_| anyhow::anyhow!("a channel is missing"))?;
    Ok((worker, ours))
}

/// Ends the keeper when the worker has ended, and says how that was.
fn watch(mut worker: Child, stop: &CancellationToken) -> io::Result<Arc<Mutex<Option<String>>>> {
    let ended = Arc::new(Mutex::new(None));
    let (tell, stop) = (Arc::clone(&ended), stop.clone());
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let how = match worker.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        if !stop.is_cancelled() {
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
            stop.cancel();
        }
    })?;
    Ok(ended)
}

/// Writes down what the worker says, and tells it whether that could be done.
fn write_lines(record: &Record, channel: &Channel) {
    while let Ok(Some((text, _))) = channel.receive() {
        let entry: Result<Entry, _> = serde_json::from_slice(&text);
        let written = entry.is_ok_and(|entry| {
            record.write_as(&entry.event, entry.code.as_deref(), &entry).is_ok()
        });
        if channel.send(if written { b"1" } else { b"0" }, &[]).is_err() {
            return;
        }
    }
}

impl Keeper {
    /// Opens the connections that the worker wants.
    fn open_tunnels(&self, channel: &Channel) {
        let open = Arc::new(());
        while let Ok(Some((text, sockets))) = channel.receive() {
            let Ok(sockets) = <[OwnedFd; 2]>::try_from(sockets) else { continue };
            let Ok(wanted) = serde_json::from_slice::<Wanted>(&text) else { continue };
            let (keeper, room) = (self.clone(), Arc::clone(&open));
            if Arc::strong_count(&open) > TUNNELS + 1 {
                continue;
            }
            // Each has a thread of its own, with which its ssh ends.
            let _ = std::thread::Builder::new().name("tunnel".to_owned()).spawn(move || {
                let _room = room;
                if let Some(upstream) = keeper.upstream(&wanted) {
                    keeper.tunnel(&upstream, &wanted, sockets);
                }
            });
        }
    }

    /// The upstream that is wanted, by the very document by which the worker wants it.
    fn upstream(&self, wanted: &Wanted) -> Option<Upstream> {
        let deadline = Deadline::within(SETTLING);
        loop {
            let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let now = held.as_ref().map_or(0, |held| held.generation);
            match held {
                Some(held) if now == wanted.generation => {
                    let mut all = held.document.upstreams.iter();
                    let upstream = all.find(|upstream| upstream.name == wanted.upstream)?;
                    // Whatever the worker thinks of it.
                    let may = wanted.service == Service::Upload || !upstream.push.is_empty();
                    return may.then(|| upstream.clone());
                }
                // The worker has taken a document that holds here in a moment.
                _ if now < wanted.generation && !deadline.is_over() => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return None,
            }
        }
    }

    fn tunnel(&self, upstream: &Upstream, wanted: &Wanted, [socket, status]: [OwnedFd; 2]) {
        let pins = self.pins(wanted.generation);
        let outcome =
            ssh::connect(&self.0.ssh, upstream, wanted.service, &pins, socket, status.as_fd());
        let Ended { trouble, .. } = &outcome.ended;
        if let Some(trouble) = trouble {
            let entry = Entry {
                event: "error".to_owned(),
                upstream: Some(upstream.name.clone()),
                code: Some(trouble.code().to_owned()),
                detail: outcome.detail.clone(),
                ..Entry::default()
            };
            // The worker fails whether or not this can be written down.
            let _ = self.0.record.write_as(&entry.event, entry.code.as_deref(), &entry);
        }
        // Nobody may wait for it.
        let _ = ssh::tell(&status, &outcome.ended);
    }

    /// Those of each document have a folder of their own, so that none is read with another's.
    fn pins(&self, generation: u64) -> PathBuf {
        self.0.folder.join("pins").join(generation.to_string())
    }

    /// Asks the worker how it is.
    fn worker(&self) -> anyhow::Result<Worker> {
        let ask = self.0.ask.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = ask.call(b"state", &[]).context("it ended")?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Has the worker do something.
    fn pass_on(&self, told: &Told, with: &[OwnedFd]) -> Result<(), String> {
        let failed =
            |error: &dyn std::fmt::Display| format!("talking to the gate's worker: {error}");
        let text = serde_json::to_vec(told).map_err(|error| failed(&error))?;
        let with: Vec<BorrowedFd<'_>> = with.iter().map(OwnedFd::as_fd).collect();
        let tell = self.0.tell.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = tell.call(&text, &with).map_err(|error| failed(&error))?;
        serde_json::from_slice::<Result<(), String>>(&answer).map_err(|error| failed(&error))?
    }

    fn now(&self) -> Result<State, String> {
        let worker = self.worker().map_err(|error| format!("asking the gate's worker: {error}"))?;
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(State {
            generation: held.as_ref().map_or(0, |held| held.generation),
            policy: held.map(|held| held.digest),
            credentials: Vec::new(),
            counts: self.0.record.counts(),
            lost: self.0.record.lost(),
            connections: worker.connections,
            started_at: self.0.started_at.clone(),
            upstreams: worker.upstreams,
            relay: self.relayed().as_ref().map(|relayed| relayed.how().unwrap_or_default()),
        })
    }

    fn relayed(&self) -> MutexGuard<'_, Option<Relayed>> {
        self.0.relayed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a relay bring connections, and no other.
    fn have_relay(&self, order: relayed::Order) -> Result<State, String> {
        let failed = |error: io::Error| format!("starting the relay: {error}");
        let mut relayed = self.relayed();
        *relayed = None;
        let door = relayed::door(&self.0.folder).map_err(failed)?;
        self.pass_on(&Told::Attach {}, &door)?;
        let record = Arc::clone(&self.0.record);
        let tell = move |how: &str| {
            let entry = Entry {
                event: "relay".to_owned(),
                detail: Some(how.to_owned()),
                ..Entry::default()
            };
            // It goes on whether or not the log can say so.
            let _ = record.write_as(&entry.event, None, &entry);
        };
        *relayed = Some(Relayed::begin(self.0.folder.clone(), order, tell).map_err(failed)?);
        drop(relayed);
        self.now()
    }

    /// Checks all of a document before any of it holds.
    fn take(&self, text: &[u8], generation: u64) -> Result<Held, String> {
        let document = check::parse(text)?;
        let digest = check::digest(&document)?;
        ssh::write_pins(&self.pins(generation), &document.upstreams)
            .map_err(|error| format!("writing the pins: {error}"))?;
        // Where the identity is, only the keeper knows.
        let mut told = document.clone();
        for upstream in &mut told.upstreams {
            upstream.identity_file = PathBuf::from("/");
            (upstream.identity_agent, upstream.identity_fingerprint) = (None, None);
        }
        self.pass_on(&Told::Load { document: Box::new(told), generation }, &[])?;
        Ok(Held { generation, digest, document: Arc::new(document) })
    }

    /// Does it by a thread that may wait.
    async fn aside<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Self) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let keeper = self.clone();
        let done = tokio::task::spawn_blocking(move || what(&keeper)).await;
        done.unwrap_or_else(|_| Err("it ended in a mistake of the gate's".to_owned()))
    }
}

impl Served for Keeper {
    type State = State;

    fn load(&self, document: &[u8]) -> Result<State, String> {
        let shared = &self.0;
        let mut generation = shared.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let from = before.as_ref().map(|before| before.digest.as_str());
        let next = *generation + 1;
        let held = match self.take(document, next) {
            Ok(held) => held,
            Err(why) => {
                let line = Line { from, ..Line::new(Event::ConfigRejected) };
                // The document is refused whether or not the log can say so.
                let _ = shared.record.write(&line.detail(&why));
                return Err(why);
            }
        };
        let to = held.digest.clone();
        let line =
            Line { generation: Some(next), from, to: Some(&to), ..Line::new(Event::ConfigReload) };
        *generation = next;
        // What is being dialled has read those of the one before.
        let _ = std::fs::remove_dir_all(self.pins(next.saturating_sub(2)));
        *shared.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        shared.record.write(&line).map_err(|error| format!("writing the log: {error}"))?;
        self.now()
    }

    async fn state(&self) -> Result<State, String> {
        self.aside(Self::now).await
    }

    async fn listen(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        if sockets.is_empty() {
            return Err("no listening socket came with the message".to_owned());
        }
        self.aside(move |keeper| {
            keeper.pass_on(&Told::Listen {}, &sockets).and_then(|()| keeper.now())
        })
        .await
    }

    async fn attach(&self, sockets: Vec<OwnedFd>) -> Result<State, String> {
        if sockets.len() != 2 {
            let count = sockets.len();
            return Err(format!(
                "expected a listening socket and a pidfd, got {count} descriptors"
            ));
        }
        self.aside(move |keeper| {
            keeper.pass_on(&Told::Attach {}, &sockets).and_then(|()| keeper.now())
        })
        .await
    }

    async fn intercept(&self, _: Vec<OwnedFd>, _: String) -> Result<State, String> {
        Err("a gate takes no microVM's connections".to_owned())
    }

    async fn detach(&self) -> Result<State, String> {
        self.aside(|keeper| {
            *keeper.relayed() = None;
            keeper.pass_on(&Told::Detach {}, &[]).and_then(|()| keeper.now())
        })
        .await
    }

    async fn relay(&self, order: &[u8]) -> Result<State, String> {
        let order = relayed::parse(order)?;
        self.aside(move |keeper| keeper.have_relay(order)).await
    }

    fn take(&self, _: tokio::net::UnixStream) {}

    fn stop(&self) {
        self.0.stop.cancel();
    }
}
