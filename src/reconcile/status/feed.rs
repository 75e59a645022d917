//! Reads what a `watch` publishes.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;

use super::{Status, only_of, publish};
use crate::model::SandboxId;
use crate::plan::document::VERSION;
use crate::reconcile::pass::{Reconciler, canonical};
use crate::reconcile::socket;
use crate::reconcile::state::TreeState;

/// A line comes within this, or nobody is there any more: heartbeats come more often.
const SILENCE: Duration = Duration::from_secs(45);
/// `bottle status` waits no longer than this for the first line.
const PATIENCE: Duration = Duration::from_secs(5);
/// No line is longer.
const LONGEST: u64 = 64 << 20;

/// What every line has.
#[derive(Deserialize)]
struct Head {
    version: u32,
    heartbeat: Option<u64>,
    error: Option<String>,
}

/// What a `watch` publishes, line by line.
pub struct Feed {
    stream: BufReader<UnixStream>,
}

/// Connects to the `watch` that works on this tree.
///
/// # Errors
/// When none listens, or another user does.
pub async fn connect(memory: &TreeState) -> io::Result<Feed> {
    let stream = socket::connect(memory.dir(), publish::SOCKET).await?;
    let own = rustix::process::geteuid().as_raw();
    let theirs = stream.peer_cred()?.uid();
    // Root serves, and reads, what it likes.
    if theirs != own && theirs != 0 && own != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens there"));
    }
    Ok(Feed { stream: BufReader::new(stream) })
}

impl Feed {
    /// The next status. Nothing is lost when it is dropped between lines, and a feed that has failed is over.
    ///
    /// # Errors
    /// When the `watch` goes away, is of another version, says nothing any more, or cannot look.
    pub async fn next(&mut self) -> anyhow::Result<Status> {
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.stream).take(LONGEST);
            let reading = limited.read_until(b'\n', &mut line);
            tokio::time::timeout(SILENCE, reading)
                .await
                .context("watch says nothing any more")??;
            anyhow::ensure!(line.ends_with(b"\n"), "watch has ended");
            let head: Head = serde_json::from_slice(&line).context("reading a line of watch")?;
            anyhow::ensure!(
                head.version == VERSION,
                "watch speaks version {}, and this bottle {VERSION}",
                head.version
            );
            if let Some(error) = head.error {
                anyhow::bail!("{error}");
            }
            if head.heartbeat.is_none() {
                return serde_json::from_slice(&line).context("reading a status of watch");
            }
        }
    }
}

/// How everything stands, as the `watch` that works on the tree says; where none answers in time, is of another
/// version, or either reads the tree with an overlay, as this process sees it.
///
/// # Errors
/// As [`observe`](super::observe).
pub async fn newest(reconciler: &Reconciler, only: &BTreeSet<SandboxId>) -> anyhow::Result<Status> {
    match tokio::time::timeout(PATIENCE, published(reconciler)).await {
        Ok(Ok(Some(status))) => return only_of(status, only),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(error = %format!("{error:#}"), "watch is not asked"),
        Err(_) => tracing::debug!("watch gives no answer in time"),
    }
    super::observe(reconciler, only).await
}

async fn published(reconciler: &Reconciler) -> anyhow::Result<Option<Status>> {
    if reconciler.load.overlay.is_some() {
        return Ok(None);
    }
    let memory = reconciler.state.tree(&reconciler.identify().await?.owner)?;
    if memory.watcher().is_none() {
        return Ok(None);
    }
    let status = connect(&memory).await?.next().await?;
    let tree = canonical(&reconciler.load.tree);
    let same = status.tree.path == tree.display().to_string() && status.tree.overlays.is_empty();
    Ok(same.then_some(status))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn hears(lines: &str) -> Result<Status, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).await.unwrap();
        drop(theirs);
        let mut feed = Feed { stream: BufReader::new(ours) };
        feed.next().await.map_err(|error| format!("{error:#}"))
    }

    const STATUS: &str = r#"{"version":1,"tree":{"name":"team","path":"/srv/team","commit":null,"dirty":false},
        "last_commit":null,"sandboxes":[],"diagnostics":[],"of a later bottle":1}"#;

    #[tokio::test]
    async fn a_status_is_heard_behind_heartbeats() {
        let line = STATUS.replace('\n', "");
        let status = hears(&format!("{{\"version\":1,\"heartbeat\":7}}\n{line}\n")).await.unwrap();
        assert_eq!((status.tree.name.as_str(), status.watch), ("team", None));
    }

    #[tokio::test]
    async fn what_is_no_status_says_why() {
        for (lines, why) in [
            ("{\"version\":2,\"sandboxes\":{}}\n", "speaks version 2"),
            ("{\"version\":1,\"error\":\"too many listen already\"}\n", "too many"),
            ("{\"version\":1,\"tree\":{}}\n", "reading a status"),
            ("no JSON\n", "reading a line"),
            ("{\"version\":1,\"heart", "watch has ended"),
            ("", "watch has ended"),
        ] {
            let error = hears(lines).await.unwrap_err();
            assert!(error.contains(why), "{lines}: {error}");
        }
    }
}
