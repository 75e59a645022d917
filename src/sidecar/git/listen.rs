//! Where the machine's connections come in: sockets that are handed in, and taken back.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, sockopt};

use super::work::Shared;

/// The sockets that are accepted on.
#[derive(Default)]
pub(super) struct Listeners {
    attached: Option<Attached>,
}

/// One that was attached: closed before another takes its place.
struct Attached {
    stop: Option<OwnedFd>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // The other end of it is what the thread waits for.
        drop(self.stop.take());
        if let Some(accepting) = self.accepting.take() {
            // One that panicked has closed its socket too.
            let _ = accepting.join();
        }
    }
}

impl Listeners {
    pub(super) fn listen(
        &mut self,
        shared: &Arc<Shared>,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), String> {
        for socket in &sockets {
            check(socket)?;
        }
        for socket in sockets {
            start(shared, socket, Vec::new()).map_err(|error| format!("accepting: {error}"))?;
        }
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        shared: &Arc<Shared>,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let [listener, process] = <[OwnedFd; 2]>::try_from(sockets)
            .map_err(|_| "expected a listening socket and a pidfd".to_owned())?;
        check(&listener)?;
        let failed = |error: io::Error| format!("accepting: {error}");
        let (stop, stopped) = super::ipc::sockets().map_err(failed)?;
        let accepting = start(shared, listener, vec![stopped, process]).map_err(failed)?;
        self.attached = Some(Attached { stop: Some(stop), accepting: Some(accepting) });
        Ok(())
    }

    pub(super) fn detach(&mut self) {
        self.attached = None;
    }
}

fn check(socket: &OwnedFd) -> Result<(), String> {
    let refuse = |what: &str| Err(format!("using a listening socket: {what}"));
    match sockopt::socket_acceptconn(socket) {
        Ok(true) => {}
        Ok(false) => return refuse("it does not listen"),
        Err(error) => return refuse(&error.to_string()),
    }
    match sockopt::socket_domain(socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX) => Ok(()),
        _ => refuse("it is neither of TCP nor of a unix socket"),
    }
}

/// Accepts until one of these becomes readable.
fn start(
    shared: &Arc<Shared>,
    listener: OwnedFd,
    until: Vec<OwnedFd>,
) -> io::Result<JoinHandle<()>> {
    rustix::io::ioctl_fionbio(&listener, true)?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("accept".to_owned())
        .spawn(move || accept(&shared, &listener, &until))
}

fn accept(shared: &Arc<Shared>, listener: &OwnedFd, until: &[OwnedFd]) {
    loop {
        let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
        fds.extend(until.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        if fds[1..].iter().any(|fd| !fd.revents().is_empty()) {
            return;
        }
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                // A unix socket has no such thing.
                let _ = sockopt::set_tcp_nodelay(&socket, true);
                shared.accepted(socket);
            }
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
            ) => {}
            // Out of descriptors, most likely: some will be closed.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
