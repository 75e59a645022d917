//! Takes over what an agent has committed: a bundle of its branches goes into refs of their own in the
//! operator's repository. The bundle is the guest's word. Every object of it is checked, none of its
//! names is used but those of branches, and the work tree, the index and the operator's own refs stay
//! as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::git::{SWITCHED_OFF, git, git_at, settle};
use crate::model::SandboxId;
use crate::model::text::harmless;

/// A ref that now says what a branch in the sandbox says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// `refs/bottle/NAME/BRANCH`.
    pub name: String,
    /// The commit that it said before.
    pub old: Option<String>,
    /// The commit that it says now.
    pub new: String,
}

/// What a branch that is checked out as none is called.
const DETACHED: &str = "HEAD";

/// A branch that is not brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What its ref would be.
    pub name: String,
    /// Why.
    pub because: Because,
}

/// Why a branch is not brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// This ref stands where its ref would need a folder, or in it.
    Beside(String),
    /// Its name is none that a ref of this machine can have, as the end of a sentence.
    Name(&'static str),
}

/// What has become of the branches of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Those that were brought, also where they are as before.
    pub brought: Vec<Brought>,
    /// Those that were not.
    pub skipped: Vec<Skipped>,
}

/// Makes sure that this folder is the root of a git repository.
///
/// # Errors
/// When it is none, with what it is instead.
pub async fn is_repository(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    anyhow::ensure!(folder.is_dir(), "{shown} is no folder any more");
    let mut ask = git_at(folder);
    // A path with a `:` in it is no ceiling. The root is where nothing stands before the folder.
    ask.stderr(Stdio::piped()).args(["rev-parse", "--show-prefix"]);
    let found = ask.output().await.context("git cannot be run")?;
    if found.status.success() && found.stdout.trim_ascii().is_empty() {
        return Ok(());
    }
    let mut ask = git(folder);
    ask.args(["rev-parse", "--show-toplevel"]);
    if let Ok(around) = ask.output().await
        && around.status.success()
    {
        let around = String::from_utf8_lossy(&around.stdout);
        let around = harmless(around.trim());
        anyhow::bail!("{shown} is not the root of a git repository: it lies in that of {around}");
    }
    let said = String::from_utf8_lossy(&found.stderr);
    anyhow::bail!("{shown} is no git repository that can be used: {}", harmless(said.trim()))
}

/// Fetches the branches of a bundle into `refs/bottle/SANDBOX/` of `repository`, or one of them. A ref
/// that cannot be beside one that is there keeps no other from coming.
///
/// # Errors
/// When `repository` is none, or the bundle is damaged or has objects that git refuses; then no ref has
/// moved.
pub async fn fetch(
    repository: &Path,
    bundle: &Path,
    sandbox: &SandboxId,
    branch: Option<&str>,
) -> anyhow::Result<Fetched> {
    let heads = heads(repository, bundle).await?;
    let prefix = format!("refs/bottle/{sandbox}/");
    let mut wanted: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (name, commit) in &heads {
        if let Some(short) = name.strip_prefix("refs/heads/")
            && branch.is_none_or(|branch| branch == short)
        {
            wanted.insert(format!("{prefix}{short}"), (name.clone(), commit.clone()));
        }
    }
    // Commits that no branch has would be lost otherwise.
    if let Some(commit) = heads.get(DETACHED)
        && branch.is_none()
        && !wanted.values().any(|(_, head)| head == commit)
    {
        wanted.insert(format!("{prefix}{DETACHED}"), (DETACHED.to_owned(), commit.clone()));
    }
    if wanted.is_empty() {
        match branch {
            Some(branch) => anyhow::bail!("there is no branch `{branch}` with a commit"),
            None => anyhow::bail!("there is no branch with a commit"),
        }
    }
    let before = refs(repository, "refs/bottle").await?;
    let room = repository.as_os_str().len();
    let mut skipped = fitting(&mut wanted, room);
    skipped.extend(apart(&mut wanted, &before));
    let brought = |(name, (_, new)): (&String, &(String, String))| {
        let (name, old, new) = (name.clone(), before.get(name).cloned(), new.clone());
        Brought { name, old, new }
    };
    let fetched = Fetched { brought: wanted.iter().map(brought).collect(), skipped };
    if wanted.is_empty() {
        return Ok(fetched);
    }
    let specs: Vec<String> = wanted.iter().map(|(to, (from, _))| format!("+{from}:{to}")).collect();
    let mut fetch = git_at(repository);
    let checked = ["fetch.fsckObjects", "transfer.fsckObjects"].map(|key| (key, "true"));
    let quiet = [("fetch.writeCommitGraph", "false"), ("maintenance.auto", "false")];
    let settings: Vec<(String, &str)> = SWITCHED_OFF
        .into_iter()
        .chain(checked)
        .chain(quiet)
        .chain([("gc.auto", "0"), ("core.logAllRefUpdates", "always")])
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    settle(&mut fetch, &settings);
    // A bundle is a file, and nothing else may be spoken.
    fetch.env("GIT_ALLOW_PROTOCOL", "file").stderr(Stdio::piped());
    fetch.args(["fetch", "--quiet", "--atomic", "--no-tags", "--no-recurse-submodules"]);
    fetch.args(["--no-write-fetch-head", "--stdin", "--"]).arg(bundle);
    // More than a command line takes, if the guest likes.
    let specs = specs.join("\n") + "\n";
    succeeded(answered(fetch, specs).await, "fetching the bundle")?;
    Ok(fetched)
}

/// Takes those out that git cannot keep beside a ref that is there, or beside one that comes: `feat` and
/// `feat/one` are a file and its folder. The ref that is there stays: it may be all that has its commits.
fn apart(
    wanted: &mut BTreeMap<String, (String, String)>,
    there: &BTreeMap<String, String>,
) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    let mut taken: BTreeSet<String> = there.keys().cloned().collect();
    // There may be as many as the guest likes, so each is looked up.
    wanted.retain(|name, _| {
        let folder = format!("{name}/");
        let below = taken.range(folder.clone()..).next().filter(|other| other.starts_with(&folder));
        let mut above = name.match_indices('/').map(|(end, _)| &name[..end]);
        let in_the_way = below
            .cloned()
            .or_else(|| above.find(|outer| taken.contains(*outer)).map(str::to_owned));
        let Some(because) = in_the_way else {
            taken.insert(name.clone());
            return true;
        };
        skipped.push(Skipped { name: name.clone(), because: Because::Beside(because) });
        false
    });
    skipped
}

/// Takes those out that can be no ref in a repository whose path has this length. A guest can have any
/// branch: it writes what its git would not. One that git cannot keep would keep all others from coming,
/// as all come at once.
fn fitting(wanted: &mut BTreeMap<String, (String, String)>, repository: usize) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    wanted.retain(|name, _| {
        let Some(why) = unfit(name, repository) else { return true };
        skipped.push(Skipped { name: name.clone(), because: Because::Name(why) });
        false
    });
    skipped
}

/// What is wrong with the name of a ref: by git's own rules (`git help check-ref-format`), and as a file.
fn unfit(name: &str, repository: usize) -> Option<&'static str> {
    /// A name in a folder, with the `.lock` that git puts behind it.
    const PART: usize = 255 - ".lock".len();
    /// A path, with what stands before and behind the name: `/.git/logs/`, `.lock`.
    const WHOLE: usize = 4095 - 64;
    let odd = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    if name.contains(char::REPLACEMENT_CHARACTER) {
        Some("its name is not UTF-8")
    } else if name.contains(odd)
        || name.split('/').any(part)
        || name.contains("..")
        || name.contains("@{")
        || name.ends_with('.')
    {
        Some("git has no branch of such a name")
    } else if name.split('/').any(|part| part.len() > PART) || name.len() + repository > WHOLE {
        Some("its name is longer than that of a file can be")
    } else {
        None
    }
}

/// How many commits `new` has that `old` has not, or that no other ref of the repository has.
pub async fn new_commits(repository: &Path, brought: &Brought) -> Option<u64> {
    let mut count = git_at(repository);
    count.args(["rev-list", "--count", &brought.new]);
    match &brought.old {
        Some(old) => count.arg(format!("^{old}")),
        None => count.args(["--not", "--branches", "--remotes", "--tags"]),
    };
    let output = count.output().await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// The names of a bundle, and their commits.
async fn heads(repository: &Path, bundle: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut list = git_at(repository);
    list.stderr(Stdio::piped()).args(["bundle", "list-heads"]).arg(bundle);
    let output = succeeded(list.output().await, "reading the bundle")?;
    Ok(pairs(&output.stdout))
}

async fn refs(repository: &Path, prefix: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut list = git_at(repository);
    list.stderr(Stdio::piped()).args(["for-each-ref", "--format=%(objectname) %(refname)", prefix]);
    let output = succeeded(list.output().await, "reading the refs")?;
    Ok(pairs(&output.stdout))
}

/// Lines of a commit and a name.
fn pairs(lines: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(lines);
    let pair = |line: &str| {
        let (commit, name) = line.split_once(' ')?;
        Some((name.to_owned(), commit.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// Runs git, and says this to it.
async fn answered(mut git: Command, words: String) -> std::io::Result<Output> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = git.spawn()?;
    let stdin = child.stdin.take();
    let say = async {
        if let Some(mut stdin) = stdin {
            // What does not listen says why when it ends.
            let _ = stdin.write_all(words.as_bytes()).await;
        }
    };
    tokio::join!(say, child.wait_with_output()).1
}

fn succeeded(output: std::io::Result<Output>, what: &str) -> anyhow::Result<Output> {
    let output = output.with_context(|| format!("{what}: git cannot be run"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("{what}: {}", harmless(said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_ref_can_have_is_known() {
        let at = |name: &str| unfit(&format!("refs/bottle/ada/{name}"), 100).is_none();
        let long = |count: usize| "x".repeat(count);
        for good in ["main", "feat/one", "a.b", "a@b", "@", "käse", "-x", "a{b}", &long(250)] {
            assert!(at(good), "{good}");
        }
        let deep = [long(250), long(250)].join("/").repeat(8);
        for bad in [
            "",
            "/",
            "a//b",
            "a/",
            ".a",
            "a/.b",
            "a..b",
            "a.",
            "a.lock",
            "a.lock/b",
            "a b",
            "a:b",
            "a~b",
            "a^b",
            "a?b",
            "a*b",
            "a[b",
            "a\\b",
            "a@{b",
            "a\u{7f}",
            "a\tb",
            "a\u{fffd}",
            &long(251),
            &deep,
        ] {
            assert!(!at(bad), "{bad}");
        }
    }

    #[test]
    fn one_ref_that_has_no_place_keeps_no_other_from_coming() {
        let at = |name: &str| format!("refs/bottle/ada/{name}");
        let there = ["feat/one", "old", "main"].map(|name| (at(name), "1".to_owned()));
        let there = BTreeMap::from(there);
        let names = ["feat", "main", "old/new", "older", "x", "x/y"];
        let mut wanted =
            BTreeMap::from(names.map(|name| (at(name), (name.to_owned(), "2".to_owned()))));
        let beside = |because| match because {
            Because::Beside(other) => other,
            Because::Name(why) => panic!("{why}"),
        };
        let skipped: Vec<(String, String)> = apart(&mut wanted, &there)
            .into_iter()
            .map(|it| (it.name, beside(it.because)))
            .collect();
        let expected = [("feat", "feat/one"), ("old/new", "old"), ("x/y", "x")];
        assert_eq!(skipped, expected.map(|(name, because)| (at(name), at(because))));
        assert_eq!(wanted.into_keys().collect::<Vec<_>>(), ["main", "older", "x"].map(at));
    }
}
