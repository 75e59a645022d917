//! stdout is data, stderr is talk. Colour only decorates: every message reads without it.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::args::{Color, Format, Global};
use super::error::CliError;
pub(super) use crate::model::text::harmless;
use crate::model::text::{escaped_json, only_colours};

/// The colours that mean something.
pub(super) mod style {
    use super::{AnsiColor, Style};

    pub(in crate::cli) const BOLD: Style = Style::new().bold();
    pub(in crate::cli) const DIM: Style = Style::new().dimmed();
    pub(in crate::cli) const GOOD: Style = AnsiColor::Green.on_default();
    pub(in crate::cli) const CHANGE: Style = AnsiColor::Yellow.on_default();
    pub(in crate::cli) const BAD: Style = AnsiColor::Red.on_default();
    pub(in crate::cli) const ERROR: Style = AnsiColor::Red.on_default().bold();
    pub(in crate::cli) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    pub(in crate::cli) const HINT: Style = AnsiColor::Cyan.on_default();
}

/// Text in a style.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The terminal, or what stands in its place.
#[derive(Debug)]
pub(super) struct Ui {
    pub(super) format: Format,
    choice: ColorChoice,
    /// Below zero: no talk but errors.
    verbosity: i8,
    reader_gone: AtomicBool,
    /// What is said, where nothing else may write on the terminal.
    caught: Option<Mutex<String>>,
}

impl Ui {
    pub(super) fn new(global: &Global) -> Self {
        Self {
            format: global.output,
            choice: choice(global.color),
            verbosity: global.verbosity(),
            reader_gone: AtomicBool::new(false),
            caught: None,
        }
    }

    /// One that writes nothing, asks nobody, and keeps what is said.
    pub(super) fn caught(global: &Global) -> Self {
        let format = Format::Text;
        Self { format, caught: Some(Mutex::default()), ..Self::new(global) }
    }

    /// What was said, in one text without colours; `else_say` where that is nothing.
    pub(super) fn caught_text(&self, else_say: &str) -> String {
        let said = self.caught.as_ref().map(|said| {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            anstream::adapter::strip_str(said.trim_end()).to_string()
        });
        said.filter(|said| !said.trim().is_empty()).unwrap_or_else(|| else_say.to_owned())
    }

    fn catch(&self, text: &str) -> bool {
        let Some(said) = &self.caught else { return false };
        said.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        true
    }

    /// More is to be said than what matters.
    pub(super) fn verbose(&self) -> bool {
        self.verbosity > 0
    }

    pub(super) fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// A person can be asked: they see stderr and can answer on stdin.
    pub(super) fn can_ask(&self) -> bool {
        self.caught.is_none() && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Live lines can be drawn on stderr, and nothing else writes between them.
    pub(super) fn can_draw(&self) -> bool {
        self.caught.is_none() && io::stderr().is_terminal() && self.verbosity == 0
    }

    pub(super) fn talks(&self) -> bool {
        self.verbosity >= 0
    }

    /// How wide text on stdout may be.
    pub(super) fn width(&self) -> usize {
        width_of(io::stdout()).map_or(80, |(columns, _)| columns.clamp(60, 120))
    }

    /// Writes data to stdout. A reader that went away is no error, and no reason to stop work.
    pub(super) fn data(&self, text: &str) -> io::Result<()> {
        if self.reader_gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.catch(text) {
            return Ok(());
        }
        let text = if self.json() { escaped_json(text) } else { only_colours(text) };
        let mut out = AutoStream::new(io::stdout().lock(), self.choice);
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone.store(true, Ordering::Relaxed);
                Ok(())
            }
            done => done,
        }
    }

    /// Writes the one document of `-o json`.
    pub(super) fn document<T: Serialize>(&self, document: &T) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        self.data(&text)
    }

    /// Writes to stderr; that nobody reads it is no error.
    fn talk(&self, text: &str) {
        if self.catch(text) {
            return;
        }
        let text = only_colours(text);
        let mut err = AutoStream::new(io::stderr().lock(), self.choice);
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }

    /// Says something that a person may want to know.
    pub(super) fn say(&self, line: &str) {
        if self.talks() {
            self.talk(&format!("{line}\n"));
        }
    }

    /// Says what a person has to know, also one who wants to hear little.
    pub(super) fn warn(&self, line: &str) {
        self.talk(&format!("{line}\n"));
    }

    /// Puts a question, without a line break behind it.
    pub(super) fn ask(&self, question: &str) {
        self.talk(question);
    }

    /// Draws on the terminal that stderr is: moves of the cursor are no colour, and pass.
    pub(super) fn draw(&self, frame: &str) {
        if self.catch(frame) {
            return;
        }
        let mut err = io::stderr().lock();
        let _ = err.write_all(frame.as_bytes()).and_then(|()| err.flush());
    }

    /// stdout is a terminal, on which what it shows can be replaced.
    pub(super) fn can_show(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Shows this text on the terminal that stdout is, in the place of what it showed; what does not fit is left out.
    pub(super) fn show(&self, text: &str) -> io::Result<()> {
        let rows = width_of(io::stdout()).map_or(24, |(_, rows)| rows);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.truncate(rows.saturating_sub(1).max(1));
        let colours = AutoStream::new(io::stdout(), self.choice).current_choice();
        // Line by line over what is there, so that nothing flickers.
        let mut frame = "\x1b[H".to_owned();
        for line in lines {
            let line = only_colours(line);
            match colours {
                ColorChoice::Never => {
                    frame.push_str(&anstream::adapter::strip_str(&line).to_string())
                }
                _ => frame.push_str(&line),
            }
            frame.push_str("\x1b[K\r\n");
        }
        frame.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes()).and_then(|()| out.flush())
    }

    /// Tells an error: what failed, its causes, what to do.
    pub(super) fn error(&self, error: &CliError) {
        let mut text = String::new();
        if !error.diagnostics.is_empty() {
            text.push_str(&super::render::diagnostics(&error.diagnostics, screen().0));
            text.push('\n');
        }
        let chain = error.chain();
        let message = chain.first().map(|message| harmless(message)).unwrap_or_default();
        text.push_str(&format!("{} {message}\n", paint(style::ERROR, "error:")));
        for cause in chain.iter().skip(1) {
            text.push_str(&format!("  caused by: {}\n", harmless(cause)));
        }
        for hint in &error.hints {
            text.push_str(&format!("  {} {}\n", paint(style::HINT, "hint:"), harmless(hint)));
        }
        self.talk(&text);
    }
}

fn choice(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::AlwaysAnsi,
        Color::Never => ColorChoice::Never,
    }
}

/// Whether stdout shows colour.
pub(super) fn colours_stdout(ui: &Ui) -> bool {
    AutoStream::new(io::stdout(), ui.choice).current_choice() != ColorChoice::Never
}

/// Whether stderr shows colour.
pub(super) fn colours_stderr(color: Color) -> bool {
    let stderr = AutoStream::new(io::stderr(), choice(color));
    stderr.current_choice() != ColorChoice::Never
}

/// Columns and rows, where it is a terminal.
fn width_of(stream: impl std::os::fd::AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Columns and rows of stderr's terminal.
pub(super) fn screen() -> (usize, usize) {
    width_of(io::stderr()).unwrap_or((80, 24))
}
