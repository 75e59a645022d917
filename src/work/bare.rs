//! Git without anybody's configuration, in a repository of ours.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::git::{SWITCHED_OFF, settle};
use crate::model::text::harmless;

/// Stands above what attributes the files name for themselves.
pub(super) const ATTRIBUTES: &str =
    "* !text !eol !crlf !diff !ident !filter !working-tree-encoding !merge !whitespace\n";

/// Names that only other systems take for `.git` are names like others. Where those systems are, git keeps them out.
const GUARDED: &str = if cfg!(target_os = "linux") { "false" } else { "true" };

/// Takes everybody's configuration away.
pub(super) fn bare(git: &mut Command) {
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("HOME", "/nonexistent"),
        ("XDG_CONFIG_HOME", "/nonexistent"),
    ] {
        git.env(name, value);
    }
    let own = [
        ("core.attributesFile", "/dev/null"),
        ("core.excludesFile", "/dev/null"),
        ("core.autocrlf", "false"),
        ("core.safecrlf", "false"),
        ("core.fileMode", "true"),
        ("core.symlinks", "true"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.addEmbeddedRepo", "false"),
        ("safe.directory", "*"),
        ("core.bigFileThreshold", "16m"),
        ("core.protectHFS", GUARDED),
        ("core.protectNTFS", GUARDED),
    ];
    let all = SWITCHED_OFF.into_iter().chain(own);
    settle(git, &all.map(|(key, value)| (key.to_owned(), value)).collect::<Vec<_>>());
}

/// What git says to this, without the end of its line.
pub(super) async fn said(mut git: Command, args: &[&str]) -> anyhow::Result<String> {
    let output = git.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
    let output = output.context("git cannot be run")?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "git {}: {}", args[0], harmless(error.trim()));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Runs git with this as its input, and gives what it answers.
pub(super) async fn fed(git: &mut Command, input: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = git.spawn().context("git cannot be run")?;
    let stdin = child.stdin.take();
    let say = async move {
        if let Some(mut stdin) = stdin {
            // What does not listen says why when it ends.
            let _ = stdin.write_all(&input).await;
        }
    };
    let output = tokio::join!(say, child.wait_with_output()).1?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", harmless(error.trim()));
    Ok(output.stdout)
}

/// Runs git for what it does.
pub(super) async fn run(git: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = git.stdout(Stdio::null()).stderr(Stdio::piped()).output().await;
    let output = output.with_context(|| format!("{what}: git cannot be run"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{what}: {}", harmless(error.trim()));
    Ok(())
}
