//! `bottle logs`: the main process's output, or the record of the sidecar or the git gate.

use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::args::{Global, LogsArgs, Since};
use super::error::{CliError, Exit};
use super::target::{self, Target};
use super::ui::Ui;
use crate::backend::{BackendError, LogOptions};
use crate::model::ResourceKind;
use crate::model::text::{Harmless, harmless_line};

mod beside;

pub(super) async fn run(ui: &Ui, global: &Global, args: &LogsArgs) -> Result<Exit, CliError> {
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail,
        since: args.since.map(Since::moment),
        timestamps: args.timestamps,
    };
    if let [name] = args.names.as_slice() {
        return one(global, name, args.kind(), options).await;
    }
    let of = target::several(global, &args.names, args.kind()).await?;
    for told in &of.unreachable {
        ui.warn(&format!("error: {}", harmless_line(told)));
    }
    let shown = beside::show(ui, &of.logs, options).await?;
    Ok(if shown && of.unreachable.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The output of one sandbox, as it is.
async fn one(
    global: &Global,
    name: &str,
    kind: ResourceKind,
    options: LogOptions,
) -> Result<Exit, CliError> {
    let target = Target::find(global, name).await?;
    let beside = match kind {
        ResourceKind::Sidecar => &target.sidecar,
        ResourceKind::Gate => &target.gate,
        _ => &None,
    };
    let instance = match (kind, beside) {
        (ResourceKind::Sidecar | ResourceKind::Gate, None) => {
            return Err(target::none_beside(&target.sandbox, kind));
        }
        (_, Some(beside)) => beside,
        (_, None) => &target.machine,
    };
    let mut out = tokio::io::stdout();
    let shown = if io::stdout().is_terminal() {
        let mut out = OnTerminal::new(out);
        let shown = target.backend.logs(&target.scope, instance, options, &mut out).await;
        // Nobody reads on: that is no failure, and neither is it here.
        drop(out.shutdown().await);
        shown
    } else {
        target.backend.logs(&target.scope, instance, options, &mut out).await
    };
    match shown {
        Err(error) if !reader_is_gone(&error) => Err(target::explain(error)),
        _ => Ok(Exit::Done),
    }
}

/// So much is made harmless at once: what is shown of it can be three times as long, and is held.
const PIECE: usize = 64 * 1024;

/// Shows on a terminal what a guest wrote, without what a terminal would obey. Elsewhere the bytes pass
/// as they are.
struct OnTerminal<W> {
    out: W,
    text: Harmless,
    /// What is to be written, and how much of it was.
    pending: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> OnTerminal<W> {
    fn new(out: W) -> Self {
        Self { out, text: Harmless::default(), pending: Vec::new(), written: 0 }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let part = &self.pending[self.written..];
            let count = ready!(Pin::new(&mut self.out).poll_write(cx, part))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for OnTerminal<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.drain(cx))?;
        let bytes = &bytes[..bytes.len().min(PIECE)];
        let shown = self.text.push(bytes);
        self.pending.extend_from_slice(shown.as_bytes());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.out).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let last = self.text.finish();
        self.pending.extend_from_slice(last.as_bytes());
        self.poll_flush(cx)
    }
}

/// Whoever read has seen enough.
fn reader_is_gone(error: &BackendError) -> bool {
    let BackendError::Failed { source, .. } = error else { return false };
    source
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_terminal_is_not_moved_by_what_a_guest_logs() {
        let mut written = Vec::new();
        let mut out = OnTerminal::new(&mut written);
        for part in ["\u{1b}]52;c;QU", "JD\u{7}a\u{1b}[", "2J\u{1b}[31mred\u{1b}[0m\r\n\u{e0041}"] {
            out.write_all(part.as_bytes()).await.unwrap();
            out.flush().await.unwrap();
        }
        out.shutdown().await.unwrap();
        let shown = String::from_utf8(written).unwrap();
        let hidden = '\u{fffd}';
        assert_eq!(shown, format!("{hidden}]52;c;QUJD{hidden}a{hidden}[2Jred\n{hidden}"));
    }
}
