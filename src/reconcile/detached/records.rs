//! What is remembered of runs.

#![expect(clippy::disallowed_methods, reason = "records of the state folder")]

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Detached, End, KEPT_OF_SANDBOX, KEPT_OF_TREE, Record, Standing, VERSION};
use crate::backend::durable;
use crate::model::SandboxId;
use crate::reconcile::state::{TreeState, entries, make_private, now, read_json, write_json};

const RUN: &str = "run.json";
const END: &str = "end.json";
const LOCK: &str = "lock";
const WHY: &str = "why";

/// So much of it is said why something failed.
const LONGEST_WHY: usize = 2000;

/// A run that is about to begin. The lock goes to its holder; until there is one, this holds it.
pub struct Started {
    /// What is to run.
    pub record: Record,
    /// Its folder.
    pub folder: PathBuf,
    /// The lock.
    pub lock: File,
}

impl TreeState {
    fn runs_folder(&self) -> PathBuf {
        self.dir().join("runs")
    }

    /// Every run that is remembered, the oldest first. One that cannot be read is passed over.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn runs(&self) -> anyhow::Result<Vec<Detached>> {
        let mut runs = Vec::new();
        for entry in entries(&self.runs_folder())? {
            match read(&entry?.path()) {
                Ok(run) => runs.extend(run),
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "a run cannot be read");
                }
            }
        }
        runs.sort_by(|a, b| (a.record.since, &a.record.id).cmp(&(b.record.since, &b.record.id)));
        Ok(runs)
    }

    /// Remembers a run before it begins, and forgets the oldest of those that have ended.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin_run(&self, sandbox: &SandboxId, argv: Vec<String>) -> anyhow::Result<Started> {
        self.forget_runs();
        let all = self.runs_folder();
        make_private(&all)?;
        let (id, folder) = loop {
            let id = format!("{:08x}", getrandom::u32().context("making an id")?);
            let folder = all.join(&id);
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => break (id, folder),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("making {}", folder.display()));
                }
            }
        };
        let (sandbox, since, host_boot) = (sandbox.clone(), now(), host_boot());
        let record = Record { version: VERSION, id, sandbox, argv, since, host_boot };
        let begun = || -> anyhow::Result<File> {
            let lock = durable::lock_file(&folder.join(LOCK))?;
            lock.lock().context("locking it")?;
            write_json(&folder.join(RUN), &record, true)?;
            Ok(lock)
        };
        match begun() {
            Ok(lock) => Ok(Started { record, folder, lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                Err(error.context("remembering the run"))
            }
        }
    }

    /// Forgets the oldest of the runs that have ended. What cannot be removed is tried again.
    fn forget_runs(&self) {
        let Ok(runs) = self.runs() else { return };
        let mut seen: Vec<&SandboxId> = Vec::new();
        for run in runs.iter().rev().filter(|run| matches!(run.standing, Standing::Ended(_))) {
            let sandbox = &run.record.sandbox;
            let of = seen.iter().filter(|known| **known == sandbox).count();
            if of >= KEPT_OF_SANDBOX - 1 || seen.len() >= KEPT_OF_TREE - 1 {
                if let Err(error) = fs::remove_dir_all(&run.folder) {
                    tracing::warn!(%error, "an old run cannot be removed");
                }
            } else {
                seen.push(sandbox);
            }
        }
    }

    /// Gives the runs of one sandbox to the name that it has now.
    pub(in crate::reconcile) fn rename_runs(
        &self,
        from: &SandboxId,
        to: &SandboxId,
    ) -> anyhow::Result<()> {
        for run in self.runs()?.into_iter().filter(|run| run.record.sandbox == *from) {
            let record = Record { sandbox: to.clone(), ..run.record };
            write_json(&run.folder.join(RUN), &record, true)?;
        }
        Ok(())
    }
}

/// Reads a run; `None`: it is not complete, for its maker was killed.
fn read(folder: &Path) -> anyhow::Result<Option<Detached>> {
    let Some(record) = read_json::<Record>(&folder.join(RUN))? else { return Ok(None) };
    anyhow::ensure!(
        record.version == VERSION,
        "{} is of version {}, and this bottle reads version {VERSION}",
        folder.join(RUN).display(),
        record.version
    );
    let standing = standing(folder)?;
    Ok(Some(Detached { record, standing, folder: folder.to_owned() }))
}

fn standing(folder: &Path) -> anyhow::Result<Standing> {
    // Asked first: whoever holds it writes the end before it lets go.
    let held = is_held(folder)?;
    Ok(match read_json::<End>(&folder.join(END))? {
        Some(end) => Standing::Ended(end),
        None if held => Standing::Running,
        None => Standing::Dropped,
    })
}

fn is_held(folder: &Path) -> anyhow::Result<bool> {
    let path = folder.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The run whose folder this is.
///
/// # Errors
/// When it cannot be read.
pub fn at(folder: &Path) -> anyhow::Result<Detached> {
    read(folder)?.with_context(|| format!("there is no run in {}", folder.display()))
}

/// Remembers how a run has ended, unless that is known: the first word stands. It survives a power cut.
///
/// # Errors
/// When the folder cannot be written.
pub fn end(folder: &Path, end: &End) -> anyhow::Result<()> {
    let path = folder.join(END);
    if read_json::<End>(&path)?.is_none() {
        write_json(&path, end, true)?;
    }
    let _ = fs::remove_file(folder.join(super::wire::SOCKET));
    Ok(())
}

/// Says why `bottle` itself could not run it.
pub fn set_why(folder: &Path, why: &str) {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(folder.join(WHY));
    let short: String = why.chars().take(LONGEST_WHY).collect();
    // Where it cannot be said, the log has it as well.
    drop(file.and_then(|mut file| file.write_all(short.as_bytes())));
}

/// Why `bottle` itself could not run it, where it said so.
pub(super) fn why(folder: &Path) -> Option<String> {
    let text = durable::read(&folder.join(WHY)).ok().flatten()?;
    Some(String::from_utf8_lossy(&text).trim().to_owned()).filter(|text| !text.is_empty())
}

/// Which start of the host this is.
pub(super) fn host_boot() -> Option<String> {
    let id: io::Result<String> = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.ok().map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::How;
    use super::*;
    use crate::model::OwnerId;
    use crate::reconcile::State;

    fn memory() -> (tempfile::TempDir, TreeState) {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        let memory = state.tree(&OwnerId::new("team").unwrap()).unwrap();
        (folder, memory)
    }

    fn begin(memory: &TreeState, sandbox: &str) -> Started {
        memory.begin_run(&SandboxId::new(sandbox).unwrap(), vec!["sh".to_owned()]).unwrap()
    }

    #[test]
    fn a_run_stands_as_its_lock_and_its_end_say() {
        let (_folder, memory) = memory();
        assert!(memory.runs().unwrap().is_empty());
        let started = begin(&memory, "ada");
        let standing = || memory.runs().unwrap().remove(0).standing;
        assert_eq!(standing(), Standing::Running);
        drop(started.lock);
        assert_eq!((standing(), standing().word()), (Standing::Dropped, "lost"));
        let first = End::now(How::Exited, Some(7), None);
        end(&started.folder, &first).unwrap();
        end(&started.folder, &End::now(How::Lost, None, None)).unwrap();
        assert_eq!(standing(), Standing::Ended(first));
    }

    #[test]
    fn old_runs_are_forgotten_and_none_that_is_under_way() {
        let (_folder, memory) = memory();
        let first = begin(&memory, "ada");
        for _ in 0..KEPT_OF_SANDBOX + 5 {
            let started = begin(&memory, "ada");
            end(&started.folder, &End::now(How::Exited, Some(0), None)).unwrap();
        }
        let other = begin(&memory, "bob");
        let runs = memory.runs().unwrap();
        let running: Vec<_> = runs.iter().filter(|run| run.runs()).collect();
        assert_eq!(running.len(), 2);
        assert!(first.folder.exists() && other.folder.exists());
        assert_eq!(runs.len(), KEPT_OF_SANDBOX - 1 + 2);
    }

    #[test]
    fn what_is_damaged_keeps_no_other_from_being_seen() {
        let (_folder, memory) = memory();
        let kept = begin(&memory, "ada");
        let damaged = begin(&memory, "bob");
        fs::write(damaged.folder.join(RUN), "{").unwrap();
        fs::create_dir(memory.runs_folder().join("half")).unwrap();
        let runs = memory.runs().unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].record, kept.record);
    }

    #[test]
    fn a_renamed_sandbox_keeps_its_runs() {
        let (_folder, memory) = memory();
        let _started = begin(&memory, "ada");
        let [from, to] = ["ada", "eve"].map(|name| SandboxId::new(name).unwrap());
        memory.rename_runs(&from, &to).unwrap();
        let runs = memory.runs().unwrap();
        assert_eq!((&runs[0].record.sandbox, runs[0].runs()), (&to, true));
    }
}
