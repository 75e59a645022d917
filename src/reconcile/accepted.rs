//! What of the host was accepted for which sandbox: the path that a manifest led to when the machine
//! was made; and what the tree said is kept of it. Written before anything is made of it, and dropped when the sandbox is gone.
//!
//! It is what tells an operator's path from one that a sandbox has put there since, and what other
//! trees of the same state folder must keep out of.
#![expect(clippy::disallowed_methods, reason = "reads and writes the state folder")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::state::{State, TreeState, read_json, write_json};
use super::view::View;
use crate::apply::{Outcome, Report};
use crate::manifest::mount_table;
use crate::model::{
    Desired, Diagnostic, Elsewhere, HostSource, Instance, Keep, MountTable, OwnerId, SandboxId,
    Use, Writable,
};
use crate::plan::{Verdict, sources};

const FILE: &str = "sources.json";

/// What of the host sandboxes were given.
pub type Sources = BTreeMap<SandboxId, Vec<HostSource>>;

/// What is kept of sandboxes.
pub type Keeps = BTreeMap<SandboxId, Keep>;

/// The record of one tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accepted {
    /// Where the tree lies, for people.
    tree: PathBuf,
    /// By sandbox.
    sandboxes: Sources,
    /// What is kept of those of which that is not the default, as the tree last said: it holds for one
    /// whose file is gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keeps: Keeps,
}

fn read(dir: &Path) -> anyhow::Result<Accepted> {
    Ok(read_json(&dir.join(FILE))?.unwrap_or_default())
}

/// The same of the tree that is worked on: nothing is done for it without.
fn read_own(dir: &Path) -> anyhow::Result<Accepted> {
    read(dir).with_context(|| {
        format!(
            "{} cannot be read, and it says which folders of the host sandboxes were given: put a copy \
             back, or look that the paths in the bottles lead where you want them to, and remove it",
            dir.join(FILE).display()
        )
    })
}

/// Where each tree lies, as far as their records say so.
pub(super) fn trees(state: &Path) -> BTreeMap<OwnerId, PathBuf> {
    let entries = fs::read_dir(state.join("trees")).into_iter().flatten().flatten();
    let tree = |entry: fs::DirEntry| {
        let owner = OwnerId::new(entry.file_name().to_str()?).ok()?;
        let tree = read(&entry.path()).ok()?.tree;
        (!tree.as_os_str().is_empty()).then_some((owner, tree))
    };
    entries.filter_map(tree).collect()
}

impl TreeState {
    /// What was accepted, by sandbox, as it lies in this table; and what the tree last said is kept of each
    /// sandbox, where that is not the default.
    ///
    /// # Errors
    /// When the record is there and cannot be read: then nobody knows what was accepted.
    pub fn accepted(&self, table: &MountTable) -> anyhow::Result<(Sources, Keeps)> {
        let Accepted { mut sandboxes, keeps, .. } = read_own(self.dir())?;
        sandboxes.values_mut().flatten().for_each(|source| source.locate(table));
        Ok((sandboxes, keeps))
    }

    /// What the tree last said is kept of each sandbox, where that is not the default.
    ///
    /// # Errors
    /// When the record is there and cannot be read.
    pub fn keeps(&self) -> anyhow::Result<Keeps> {
        Ok(read_own(self.dir())?.keeps)
    }
}

/// The folders of this machine that sandboxes of any tree can write, as the records say, under every name
/// that they have on it.
///
/// # Errors
/// When the folder of trees, or a record, cannot be read: then nobody knows what a sandbox can write.
pub fn writable(state: &Path) -> anyhow::Result<Writable> {
    let trees = state.join("trees");
    let names = match fs::read_dir(&trees) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Writable::default()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", trees.display())),
    };
    let mut folders = Vec::new();
    for entry in names.flatten() {
        // What is named like no tree is none.
        if entry.file_name().to_str().and_then(|name| OwnerId::new(name).ok()).is_none() {
            continue;
        }
        let record = read_own(&entry.path())?;
        for (sandbox, sources) in record.sandboxes {
            let whose = format!("{sandbox} of {}", record.tree.display());
            let mounts = sources.into_iter().filter(|source| source.usage == Use::Mount);
            folders.extend(mounts.map(|source| (source.path, whose.clone())));
        }
    }
    Ok(Writable::new(folders, mount_table()))
}

/// What is given to the sandboxes of all other trees of a state folder.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// As their records say.
    pub(super) accepted: Vec<Elsewhere>,
    /// Those whose record is lost, which their machines may say more of.
    pub(super) lost: Vec<Lost>,
}

/// A tree whose record cannot be read, or is gone although the tree has something.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) owner: OwnerId,
    /// Its folder in the state folder.
    pub(super) dir: PathBuf,
    pub(super) why: String,
}

impl Lost {
    /// For people.
    pub(super) fn warning(&self, unseen: &[String]) -> Diagnostic {
        let known = match unseen {
            [] => "what the records of its machines say counts instead".to_owned(),
            unseen => format!("what its sandboxes on {} can write is not known", unseen.join(", ")),
        };
        Diagnostic::warning(
            self.dir.join(FILE).display().to_string(),
            format!("{}, and it says what sandboxes of the tree {} can write: {known}", self.why, self.owner),
        )
        .with_hint("an apply of that tree writes it anew where it is missing; damaged, it has to be removed first")
    }
}

/// What a machine is given to write, by its own record: for one that no other record tells of.
pub(super) fn given(tree: &Path, machine: &Instance, table: &MountTable) -> Option<Elsewhere> {
    let path = machine.fields.0.get("workspace.mount")?;
    let mut source = HostSource {
        field: "workspace.path".to_owned(),
        text: path.clone(),
        base: None,
        path: path.into(),
        via: Vec::new(),
        usage: Use::Mount,
        place: Default::default(),
        located: Default::default(),
    };
    source.locate(table);
    let sandbox = machine.sandbox.clone();
    Some(Elsewhere { tree: tree.to_owned(), sandbox, sources: vec![source] })
}

/// Holds what lies in the reach of a sandbox of any tree, as far as the state folder says, which is not
/// opened and may not exist.
///
/// # Errors
/// When the folder cannot be read.
pub fn hold_exposed(state: &Path, desired: &mut Desired) -> anyhow::Result<()> {
    let others = others(state, &desired.tree.owner)?;
    sources::hold_exposed(desired, &others.accepted);
    let all = ["any backend".to_owned()];
    desired.diagnostics.extend(others.lost.iter().map(|lost| lost.warning(&all)));
    Ok(())
}

/// Whom sandboxes share a writable folder with, by sandbox, for people.
///
/// # Errors
/// As [`hold_exposed`].
pub fn shared_notes(
    state: &Path,
    desired: &Desired,
) -> anyhow::Result<BTreeMap<SandboxId, Vec<String>>> {
    Ok(sources::shared_notes(desired, &others(state, &desired.tree.owner)?.accepted))
}

/// What the records of all other trees say.
///
/// # Errors
/// When the folder of trees cannot be read.
pub(super) fn others(state: &Path, owner: &OwnerId) -> anyhow::Result<Others> {
    let trees = state.join("trees");
    let names = match fs::read_dir(&trees) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Others::default()),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", trees.display()));
        }
    };
    let mut others = Others::default();
    let table = mount_table();
    for entry in names {
        let entry = entry?;
        // What is named like no tree is none: a backend keeps a record and its lock beside them.
        let name = entry.file_name().to_str().and_then(|name| OwnerId::new(name).ok());
        let Some(name) = name.filter(|name| name != owner) else { continue };
        let dir = entry.path();
        let Accepted { tree, mut sandboxes, .. } = match read_json(&dir.join(FILE)) {
            Ok(Some(record)) => record,
            Ok(None) if !has_something(&dir) => continue,
            Ok(None) => {
                let why = "it is missing".to_owned();
                others.lost.push(Lost { owner: name, dir, why });
                continue;
            }
            Err(error) => {
                let why = format!("{error:#}");
                others.lost.push(Lost { owner: name, dir, why });
                continue;
            }
        };
        sandboxes.values_mut().flatten().for_each(|source| source.locate(&table));
        others.accepted.extend(sandboxes.into_iter().map(|(sandbox, sources)| Elsewhere {
            tree: tree.clone(),
            sandbox,
            sources,
        }));
    }
    Ok(others)
}

/// Whether something was made for the tree of this folder: a folder of receipts or of a backend has
/// anything in it.
fn has_something(dir: &Path) -> bool {
    let kept = |name: &str| {
        let mut entries = fs::read_dir(dir.join(name)).into_iter().flatten().flatten();
        entries.any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
    };
    ["receipts", "native", "smolmachines", "sidecars", "gate"].into_iter().any(kept)
}

/// Another tree was faster.
#[derive(Debug, thiserror::Error)]
#[error("another tree has just made a sandbox that can reach what this one would be given: {0}")]
pub struct TakenMeanwhile(String);

/// Runs of several sandboxes end at once, and each reads the record, changes its own part and writes
/// it: one at a time.
fn writing() -> std::sync::MutexGuard<'static, ()> {
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Remembers what this plan accepts, before anything of it is done.
///
/// # Errors
/// [`TakenMeanwhile`], or when the folder cannot be read or written.
pub(super) fn accept(state: &State, view: &View) -> anyhow::Result<()> {
    let _writing = writing();
    let known = match read_own(view.memory.dir()) {
        // What goes needs no record of what it was given.
        Err(_) if view.options.remove_all => Accepted::default(),
        known => known?,
    };
    let next = before(view, &known);
    if next == known {
        return Ok(());
    }
    // The record of one tree is judged against those of all others: one at a time.
    let _lock = state.lock_owners()?;
    let mut desired = view.desired.clone();
    let held = desired.held.len();
    let mut others = others(state.root(), &desired.tree.owner)?.accepted;
    // What was seen of those whose records are lost.
    others.extend(view.observed.elsewhere.iter().cloned());
    sources::hold_exposed(&mut desired, &others);
    if desired.held.len() > held && !view.options.remove_all {
        let new = desired.diagnostics.iter().find(|d| !view.desired.diagnostics.contains(d));
        let what = new.map(|d| format!("{}:{}: {}", d.file, d.line, d.message));
        return Err(TakenMeanwhile(what.unwrap_or_default()).into());
    }
    write(&view.memory, &next)
}

/// Forgets what is certain to be gone, after the plan was carried out.
///
/// # Errors
/// When the folder cannot be read or written.
pub(super) fn settle(view: &View, report: &Report) -> anyhow::Result<()> {
    let _writing = writing();
    let known = read_own(view.memory.dir())?;
    let mut next = known.clone();
    let mut undone = BTreeSet::new();
    let mut done = BTreeSet::new();
    for outcome in &report.outcomes {
        let Some(sandbox) = &view.plan.steps[outcome.step].sandbox else { continue };
        let set = if matches!(outcome.outcome, Outcome::Done) { &mut done } else { &mut undone };
        set.insert(sandbox);
    }
    let verdicts = view.plan.verdicts();
    for id in done.difference(&undone) {
        match (verdicts.get(*id), view.desired.sandboxes.get(*id)) {
            (Some(Verdict::Create | Verdict::Replace), Some(spec)) => {
                next.sandboxes.insert((*id).clone(), sorted(spec.sources.iter()));
            }
            (Some(Verdict::Teardown), _) => {
                next.sandboxes.remove(*id);
                next.keeps.remove(*id);
            }
            _ => {}
        }
    }
    if next == known { Ok(()) } else { write(&view.memory, &next) }
}

/// Gives what was accepted for a sandbox to the name that it has now.
///
/// # Errors
/// When the record cannot be read or written.
pub(super) fn rename(memory: &TreeState, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()> {
    let _writing = writing();
    let known = read_own(memory.dir())?;
    let mut next = known.clone();
    if let Some(sources) = next.sandboxes.remove(from) {
        // Its machine may have all of that until it is replaced.
        let all = next.sandboxes.entry(to.clone()).or_default();
        *all = sorted(all.clone().iter().chain(&sources));
    }
    if let Some(keep) = next.keeps.remove(from) {
        next.keeps.entry(to.clone()).or_insert(keep);
    }
    if next == known { Ok(()) } else { write(memory, &next) }
}

fn write(memory: &TreeState, record: &Accepted) -> anyhow::Result<()> {
    write_json(&memory.dir().join(FILE), record, true)
}

/// What must be remembered while the plan is carried out: what exists and what will.
fn before(view: &View, known: &Accepted) -> Accepted {
    let mut next = Accepted { tree: view.desired.tree.path.clone(), ..known.clone() };
    let verdicts = view.plan.verdicts();
    let existing: BTreeSet<&SandboxId> =
        view.observed.instances.iter().map(|instance| &instance.sandbox).collect();
    if !view.options.remove_all {
        for (id, spec) in &view.desired.sandboxes {
            // Of a renamed one, what the machine was given that it has until it is replaced.
            let was = view.observed.renames.get(id);
            let old =
                || [Some(id), was].into_iter().flatten().filter_map(|of| known.sandboxes.get(of));
            let sources = match verdicts.get(id) {
                // Nothing was looked at, or nothing is touched.
                None | Some(Verdict::Hold) => continue,
                Some(_) if spec.suspend => continue,
                Some(Verdict::Keep | Verdict::Reprovision) => sorted(spec.sources.iter()),
                // Its old machine may stay, should this not succeed.
                Some(_) if existing.contains(id) => {
                    sorted(spec.sources.iter().chain(old().flatten()))
                }
                Some(_) => sorted(spec.sources.iter()),
            };
            next.sandboxes.insert(id.clone(), sources);
        }
        // Also of those to which nothing is done: that changes nothing of what runs.
        for (id, spec) in &view.desired.sandboxes {
            match spec.keep == Keep::default() {
                true => next.keeps.remove(id),
                false => next.keeps.insert(id.clone(), spec.keep.clone()),
            };
        }
    }
    // A run that was cut short may have removed a sandbox and not its record.
    if view.observed.unreachable.is_empty() {
        let stays = |id: &SandboxId| {
            existing.contains(id)
                || (!view.options.remove_all && view.desired.sandboxes.contains_key(id))
                || view.desired.held.contains_key(id)
                || view.observed.receipts.values().any(|receipt| receipt.sandbox == *id)
                // Its own step gives it to the new name.
                || view.observed.renames.values().any(|old| old == id)
        };
        next.sandboxes.retain(|id, _| stays(id));
        next.keeps.retain(|id, _| stays(id));
    }
    next
}

fn sorted<'a>(sources: impl Iterator<Item = &'a HostSource>) -> Vec<HostSource> {
    // Where the manifest names it is nothing to remember, nor what is mounted where today.
    let plain = sources.map(|source| HostSource {
        place: Default::default(),
        located: Default::default(),
        ..source.clone()
    });
    let mut all: Vec<HostSource> = plain.collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trees_are_asked_what_they_accepted() {
        let state = tempfile::tempdir().unwrap();
        let trees = state.path().join("trees");
        fs::create_dir_all(trees.join("other/receipts")).unwrap();
        fs::write(trees.join(".id-ranges.lock"), "").unwrap();
        let own = OwnerId::new("team").unwrap();
        let found = |state: &Path| others(state, &own).unwrap();
        assert!(found(state.path()).accepted.is_empty() && found(state.path()).lost.is_empty());
        // What cannot be read of a tree is no "nothing", and neither is what is gone of one that has
        // something.
        fs::write(trees.join("other/receipts/x.json"), "{}").unwrap();
        let lost = &found(state.path()).lost[0];
        assert_eq!((lost.owner.as_str(), lost.why.as_str()), ("other", "it is missing"));
        fs::write(trees.join("other").join(FILE), "{").unwrap();
        let lost = &found(state.path()).lost[0];
        assert!(lost.why.contains("other/sources.json is damaged"), "{}", lost.why);
        assert!(
            read_own(&trees.join("other")).unwrap_err().to_string().contains("other/sources.json")
        );
        fs::create_dir_all(trees.join("third/gate/ada")).unwrap();
        let lost = found(state.path()).lost;
        assert!(lost.iter().any(|lost| lost.owner.as_str() == "third"), "nothing but a gate");
    }

    #[test]
    fn a_renamed_one_keeps_what_its_machine_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let memory = State::open(folder.path()).unwrap().tree(&OwnerId::new("team").unwrap());
        let memory = memory.unwrap();
        memory.make().unwrap();
        let [old, new] = ["linus", "grace"].map(|name| SandboxId::new(name).unwrap());
        let source = |path: &str| HostSource {
            field: "workspace.path".to_owned(),
            text: path.to_owned(),
            base: None,
            path: path.into(),
            via: Vec::new(),
            usage: Use::Mount,
            place: Default::default(),
            located: Default::default(),
        };
        // The tree names another folder by now, and the machine is not replaced yet.
        let sandboxes = BTreeMap::from([
            (old.clone(), vec![source("/old")]),
            (new.clone(), vec![source("/new")]),
        ]);
        write(&memory, &Accepted { sandboxes, ..Accepted::default() }).unwrap();
        rename(&memory, &old, &new).unwrap();
        let (given, _) = memory.accepted(&MountTable::default()).unwrap();
        assert!(!given.contains_key(&old));
        let mut paths: Vec<_> = given[&new].iter().map(|source| source.text.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/new", "/old"]);
    }
}
