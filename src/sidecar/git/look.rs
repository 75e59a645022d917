#![expect(clippy::disallowed_methods, reason = "asks git where a repository is")]
//! The gate's search over a repository that somebody works in: what a push of it would be refused for.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context as _;

use super::document::Exception;
use super::judge::{judge, line};
use super::run::{Git, Place, run};
use super::search::{SEARCH, Search};
use super::sentence::{harmless, size};
use super::wire::Deadline;
use super::{jail, work};
use crate::sidecar::part::SuppressionPart;

/// By what it is searched.
#[derive(Debug, Clone, Default)]
pub struct By<'a> {
    /// The host that it would be pushed to.
    pub host: &'a str,
    /// Leak rules of the operator's own.
    pub rules: Option<&'a str>,
    /// Those of them that do not hold for a host.
    pub dlp_allow: &'a [SuppressionPart],
    /// What is found, and passes all the same.
    pub allow: &'a [Exception],
    /// No file may be larger.
    pub max_file: u64,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// How many objects are not pushed yet.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What a push would be refused for, a line each.
    pub refused: Vec<String>,
    /// What passes all the same, each with why.
    pub passed: Vec<String>,
}

/// What refs a listing has.
const LISTED: u64 = 64 << 20;

/// Searches all that a repository has and that none of its remotes is known to have.
///
/// # Errors
/// When it is no repository, or cannot be read to its end.
pub fn look(folder: &Path, by: &By<'_>) -> anyhow::Result<Looked> {
    let git = Git::find()?;
    let repository = repository(folder)?;
    let most = by.max_file.max(1 << 30);
    let place = Place { repository: &repository, incoming: None, most };
    let suppressions = by.dlp_allow.iter().map(crate::sidecar::egress::suppression);
    let suppressions = suppressions.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let scanner = Arc::new(work::scanner(by.rules, suppressions).map_err(anyhow::Error::msg)?);
    let arguments = ["for-each-ref", "--format=%(objectname)", "refs/heads", "refs/tags"];
    let layer = jail::Layer::writing(&[])?;
    let ask = |arguments: &[&str]| -> io::Result<super::run::Output> {
        let command = git.command(place, arguments);
        run(command, &layer, &[], b"", LISTED, Deadline::within(SEARCH), None)
    };
    let tips = ask(&arguments)?.well("listing refs").context("reading the repository")?;
    let mut tips = String::from_utf8_lossy(&tips).into_owned();
    // Nobody may be on a branch, and there may be no commit.
    let head = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    if head.ok {
        tips.push_str(&String::from_utf8_lossy(&head.stdout));
    }
    if tips.is_empty() {
        return Ok(Looked { objects: 0, bytes: 0, refused: Vec::new(), passed: Vec::new() });
    }
    let search = Search {
        git: &git,
        place,
        scanner: &scanner,
        host: by.host,
        max_file: by.max_file,
        guest: None,
        deadline: Deadline::within(SEARCH),
    };
    let not = ["--not", "--remotes"];
    let found = search.run(&tips, &not, &mut |_| Ok(())).context("searching it")?;
    let judged = judge(&search, &found, by.allow, &tips, &not).context("searching it")?;
    let mut refused: Vec<String> = judged.refused.iter().map(|hit| line(&search, hit)).collect();
    if found.more {
        refused.push("and more than are told apart".to_owned());
    }
    if let Some((path, length)) = &found.too_large {
        let (path, most) = (harmless(path.as_bytes()), size(by.max_file));
        refused.push(format!("{path} has {}; at most {most} are looked through", size(*length)));
    }
    if found.too_many {
        refused.push("more than 1000000 objects are not looked through at once".to_owned());
    }
    let passed = judged
        .passed
        .iter()
        .map(|(hit, why)| format!("{}: {}", line(&search, hit), why.replace('_', " ")));
    Ok(Looked { objects: found.objects, bytes: found.bytes, refused, passed: passed.collect() })
}

/// Where git keeps what this folder is a part of.
fn repository(folder: &Path) -> anyhow::Result<PathBuf> {
    let program = jail::find("git").context("git is not installed")?;
    let output = Command::new(program)
        .args(["-c", "safe.directory=*", "rev-parse", "--absolute-git-dir"])
        .current_dir(folder)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C.UTF-8"), ("HOME", "/nonexistent")])
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("looking into {}", folder.display()))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(
        output.status.success() && !path.is_empty(),
        "{} is in no git repository",
        folder.display()
    );
    Ok(path.into())
}
