//! `bottle top`: what sandboxes use, now and as it changes.
#![expect(clippy::disallowed_methods, reason = "what is used in a time is measured by a clock")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::super::args::{Global, LookArgs, WhichArgs};
use super::super::error::{CliError, Exit};
use super::super::ui::{Ui, paint, style};
use super::super::{render, setup, signals, status, text};
use super::{HEAD, cells};
use crate::model::{SandboxId, Usage};
use crate::plan::document::{TreeDocument, VERSION};
use crate::reconcile::status::{SandboxStatus, Status};

/// What is used is measured over this long.
const MEASURED: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Print one table and end, as where stdout is no terminal
    #[arg(long)]
    once: bool,
}

/// What is used, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct TopDocument<'a> {
    version: u32,
    tree: &'a TreeDocument,
    sandboxes: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    sandbox: &'a SandboxId,
    state: &'a str,
    /// Of one core, lately.
    cpu_percent: Option<f64>,
    usage: Option<&'a Usage>,
    egress_allowed: Option<u64>,
    egress_denied: Option<u64>,
}

/// The time of a core that each has taken, and when that was read.
struct Sample(Instant, BTreeMap<SandboxId, u64>);

impl Sample {
    fn of(status: &Status) -> Self {
        let taken = status
            .sandboxes
            .iter()
            .filter_map(|it| Some((it.sandbox.clone(), it.usage.as_ref()?.cpu_milliseconds?)));
        Self(Instant::now(), taken.collect())
    }

    /// How much of one core each has taken since `before`, in percent. One that was started anew has no share yet.
    fn shares(&self, before: &Self) -> BTreeMap<SandboxId, f64> {
        let passed = self.0.duration_since(before.0).as_secs_f64() * 1000.0;
        let share = |(id, now): (&SandboxId, &u64)| {
            let taken = now.checked_sub(*before.1.get(id)?)?;
            (passed > 0.0).then(|| (id.clone(), taken as f64 * 100.0 / passed))
        };
        self.1.iter().filter_map(share).collect()
    }
}

pub(in crate::cli) async fn run(
    ui: &Arc<Ui>,
    global: &Global,
    args: &TopArgs,
) -> Result<Exit, CliError> {
    let only = status::only(&args.which)?;
    let load = setup::load_options(global, args.which.path.as_deref(), &args.which.read)?;
    let reconciler = setup::onlooker(load, &LookArgs::default(), None)?;
    let mut before = Sample::of(&status::newest(&reconciler, &only).await?);
    let live = !args.once && !ui.json() && ui.can_show();
    let stop = if live { Some(signals::listen(ui)?) } else { None };
    loop {
        let rest = async {
            tokio::time::sleep(MEASURED).await;
            status::newest(&reconciler, &only).await
        };
        let Some(stop) = &stop else {
            let status = rest.await?;
            let shares = Sample::of(&status).shares(&before);
            if ui.json() {
                ui.document(&document(&status, &shares))?;
            } else {
                ui.data(&table(&status, &shares, ui.width()))?;
            }
            return Ok(Exit::Done);
        };
        let status = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return Ok(Exit::Done),
            status = rest => status?,
        };
        let sample = Sample::of(&status);
        let shares = sample.shares(&before);
        before = sample;
        ui.show(&table(&status, &shares, ui.width()))?;
    }
}

fn document<'a>(status: &'a Status, shares: &BTreeMap<SandboxId, f64>) -> TopDocument<'a> {
    let row = |it: &'a SandboxStatus| Row {
        sandbox: &it.sandbox,
        state: &it.state,
        cpu_percent: shares.get(&it.sandbox).map(|share| (share * 10.0).round() / 10.0),
        usage: it.usage.as_ref(),
        egress_allowed: it.sidecar.as_ref().map(|sidecar| sidecar.allowed),
        egress_denied: it.sidecar.as_ref().map(|sidecar| sidecar.denied.values().sum()),
    };
    let sandboxes = status.sandboxes.iter().map(row).collect();
    TopDocument { version: VERSION, tree: &status.tree, sandboxes }
}

/// Those that take most of a core first.
fn table(status: &Status, shares: &BTreeMap<SandboxId, f64>, width: usize) -> String {
    let count = text::plural(status.sandboxes.len(), "sandbox", "sandboxes");
    let mut out = text::beside(&render::tree_line(&status.tree), &count, width);
    out.push('\n');
    let share = |it: &SandboxStatus| shares.get(&it.sandbox).copied();
    let mut sandboxes: Vec<&SandboxStatus> = status.sandboxes.iter().collect();
    sandboxes.sort_by(|a, b| {
        let by_share = share(b).unwrap_or(-1.0).total_cmp(&share(a).unwrap_or(-1.0));
        by_share.then_with(|| a.sandbox.cmp(&b.sandbox))
    });
    let rows: Vec<[String; 7]> = sandboxes
        .into_iter()
        .map(|it| {
            // Where nothing was measured, the time that it has taken altogether is no share.
            let [cpu, memory, pids, allowed, denied] = cells(it, share(it));
            let cpu = if share(it).is_some() { cpu } else { "-".to_owned() };
            [it.sandbox.to_string(), it.state.clone(), cpu, memory, pids, allowed, denied]
        })
        .collect();
    let [cpu, memory, pids, allowed, denied] = HEAD;
    let head = ["NAME", "STATE", cpu, memory, pids, allowed, denied];
    let wide = |index: usize| {
        let longest = rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
        longest.max(head[index].len())
    };
    let wides: Vec<usize> = (0..head.len()).map(wide).collect();
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (index, (cell, wide)) in cells.iter().zip(&wides).enumerate() {
            // Names and words stand left, numbers right.
            let _ = match index {
                0 | 1 => write!(line, "{cell:<wide$}  "),
                _ => write!(line, "{cell:>wide$}  "),
            };
        }
        line.trim_end().to_owned()
    };
    let _ = writeln!(out, "{}", paint(style::DIM, &line(&head)));
    for row in &rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        let _ = writeln!(out, "{}", line(&cells));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_one_core_and_of_the_time_between() {
        let (ada, grace, new) = ("ada", "grace", "new");
        let id = |name: &str| SandboxId::new(name).unwrap();
        let begun = Instant::now();
        let before = Sample(begun, [(id(ada), 1000), (id(grace), 5000)].into());
        let later = begun + Duration::from_secs(2);
        let now = Sample(later, [(id(ada), 2500), (id(grace), 10), (id(new), 7)].into());
        assert_eq!(now.shares(&before), [(id(ada), 75.0)].into());
        assert_eq!(before.shares(&before), BTreeMap::new());
    }
}
