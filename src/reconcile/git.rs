//! The commit of a git-tracked tree, and whether the tree differs from it. Asked of the git program,
//! with everything that a repository could make it run switched off.
#![expect(clippy::disallowed_methods, reason = "runs git")]

use std::path::Path;
use std::time::Duration;

use crate::work::git::{SWITCHED_OFF, git, settle};

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

/// A lock of git's that is older than this was left behind.
const STALE_LOCK: Duration = Duration::from_secs(60);

/// Whether git is rewriting what is checked out at `tree`: a checkout holds this lock from its
/// beginning to its end.
#[must_use]
pub fn is_rewriting(tree: &Path) -> bool {
    let Some(dot_git) = tree.ancestors().map(|folder| folder.join(".git")).find(|at| at.exists())
    else {
        return false;
    };
    let folder = if dot_git.is_dir() {
        dot_git
    } else {
        // Of a worktree or submodule: a small file that says where its folder is.
        let said = std::fs::read_to_string(&dot_git).unwrap_or_default();
        let Some(named) = said.strip_prefix("gitdir:") else { return false };
        dot_git.parent().unwrap_or(tree).join(named.trim())
    };
    let locked = std::fs::symlink_metadata(folder.join("index.lock"));
    let since = locked.and_then(|lock| lock.modified()).ok();
    since.is_some_and(|since| since.elapsed().is_ok_and(|age| age < STALE_LOCK))
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

async fn ask(tree: &Path) -> Option<Revision> {
    // A clean filter of the repository's would run on every file whose times have changed.
    let mut settings: Vec<(String, &str)> = SWITCHED_OFF.map(|(k, v)| (k.to_owned(), v)).into();
    let mut drivers = git(tree);
    settle(&mut drivers, &settings);
    let drivers = drivers
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
    // A name that no environment can carry is none that can be switched off.
    let names = String::from_utf8(drivers.stdout).ok()?;
    for key in names.split('\0').filter(|key| !key.is_empty()) {
        settings.push((key.to_owned(), if key.ends_with(".required") { "false" } else { "" }));
    }
    let mut status = git(tree);
    settle(&mut status, &settings);
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

    #[tokio::test]
    async fn nothing_of_the_repositorys_runs() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path();
        let ran = tree.join("ran");
        let touch = format!("touch '{}'; cat", ran.display());
        let git = |arguments: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.arg("-C").arg(tree).args(["-c", "user.name=x", "-c", "user.email=x@x.invalid"]);
            assert!(git.args(arguments).status().unwrap().success(), "{arguments:?}");
        };
        std::fs::write(tree.join(".gitattributes"), "a filter=plain\nb filter=a=b\n").unwrap();
        for name in ["a", "b"] {
            std::fs::write(tree.join(name), "one\n").unwrap();
        }
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "x"]);
        let config = tree.join(".git/config");
        let mut hostile = std::fs::read_to_string(&config).unwrap();
        for (section, name) in [
            (r#"filter "plain""#, "clean"),
            // Its name holds what ends a name on a command line.
            (r#"filter "a=b""#, "clean"),
            ("core", "fsmonitor"),
            ("core", "sshCommand"),
        ] {
            hostile.push_str(&format!("[{section}]\n\t{name} = \"{touch}\"\n"));
        }
        std::fs::write(&config, hostile).unwrap();
        for name in ["a", "b"] {
            // Of another time, so that git compares the content.
            std::fs::write(tree.join(name), "one\n").unwrap();
        }
        let found = revision(tree).await;
        assert!(found.commit.is_some(), "{found:?}");
        assert!(!ran.exists(), "a program of the repository's ran");
        git(&["status", "--porcelain"]);
        assert!(ran.exists(), "git by itself runs them: the test looks at the right thing");
    }
}
