//! A command on the caller's own stdio: raw terminal, its size followed, stdin half-closed.

use std::io::{IsTerminal, Read};

use bollard::container::LogOutput;
use bollard::exec::ResizeExecOptions;
use bytes::Bytes;
use futures_util::StreamExt;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::engine::Engine;
use super::exec;
use crate::backend::{Attach, BackendError, ExecSpec};
use crate::model::Instance;

/// 128 + SIGPIPE: how a shell tells that a command's reader went away.
const BROKEN_PIPE: i32 = 141;

pub(super) async fn attach(
    engine: &Engine,
    instance: &Instance,
    spec: &ExecSpec,
    attach: Attach,
) -> Result<i32, BackendError> {
    let what = || format!("running a command in {}", instance.name);
    let id = exec::create(engine, instance, spec, attach.stdin, attach.tty).await?;
    let (mut output, input) = exec::start(engine, instance, &id, attach.tty).await?;
    // Restored on every way out, panics and cancellation among them.
    let _raw = attach.tty.then(RawTerminal::enter).flatten();
    let sending = async {
        if attach.stdin {
            send(input).await;
        }
        std::future::pending::<()>().await;
    };
    let sizing = async {
        if attach.tty {
            follow_size(engine, &id).await;
        }
        std::future::pending::<()>().await;
    };
    let receiving = async {
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        let mut refusal = Refusal::default();
        while let Some(chunk) = output.next().await {
            let written = match chunk.map_err(|e| engine.failed(what(), e))? {
                LogOutput::StdErr { message } => write(&mut stderr, &message).await,
                other => {
                    refusal.see(other.as_ref());
                    if refusal.is_one() {
                        write(&mut stderr, other.as_ref()).await
                    } else {
                        write(&mut stdout, other.as_ref()).await
                    }
                }
            };
            // A closed pipe is no error, but there is nobody left to write to. The command may go on
            // writing for ever, so its end is not waited for.
            match written {
                Ok(()) => {}
                Err(error) if !attach.tty && !is_gone(&error) => {
                    let error =
                        anyhow::Error::from(error).context("writing what the command wrote");
                    return Err(BackendError::failed(what(), error));
                }
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(refusal))
    };
    let refusal: Result<Option<Refusal>, BackendError> = tokio::select! {
        done = receiving => done,
        () = sending => unreachable!("it never ends"),
        () = sizing => unreachable!("it never ends"),
    };
    let Some(refusal) = refusal? else { return Ok(BROKEN_PIPE) };
    let ended = exec::ended(engine, instance, &id).await?;
    exec::must_have_run(engine, instance, ended, &refusal.0).await?;
    Ok(refusal.code(ended.code))
}

/// Whether whoever read has gone away.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

async fn write(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes).await?;
    out.flush().await
}

/// Forwards our stdin, then closes the command's and leaves its output open.
async fn send(mut input: std::pin::Pin<Box<dyn AsyncWrite + Send>>) {
    let mut chunks = read_stdin();
    while let Some(chunk) = chunks.recv().await {
        if input.write_all(&chunk).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    drop(input.shutdown().await);
    // Dropping it would close the output too.
    std::future::pending::<()>().await;
}

/// Our stdin, read on a thread of its own: a read that waits for a key must not keep the process
/// from ending when the command has ended.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let chunk = Bytes::copy_from_slice(&buffer[..count]);
                    if sender.blocking_send(chunk).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Gives the command's terminal the size of ours, now and whenever ours changes.
async fn follow_size(engine: &Engine, id: &str) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = termios::tcgetwinsize(std::io::stdout())
            && size.ws_row > 0
            && size.ws_col > 0
        {
            let options = ResizeExecOptions { height: size.ws_row, width: size.ws_col };
            // The size is a comfort; the command may also have ended just now.
            if let Err(error) = engine.client.resize_exec(id, options).await {
                tracing::debug!(%error, "cannot set the terminal's size");
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Our terminal in raw mode, for as long as this lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done where this fails: the terminal is gone.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// The start of the output, by which a command that could not be run is known.
#[derive(Default)]
struct Refusal(Vec<u8>);

impl Refusal {
    /// Longer than any text of a runtime.
    const KEPT: usize = 2048;

    fn see(&mut self, bytes: &[u8]) {
        let room = Self::KEPT.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
    }

    /// Engines put the words of the runtime where the command's output should be.
    fn is_one(&self) -> bool {
        exec::are_engines(&self.0)
    }

    fn code(&self, code: i32) -> i32 {
        if matches!(code, 126 | 127) && self.is_one() {
            exec::code_of_refusal(&String::from_utf8_lossy(&self.0))
        } else {
            code
        }
    }
}
