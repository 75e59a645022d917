//! What the loop says of itself, for whoever watches it: a snapshot that the newest replaces.
#![expect(clippy::disallowed_methods, reason = "says when something was")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::document::{Retry, WatchStatus};
use crate::model::{Instance, InstanceState, Ownership, ResourceKind, SandboxId};

/// What the loop knows.
#[derive(Debug, Clone, Default)]
pub(in crate::reconcile) struct Known {
    since: u64,
    last_pass: Option<u64>,
    running: BTreeSet<SandboxId>,
    waiting: Vec<Retry>,
    error: Option<String>,
    /// By sandbox, what its machine does, and since when that is so, where it was seen to begin.
    states: BTreeMap<SandboxId, (&'static str, Option<u64>)>,
}

impl Known {
    /// As the status has it.
    pub(super) fn document(&self) -> WatchStatus {
        WatchStatus {
            pid: std::process::id(),
            since: Some(self.since),
            last_pass: self.last_pass,
            running: Some(self.running.iter().cloned().collect()),
            waiting: Some(self.waiting.clone()),
            error: self.error.clone(),
        }
    }

    /// Since when a sandbox's machine does what it does.
    pub(super) fn since(&self, sandbox: &SandboxId) -> Option<u64> {
        self.states.get(sandbox)?.1
    }
}

/// Where the loop writes it.
#[derive(Debug)]
pub(in crate::reconcile) struct Board(watch::Sender<Known>);

impl Board {
    pub(in crate::reconcile) fn new() -> Self {
        Self(watch::Sender::new(Known { since: now(), ..Known::default() }))
    }

    /// Who hears of what is written.
    pub(super) fn readers(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }

    /// A pass has seen these.
    pub(in crate::reconcile) fn seen(&self, instances: &[Instance]) {
        let now = now();
        self.0.send_modify(|known| {
            let first = known.last_pass.is_none();
            known.last_pass = Some(now);
            known.error = None;
            let machines = instances.iter().filter(|instance| {
                instance.resource == ResourceKind::Machine
                    && instance.ownership == Ownership::Ours
                    && instance.state != InstanceState::Aside
            });
            let before = std::mem::take(&mut known.states);
            for machine in machines {
                let word = word(&machine.state);
                let since = match before.get(&machine.sandbox) {
                    Some((was, since)) if *was == word => *since,
                    // What was there before this loop may have been so for long.
                    None if first => None,
                    _ => Some(now),
                };
                known.states.insert(machine.sandbox.clone(), (word, since));
            }
        });
    }

    /// There was no plan, and why.
    pub(in crate::reconcile) fn no_plan(&self, error: &anyhow::Error) {
        self.0.send_modify(|known| known.error = Some(format!("{error:#}")));
    }

    /// For whom something is under way, and who waits: how long yet, and after how many failures.
    pub(in crate::reconcile) fn under_way(
        &self,
        running: BTreeSet<SandboxId>,
        waiting: impl Iterator<Item = (SandboxId, Duration, u32)>,
    ) {
        let now = now();
        let waiting = waiting
            .map(|(sandbox, next, attempts)| Retry {
                sandbox,
                attempts,
                next: now + next.as_secs_f64().ceil() as u64,
            })
            .collect();
        self.0.send_modify(|known| (known.running, known.waiting) = (running, waiting));
    }
}

fn word(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Running => "running",
        InstanceState::Created => "created",
        InstanceState::Paused => "paused",
        InstanceState::Aside | InstanceState::Stopped { .. } => "stopped",
        InstanceState::Broken(_) => "broken",
        InstanceState::Unknown(_) => "unreadable",
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
