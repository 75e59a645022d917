#![expect(clippy::disallowed_methods, reason = "says when a key came")]
//! The terminal: taken, and given back whatever happens. A panic gives it back before it is told.

use std::io::{self, Write as _};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event as Input, KeyCode, KeyEventKind,
    KeyModifiers,
};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::app::{App, Drawn};
use super::draw::draw;
use super::event::{At, Event, Key};

/// The terminal is in a state that a shell does not want.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Some thread panicked, and the terminal was given back.
static BROKEN: Notify = Notify::const_new();
static HOOKED: Once = Once::new();

/// Keeps the window's title, and brings it back: where a terminal does not know that, it does nothing.
const KEEP_TITLE: &[u8] = b"\x1b[22;2t";
const BRING_TITLE: &[u8] = b"\x1b[23;2t";

/// The terminal, as long as this is there.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        HOOKED.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if give_back() {
                    BROKEN.notify_one();
                }
                before(panic);
            }));
        });
        take()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).inspect_err(|_| {
            give_back();
        })?;
        Ok(Self { terminal })
    }

    /// Gives it back.
    pub(super) fn give_back(self) {
        give_back();
    }

    /// Draws what has changed of the picture.
    pub(super) fn draw(&mut self, app: &App) -> io::Result<Drawn> {
        let mut drawn = Drawn::default();
        self.terminal.draw(|frame| drawn = draw(app, frame.buffer_mut()))?;
        Ok(drawn)
    }

    /// Takes the terminal anew, whatever became of it meanwhile, and forgets what is on it.
    pub(super) fn again(&mut self) -> io::Result<()> {
        give_back();
        take()?;
        // Not `clear`, which asks the terminal where its cursor is, and its answer is read by another thread.
        let area = self.terminal.size()?.into();
        self.terminal.resize(area)
    }

    /// Stops this process and those that are in its job, and goes on when they are continued. Says whether there is
    /// somebody who could do that.
    pub(super) fn suspend(&mut self) -> io::Result<bool> {
        use rustix::process::{Signal, getpid, getsid, kill_current_process_group};
        if getsid(None).is_ok_and(|session| session == getpid()) {
            return Ok(false);
        }
        give_back();
        kill_current_process_group(Signal::STOP)?;
        self.again()?;
        Ok(true)
    }

    /// Lends the terminal to a program, until whoever used it goes back.
    pub(super) async fn lend(&mut self, mut program: Command) -> io::Result<()> {
        give_back();
        let ended = program.status().await;
        {
            let mut out = io::stdout().lock();
            if let Err(error) = ended {
                writeln!(out, "{error}")?;
            }
            write!(out, "\nEnter goes back to the dashboard ")?;
            out.flush()?;
        }
        let read = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
        // Whatever became of that line: it goes back.
        let _ = read.await;
        self.again()
    }

    /// Rings, and says how many requests wait.
    pub(super) fn ring(&mut self, requests: usize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "\x07\x1b]2;bottle: {requests} waiting\x1b\\")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Waits until a panic somewhere has given the terminal back.
pub(super) async fn broken() {
    BROKEN.notified().await;
}

fn take() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode().and_then(|()| {
        let mut out = io::stdout().lock();
        out.write_all(KEEP_TITLE)?;
        execute!(out, EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)
    });
    if taken.is_err() {
        give_back();
    }
    taken
}

/// Gives the terminal back, if it was taken.
fn give_back() -> bool {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return false;
    }
    let mut out = io::stdout().lock();
    // That nobody reads it any more is no reason not to go on with the rest.
    let _ = execute!(out, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
    let _ = out.write_all(BRING_TITLE).and_then(|()| out.flush());
    let _ = disable_raw_mode();
    true
}

/// Panics at a key, where a test says so.
#[cfg(any(test, feature = "testing"))]
pub(super) fn panic_for_tests(event: &Event) {
    if matches!(event, Event::Key(Key::Ctrl('p')))
        && std::env::var_os("BOTTLE_TEST_PANIC").is_some()
    {
        panic!("a test asked for it");
    }
}

/// Says when things happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> At {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        At { ms: u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX), epoch }
    }
}

/// What is typed, and when it came. A thread of its own waits for it, which ends with the process. It reads on when it
/// is told so, and not before: somebody else may have the terminal meanwhile.
pub(super) fn input(clock: Clock) -> (UnboundedReceiver<(At, Event)>, std::sync::mpsc::Sender<()>) {
    let (send, receive) = unbounded_channel();
    let (go_on, permit) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(input) = event::read() {
            let Some(event) = read(input) else { continue };
            if send.send((clock.now(), event)).is_err() || permit.recv().is_err() {
                return;
            }
        }
    });
    (receive, go_on)
}

fn read(input: Input) -> Option<Event> {
    match input {
        Input::Key(key) if key.kind != KeyEventKind::Release => {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            let other = key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::META);
            let key = match key.code {
                KeyCode::Char(c) if control => Key::Ctrl(c.to_ascii_lowercase()),
                KeyCode::Char(c) if !other => Key::Char(c),
                KeyCode::Enter => Key::Enter,
                KeyCode::Esc => Key::Esc,
                KeyCode::Backspace => Key::Backspace,
                KeyCode::Tab => Key::Tab,
                KeyCode::BackTab => Key::BackTab,
                KeyCode::Up => Key::Up,
                KeyCode::Down => Key::Down,
                KeyCode::Left => Key::Left,
                KeyCode::Right => Key::Right,
                KeyCode::PageUp => Key::PageUp,
                KeyCode::PageDown => Key::PageDown,
                KeyCode::Home => Key::Home,
                KeyCode::End => Key::End,
                _ => return None,
            };
            Some(Event::Key(key))
        }
        Input::Paste(text) => Some(Event::Paste(text)),
        Input::Resize(..) => Some(Event::Resized),
        _ => None,
    }
}
