//! Asks a command or a file for a token.
#![expect(clippy::disallowed_methods, reason = "reads files and the environment, runs commands")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{GRAPHIC, Trouble};
use crate::manifest;
use crate::model::policy::{TokenFrom, TokenSource};
use crate::model::text::harmless_line;
use crate::model::{Desired, Observed};
use crate::plan;

/// Where a program is looked for that is named without a folder. The operator's own `PATH` says nothing here:
/// a pass may be made by a service that has another one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the environment a command gets, beside [`PATH`] and a language.
const PASSED_ON: [&str; 4] = ["HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR"];

/// So long a command may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A command that has not ended in time is not asked again so soon: every pass would wait for it.
const PAUSE: Duration = Duration::from_secs(300);

/// No token is longer.
const LARGEST: usize = 16 << 10;

/// Commands that did not end in time, and when.
#[derive(Default)]
pub struct Hung(Mutex<BTreeMap<TokenSource, Instant>>);

impl Hung {
    fn is(&self, source: &TokenSource) -> bool {
        let hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hung.get(source).is_some_and(|at| at.elapsed() < PAUSE)
    }

    fn note(&self, source: &TokenSource) {
        let mut hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hung.insert(source.clone(), Instant::now());
    }
}

/// What is to be read or run: the path that was judged, which is the one that is used.
pub(super) struct Judged {
    path: PathBuf,
    /// The path as it was found: some programs are what they are called.
    called: PathBuf,
}

/// Looks who else can change what the token comes from.
pub(super) fn judged(
    from: &TokenFrom,
    desired: &Desired,
    observed: &Observed,
) -> Result<Judged, Trouble> {
    let trusted = |path: &Path| {
        let judged = manifest::operators_file("token_from", path);
        let source = judged.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::new(
                format!("there is no `{}`", harmless_line(&path.display().to_string())),
                "make it, or name another one",
            ),
            _ => Trouble::new(error.to_string(), "what gives a token is yours alone"),
        })?;
        let writer =
            plan::sources::writer_of(&source, desired, &observed.accepted, &observed.elsewhere);
        match writer {
            None => Ok(source.path),
            Some(writer) => Err(Trouble::new(
                format!("`{}` {writer}", harmless_line(&path.display().to_string())),
                "move it out of there",
            )),
        }
    };
    match &from.source {
        TokenSource::File(path) => Ok(Judged { path: trusted(path)?, called: path.clone() }),
        TokenSource::Command(argv) => {
            let name = argv.first().map_or("", String::as_str);
            let called = program(name).ok_or_else(|| {
                let hint =
                    format!("install it, or write its whole path; it is looked for in {PATH}");
                Trouble::new(format!("there is no program `{}`", harmless_line(name)), hint)
            })?;
            for word in argv.iter().skip(1).filter(|word| word.contains('/')) {
                let file = from.tree.join(word);
                if file.is_file() {
                    trusted(&file)?;
                }
            }
            Ok(Judged { path: trusted(&called)?, called })
        }
    }
}

/// Where the program of this name is.
fn program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let runs = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    PATH.split(':').map(|folder| Path::new(folder).join(name)).find(runs)
}

/// Has a token from where it was judged.
pub(super) async fn had(
    from: &TokenFrom,
    judged: Judged,
    hung: &Hung,
) -> Result<Zeroizing<String>, Trouble> {
    let bytes = match &from.source {
        TokenSource::File(path) => {
            let read = tokio::task::spawn_blocking(move || read(&judged.path)).await;
            let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
            read.map_err(|error| {
                let shown = harmless_line(&path.display().to_string());
                Trouble::new(
                    format!("reading `{shown}`: {error}"),
                    "make it a file that you can read",
                )
            })?
        }
        TokenSource::Command(argv) => {
            let shown = harmless_line(argv.first().map_or("", String::as_str));
            if hung.is(&from.source) {
                let what = format!("`{shown}` has not ended in {} s", DEADLINE.as_secs());
                let hint = format!(
                    "run it by hand, in {}; it is asked again within {} minutes, or when bottle is \
                     started anew",
                    from.tree.display(),
                    PAUSE.as_secs() / 60
                );
                return Err(Trouble::new(what, hint));
            }
            let ran = run(argv, &from.tree, &judged, DEADLINE).await;
            ran.map_err(|failure| {
                let error = match failure {
                    Failure::Hangs => {
                        hung.note(&from.source);
                        format!("has not ended in {} s", DEADLINE.as_secs())
                    }
                    Failure::Other(what) => what,
                };
                let hint = format!(
                    "run it by hand, in {}; what it says on its standard error is not shown here, because \
                     it may be the token",
                    from.tree.display()
                );
                Trouble::new(format!("`{shown}` {error}"), hint)
            })?
        }
    };
    let nothing = || Trouble::new("it is empty", "it has to give the token and nothing else");
    if bytes.len() > LARGEST {
        let what = format!("it is longer than {LARGEST} bytes");
        return Err(Trouble::new(what, "it has to give the token and nothing else"));
    }
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| Trouble::new("it is not UTF-8", GRAPHIC))?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() { Err(nothing()) } else { Ok(Zeroizing::new(token.to_owned())) }
}

/// Reads a file that was judged: no link that came since is followed, and nothing is waited for.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs a command and returns what it wrote. What it has started goes with it.
async fn run(
    argv: &[String],
    folder: &Path,
    judged: &Judged,
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut command = tokio::process::Command::new(&judged.path);
    command
        .arg0(&judged.called)
        .args(argv.iter().skip(1))
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let start = command.spawn();
    let mut child = start.map_err(|error| Failure::Other(format!("cannot be started: {error}")))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let wait = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(LARGEST as u64 + 1);
            let read = stdout.read_to_end(&mut bytes).await;
            read.map_err(|error| Failure::Other(error.to_string()))?;
        }
        if bytes.len() > LARGEST {
            return Ok(bytes);
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(bytes),
            Ok(status) => Err(Failure::Other(format!("ended with {status}"))),
            Err(error) => Err(Failure::Other(format!("cannot be waited for: {error}"))),
        }
    };
    let waited = tokio::time::timeout(deadline, wait).await;
    drop(group);
    waited.unwrap_or(Err(Failure::Hangs))
}

/// Why a command gave nothing.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// It has not ended in time.
    Hangs,
    /// As the end of a sentence.
    Other(String),
}

/// The process group of a command: what is left of it is killed.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests;
