//! The commands of `setup`: once in each machine, as root, when it trusts its CA and before anything of the agent's
//! starts. A marker inside says that all of them ended well, and for which commands: without it they are run again from the
//! first, and a guest that forges it deceives nobody but itself.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use super::Context;
use super::provision::Provision;
use super::upload::{self, Owner, Tar};
use crate::backend::{
    Backend, BackendError, ExecOutput, ExecSpec, ExecUser, Identity, Upload, guest_path,
};
use crate::model::setup::{Setup, SetupCommand};
use crate::model::text::harmless_line;

/// The marker is a hash, and what else a guest puts there is read no further.
const MARKER: u64 = 4096;

/// So many lines of output are told of a command that fails, so many characters of each.
const LINES: usize = 10;
const LINE: usize = 200;

/// Whether it is still to be run in this machine.
pub(super) async fn is_due(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
    identity: &Identity,
) -> anyhow::Result<bool> {
    let setup = &work.guest.setup;
    if setup.is_empty() || work.fresh {
        return Ok(!setup.is_empty());
    }
    let marker = guest_path::SETUP_DONE;
    let archive = match backend.copy_out(context.scope, work.instance, marker, MARKER).await {
        Ok(archive) => archive,
        Err(error) if error.is_absent() || error.is_too_large() => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("reading {marker}")),
    };
    let found = upload::found(&archive, identity).with_context(|| format!("reading {marker}"))?;
    let wanted = content(setup);
    Ok(!matches!(found, Some(Ok(found)) if found.content == wanted.as_bytes()))
}

fn content(setup: &Setup) -> String {
    format!("{}\n", setup.hash())
}

/// Runs it. `unhurried`: the backend whose commands have as long as they take; all of them together have the
/// deadline of a setup.
pub(super) async fn run(
    backend: &dyn Backend,
    unhurried: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
) -> anyhow::Result<()> {
    let setup = &work.guest.setup;
    let deadline = context.deadlines.setup;
    let running = async {
        for (index, command) in setup.commands.iter().enumerate() {
            let spec = ExecSpec {
                user: ExecUser::Root,
                // In the workspace, root would run what an agent left there: Python imports from where it starts.
                workdir: Some("/".to_owned()),
                values: !work.guest.env.is_empty(),
                ..ExecSpec::new(command.argv.iter().cloned())
            };
            (context.tell)(super::Event::Progress(work.step, &told(index, setup)));
            let output = unhurried.exec(context.scope, work.instance, &spec, Bytes::new()).await;
            let output = output.with_context(|| at(setup, index, command, "could not be run"))?;
            anyhow::ensure!(output.code == 0, failed(setup, index, command, &output));
        }
        Ok(())
    };
    match tokio::time::timeout(deadline, running).await {
        Ok(done) => done?,
        Err(_) => return late(unhurried, context, work, deadline).await,
    }
    let mut tar = Tar::new();
    tar.file(guest_path::SETUP_DONE, 0o644, Owner::ROOT, content(setup).as_bytes())?;
    let upload = Upload { tar: tar.finish()?, ..Upload::default() };
    backend.copy_in(context.scope, work.instance, upload).await.context("marking the setup as done")
}

/// What it has begun would run on: only the end of the machine ends it on every backend.
async fn late(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
    deadline: Duration,
) -> anyhow::Result<()> {
    let stopping = backend.stop(context.scope, work.instance);
    let stopped = tokio::time::timeout(context.deadlines.other, stopping).await;
    let left = match stopped {
        Ok(Ok(())) => "its machine was stopped, for what was begun would run on".to_owned(),
        Ok(Err(error)) => format!("what was begun may run on: {:#}", anyhow::Error::from(error)),
        Err(_) => "what was begun may run on".to_owned(),
    };
    let what = format!("`setup` of {}", work.guest.setup.file);
    let late = BackendError::Deadline { what, seconds: deadline.as_secs() };
    Err(anyhow::Error::from(late).context(left))
}

fn told(index: usize, setup: &Setup) -> String {
    format!("setup, command {} of {}", index + 1, setup.commands.len())
}

fn at(setup: &Setup, index: usize, command: &SetupCommand, what: &str) -> String {
    format!("{}:{}: command {} of `setup` {what}", setup.file, command.line, index + 1)
}

/// That a command failed, with the last that it said.
fn failed(setup: &Setup, index: usize, command: &SetupCommand, output: &ExecOutput) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(LINES)
        .map(|line| shortened(&harmless_line(line.trim_end())))
        .collect();
    lines.reverse();
    let mut message = at(setup, index, command, &format!("ended with {}", output.code));
    if !lines.is_empty() {
        message += &format!("; its last lines: {}", lines.join(" | "));
    }
    message
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_with_its_place_and_its_last_words() {
        let command = SetupCommand { argv: vec!["x".to_owned()], line: 7 };
        let setup = Setup { file: "bottles/dev.md".to_owned(), commands: vec![command.clone()] };
        let output = |stdout: &str, stderr: &str| ExecOutput {
            code: 3,
            stdout: stdout.as_bytes().to_vec(),
            stderr: stderr.as_bytes().to_vec(),
        };
        let told = failed(&setup, 0, &command, &output("out\n", "\x1b[2Jfirst\n\nlast\n"));
        assert_eq!(
            told,
            "bottles/dev.md:7: command 1 of `setup` ended with 3; its last lines: \u{fffd}[2Jfirst | last"
        );
        let told = failed(&setup, 0, &command, &output("out\n", ""));
        assert!(told.ends_with(": out"), "{told}");
        assert!(failed(&setup, 0, &command, &output("", "")).ends_with("ended with 3"));
        let long = format!("{}\n", "x".repeat(5000)).repeat(100);
        assert!(failed(&setup, 0, &command, &output(&long, "")).len() < 3000);
    }
}
