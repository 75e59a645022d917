//! Questions to a person at a terminal.

use std::io::{self, BufRead as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::error::CliError;
use super::signals;
use super::ui::Ui;
use crate::apply::Stop;

/// A line that was typed has fewer bytes than this, or its end was dropped by the kernel.
const TYPED: usize = 4095;

/// Puts a yes-or-no question; anything but yes is no.
pub(super) async fn confirm(ui: &Ui, stop: &Stop, question: &str) -> Result<bool, CliError> {
    ui.ask(&format!("{question} [y/N] "));
    let answer = signals::or_stop(stop, line()).await;
    if answer.is_err() {
        ui.ask("\n");
    }
    Ok(matches!(answer?.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a line; empty: none.
pub(super) async fn line_of(ui: &Ui, stop: &Stop, question: &str) -> Result<String, CliError> {
    ui.ask(&format!("{question}: "));
    Ok(signals::or_stop(stop, line()).await?.trim().to_owned())
}

/// Asks for a value without showing it; empty: none.
pub(super) async fn hidden(
    ui: &Ui,
    stop: &Stop,
    name: &str,
) -> Result<Option<Zeroizing<String>>, CliError> {
    ui.ask(&format!("{name} (hidden, empty to leave it out): "));
    let silence = Silence::begin()?;
    let answer = signals::or_stop(stop, line()).await;
    drop(silence);
    ui.ask("\n");
    let answer = answer?;
    let value = answer.strip_suffix('\n').unwrap_or(&answer);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.len() >= TYPED {
        let told = format!("a terminal passes on {TYPED} bytes of a line, and drops the rest");
        return Err(CliError::failed(told).hint("give a long value with `--env-file FILE`"));
    }
    Ok((!value.is_empty()).then(|| Zeroizing::new(value.to_owned())))
}

/// A line of stdin. It is read by a thread of its own, which a signal leaves behind: the runtime
/// would wait for one of its own.
async fn line() -> Result<Zeroizing<String>, CliError> {
    let (send, receive) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = Zeroizing::new(String::with_capacity(4096));
        let read = io::stdin().lock().read_line(&mut line).map(|_| line);
        // Nobody waits any more after a signal.
        let _ = send.send(read);
    });
    match receive.await {
        Ok(line) => Ok(line?),
        Err(_) => Err(CliError::failed("reading the answer")),
    }
}

/// The terminal does not show what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
