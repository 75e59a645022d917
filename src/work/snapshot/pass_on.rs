//! Puts what is kept of one machine into the next one as it comes out: no file in between.

use std::io;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::replay::relay;
use super::sieve::{Part, Sieve};
use super::take::{Planned, is_ours, landing, was_stopped};
use crate::backend::{Backend, BackendError, Scope};
use crate::model::Instance;
use crate::work::{Outgoing, Pieces};

/// How many pieces of a tar wait for the other end.
const WAITING: usize = 16;

/// A machine, and the backend that it is on.
#[derive(Clone, Copy)]
pub struct On<'a> {
    /// The backend.
    pub backend: &'a dyn Backend,
    /// The machine.
    pub machine: &'a Instance,
}

/// Puts what was planned to be kept of one machine, in which nothing runs, into the one that follows it; the workspace
/// where the new one has a copy of the same folder (`workspace`).
///
/// # Errors
/// When one of them cannot be read, or the other does not take it: what came in before stays.
pub async fn pass_on(
    scope: &Scope,
    from: On<'_>,
    planned: &Planned,
    to: On<'_>,
    workspace: bool,
) -> anyhow::Result<()> {
    let meta = &planned.meta;
    let identity = to.backend.identity(scope, to.machine).await?;
    let workspace = meta.workspace.as_deref().filter(|_| workspace);
    let landing = landing(meta, to.machine, &identity, workspace);
    let (sifted, pieces) = mpsc::channel(WAITING);
    let (send, tar) = mpsc::channel(4);
    let landed = tokio::task::spawn_blocking(move || {
        let broken = send.clone();
        let read = relay(Pieces::from(pieces), &landing, Outgoing::from(send));
        if read.is_err() {
            // Whoever unpacks must not take half of it for the whole.
            let _ = broken.blocking_send(Err(io::Error::other("what is kept breaks off")));
        }
        read
    });
    let home = meta.home.clone();
    let feeding = async {
        let broken = sifted.clone();
        let sieve = Sieve::new(Outgoing::from(sifted), &home);
        let fed = feed(scope, from, &planned.parts, sieve).await;
        if fed.is_err() {
            let _ = broken.send(Err(io::Error::other("the machine before breaks off"))).await;
        }
        fed
    };
    let (fed, sent) = tokio::join!(feeding, to.backend.stream_in(scope, to.machine, tar));
    let landed = landed.await.context("putting in what is kept")?;
    // Who comes first knows most, but for one who only found that nobody reads on.
    match (fed, landed, sent) {
        (Err(error), ..) if !was_stopped(&error) => Err(error),
        (_, Err(error), Err(_)) if !was_stopped(&error) => Err(error),
        (_, _, Err(error)) => Err(BackendError::into(error)),
        (_, Err(error), Ok(())) | (Err(error), Ok(()), Ok(())) => Err(error),
        (Ok(()), Ok(()), Ok(())) => Ok(()),
    }
}

/// Has the machine hand out one path after the other.
async fn feed(
    scope: &Scope,
    from: On<'_>,
    parts: &[Part],
    mut sieve: Sieve<Outgoing>,
) -> anyhow::Result<()> {
    for part in parts {
        let (send, pieces) = mpsc::channel(WAITING);
        let taken = part.clone();
        let sifting = tokio::task::spawn_blocking(move || {
            let added = sieve.add(&taken, Pieces::from(pieces));
            (sieve, added)
        });
        let sent = from.backend.stream_out(scope, from.machine, &part.path, send).await;
        let (back, added) = sifting.await.context("keeping what is there")?;
        sieve = back;
        match (sent, added) {
            // Its command took it away when it ended.
            (Err(error), _) if !part.folder && error.is_absent() => {}
            // Of an archive that it broke off the machine knows more than whoever reads it.
            (Err(error), Err(broken)) if !is_ours(&broken) => return Err(error.into()),
            (_, Err(error)) => return Err(error),
            (Err(error), Ok(())) => return Err(error.into()),
            (Ok(()), Ok(())) => {}
        }
    }
    tokio::task::spawn_blocking(move || sieve.finish())
        .await
        .context("a thread that works on it")??;
    Ok(())
}
