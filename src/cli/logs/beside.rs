//! Logs of several sandboxes on one stdout: each line with the name of its sandbox before it.
//!
//! Each log is read at its own pace through a pipe of a bounded size, and lines are written whole. A guest that
//! ends no line keeps no other from being shown, and its line is cut where it gets too long.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Stdout};
use tokio::sync::Mutex;

use crate::backend::LogOptions;
use crate::cli::error::CliError;
use crate::cli::render::MAX_NAME;
use crate::cli::target::{self, Logged};
use crate::cli::ui::Ui;
use crate::model::text::Harmless;

/// A line that is longer is shown as several.
const LONGEST: usize = 16 * 1024;

/// How much of a log may wait for stdout.
const WAITING: usize = 64 * 1024;

/// Shows all of them: one after the other, or, where they are followed, each line as it comes. Says whether
/// each could be read.
pub(super) async fn show(ui: &Ui, logs: &[Logged], options: LogOptions) -> Result<bool, CliError> {
    let width = logs.iter().map(|log| log.sandbox.as_str().len()).max().unwrap_or(0).min(MAX_NAME);
    let out = Arc::new(Mutex::new(Out { stdout: tokio::io::stdout(), gone: false }));
    let harmless = io::stdout().is_terminal();
    let one = async |log: &Logged| {
        let prefix = format!("{:width$} | ", log.sandbox.as_str());
        let lines = Lines {
            prefix,
            held: Vec::new(),
            harmless: harmless.then(Harmless::default),
            out: out.clone(),
        };
        let (mut into, from) = tokio::io::duplex(WAITING);
        let reading = async {
            let read = log.backend.logs(&log.scope, &log.instance, options, &mut into).await;
            drop(into);
            read
        };
        let (read, written) = tokio::join!(reading, lines.pass(from));
        match (read, written) {
            (Err(error), Ok(true)) => Err(target::explain(error)),
            (_, Err(error)) => Err(CliError::from(error)),
            // Whoever read has seen enough.
            _ => Ok(()),
        }
    };
    let mut all = true;
    let mut tell = |log: &Logged, shown: Result<(), CliError>| {
        if let Err(mut error) = shown {
            all = false;
            error.error = error.error.context(format!("the log of {}", log.sandbox));
            ui.error(&error);
        }
    };
    if options.follow {
        let mut following: FuturesUnordered<_> =
            logs.iter().map(async |log| (log, one(log).await)).collect();
        while let Some((log, shown)) = following.next().await {
            tell(log, shown);
        }
    } else {
        for log in logs {
            let shown = one(log).await;
            tell(log, shown);
        }
    }
    Ok(all)
}

struct Out {
    stdout: Stdout,
    gone: bool,
}

impl Out {
    /// Writes whole lines. False: nobody reads any more.
    async fn write(&mut self, lines: &[u8]) -> io::Result<bool> {
        if self.gone {
            return Ok(false);
        }
        let written = async {
            self.stdout.write_all(lines).await?;
            self.stdout.flush().await
        };
        match written.await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }
}

/// The lines of one log.
struct Lines {
    prefix: String,
    held: Vec<u8>,
    harmless: Option<Harmless>,
    out: Arc<Mutex<Out>>,
}

impl Lines {
    /// Passes a log on to its end. False: nobody reads any more.
    async fn pass(mut self, mut from: impl AsyncRead + Unpin) -> io::Result<bool> {
        let mut buffer = vec![0; LONGEST];
        loop {
            let length = from.read(&mut buffer).await?;
            let lines = self.take(&buffer[..length], length == 0);
            if !lines.is_empty() && !self.out.lock().await.write(&lines).await? {
                return Ok(false);
            }
            if length == 0 {
                return Ok(true);
            }
        }
    }

    /// What of these bytes, and of what was held before, are lines by now.
    fn take(&mut self, bytes: &[u8], last: bool) -> Vec<u8> {
        match &mut self.harmless {
            Some(harmless) => {
                self.held.extend_from_slice(harmless.push(bytes).as_bytes());
                if last {
                    self.held.extend_from_slice(harmless.finish().as_bytes());
                }
            }
            None => self.held.extend_from_slice(bytes),
        }
        let mut lines = Vec::new();
        let mut from = 0;
        loop {
            let rest = &self.held[from..];
            let end = rest.iter().take(LONGEST).position(|byte| *byte == b'\n');
            let (length, skip) = match end {
                Some(end) => (end, 1),
                None if rest.len() >= LONGEST => (cut(rest), 0),
                None if last && !rest.is_empty() => (rest.len(), 0),
                None => break,
            };
            lines.extend_from_slice(self.prefix.as_bytes());
            lines.extend_from_slice(&rest[..length]);
            lines.push(b'\n');
            from += length + skip;
        }
        self.held.drain(..from);
        lines
    }
}

/// Where a line that is too long is cut: between two letters, if it has any.
fn cut(line: &[u8]) -> usize {
    let begins = |at: &usize| line[*at] & 0xc0 != 0x80;
    (LONGEST - 4..LONGEST).rev().find(begins).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        let out = Out { stdout: tokio::io::stdout(), gone: false };
        let out = Arc::new(Mutex::new(out));
        Lines { prefix: "ada | ".to_owned(), held: Vec::new(), harmless: None, out }
    }

    fn text(lines: &[u8]) -> &str {
        std::str::from_utf8(lines).unwrap()
    }

    #[test]
    fn only_whole_lines_are_shown_until_the_end() {
        let mut lines = lines();
        assert_eq!(text(&lines.take(b"one\ntw", false)), "ada | one\n");
        assert_eq!(text(&lines.take(b"o\n\nthr", false)), "ada | two\nada | \n");
        assert_eq!(text(&lines.take(b"", true)), "ada | thr\n");
        assert!(lines.take(b"", true).is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_not_held() {
        let mut lines = lines();
        let mut shown = 0;
        for _ in 0..1000 {
            shown += lines.take(&[b'x'; 5000], false).len();
            assert!(lines.held.len() < LONGEST && lines.held.capacity() < 4 * LONGEST);
        }
        assert!(shown > 4_900_000, "{shown}");
        let letters = "é".repeat(20_000);
        let shown = self::lines().take(letters.as_bytes(), false);
        assert!(std::str::from_utf8(&shown).is_ok());
    }

    #[test]
    fn on_a_terminal_nothing_is_obeyed() {
        let mut lines = lines();
        lines.harmless = Some(Harmless::default());
        let shown = lines.take("a\u{1b}]52;c;QUJD\u{7}\nb".as_bytes(), true);
        assert_eq!(text(&shown), "ada | a\u{fffd}]52;c;QUJD\u{fffd}\nada | b\n");
    }
}
