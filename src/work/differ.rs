//! What an agent changed: the files that came out of its sandbox against those that it was given.
//!
//! A repository of ours, made for this alone, has both; the objects of the operator's are borrowed. Git works
//! without anybody's configuration, and its own attributes stand above all: what a guest writes is data, and shown
//! and brought byte for byte. Nobody's `.git` is looked at but the operator's, for the commit that was copied; what
//! lies beside another one is compared like all else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::bare::{ATTRIBUTES, bare, fed, run, said};
use super::bundle::is_repository;
use super::git::{git, git_at};
use super::listing::{self, File, Files, Found, LARGE, Walked};
use super::undo::Undo;
use crate::model::Writable;
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
    /// The tree that was given.
    base: String,
    commit: Option<String>,
    left: Vec<Left>,
}

/// What is not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its path in the workspace, not fit for a terminal.
    pub path: String,
    /// Why, for people.
    pub because: &'static str,
}

impl Left {
    fn of(path: &[u8], because: &'static str) -> Self {
        Self { path: String::from_utf8_lossy(path).into_owned(), because }
    }
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
    /// guest says it has, the newest first. `scratch` is an empty folder of the caller's. What `writable` has is read
    /// for no objects.
    ///
    /// # Errors
    /// When there is no git here, or one of the folders cannot be read.
    pub async fn new(
        scratch: &Path,
        source: &Path,
        copy: &Path,
        commits: &[String],
        writable: &Writable,
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
        let (base, left) = (String::new(), Vec::new());
        let mut differ = Self { repository, copy: copy.to_owned(), base, commit: None, left };
        tokio::fs::create_dir_all(differ.repository.join("info")).await?;
        tokio::fs::write(differ.repository.join("info/attributes"), ATTRIBUTES).await?;
        let mut walked = walk(copy, scratch.join("links")).await?;
        let mut refused = std::mem::take(&mut walked.refused);
        let mut given;
        if of_git {
            differ.borrow(source, writable).await?;
            let commit = copied(source, commits).await?;
            let foreign;
            (given, foreign) = differ.commits(source, &commit, writable).await?;
            differ.commit = Some(commit);
            let known = differ.known(&given).await?;
            let below = |path: &[u8]| {
                let inner = |outer: &&Vec<u8>| {
                    path.strip_prefix(outer.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
                };
                foreign.iter().find(inner)
            };
            let filled: BTreeSet<_> =
                walked.found.iter().filter_map(|found| below(&found.path)).collect();
            let because =
                "is a repository of its own, of which the commit is not there: not compared";
            differ.left.extend(filled.into_iter().map(|path| Left::of(path, because)));
            walked
                .found
                .retain(|found| known.contains(&found.path) && below(&found.path).is_none());
        } else {
            let theirs = walk(source, scratch.join("links-given")).await?;
            refused.extend(theirs.refused);
            given = differ.named(theirs.found, &sizes(&walked.found)).await?;
        }
        let sizes = given.iter().map(|(path, file)| (path.clone(), file.size)).collect();
        let mut has = differ.named(walked.found, &sizes).await?;
        let large = given.iter().chain(&has).filter(|(_, file)| file.size > LARGE);
        let large: BTreeSet<Vec<u8>> = large.map(|(path, _)| path.clone()).collect();
        for path in large {
            if given.remove(&path) != has.remove(&path) {
                differ.left.push(Left::of(&path, "over 64 MiB: not compared"));
            }
        }
        refused.sort();
        refused.dedup();
        let because = "a link of a name that git takes for its own: not compared";
        differ.left.extend(refused.iter().map(|path| Left::of(path, because)));
        differ.base = differ.tree(&given).await?;
        differ.tree(&has).await?;
        Ok(differ)
    }

    /// What is not compared. Of all else the difference is known.
    #[must_use]
    pub fn left(&self) -> &[Left] {
        &self.left
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
    /// where a file there is another by now, or the disk is full. Git follows no link on the way, and leaves the
    /// folder nowhere.
    ///
    /// # Errors
    /// When it does not fit, with what git says, or fails half-way: nothing is changed then.
    pub async fn apply(&self, folder: &Path) -> anyhow::Result<()> {
        let patch = self.patch().await?;
        // In our repository: neither filters nor attributes of theirs change what is written.
        let mut git = self.git(folder);
        git.args(["apply", "--whitespace=nowarn", "-"]);
        let names = self.diff(&["--name-only", "-z", "--no-renames"]).await?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
        let at = folder.to_owned();
        let undo = tokio::task::spawn_blocking(move || Undo::keep(&at, &names)).await??;
        let applied = fed(&mut git, patch).await;
        let ended = tokio::task::spawn_blocking(move || match applied {
            Ok(_) => {
                undo.forget();
                Ok(())
            }
            Err(error) => {
                undo.put_back().with_context(|| format!("{error:#}"))?;
                Err(error.context("nothing was changed"))
            }
        });
        ended.await?
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

    /// The files of a commit of the operator's, with those of the repositories in it; and where there are
    /// repositories whose commit is not there.
    async fn commits(
        &self,
        source: &Path,
        commit: &str,
        writable: &Writable,
    ) -> anyhow::Result<(Files, Vec<Vec<u8>>)> {
        let (mut files, mut foreign) = (Files::new(), Vec::new());
        let mut rest = vec![(Vec::new(), commit.to_owned())];
        while let Some((below, commit)) = rest.pop() {
            let mut list = self.git(&self.copy);
            list.args(["ls-tree", "-r", "-l", "-z", "--full-tree", &commit]);
            let said = fed(&mut list, Vec::new()).await.context("reading what it was given")?;
            let (own, repositories) = listing::tree(&said, &below);
            files.extend(own);
            for (path, commit) in repositories {
                let folder = source.join(OsStr::from_bytes(&path));
                // No link, and nothing else in its name, leads elsewhere.
                let there = folder.canonicalize().is_ok_and(|found| found == folder)
                    && is_repository(&folder).await.is_ok()
                    && has(&folder, &commit).await;
                if !there {
                    foreign.push(path);
                    continue;
                }
                self.borrow(&folder, writable).await?;
                rest.push(([path.as_slice(), b"/"].concat(), commit));
            }
        }
        Ok((files, foreign))
    }

    /// Has the objects of a repository at hand.
    async fn borrow(&self, from: &Path, writable: &Writable) -> anyhow::Result<()> {
        let objects = said(git_at(from), &["rev-parse", "--git-path", "objects"]).await?;
        // Those of a linked worktree lie elsewhere.
        let objects = tokio::fs::canonicalize(from.join(objects)).await?;
        if let Some((folder, whose)) = writable.near(&objects) {
            let (objects, folder) = (objects.display(), folder.display());
            let why = format!("its objects are in {objects}, and a sandbox can write {folder}");
            anyhow::bail!("{}", harmless(&format!("{why}: {whose}")));
        }
        let objects =
            objects.to_str().filter(|path| !path.contains('\n') && !path.starts_with('"'));
        let objects = objects.context("git cannot borrow from a folder of such a name")?;
        let alternates = self.repository.join("objects/info/alternates");
        let before = tokio::fs::read_to_string(&alternates).await.unwrap_or_default();
        Ok(tokio::fs::write(alternates, format!("{before}{objects}\n")).await?)
    }

    /// The paths of the copy that count beside a repository: those of these files, and what is not ignored.
    async fn known(&self, given: &Files) -> anyhow::Result<BTreeSet<Vec<u8>>> {
        self.tree(given).await?;
        let mut list = self.git(&self.copy);
        list.args(["ls-files", "-z", "--others", "--exclude-standard"]);
        let others = fed(&mut list, Vec::new()).await.context("reading the files")?;
        let others = others.split(|byte| *byte == 0).map(<[u8]>::to_vec);
        Ok(others.chain(given.keys().cloned()).collect())
    }

    /// Names the content of what was found, and takes it over unless it is too long. That is read only where
    /// the other side has a file of that size there: without one it differs anyhow.
    async fn named(
        &self,
        found: Vec<Found>,
        other: &BTreeMap<Vec<u8>, u64>,
    ) -> anyhow::Result<Files> {
        let (large, small): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.size > LARGE);
        let (large, odd): (Vec<_>, Vec<_>) =
            large.into_iter().partition(|found| other.get(&found.path) == Some(&found.size));
        let mut files = Files::new();
        for (found, more) in [(small, &["-w"][..]), (large, &[])] {
            let lines = found.iter().flat_map(|found| listing::quoted(&found.content)).collect();
            let mut hash = self.git(&self.copy);
            hash.args(["hash-object", "--stdin-paths", "--no-filters"]).args(more);
            let ids = fed(&mut hash, lines).await.context("reading the files")?;
            let ids = String::from_utf8(ids)?;
            let ids: Vec<&str> = ids.lines().collect();
            anyhow::ensure!(ids.len() == found.len(), "git has not read all of the files");
            for (Found { path, mode, size, .. }, id) in found.into_iter().zip(ids) {
                files.insert(path, File { mode: mode.to_owned(), id: id.to_owned(), size });
            }
        }
        let odd = odd.into_iter().map(|Found { path, mode, size, .. }| {
            (path, File { mode: mode.to_owned(), id: String::new(), size })
        });
        files.extend(odd);
        Ok(files)
    }

    /// Makes these files the index of our repository, and gives the tree that they are.
    async fn tree(&self, files: &Files) -> anyhow::Result<String> {
        let mut empty = self.git(&self.copy);
        run(empty.args(["read-tree", "--empty"]), "listing the files").await?;
        let mut update = self.git(&self.copy);
        update.args(["update-index", "-z", "--index-info"]);
        fed(&mut update, listing::index(files)).await.context("listing the files")?;
        // A partial clone may lack what has not changed.
        said(self.git(&self.copy), &["write-tree", "--missing-ok"]).await
    }

    /// Git in our repository, with this folder as its work tree.
    fn git(&self, folder: &Path) -> Command {
        let mut git = git(folder);
        bare(&mut git);
        git.env("GIT_DIR", &self.repository).env("GIT_WORK_TREE", folder);
        git
    }
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

/// Whether this repository has the commit.
async fn has(repository: &Path, commit: &str) -> bool {
    let commit = format!("{commit}^{{commit}}");
    said(git_at(repository), &["cat-file", "-e", &commit]).await.is_ok()
}

/// Looks through a folder, with room for what its links say.
async fn walk(folder: &Path, links: PathBuf) -> anyhow::Result<Walked> {
    tokio::fs::create_dir(&links).await?;
    let shown = format!("reading {}", folder.display());
    let folder = folder.to_owned();
    let walked = tokio::task::spawn_blocking(move || listing::walk(&folder, &links)).await?;
    walked.context(shown)
}

fn sizes(found: &[Found]) -> BTreeMap<Vec<u8>, u64> {
    found.iter().map(|found| (found.path.clone(), found.size)).collect()
}
