//! The relay of a git gate: a process beside the gate that brings the connections of its machine, which wait in the
//! sidecar's container (`sidecar::relay`), over commands that it runs there. So nothing is mounted or published, and an engine
//! may be anywhere.
//!
//! A few commands wait at any time. One that is offered a connection says so; once the gate has answered here, it is told
//! to take it, and from then on it is that connection. What the guest says is carried and not read; what is read is how
//! the engine, and the command, frame it.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bollard::container::LogOutput;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::io::StreamReader;

use super::connect::{Endpoint, Settings};
use super::engine::Engine;
use super::sidecar::CONTROL;
use super::sidecar_image::PROGRAM_PATH;
use super::{exec, observe, parse};
use crate::backend::{BackendError, ExecSpec, Scope, dial, label};
use crate::model::gate::{OFFERED, RELAY_OPEN, TAKES};
use crate::model::{Instance, InstanceState, OwnerId, Ownership, ResourceKind, SandboxId};

/// Commands that wait.
const WAITING: usize = 4;
/// After a failure: longer each time.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// One that waits for so long was started well.
const STARTED: Duration = Duration::from_secs(1);
/// One on another machine waits no longer: its connection may have died unseen.
const RENEWED: Duration = Duration::from_secs(120);
/// After the gate has said all, for the guest to end its side.
const PARTING: Duration = Duration::from_secs(60);

/// Whose connections are brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) owner: OwnerId,
    pub(super) state: String,
    pub(super) adopted: Vec<String>,
    pub(super) sandbox: SandboxId,
}

/// What the way to the engine needs of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Sockets.
    Sockets,
    /// And files: names are resolved.
    Files,
    /// And programs: it is `ssh`'s.
    Programs,
}

impl Needs {
    fn of(endpoint: &Endpoint) -> Self {
        match endpoint.host.split_once("://").map(|(scheme, _)| scheme) {
            Some("unix") => Self::Sockets,
            Some("ssh") => Self::Programs,
            _ => Self::Files,
        }
    }
}

/// Brings connections to the socket `to` until stdin ends. The order is its first line. `confine` gives up what is not
/// needed; it is called before there is a second thread.
///
/// # Errors
/// When it cannot begin.
pub fn relay(to: &Path, confine: impl FnOnce(Needs) -> std::io::Result<()>) -> anyhow::Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("reading the order")?;
    let order: Order = serde_json::from_str(&line).context("reading the order")?;
    let begun = Settings::from_env().endpoint().and_then(|endpoint| {
        let client = endpoint.client()?;
        Ok((endpoint, client))
    });
    let (endpoint, client) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            say(&why);
            anyhow::bail!(why);
        }
    };
    confine(Needs::of(&endpoint)).context("giving up what is not needed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("starting threads")?;
    let near = matches!(Needs::of(&endpoint), Needs::Sockets);
    let scope = Scope {
        owner: order.owner,
        state: order.state,
        adopted: order.adopted.into_iter().collect(),
        data: PathBuf::new(),
        hidden: Vec::new(),
        places: Default::default(),
    };
    let relay = Arc::new(Relay {
        engine: Engine::of(endpoint, client),
        scope,
        sandbox: order.sandbox,
        to: to.to_owned(),
        renewed: (!near).then_some(RENEWED),
        found: tokio::sync::Mutex::default(),
        said: Mutex::default(),
    });
    runtime.block_on(async {
        for _ in 0..WAITING {
            tokio::spawn(Arc::clone(&relay).bring());
        }
        // Whoever started this is gone then.
        let mut end = Vec::new();
        drop(tokio::io::stdin().read_to_end(&mut end).await);
    });
    runtime.shutdown_background();
    Ok(())
}

/// Says how it is, in a line.
fn say(how: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads it is gone otherwise, and this ends.
    drop(writeln!(out, "{}", how.replace('\n', " ")).and_then(|()| out.flush()));
}

struct Relay {
    engine: Engine,
    scope: Scope,
    sandbox: SandboxId,
    to: PathBuf,
    renewed: Option<Duration>,
    /// The sidecar, as it was found last.
    found: tokio::sync::Mutex<Option<Instance>>,
    said: Mutex<String>,
}

impl Relay {
    /// Has one command wait at a time.
    async fn bring(self: Arc<Self>) {
        let mut pause = PAUSES[0];
        loop {
            match self.one().await {
                Ok(()) => pause = PAUSES[0],
                Err(error) => {
                    *self.found.lock().await = None;
                    self.tell(format!("no connections come: {error:#}"));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES[1]);
                }
            }
        }
    }

    fn tell(&self, how: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != how {
            say(&how);
            *said = how;
        }
    }

    /// Waits for one connection, and has it carried.
    async fn one(&self) -> anyhow::Result<()> {
        let sidecar = self.sidecar().await?;
        let spec = ExecSpec::new([PROGRAM_PATH, "sidecar", "gate", "--control", CONTROL]);
        let id = exec::create(&self.engine, &sidecar, &spec, true, false).await?;
        let (output, mut input) = exec::start(&self.engine, &sidecar, &id, false).await?;
        let bytes = output.map(|piece| match piece {
            // It has nothing to say but why it cannot be run.
            Ok(LogOutput::StdErr { .. }) => Ok(Bytes::new()),
            Ok(other) => Ok(other.into_bytes()),
            Err(error) => Err(std::io::Error::other(error)),
        });
        let mut read = StreamReader::new(Box::pin(bytes));
        let word = tokio::select! {
            word = read.read_u8() => word,
            () = tokio::time::sleep(STARTED) => {
                self.tell(RELAY_OPEN.to_owned());
                let renewed = async {
                    match self.renewed {
                        Some(renewed) => tokio::time::sleep(renewed).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    word = read.read_u8() => word,
                    () = renewed => return Ok(()),
                }
            }
        };
        match word {
            Ok(OFFERED) => {}
            Ok(_) => anyhow::bail!("{} says what no sidecar says", sidecar.name),
            Err(_) => anyhow::bail!("{} has ended, or lets nobody wait", sidecar.name),
        }
        let gate = UnixStream::connect(&self.to).await.context("the gate does not answer")?;
        input.write_all(&[TAKES]).await.context("taking a connection")?;
        input.flush().await.context("taking a connection")?;
        self.tell(RELAY_OPEN.to_owned());
        tokio::spawn(carry(dial::unframed(read, input), gate));
        Ok(())
    }

    /// The sidecar that runs now, if it is this very sandbox's.
    async fn sidecar(&self) -> Result<Instance, BackendError> {
        let mut found = self.found.lock().await;
        if let Some(found) = &*found {
            return Ok(found.clone());
        }
        let labels = vec![
            format!("{}={}", label::OWNER, self.scope.owner),
            format!("{}={}", label::SANDBOX, self.sandbox),
        ];
        let listed = observe::filtered(&self.engine, "label", labels).await?;
        let sidecar = listed
            .into_iter()
            .filter_map(|row| parse::own(&self.scope, row))
            .filter(|found| found.resource == ResourceKind::Sidecar)
            .filter(|found| found.ownership == Ownership::Ours && found.sandbox == self.sandbox)
            .find(|found| found.state == InstanceState::Running);
        *found = sidecar;
        found.clone().ok_or_else(|| BackendError::NotRunning {
            name: format!("the sidecar of {}", self.sandbox),
            state: "not there".to_owned(),
        })
    }
}

/// Carries a connection until both sides have ended it. What the gate says last arrives, also where it reads no more.
async fn carry(guest: tokio::io::DuplexStream, gate: UnixStream) {
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let (mut from_gate, mut to_gate) = gate.into_split();
    let inward = async {
        drop(tokio::io::copy(&mut from_guest, &mut to_gate).await);
        drop(to_gate.shutdown().await);
    };
    let outward = async {
        tokio::io::copy(&mut from_gate, &mut to_guest).await?;
        to_guest.shutdown().await
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        ended = &mut outward => {
            if ended.is_ok() {
                drop(tokio::time::timeout(PARTING, inward).await);
            }
        }
        () = &mut inward => drop(outward.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_needs_is_known_by_its_address() {
        for (host, needs) in [
            ("unix:///run/docker.sock", Needs::Sockets),
            ("tcp://engine:2376", Needs::Files),
            ("https://engine", Needs::Files),
            ("ssh://me@engine", Needs::Programs),
        ] {
            let endpoint =
                Endpoint { host: host.to_owned(), certificates: None, named_by: String::new() };
            assert_eq!(Needs::of(&endpoint), needs, "{host}");
        }
    }

    #[tokio::test]
    async fn what_a_gate_says_last_arrives() {
        let (near, guest) = tokio::io::duplex(64);
        let (gate, far) = UnixStream::pair().unwrap();
        let carried = tokio::spawn(carry(guest, gate));
        let (mut far_read, mut far_write) = far.into_split();
        let (mut near_read, mut near_write) = tokio::io::split(near);
        near_write.write_all(b"asked").await.unwrap();
        let mut asked = [0; 5];
        far_read.read_exact(&mut asked).await.unwrap();
        // It reads no more, and the guest goes on.
        drop(far_read);
        let going_on = tokio::spawn(async move { drop(near_write.write_all(&[0; 4096]).await) });
        far_write.write_all(&[b'x'; 512]).await.unwrap();
        drop(far_write);
        let mut answer = Vec::new();
        near_read.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), 512);
        drop(near_read);
        going_on.await.unwrap();
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_leaves_is_told_to_the_gate() {
        let (near, guest) = tokio::io::duplex(64);
        let (gate, mut far) = UnixStream::pair().unwrap();
        let carried = tokio::spawn(carry(guest, gate));
        drop(near);
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        assert!(said.is_empty());
        drop(far);
        carried.await.unwrap();
    }
}
