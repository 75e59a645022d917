#![expect(clippy::disallowed_methods, reason = "binds sockets and takes over inherited ones")]
//! A sidecar's process, from its options to its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::egress::{Sidecar, System, keep_little_memory, limits};
use super::record::{Event, Line, Record};
use super::{confine, control, pages};

/// Where something is listened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A listening socket that whoever starts the process has opened: `fd:3`.
    Inherited(RawFd),
    /// An address: `127.0.0.1:3128`.
    Address(SocketAddr),
    /// A unix socket: `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().ok().filter(|number| *number > 2);
            return number
                .map(Self::Inherited)
                .ok_or_else(|| format!("`{text}`: expected a descriptor from 3 on, as in `fd:3`"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err(format!("`{text}`: expected an absolute path")),
            };
        }
        text.parse()
            .map(Self::Address)
            .map_err(|_| format!("`{text}`: expected `IP:PORT`, `fd:N` or `unix:/PATH`"))
    }
}

/// How a sidecar is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the machine's connections come in; more can be handed in later.
    pub listen: Vec<Endpoint>,
    /// Where the machine's git finds its gate, which takes the connections from here.
    pub git: Option<Endpoint>,
    /// Where it is told what to do.
    pub control: Endpoint,
    /// The log; none: stdout.
    pub log: Option<PathBuf>,
    /// The user of the host that it becomes first; its group has the same number.
    pub user: Option<u32>,
    /// It runs on a host, and gives up there what it does not need.
    pub confine: bool,
}

/// Serves until it is told to stop.
///
/// Has to be called before the process has a second thread: what confines it binds only the thread
/// that asks for it and those that it starts.
///
/// # Errors
/// When it cannot begin. Once it serves, it ends only when it is told to.
pub fn serve(options: &Options) -> anyhow::Result<()> {
    use anyhow::Context as _;
    keep_little_memory();
    // What it makes, only its own user can open.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    if let Some(user) = options.user {
        become_user(user).with_context(|| format!("becoming the user {user}"))?;
    }
    // After that: with another user a process is dumpable again.
    confine::keep_to_itself().context("forbidding core dumps")?;
    let record = match &options.log {
        Some(path) => Record::file(path, limits::LOG)
            .with_context(|| format!("opening the log {}", path.display()))?,
        None => Record::stdout()?,
    };
    let record = Arc::new(record);
    let open =
        |endpoint: &Endpoint| endpoint.open().with_context(|| format!("listening at {endpoint}"));
    if matches!(options.control, Endpoint::Address(_)) {
        anyhow::bail!(
            "control at {}: anybody can reach an address; expected `unix:/PATH` or `fd:N`",
            options.control
        );
    }
    let control = open(&options.control)?;
    if rustix::net::sockopt::socket_domain(&control)? != rustix::net::AddressFamily::UNIX {
        anyhow::bail!("control at {}: it is no unix socket", options.control);
    }
    let listeners: Vec<OwnedFd> = options.listen.iter().map(open).collect::<Result<_, _>>()?;
    let git = options.git.as_ref().map(open).transpose()?;
    let system = System::read();
    pages::learn();
    if options.confine {
        let mut keep: Vec<RawFd> = listeners.iter().map(OwnedFd::as_raw_fd).collect();
        keep.push(control.as_raw_fd());
        keep.extend(git.as_ref().map(OwnedFd::as_raw_fd));
        keep.extend(record.descriptor());
        let folders: Vec<&Path> = options.log.iter().filter_map(|log| log.parent()).collect();
        confine::confine(&keep, &folders).context("giving up what is not needed")?;
    } else {
        confine::raise_descriptors();
    }
    tell_of_panics(&record);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits::THREADS)
        .max_blocking_threads(limits::BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(async {
        let sidecar = Sidecar::start(record, system).context("writing the log")?;
        if !listeners.is_empty() {
            sidecar.listen(listeners).map_err(anyhow::Error::msg)?;
        }
        if let Some(git) = git {
            sidecar.hall().listen(git).context("listening for git")?;
        }
        let control = tokio::net::UnixListener::from_std(control.into())?;
        tokio::spawn(control::serve(control, sidecar.clone()));
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let stopping = sidecar.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopping.stop();
        });
        sidecar.stopped().await;
        Ok::<(), anyhow::Error>(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Becomes this user for good, without any capability. The process has one thread.
fn become_user(user: u32) -> io::Result<()> {
    if user == 0 || user == u32::MAX {
        return Err(io::Error::other("expected one without rights"));
    }
    let (uid, gid) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    // With the last id that is root's, every capability goes.
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let left = rustix::thread::capabilities(None)?;
    if !(left.effective | left.permitted).is_empty() {
        return Err(io::Error::other("it would keep rights of root's"));
    }
    Ok(())
}

/// Where a panic was goes into the log; what it says does not, for it may hold a value.
pub(super) fn tell_of_panics(record: &Arc<Record>) {
    let record = Arc::clone(record);
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // There is nobody else to tell.
        let _ = record.write(&Line::new(Event::Error).detail(&format!("panic at {place}")));
    }));
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inherited(number) => write!(formatter, "fd:{number}"),
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Endpoint {
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Inherited(number) => inherited(*number),
            Self::Address(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener.into())
            }
            Self::Unix(path) => {
                // What a process that was killed has left behind.
                match std::fs::symlink_metadata(path) {
                    Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
                    _ => {}
                }
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(listener.into())
            }
        }
    }
}

#[expect(unsafe_code, reason = "a number on the command line becomes a descriptor here only")]
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: nothing in this process has opened a descriptor that outlives its own function yet,
    // and the number is looked at once; the call below fails when it is not open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    let checked = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .and_then(|()| rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from));
    match checked {
        Ok(()) => Ok(fd),
        Err(error) => {
            // What is not open must not be closed either.
            std::mem::forget(fd);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen() {
        for text in ["fd:3", "127.0.0.1:3128", "[::1]:3128", "unix:/run/x"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["fd:2", "fd:x", "unix:x", "localhost:1", "3128", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
