//! What an agent changed: the files that came out of its sandbox against those that it was given.
//!
//! A repository of ours, made for this alone, has both; the objects of the operator's are borrowed. Git works
//! without anybody's configuration, so what a guest writes (attributes, ignored names) is data: no filter, no
//! driver and no hook is known. The guest's own `.git` is not looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::bundle::is_repository;
use super::git::{SWITCHED_OFF, git, git_at, settle};
use crate::model::text::harmless;

/// How many commits are looked through for the one that was copied.
const COMMITS: usize = 5000;

/// A patch that is longer is nothing that anybody reads.
const LONGEST: u64 = 64 << 20;

/// Both sides of a comparison, until they are dropped.
#[derive(Debug)]
pub struct Differ {
    repository: PathBuf,
    copy: PathBuf,
    /// The tree or commit that was given.
    base: String,
    commit: Option<String>,
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its path in the workspace, as the guest named it: not fit for a terminal.
    pub path: String,
    /// `A`, `D`, `M` or `T` (of another kind).
    pub status: char,
    /// Lines that came and went; of what is no text nobody counts them.
    pub lines: Option<(u64, u64)>,
}

impl Differ {
    /// Compares `copy`, which came out of a sandbox and has no `.git`, with `source`. `commits` are those that the
    /// guest says it has, the newest first. `scratch` is an empty folder of the caller's.
    ///
    /// # Errors
    /// When there is no git here, or one of the folders cannot be read.
    pub async fn new(
        scratch: &Path,
        source: &Path,
        copy: &Path,
        commits: &[String],
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(source.is_dir(), "{} is no folder any more", source.display());
        let repository = scratch.join("git");
        let of_git = is_repository(source).await.is_ok();
        let format = match of_git {
            true => said(git_at(source), &["rev-parse", "--show-object-format"]).await?,
            false => "sha1".to_owned(),
        };
        let mut init = git(scratch);
        bare(&mut init);
        init.args(["init", "-q", "--bare", "--template="]).arg(format!("--object-format={format}"));
        run(init.arg(&repository), "making a repository to compare in").await?;
        let mut differ =
            Self { repository, copy: copy.to_owned(), base: String::new(), commit: None };
        if of_git {
            let objects = said(git_at(source), &["rev-parse", "--git-path", "objects"]).await?;
            let objects = source.join(objects);
            let objects =
                objects.to_str().filter(|path| !path.contains('\n') && !path.starts_with('"'));
            let objects = objects.context("git cannot borrow from a folder of such a name")?;
            let alternates = differ.repository.join("objects/info/alternates");
            tokio::fs::write(alternates, format!("{objects}\n")).await?;
            let commit = copied(source, commits).await?;
            let mut read = differ.git(copy);
            run(read.args(["read-tree", &commit]), "reading what it was given").await?;
            differ.base.clone_from(&commit);
            differ.commit = Some(commit);
        } else {
            differ.add(source, true).await?;
            differ.base = said(differ.git(source), &["write-tree"]).await?;
        }
        differ.add(copy, !of_git).await?;
        Ok(differ)
    }

    /// The commit that its workspace is compared with; of a folder that is no repository there is none.
    #[must_use]
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The files that differ, by path.
    ///
    /// # Errors
    /// When git fails.
    pub async fn files(&self) -> anyhow::Result<Vec<Changed>> {
        let names = self.diff(&["--name-status", "-z", "--no-renames"]).await?;
        let counts = self.diff(&["--numstat", "-z", "--no-renames"]).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut counts = counts.split(|byte| *byte == 0).map(|count| {
            let count = text(count);
            let mut parts = count.splitn(3, '\t');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        });
        let mut words = names.split(|byte| *byte == 0);
        let mut files = Vec::new();
        while let (Some([status, ..]), Some(path)) = (words.next(), words.next()) {
            let (status, lines) = (char::from(*status), counts.next().flatten());
            files.push(Changed { path: text(path), status, lines });
        }
        Ok(files)
    }

    /// How much of which file differs, for people.
    ///
    /// # Errors
    /// When git fails.
    pub async fn stat(&self, width: usize) -> anyhow::Result<Vec<u8>> {
        self.diff(&[&format!("--stat={width}")]).await
    }

    /// All of it, as a patch.
    ///
    /// # Errors
    /// When git fails, or it is too long.
    pub async fn patch(&self) -> anyhow::Result<Vec<u8>> {
        self.diff(&["--patch", "--binary"]).await
    }

    /// Makes the folder that was compared with, or another state of it, what the copy is: all of it, or nothing
    /// where a file there is another by now. Git follows no link on the way, and leaves the folder nowhere.
    ///
    /// # Errors
    /// When it does not fit, with what git says; nothing was changed then.
    pub async fn apply(&self, folder: &Path) -> anyhow::Result<()> {
        let patch = self.patch().await?;
        let mut git = git_at(folder);
        bare(&mut git);
        git.args(["apply", "--whitespace=nowarn", "-"]).stdin(Stdio::piped());
        let mut child = git.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let say = async move {
            if let Some(mut stdin) = stdin {
                // What does not listen says why when it ends.
                let _ = stdin.write_all(&patch).await;
            }
        };
        let output = tokio::join!(say, child.wait_with_output()).1?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}", harmless(said.trim()));
        Ok(())
    }

    async fn diff(&self, more: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut git = self.git(&self.copy);
        git.args(["diff", "--cached", "--no-ext-diff", "--no-textconv", "--no-color"]);
        let mut child = git.args(more).arg(&self.base).stdout(Stdio::piped()).spawn()?;
        let mut out = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LONGEST + 1).read_to_end(&mut out).await?;
        }
        anyhow::ensure!(out.len() as u64 <= LONGEST, "it is longer than {} MiB", LONGEST >> 20);
        anyhow::ensure!(child.wait().await?.success(), "git compares nothing");
        Ok(out)
    }

    /// Takes a folder over, as it is. Of what is no repository nothing is ignored.
    async fn add(&self, folder: &Path, all: bool) -> anyhow::Result<()> {
        let mut add = self.git(folder);
        add.args(["add", "--all", "--ignore-errors"]);
        add.args(all.then_some("--force")).args(["--", "."]);
        run(&mut add, "reading the files").await
    }

    /// Git in our repository, with this folder as its work tree.
    fn git(&self, folder: &Path) -> Command {
        let mut git = git(folder);
        bare(&mut git);
        git.env("GIT_DIR", &self.repository).env("GIT_WORK_TREE", folder);
        git
    }
}

/// Takes everybody's configuration away.
fn bare(git: &mut Command) {
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
    ];
    let all = SWITCHED_OFF.into_iter().chain(own);
    settle(git, &all.map(|(key, value)| (key.to_owned(), value)).collect::<Vec<_>>());
}

/// The commit of the operator's that the guest's work begins with: the newest of its own that is in the
/// operator's branches too, else the one that is checked out there. The guest only says which of them; what is
/// compared with is the operator's.
async fn copied(source: &Path, commits: &[String]) -> anyhow::Result<String> {
    let most = format!("--max-count={}", COMMITS * 4);
    let known = ["rev-list", &most, "--branches", "--remotes", "--tags", "HEAD"];
    let known = said(git_at(source), &known).await.unwrap_or_default();
    let known: BTreeSet<&str> = known.lines().collect();
    if let Some(commit) = commits.iter().find(|commit| known.contains(commit.as_str())) {
        return Ok(commit.clone());
    }
    let head = said(git_at(source), &["rev-parse", "--verify", "-q", "HEAD^{commit}"]).await;
    head.context("it has no commit yet")
}

/// The commits that a guest says it has.
#[must_use]
pub fn commits(stdout: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stdout);
    let commit = |line: &&str| {
        matches!(line.len(), 40 | 64) && line.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text.lines().filter(commit).take(COMMITS).map(str::to_owned).collect()
}

async fn said(mut git: Command, args: &[&str]) -> anyhow::Result<String> {
    let output = git.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
    let output = output.context("git cannot be run")?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "git {}: {}", args[0], harmless(error.trim()));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn run(git: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = git.stdout(Stdio::null()).stderr(Stdio::piped()).output().await;
    let output = output.with_context(|| format!("{what}: git cannot be run"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{what}: {}", harmless(error.trim()));
    Ok(())
}
