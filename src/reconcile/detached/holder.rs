//! The process that holds a run: it has the terminal that the run is on, writes the log, and lets people attach.
//!
//! It belongs to nobody's terminal and nobody's session, so it lives on when whoever started it ends. What comes
//! from the run is bytes: they are passed on and never read for a meaning. A run that writes is kept waiting by
//! nobody: who is attached and does not read misses what came meanwhile, and is told so.

#![expect(clippy::disallowed_methods, reason = "a process of its own")]

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::AsyncWriteExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::log::{Log, Recent};
use super::wire::{self, Frame};
use super::{End, How, records};

/// What a holder says once somebody can attach to it.
pub const READY: &str = "ready";

/// So many may be attached at once.
const MOST: usize = 16;

/// So many pieces may wait for one who is attached; a piece is at most this long.
const WAITING: usize = 256;
const PIECE: usize = 16 * 1024;

/// So many bytes that were typed wait for a run that does not read them.
const MOST_TYPED: usize = 4 << 20;

/// How long whoever is attached may take to read the end.
const PARTING: Duration = Duration::from_secs(2);

/// So many seconds it is tried to write down how it ended.
const WRITING: u32 = 600;

/// How long a session may take to end once it was asked to.
const ENDING: Duration = Duration::from_secs(15);

/// How long the end of what runs in the sandbox may take where the session could not see to it.
const CLEANING: Duration = Duration::from_secs(60);

/// What a holder starts.
pub struct Commands {
    /// The session, on the terminal.
    pub session: Vec<OsString>,
    /// What ends a run in its sandbox whose session was killed.
    pub cleanup: Vec<OsString>,
    /// Rows and columns of the terminal until somebody attaches.
    pub size: (u16, u16),
}

/// Holds the run of this folder to its end. stdin is its lock. Called before there is a second thread.
#[must_use]
pub fn hold(folder: &Path, commands: &Commands) -> ExitCode {
    match begin(folder, commands) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever started it reads this, or nobody does.
            let _ = writeln!(io::stderr(), "{error:#}");
            let why = Some(format!("{error:#}"));
            let _ = records::end(folder, &End::now(How::Failed, None, why));
            ExitCode::FAILURE
        }
    }
}

fn begin(folder: &Path, commands: &Commands) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    crate::backend::native::close_inherited();
    // No terminal, and no signal that is meant for its starter's group.
    rustix::process::setsid().context("leaving the terminal")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::chdir("/")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut holder = Holder::start(folder, commands)?;
        say_ready()?;
        let end = holder.serve(commands).await;
        let written = records::end(folder, &end);
        holder.part(end.clone()).await;
        match written {
            Ok(()) => Ok(()),
            // Room may come; until then it counts as under way, which is nearer to the truth than lost.
            Err(_) => written_later(folder, &end).await,
        }
    })
}

/// Tries again to remember the end.
async fn written_later(folder: &Path, end: &End) -> anyhow::Result<()> {
    let mut written = Ok(());
    for _ in 0..WRITING {
        tokio::time::sleep(Duration::from_secs(1)).await;
        written = records::end(folder, end);
        if written.is_ok() {
            break;
        }
    }
    written
}

/// Tells whoever started it, and then has nothing more to do with them.
fn say_ready() -> anyhow::Result<()> {
    // One that was killed meanwhile reads nothing: the run goes on.
    let _ = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// What those who are attached do.
enum Event {
    /// Somebody wants to be.
    Hello(Attached),
    Input(Vec<u8>),
    Size(u16, u16),
    Gone(u64),
}

/// One who is attached.
struct Attached {
    id: u64,
    out: mpsc::Sender<Bytes>,
    /// What writes it to the connection.
    writer: JoinHandle<()>,
    /// So much was not sent, because it did not read.
    missed: u64,
}

impl Attached {
    fn send(&mut self, bytes: &[u8]) {
        if self.missed > 0 {
            let note = format!("\r\n[bottle: {} bytes are only in the log]\r\n", self.missed);
            let note = Frame::Output(note.into_bytes()).bytes();
            if self.out.capacity() < WAITING / 2 || self.out.try_send(note.into()).is_err() {
                self.missed += bytes.len() as u64;
                return;
            }
            self.missed = 0;
        }
        if self.out.try_send(Frame::Output(bytes.to_vec()).bytes().into()).is_err() {
            self.missed += bytes.len() as u64;
        }
    }
}

struct Holder {
    folder: PathBuf,
    listener: UnixListener,
    master: AsyncFd<OwnedFd>,
    /// The other side of the terminal is open.
    open: bool,
    session: Child,
    log: Log,
    recent: Recent,
    attached: Vec<Attached>,
    /// What was typed and not taken yet.
    typed: Vec<u8>,
    connections: u64,
    tell: mpsc::Sender<Event>,
    told: mpsc::Receiver<Event>,
}

impl Holder {
    fn start(folder: &Path, commands: &Commands) -> anyhow::Result<Self> {
        let listener = wire::listen(folder).context("listening for those who attach")?;
        let (master, session) = on_terminal(commands).context("starting what runs")?;
        let (tell, told) = mpsc::channel(64);
        Ok(Self {
            folder: folder.to_owned(),
            listener,
            master: registered(master)?,
            open: true,
            session,
            log: Log::open(folder),
            recent: Recent::default(),
            attached: Vec::new(),
            typed: Vec::new(),
            connections: 0,
            tell,
            told,
        })
    }

    /// Holds it until it has ended.
    async fn serve(&mut self, commands: &Commands) -> End {
        let (mut term, mut int) = (asked(SignalKind::terminate()), asked(SignalKind::interrupt()));
        loop {
            tokio::select! {
                ready = self.master.readable(), if self.open => {
                    let mut buffer = [0; PIECE];
                    let read = match ready {
                        Ok(mut ready) => {
                            let read = rustix::io::read(ready.get_inner(), &mut buffer);
                            if read == Err(Errno::AGAIN) {
                                ready.clear_ready();
                            }
                            read
                        }
                        Err(_) => Err(Errno::IO),
                    };
                    self.take(read.map(|length| &buffer[..length]));
                }
                ready = self.master.writable(), if self.open && !self.typed.is_empty() => {
                    let written = match ready {
                        Ok(mut ready) => {
                            let written = rustix::io::write(ready.get_inner(), &self.typed);
                            if written == Err(Errno::AGAIN) {
                                ready.clear_ready();
                            }
                            written
                        }
                        Err(_) => Err(Errno::IO),
                    };
                    match written {
                        Ok(length) => drop(self.typed.drain(..length)),
                        Err(Errno::INTR | Errno::AGAIN) => {}
                        Err(_) => self.typed.clear(),
                    }
                }
                // Also while a run does not read: who comes, leaves or has another size waits for nobody.
                Some(event) = self.told.recv() => self.heed(event),
                connection = self.listener.accept() => match connection {
                    Ok((connection, _)) => self.admit(connection),
                    // Out of descriptors, say: it is tried again, and not at once.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                status = self.session.wait() => {
                    self.rest();
                    return self.ended(status, commands).await;
                }
                () = heard(&mut term) => return self.stopped("SIGTERM", commands).await,
                () = heard(&mut int) => return self.stopped("SIGINT", commands).await,
            }
        }
    }

    /// Takes what was read. Says whether there may be more.
    fn take(&mut self, read: Result<&[u8], Errno>) -> bool {
        match read {
            Ok(bytes) if !bytes.is_empty() => {
                self.log.write(bytes);
                self.recent.push(bytes);
                for attached in &mut self.attached {
                    attached.send(bytes);
                }
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // Nobody has the other side any more.
            _ => {
                self.open = false;
                self.typed.clear();
                false
            }
        }
    }

    /// What was written before the session ended. A terminal holds less.
    fn rest(&mut self) {
        let mut buffer = [0; PIECE];
        for _ in 0..256 {
            let read = rustix::io::read(self.master.get_ref(), &mut buffer);
            if !self.take(read.map(|length| &buffer[..length])) {
                return;
            }
        }
    }

    fn heed(&mut self, event: Event) {
        match event {
            Event::Hello(mut attached) => {
                if self.attached.len() >= MOST {
                    let why = format!("{MOST} terminals are attached to it already");
                    let _ = attached.out.try_send(Frame::Refused(why).bytes().into());
                    return;
                }
                for piece in self.recent.shown().chunks(PIECE) {
                    attached.send(piece);
                }
                self.attached.push(attached);
            }
            // More than that nobody types: it is for a run that does not read, or has ended.
            Event::Input(bytes) if self.open && self.typed.len() < MOST_TYPED => {
                self.typed.extend_from_slice(&bytes);
            }
            Event::Input(_) => {}
            Event::Size(rows, columns) => resize(self.master.get_ref(), (rows, columns)),
            Event::Gone(id) => self.attached.retain(|attached| attached.id != id),
        }
    }

    /// Moves what goes between a connection and the holder.
    fn admit(&mut self, connection: UnixStream) {
        self.connections += 1;
        let (id, tell) = (self.connections, self.tell.clone());
        let (mut from, mut to) = connection.into_split();
        let (out, mut waiting) = mpsc::channel::<Bytes>(WAITING);
        let writer = tokio::spawn(async move {
            while let Some(bytes) = waiting.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        });
        tokio::spawn(async move {
            let mut new = Some(Attached { id, out, writer, missed: 0 });
            loop {
                let event = match (Frame::read(&mut from).await, &new) {
                    (Ok(Some(Frame::Hello)), Some(_)) => new.take().map(Event::Hello),
                    (Ok(Some(Frame::Input(bytes))), None) => Some(Event::Input(bytes)),
                    (Ok(Some(Frame::Size(rows, columns))), None) => {
                        Some(Event::Size(rows, columns))
                    }
                    (Err(error), Some(new)) => {
                        let _ = new.out.try_send(Frame::Refused(error.to_string()).bytes().into());
                        None
                    }
                    _ => None,
                };
                let Some(event) = event else { break };
                if tell.send(event).await.is_err() {
                    return;
                }
            }
            let _ = tell.send(Event::Gone(id)).await;
        });
    }

    /// How it ended, and that nothing of it is left where its session was killed.
    async fn ended(&self, status: io::Result<ExitStatus>, commands: &Commands) -> End {
        let why = records::why(&self.folder);
        match status.map(|status| status.code()) {
            Ok(Some(code)) if why.is_some() => End::now(How::Failed, Some(code), why),
            Ok(Some(code)) => End::now(How::Exited, Some(code), None),
            _ => {
                let mut told = "the process of bottle that ran it was killed".to_owned();
                if let Err(error) = cleaned(&commands.cleanup).await {
                    told += &format!("; what it started in the sandbox may run on: {error:#}");
                }
                End::now(How::Lost, None, Some(told))
            }
        }
    }

    /// The holder was asked to end, as by a host that goes down.
    async fn stopped(&mut self, by: &str, commands: &Commands) -> End {
        let pid = self.session.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = format!("bottle was asked to end it ({by} to what holds it)");
        if tokio::time::timeout(ENDING, self.session.wait()).await.is_err() {
            let _ = self.session.kill().await;
            let _ = cleaned(&commands.cleanup).await;
        }
        self.rest();
        End::now(How::Lost, None, Some(end))
    }

    /// Tells those who are attached, and waits until they have read it.
    async fn part(self, end: End) {
        let frame: Bytes = Frame::Ended(end).bytes().into();
        let parting = async {
            for Attached { out, writer, .. } in self.attached {
                let _ = out.send(frame.clone()).await;
                // Its writer ends once all is sent.
                drop(out);
                let _ = writer.await;
            }
        };
        let _ = tokio::time::timeout(PARTING, parting).await;
    }
}

/// A descriptor whose readiness is waited for.
#[expect(
    deprecated,
    reason = "its successor is unsafe; this owns the descriptor, which nobody replaces"
)]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

fn asked(kind: SignalKind) -> Option<tokio::signal::unix::Signal> {
    signal(kind).ok()
}

async fn heard(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// This program, also when its file was replaced since.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// Starts the session on a terminal of its own, and returns the other side of that.
fn on_terminal(commands: &Commands) -> anyhow::Result<(OwnedFd, Child)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let inner = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    resize(&master, commands.size);
    rustix::io::ioctl_fionbio(&master, true)?;
    let mut command = Command::new(program()?);
    command.args(&commands.session);
    command.stdin(Stdio::from(inner.try_clone()?)).stdout(Stdio::from(inner.try_clone()?));
    command.stderr(Stdio::from(inner));
    let session = command.spawn()?;
    Ok((master, session))
}

#[cfg(target_os = "linux")]
const CLOEXEC: OpenptFlags = OpenptFlags::CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOEXEC: OpenptFlags = OpenptFlags::empty();

fn resize(master: &OwnedFd, (rows, columns): (u16, u16)) {
    if rows > 0 && columns > 0 {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Has what runs in the sandbox ended.
async fn cleaned(command: &[OsString]) -> anyhow::Result<()> {
    let mut cleaning = Command::new(program()?);
    cleaning.args(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    cleaning.kill_on_drop(true);
    let output = tokio::time::timeout(CLEANING, cleaning.output()).await;
    let output = output.context("it took too long")??;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", words.trim());
    Ok(())
}
