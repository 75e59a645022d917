//! Ports of a sandbox: a helper enters its network, connects there, and hands the connection out. There is
//! no way between the two networks but that one socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use async_trait::async_trait;
use rustix::thread::ThreadNameSpaceType;

use super::state::Mode;
use super::wire::{self, Answer, Request, Target};
use super::{DEADLINE, Native, caps, running};
use crate::backend::port::{Port, Stream};
use crate::backend::{BackendError, Scope};
use crate::model::Instance;

/// A port of one sandbox.
pub(super) struct OfSandbox {
    pub(super) native: Native,
    pub(super) scope: Scope,
    pub(super) machine: Instance,
    pub(super) port: u16,
}

#[async_trait]
impl Port for OfSandbox {
    async fn connect(&self) -> Result<Option<Box<dyn Stream>>, BackendError> {
        let (scope, machine, port) = (self.scope.clone(), self.machine.clone(), self.port);
        let socket = self
            .native
            .blocking("connecting to a port of a sandbox", move |shared| {
                let (target, init) = running(&scope, &machine)?;
                let what = format!("connecting to port {port} of {}", machine.name);
                let failed = |error: anyhow::Error| BackendError::failed(&what, error);
                let (mut near, far) = UnixStream::pair().map_err(|e| failed(e.into()))?;
                let fds = [init.as_fd(), far.as_fd()];
                let request = Request::Connect { target, port };
                shared.helper.call(&what, &request, &fds, None, Some(DEADLINE))?;
                drop(far);
                received(&mut near).map_err(failed)
            })
            .await?;
        let Some(socket) = socket else { return Ok(None) };
        let failed = |e| BackendError::failed("using a connection to a sandbox", e);
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = tokio::net::TcpStream::from_std(socket).map_err(failed)?;
        Ok(Some(Box::new(socket)))
    }
}

/// The connection that the helper made, if something listens there.
fn received(socket: &mut UnixStream) -> anyhow::Result<Option<TcpStream>> {
    socket.set_nonblocking(true)?;
    let (_, mut fds) = wire::receive::<Answer>(socket).context("receiving the connection")?;
    Ok(fds.pop().map(TcpStream::from))
}

/// The helper's part: a connection within the sandbox whose init `init` (a pidfd) is.
pub(super) fn connect(
    target: &Target,
    init: &OwnedFd,
    port: u16,
) -> anyhow::Result<Option<TcpStream>> {
    let namespaces = match target.record.mode {
        Mode::Root { .. } => ThreadNameSpaceType::NETWORK,
        Mode::Rootless => ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::USER,
    };
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), namespaces)
        .context("entering its network")?;
    caps::undumpable()?;
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for address in loopbacks {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), DEADLINE) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(Some(socket));
            }
            // There may be no IPv6 at all.
            Err(error) => tracing::debug!(%address, %error, "nothing answers there"),
        }
    }
    Ok(None)
}
