//! `bottle diff`: what an agent changed in the copy of its workspace.

#![expect(
    clippy::disallowed_methods,
    reason = "writes a patch as it is, and takes a guest's `.git` away"
)]

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::args::{DiffArgs, Global};
use super::error::{CliError, Exit, Kind};
use super::sync::{Copied, Scratch, copied, failed, small, unpack};
use super::target::Target;
use super::text::plural;
use super::ui::{Ui, harmless};
use crate::model::text::harmless_line;
use crate::reconcile::pass::canonical;
use crate::work::{Differ, Place, commits};

/// How long the guest's git may take to say which commits it has.
const ANSWER: Duration = Duration::from_secs(10);

/// Which commits there are: `WORKSPACE`.
const COMMITS_SH: &str = r#"cd "$1" && git rev-list --max-count=5000 HEAD 2>/dev/null"#;

/// What differs, for `-o json`.
#[derive(Serialize)]
struct Document {
    version: u32,
    sandbox: String,
    source: String,
    /// The commit that is compared with; `null` where the source is no repository.
    base: Option<String>,
    files: Vec<File>,
    not_compared: Vec<NotCompared>,
}

#[derive(Serialize)]
struct NotCompared {
    path: String,
    because: &'static str,
}

#[derive(Serialize)]
struct File {
    path: String,
    status: &'static str,
    added: Option<u64>,
    removed: Option<u64>,
}

/// What came out of a sandbox, beside what it was given.
pub(super) struct Compared {
    pub(super) differ: Differ,
    /// Without links.
    pub(super) source: PathBuf,
    /// The folder inside.
    pub(super) inside: String,
    /// Entries that were left out.
    refused: u64,
    /// What is compared lies there.
    _scratch: Scratch,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &DiffArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    if is_mounted(ui, &target) {
        return Ok(Exit::Done);
    }
    let compared = compare(&target).await?;
    show(ui, &target, &compared, args.stat).await?;
    Ok(compared.exit())
}

impl Compared {
    /// What was left out may be what counts.
    pub(super) fn exit(&self) -> Exit {
        if self.differ.left().is_empty() { Exit::Done } else { Exit::Failed }
    }
}

/// Whether it works in a folder of the host itself, which is then said.
pub(super) fn is_mounted(ui: &Ui, target: &Target) -> bool {
    let mounted = target.machine.fields.0.get("workspace.mount");
    if let Some(path) = mounted {
        ui.say(&format!("{} works in {path} itself: what it changed is there", target.sandbox));
    }
    mounted.is_some()
}

/// Brings the files of a sandbox out and compares them.
pub(super) async fn compare(target: &Target) -> Result<Compared, CliError> {
    let name = &target.sandbox;
    let mut copied = copied(target).await?;
    // What was asked about is what is read and written.
    copied.repository = canonical(&copied.repository);
    alone(target, &copied.repository, &copied.inside)?;
    let scratch = Scratch::new().map_err(|error| failed(error, "making a temporary folder"))?;
    let work = scratch.0.join("work");
    let comparing = async {
        let place = Place { folder: scratch.0.clone(), name: Some("work".into()), owners: false };
        let out = unpack(target, &copied.inside, place).await?;
        let has = small(target, COMMITS_SH, &copied.inside, ANSWER).await.unwrap_or_default();
        let plain = work.clone();
        let stripped = tokio::task::spawn_blocking(move || strip(&plain));
        let stripped = stripped.await.map_err(|error| failed(error, "reading the files"))?;
        stripped.map_err(|error| failed(error, "taking the guest's `.git` away"))?;
        let (source, has, writable) = (&copied.repository, commits(&has), target.writable()?);
        let differ = Differ::new(&scratch.0, source, &work, &has, &writable).await;
        let differ = differ.map_err(|error| {
            let what = format!("comparing {name} with {}", copied.repository.display());
            CliError::new(Kind::Failed, error.context(what)).hint(format!(
                "`bottle cp {name}:{} DEST` brings the files as they are",
                copied.inside
            ))
        })?;
        Ok::<_, CliError>((differ, out.refusals))
    };
    let (differ, refused) = tokio::select! {
        compared = comparing => compared?,
        stopped = tokio::signal::ctrl_c() => return Err(match stopped {
            Ok(()) => CliError::interrupted(),
            Err(error) => failed(error, "listening for Ctrl-C"),
        }),
    };
    let Copied { inside, repository: source } = copied;
    Ok(Compared { differ, source, inside, refused, _scratch: scratch })
}

/// That no sandbox can write where git is to read or write: it looks at a file, opens it later, and would follow
/// what a guest has put in its place between the two.
pub(super) fn alone(target: &Target, source: &Path, inside: &str) -> Result<(), CliError> {
    let writable = target.writable()?;
    let Some((folder, whose)) = writable.near(source) else { return Ok(()) };
    let (at, shown) = (source.display(), folder.display());
    let what = match (source.starts_with(folder), folder.starts_with(source)) {
        (true, true) => format!("a sandbox can write {at}"),
        (true, false) => format!("{at} lies in {shown}, which a sandbox can write"),
        (false, true) => format!("{at} contains {shown}, which a sandbox can write"),
        (false, false) => format!("{at} has files of {shown}, which a sandbox can write"),
    };
    let what = format!("{what}: {whose}");
    let hint = format!(
        "nothing was compared or changed; `bottle cp {}:{inside} DEST` brings the files into another folder",
        target.sandbox
    );
    Err(CliError::failed(harmless_line(&what)).hint(hint))
}

/// Shows what differs, and how much was left out.
pub(super) async fn show(
    ui: &Ui,
    target: &Target,
    compared: &Compared,
    stat: bool,
) -> Result<(), CliError> {
    tell(ui, target, &compared.source, &compared.differ, stat).await?;
    for left in compared.differ.left() {
        ui.warn(&harmless_line(&format!("{}: {}", left.path, left.because)));
    }
    if compared.refused > 0 {
        let what = plural(
            usize::try_from(compared.refused).unwrap_or(usize::MAX),
            "entry of its workspace is not compared",
            "entries of its workspace are not compared",
        );
        ui.warn(&format!("{what}: `bottle cp` says why"));
    }
    Ok(())
}

async fn tell(
    ui: &Ui,
    target: &Target,
    source: &Path,
    differ: &Differ,
    stat: bool,
) -> Result<(), CliError> {
    let comparing = |error: anyhow::Error| {
        CliError::new(Kind::Failed, error.context("comparing"))
            .hint("`--stat` says how much of which file differs")
    };
    if ui.json() {
        let files = differ.files().await.map_err(comparing)?.into_iter().map(|file| File {
            path: file.path,
            status: match file.status {
                'A' => "added",
                'D' => "removed",
                'T' => "of another kind",
                _ => "changed",
            },
            added: file.lines.map(|(added, _)| added),
            removed: file.lines.map(|(_, removed)| removed),
        });
        let document = Document {
            version: crate::plan::document::VERSION,
            sandbox: target.sandbox.to_string(),
            source: source.display().to_string(),
            base: differ.commit().map(str::to_owned),
            files: files.collect(),
            not_compared: differ
                .left()
                .iter()
                .map(|left| NotCompared { path: left.path.clone(), because: left.because })
                .collect(),
        };
        return Ok(ui.document(&document)?);
    }
    let out = match stat {
        true => differ.stat(ui.width()).await.map_err(comparing)?,
        false => differ.patch().await.map_err(comparing)?,
    };
    let against = match differ.commit() {
        Some(commit) => format!("{} at {}", source.display(), commit.get(..10).unwrap_or(commit)),
        None => source.display().to_string(),
    };
    if out.is_empty() {
        let of = if differ.left().is_empty() { "" } else { " in what was compared" };
        let said = format!("{} has no changes{of} against {against}", target.sandbox);
        ui.say(&harmless_line(&said));
        return Ok(());
    }
    ui.say(&harmless_line(&format!("{} against {against}", target.sandbox)));
    if io::stdout().is_terminal() {
        return Ok(ui.data(&harmless(&String::from_utf8_lossy(&out)))?);
    }
    // For another program, which may apply it: as it is.
    match io::stdout().lock().write_all(&out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Takes every `.git` away: what stands in it is the guest's, and nobody's to read here.
fn strip(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name().eq_ignore_ascii_case(".git") {
            match kind.is_dir() {
                true => std::fs::remove_dir_all(&path)?,
                false => std::fs::remove_file(&path)?,
            }
        } else if kind.is_dir() {
            strip(&path)?;
        }
    }
    Ok(())
}
