//! `bottle completions`, and the names that a shell completes.
#![expect(clippy::disallowed_methods, reason = "looks for agents' files while a shell waits")]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate};

use super::args::{Cli, CompletionsArgs};
use super::error::{CliError, Exit};
use super::ui::Ui;

/// By this variable a shell says that it wants something completed.
const VARIABLE: &str = "BOTTLE_COMPLETE";

/// Answers a shell that wants something completed. Returns whether one did.
#[must_use]
pub fn complete() -> bool {
    let current = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), current.as_deref());
    // A shell that no longer listens is no error, and there is no place to tell it another.
    answered.unwrap_or(true)
}

pub(super) fn run(ui: &Ui, args: &CompletionsArgs) -> Result<Exit, CliError> {
    let value = args.shell.to_possible_value();
    let name = value.as_ref().map_or("", |value| value.get_name());
    let Some(shell) = Shells::builtins().completer(name).map(|_| name.to_owned()) else {
        return Err(CliError::failed(format!("there is no completion for {name}")));
    };
    let mut script = Vec::new();
    if let Some(completer) = Shells::builtins().completer(&shell) {
        completer.write_registration(VARIABLE, "bottle", "bottle", "bottle", &mut script)?;
    }
    ui.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// The agents of the tree that the command line so far speaks of. Anything that goes wrong
/// completes nothing: a shell has no place for errors.
pub(super) fn agents() -> Vec<CompletionCandidate> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Some(tree) = tree(&words) else { return Vec::new() };
    let Ok(files) = std::fs::read_dir(tree.join("agents")) else { return Vec::new() };
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.ok()?.file_name().to_str()?.strip_suffix(".md")?.to_owned()))
        .filter(|name| crate::model::SandboxId::new(name.as_str()).is_ok())
        .collect();
    names.sort();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// `--tree PATH` or `--tree=PATH`, else the first folder with agents among the words, else the
/// default.
fn tree(words: &[OsString]) -> Option<PathBuf> {
    let named = words.iter().enumerate().find_map(|(index, word)| match word.to_str()? {
        "--tree" => words.get(index + 1).map(PathBuf::from),
        word => word.strip_prefix("--tree=").map(PathBuf::from),
    });
    let positional = || {
        let folder = |word: &&OsString| PathBuf::from(word).join("agents").is_dir();
        words.iter().skip(1).find(folder).map(PathBuf::from)
    };
    named
        .or_else(positional)
        .or_else(|| std::env::var_os("BOTTLE_TREE").filter(|t| !t.is_empty()).map(PathBuf::from))
        .or_else(|| Some(super::setup::home()?.join(".bottle")))
}
