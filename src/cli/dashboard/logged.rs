//! What would be logged on stderr goes to the dashboard while that has the screen.

use std::io;
use std::sync::OnceLock;

use tokio::sync::mpsc::UnboundedSender;

use crate::dashboard::tui::Event;

static TO: OnceLock<UnboundedSender<Event>> = OnceLock::new();

/// Takes lines of the log.
pub(in crate::cli) struct Logged;

/// From now on they go there. Until then they go to stderr.
pub(super) fn to(send: UnboundedSender<Event>) {
    // There is one dashboard in a process.
    let _ = TO.set(send);
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(send) = TO.get() else { return io::stderr().write(bytes) };
        let text = String::from_utf8_lossy(bytes).trim().to_owned();
        // Nobody listens any more when it ends.
        let _ = send.send(Event::Noted(text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
