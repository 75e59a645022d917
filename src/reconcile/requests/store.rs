//! The files of requests, below `requests/` in the tree's state folder, and the lock of whoever decides.
#![expect(clippy::disallowed_methods, reason = "what is now depends on the clock")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::record::{Record, VERSION};
use crate::backend::durable;
use crate::model::supervise::{RequestId, Standing};
use crate::model::{Moment, SandboxId};
use crate::reconcile::lock::take;
use crate::reconcile::state::{
    TreeState, entries, make_private, moved, read_json, remove_durably, write_json,
};

/// So many are remembered; those that wait are always.
const KEPT: usize = 500;

/// Another `bottle` decides about requests of this tree.
#[derive(Debug, thiserror::Error)]
#[error("another bottle is deciding about requests of this tree")]
pub struct Deciding;

/// The lock of whoever decides, until it is dropped. It is never the tree's, which `watch` holds.
#[derive(Debug)]
pub struct Decider {
    _file: File,
}

/// Of which sandboxes no requests are taken, and until when.
pub type Muted = BTreeMap<SandboxId, Moment>;

/// Now.
#[must_use]
pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A line of the audit record: names and codes, never what an agent wrote.
#[derive(Debug, Serialize)]
struct Audit<'a> {
    at: u64,
    pid: u32,
    event: &'a str,
    request: &'a RequestId,
    sandbox: &'a SandboxId,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    fields: &'a [String],
}

/// Such a line about a sandbox.
#[derive(Debug, Serialize)]
struct MuteAudit<'a> {
    at: u64,
    pid: u32,
    event: &'a str,
    sandbox: &'a SandboxId,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Moment>,
}

impl TreeState {
    fn requests_dir(&self) -> PathBuf {
        self.dir().join("requests")
    }

    /// When a request of this tree was last written.
    pub(in crate::reconcile) fn requests_moved(&self) -> Option<SystemTime> {
        moved(&self.requests_dir())
    }

    /// Takes the lock of whoever decides, waiting for it as long as `patience` says.
    ///
    /// # Errors
    /// [`Deciding`] when somebody else keeps it that long, or the file cannot be opened.
    pub async fn decide(&self, patience: Duration) -> anyhow::Result<Decider> {
        make_private(&self.requests_dir())?;
        let path = self.requests_dir().join("lock");
        let file = durable::lock_file(&path)?;
        if !take(&file, &path, patience).await? {
            return Err(Deciding.into());
        }
        Ok(Decider { _file: file })
    }

    fn request_path(&self, id: &RequestId) -> PathBuf {
        self.requests_dir().join(format!("{id}.json"))
    }

    /// All requests that are remembered, the oldest first. One that cannot be read is left out, and said.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn requests(&self) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in entries(&self.requests_dir())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_suffix(".json").and_then(|id| id.parse::<RequestId>().ok());
            let Some(id) = id else { continue };
            match read_json::<Record>(&path) {
                Ok(Some(record)) if record.version == VERSION && record.id == id => {
                    records.push(record);
                }
                Ok(None) => {}
                Ok(Some(_)) => tracing::warn!(%id, "a request of another version is not read"),
                Err(error) => {
                    tracing::warn!(%id, error = %format!("{error:#}"), "a request cannot be read");
                }
            }
        }
        records.sort_by(|a, b| (a.received, &a.id).cmp(&(b.received, &b.id)));
        Ok(records)
    }

    /// One of them.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn request(&self, id: &RequestId) -> anyhow::Result<Option<Record>> {
        let record = read_json::<Record>(&self.request_path(id))?;
        if let Some(record) = &record {
            anyhow::ensure!(
                record.version == VERSION,
                "the request {id} is of version {}, and this bottle reads version {VERSION}",
                record.version
            );
        }
        Ok(record.filter(|record| record.id == *id))
    }

    /// Writes a request down. Whoever calls this has the lock.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub(super) fn put_request(&self, _lock: &Decider, record: &Record) -> anyhow::Result<()> {
        write_json(&self.request_path(&record.id), record, true)
    }

    /// Forgets the oldest decided ones beyond what is kept.
    pub(super) fn prune_requests(&self, _lock: &Decider) -> anyhow::Result<()> {
        let records = self.requests()?;
        let mut over = records.len().saturating_sub(KEPT);
        for record in &records {
            // What is half done is needed to go on, or back.
            let open = record.state.waits()
                || [&record.edit, &record.undo]
                    .iter()
                    .any(|made| made.as_ref().is_some_and(|made| !made.done));
            if over == 0 {
                break;
            }
            if !open {
                remove_durably(&self.request_path(&record.id))?;
                over -= 1;
            }
        }
        Ok(())
    }

    /// Of which sandboxes no requests are taken. Of a damaged record none is left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn muted(&self) -> anyhow::Result<Muted> {
        Ok(read_json(&self.requests_dir().join("muted.json"))?.unwrap_or_default())
    }

    /// Takes no requests of a sandbox until then, or takes them again.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn mute(
        &self,
        _lock: &Decider,
        sandbox: &SandboxId,
        until: Option<Moment>,
    ) -> anyhow::Result<()> {
        let mut muted = self.muted()?;
        match until {
            Some(until) => drop(muted.insert(sandbox.clone(), until)),
            None => drop(muted.remove(sandbox)),
        }
        write_json(&self.requests_dir().join("muted.json"), &muted, true)?;
        let event = if until.is_some() { "muted" } else { "unmuted" };
        self.audit(&MuteAudit {
            at: now().seconds(),
            pid: std::process::id(),
            event,
            sandbox,
            until,
        })
    }

    /// Adds a line to the audit record about a request. Without it the decision holds all the same.
    pub(super) fn audit_request(&self, event: &str, record: &Record) {
        let decision = record.decision.as_ref();
        let made = match record.state {
            Standing::Undone => record.undo.as_ref(),
            _ => record.edit.as_ref(),
        };
        let line = Audit {
            at: now().seconds(),
            pid: std::process::id(),
            event,
            request: &record.id,
            sandbox: &record.sandbox,
            by: decision.map(|decision| decision.by.as_str()),
            via: decision.map(|decision| decision.via.as_str()),
            file: made.map(|made| made.file.as_str()),
            commit: made.and_then(|made| made.commit.as_deref()),
            fields: made.map(|made| made.fields.as_slice()).unwrap_or_default(),
        };
        if let Err(error) = self.audit(&line) {
            tracing::warn!(error = %format!("{error:#}"), "the audit record cannot be written");
        }
    }
}
