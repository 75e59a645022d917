//! Takes a snapshot of a machine that is there, and puts one into a machine.

use std::io;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::places::{self, Place, Places, plain};
use super::{Landing, LeftOut, Meta, Part, Snapshot, SnapshotId, Store, VERSION, Why, replay};
use crate::backend::{Backend, BackendError, Identity, Scope, TarStream};
use crate::model::kept::lies_in;
use crate::model::{Instance, Keep, Receipt};
use crate::work::{Outgoing, Pieces};

/// How many pieces of a tar wait for the other end.
const WAITING: usize = 16;

/// Where skills lie in a home folder.
const SKILLS: &str = ".claude/skills";

/// Where `bottle` and engines put what belongs to a running machine: the engine's own init, too.
const SYSTEM: [&str; 6] =
    ["/etc", "/run", "/dev", "/bin/docker-init", "/sbin/docker-init", "/usr/bin/docker-init"];

/// Why a snapshot is taken, and when.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// Why.
    pub why: Why,
    /// What is kept.
    pub what: Keep,
    /// Seconds since the epoch.
    pub when: u64,
    /// The commit of the tree.
    pub commit: Option<String>,
    /// Whether what programs can fill again is kept as well.
    pub all: bool,
    /// What was put into the machine.
    pub receipt: Option<Receipt>,
    /// How many bytes its file may take.
    pub room: u64,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Its name.
    pub id: SnapshotId,
    /// What it says of itself.
    pub meta: Meta,
    /// How large its file is.
    pub bytes: u64,
    /// What did not come in.
    pub left_out: LeftOut,
}

/// The folders of skills that a machine was given, below its user's home or absolute.
fn delivered(receipt: Option<&Receipt>) -> Vec<String> {
    let Some(receipt) = receipt else { return Vec::new() };
    let folder = receipt.skills_dir.as_deref().unwrap_or(SKILLS);
    receipt.skills.iter().map(|name| format!("{folder}/{name}")).collect()
}

/// What of a machine a snapshot is to have.
#[derive(Debug, Clone)]
pub struct Surveyed {
    identity: Identity,
    places: Places,
}

/// What is taken of a machine, and what that says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What it says.
    pub meta: Meta,
    /// One path after the other.
    pub parts: Vec<Part>,
}

impl Surveyed {
    /// What is taken of it.
    #[must_use]
    pub fn planned(self, scope: &Scope, machine: &Instance, occasion: &Occasion) -> Planned {
        let Self { identity, places: Places { all, without } } = self;
        let paths: Vec<String> = all.iter().map(|place| place.path.clone()).collect();
        let workspace = machine.copied_workspace().map(plain);
        let meta = Meta {
            version: VERSION,
            tree: scope.owner.to_string(),
            sandbox: machine.sandbox.clone(),
            backend: machine.backend,
            image: machine.fields.0.get("image").cloned(),
            when: occasion.when,
            why: occasion.why,
            workspace: workspace.filter(|at| paths.iter().any(|path| lies_in(at, path))),
            paths,
            home: identity.home,
            user: (identity.uid, identity.gid),
            commit: occasion.commit.clone(),
            delivered: delivered(occasion.receipt.as_ref()),
        };
        // What is named within another place is kept as if it stood by itself.
        let named: Vec<String> = occasion.what.paths.iter().map(|path| plain(path)).collect();
        let part = |Place { path, folder }| Part {
            path,
            folder,
            all: occasion.all,
            named: named.clone(),
            without: without.clone(),
        };
        Planned { parts: all.into_iter().map(part).collect(), meta }
    }

    /// Where that is in the machine: absolute paths, none in another.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.places.all.iter().map(|place| place.path.clone()).collect()
    }
}

/// Takes a snapshot of what is kept of a machine, as [`survey`] and [`pack`] do.
///
/// # Errors
/// As theirs.
pub async fn take(
    store: &Store,
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    occasion: &Occasion,
) -> anyhow::Result<Option<Taken>> {
    let Some(surveyed) = survey(backend, scope, machine, occasion).await? else { return Ok(None) };
    let planned = surveyed.planned(scope, machine, occasion);
    pack(store, backend, scope, machine, planned, occasion.room).await.map(Some)
}

/// Looks what is kept of a machine. `None`: it has nothing of that, or, when it goes, nobody wrote there. What of
/// it is not there is said.
///
/// # Errors
/// When the machine cannot be asked.
pub async fn survey(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    occasion: &Occasion,
) -> anyhow::Result<Option<Surveyed>> {
    let identity = backend.identity(scope, machine).await?;
    let wanted = places::wanted(&occasion.what, machine, &identity);
    // Somebody who asks for a snapshot gets one. A path of the bottle's own may be another by a link, among what
    // is taken for the engine's.
    let changed = match occasion.why {
        Why::Teardown | Why::Replace if occasion.what.paths.is_empty() => {
            backend.changed(scope, machine).await?
        }
        _ => None,
    };
    let receipt = occasion.receipt.as_ref();
    if changed.is_some_and(|changed| is_untouched(&changed, &wanted, &identity, receipt)) {
        return Ok(None);
    }
    let places = places::find(backend, scope, machine, wanted).await?;
    Ok((!places.all.is_empty()).then_some(Surveyed { identity, places }))
}

/// Takes a snapshot of what was planned, whose file takes at most `room` bytes.
///
/// # Errors
/// When the machine gives nothing out, or the disk is full: no snapshot is there then.
pub async fn pack(
    store: &Store,
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    planned: Planned,
    room: u64,
) -> anyhow::Result<Taken> {
    let Planned { meta, parts } = planned;
    let (begun, making) = (store.clone(), meta.clone());
    let (id, mut packer) = blocking(move || begun.begin(&making, room)).await??;
    for part in parts {
        let (send, pieces) = mpsc::channel(WAITING);
        let (path, may_be_gone) = (part.path.clone(), !part.folder);
        let packing = tokio::task::spawn_blocking(move || {
            let added = packer.add(&part, Pieces::from(pieces));
            (packer, added)
        });
        let sent = backend.stream_out(scope, machine, &path, send).await;
        let (back, added) = packing.await.context("keeping what is there")?;
        packer = back;
        match (sent, added) {
            // Its command took it away when it ended.
            (Err(error), _) if may_be_gone && error.is_absent() => {}
            // Of an archive that it broke off the machine knows more than whoever reads it.
            (Err(error), Err(broken)) if !is_ours(&broken) => return Err(error.into()),
            (_, Err(error)) => return Err(error),
            (Err(error), Ok(())) => return Err(error.into()),
            (Ok(()), Ok(())) => {}
        }
    }
    let left_out = packer.left_out().clone();
    let bytes = blocking(move || packer.finish()).await??;
    Ok(Taken { id, meta, bytes, left_out })
}

/// Whether nothing was written anywhere but what `bottle` itself and the engine put there.
fn is_untouched(
    changed: &[String],
    places: &[Place],
    identity: &Identity,
    receipt: Option<&Receipt>,
) -> bool {
    let home = plain(&identity.home);
    let folder = receipt.and_then(|receipt| receipt.skills_dir.clone());
    let folder = folder.unwrap_or_else(|| format!("{home}/{SKILLS}"));
    let delivered: Vec<String> = receipt
        .iter()
        .flat_map(|receipt| receipt.files.keys())
        .filter_map(|file| Some(plain(&format!("{folder}/{}", file.strip_prefix("skills/")?))))
        .collect();
    // What is elsewhere may be the same folder by another name, behind a link.
    let ours = |path: &str| {
        SYSTEM.iter().any(|own| lies_in(path, own) || lies_in(own, path))
            || places.iter().any(|place| lies_in(&place.path, path))
            || delivered.iter().any(|file| lies_in(file, path))
    };
    changed.iter().all(|path| ours(&plain(path)))
}

/// An error of this machine's own, a full disk say.
pub(super) fn is_ours(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some())
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread that works on a snapshot")
}

/// Puts a snapshot into a machine, over what is there: the workspace into its workspace, the home into its
/// user's home, all else where it was.
///
/// # Errors
/// When the snapshot is damaged, or the machine does not take it: what came in before stays.
pub async fn restore(
    snapshot: &Snapshot,
    meta: &Meta,
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
) -> anyhow::Result<()> {
    let mounted = machine.fields.0.get("workspace.mount").filter(|_| meta.workspace.is_some());
    if let Some(folder) = mounted {
        let name = &machine.sandbox;
        anyhow::bail!(
            "{name} works in {folder} of this machine, which no snapshot changes: `--to DIR` takes it out"
        );
    }
    put(snapshot, meta, backend, scope, machine, meta.workspace.as_deref()).await
}

/// Puts a snapshot of a machine into the one that follows it: the home, and the workspace where the new one
/// has a copy of the same folder (`workspace`). What programs of the user set as set-id is not.
///
/// # Errors
/// As those of [`restore`].
pub async fn hand_on(
    snapshot: &Snapshot,
    meta: &Meta,
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    workspace: bool,
) -> anyhow::Result<()> {
    let workspace = meta.workspace.as_deref().filter(|_| workspace);
    put(snapshot, meta, backend, scope, machine, workspace).await
}

async fn put(
    snapshot: &Snapshot,
    meta: &Meta,
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    workspace: Option<&str>,
) -> anyhow::Result<()> {
    let identity = backend.identity(scope, machine).await?;
    let landing = landing(meta, machine, &identity, workspace);
    let (send, tar): (_, TarStream) = mpsc::channel(4);
    let path = snapshot.path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let broken = send.clone();
        let read = replay(&path, &landing, Outgoing::from(send));
        if read.is_err() {
            // Whoever unpacks must not take half of it for the whole.
            let _ = broken.blocking_send(Err(io::Error::other("the snapshot breaks off")));
        }
        read
    });
    let sent = backend.stream_in(scope, machine, tar).await;
    let read = reading.await.context("reading the snapshot")?;
    match (read, sent) {
        (Err(error), Err(_)) if !was_stopped(&error) => Err(error),
        (_, Err(error)) => Err(BackendError::into(error)),
        (read, Ok(())) => read,
    }
}

pub(super) fn was_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// `workspace`: that of the snapshot, where it is put in.
pub(super) fn landing(
    meta: &Meta,
    machine: &Instance,
    identity: &Identity,
    workspace: Option<&str>,
) -> Landing {
    let mut paths = Vec::new();
    if let (Some(from), Some(to)) = (workspace, machine.fields.0.get("workspace.target")) {
        paths.push((plain(from), plain(to)));
    }
    // A user without a home has the whole machine for one: what was in a home stays where it was.
    if plain(&identity.home) != "/" {
        paths.push((plain(&meta.home), plain(&identity.home)));
    }
    paths.extend(meta.paths.iter().map(|path| (plain(path), plain(path))));
    // What lies deeper says more.
    paths.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    let home = plain(&meta.home);
    let absolute = |path: &String| {
        if path.starts_with('/') { plain(path) } else { plain(&format!("{home}/{path}")) }
    };
    let stays = meta.workspace.as_deref().filter(|_| workspace.is_none()).map(plain);
    let without = meta.delivered.iter().map(absolute).chain(stays).collect();
    // What is mounted now is a folder of the host, whatever stood there under which name.
    let not_into = machine.mounts().into_iter().map(plain).collect();
    let owners = Some((meta.user, (identity.uid, identity.gid)));
    Landing { paths, without, not_into, owners, set_id: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bottle_put_there_is_nobodys_work() {
        let identity = Identity { uid: 1, gid: 1, home: "/home/node".to_owned() };
        let place = |path: &str, folder| Place { path: path.to_owned(), folder };
        let places = [place("/home/node", true), place("/workspace", true)];
        let hash = crate::model::SpecHash::of_bytes(b"");
        let receipt = Receipt {
            files: [("prompt.md", hash), ("skills/plan/SKILL.md", hash)]
                .map(|(path, hash)| (path.to_owned(), hash))
                .into(),
            ..crate::work::snapshot::tests::receipt()
        };
        let is = |changed: &[&str]| {
            let changed: Vec<String> = changed.iter().map(|path| (*path).to_owned()).collect();
            is_untouched(&changed, &places, &identity, Some(&receipt))
        };
        assert!(is(&[]));
        assert!(is(&["/etc", "/etc/bottle/prompt.md", "/home", "/home/node"]));
        assert!(is(&["/bin", "/bin/docker-init", "/run", "/run/bottle"]));
        assert!(!is(&["/bin/sh"]));
        let skills = ["/home/node/.claude", "/home/node/.claude/skills/plan/SKILL.md"];
        assert!(is(&skills));
        assert!(!is(&["/home/node/.claude/skills/plan/own.md"]));
        assert!(!is(&["/home/node/.bashrc"]));
        assert!(!is(&["/workspace/a"]));
        assert!(!is(&["/var/roothome/a"]));
    }

    #[test]
    fn a_home_in_a_mounted_workspace_is_the_hosts() {
        assert!(lies_in("/w/home", "/w"));
        assert!(lies_in("/w", "/w"));
        assert!(!lies_in("/wide", "/w"));
        assert_eq!(plain("//a/./b/"), "/a/b");
    }
}
