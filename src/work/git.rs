//! The git program on a repository of the operator's, with all that the repository could make it run
//! switched off.

#![expect(clippy::disallowed_methods, reason = "runs git")]

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// What a repository could otherwise make git run, or write.
pub const SWITCHED_OFF: [(&str, &str); 3] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
];

/// git in this folder: it asks nothing, fetches nothing, takes no optional lock, and hears nothing of
/// the caller's own `GIT_…` variables.
#[must_use]
pub fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            git.env_remove(name);
        }
    }
    // Neither locks nor prompts; nothing of the repository's runs.
    git.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    // An object that a partial clone lacks is not fetched: that would run what the repository names.
    git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "");
    git
}

/// git in this repository, and in none that this folder merely lies in.
#[must_use]
pub fn git_at(root: &Path) -> Command {
    // A ceiling is compared with where the folder is, and not with how it was named.
    let root = &root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut git = git(root);
    git.env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root));
    git
}

/// Settings that stand above those of the repository. They are given by the environment: on the
/// command line, a name that holds `=` would end there.
pub fn settle(git: &mut Command, settings: &[(String, &str)]) {
    git.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        git.env(format!("GIT_CONFIG_KEY_{index}"), key);
        git.env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
}
