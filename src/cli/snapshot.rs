//! `bottle snapshot`: an agent's work as a file of this machine, and back.

#![expect(clippy::disallowed_methods, reason = "makes the folder that a snapshot is restored to")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::sync::mpsc;

use super::args::{
    Global, ReadArgs, SnapshotArgs, SnapshotCommand, SnapshotRestoreArgs, SnapshotSaveArgs,
};
use super::cp;
use super::error::{CliError, Exit, Kind};
use super::setup;
use super::status_text::age;
use super::target::Target;
use super::ui::Ui;
use crate::apply::{Receipts as _, Stop};
use crate::model::text::harmless_line;
use crate::model::{InstanceState, Keep, SandboxId, Writable};
use crate::reconcile::{Lock, Locked, TreeState, accepted, git, state};
use crate::work::snapshot::{
    Census, Landing, Meta, Occasion, Snapshot, SnapshotId, Store, Why, census, replay, restore,
    take,
};
use crate::work::{self, Pieces, Place, way};

/// The version of the documents.
const VERSION: u32 = 1;

/// How many pieces of a tar wait for the disk.
const WAITING: usize = 16;

/// How many of those that were left out are named.
const SHOWN: usize = 20;

/// One snapshot, for `-o json`.
#[derive(Serialize)]
struct Document<'a> {
    id: String,
    /// How large its file is.
    size: u64,
    path: &'a Path,
    #[serde(flatten)]
    meta: Option<&'a Meta>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct List<'a> {
    version: u32,
    snapshots: Vec<Document<'a>>,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &SnapshotArgs) -> Result<Exit, CliError> {
    match &args.command {
        SnapshotCommand::List(args) => list(ui, global, args.name.as_deref()).await,
        SnapshotCommand::Show(args) => show(ui, global, &args.id).await,
        SnapshotCommand::Save(args) => save(ui, global, args).await,
        SnapshotCommand::Restore(args) => bring_back(ui, global, args).await,
        SnapshotCommand::Remove(args) => remove(ui, global, &args.ids).await,
    }
}

/// The snapshots of the tree, and the state folder. No backend is asked, and of the tree only its name is read.
async fn store(global: &Global) -> Result<(Store, PathBuf), CliError> {
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let reconciler = setup::reconciler(load, &super::args::LookArgs::default(), None)?;
    let tree = reconciler.identify().await?;
    let store = Store::of(reconciler.state.tree(&tree.owner)?.dir());
    Ok((store, reconciler.state.root().to_owned()))
}

/// What is remembered of the tree.
async fn memory(global: &Global) -> Result<TreeState, CliError> {
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let reconciler = setup::reconciler(load, &super::args::LookArgs::default(), None)?;
    let tree = reconciler.identify().await?;
    Ok(reconciler.state.tree(&tree.owner)?)
}

fn failed(error: anyhow::Error) -> CliError {
    CliError::new(Kind::Failed, error)
}

fn document<'a>(snapshot: &'a Snapshot, counted: Option<Census>) -> Document<'a> {
    Document {
        id: snapshot.id.to_string(),
        size: snapshot.bytes,
        path: &snapshot.path,
        meta: snapshot.meta.as_ref().ok(),
        unreadable: snapshot.meta.as_ref().err().map(String::as_str),
        entries: counted.map(|census| census.entries),
        bytes: counted.map(|census| census.bytes),
    }
}

fn write(ui: &Ui, document: &impl Serialize) -> Result<(), CliError> {
    ui.document(document).map_err(|error| failed(error.into()))
}

async fn list(ui: &Ui, global: &Global, name: Option<&str>) -> Result<Exit, CliError> {
    let sandbox = name.map(SandboxId::new).transpose().map_err(anyhow::Error::from)?;
    let found = store(global).await?.0.list(sandbox.as_ref()).map_err(failed)?;
    if ui.json() {
        let snapshots = found.iter().map(|one| document(one, None)).collect();
        write(ui, &List { version: VERSION, snapshots })?;
        return Ok(Exit::Done);
    }
    if found.is_empty() {
        ui.say("no snapshots; `bottle snapshot save NAME` makes one");
        return Ok(Exit::Done);
    }
    let widest = found.iter().map(|one| one.id.to_string().len()).max().unwrap_or(0);
    let now = state::now();
    let mut text = String::new();
    for one in &found {
        let what = match &one.meta {
            Ok(meta) => {
                let since = age(now.saturating_sub(meta.when));
                format!(
                    "{since:>4}  {:>9}  {:<8}  {}",
                    size(one.bytes),
                    meta.why.to_string(),
                    meta.paths.join(", ")
                )
            }
            Err(why) => format!("cannot be read: {why}"),
        };
        text.push_str(&harmless_line(&format!("{:widest$}  {what}", one.id.to_string())));
        text.push('\n');
    }
    ui.data(&text).map_err(|error| failed(error.into()))?;
    Ok(Exit::Done)
}

/// Bytes, rounded for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

async fn show(ui: &Ui, global: &Global, id: &str) -> Result<Exit, CliError> {
    let one = store(global).await?.0.find(id).map_err(failed)?;
    let path = one.path.clone();
    let counted = tokio::task::spawn_blocking(move || census(&path)).await;
    let counted = counted.context("reading the snapshot").map_err(failed)?.map_err(failed)?;
    if ui.json() {
        #[derive(Serialize)]
        struct Shown<'a> {
            format: u32,
            #[serde(flatten)]
            document: Document<'a>,
        }
        write(ui, &Shown { format: VERSION, document: document(&one, Some(counted)) })?;
        return Ok(Exit::Done);
    }
    let meta = one.meta.as_ref().map_err(|why| CliError::failed(why.clone()))?;
    let mut lines = vec![
        ("snapshot", one.id.to_string()),
        ("of", format!("{} on {}, tree {}", meta.sandbox, meta.backend, meta.tree)),
        ("made", format!("{} ago ({})", age(state::now().saturating_sub(meta.when)), meta.why)),
        ("keeps", meta.paths.join(", ")),
        ("holds", format!("{} entries, {} bytes", counted.entries, counted.bytes)),
        ("file", format!("{} ({})", one.path.display(), size(one.bytes))),
    ];
    lines.extend(meta.image.iter().map(|image| ("image", image.clone())));
    lines.extend(meta.commit.iter().map(|commit| ("tree at", commit.clone())));
    let text: String =
        lines.iter().map(|(key, value)| harmless_line(&format!("{key:9}{value}")) + "\n").collect();
    ui.data(&text).map_err(|error| failed(error.into()))?;
    Ok(Exit::Done)
}

async fn save(ui: &Ui, global: &Global, args: &SnapshotSaveArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    let store = Store::of(&target.scope.data);
    let what = named(&target).await?;
    let occasion = Occasion {
        why: Why::Manual,
        what: what.clone(),
        when: state::now(),
        commit: git::revision(&target.tree()).await.commit,
        all: args.all,
        receipt: target.memory()?.receipts()?.remove(&target.machine.id),
        room: u64::MAX,
    };
    let taken = take(&store, &*target.backend, &target.scope, &target.machine, &occasion).await;
    let taken = taken.map_err(|error| {
        let error = error.context(format!("keeping what {} has", target.sandbox));
        failed(error).hint("`bottle start NAME` starts what does not run")
    })?;
    let taken = taken.ok_or_else(|| {
        let told =
            format!("`keep: {what}` of its bottle names nothing that {} has", target.sandbox);
        failed(anyhow::anyhow!("there is nothing to keep: {told}"))
    })?;
    if ui.json() {
        let one = store.find(&taken.id.to_string()).map_err(failed)?;
        write(ui, &List { version: VERSION, snapshots: vec![document(&one, None)] })?;
    } else {
        ui.data(&format!("{}\n", taken.id)).map_err(|error| failed(error.into()))?;
    }
    for (path, why) in taken.left_out.named.iter().take(SHOWN) {
        ui.warn(&harmless_line(&format!("left out: {}: {why}", cp::short(path))));
    }
    let shown = taken.left_out.named.len().min(SHOWN) as u64;
    if taken.left_out.count > shown {
        ui.warn(&format!("left out: … and {} more", taken.left_out.count - shown));
    }
    let mut said = format!("keeps {} ({})", taken.meta.paths.join(", "), size(taken.bytes));
    if taken.left_out.built > 0 {
        let built = taken.left_out.built;
        said +=
            &format!(", without {built} files that programs can make again (`--all` keeps them)");
    }
    ui.say(&harmless_line(&said));
    Ok(Exit::Done)
}

/// What the tree says is kept of it: now, else when it last named it.
async fn named(target: &Target) -> Result<Keep, CliError> {
    let now = match target.desired().await {
        Ok(mut desired) => desired.sandboxes.remove(&target.sandbox).map(|spec| spec.keep),
        // It can be kept all the same.
        Err(_) => None,
    };
    match now {
        Some(keep) => Ok(keep),
        None => Ok(target.memory()?.keeps()?.remove(&target.sandbox).unwrap_or_default()),
    }
}

async fn bring_back(
    ui: &Ui,
    global: &Global,
    args: &SnapshotRestoreArgs,
) -> Result<Exit, CliError> {
    let (store, state) = store(global).await?;
    let one = store.find(&args.id).map_err(failed)?;
    let meta =
        one.meta.clone().map_err(|why| failed(anyhow::anyhow!("{}: {why}", one.path.display())))?;
    match &args.to {
        Some(folder) => {
            let writable = accepted::writable(&state).map_err(failed)?;
            out(ui, &one, folder, &writable).await
        }
        None => {
            let patience = Duration::from_secs(args.lock_timeout);
            back(ui, global, &one, &meta, args.sandbox.as_deref(), patience).await
        }
    }
}

/// Into a sandbox.
async fn back(
    ui: &Ui,
    global: &Global,
    one: &Snapshot,
    meta: &Meta,
    name: Option<&str>,
    patience: Duration,
) -> Result<Exit, CliError> {
    let name = name.unwrap_or(one.id.sandbox.as_str());
    let target = Target::find(global, name).await.map_err(|error| {
        error.hint("`--as NAME` restores into another sandbox, and `--to DIR` into a folder")
    })?;
    let memory = target.memory()?;
    let lock = lock(ui, &memory, "snapshot restore", patience).await?;
    // A run of `watch` that replaces it is waited for, and begins none meanwhile.
    let of = BTreeSet::from([target.sandbox.clone()]);
    let _claims = memory.claim(&of, patience).await?;
    // Whoever was waited for may have replaced it.
    let target = Target::find(global, name).await?;
    // What `bottle` put there itself is put right by the next pass, also when this ends half way.
    if target.machine.state == InstanceState::Running
        && let Some(mut receipt) = memory.receipts()?.remove(&target.machine.id)
    {
        receipt.guest = None;
        memory.put(&receipt, true)?;
    }
    let done = restore(one, meta, &*target.backend, &target.scope, &target.machine).await;
    done.map_err(|error| {
        let error = error.context(format!("restoring {} into {}", one.id, target.sandbox));
        failed(error)
            .hint("`bottle start NAME` starts what does not run; `--to DIR` needs no sandbox")
    })?;
    ui.say(&harmless_line(&format!("{} → {}", one.id, target.sandbox)));
    if lock.is_some() {
        ui.say("`bottle apply` puts prompt, skills and settings right");
    }
    drop(lock);
    Ok(Exit::Done)
}

/// Takes the tree's lock, so that no pass begins; `None` beside a `watch`, which never lets go of it.
pub(super) async fn lock(
    ui: &Ui,
    memory: &TreeState,
    command: &str,
    patience: Duration,
) -> Result<Option<Lock>, CliError> {
    match memory.lock(command, Duration::ZERO).await {
        Err(error) if error.downcast_ref::<Locked>().is_some_and(Locked::by_watch) => Ok(None),
        Err(error) if error.is::<Locked>() => {
            super::apply::wait_for_lock(ui, &Stop::default(), memory, command, patience)
                .await
                .map(Some)
        }
        taken => Ok(Some(taken?)),
    }
}

/// Into a folder of this machine.
async fn out(
    ui: &Ui,
    one: &Snapshot,
    folder: &Path,
    writable: &Writable,
) -> Result<Exit, CliError> {
    let resolved = way::resolve(folder, writable).map_err(failed)?;
    match std::fs::create_dir(&resolved) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.with_context(|| format!("making {}", folder.display())).map_err(failed)?,
    }
    let place = Place { folder: resolved, name: None, owners: false };
    let (send, pieces) = mpsc::channel(WAITING);
    let unpacking =
        tokio::task::spawn_blocking(move || work::extract(Pieces::from(pieces), &place));
    let path = one.path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        // The first part of each name is dropped on the other side.
        let paths = vec![("/".to_owned(), "/all".to_owned())];
        let landing = Landing {
            paths,
            without: Vec::new(),
            not_into: Vec::new(),
            owners: None,
            set_id: false,
        };
        replay(&path, &landing, Sending(send))
    });
    let (read, unpacked) = tokio::join!(reading, unpacking);
    let read = read.context("reading the snapshot").map_err(failed)?;
    let unpacked = unpacked.context("unpacking the snapshot").map_err(failed)?;
    let mut done = match (read, unpacked) {
        (Err(error), Ok(_)) => return Err(failed(error)),
        (_, Err(error)) => return Err(failed(error)),
        (Ok(()), Ok(done)) => done,
    };
    for refused in &mut done.refused {
        if let Some(path) = refused.path.strip_prefix("all/") {
            refused.path = path.to_owned();
        }
    }
    cp::tell(ui, &done, &one.id.to_string(), &folder.display().to_string())?;
    Ok(if done.refusals > 0 { Exit::Failed } else { Exit::Done })
}

/// Hands on what is written.
struct Sending(mpsc::Sender<bytes::Bytes>);

impl std::io::Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = bytes::Bytes::copy_from_slice(bytes);
        self.0.blocking_send(piece).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn remove(ui: &Ui, global: &Global, ids: &[String]) -> Result<Exit, CliError> {
    let memory = memory(global).await?;
    let store = Store::of(memory.dir());
    // All are looked at before one goes: a word that is mistyped removes nothing.
    let ids = ids.iter().map(|id| {
        SnapshotId::parse(id).ok_or_else(|| {
            CliError::failed(format!("`{id}` names no snapshot"))
                .hint("write it as `bottle snapshot list` does: NAME/TIME")
        })
    });
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let (on_their_way, unreadable) = memory.carried()?;
    for id in &ids {
        store.find(&id.to_string()).map_err(failed)?;
        let carried = on_their_way.iter().find(|(_, one)| one.snapshot == id.to_string());
        // What cannot be read may name it.
        let carried = carried.map(|(sandbox, _)| sandbox);
        if let Some(sandbox) =
            carried.or_else(|| unreadable.keys().find(|name| **name == id.sandbox))
        {
            let told = format!("{id} is the work of {sandbox} on its way into its new machine");
            return Err(CliError::failed(told).hint(format!(
                "`bottle start {sandbox}` or `bottle apply` brings it there; `bottle apply --only {sandbox} \
                 --discard {sandbox}` gives it up"
            )));
        }
    }
    for id in &ids {
        store.remove(id).map_err(failed)?;
        ui.say(&format!("removed {id}"));
    }
    Ok(Exit::Done)
}
