//! Which of the host's ids a sandbox that root makes has: a range that no other sandbox of this state
//! folder has, of whichever tree.
//!
//! Taken ranges stand in one folder beside those of the trees, a link a range that names its sandbox:
//! making a link is taking, for two at once too.

#![expect(clippy::disallowed_methods, reason = "the state folder is written, the clock read")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::namespaces;
use super::state::{self, IDS, MACHINE, Mode, Store};
use crate::backend::durable;
use crate::model::SandboxId;

/// What systemd sets aside for containers is 524288…1879048191; the upper part is rarely used.
const FIRST: u32 = 0x4000_0000;
/// How many ranges there are.
const SLOTS: u32 = 12_288;
/// How many may be taken before those are looked for that nobody has any more.
const FULL: usize = SLOTS as usize / 2;
/// So old is a range that nobody has, not one of a sandbox that is just being made.
const STALE: Duration = Duration::from_secs(3600);

/// How a new machine with this id is mapped: as root with a range of its own, or with that of the machine which was
/// set aside for it, and whose files it may get.
pub(super) fn mode(store: &Store, sandbox: &SandboxId, id: &str) -> io::Result<Mode> {
    match namespaces::mode() {
        Mode::Root { .. } => {
            let ranges = Ranges::of(store)?;
            let base = match store.aside(sandbox).record().ok().flatten().map(|old| old.mode) {
                Some(Mode::Root { base }) => ranges.assign(base, id).map(|()| base)?,
                _ => ranges.take(id, SLOTS)?,
            };
            Ok(Mode::Root { base })
        }
        Mode::Rootless => Ok(Mode::Rootless),
    }
}

/// Gives the range of a machine back that is gone: to the one that was set aside for it, where that had it before.
pub(super) fn release(store: &Store, sandbox: &SandboxId, mode: Mode, id: &str) -> io::Result<()> {
    let Mode::Root { base } = mode else { return Ok(()) };
    let ranges = Ranges::of(store)?;
    let old = store.aside(sandbox).record().ok().flatten();
    match old.filter(|old| old.mode == mode && old.id != id) {
        Some(old) if ranges.is_of(base, id) => ranges.assign(base, &old.id),
        _ => ranges.release(base, id),
    }
}

struct Ranges {
    trees: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Ranges {
    /// Those of the state folder that `store` stands in, which nobody else does anything to meanwhile.
    fn of(store: &Store) -> io::Result<Self> {
        let trees = store.path().ancestors().nth(2).unwrap_or(store.path()).to_owned();
        let lock = durable::lock_file(&trees.join(".id-ranges.lock"))?;
        lock.lock()?;
        let ranges = Self { folder: trees.join(".id-ranges"), trees, _lock: lock };
        ranges.fill()?;
        Ok(ranges)
    }

    /// Makes the folder, with what the records say: of sandboxes that are older than it.
    fn fill(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let new = self.trees.join(".id-ranges.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        for (id, base) in self.recorded() {
            match symlink(id, new.join(base.to_string())) {
                // Two that share one: from before they were compared.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result?,
            }
        }
        fs::rename(&new, &self.folder)
    }

    /// The id and the range of every sandbox that has a record.
    fn recorded(&self) -> BTreeMap<String, u32> {
        let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
        let records = below(self.trees.clone()).flat_map(|tree| below(tree.path().join("native")));
        records.filter_map(|sandbox| range_of(&sandbox.path())).collect()
    }

    /// Takes one of the first `slots` ranges for the sandbox `id`.
    fn take(&self, id: &str, slots: u32) -> io::Result<u32> {
        let taken = fs::read_dir(&self.folder)?.count();
        if taken >= FULL.min(slots as usize) {
            self.sweep()?;
        }
        let start = random()? % slots;
        for at in 0..slots {
            let base = FIRST + ((start + at) % slots) * IDS;
            match symlink(id, self.folder.join(base.to_string())) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result.map(|()| base),
            }
        }
        Err(io::Error::other(format!("all {slots} ranges of ids are taken: remove sandboxes")))
    }

    fn is_of(&self, base: u32, id: &str) -> bool {
        let of = fs::read_link(self.folder.join(base.to_string()));
        of.is_ok_and(|of| of == Path::new(id))
    }

    /// A range is that of another machine of its sandbox now.
    fn assign(&self, base: u32, id: &str) -> io::Result<()> {
        let new = self.folder.join(format!(".{id}"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(id, &new)?,
        }
        fs::rename(new, self.folder.join(base.to_string()))
    }

    fn release(&self, base: u32, id: &str) -> io::Result<()> {
        // Another's by now, or of before there were any.
        if !self.is_of(base, id) {
            return Ok(());
        }
        fs::remove_file(self.folder.join(base.to_string()))
    }

    /// Gives back what was left taken by a run that was killed.
    fn sweep(&self) -> io::Result<()> {
        let recorded = self.recorded();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let old = entry.metadata().and_then(|link| link.modified()).is_ok_and(|made| {
                SystemTime::now().duration_since(made).is_ok_and(|age| age > STALE)
            });
            // What is no link is none of ours.
            let Ok(of) = fs::read_link(entry.path()) else { continue };
            // The machine that it was taken for may have given its place to one that has the same.
            let in_use = recorded.values().any(|base| entry.file_name() == *base.to_string());
            if old && !in_use && of.to_str().is_none_or(|id| !recorded.contains_key(id)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whatever else a record says, and of whichever version it is.
fn range_of(sandbox: &Path) -> Option<(String, u32)> {
    let record: serde_json::Value =
        serde_json::from_slice(&durable::read(&sandbox.join(MACHINE)).ok()??).ok()?;
    let base = u32::try_from(record.pointer("/mode/root/base")?.as_u64()?).ok()?;
    Some((record.get("id")?.as_str()?.to_owned(), base))
}

fn random() -> io::Result<u32> {
    let text = state::random_id()?;
    u32::from_str_radix(&text[..8], 16).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::Scope;

    fn store(root: &Path, owner: &str) -> Store {
        let data = root.join(owner);
        fs::create_dir_all(data.join("native")).unwrap();
        Store::of(&Scope {
            owner: crate::model::OwnerId::new(owner).unwrap(),
            state: "here".to_owned(),
            adopted: BTreeSet::new(),
            data,
            hidden: Vec::new(),
            places: Default::default(),
        })
    }

    #[test]
    fn no_two_sandboxes_of_any_trees_share_a_range() {
        let root = tempfile::tempdir().unwrap();
        let stores = ["one", "two"].map(|owner| store(root.path(), owner));
        let taken: Vec<u32> = std::thread::scope(|scope| {
            let thread = |at: usize| {
                let store = &stores[at % 2];
                move || -> Vec<u32> {
                    let take = |n| Ranges::of(store).unwrap().take(&format!("{at}-{n}"), SLOTS);
                    (0..100).map(|n| take(n).unwrap()).collect()
                }
            };
            let threads: Vec<_> = (0..4).map(|at| scope.spawn(thread(at))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 400);
        let last = FIRST + SLOTS * IDS;
        assert!(taken.iter().all(|base| base % IDS == 0 && (FIRST..last).contains(base)));
    }

    #[test]
    fn what_older_records_have_is_taken_and_what_is_given_back_is_free() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (store(root.path(), "one"), store(root.path(), "two"));
        let record = |store: &Store, name: &str, slot: u32| {
            let folder = store.path().join(name);
            fs::create_dir(&folder).unwrap();
            let base = FIRST + slot * IDS;
            let text = format!(r#"{{"id": "old-{name}", "mode": {{"root": {{"base": {base}}}}}}}"#);
            fs::write(folder.join(MACHINE), text).unwrap();
        };
        record(&store, "ada", 0);
        record(&other, "bob", 2);
        fs::create_dir(store.path().join("broken")).unwrap();
        fs::write(store.path().join("broken").join(MACHINE), "{").unwrap();
        let slots: BTreeSet<u32> = (0..2)
            .map(|n| Ranges::of(&store).unwrap().take(&format!("new-{n}"), 4).unwrap())
            .map(|base| (base - FIRST) / IDS)
            .collect();
        assert_eq!(slots, BTreeSet::from([1, 3]));
        assert!(Ranges::of(&other).unwrap().take("more", 4).is_err());
        let (mode, not_its) = (Mode::Root { base: FIRST }, "somebody-else");
        let ada = SandboxId::new("ada").unwrap();
        release(&store, &ada, mode, not_its).unwrap();
        assert!(Ranges::of(&other).unwrap().take("more", 4).is_err());
        release(&store, &ada, mode, "old-ada").unwrap();
        assert_eq!(Ranges::of(&other).unwrap().take("more", 4).unwrap(), FIRST);
    }
}
