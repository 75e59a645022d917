//! `bottle attach`: comes back to a run that was left to itself.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::args::{AttachArgs, Global};
use super::error::{CliError, Exit};
use super::runs;
use super::status_text::age;
use super::target::Target;
use super::ui::Ui;
use crate::model::SandboxId;
use crate::model::text::harmless_line;
use crate::reconcile::TreeState;
use crate::reconcile::detached::wire::{self, Frame};
use crate::reconcile::detached::{self, Detached, End, How, RunDocument, Standing};
use crate::reconcile::state::now;

mod keys;

use keys::{Keys, Typed};

/// How long a program gets to notice a size, so that it draws anew when it is set right.
const NOTICE: Duration = Duration::from_millis(100);

/// How long the end of a run may take to be written where its holder was killed, until this sees to it.
const WRITTEN: Duration = Duration::from_secs(5);

/// What programs set on a terminal and whoever leaves them behind does not want: another screen, a hidden cursor,
/// reports of the mouse and of pastes, colours.
const RESET: &[u8] =
    b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[<u\x1b[0m";

pub(super) async fn run(ui: &Ui, global: &Global, args: &AttachArgs) -> Result<Exit, CliError> {
    let sandbox = SandboxId::new(args.name.as_str()).map_err(anyhow::Error::from)?;
    let memory = runs::memory(global).await?;
    if memory
        .runs()?
        .iter()
        .any(|run| run.record.sandbox == sandbox && run.standing == Standing::Dropped)
        && let Ok(target) = Target::find(global, sandbox.as_str()).await
    {
        runs::settle(&target, &memory).await;
    }
    let run = match find(&memory, &sandbox, args.id.as_deref())? {
        Some(run) => run,
        None => {
            // One that is not there has no run either, and that is said.
            Target::find(global, sandbox.as_str()).await?;
            return Err(CliError::failed(format!("there is no detached run of {sandbox}"))
                .hint(format!("`bottle run -d {sandbox}` starts one")));
        }
    };
    if !run.runs() {
        return Err(over(&run));
    }
    let connection = match wire::connect(run.folder()).await {
        Ok(connection) => connection,
        Err(error) => {
            let run = detached::at(run.folder())?;
            if !run.runs() {
                return Err(over(&run));
            }
            let told = format!("the run {} of {sandbox} cannot be attached to", run.record.id);
            return Err(anyhow::Error::from(error).context(told).into());
        }
    };
    let left = attached(connection).await?;
    match left {
        Left::Alone => {
            ui.say(&format!(
                "{sandbox} goes on by itself: `bottle attach {sandbox} {}` comes back to it",
                run.record.id
            ));
            Ok(Exit::Done)
        }
        Left::ByReader => Ok(Exit::Done),
        Left::Signal(code) => Ok(Exit::Of(code)),
        Left::Refused(why) => Err(CliError::failed(why)),
        Left::Ended(end) => ended(ui, &run, &end),
        Left::Dropped => {
            let end = match end_of(&run).await? {
                Some(end) => end,
                // Whoever would have written it was killed as well.
                None => {
                    if let Ok(target) = Target::find(global, sandbox.as_str()).await {
                        runs::settle(&target, &memory).await;
                    }
                    end_of(&run).await?.unwrap_or_else(|| run.dropped())
                }
            };
            ended(ui, &run, &end)
        }
    }
}

/// The run that is meant; `None`: there is none of this sandbox.
fn find(
    memory: &TreeState,
    sandbox: &SandboxId,
    id: Option<&str>,
) -> Result<Option<Detached>, CliError> {
    let mut all: Vec<Detached> = memory.runs()?;
    all.retain(|run| run.record.sandbox == *sandbox);
    if all.is_empty() {
        return Ok(None);
    }
    if let Some(id) = id {
        all.retain(|run| run.record.id.starts_with(id) && !id.is_empty());
        return match all.len() {
            1 => Ok(all.pop()),
            0 => {
                Err(CliError::failed(format!("there is no run {} of {sandbox}", harmless_line(id)))
                    .hint(format!("`bottle run --list {sandbox}` shows them")))
            }
            _ => Err(CliError::failed(format!(
                "{} names several runs of {sandbox}",
                harmless_line(id)
            ))
            .hint("name it whole")),
        };
    }
    let running: Vec<&Detached> = all.iter().filter(|run| run.runs()).collect();
    match running.as_slice() {
        [one] => Ok(Some((*one).clone())),
        [] => Ok(all.pop()),
        several => {
            let ids: Vec<&str> = several.iter().map(|run| run.record.id.as_str()).collect();
            let told = format!("{} runs of {sandbox} are under way: {}", ids.len(), ids.join(", "));
            Err(CliError::failed(told)
                .hint(format!("name one: `bottle attach {sandbox} {}`", ids[0])))
        }
    }
}

/// That a run is over: how, when, and where its log is.
fn over(run: &Detached) -> CliError {
    let document = RunDocument::of(run);
    let end = match &run.standing {
        Standing::Ended(end) => end.clone(),
        _ => run.dropped(),
    };
    let when = match document.ended {
        Some(at) => format!(" {} ago", age(now().saturating_sub(at))),
        None => String::new(),
    };
    let (id, sandbox) = (&document.id, &document.sandbox);
    let told = match &end.why {
        Some(why) => format!("the run {id} of {sandbox} {} {when}: {why}", word(&end)),
        None => format!("the run {id} of {sandbox} {}{when}", word(&end)),
    };
    CliError::failed(told.replace("  ", " "))
        .hint(format!("what it wrote is in {}", document.log.display()))
        .hint(format!("`bottle run -d {sandbox}` starts another"))
}

/// `ended with 3`, `was lost`.
fn word(end: &End) -> String {
    let mut end = end.clone();
    end.why = None;
    end.to_string()
}

/// What is said of the end of a run to whoever was attached. Its exit code is passed on.
fn ended(ui: &Ui, run: &Detached, end: &End) -> Result<Exit, CliError> {
    let (id, sandbox) = (&run.record.id, &run.record.sandbox);
    match (end.how, end.code) {
        (How::Exited, Some(code)) => {
            ui.say(&format!("the run {id} of {sandbox} ended with {code}"));
            Ok(Exit::Of(code))
        }
        _ => Err(CliError::failed(format!("the run {id} of {sandbox} {end}"))
            .hint(format!("what it wrote is in {}", run.log().display()))),
    }
}

/// The end of a run whose holder says nothing any more.
async fn end_of(run: &Detached) -> Result<Option<End>, CliError> {
    let waiting = async {
        loop {
            let now = detached::at(run.folder())?;
            if let Standing::Ended(end) = now.standing {
                return Ok::<_, anyhow::Error>(end);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(WRITTEN, waiting).await {
        Ok(end) => Ok(Some(end?)),
        Err(_) => Ok(None),
    }
}

/// Why nobody is attached any more.
enum Left {
    /// The run has ended.
    Ended(End),
    /// What held it says nothing more.
    Dropped,
    /// It is not to be attached to.
    Refused(String),
    /// The detach keys.
    Alone,
    /// Nobody reads stdout any more.
    ByReader,
    /// A signal came.
    Signal(i32),
}

/// Passes bytes between this terminal and the run.
async fn attached(connection: UnixStream) -> Result<Left, CliError> {
    let terminal = io::stdin().is_terminal();
    let (mut from, mut to) = connection.into_split();
    let mut sizes = signal(SignalKind::window_change())?;
    let mut signals = [
        (signal(SignalKind::interrupt())?, 130),
        (signal(SignalKind::terminate())?, 143),
        (signal(SignalKind::hangup())?, 129),
    ];
    send(&mut to, &Frame::Hello).await;
    let _raw = Raw::enter();
    let (sizes_to, sizes_from) = mpsc::channel(4);
    let (leave, mut left_alone) = oneshot::channel();
    // Apart from all else: a run that does not read what is typed keeps nobody from leaving.
    let typing = tokio::spawn(async move {
        if type_in(&mut to, terminal, sizes_from).await {
            let _ = leave.send(());
        }
        // Closing it would say that nobody is attached any more.
        std::future::pending::<()>().await;
        drop(to);
    });
    let (frames, mut coming) = mpsc::channel(16);
    let reading = tokio::spawn(async move {
        // A frame is read whole: this is not dropped half-way.
        while let Ok(Some(frame)) = Frame::read(&mut from).await {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    });
    let mut out = tokio::io::stdout();
    let [int, term, hup] = &mut signals;
    let left = loop {
        tokio::select! {
            frame = coming.recv() => match frame {
                Some(Frame::Output(bytes)) => {
                    let written = async {
                        out.write_all(&bytes).await?;
                        out.flush().await
                    };
                    match written.await {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Left::ByReader,
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(Frame::Ended(end)) => break Left::Ended(end),
                Some(Frame::Refused(why)) => break Left::Refused(why),
                Some(_) => {}
                None => break Left::Dropped,
            },
            Ok(()) = &mut left_alone => break Left::Alone,
            _ = sizes.recv() => if let Some(size) = size() {
                // Where four are on their way, the next change is noticed.
                let _ = sizes_to.try_send(size);
            },
            _ = int.0.recv() => break Left::Signal(int.1),
            _ = term.0.recv() => break Left::Signal(term.1),
            _ = hup.0.recv() => break Left::Signal(hup.1),
        }
    };
    reading.abort();
    typing.abort();
    if terminal && io::stdout().is_terminal() {
        drop(out.write_all(RESET).await);
        drop(out.write_all(b"\r\n").await);
        drop(out.flush().await);
    }
    Ok(left)
}

/// Sends what is typed, and the sizes of this terminal. Says whether the keys were typed that leave the run; it
/// returns also once nobody takes any more.
async fn type_in(
    to: &mut OwnedWriteHalf,
    terminal: bool,
    mut sizes: mpsc::Receiver<(u16, u16)>,
) -> bool {
    if let Some((rows, columns)) = size() {
        // A program draws anew when its size changes: the same one twice would be no change.
        send(to, &Frame::Size(rows.saturating_sub(1).max(1), columns)).await;
        tokio::time::sleep(NOTICE).await;
        send(to, &Frame::Size(rows, columns)).await;
    }
    let (mut keys, mut typed, mut input) = (Keys::default(), read_stdin(), true);
    loop {
        tokio::select! {
            bytes = typed.recv(), if input => match bytes {
                None => input = false,
                Some(bytes) if terminal => match keys.push(&bytes) {
                    Typed::Keys(bytes) => send(to, &Frame::Input(bytes)).await,
                    Typed::Leave(bytes) => {
                        send(to, &Frame::Input(bytes)).await;
                        return true;
                    }
                },
                Some(bytes) => send(to, &Frame::Input(bytes)).await,
            },
            size = sizes.recv() => match size {
                Some((rows, columns)) => send(to, &Frame::Size(rows, columns)).await,
                None => return false,
            },
        }
    }
}

/// What cannot be sent is not: that the holder is gone is read from its end.
async fn send(to: &mut OwnedWriteHalf, frame: &Frame) {
    if matches!(frame, Frame::Input(bytes) if bytes.is_empty()) {
        return;
    }
    let _ = to.write_all(&frame.bytes()).await;
}

fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some((size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Our stdin, read on a thread of its own: a read that waits for a key must not keep the process from ending.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Our terminal in raw mode, for as long as this lives.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let before = rustix::termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done where this fails: the terminal is gone.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
