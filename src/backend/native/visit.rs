//! Files into and out of a container that an engine of this host made, without the guest's programs
//! and also onto its tmpfs: the helper enters the container's mount namespace.
//!
//! Which process is the container's the engine says; that it is, is looked up in what nobody inside
//! can change: its control group, and the files that the engine mounted into it. What cannot be
//! entered from here (another host's, another kernel's, another user's) is said so, and nothing was
//! done.
//!
//! A container's own files are nobody's outside it, and the helper may do there what files need. A mount
//! may be the host's, so it is never entered like that. What is to lie in the mounted workspace is put
//! and read with the rights of the guest's user: the kernel refuses what the guest could not do.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use super::call::Helper;
use super::exec::{Cancel, Slot};
use super::fence::{Descriptors, Fence};
use super::inside::{Inside, Links};
use super::wire::{Answer, Request, Visit};
use super::{COPYING, caps, in_memory};
use crate::backend::{BackendError, TarStream, Upload, guest_path};

/// The longest file of `/proc` that is read.
const LONGEST: u64 = 4 << 20;

/// The way into one container.
#[derive(Debug)]
pub(in crate::backend) struct Door {
    mounts: OwnedFd,
    /// Its user namespace, where that is not this process's own.
    user: Option<OwnedFd>,
    seen: Seen,
}

/// The mounts of a container, by the kernel's ids.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The tmpfs of ours and the volumes that the image asks for: nothing of the host's is on them.
    own: Vec<u64>,
    /// Where its workspace may be: neither the engine's own nor the kernel's.
    others: Vec<u64>,
}

impl Seen {
    /// From `/proc/PID/mountinfo` of the container `id`, which has these volumes.
    fn of(mountinfo: &str, id: &str, volumes: &[String]) -> Self {
        let mut seen = Self::default();
        let engines = format!("/containers/{id}/");
        for line in mountinfo.lines() {
            let mut fields = line.split(' ');
            let mount = fields.next().and_then(|mount| mount.parse().ok());
            let (root, at) = (fields.nth(2), fields.next());
            let (Some(mount), Some(root), Some(at)) = (mount, root, at) else { continue };
            let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
            let volume =
                volumes.iter().any(|name| root.ends_with(&format!("/volumes/{name}/_data")));
            if volume || (at == guest_path::RUN && kind == Some("tmpfs")) {
                seen.own.push(mount);
                continue;
            }
            let below = |folder: &str| Path::new(at).starts_with(folder);
            let kernels = ["/proc", "/sys", "/dev"].into_iter().any(below);
            if at != "/" && !kernels && !root.contains(&engines) {
                seen.others.push(mount);
            }
        }
        seen
    }
}

/// What came of a visit.
#[derive(Debug)]
pub(in crate::backend) enum Visited<T> {
    /// It was done.
    Done(T),
    /// It cannot be entered, and nothing was done.
    No(String),
}

/// A folder whose owner an engine sets wrongly where the image has none: the working directory.
pub(in crate::backend) type Own<'a> = Option<&'a str>;

/// What visits containers.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Visitor(Arc<Helper>);

impl Door {
    /// Of the container `id`, of whose processes `pid` is the first, and which has these volumes.
    pub(in crate::backend) fn of(pid: i64, id: &str, volumes: &[String]) -> io::Result<Self> {
        if id.len() < 64 || pid < 1 {
            return Err(io::Error::other("the engine names no process of it"));
        }
        // From here on it is this process and no other, whatever gets its number later.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        let groups = read(&process, "cgroup")?;
        if !groups.lines().any(|line| line.contains(id)) {
            return Err(io::Error::other(format!("process {pid} is not in its control group")));
        }
        // The runtime of a virtual machine has a process in that group, too; it sees no such mounts.
        let mounted = format!("/containers/{id}/");
        let mountinfo = read(&process, "mountinfo")?;
        if !mountinfo.lines().any(|line| line.contains(&mounted)) {
            return Err(io::Error::other(format!("process {pid} does not see its files")));
        }
        let namespace = |name: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&process, format!("ns/{name}"), flags, Mode::empty())
        };
        let (mounts, user) = (namespace("mnt")?, namespace("user")?);
        if is_our_own(&mounts, "mnt")? {
            return Err(io::Error::other(format!("process {pid} has no mounts of its own")));
        }
        let user = if is_our_own(&user, "user")? { None } else { Some(user) };
        Ok(Self { mounts, user, seen: Seen::of(&mountinfo, id, volumes) })
    }

    fn visit(&self, whose: &Whose) -> Visit {
        let more = whose.as_guest.then_some(&self.seen.others).into_iter().flatten();
        let mounts = self.seen.own.iter().chain(more).copied().collect();
        Visit { user: whose.user, as_guest: whose.as_guest, mounts }
    }

    fn fds<'a>(&'a self, payload: BorrowedFd<'a>) -> Vec<BorrowedFd<'a>> {
        let user = self.user.as_ref().map(OwnedFd::as_fd);
        [self.mounts.as_fd(), payload].into_iter().chain(user).collect()
    }
}

fn read(process: &OwnedFd, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(process, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn is_our_own(namespace: &OwnedFd, kind: &str) -> io::Result<bool> {
    let own = rustix::fs::stat(format!("/proc/self/ns/{kind}"))?;
    let found = rustix::fs::fstat(namespace)?;
    Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
}

/// Moves this process to where the container's files are, with no more rights than files need, or than
/// the guest's user has. Returns the container's `/`.
pub(super) fn enter(
    mounts: &OwnedFd,
    user: Option<&OwnedFd>,
    visit: &Visit,
) -> anyhow::Result<Inside> {
    let descriptors = Descriptors::open();
    let into = rustix::thread::move_into_link_name_space;
    if let Some(user) = user {
        into(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    into(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    if user.is_some() || visit.as_guest {
        let (uid, gid) = if visit.as_guest { visit.user } else { (0, 0) };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    // The last for the group of a folder that a workspace has with its setgid bit.
    let files = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID;
    let none = CapabilitySet::empty();
    let kept = if visit.as_guest { none } else { files };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    caps::undumpable()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let (root, as_guest) = (visit.user.0 == 0, visit.as_guest);
    let fence = Fence::around_root(&visit.mounts, descriptors, root || !as_guest)?;
    let links = match (as_guest, root) {
        (true, _) => Links::AsGuest,
        (false, true) => Links::WaryOfRoot,
        (false, false) => Links::Wary,
    };
    Ok(Inside::visited(fence, links)?)
}

/// What came of it; where the guest's rights did not do, whose they were.
pub(super) fn told(result: anyhow::Result<()>, visit: &Visit) -> anyhow::Result<()> {
    if !visit.as_guest {
        return result;
    }
    let (uid, gid) = visit.user;
    result.with_context(|| {
        format!(
            "in its mounted workspace, where bottle does as user {uid}:{gid} of the sandbox and may do \
             no more"
        )
    })
}

/// With whose rights files are touched.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Whose {
    /// The guest's user: id and group.
    pub(in crate::backend) user: (u32, u32),
    /// With that user's rights and no more.
    pub(in crate::backend) as_guest: bool,
}

impl Visitor {
    /// With this very program as its helper, or with another build of it.
    pub(in crate::backend) fn new(program: Option<&Path>) -> Self {
        Self(Arc::new(program.map_or_else(Helper::this_program, Helper::at)))
    }

    /// Wipes, makes folders and unpacks.
    pub(in crate::backend) async fn put(
        &self,
        door: Door,
        what: String,
        own: Own<'_>,
        upload: &Upload,
        whose: Whose,
    ) -> Result<Visited<()>, BackendError> {
        let dirs = upload.dirs.iter();
        let dirs = dirs.map(|dir| (dir.path.clone(), dir.uid, dir.gid, dir.mode)).collect();
        let wipe = upload.wipe.clone();
        let (own, visit) = (own.map(str::to_owned), door.visit(&whose));
        let request = Request::VisitPut { wipe, dirs, own, visit };
        let tar = upload.tar.clone();
        let visited =
            self.visit(door, what, request, Some(COPYING), move || in_memory(&tar)).await?;
        Ok(match visited {
            Visited::Done(_) => Visited::Done(()),
            Visited::No(why) => Visited::No(why),
        })
    }

    /// Unpacks a tar as it comes, over what is there.
    pub(in crate::backend) async fn stream(
        &self,
        door: Door,
        what: String,
        mut tar: TarStream,
        whose: Whose,
    ) -> Result<Visited<()>, BackendError> {
        let request = Request::VisitStream { visit: door.visit(&whose) };
        let failed = what.clone();
        let failed = |error: io::Error| BackendError::failed(&failed, error);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?;
        // Ends when the tar does, or when nobody reads it any more.
        let writing = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let mut pipe = File::from(write);
            while let Some(part) = tar.blocking_recv() {
                pipe.write_all(&part?)?;
            }
            Ok(())
        });
        let visited = self.visit(door, what, request, None, move || Ok(read.into())).await;
        let written = writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        // The reader's reason first: a writer that finds no reader has none of its own.
        Ok(match visited? {
            Visited::Done(_) => Visited::Done(written.map_err(failed)?),
            Visited::No(why) => Visited::No(why),
        })
    }

    /// A tar of `path`, at most `limit` bytes.
    pub(in crate::backend) async fn get(
        &self,
        door: Door,
        what: String,
        path: &str,
        limit: u64,
        whose: Whose,
    ) -> Result<Visited<Bytes>, BackendError> {
        let visit = door.visit(&whose);
        let request = Request::VisitGet { path: path.to_owned(), limit, visit };
        let failed = what.clone();
        Ok(match self.visit(door, what, request, Some(COPYING), || in_memory(&[])).await? {
            Visited::Done(mut tar) => {
                let mut bytes = Vec::new();
                tar.rewind()
                    .and_then(|()| tar.read_to_end(&mut bytes))
                    .map_err(|error| BackendError::failed(failed, error))?;
                Visited::Done(bytes.into())
            }
            Visited::No(why) => Visited::No(why),
        })
    }

    async fn visit(
        &self,
        door: Door,
        what: String,
        request: Request,
        deadline: Option<Duration>,
        payload: impl FnOnce() -> io::Result<File> + Send + 'static,
    ) -> Result<Visited<File>, BackendError> {
        let cancel = Cancel::default();
        let slot: Slot = cancel.slot();
        let (helper, failing) = (self.0.clone(), what.clone());
        let work = move || {
            let file = payload().map_err(|error| BackendError::failed(&what, error))?;
            let begun = helper.begin(&what, &request, &door.fds(file.as_fd()), None, deadline);
            let call = match begun {
                Ok(call) => call,
                Err(error) => return Ok(Visited::No(error.to_string())),
            };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = call.socket().try_clone().ok();
            match call.answer_if_any()? {
                Ok(Answer::Outside(why)) | Err(why) => Ok(Visited::No(why)),
                Ok(_) => Ok(Visited::Done(file)),
            }
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panic| Err(BackendError::failed(failing, panic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounts_of_a_container_are_told_apart() {
        let id = "0".repeat(64);
        let mountinfo = format!(
            "900 800 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l\n\
             901 900 0:51 / /proc rw - proc proc rw\n\
             902 900 0:52 / /dev rw - tmpfs tmpfs rw\n\
             903 902 0:53 / /dev/shm rw - tmpfs shm rw\n\
             904 900 0:54 / /run/bottle rw - tmpfs tmpfs rw\n\
             905 900 8:1 /var/lib/docker/containers/{id}/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
             907 900 8:1 /var/lib/docker/volumes/feed/_data /home/it rw - ext4 /dev/sda1 rw\n\
             906 900 8:1 /srv/it\\040is /work rw master:1 - ext4 /dev/sda1 rw\nbad line\n"
        );
        let seen = Seen::of(&mountinfo, &id, &["feed".to_owned()]);
        assert_eq!(seen, Seen { own: vec![904, 907], others: vec![906] });
        // Moved by root inside: it is no longer what it was.
        let moved = mountinfo.replace("/run/bottle rw - tmpfs", "/run/bottle rw - ext4");
        assert_eq!(Seen::of(&moved, &id, &[]).own, Vec::<u64>::new());
    }

    #[test]
    fn a_process_that_is_not_the_containers_is_not_entered() {
        let id = "0".repeat(64);
        let own = i64::from(std::process::id());
        let error = Door::of(own, &id, &[]).unwrap_err().to_string();
        assert!(error.contains("control group"), "{error}");
        for (pid, id) in [(0, id.as_str()), (-1, &id), (own, ""), (own, "00ff")] {
            let error = Door::of(pid, id, &[]).unwrap_err().to_string();
            assert!(error.contains("names no process"), "{error}");
        }
    }
}
