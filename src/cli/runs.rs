//! Detached runs on the command line: `bottle run -d` and `--list`, and what they share with `attach`.
#![expect(clippy::disallowed_methods, reason = "starts what holds a run")]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::args::{Backend, Global, HoldArgs, LookArgs, ReadArgs, RunArgs};
use super::error::{CliError, Exit};
use super::status_text::age;
use super::target::Target;
use super::ui::Ui;
use super::{setup, text};
use crate::backend::{BackendError, ExecSpec};
use crate::model::text::harmless_line;
use crate::model::{InstanceState, SandboxId};
use crate::plan::document::VERSION;
use crate::reconcile::TreeState;
use crate::reconcile::detached::{self, Detached, End, RunDocument, Standing};
use crate::reconcile::pass::canonical;
use crate::reconcile::state::now;

/// How long a sandbox may take to end what a run has left in it.
const ENDING: Duration = Duration::from_secs(30);

/// So much is read of what a holder says that does not come up.
const COMPLAINT: u64 = 4096;

#[derive(Debug, Serialize)]
struct ListDocument {
    version: u32,
    runs: Vec<RunDocument>,
}

/// Starts a run and leaves it to itself.
pub(super) async fn detach(
    ui: &Ui,
    global: &Global,
    target: &Target,
    argv: Vec<String>,
) -> Result<Exit, CliError> {
    target.must_run()?;
    let memory = target.memory()?;
    settle(target, &memory).await;
    let started = memory.begin_run(&target.sandbox, argv)?;
    let (id, folder) = (started.record.id, started.folder);
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let mut words = globals(canonical(&load.tree), load.state_dir, global.backend);
    words.extend(["hold".into(), folder.clone().into()]);
    if let Some((rows, columns)) = size() {
        words.extend(["--size".into(), format!("{rows}x{columns}").into()]);
    }
    let mut command = tokio::process::Command::new(program()?);
    command.args(words).stdin(Stdio::from(started.lock));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = come_up(command).await;
    if let Err(error) = begun {
        let end = End::now(detached::How::Failed, None, Some(format!("{error:#}")));
        drop(detached::end(&folder, &end));
        return Err(error.context("starting what holds the run").into());
    }
    if ui.json() {
        let run = RunDocument::of(&detached::at(&folder)?);
        ui.document(&ListDocument { version: VERSION, runs: vec![run] })?;
    } else {
        ui.data(&format!("{id}\n"))?;
        ui.say(&format!(
            "{} goes on by itself: `bottle attach {0} {id}` comes back to it",
            target.sandbox
        ));
    }
    Ok(Exit::Done)
}

/// Starts a holder and waits until somebody can attach to it.
async fn come_up(mut command: tokio::process::Command) -> anyhow::Result<()> {
    let mut child = command.spawn().context("starting this program again")?;
    // It has the lock alone from now on.
    drop(command);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut line = String::new();
    if let Some(stdout) = stdout {
        BufReader::new(stdout.take(COMPLAINT)).read_line(&mut line).await?;
    }
    if line.trim() == detached::READY {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(stderr) = stderr {
        stderr.take(COMPLAINT).read_to_string(&mut words).await?;
    }
    let status = child.wait().await?;
    match words.trim() {
        "" => anyhow::bail!("it ended with {status}"),
        words => anyhow::bail!("{words}"),
    }
}

/// This program, also when its file was replaced since.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    let own = if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe()
    };
    own.context("finding this program")
}

/// Rows and columns of the terminal, where there is one.
fn size() -> Option<(u16, u16)> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some((size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// The options by which another `bottle` finds the same tree and the same state folder from anywhere.
pub(super) fn globals(tree: PathBuf, state: PathBuf, backend: Option<Backend>) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        vec!["--tree".into(), tree.into(), "--state-dir".into(), state.into()];
    if let Some(value) = backend.as_ref().and_then(clap::ValueEnum::to_possible_value) {
        words.extend(["--backend".into(), value.get_name().into()]);
    }
    words
}

/// Holds a run; begun before there is a second thread.
pub(super) fn hold(global: &Global, args: &HoldArgs) -> std::process::ExitCode {
    let session = |more: Option<&str>| -> Vec<OsString> {
        // Whoever started this has made them whole.
        let [tree, state] =
            [&global.tree, &global.state_dir].map(|path| path.clone().unwrap_or_default());
        let mut words = globals(tree, state, global.backend);
        words.extend(["session".into(), args.folder.clone().into()]);
        words.extend(more.map(Into::into));
        words
    };
    let commands = detached::Commands {
        session: session(None),
        cleanup: session(Some("--end")),
        size: args.size.unwrap_or((24, 80)),
    };
    detached::hold(&args.folder, &commands)
}

/// Books the end of runs of this sandbox that nobody holds any more, and ends what they have left in it.
pub(super) async fn settle(target: &Target, memory: &TreeState) {
    let Ok(runs) = memory.runs() else { return };
    for run in runs.iter().filter(|run| run.record.sandbox == target.sandbox) {
        if run.standing != Standing::Dropped {
            continue;
        }
        let mut end = run.dropped();
        if target.machine.state == InstanceState::Running
            && let Err(error) = end_in_sandbox(target, &run.record.id).await
        {
            let why = end.why.get_or_insert_default();
            let _ = write!(why, "; what it started in the sandbox may run on: {error:#}");
        }
        if let Err(error) = detached::end(run.folder(), &end) {
            tracing::warn!(error = %format!("{error:#}"), "the end of a run cannot be remembered");
        }
    }
}

/// Ends what a run has started in its sandbox.
pub(super) async fn end_in_sandbox(target: &Target, id: &str) -> anyhow::Result<()> {
    let spec = ExecSpec::new(["sh", "-c", detached::END_SH, "sh", id]);
    let asked = target.backend.exec(&target.scope, &target.machine, &spec, Bytes::new());
    match tokio::time::timeout(ENDING, asked).await {
        Err(_) => anyhow::bail!("it gave no answer in {} s", ENDING.as_secs()),
        // Whatever ran there is gone with it.
        Ok(Err(BackendError::NotRunning { .. })) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(output)) => match output.code {
            0 => Ok(()),
            126 | 127 => anyhow::bail!("there is no shell in it, by which it would be ended"),
            code => anyhow::bail!("it does not end (code {code})"),
        },
    }
}

/// The memory of the tree that is named.
pub(super) async fn memory(global: &Global) -> Result<TreeState, CliError> {
    let load = setup::load_options(global, None, &ReadArgs::default())?;
    let reconciler = setup::reconciler(load, &LookArgs::default(), None)?;
    let tree = reconciler.identify().await?;
    Ok(reconciler.state.tree(&tree.owner)?)
}

/// Shows which runs there are.
pub(super) async fn list(ui: &Ui, global: &Global, args: &RunArgs) -> Result<Exit, CliError> {
    let memory = memory(global).await?;
    let only = match &args.name {
        Some(name) => Some(SandboxId::new(name.as_str()).map_err(anyhow::Error::from)?),
        None => None,
    };
    let mine = |run: &&Detached| only.as_ref().is_none_or(|only| run.record.sandbox == *only);
    let runs = memory.runs()?;
    let mut dropped: Vec<&SandboxId> = runs
        .iter()
        .filter(mine)
        .filter(|run| run.standing == Standing::Dropped)
        .map(|run| &run.record.sandbox)
        .collect();
    dropped.dedup();
    for sandbox in dropped {
        match Target::find(global, sandbox.as_str()).await {
            Ok(target) => settle(&target, &memory).await,
            Err(error) => tracing::debug!(error = %format!("{:#}", error.error), "a lost run"),
        }
    }
    let runs = memory.runs()?;
    let documents: Vec<RunDocument> = runs.iter().filter(mine).map(RunDocument::of).collect();
    if let Some(only) = only.filter(|_| documents.is_empty()) {
        // One that is not there has no runs either, and that is said.
        Target::find(global, only.as_str()).await?;
    }
    if ui.json() || args.json {
        let document = ListDocument { version: VERSION, runs: documents };
        let text = serde_json::to_string_pretty(&document).map_err(anyhow::Error::from)?;
        ui.data(&format!("{}\n", crate::model::text::escaped_json(&text)))?;
    } else if documents.is_empty() {
        ui.say("there is no detached run; `bottle run -d NAME` starts one");
    } else {
        ui.data(&table(&documents, now(), ui.width()))?;
    }
    Ok(Exit::Done)
}

const HEAD: [&str; 5] = ["ID", "NAME", "STATE", "SINCE", "COMMAND"];

fn table(runs: &[RunDocument], now: u64, width: usize) -> String {
    let row = |run: &RunDocument| {
        let since = age(now.saturating_sub(run.since));
        [run.id.clone(), run.sandbox.to_string(), run.state(), since, command(run)]
    };
    let rows: Vec<[String; 5]> = runs.iter().map(row).collect();
    let mut columns = [0; 4];
    for (index, column) in columns.iter_mut().enumerate() {
        let longest = rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
        *column = longest.max(HEAD[index].len());
    }
    let mut table = String::new();
    for row in std::iter::once(HEAD.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (column, cell) in columns.iter().zip(&row) {
            let _ = write!(line, "{cell:column$}  ");
        }
        let room = width.saturating_sub(line.chars().count()).max(10);
        let _ = writeln!(table, "{line}{}", cut(&row[4], room));
    }
    for run in runs {
        if let Some(why) = &run.why {
            let line = format!("{} {}: {}", run.sandbox, run.id, harmless_line(why));
            text::note(&mut table, "note:", super::ui::style::HINT, &line, width);
        }
    }
    table
}

/// The program and its arguments, on one line.
fn command(run: &RunDocument) -> String {
    harmless_line(&run.command.join(" "))
}

/// A text of at most so many characters.
fn cut(text: &str, room: usize) -> String {
    match text.char_indices().nth(room) {
        None => text.to_owned(),
        Some(_) => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
    }
}
