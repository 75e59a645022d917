//! Names that a shell completes.
#![expect(clippy::disallowed_methods, reason = "looks for agents' files while a shell waits")]

use std::ffi::OsString;
use std::path::PathBuf;

use clap_complete::CompletionCandidate;

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
