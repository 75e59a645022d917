//! The one way out of a sandbox: a socket that listens inside it and is accepted on by a process
//! outside.
//!
//! The sandbox's network has `lo` and nothing else, no route leads anywhere. A helper enters it, makes
//! the socket, and hands it out; the sidecar accepts on it and stays where it is. Whichever of the two
//! starts last is attached to the other. The socket holds the network of a sandbox that has ended, so
//! the sidecar is given its init too, and closes the socket with it. A git gate is reached in the same way, at a port of
//! its own: whoever is beside a sandbox has no part in what goes to the other.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::ThreadNameSpaceType;

use super::limits::{self, Cgroups, SandboxCgroups};
use super::observe::Found;
use super::state::{self, Mode, Store};
use super::wire::{self, Answer, Request, Target};
use super::{DEADLINE, Native, Shared, caps, enter, host_boot, observe, start};
use crate::backend::hostside::{Role, Sidecar, Sidecars};
use crate::backend::{BackendError, Scope};
use crate::model::access::PROXY_PORT;
use crate::model::gate::GATE_PORT;
use crate::model::{BackendKind, Instance, InstanceState, Ownership, SandboxId};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

impl Shared {
    /// The sidecars or the gates of this backend.
    pub(super) fn beside<'a>(&'a self, role: Role, scope: &'a Scope) -> Sidecars<'a> {
        Sidecars::new(role, scope, BackendKind::Native, &self.program)
    }

    /// Attaches the sandbox to its sidecar and to its gate, where they run.
    pub(super) fn attach(&self, scope: &Scope, sandbox: &SandboxId) -> Result<(), BackendError> {
        each(|role| {
            let Some(mut sidecar) = self.beside(role, scope).of(sandbox)? else { return Ok(()) };
            // Where it does not, it is attached once it runs.
            if sidecar.answers()? {
                self.attach_to(role, scope, &sidecar)?;
            }
            Ok(())
        })
    }

    /// The same, with a sidecar or gate that is held.
    fn attach_to(
        &self,
        role: Role,
        scope: &Scope,
        sidecar: &Sidecar<'_>,
    ) -> Result<(), BackendError> {
        let sandbox = sidecar.sandbox();
        let found = observe::look(&Store::of(scope).sandbox(sandbox), &host_boot()?);
        let Some((machine, target)) = attachable(role, scope, sandbox, found) else {
            return Ok(());
        };
        if sidecar.boot().is_none() || sidecar.is_attached(&machine) {
            return Ok(());
        }
        let what = format!("attaching {} to its {}", target.record.name, role.name());
        let failed = |error: anyhow::Error| BackendError::failed(&what, error);
        let Some(init) = enter::init_of(&target.run).map_err(failed)? else { return Ok(()) };
        let control = sidecar.control()?;
        // Of an attaching that was cut short, it may hold the address already.
        control.detach().map_err(failed)?;
        let (mut near, far) = UnixStream::pair().map_err(|error| failed(error.into()))?;
        let fds = [init.as_fd(), far.as_fd()];
        let port = port(role);
        self.helper.call(&what, &Request::Listen { target, port }, &fds, None, Some(DEADLINE))?;
        let listener = received(&mut near).map_err(failed)?;
        control.attach(listener.as_fd(), init.as_fd()).map_err(failed)?;
        sidecar.note_attached(&machine).map_err(|error| failed(error.into()))
    }
}

/// Attaches to each. A machine without its git gate works, but for git: that one is not attached is seen in the
/// gate, and mended there, where it fails again if a program of the guest's has its port.
fn each(mut attach: impl FnMut(Role) -> Result<(), BackendError>) -> Result<(), BackendError> {
    let mut result = Ok(());
    for role in Role::ALL {
        match (role, attach(role)) {
            (_, Ok(())) => {}
            (Role::Gate, Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::warn!("the machine runs, and git does not work in it: {error:#}");
            }
            (Role::Sidecar, Err(error)) => result = Err(error),
        }
    }
    result
}

/// Where the sandbox finds it.
fn port(role: Role) -> u16 {
    match role {
        Role::Sidecar => PROXY_PORT,
        Role::Gate => GATE_PORT,
    }
}

/// The run of the sandbox that could be attached, if it runs, is ours, and is to have a way out.
fn attachable(
    role: Role,
    scope: &Scope,
    sandbox: &SandboxId,
    found: Found,
) -> Option<(String, Target)> {
    let instance = observe::instance(scope, sandbox.clone(), &found);
    let ours = instance.ownership == Ownership::Ours && instance.state == InstanceState::Running;
    let (record, run) = (found.record?, found.run?);
    (ours && (record.connected || role == Role::Gate)).then(|| (run.boot(), Target { record, run }))
}

fn received(socket: &mut UnixStream) -> anyhow::Result<OwnedFd> {
    socket.set_nonblocking(true)?;
    let (_, mut fds) = wire::receive::<Answer>(socket).context("receiving its socket")?;
    fds.pop().context("no socket came")
}

/// The helper's part: the socket, listening at this port in the sandbox whose init `init` (a pidfd) is.
pub(super) fn listen(target: &Target, port: u16, init: &OwnedFd) -> anyhow::Result<OwnedFd> {
    let namespaces = match target.record.mode {
        Mode::Root { .. } => ThreadNameSpaceType::NETWORK,
        Mode::Rootless => ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::USER,
    };
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), namespaces)
        .context("entering its network")?;
    caps::undumpable()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Connections that the sidecar before it had may still be closing.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    match rustix::net::bind(&socket, &address).and_then(|()| rustix::net::listen(&socket, BACKLOG))
    {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => anyhow::bail!(
            "a program in the sandbox has taken {address}, where its sidecar or git gate listens: end \
             that program, or let the machine be made anew"
        ),
        Err(error) => Err(error).with_context(|| format!("listening on {address} in the sandbox")),
    }
}

/// The cgroups of a sidecar or gate, where cgroups can be made.
fn cgroups(instance: &Instance) -> SandboxCgroups {
    Cgroups::discover().of(&format!("{}-{}", instance.resource, instance.id))
}

/// Moves a sidecar out of the cgroup that `bottle` was started in: what that one's limits are, and what
/// else is killed in it, is no concern of a process that outlives `bottle`.
pub(in crate::backend) fn set_apart(
    instance: &Instance,
    sidecar: &Sidecar<'_>,
) -> anyhow::Result<()> {
    let Some(pid) = sidecar.pid() else { return Ok(()) };
    let own = cgroups(instance);
    own.make_unlimited()?;
    start::join(&own.doors()?, pid)
}

/// What the cgroups of a sidecar are called by in which its process is: its record, which tells as well, may be
/// damaged, and the process is about to end.
pub(in crate::backend) fn cgroup_of(sidecars: Sidecars<'_>, instance: &Instance) -> Option<String> {
    let pid = sidecars.own(instance).ok()?.pid()?;
    limits::id_of(pid).filter(|id| id.starts_with(&format!("{}-", instance.resource)))
}

/// Removes the cgroups of a sidecar that has ended, and those that its process was in.
pub(in crate::backend) fn remove_cgroups(
    instance: &Instance,
    was_in: Option<&str>,
) -> Result<(), BackendError> {
    let others = was_in.map(|id| Cgroups::discover().of(id));
    for cgroups in [cgroups(instance)].into_iter().chain(others) {
        cgroups.remove().map_err(|error| {
            BackendError::failed(format!("removing the cgroup of {}", instance.name), error)
        })?;
    }
    Ok(())
}

/// The sidecars or gates, as the planner sees them, beside the machines of the same listing.
pub(super) fn observe(sidecars: Sidecars<'_>, scope: &Scope) -> std::io::Result<Vec<Instance>> {
    let host_boot = state::host_boot()?;
    let instance = |sidecar: Sidecar<'_>| {
        let mut instance = sidecar.instance();
        let folder = Store::of(scope).sandbox(sidecar.sandbox());
        let found = observe::look(&folder, &host_boot);
        let machine =
            attachable(sidecars.role(), scope, sidecar.sandbox(), found).map(|(boot, _)| boot);
        instance.mendable.extend(sidecar.unattached(machine.as_deref()));
        instance
    };
    Ok(sidecars.all()?.into_iter().map(instance).collect())
}

impl Native {
    /// Starts a sidecar or gate, beside its machine where that runs.
    pub(super) async fn start_beside(
        &self,
        role: Role,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Instance, BackendError> {
        let (scope, instance) = (scope.clone(), instance.clone());
        self.blocking("starting what is beside a machine", move |shared| {
            let sidecar = shared.beside(role, &scope).start(&instance)?;
            if let Err(error) = set_apart(&instance, &sidecar) {
                // It works where it is: in the cgroup of whoever started it.
                tracing::warn!(sidecar = %instance.name, "it has no cgroup of its own: {error:#}");
            }
            shared.attach_to(role, &scope, &sidecar)?;
            Ok(sidecar.instance())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_is_not_attached_keeps_no_machine_from_starting() {
        let tried = |fails: Role| {
            let mut tried = Vec::new();
            let result = each(|role| {
                tried.push(role);
                let error = || BackendError::Unsupported("its port is taken".to_owned());
                if role == fails { Err(error()) } else { Ok(()) }
            });
            assert_eq!(tried, Role::ALL);
            result
        };
        assert!(tried(Role::Gate).is_ok());
        assert!(tried(Role::Sidecar).is_err());
    }
}
