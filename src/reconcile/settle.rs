//! After a run that was killed: its last requests may still be on their way inside an engine. A
//! container that is being made is in no listing yet, and would appear after the next run has
//! looked. So that run waits until the engine has come to rest.
#![expect(clippy::disallowed_methods, reason = "waiting is timed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

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
                open.insert(line.step, backend);
            }
            _ => {
                open.remove(&line.step);
            }
        }
    }
    open.into_values().collect()
}

impl Reconciler {
    /// Waits until what a killed run has asked for is done or refused. The caller holds the lock.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub async fn settle(&self, owner: &OwnerId) -> anyhow::Result<()> {
        let memory = self.state.tree(owner)?;
        let scope = self.scope(owner, &memory)?;
        for backend in self.backends.values() {
            backend.settle(&scope).await;
        }
        let open = cut_short(&memory.audit_tail()?);
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
        for backend in busy {
            rest(backend.as_ref(), &scope).await;
        }
        settled(&memory)
    }
}

fn settled(memory: &TreeState) -> anyhow::Result<()> {
    let pid = std::process::id();
    memory.audit(&serde_json::json!({ "at": super::state::now(), "pid": pid, "event": "settled" }))
}

/// Looks until nothing has moved for as long as the backend may linger.
async fn rest(backend: &dyn Backend, scope: &Scope) {
    let begun = Instant::now();
    let mut since = Instant::now();
    let mut before: Option<Vec<String>> = None;
    while since.elapsed() < backend.lingers() && begun.elapsed() < PATIENCE {
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
