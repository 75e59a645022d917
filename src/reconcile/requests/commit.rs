//! The commit of an edit, by git's plumbing: exactly the files that were edited, on what is checked out, whatever
//! else is staged or changed. No hook runs, no filter, and no program that the repository names.
#![expect(
    clippy::disallowed_methods,
    reason = "runs git, and looks whether it is in the middle of something"
)]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::model::text::spelled_line;
use crate::work::git::{SWITCHED_OFF, git, settle};

/// For one call of git. A signature may want a key that a person touches.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long somebody else's index is waited for.
const INDEX: Duration = Duration::from_secs(3);

/// Programs that sign. A repository's own word for them is not taken.
const SIGNERS: [(&str, &str); 5] = [
    ("gpg.program", "gpg"),
    ("gpg.openpgp.program", ""),
    ("gpg.x509.program", "gpgsm"),
    ("gpg.ssh.program", "ssh-keygen"),
    ("gpg.ssh.defaultKeyCommand", ""),
];

/// What a tree is to git while something else is under way there.
const UNDER_WAY: [(&str, &str); 6] = [
    ("MERGE_HEAD", "a merge"),
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("sequencer", "a cherry-pick or a revert"),
];

/// Why there is no commit. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Git is in the middle of something.
    #[error("{0} is under way in the tree: end it first, or --no-commit")]
    UnderWay(&'static str),
    /// Somebody else's changes would go into the commit.
    #[error("{0} has changes that are not committed: commit them, or --no-commit")]
    Dirty(String),
    /// The signature failed.
    #[error("git could not sign the commit ({0}): nothing was changed")]
    Sign(String),
    /// Git refuses.
    #[error("git: {0}")]
    Git(String),
    /// Somebody committed meanwhile.
    #[error("somebody committed to {0} meanwhile")]
    Moved(String),
}

/// A tree that git tracks.
#[derive(Debug, Clone)]
pub struct Repository {
    top: PathBuf,
    /// What stands before a path of the tree in the repository.
    prefix: String,
    /// The branch, where one is checked out.
    pub branch: Option<String>,
    reference: String,
    /// What is checked out; none: nothing was ever committed.
    pub head: Option<String>,
    sign: bool,
    settings: Vec<(String, String)>,
    scratch: PathBuf,
}

/// A file as git knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    path: String,
    mode: String,
    blob: String,
    /// The folder has other line ends than git.
    crlf: bool,
}

/// The repository of a tree, or why there is none that is committed to.
///
/// # Errors
/// [`CommitError::UnderWay`], or what git says.
pub async fn open(tree: &Path, scratch: &Path) -> Result<Result<Repository, String>, CommitError> {
    if !tree.ancestors().any(|folder| folder.join(".git").exists()) {
        return Ok(Err("the tree is not tracked by git".to_owned()));
    }
    let mut repository = Repository {
        top: tree.to_owned(),
        prefix: String::new(),
        branch: None,
        reference: "HEAD".to_owned(),
        head: None,
        sign: false,
        settings: SWITCHED_OFF.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        scratch: scratch.to_owned(),
    };
    let asked = ["rev-parse", "--show-toplevel", "--absolute-git-dir", "--show-prefix"];
    let said = match repository.output(&asked, b"").await {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => return Ok(Err(format!("git does not take the tree: {}", told(&output)))),
        Err(error) => return Ok(Err(format!("git cannot be run: {error}"))),
    };
    let mut lines = said.lines();
    let (Some(top), Some(dir)) = (lines.next(), lines.next()) else {
        return Ok(Err("git does not say where the tree is".to_owned()));
    };
    repository.prefix = lines.next().unwrap_or_default().to_owned();
    repository.top = PathBuf::from(top);
    let dir = PathBuf::from(dir);
    for (name, what) in UNDER_WAY {
        if dir.join(name).symlink_metadata().is_ok() {
            return Err(CommitError::UnderWay(what));
        }
    }
    repository.switch_off().await?;
    if let Some(reference) = repository.line(&["symbolic-ref", "-q", "HEAD"]).await {
        repository.branch =
            Some(reference.strip_prefix("refs/heads/").unwrap_or(&reference).to_owned());
        repository.reference = reference;
    }
    repository.head = repository.line(&["rev-parse", "-q", "--verify", "HEAD^{commit}"]).await;
    let sign = repository.line(&["config", "--type=bool", "--get", "commit.gpgsign"]).await;
    repository.sign = sign.as_deref() == Some("true");
    Ok(Ok(repository))
}

impl Repository {
    /// What the repository itself could make git run: filters, and other programs to sign with.
    async fn switch_off(&mut self) -> Result<(), CommitError> {
        let pattern = r"^filter\..*\.(clean|smudge|process|required)$";
        let asked = ["config", "--null", "--name-only", "--get-regexp", pattern];
        let filters = self.output(&asked, b"").await?;
        let names = String::from_utf8_lossy(&filters.stdout).into_owned();
        for key in names.split('\0').filter(|key| !key.is_empty()) {
            let value = if key.ends_with(".required") { "false" } else { "" };
            self.settings.push((key.to_owned(), value.to_owned()));
        }
        for (key, otherwise) in SIGNERS {
            let asked = ["config", "--null", "--show-scope", "--get-all", key];
            let output = self.output(&asked, b"").await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let words: Vec<&str> = said.split('\0').collect();
            let pairs = words.chunks_exact(2).map(|pair| (pair[0], pair[1]));
            let all: Vec<(&str, &str)> = pairs.collect();
            let own = |scope: &str| matches!(scope, "global" | "system");
            let chosen = all.iter().rev().find(|(scope, _)| own(scope)).map(|(_, value)| *value);
            // Where nobody says anything, git's own default holds.
            if all.iter().any(|(scope, _)| !own(scope)) || chosen.is_some() {
                let fallback = match otherwise {
                    "" if key == "gpg.openpgp.program" => "gpg",
                    other => other,
                };
                self.settings.push((key.to_owned(), chosen.unwrap_or(fallback).to_owned()));
            }
        }
        Ok(())
    }

    /// What git knows of a file of the tree that holds these bytes; none: it does not track it.
    ///
    /// # Errors
    /// [`CommitError::Dirty`] where it holds something else.
    pub async fn base(&self, file: &str, bytes: &[u8]) -> Result<Option<Base>, CommitError> {
        let path = format!("{}{file}", self.prefix);
        let staged = self.ok(&["ls-files", "-s", "-z", "--", &literal(&path)]).await?;
        let staged = entry(&staged, 1);
        let committed = match &self.head {
            Some(head) => {
                let listed = self.ok(&["ls-tree", "-z", "--full-tree", head, "--", &path]).await?;
                entry(&listed, 2)
            }
            None => None,
        };
        let dirty = || CommitError::Dirty(file.to_owned());
        let (mode, blob) = match (committed, staged) {
            (None, None) => return Ok(None),
            (Some(committed), Some(staged)) if committed == staged => committed,
            (None, Some(staged)) => staged,
            _ => return Err(dirty()),
        };
        if mode != "100644" && mode != "100755" {
            return Err(dirty());
        }
        let held = self.ok(&["cat-file", "blob", &blob]).await?;
        let crlf = held != bytes;
        if crlf && held != without_cr(bytes) {
            return Err(dirty());
        }
        Ok(Some(Base { path, mode, blob, crlf }))
    }

    /// Makes a commit that nothing leads to yet.
    ///
    /// # Errors
    /// When git refuses, or cannot sign.
    pub async fn make(
        &self,
        files: &[(Base, Vec<u8>)],
        message: &str,
    ) -> Result<String, CommitError> {
        let index = self.scratch.join(format!("index-{}", std::process::id()));
        let made = self.make_by(&index, files, message).await;
        let _ = std::fs::remove_file(&index);
        let mut lock = index.into_os_string();
        lock.push(".lock");
        let _ = std::fs::remove_file(&lock);
        made
    }

    async fn make_by(
        &self,
        index: &Path,
        files: &[(Base, Vec<u8>)],
        message: &str,
    ) -> Result<String, CommitError> {
        match &self.head {
            Some(head) => self.at(index, &["read-tree", head], b"").await?,
            None => self.at(index, &["read-tree", "--empty"], b"").await?,
        };
        for (base, bytes) in files {
            let bytes = if base.crlf { without_cr(bytes) } else { bytes.clone() };
            let blob = self.blob(&bytes).await?;
            let info = format!("{},{blob},{}", base.mode, base.path);
            self.at(index, &["update-index", "--add", "--cacheinfo", &info], b"").await?;
        }
        let tree = self.at(index, &["write-tree"], b"").await?;
        let mut arguments = vec!["commit-tree", &tree];
        if let Some(head) = &self.head {
            arguments.extend(["-p", head]);
        }
        if self.sign {
            arguments.push("-S");
        }
        arguments.extend(["-F", "-"]);
        let output = self.output(&arguments, message.as_bytes()).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = told(&output);
        Err(match self.sign && !said.contains("dentity") {
            true => CommitError::Sign(said),
            false => CommitError::Git(said),
        })
    }

    async fn blob(&self, bytes: &[u8]) -> Result<String, CommitError> {
        let asked = ["hash-object", "-w", "--no-filters", "--stdin"];
        let output = self.output(&asked, bytes).await?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(CommitError::Git(told(&output))),
        }
    }

    /// Has what is checked out lead to a commit, if it leads to `self.head` still.
    ///
    /// # Errors
    /// [`CommitError::Moved`] where it does not.
    pub async fn point(&self, commit: &str, why: &str) -> Result<(), CommitError> {
        let nothing = "0".repeat(commit.len());
        let old = self.head.as_deref().unwrap_or(&nothing);
        let mut arguments = vec!["update-ref", "-m", why];
        if self.branch.is_none() {
            arguments.push("--no-deref");
        }
        arguments.extend([self.reference.as_str(), commit, old]);
        let output = self.output(&arguments, b"").await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(CommitError::Moved(self.place().to_owned())),
        }
    }

    /// The branch, or `HEAD`.
    #[must_use]
    pub fn place(&self) -> &str {
        self.branch.as_deref().unwrap_or("HEAD")
    }

    /// Whether what is checked out has this commit.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn has(&self, commit: &str) -> Result<bool, CommitError> {
        let asked = ["merge-base", "--is-ancestor", commit, "HEAD"];
        Ok(self.head.is_some() && self.output(&asked, b"").await?.status.success())
    }

    /// Brings the user's own index up to date for files that were committed, where it has them as they were.
    ///
    /// # Errors
    /// When it cannot be written for a while: then they look staged backwards, and nothing is lost.
    pub async fn stage(&self, files: &[(Base, Vec<u8>)]) -> Result<(), CommitError> {
        for (base, bytes) in files {
            let bytes = if base.crlf { without_cr(bytes) } else { bytes.clone() };
            let blob = self.blob(&bytes).await?;
            let staged = self.ok(&["ls-files", "-s", "-z", "--", &literal(&base.path)]).await?;
            let same = entry(&staged, 1).is_some_and(|(_, blob)| blob == base.blob);
            if !same {
                continue;
            }
            let info = format!("{},{blob},{}", base.mode, base.path);
            let begun = std::time::Instant::now();
            loop {
                match self.ok(&["update-index", "--cacheinfo", &info]).await {
                    Ok(_) => break,
                    // Somebody else holds it for a moment.
                    Err(_) if begun.elapsed() < INDEX => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Has the user's own index know files as they are committed, where it has them as they were before that.
    ///
    /// # Errors
    /// When git refuses.
    pub(super) async fn catch_up(&self, files: &[&str]) -> Result<(), CommitError> {
        for file in files {
            let path = format!("{}{file}", self.prefix);
            let now = self.blob_at("HEAD", &path).await?;
            let before = self.blob_at("HEAD^", &path).await?;
            let staged = self.ok(&["ls-files", "-s", "-z", "--", &literal(&path)]).await?;
            let Some((mode, blob)) = now else { continue };
            if entry(&staged, 1).map(|(_, blob)| blob) == before.map(|(_, blob)| blob) {
                let info = format!("{mode},{blob},{path}");
                self.ok(&["update-index", "--add", "--cacheinfo", &info]).await?;
            }
        }
        Ok(())
    }

    /// The change of `commit` on what is checked out; none where one of these files is no longer what it was in
    /// `parent`.
    ///
    /// # Errors
    /// When git refuses.
    pub(super) async fn rebase(
        &self,
        commit: &str,
        parent: Option<&str>,
        files: &[&str],
    ) -> Result<Option<String>, CommitError> {
        let mut bases = Vec::new();
        for file in files {
            let path = format!("{}{file}", self.prefix);
            let before = match parent {
                Some(parent) => self.blob_at(parent, &path).await?,
                None => None,
            };
            let after = self.blob_at(commit, &path).await?;
            let now = self.blob_at("HEAD", &path).await?;
            let (Some((mode, blob)), Some((_, after))) = (now.clone(), after) else {
                return Ok(None);
            };
            if now != before {
                return Ok(None);
            }
            let bytes = self.ok(&["cat-file", "blob", &after]).await?;
            bases.push((Base { path, mode, blob, crlf: false }, bytes));
        }
        let message = self.ok(&["log", "-1", "--format=%B", commit]).await?;
        let message = String::from_utf8_lossy(&message).into_owned();
        self.make(&bases, message.trim_end()).await.map(Some)
    }

    async fn blob_at(
        &self,
        commit: &str,
        path: &str,
    ) -> Result<Option<(String, String)>, CommitError> {
        let asked = ["ls-tree", "-z", "--full-tree", commit, "--", path];
        // Of a first commit there is none before it.
        match self.ok(&asked).await {
            Ok(listed) => Ok(entry(&listed, 2)),
            Err(CommitError::Git(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn line(&self, arguments: &[&str]) -> Option<String> {
        let output = self.output(arguments, b"").await.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line = text.trim_end_matches('\n');
        (output.status.success() && !line.is_empty()).then(|| line.to_owned())
    }

    async fn ok(&self, arguments: &[&str]) -> Result<Vec<u8>, CommitError> {
        let output = self.output(arguments, b"").await?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(CommitError::Git(told(&output))),
        }
    }

    async fn at(
        &self,
        index: &Path,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, CommitError> {
        let mut command = self.command(arguments);
        command.env("GIT_INDEX_FILE", index);
        let output = run(command, input).await?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(CommitError::Git(told(&output))),
        }
    }

    async fn output(&self, arguments: &[&str], input: &[u8]) -> Result<Output, CommitError> {
        run(self.command(arguments), input).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = git(&self.top);
        let settings: Vec<(String, &str)> =
            self.settings.iter().map(|(key, value)| (key.clone(), value.as_str())).collect();
        settle(&mut command, &settings);
        command.args(arguments);
        command
    }
}

async fn run(mut command: Command, input: &[u8]) -> Result<Output, CommitError> {
    let failed = |error: std::io::Error| CommitError::Git(error.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take();
    let feeding = async {
        if let Some(mut stdin) = stdin.take() {
            // Whoever reads none of it says so by its exit code.
            let _ = stdin.write_all(input).await;
        }
    };
    let both = async { tokio::join!(feeding, child.wait_with_output()).1 };
    match tokio::time::timeout(DEADLINE, both).await {
        Ok(output) => output.map_err(failed),
        Err(_) => Err(CommitError::Git("it does not come to an end".to_owned())),
    }
}

/// What git says went wrong, in one harmless line.
fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling = |line: &&&str| ["error:", "fatal:", "gpg:"].iter().any(|it| line.starts_with(it));
    let line = lines.iter().find(telling).or(lines.first()).copied().unwrap_or_default();
    let line = line.strip_prefix("fatal: ").or(line.strip_prefix("error: ")).unwrap_or(line);
    match line.is_empty() {
        true => format!("{}", output.status),
        false => spelled_line(line),
    }
}

/// A path that is no pattern.
fn literal(path: &str) -> String {
    format!(":(top,literal){path}")
}

/// Mode and blob of the one entry of a listing, which stand in these places before its tab.
fn entry(listed: &[u8], blob: usize) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(listed);
    let mut entries = text.split('\0').filter(|entry| !entry.is_empty());
    let (words, _) = entries.next()?.split_once('\t')?;
    let words: Vec<&str> = words.split(' ').collect();
    if entries.next().is_some() {
        // Of a conflict there are several.
        return Some((String::new(), String::new()));
    }
    Some((words.first()?.to_string(), words.get(blob)?.to_string()))
}

fn without_cr(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\r' || bytes.peek() != Some(&b'\n') {
            out.push(byte);
        }
    }
    out
}
