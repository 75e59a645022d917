//! Where renamed sandboxes are, and what is remembered of them under their new names: `places.json` in the
//! tree's state folder.
//!
//! A rename is written there first, with the name that it comes from; then every record goes to the new name;
//! then it is no longer under way. Whoever is killed between goes on with the next pass.
#![expect(clippy::disallowed_methods, reason = "moves records of the state folder")]

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::pass::Last;
use super::state::{TreeState, read_json, sync_folder, write_json};
use super::view::View;
use super::{accepted, authorities};
use crate::apply::{Outcome, Receipts as _, Report};
use crate::backend::Scope;
use crate::model::{
    Desired, Diagnostic, Instance, Observed, Ownership, Places, ResourceKind, SandboxId,
};
use crate::plan::renames::Known;
use crate::work::snapshot::Store;

const FILE: &str = "places.json";

/// The version of the record.
const VERSION: u32 = 1;

/// The record, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    places: Places,
    /// Renames that were begun: new names, with the old ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    begun: BTreeMap<SandboxId, SandboxId>,
}

impl Default for Record {
    fn default() -> Self {
        Self { version: VERSION, places: Places::default(), begun: BTreeMap::new() }
    }
}

/// Runs of several sandboxes read the record, change their own part and write it: one at a time.
fn writing() -> std::sync::MutexGuard<'static, ()> {
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl TreeState {
    fn places_file(&self) -> PathBuf {
        self.dir().join(FILE)
    }

    /// Where renamed sandboxes are; `None` where none was renamed, or the record is lost.
    pub(super) fn renamed(&self) -> anyhow::Result<Option<Record>> {
        let path = self.places_file();
        let lost = || {
            format!(
                "{} cannot be read, and it says under which names renamed sandboxes were made: put a copy back; \
                 or remove it, and what bottle put into machines says whose they are",
                path.display()
            )
        };
        let record = read_json::<Record>(&path).with_context(lost)?;
        if let Some(Record { version, .. }) = &record {
            let told =
                || format!("it is of version {version}, and this bottle reads version {VERSION}");
            anyhow::ensure!(*version == VERSION, "{}: {}", lost(), told());
        }
        Ok(record)
    }

    /// Where renamed sandboxes are.
    ///
    /// # Errors
    /// When the record is there and cannot be read.
    pub fn places(&self) -> anyhow::Result<Places> {
        Ok(self.renamed()?.unwrap_or_default().places)
    }

    fn write_renamed(&self, record: &Record) -> anyhow::Result<()> {
        write_json(&self.places_file(), record, true)
    }

    /// Gives all that is remembered of `from` to `to`. Each part may be done already. One that was begun and gave
    /// `from` its name ends first; one that it takes back is over.
    pub(super) fn rename_sandbox(&self, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()> {
        let earlier = self.renamed()?.and_then(|record| record.begun.get(from).cloned());
        if let Some(older) = earlier.filter(|older| older != to) {
            self.rename_sandbox(&older, from)?;
        }
        let begun = || -> anyhow::Result<()> {
            let _writing = writing();
            let mut record = self.renamed()?.unwrap_or_default();
            if record.begun.get(to) != Some(from) {
                record.places.rename(from, to);
                record.begun.remove(from);
                record.begun.insert(to.clone(), from.clone());
                self.write_renamed(&record)?;
            }
            Ok(())
        };
        begun()?;
        for receipt in self.receipts()?.into_values().filter(|r| r.sandbox == *from) {
            let receipt = crate::model::Receipt { sandbox: to.clone(), ..receipt };
            self.put(&receipt, true)?;
        }
        accepted::rename(self, from, to)?;
        if let Some(mut carried) = self.carried_of(from)? {
            if self.carried_of(to)?.is_none() {
                carried.rename(from, to);
                self.carry(to, Some(&carried))?;
            }
            self.carry(from, None)?;
        }
        self.move_record("stopped", from, to)?;
        self.rename_runs(from, to)?;
        authorities::rename(self, from, to)?;
        Store::of(self.dir()).rename(from, to)?;
        self.rename_last(from, to);
        let _writing = writing();
        let mut record = self.renamed()?.unwrap_or_default();
        record.begun.remove(to);
        self.write_renamed(&record)
    }

    /// Moves `<folder>/<from>.json`, unless there is one of the new name.
    pub(super) fn move_record(
        &self,
        folder: &str,
        from: &SandboxId,
        to: &SandboxId,
    ) -> anyhow::Result<()> {
        let folder = self.dir().join(folder);
        let [old, new] = [from, to].map(|id| folder.join(format!("{id}.json")));
        if !is_there(&old)? {
            return Ok(());
        }
        let moved = match is_there(&new)? {
            true => fs::remove_file(&old),
            false => fs::rename(&old, &new),
        };
        moved.with_context(|| format!("moving {} to {}", old.display(), new.display()))?;
        sync_folder(&folder).with_context(|| format!("writing {}", folder.display()))
    }

    /// How the last pass went is shown under the new name. It is no loss where it cannot be.
    fn rename_last(&self, from: &SandboxId, to: &SandboxId) {
        let Ok(Some(mut last)) = self.last::<Last>() else { return };
        if let Some(outcome) = last.sandboxes.remove(from) {
            last.sandboxes.entry(to.clone()).or_insert(outcome);
            if let Err(error) = self.set_last(&last) {
                tracing::warn!(error = %format!("{error:#}"), "the outcome cannot be remembered");
            }
        }
    }
}

fn is_there(path: &Path) -> anyhow::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

/// What is known of renames for a look. Where the record is lost, what was put into machines says whose they
/// are; where it cannot be read, nothing is done.
pub(super) fn known(
    memory: &TreeState,
    desired: &mut Desired,
    observed: &mut Observed,
    whatever: bool,
    was: bool,
) -> Known {
    let record = match memory.renamed() {
        Ok(Some(record)) => record,
        Ok(None) => Record { places: by_receipts(observed), ..Record::default() },
        Err(error) => {
            if !whatever {
                hold_all(memory, desired, observed, &error);
            }
            Record::default()
        }
    };
    let Record { places, begun, .. } = record;
    places.assign(&mut observed.instances);
    Known { places, begun, was }
}

/// The names that sandboxes had, as agents say and as runs have begun.
pub(super) fn earlier(memory: &TreeState, desired: &Desired) -> BTreeMap<SandboxId, SandboxId> {
    let said = desired.was.iter().map(|(id, was)| (id.clone(), was.name.clone()));
    // Where it cannot be read, all is held.
    let begun = memory.renamed().ok().flatten().unwrap_or_default().begun;
    said.chain(begun).collect()
}

/// What was found of sandboxes, by the names that they have now.
pub(super) fn forward<T>(
    found: BTreeMap<SandboxId, T>,
    observed: &Observed,
) -> BTreeMap<SandboxId, T> {
    let now = |id: SandboxId| {
        let new = observed.renames.iter().find(|(_, old)| **old == id).map(|(new, _)| new.clone());
        new.unwrap_or(id)
    };
    found.into_iter().map(|(id, found)| (now(id), found)).collect()
}

/// Says of what was seen whose it is, where the record of places is lost.
///
/// # Errors
/// When the record is there and cannot be read.
pub(super) fn place_lost(
    memory: &TreeState,
    scope: &mut Scope,
    observed: &mut Observed,
) -> anyhow::Result<()> {
    if memory.renamed()?.is_none() {
        scope.places = by_receipts(observed);
        scope.places.assign(&mut observed.instances);
    }
    Ok(())
}

/// What was put into machines that stand in the places of other sandboxes.
fn by_receipts(observed: &Observed) -> Places {
    let mut places = Places::default();
    let ours = observed.instances.iter().filter(|instance: &&Instance| {
        instance.ownership == Ownership::Ours && instance.resource == ResourceKind::Machine
    });
    for machine in ours {
        if let Some(receipt) = observed.receipts.get(&machine.id)
            && receipt.sandbox != machine.sandbox
        {
            places.settle_at(&receipt.sandbox, &machine.sandbox);
        }
    }
    places
}

fn hold_all(memory: &TreeState, desired: &mut Desired, observed: &Observed, error: &anyhow::Error) {
    let file = memory.places_file().display().to_string();
    let finding = Diagnostic::error(file, format!("{error:#}"));
    let all = std::mem::take(&mut desired.sandboxes);
    desired.held.extend(all.into_keys().map(|id| (id, vec![finding.clone()])));
    // Whose these are nobody knows.
    for instance in &observed.instances {
        desired.unread.entry(instance.sandbox.clone()).or_insert_with(|| finding.clone());
    }
    if !desired.diagnostics.contains(&finding) {
        desired.diagnostics.push(finding);
    }
}

/// Remembers the places of sandboxes that a plan makes under other names than their own, before anything is
/// made, and those that were found again. A rename is remembered by its own step.
pub(super) fn accept(view: &View) -> anyhow::Result<()> {
    let renamed = |id: &SandboxId| view.observed.renames.contains_key(id);
    let (known, now) = (&view.places, &view.scope.places);
    let new: Vec<_> = now.iter().filter(|(id, at)| !renamed(id) && known.of(id) != *at).collect();
    if new.is_empty() && known.is_empty() {
        return Ok(());
    }
    let _writing = writing();
    let before = match view.memory.renamed() {
        // What goes needs none.
        Err(_) if view.options.remove_all => return Ok(()),
        before => before?,
    };
    let mut record =
        before.clone().unwrap_or(Record { places: known.clone(), ..Record::default() });
    for (sandbox, place) in new {
        record.places.settle_at(sandbox, place);
    }
    if before.as_ref() == Some(&record) { Ok(()) } else { view.memory.write_renamed(&record) }
}

/// Forgets the places of sandboxes of which nothing is left, once all is gone.
pub(super) fn tidy(view: &View, report: &Report) -> anyhow::Result<()> {
    let all = view.options.remove_all
        && view.options.only.is_none()
        && report.outcomes.iter().all(|outcome| outcome.outcome == Outcome::Done);
    // What is out of sight has a receipt.
    let left = || anyhow::Ok(!view.memory.receipts()?.is_empty());
    if !all || !is_there(&view.memory.places_file())? || left()? {
        return Ok(());
    }
    let _writing = writing();
    view.memory.write_renamed(&Record::default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::state::State;
    use super::*;
    use crate::model::{
        BackendKind, Fields, InstanceId, MountTable, OwnerId, Receipt, ResourceKind, Stopped,
    };
    use crate::reconcile::carried::Carried;

    fn id(name: &str) -> SandboxId {
        SandboxId::new(name).unwrap()
    }

    fn receipt(of: &str) -> Receipt {
        Receipt {
            kind: ResourceKind::Machine,
            instance: InstanceId("1".to_owned()),
            backend: BackendKind::Native,
            sandbox: id(of),
            guest: None,
            fields: Fields::default(),
            skills: BTreeSet::new(),
            skills_dir: None,
            env: BTreeMap::new(),
            boot: None,
            workspace: true,
            copied_from: None,
            files: BTreeMap::new(),
            under_way: BTreeMap::new(),
            ca: None,
            names: None,
            settings: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    fn carried(of: &str) -> Carried {
        Carried {
            machine: InstanceId("0".to_owned()),
            snapshot: format!("{of}/20260101T000000Z"),
            way: None,
            copied_at: None,
            receipt: Some(receipt(of)),
            workspace: true,
        }
    }

    const SOURCES: &str = r#"{"tree":"/t","sandboxes":{"NAME":[]},"keeps":{"NAME":{"workspace":false,"home":true,"paths":[]}}}"#;

    /// Makes one part of what is remembered of a sandbox.
    fn make(memory: &TreeState, part: usize, name: &str) {
        let dir = memory.dir();
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        match part {
            0 => memory.put(&receipt(name), true).unwrap(),
            1 => write(&dir.join("sources.json"), &SOURCES.replace("NAME", name)),
            2 => memory.carry(&id(name), Some(&carried(name))).unwrap(),
            3 => memory.set_stopped(&id(name), Some(&Stopped { since: 7 })).unwrap(),
            4 => drop(authorities::Authorities::of(memory).obtain(&id(name)).unwrap()),
            5 => write(&dir.join(format!("snapshots/{name}/20260101T000000Z.tar.zst")), name),
            _ => write(
                &dir.join("last.json"),
                &format!(
                    r#"{{"sandboxes":{{"{name}":{{"at":1,"verdict":"keep","error":null}}}}}}"#
                ),
            ),
        }
    }

    /// Whether it is there under this name and no other.
    fn check(memory: &TreeState, name: &str, old: &str) {
        let (name, old) = (&id(name), &id(old));
        assert_eq!(memory.receipt(&InstanceId("1".to_owned())).unwrap().unwrap().sandbox, *name);
        let (accepted, _) = memory.accepted(&MountTable::default()).unwrap();
        assert_eq!(accepted.keys().collect::<Vec<_>>(), [name]);
        assert_eq!(memory.keeps().unwrap().keys().collect::<Vec<_>>(), [name]);
        assert_eq!(
            memory.carried().unwrap().0,
            BTreeMap::from([(name.clone(), carried(name.as_str()))])
        );
        assert_eq!(
            memory.stopped().unwrap().0,
            BTreeMap::from([(name.clone(), Stopped { since: 7 })])
        );
        let ca = |id: &SandboxId| memory.dir().join(format!("ca/{id}.json"));
        assert!(ca(name).exists() && !ca(old).exists());
        let snapshots = |id: &SandboxId| memory.dir().join(format!("snapshots/{id}"));
        assert!(
            snapshots(name).join("20260101T000000Z.tar.zst").exists() && !snapshots(old).exists()
        );
        let last: Last = memory.last().unwrap().unwrap();
        assert_eq!(last.sandboxes.keys().collect::<Vec<_>>(), [name]);
        let record = memory.renamed().unwrap().unwrap();
        assert_eq!((record.places.of(name), record.begun.len()), (old, 0));
    }

    const PARTS: usize = 7;

    /// Whatever was moved before it was killed.
    #[test]
    fn it_goes_on_wherever_it_was_cut_short() {
        for cut in 0..=PARTS {
            let folder = tempfile::tempdir().unwrap();
            let state = State::open(folder.path()).unwrap();
            let memory = state.tree(&OwnerId::new("team").unwrap()).unwrap();
            memory.make().unwrap();
            (0..PARTS).for_each(|part| make(&memory, part, "linus"));
            let whole = |memory: &TreeState| {
                let ca = fs::read(memory.dir().join("ca/grace.json")).unwrap();
                serde_json::from_slice::<serde_json::Value>(&ca).unwrap()
            };
            memory.rename_sandbox(&id("linus"), &id("grace")).unwrap();
            check(&memory, "grace", "linus");
            assert_eq!(whole(&memory)["made_for"], "linus");
            // As a kill leaves it: from here on, all is under the old name.
            let mut record = memory.renamed().unwrap().unwrap();
            record.begun.insert(id("grace"), id("linus"));
            memory.write_renamed(&record).unwrap();
            fs::create_dir_all(memory.dir().join("snapshots/linus")).unwrap();
            for part in cut..PARTS {
                match part {
                    0 | 1 | 6 => {}
                    2 => memory.carry(&id("grace"), None).unwrap(),
                    3 => memory.set_stopped(&id("grace"), None).unwrap(),
                    4 => fs::remove_file(memory.dir().join("ca/grace.json")).unwrap(),
                    _ => fs::remove_dir_all(memory.dir().join("snapshots")).unwrap(),
                }
                make(&memory, part, "linus");
            }
            memory.rename_sandbox(&id("linus"), &id("grace")).unwrap();
            check(&memory, "grace", "linus");
            memory.rename_sandbox(&id("linus"), &id("grace")).unwrap();
            check(&memory, "grace", "linus");
        }
    }
}
