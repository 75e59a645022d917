//! What `watch` publishes: the status, as lines of JSON on a socket in the tree's state folder.
//!
//! Nothing is looked at while nobody listens. Whoever connects gets a status that was looked up after that, whole, in
//! the first line; another line when anything has changed; and a heartbeat when nothing has for a while. Only the
//! newest line waits for a reader, so one that is slow costs no memory, and one that takes nothing is dropped.
#![expect(clippy::disallowed_methods, reason = "keeps time, and a socket in the state folder")]

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::board::{Board, Known};
use super::{Status, of_pulled};
use crate::plan::Options;
use crate::plan::document::VERSION;
use crate::reconcile::pass::Reconciler;
use crate::reconcile::requests::notify::Notifier;
use crate::reconcile::socket;
use crate::reconcile::state::{TreeState, now};
use crate::reconcile::view::View;

/// The socket, in the tree's state folder.
pub(super) const SOCKET: &str = "status.socket";

/// So many are told at once.
const READERS: usize = 16;
/// A line is taken within this, or its reader is dropped.
const TAKEN: Duration = Duration::from_secs(10);
/// Whoever hears nothing for this long hears that nothing has changed.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// What runs is asked again after this long at the earliest, and after that long at the latest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Asking takes one part in so many of the time.
const SHARE: u32 = 50;
/// Everything is looked at again after this long, whatever was or was not heard.
const RESYNC: Duration = Duration::from_secs(30);
/// What follows within this of a change is told with it.
const SETTLED: Duration = Duration::from_millis(100);

/// The socket's file, which goes with this.
pub(in crate::reconcile) struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // The next one replaces what is left.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the socket. The caller holds the tree's lock: one that is there was left by a `watch` that was killed.
pub(in crate::reconcile) fn open(memory: &TreeState) -> io::Result<(UnixListener, Place)> {
    let path = memory.dir().join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::listen(memory.dir(), SOCKET)?;
    let place = Place(path);
    std::fs::set_permissions(&place.0, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, place))
}

/// Where a status comes from.
pub(in crate::reconcile) struct Source {
    pub(in crate::reconcile) reconciler: Arc<Reconciler>,
    pub(in crate::reconcile) notifier: Arc<Notifier>,
    pub(in crate::reconcile) board: Arc<Board>,
}

/// A status, as it is sent.
struct Line {
    /// When the look that it stands on was begun.
    looked: Instant,
    /// Another one where something has changed.
    number: u64,
    text: Arc<str>,
}

/// Between what puts lines together and those who read them.
struct Desk {
    lines: watch::Sender<Option<Arc<Line>>>,
    /// When somebody last asked for a line.
    asked: Mutex<Option<Instant>>,
    wake: Notify,
    places: Arc<Semaphore>,
}

impl Desk {
    fn new() -> Self {
        Self {
            lines: watch::Sender::new(None),
            asked: Mutex::default(),
            wake: Notify::new(),
            places: Arc::new(Semaphore::new(READERS)),
        }
    }

    fn asked(&self) -> Option<Instant> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a line that is looked up from now on.
    fn ask(&self) -> Instant {
        let now = Instant::now();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.wake.notify_one();
        now
    }
}

/// A line that is no status.
#[derive(Serialize)]
struct Word<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn json(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

fn error_line(error: &str) -> String {
    json(&Word { version: VERSION, heartbeat: None, error: Some(error) })
}

/// Serves whoever connects, until it is dropped.
pub(in crate::reconcile) async fn serve(listener: UnixListener, source: Source) {
    let desk = Arc::new(Desk::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(assemble(source, desk.clone()));
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if is_ours(&stream) => {
                tasks.spawn(tell(stream, desk.clone(), TAKEN));
            }
            Ok(_) => tracing::warn!("another user asked for the status, and got no answer"),
            Err(error) => {
                tracing::warn!(%error, "nobody can ask for the status now");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The folder lets nobody else in; this holds where it was opened by mistake.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Tells one reader, until it goes away or takes nothing any more.
async fn tell(mut stream: UnixStream, desk: Arc<Desk>, taken: Duration) {
    let Ok(_place) = desk.places.clone().try_acquire_owned() else {
        let full = error_line("too many listen already");
        let _ = tokio::time::timeout(taken, stream.write_all(full.as_bytes())).await;
        return;
    };
    let mut lines = desk.lines.subscribe();
    let asked = desk.ask();
    let (mut reader, mut writer) = stream.split();
    let mut told = None;
    let mut nothing = [0];
    loop {
        let next = async {
            loop {
                let newest = lines.borrow_and_update().clone();
                if let Some(line) = newest
                    && line.looked >= asked
                    && told != Some(line.number)
                {
                    return Some(line);
                }
                if lines.changed().await.is_err() {
                    return None;
                }
            }
        };
        let text: Arc<str> = tokio::select! {
            // There is nothing to say to it.
            _ = reader.read(&mut nothing) => return,
            line = next => {
                let Some(line) = line else { return };
                told = Some(line.number);
                line.text.clone()
            }
            () = tokio::time::sleep(HEARTBEAT) => {
                json(&Word { version: VERSION, heartbeat: Some(now()), error: None }).into()
            }
        };
        match tokio::time::timeout(taken, writer.write_all(text.as_bytes())).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// Puts lines together as long as anybody reads them.
async fn assemble(source: Source, desk: Arc<Desk>) {
    let mut board = source.board.readers();
    let mut look: Option<(Instant, View)> = None;
    let mut newest: Option<Result<Status, String>> = None;
    let mut number = 0;
    loop {
        while desk.lines.receiver_count() == 0 {
            (look, newest) = (None, None);
            desk.wake.notified().await;
        }
        let begun = Instant::now();
        let (known, moved) = {
            let known = board.borrow_and_update();
            (known.clone(), known.has_changed())
        };
        let stale = moved
            || look.as_ref().is_none_or(|(at, _)| {
                at.elapsed() > RESYNC || desk.asked().is_some_and(|asked| asked > *at)
            });
        let status = source.status(&mut look, stale, &known).await;
        let status = status.map_err(|error| format!("{error:#}"));
        let same = match (&newest, &status) {
            (Some(Ok(before)), Ok(now)) => is_same(before, now),
            (Some(Err(before)), Err(now)) => before == now,
            _ => false,
        };
        if !same {
            number += 1;
        }
        let text = match &status {
            Ok(status) => json(status),
            Err(error) => error_line(error),
        };
        // What could not be looked up was asked for all the same.
        let looked = look.as_ref().map_or(begun, |(at, _)| *at);
        newest = Some(status);
        desk.lines.send_replace(Some(Arc::new(Line { looked, number, text: text.into() })));
        let rest = (begun.elapsed() * SHARE).clamp(AGAIN.0, AGAIN.1);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = desk.wake.notified() => {}
            changed = board.changed() => {
                if changed.is_err() {
                    return;
                }
                board.mark_changed();
                tokio::time::sleep(SETTLED).await;
            }
        }
    }
}

/// Time alone is no news.
fn is_same(before: &Status, now: &Status) -> bool {
    let timeless = |status: &Status| {
        let mut status = status.clone();
        for sandbox in &mut status.sandboxes {
            sandbox.age = None;
        }
        status
    };
    timeless(before) == timeless(now)
}

impl Source {
    /// The status, of a new look where the last one may be stale.
    async fn status(
        &self,
        look: &mut Option<(Instant, View)>,
        stale: bool,
        known: &Known,
    ) -> anyhow::Result<Status> {
        if stale {
            *look = None;
        }
        let view = match look {
            Some((_, view)) => view,
            None => {
                let begun = Instant::now();
                let view = self.reconciler.look(Options::default()).await?;
                &look.insert((begun, view)).1
            }
        };
        match self.reconciler.pull(view).await {
            // Whoever reads them first has the operator told.
            Ok(new) if !new.is_empty() => {
                let (notifier, argv) = (self.notifier.clone(), view.desired.tree.notify.clone());
                tokio::spawn(async move { notifier.tell(&argv, &new).await });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "requests cannot be read");
            }
        }
        let mut status = of_pulled(&self.reconciler, view, &Default::default()).await?;
        status.watch = Some(known.document());
        for sandbox in &mut status.sandboxes {
            sandbox.since = sandbox.stopped.or_else(|| known.since(&sandbox.sandbox));
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_dropped() {
        let desk = Arc::new(Desk::new());
        let (_idle, stream) = UnixStream::pair().unwrap();
        let telling = tokio::spawn(tell(stream, desk.clone(), Duration::from_millis(20)));
        desk.wake.notified().await;
        assert_eq!(desk.places.available_permits(), READERS - 1);
        let text: Arc<str> = "x".repeat(64 << 20).into();
        desk.lines.send_replace(Some(Arc::new(Line { looked: Instant::now(), number: 1, text })));
        tokio::time::timeout(Duration::from_secs(60), telling).await.unwrap().unwrap();
        assert_eq!(desk.places.available_permits(), READERS);
        assert_eq!(desk.lines.receiver_count(), 0);
    }

    #[tokio::test]
    async fn a_line_of_before_is_not_the_first() {
        let desk = Arc::new(Desk::new());
        let line =
            |looked, number, text: &str| Some(Arc::new(Line { looked, number, text: text.into() }));
        desk.lines.send_replace(line(Instant::now(), 1, "old\n"));
        let (mut reader, stream) = UnixStream::pair().unwrap();
        tokio::spawn(tell(stream, desk.clone(), TAKEN));
        desk.wake.notified().await;
        desk.lines.send_replace(line(Instant::now(), 2, "new\n"));
        let mut heard = [0; 4];
        reader.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"new\n");
    }
}
