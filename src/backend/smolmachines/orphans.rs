//! Calls that outlive whoever made them. A `bottle` that is killed leaves behind the `smolvm` that it
//! had started, and a machine that is being made or removed by that one would appear or go after the
//! next `bottle` has looked. So every such call is noted, and who looks waits for those that nobody
//! waits for any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::record;
use crate::backend::Scope;

/// Who is about to act waits so long. What hangs for longer is left to the deadlines of the calls that
/// come after it.
pub(super) const BEFORE_ACTING: Duration = Duration::from_secs(60);

/// Who only looks may be told soon what there is now: a first start may be fetching its image.
pub(super) const BEFORE_LOOKING: Duration = Duration::from_secs(3);

const LOOK: Duration = Duration::from_millis(100);

/// How long a call may take to appear whose caller was killed while it started it.
const STARTING: Duration = Duration::from_millis(500);

/// A process, and no later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// When it was started, as its kernel counts; empty where that is not told.
    started: String,
}

impl Process {
    fn of(pid: u32) -> Self {
        Self { pid, started: started(pid).unwrap_or_default() }
    }

    fn lives(&self) -> bool {
        if cfg!(target_os = "linux") {
            return started(self.pid).as_deref() == Some(&self.started);
        }
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }
}

/// When a process was started; nothing of one that has ended, whether or not that was noticed.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything, but what follows it holds no bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    (*fields.first()? != "Z").then(|| fields.get(19).map(|at| (*at).to_owned())).flatten()
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    caller: Process,
    call: Option<Process>,
    what: String,
}

/// A call that changes something, until it has ended.
#[derive(Debug, Clone)]
pub(super) struct Note {
    path: PathBuf,
    what: String,
}

fn folder(scope: &Scope) -> PathBuf {
    record::folder(scope).join("calls")
}

impl Note {
    /// Says that such a call is about to be made.
    pub(super) fn new(scope: &Scope, what: &str) -> Self {
        let name = super::create::nonce().unwrap_or_else(|_| std::process::id().to_string());
        let note = Self { path: folder(scope).join(format!("{name}.json")), what: what.to_owned() };
        note.write(None);
        note
    }

    /// Says by which process it is made.
    pub(super) fn made_by(&self, pid: Option<u32>) {
        self.write(pid.map(Process::of));
    }

    fn write(&self, call: Option<Process>) {
        let caller = Process::of(std::process::id());
        record::write(&self.path, &Entry { caller, call, what: self.what.clone() });
    }

    /// It has ended.
    pub(super) fn over(&self) {
        record::forget(&self.path);
    }
}

/// Waits for the calls whose caller is gone, all of them for as long as `patience` says.
pub(super) async fn settled(scope: &Scope, patience: Duration) {
    let until = Instant::now() + patience;
    for found in std::fs::read_dir(folder(scope)).into_iter().flatten().flatten() {
        await_orphan(&found.path(), until).await;
    }
}

async fn await_orphan(path: &Path, until: Instant) {
    let Some(entry) = record::read::<Entry>(path) else { return };
    if entry.caller.lives() {
        return;
    }
    match &entry.call {
        None => tokio::time::sleep(STARTING).await,
        Some(call) => {
            if call.lives() {
                tracing::info!(
                    what = entry.what,
                    pid = call.pid,
                    "waiting for a killed run's call"
                );
            }
            while call.lives() {
                if Instant::now() > until {
                    tracing::warn!(
                        what = entry.what,
                        pid = call.pid,
                        "a killed run's call goes on"
                    );
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    record::forget(path);
}

#[cfg(test)]
mod tests {
    use super::super::labels::tests::scope;
    use super::*;

    fn corner() -> (tempfile::TempDir, Scope) {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope { data: folder.path().to_owned(), ..scope() };
        (folder, scope)
    }

    fn gone() -> Process {
        Process { pid: std::process::id(), started: "never".to_owned() }
    }

    #[tokio::test]
    async fn only_what_nobody_waits_for_is_waited_for() {
        let (_folder, scope) = corner();
        let note = Note::new(&scope, "creating");
        let mut sleeper = std::process::Command::new("sleep").arg("1").spawn().unwrap();
        note.made_by(Some(sleeper.id()));
        let begun = Instant::now();
        settled(&scope, BEFORE_ACTING).await;
        assert!(begun.elapsed() < Duration::from_millis(500), "its caller lives");
        let entry: Entry = record::read(&note.path).unwrap();
        record::write(&note.path, &Entry { caller: gone(), ..entry });
        settled(&scope, Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_millis(700), "it waited on");
        assert!(note.path.exists(), "it goes on");
        settled(&scope, BEFORE_ACTING).await;
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        assert!(!note.path.exists());
        sleeper.wait().unwrap();
    }

    #[tokio::test]
    async fn a_number_that_came_again_is_another_process() {
        let (_folder, scope) = corner();
        let note = Note::new(&scope, "creating");
        record::write(
            &note.path,
            &Entry { caller: gone(), call: Some(gone()), what: String::new() },
        );
        settled(&scope, BEFORE_ACTING).await;
        assert!(!note.path.exists());
        settled(&scope, BEFORE_ACTING).await;
    }
}
