//! The helper: this program again, with one thread and nothing of tokio, doing one thing.
//!
//! Entering and making namespaces is refused to a process with threads, and a fork is sound only
//! without them. The helper dies with the thread that started it.

#![expect(clippy::disallowed_methods, reason = "it re-executes itself")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use rustix::process::Signal;

use super::call::{ROOTLESS, WORD};
use super::inside::{Inside, own_descriptors};
use super::maker::Maker;
use super::wire::{self, Answer, Request, Target, Visit};
use super::{caps, copy, enter, landlock, namespaces, port, sealed, sidecar, start, sys, visit};

/// Does the helper's work and ends the process, if that is what it was started for.
pub(super) fn run_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != WORD) {
        return;
    }
    let rootless = arguments.next().is_some_and(|word| word == ROOTLESS);
    // What the caller's caller left open to its children, or ignores, would go on into the sandbox.
    sys::close_all_but(&[0, 1, 2]);
    sys::default_signals();
    let mut socket = UnixStream::from(sys::take_stdin());
    let answer =
        work(&mut socket, rootless).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
    let sent = wire::send(&mut socket, &answer, &[]);
    sys::exit_now(i32::from(sent.is_err()));
}

fn work(socket: &mut UnixStream, rootless: bool) -> anyhow::Result<Answer> {
    if rootless {
        let accounts = namespaces::accounts();
        namespaces::enter_single(0, 0)?;
        accounts.halve();
        sys::inherit(std::os::fd::AsFd::as_fd(socket))?;
        let name = std::env::args_os().next().unwrap_or_else(|| "bottle".into());
        return Err(Command::new("/proc/self/exe").arg0(name).arg(WORD).exec().into());
    }
    // Whoever started it decided the same, but what counts is what this process is.
    anyhow::ensure!(
        landlock::available() || sealed::is_own(),
        "this kernel has no Landlock, so the helper has to be a sealed copy of bottle, and it is not"
    );
    caps::undumpable()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let (request, fds) = wire::receive::<Request>(socket).context("reading the request")?;
    let descriptors = own_descriptors();
    match request {
        Request::Start { folder, hidden, mark } => {
            Ok(Answer::Started(start::start(&folder, &hidden, &mark)?))
        }
        Request::Exec(exec) => {
            let [init, stdin, stdout, stderr] = take(fds)?;
            Ok(Answer::Exited(enter::exec(*exec, init, [stdin, stdout, stderr])?))
        }
        Request::CopyIn { target, wipe, dirs } => {
            let [init, tar] = take(fds)?;
            let root = entered(&target, &init)?.knowing(descriptors);
            copy::put(&root, &wipe, &dirs, None, tar)?;
            Ok(Answer::Done)
        }
        Request::StreamIn { target } => {
            let [init, tar] = take(fds)?;
            copy::put_stream(&entered(&target, &init)?.knowing(descriptors), tar)?;
            Ok(Answer::Done)
        }
        Request::CopyOut { target, path, limit } => {
            let [init, out] = take(fds)?;
            enter::enter(&target, &init, enter::As::User)?;
            copy::get(&Inside::wary("/")?, &path, limit, out)?;
            Ok(Answer::Done)
        }
        Request::Unpack { archived, folder } => {
            let [tar] = take(fds)?;
            copy::unpack_layer(&folder, tar, archived)?;
            Ok(Answer::Done)
        }
        Request::Listen { target, port } => {
            let [init, out] = take(fds)?;
            let listener = sidecar::listen(&target, port, &init)?;
            let fds = [std::os::fd::AsFd::as_fd(&listener)];
            wire::send(&mut UnixStream::from(out), &Answer::Done, &fds)?;
            Ok(Answer::Done)
        }
        Request::Connect { target, port } => {
            let [init, out] = take(fds)?;
            let connected = port::connect(&target, &init, port)?;
            let fds: Vec<_> = connected.iter().map(std::os::fd::AsFd::as_fd).collect();
            wire::send(&mut UnixStream::from(out), &Answer::Done, &fds)?;
            Ok(Answer::Done)
        }
        Request::VisitPut { wipe, dirs, own, visit } => {
            let (tar, entered) = visited(fds, &visit)?;
            let root = match entered {
                Ok(root) => root.knowing(descriptors),
                Err(error) => return Ok(Answer::Outside(format!("{error:#}"))),
            };
            visit::told(copy::put(&root, &wipe, &dirs, own.as_deref(), tar), &visit)?;
            Ok(Answer::Done)
        }
        Request::VisitStream { visit } => {
            let (tar, entered) = visited(fds, &visit)?;
            let root = match entered {
                Ok(root) => root.knowing(descriptors),
                Err(error) => return Ok(Answer::Outside(format!("{error:#}"))),
            };
            visit::told(copy::put_stream(&root, tar), &visit)?;
            Ok(Answer::Done)
        }
        Request::VisitGet { path, limit, visit } => {
            let (out, entered) = visited(fds, &visit)?;
            let root = match entered {
                Ok(root) => root,
                Err(error) => return Ok(Answer::Outside(format!("{error:#}"))),
            };
            visit::told(copy::get(&root, &path, limit, out), &visit)?;
            Ok(Answer::Done)
        }
        Request::Probe => {
            namespaces::probe()?;
            Ok(Answer::Done)
        }
    }
}

/// Enters a sandbox, for files to be put in. Returns its `/`.
fn entered(target: &Target, init: &OwnedFd) -> anyhow::Result<Inside> {
    enter::enter(target, init, enter::As::User)?;
    let root = Inside::wary("/")?;
    let maker = Maker::of(&target.record, &root);
    Ok(root.made_by(maker))
}

/// Enters a container. Returns what goes in or comes out, and the container's `/`.
fn visited(
    mut fds: Vec<OwnedFd>,
    visit: &Visit,
) -> anyhow::Result<(OwnedFd, anyhow::Result<Inside>)> {
    let user = if fds.len() == 3 { fds.pop() } else { None };
    let [mounts, payload] = take(fds)?;
    Ok((payload, visit::enter(&mounts, user.as_ref(), visit)))
}

fn take<const N: usize>(fds: Vec<OwnedFd>) -> anyhow::Result<[OwnedFd; N]> {
    let found = fds.len();
    fds.try_into().map_err(|_| anyhow::anyhow!("expected {N} descriptors, got {found}"))
}
