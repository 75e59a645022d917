//! `bottle cp`: files out of a sandbox, and into one.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::args::{CpArgs, Global};
use super::error::{CliError, Exit, Kind};
use super::target::{Target, explain};
use super::ui::Ui;
use crate::apply::{self, Owner};
use crate::backend::{ExecSpec, ExecUser};
use crate::model::text::harmless_line;
use crate::model::{SandboxId, Writable};
use crate::work::{self, Extracted, Pieces, Place, way};

/// How many pieces of a tar wait for the disk.
const WAITING: usize = 16;

/// How many of the refused are shown; `-o json` has more.
const SHOWN: usize = 20;

/// How long the guest's shell may take for a small question.
const ANSWER: Duration = Duration::from_secs(10);

/// Characters of a path that are shown.
const LONGEST_SHOWN: usize = 120;

/// Both ends of a copy.
enum Copy {
    Out { sandbox: String, path: String, dest: String },
    In { src: String, sandbox: String, path: String },
}

/// What was copied, for `-o json`.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    entries: u64,
    bytes: u64,
    refused: Vec<Refusal<'a>>,
    refusals: u64,
}

#[derive(Serialize)]
struct Refusal<'a> {
    path: &'a str,
    why: &'a str,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &CpArgs) -> Result<Exit, CliError> {
    match ends(&args.src, &args.dest)? {
        Copy::Out { sandbox, path, dest } => out(ui, global, args, &sandbox, &path, &dest).await,
        Copy::In { src, sandbox, path } => into(ui, global, args, &src, &sandbox, &path).await,
    }
}

/// Which side is in a sandbox: the one that begins with a name and a colon.
fn ends(src: &str, dest: &str) -> Result<Copy, CliError> {
    match (inside(src), inside(dest)) {
        (Some((sandbox, path)), None) => {
            Ok(Copy::Out { sandbox, path: guest_path(&path)?, dest: dest.to_owned() })
        }
        (None, Some((sandbox, path))) => {
            Ok(Copy::In { src: src.to_owned(), sandbox, path: guest_path(&path)? })
        }
        (Some(_), Some(_)) => Err(CliError::failed("both sides are in a sandbox")
            .hint("copy to this machine first, and from there: `bottle cp ada:/workspace/x .`")),
        (None, None) => Err(CliError::failed("neither side is in a sandbox")
            .hint("write one as NAME:PATH, like ada:/workspace/x")),
    }
}

fn inside(side: &str) -> Option<(String, String)> {
    let (name, path) = side.split_once(':')?;
    SandboxId::new(name).ok()?;
    Some((name.to_owned(), path.to_owned()))
}

/// A path in a sandbox, without `..`: what a link makes of that is the guest's affair.
fn guest_path(path: &str) -> Result<String, CliError> {
    if !path.starts_with('/') {
        return Err(CliError::failed(format!("`{path}` is no absolute path"))
            .hint("name the file from the root of the sandbox, like /workspace/x"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(CliError::failed(format!("`{path}` has `..` in it: write the path without")));
    }
    Ok(path.to_owned())
}

/// The path without `.` and double slashes, and whether only the content of a folder is meant.
fn plain(path: &str) -> (String, bool) {
    let contents = path.ends_with("/.");
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (format!("/{}", parts.join("/")), contents)
}

async fn out(
    ui: &Ui,
    global: &Global,
    args: &CpArgs,
    sandbox: &str,
    path: &str,
    dest: &str,
) -> Result<Exit, CliError> {
    let (path, contents) = plain(path);
    let base = Path::new(&path).file_name().ok_or_else(|| {
        CliError::failed("the whole root of a sandbox is not copied")
            .hint("name a folder or a file in it, like /workspace")
    })?;
    if dest == "-" {
        if io::stdout().is_terminal() {
            return Err(CliError::failed("an archive is nothing for a terminal")
                .hint("send it to a file or a program: `bottle cp ada:/workspace - | tar -t`"));
        }
        let target = Target::find(global, sandbox).await?;
        return raw(&target, &path).await;
    }
    let target = Target::find(global, sandbox).await?;
    let place = Place::at(Path::new(dest), base, contents, args.archive, &target.writable()?);
    let place = place.map_err(|error| CliError::new(Kind::Failed, error))?;
    let (send, pieces) = mpsc::channel(WAITING);
    let unpacking =
        tokio::task::spawn_blocking(move || work::extract(Pieces::from(pieces), &place));
    let sent = target.backend.stream_out(&target.scope, &target.machine, &path, send).await;
    let unpacked =
        unpacking.await.map_err(|error| CliError::new(Kind::Failed, anyhow::Error::from(error)))?;
    let done = match (sent, unpacked) {
        // Of an archive that it broke off the sandbox knows more than whoever unpacks it.
        (Err(error), Err(broken)) if !of_the_system(&broken) => return Err(explain(error)),
        (_, Err(error)) => return Err(CliError::new(Kind::Failed, error)),
        (Err(error), Ok(_)) => return Err(explain(error)),
        (Ok(()), Ok(done)) => done,
    };
    if done.entries + done.refusals == 0 {
        return Err(CliError::failed(format!("{sandbox}:{path} is nothing that can be copied")));
    }
    tell(ui, &done, &format!("{sandbox}:{path}"), dest)?;
    Ok(if done.refusals > 0 { Exit::Failed } else { Exit::Done })
}

/// The archive as it is, on stdout.
async fn raw(target: &Target, path: &str) -> Result<Exit, CliError> {
    let (send, mut pieces) = mpsc::channel::<Bytes>(WAITING);
    let writing = async move {
        let mut stdout = tokio::io::stdout();
        while let Some(piece) = pieces.recv().await {
            stdout.write_all(&piece).await?;
        }
        stdout.flush().await
    };
    let sending = target.backend.stream_out(&target.scope, &target.machine, path, send);
    let (sent, written) = tokio::join!(sending, writing);
    match written {
        // Whoever read it has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
        Err(error) => {
            let error = anyhow::Error::from(error).context("writing to stdout");
            return Err(CliError::new(Kind::Failed, error));
        }
        Ok(()) => {}
    }
    sent.map_err(explain)?;
    Ok(Exit::Done)
}

/// Says what was unpacked, and what was not.
pub(super) fn tell(ui: &Ui, done: &Extracted, from: &str, to: &str) -> Result<(), CliError> {
    if ui.json() {
        let refused = done.refused.iter();
        let document = Document {
            version: crate::plan::document::VERSION,
            entries: done.entries,
            bytes: done.bytes,
            refused: refused.map(|r| Refusal { path: &r.path, why: &r.why }).collect(),
            refusals: done.refusals,
        };
        return ui.document(&document).map_err(|error| CliError::new(Kind::Failed, error));
    }
    for refused in done.refused.iter().take(SHOWN) {
        let line = format!("left out: {}: {}", short(&refused.path), refused.why);
        ui.warn(&harmless_line(&line));
    }
    let shown = done.refused.len().min(SHOWN) as u64;
    if done.refusals > shown {
        let more = done.refusals - shown;
        ui.warn(&format!("left out: … and {more} more (`-o json` lists up to a thousand)"));
    }
    let entries = if done.entries == 1 { "1 entry" } else { &format!("{} entries", done.entries) };
    ui.say(&harmless_line(&format!("{from} → {to}: {entries}, {} bytes", done.bytes)));
    Ok(())
}

async fn into(
    ui: &Ui,
    global: &Global,
    args: &CpArgs,
    src: &str,
    sandbox: &str,
    path: &str,
) -> Result<Exit, CliError> {
    let failed = |error: anyhow::Error| CliError::new(Kind::Failed, error);
    let target = Target::find(global, sandbox).await?;
    let local = match src {
        "-" => None,
        src => Some(Local::of(src, &target.writable()?)?),
    };
    let (plain, _) = plain(path);
    let there = is_folder(&target, &plain).await?;
    let named = match &local {
        _ if there => match local.as_ref().and_then(|local| local.base.as_deref()) {
            Some(base) => format!("{}/{base}", plain.trim_end_matches('/')),
            None => plain.clone(),
        },
        None => {
            return Err(CliError::failed(format!("there is no folder {plain} in {sandbox}"))
                .hint("an archive goes into a folder that is there"));
        }
        Some(_) if path.ends_with('/') => {
            return Err(CliError::failed(format!("there is no folder {plain} in {sandbox}"))
                .hint("make it first, or leave out the `/` at the end"));
        }
        Some(_) => {
            let parent = plain.rsplit_once('/').map_or("", |(parent, _)| parent);
            if !parent.is_empty() && !is_folder(&target, parent).await? {
                return Err(CliError::failed(format!("there is no folder {parent} in {sandbox}"))
                    .hint("make it first, with `bottle exec`"));
            }
            plain.clone()
        }
    };
    let identity = target.backend.identity(&target.scope, &target.machine).await;
    let identity = identity.map_err(explain)?;
    let owner = (!args.archive).then_some(Owner { uid: identity.uid, gid: identity.gid });
    let copying = match local {
        Some(local) => apply::copy(&local.path, &named, owner),
        None => apply::forward(io::stdin(), &named, owner),
    };
    let sent = target.backend.stream_in(&target.scope, &target.machine, copying.tar).await;
    let ended = copying.ended.await.map_err(|error| failed(error.into()))?;
    // What broke the tar off comes before what that did to whoever unpacked it.
    let left_out = match (ended, sent) {
        (Err(error), Ok(())) => return Err(failed(error)),
        (Err(error), Err(_)) if !was_stopped(&error) => return Err(failed(error)),
        (_, Err(error)) => return Err(explain(error)),
        (Ok(left_out), Ok(())) => left_out,
    };
    // An engine puts what is to lie on a tmpfs of the sandbox where nobody inside sees it.
    if !is_there(&target, &named).await? {
        return Err(CliError::failed(format!("{named} did not arrive in {sandbox}")).hint(
            "it lies on a file system that cannot be reached from here: choose another place",
        ));
    }
    ui.say(&harmless_line(&format!("{src} → {sandbox}:{named}")));
    match left_out.listed() {
        Some(words) => {
            ui.warn(&format!("left out: {words}"));
            Ok(Exit::Failed)
        }
        None => Ok(Exit::Done),
    }
}

/// Whether this is an error of this machine's own, a full disk say, and not one of the archive.
fn of_the_system(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.raw_os_error().is_some()))
}

/// A path for a person: a guest may make it very long.
pub(super) fn short(path: &str) -> String {
    let count = path.chars().count();
    if count <= LONGEST_SHOWN {
        return path.to_owned();
    }
    let tail: String = path.chars().skip(count - LONGEST_SHOWN).collect();
    format!("…{tail}")
}

/// Whether the maker of a tar only found that nobody takes it any more.
fn was_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Something on this machine.
struct Local {
    path: PathBuf,
    /// What it is called in a folder; `None`: only a folder's content is meant.
    base: Option<String>,
}

impl Local {
    /// What `src` is. No link on the way is one that a sandbox can have made in one of these folders.
    fn of(src: &str, writable: &Writable) -> Result<Self, CliError> {
        let failed = |error: io::Error| {
            CliError::new(
                Kind::Failed,
                anyhow::Error::from(error).context(format!("reading {src}")),
            )
        };
        let found = Path::new(src).symlink_metadata().map_err(failed)?;
        // Whoever wrote it may be a guest, and where it leads is for the operator to say.
        if found.is_symlink() {
            return Err(CliError::failed(format!("{src} is a link"))
                .hint("name the file that it leads to, or copy the folder that it lies in"));
        }
        // What is opened later is opened by this path, without links.
        let path = way::resolve(Path::new(src), writable)
            .map_err(|error| CliError::new(Kind::Failed, error))?;
        let found = path.symlink_metadata().map_err(failed)?;
        if !found.is_file() && !found.is_dir() {
            return Err(CliError::failed(format!("{src} is neither a file nor a folder")));
        }
        let contents = src == "." || src.ends_with("/.");
        let base = Path::new(src).file_name().or_else(|| path.file_name());
        let base = match base.map(|base| base.to_str().map(str::to_owned)) {
            _ if contents => None,
            Some(Some(base)) => Some(base),
            _ => {
                return Err(CliError::failed(format!("{src} has no name that is UTF-8"))
                    .hint("copy the content of its folder: FOLDER/."));
            }
        };
        Ok(Self { path, base })
    }
}

/// Whether there is such a folder in the sandbox. Only where things go inside depends on it.
async fn is_folder(target: &Target, path: &str) -> Result<bool, CliError> {
    holds(target, r#"[ -d "$1" ]"#, path).await
}

/// Whether there is something of this name in the sandbox.
async fn is_there(target: &Target, path: &str) -> Result<bool, CliError> {
    holds(target, r#"[ -e "$1" ] || [ -L "$1" ]"#, path).await
}

async fn holds(target: &Target, test: &str, path: &str) -> Result<bool, CliError> {
    // Where the agent works may be closed to root, which inside has no right over others' folders.
    let workdir = Some("/".to_owned());
    let argv = ["sh", "-c", test, "sh", path];
    let spec = ExecSpec { user: ExecUser::Root, workdir, ..ExecSpec::new(argv) };
    let asked = target.backend.exec(&target.scope, &target.machine, &spec, Bytes::new());
    let asked = tokio::time::timeout(ANSWER, asked).await.map_err(|_| {
        let seconds = ANSWER.as_secs();
        CliError::failed(format!("the shell of {} gave no answer in {seconds} s", target.sandbox))
    })?;
    Ok(asked.map_err(explain)?.code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_side_is_in_a_sandbox() {
        let sides = |src: &str, dest: &str| match ends(src, dest) {
            Ok(Copy::Out { sandbox, path, dest }) => format!("out {sandbox} {path} {dest}"),
            Ok(Copy::In { src, sandbox, path }) => format!("in {src} {sandbox} {path}"),
            Err(error) => error.chain().join(": "),
        };
        assert_eq!(sides("ada:/workspace", "."), "out ada /workspace .");
        assert_eq!(sides("./ada:x", "ada:/tmp/"), "in ./ada:x ada /tmp/");
        assert_eq!(sides("-", "ada:/tmp"), "in - ada /tmp");
        assert_eq!(sides("ada:/a", "bob:/b"), "both sides are in a sandbox");
        assert_eq!(sides("a", "/b:c"), "neither side is in a sandbox");
        assert!(sides("ada:x", ".").contains("absolute"));
        assert!(sides("ada:/x/../y", ".").contains("`..`"));
    }

    #[test]
    fn a_path_is_read_as_other_tools_read_it() {
        assert_eq!(plain("/a//b/./c/"), ("/a/b/c".to_owned(), false));
        assert_eq!(plain("/a/."), ("/a".to_owned(), true));
        assert_eq!(plain("/"), ("/".to_owned(), false));
    }
}
