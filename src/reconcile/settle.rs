//! After a run that was killed: its last requests may still be on their way inside an engine. A
//! container that is being made is in no listing yet, and would appear after the next run has
//! looked. So that run waits until the engine has come to rest.
#![expect(clippy::disallowed_methods, reason = "waiting is timed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Deserialize;

use super::pass::Reconciler;
use super::state::TreeState;
use crate::backend::{Backend, Depth, Observation, Scope};
use crate::model::{BackendKind, OwnerId};

/// An engine that does not come to rest within this is left to the next pass.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// A line of the audit record, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Line {
    pid: u32,
    event: String,
    #[serde(default)]
    run: u32,
    #[serde(default)]
    step: usize,
    #[serde(default)]
    backend: Option<BackendKind>,
}

/// The backends of the steps that the last run has begun and not ended.
fn cut_short(record: &str) -> BTreeSet<BackendKind> {
    let lines: Vec<Line> =
        record.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let Some(last) = lines.last() else { return BTreeSet::new() };
    let mut open = BTreeMap::new();
    let first = lines.iter().rposition(|line| line.pid != last.pid).map_or(0, |other| other + 1);
    for line in &lines[first..] {
        match (line.event.as_str(), line.backend) {
            ("settled", _) => open.clear(),
            ("started", Some(backend)) => {
                open.insert((line.run, line.step), backend);
            }
            _ => {
                open.remove(&(line.run, line.step));
            }
        }
    }
    open.into_values().collect()
}

/// Says of the lines from the last one back whether all that matters has been read: a line at which
/// nothing was open, or one of a process before the last.
fn is_whole() -> impl Fn(&str) -> bool {
    let last = std::cell::Cell::new(None);
    move |line| {
        let Ok(line) = serde_json::from_str::<Line>(line) else { return false };
        // Pieces are read from the end: the first line that is seen is not the last of the record,
        // but in the same piece; another process than any seen is another one than the last.
        let seen = last.replace(Some(line.pid));
        line.event == "settled" || seen.is_some_and(|pid| pid != line.pid)
    }
}

impl Reconciler {
    /// Waits until what a killed run has asked for is done or refused. The caller holds the lock.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub async fn settle(&self, owner: &OwnerId) -> anyhow::Result<()> {
        let memory = self.state.tree(owner)?;
        let scope = self.scope(owner, &memory)?;
        join_all(self.backends.values().map(|backend| backend.settle(&scope))).await;
        let open = cut_short(&memory.audit_tail(is_whole())?);
        let busy: Vec<_> = self
            .backends
            .iter()
            .filter(|(kind, backend)| open.contains(kind) && !backend.lingers().is_zero())
            .map(|(_, backend)| backend)
            .collect();
        if busy.is_empty() {
            return Ok(());
        }
        tracing::info!("the last run was cut short; waiting for the engine to come to rest");
        // One that hangs keeps nobody longer than that.
        join_all(
            busy.into_iter()
                .map(|backend| tokio::time::timeout(PATIENCE, rest(backend.as_ref(), &scope))),
        )
        .await;
        settled(&memory)
    }
}

/// Writes down that nothing is open: what was begun before has ended, or has been waited for.
pub(super) fn settled(memory: &TreeState) -> anyhow::Result<()> {
    let pid = std::process::id();
    memory.audit(&serde_json::json!({ "at": super::state::now(), "pid": pid, "event": "settled" }))
}

/// Looks until nothing has moved for as long as the backend may linger.
async fn rest(backend: &dyn Backend, scope: &Scope) {
    let mut since = Instant::now();
    let mut before: Option<Vec<String>> = None;
    while since.elapsed() < backend.lingers() {
        let now = backend.observe(scope, Depth::Listing).await.map(|seen| summary(&seen)).ok();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn summary(seen: &Observation) -> Vec<String> {
    let instances = seen.instances.iter().map(|i| format!("{} {:?} {:?}", i.id, i.state, i.boot));
    let leftovers = seen.leftovers.iter().map(|l| l.id.to_string());
    let mut all: Vec<String> = instances.chain(leftovers).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pid: u32, event: &str, step: usize) -> String {
        format!(r#"{{"at":1,"pid":{pid},"event":"{event}","step":{step},"backend":"docker"}}"#)
    }

    #[test]
    fn a_run_that_ended_leaves_nothing_open() {
        let whole = [line(1, "started", 0), line(1, "done", 0), line(1, "failed", 1)].join("\n");
        assert!(cut_short(&whole).is_empty());
        assert!(cut_short("").is_empty());
        assert!(cut_short("no JSON\n{").is_empty());
    }

    /// A long record in two generations, with one step near its beginning that never ended.
    #[test]
    fn a_step_that_never_ended_is_found_however_long_ago_it_began() {
        let folder = tempfile::tempdir().unwrap();
        let state = super::super::state::State::open(folder.path()).unwrap();
        let memory = state.tree(&OwnerId::new("team").unwrap()).unwrap();
        let write = |pid: u32, event: &str, run: u32, step: usize| {
            memory
                .audit(&serde_json::json!({
                    "pid": pid, "event": event, "run": run, "step": step, "backend": "docker",
                    "error": "x".repeat(200),
                }))
                .unwrap();
        };
        write(1, "started", 0, 0);
        write(2, "started", 1, 7);
        for run in 2..2000 {
            write(2, "started", run, 7);
            write(2, "done", run, 7);
        }
        let open = || cut_short(&memory.audit_tail(is_whole()).unwrap());
        let docker = BTreeSet::from([BackendKind::Docker]);
        assert_eq!(open(), docker);
        let path = memory.dir().join("audit.jsonl");
        std::fs::rename(&path, path.with_extension("jsonl.1")).unwrap();
        assert_eq!(open(), docker);
        write(2, "started", 5000, 1);
        write(2, "done", 5000, 1);
        assert_eq!(open(), docker);
        settled(&memory).unwrap();
        write(2, "started", 5001, 1);
        write(2, "done", 5001, 1);
        assert!(open().is_empty());
    }

    #[test]
    fn only_the_last_run_counts_until_it_has_settled() {
        let docker = BTreeSet::from([BackendKind::Docker]);
        let cut = [line(1, "started", 0), line(2, "started", 3), line(2, "started", 4)].join("\n");
        assert_eq!(cut_short(&cut), docker);
        let ended = format!("{cut}\n{}\n{}", line(2, "done", 3), line(2, "done", 4));
        assert!(cut_short(&ended).is_empty(), "what process 1 left was seen to by 2");
        let settled = format!("{cut}\n{}", r#"{"at":2,"pid":3,"event":"settled"}"#);
        assert!(cut_short(&settled).is_empty());
    }
}
