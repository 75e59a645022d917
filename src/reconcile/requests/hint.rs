//! Hints that an agent asks for something: a line in the record of its sidecar. A hint only hurries a pass, which
//! reads what is asked for; one that is missed costs the time until the next.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::backend::{Backend, LogOptions, Scope};
use crate::model::{Instance, InstanceId, InstanceState, Ownership, ResourceKind, SandboxId};
use crate::reconcile::pass::Reconciler;
use crate::reconcile::state::TreeState;
use crate::reconcile::trigger::Trigger;
use crate::reconcile::view::View;

/// How often is looked whether somebody has decided about a request.
const LOOK: Duration = Duration::from_millis(200);
/// A record that ended is followed again after so long.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest line that can be a hint.
const LINE: usize = 4096;

/// Follows the records of sidecars whose agents may ask.
pub(in crate::reconcile) struct Hints {
    send: UnboundedSender<Trigger>,
    followed: BTreeMap<(InstanceId, Option<String>), Follower>,
}

/// One that is followed, until it is dropped.
struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hints {
    pub(in crate::reconcile) fn new(send: UnboundedSender<Trigger>) -> Self {
        Self { send, followed: BTreeMap::new() }
    }

    /// Follows those that this view shows, and no others.
    pub(in crate::reconcile) fn follow(&mut self, reconciler: &Reconciler, view: &View) {
        let mut followed = std::mem::take(&mut self.followed);
        for instance in &view.observed.instances {
            let spec = view.desired.sandboxes.get(&instance.sandbox);
            let asks = instance.resource == ResourceKind::Sidecar
                && instance.ownership == Ownership::Ours
                && instance.state == InstanceState::Running
                && spec.is_some_and(|spec| spec.policy.supervise);
            let Some(backend) = reconciler.backends.get(&instance.backend).filter(|_| asks) else {
                continue;
            };
            let key = (instance.id.clone(), instance.boot.clone());
            let follower = followed.remove(&key).unwrap_or_else(|| {
                let (backend, scope) = (backend.clone(), view.scope.clone());
                let following = follow(backend, scope, instance.clone(), self.send.clone());
                Follower(tokio::spawn(following))
            });
            self.followed.insert(key, follower);
        }
    }
}

async fn follow(
    backend: Arc<dyn Backend>,
    scope: Scope,
    sidecar: Instance,
    send: UnboundedSender<Trigger>,
) {
    loop {
        let mut lines = Lines {
            line: Vec::new(),
            long: false,
            sandbox: sidecar.sandbox.clone(),
            send: send.clone(),
        };
        let options = LogOptions { follow: true, tail: Some(1), ..LogOptions::default() };
        if let Err(error) = backend.logs(&scope, &sidecar, options, &mut lines).await {
            tracing::debug!(sandbox = %sidecar.sandbox, %error, "its record is not followed");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What looks at the lines of a record as they come.
struct Lines {
    line: Vec<u8>,
    /// The line is longer than any hint.
    long: bool,
    sandbox: SandboxId,
    send: UnboundedSender<Trigger>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.long |= self.line.len() + piece.len() > LINE;
            if !self.long {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                if !self.long && is_hint(&self.line) {
                    // A loop that has ended hears nothing.
                    let _ = self.send.send(Trigger::Request(self.sandbox.clone()));
                }
                self.line.clear();
                self.long = false;
            }
        }
    }
}

fn is_hint(line: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Line {
        event: String,
    }
    // Most lines are of traffic: they are not even parsed.
    memchr::memmem::find(line, b"\"request\"").is_some()
        && serde_json::from_slice::<Line>(line).is_ok_and(|line| line.event == "request")
}

impl AsyncWrite for Lines {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Says when somebody beside this loop has decided about a request.
pub(in crate::reconcile) async fn listen(memory: TreeState, send: UnboundedSender<Trigger>) {
    let mut before = memory.requests_moved();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = memory.requests_moved();
        if now != before && send.send(Trigger::Decision).is_err() {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_says_so_is_a_hint_wherever_it_is_cut() {
        let record = concat!(
            r#"{"event":"allow","path":"/\"request\""}"#,
            "\n",
            r#"{"time":"x","event":"request","request_id":"r-aaaaaaaa","code":"egress"}"#,
            "\n",
            "no json with \"request\"\n",
        );
        for cut in 0..record.len() {
            let (send, mut heard) = tokio::sync::mpsc::unbounded_channel();
            let sandbox = SandboxId::new("ada").unwrap();
            let mut lines = Lines { line: Vec::new(), long: false, sandbox: sandbox.clone(), send };
            lines.take(&record.as_bytes()[..cut]);
            lines.take(&record.as_bytes()[cut..]);
            assert_eq!(heard.try_recv(), Ok(Trigger::Request(sandbox)), "{cut}");
            assert!(heard.try_recv().is_err());
        }
        let (send, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let sandbox = SandboxId::new("ada").unwrap();
        let mut lines = Lines { line: Vec::new(), long: false, sandbox, send };
        lines.take(&vec![b'x'; 10 * LINE]);
        assert!(lines.line.len() <= LINE);
        lines.take(b"\n{\"event\":\"request\"}\n");
        assert!(heard.try_recv().is_ok());
    }
}
