//! The operator's program that is told of new requests: `notify` of `bottle.yaml`. It is run by `watch`, never by a
//! shell; what is asked for stands in it as JSON on its stdin, in which nothing of an agent's words acts.
#![expect(clippy::disallowed_methods, reason = "runs the operator's program, so often and so long")]

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::record::Record;
use crate::model::text::{escaped_json, spelled, spelled_line};

/// It ends within this, or is killed.
const DEADLINE: Duration = Duration::from_secs(10);
/// At most so many runs a minute.
const RUNS: usize = 6;

/// How often the program ran lately, and whether it was said that it fails.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct Notifier {
    lately: Mutex<(VecDeque<Instant>, bool)>,
}

impl Notifier {
    /// Whether it may run now.
    fn may(&self) -> bool {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        while lately.0.front().is_some_and(|at| at.elapsed() > Duration::from_secs(60)) {
            lately.0.pop_front();
        }
        let may = lately.0.len() < RUNS;
        if may {
            lately.0.push_back(Instant::now());
        }
        may
    }

    /// Says once that it fails, until it works again.
    fn failed(&self, why: Option<String>) {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) if !lately.1 => {
                tracing::warn!(why, "the program that `notify` names fails");
                lately.1 = true;
            }
            Some(_) => {}
            None => lately.1 = false,
        }
    }

    /// Tells the program of each of these.
    pub(in crate::reconcile) async fn tell(&self, argv: &[String], records: &[Record]) {
        for record in records {
            if argv.is_empty() || !self.may() {
                return;
            }
            self.failed(run(argv, record).await.err());
        }
    }
}

/// What it is told, harmless as it stands.
fn told(record: &Record) -> String {
    let document = json!({
        "version": 1,
        "id": record.id,
        "sandbox": record.sandbox,
        "bottle": record.bottle,
        "kind": record.ask.kind(),
        "asks": spelled_line(&record.ask.to_string()),
        "reason": spelled(&record.reason),
        "denied": record.evidence.denied,
        "received": record.received,
    });
    escaped_json(&document.to_string())
}

async fn run(argv: &[String], record: &Record) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let child = Command::new(program)
        .args(arguments)
        .env("BOTTLE_REQUEST", record.id.as_str())
        .env("BOTTLE_SANDBOX", record.sandbox.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take();
    let text = told(record);
    let running = async {
        if let Some(stdin) = &mut stdin {
            // One that does not read has what it needs in its environment.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        drop(stdin.take());
        child.wait().await
    };
    match tokio::time::timeout(DEADLINE, running).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it has not ended within {} s", DEADLINE.as_secs())),
    }
}
