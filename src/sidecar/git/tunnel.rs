//! Connections to upstreams, which the keeper opens for the worker: the worker names one of the upstreams and
//! one of two services, and says nothing else that could reach a command line.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::Upstream;
use super::ipc::{Channel, sockets};
use super::sentence::{LINES, Trouble, harmless};
use super::stop::Stop;
use super::wire::{Deadline, Wire};

/// What is asked of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Service {
    /// What it has.
    Upload,
    /// That it takes something.
    Receive,
}

/// What the worker asks the keeper for; two sockets come with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) upstream: String,
    /// The document's by which the worker works.
    pub(super) generation: u64,
    pub(super) service: Service,
}

/// How a connection has ended, as the keeper says it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ended {
    /// What went wrong, if it is known.
    pub(super) trouble: Option<Trouble>,
    /// What the upstream itself said, a line each.
    pub(super) words: Vec<String>,
}

/// For the keeper to say how a connection has ended, once it has.
const END: Duration = Duration::from_secs(3);
/// What it says has at most so many bytes.
const LONGEST: u64 = 256 << 10;

/// Where the worker asks for connections.
#[derive(Debug)]
pub(super) struct Tunnels(Mutex<Channel>);

/// One connection. Dropped, its ssh is ended.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Both ways are one socket: `git remote-fd` says only of such a one that nothing more comes.
    pub(super) socket: OwnedFd,
    status: OwnedFd,
}

impl Tunnels {
    pub(super) fn new(channel: Channel) -> Self {
        Self(Mutex::new(channel))
    }

    /// Has a connection opened.
    pub(super) fn open(
        &self,
        upstream: &str,
        generation: u64,
        service: Service,
    ) -> io::Result<Tunnel> {
        let upstream = upstream.to_owned();
        let wanted = serde_json::to_vec(&Wanted { upstream, generation, service })?;
        let ((socket, theirs), (status, tells)) = (sockets()?, sockets()?);
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(&wanted, &[theirs.as_fd(), tells.as_fd()])?;
        Ok(Tunnel { socket, status })
    }
}

impl Tunnel {
    /// What the end of this connection means for whoever waits.
    pub(super) fn explain(self, problem: io::Error, upstream: &Upstream, time: Duration) -> Stop {
        let said = problem.to_string();
        let words: Vec<String> =
            said.strip_prefix("ERR ").map(|words| harmless(words.as_bytes())).into_iter().collect();
        let (trouble, words) = match problem.kind() {
            io::ErrorKind::ConnectionAborted => return Stop::Left,
            io::ErrorKind::TimedOut => (Trouble::Silent, words),
            _ if !words.is_empty() => (Trouble::Upstream, words),
            _ => {
                let ended = self.ended().unwrap_or_default();
                (ended.trouble.unwrap_or(Trouble::Upstream), ended.words)
            }
        };
        Stop::trouble(trouble, trouble.sentence(upstream, time.as_secs(), &words))
    }

    /// How it has ended.
    fn ended(self) -> Option<Ended> {
        let Self { socket, status } = self;
        drop(socket);
        let mut text = Vec::new();
        let from = Wire { from: status.as_fd(), deadline: Deadline::within(END), guest: None };
        from.take(LONGEST).read_to_end(&mut text).ok()?;
        let mut ended: Ended = serde_json::from_slice(&text).ok()?;
        ended.words.truncate(LINES);
        Some(ended)
    }
}
