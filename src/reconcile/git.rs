//! The commit of a git-tracked tree, and whether the tree differs from it. Asked of the git program,
//! with everything that a repository could make it run switched off.
#![expect(clippy::disallowed_methods, reason = "runs git")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// git answers within this, or the tree counts as not tracked.
const DEADLINE: Duration = Duration::from_secs(5);

/// What git says of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision {
    /// The commit that is checked out.
    pub commit: Option<String>,
    /// The branch that is checked out.
    pub branch: Option<String>,
    /// Something below the tree differs from the commit.
    pub dirty: bool,
}

/// Asks git about `tree`. A tree that is not tracked, or a machine without git, is no error.
pub async fn revision(tree: &Path) -> Revision {
    if !tree.ancestors().any(|folder| folder.join(".git").exists()) {
        return Revision::default();
    }
    match tokio::time::timeout(DEADLINE, ask(tree)).await {
        Ok(Some(revision)) => revision,
        Ok(None) => Revision::default(),
        Err(_) => {
            tracing::warn!(tree = %tree.display(), "git did not answer in time");
            Revision::default()
        }
    }
}

fn git(tree: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(tree).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            git.env_remove(name);
        }
    }
    // Neither locks nor prompts; nothing of the repository's runs.
    git.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    for setting in ["core.hooksPath=/dev/null", "core.fsmonitor=false", "core.untrackedCache=false"]
    {
        git.args(["-c", setting]);
    }
    git
}

async fn ask(tree: &Path) -> Option<Revision> {
    // A clean filter of the repository's would run on every file whose times have changed.
    let drivers = git(tree)
        .args([
            "config",
            "--null",
            "--name-only",
            "--get-regexp",
            r"^filter\..*\.(clean|smudge|process|required)$",
        ])
        .output()
        .await
        .ok()?;
    let mut status = git(tree);
    for key in String::from_utf8_lossy(&drivers.stdout).split('\0').filter(|key| !key.is_empty()) {
        let value = if key.ends_with(".required") { "false" } else { "" };
        status.arg("-c").arg(format!("{key}={value}"));
    }
    status.args([
        "status",
        "--porcelain=v2",
        "--branch",
        "--ignore-submodules=all",
        "-z",
        "--",
        ".",
    ]);
    let output = status.output().await.ok()?;
    output.status.success().then(|| parse(&output.stdout))
}

/// Parses `git status --porcelain=v2 --branch -z`.
fn parse(output: &[u8]) -> Revision {
    let mut revision = Revision::default();
    for line in output.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line);
        if let Some(oid) = line.strip_prefix("# branch.oid ") {
            revision.commit = (oid != "(initial)").then(|| oid.to_owned());
        } else if let Some(head) = line.strip_prefix("# branch.head ") {
            revision.branch = (head != "(detached)").then(|| head.to_owned());
        } else if !line.starts_with('#') {
            revision.dirty = true;
        }
    }
    revision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_parsed() {
        let clean = parse(b"# branch.oid 3f2c\0# branch.head main\0");
        assert_eq!(clean.commit.as_deref(), Some("3f2c"));
        assert_eq!(clean.branch.as_deref(), Some("main"));
        assert!(!clean.dirty);
        assert!(parse(b"# branch.oid 3f2c\0? agents/x.md\0").dirty);
        assert_eq!(parse(b"# branch.oid (initial)\0").commit, None);
        assert_eq!(parse(b"# branch.head (detached)\0").branch, None);
    }
}
