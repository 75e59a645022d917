//! The one place that starts `smolvm`: each call has a deadline, a cleared environment, and output
//! that is read to its end and kept up to a bound.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::orphans::Note;
use super::{locked, parse};
use crate::backend::{BackendError, TarSink, TarStream};
use crate::model::BackendKind;

/// What is kept of each stream, where the caller names nothing else.
pub(super) const KEPT: usize = 1 << 20;

/// What a listing of very many machines may take.
pub(super) const LARGEST_LISTING: usize = 64 << 20;

/// What changes who is meant or what may be reached: the caller's shell has no say in it.
const CLEARED: [&str; 3] =
    ["SMOLVM_MACHINE_NAME", "SMOLVM_ALLOW_HOST_LOOPBACK", "SMOLVM_PUBLISH_ADDR"];
const CLEARED_PREFIX: &str = "SMOLVM_EGRESS_";

/// What of the caller's environment the program gets: where things are, and how images are fetched.
/// Nothing else. The process of a machine keeps it for as long as it runs, and what the operator has
/// in the environment are the very credentials that no sandbox is to come near.
const PASSED: [&str; 28] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TERM",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
const PASSED_PREFIXES: [&str; 4] = ["SMOLVM_", "KRUN_", "XDG_", "LC_"];

/// How long the streams may stay open, and silent, after the program has ended: a virtual machine
/// that it left running may have inherited them.
const LINGER: Duration = Duration::from_millis(500);

/// What the environment says about `smolvm`: read once, resolved when a call needs it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `BOTTLE_SMOLVM`: the program.
    pub program: Option<PathBuf>,
    /// `PATH`, where it is looked for otherwise.
    pub path: Option<OsString>,
    /// Where `smolvm` keeps what it downloads and unpacks, where that can be told.
    pub cache: Option<PathBuf>,
    /// The program that sidecars are; none: this one. For tests, whose own program is another.
    pub sidecar_program: Option<PathBuf>,
    /// Further variables for the program: for tests.
    pub env: Vec<(OsString, OsString)>,
}

impl Settings {
    /// Reads the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let data = set("SMOLVM_DATA_DIR").map(|dir| PathBuf::from(dir).join(".cache"));
        let home = || Some(PathBuf::from(set("HOME")?).join(".cache"));
        Self {
            program: set("BOTTLE_SMOLVM").map(PathBuf::from),
            path: set("PATH"),
            cache: data.or_else(|| set("XDG_CACHE_HOME").map(PathBuf::from)).or_else(home),
            sidecar_program: None,
            env: Vec::new(),
        }
    }

    /// The program, if there is one that could be run. Starts nothing.
    pub(super) fn find(&self) -> Result<PathBuf, String> {
        if let Some(named) = &self.program {
            let named_by = format!("BOTTLE_SMOLVM names {}", named.display());
            return match runnable(named) {
                Some(true) => Ok(named.clone()),
                Some(false) => Err(format!("{named_by}, which is not an executable file")),
                None => Err(format!("{named_by}, which does not exist")),
            };
        }
        let mut not_runnable = None;
        for folder in self.path.iter().flat_map(std::env::split_paths) {
            let candidate = folder.join("smolvm");
            match runnable(&candidate) {
                Some(true) => return Ok(candidate),
                Some(false) => not_runnable = not_runnable.or(Some(candidate)),
                None => {}
            }
        }
        Err(match not_runnable {
            Some(found) => format!("{} is not an executable file", found.display()),
            None => "smolvm is not installed: there is none on PATH".to_owned(),
        })
    }
}

/// Whether this is a file that may be executed; `None`: it is not there.
fn runnable(path: &Path) -> Option<bool> {
    let found = std::fs::metadata(path).ok()?;
    Some(found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The program is not to be had, and so nothing of this backend is.
pub(super) fn unreachable(reason: impl Into<String>) -> BackendError {
    BackendError::Unreachable { backend: BackendKind::Smolmachines, reason: reason.into() }
}

/// One call of the program.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables for it alone.
    pub env: Vec<(&'static str, String)>,
    /// Its stdin; empty: none.
    pub stdin: Bytes,
    /// A stream that goes to its stdin after that; taken by the one run.
    pub stream: Option<Arc<Mutex<Option<TarStream>>>>,
    /// How long it may take.
    pub deadline: Duration,
    /// What it is for, as a gerund.
    pub what: String,
    /// How much of its stdout is kept.
    pub keep: usize,
    /// Where its stdout goes instead. Nobody receives any more: it is read no further.
    pub out: Option<TarSink>,
    /// What is noted of it while it lasts, where it changes something.
    pub note: Option<Note>,
}

impl Call {
    pub(super) fn new<S: Into<String>>(
        what: impl Into<String>,
        deadline: Duration,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Bytes::new(),
            stream: None,
            deadline,
            what: what.into(),
            keep: KEPT,
            out: None,
            note: None,
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// stdout was longer than what is kept.
    pub cut: bool,
}

/// A stream, as far as it was read and kept.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    seen: u64,
}

/// The command, with the environment that it is to have.
pub(super) fn command(settings: &Settings, program: &Path, args: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear();
    command.envs(std::env::vars_os().filter(|(name, _)| passes(&name.to_string_lossy())));
    command.envs(settings.env.iter().map(|(name, value)| (name, value)));
    // Whoever gives up on a call ends it.
    command.kill_on_drop(true);
    command
}

fn passes(name: &str) -> bool {
    let cleared = CLEARED.contains(&name) || name.starts_with(CLEARED_PREFIX);
    let passed = PASSED.contains(&name);
    !cleared && (passed || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// Starts it; a program that cannot be started is the whole backend out of reach.
pub(super) fn spawn(command: &mut Command, program: &Path) -> Result<Child, BackendError> {
    command.spawn().map_err(|e| unreachable(format!("{} cannot be run: {e}", program.display())))
}

/// Runs the program to its end.
pub(super) async fn run(settings: &Settings, call: Call) -> Result<Ended, BackendError> {
    let program = settings.find().map_err(unreachable)?;
    let seconds = call.deadline.as_secs();
    let what = call.what.clone();
    let note = call.note.clone();
    let ended = tokio::time::timeout(call.deadline, run_to_end(settings, &program, call)).await;
    if let Some(note) = note {
        note.over();
    }
    ended.unwrap_or_else(|_| {
        Err(BackendError::Deadline { what: format!("{what}, by smolvm,"), seconds })
    })
}

async fn run_to_end(
    settings: &Settings,
    program: &Path,
    call: Call,
) -> Result<Ended, BackendError> {
    let failed = |e: std::io::Error| BackendError::failed(call.what.clone(), e);
    let mut command = command(settings, program, &call.args);
    command.envs(call.env.iter().map(|(name, value)| (name, value)));
    let stream = call.stream.as_ref().and_then(|stream| locked(stream).take());
    let none = call.stdin.is_empty() && stream.is_none();
    command.stdin(if none { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command, program)?;
    if let Some(note) = &call.note {
        note.made_by(child.id());
    }
    let (stdout, stderr) = (Arc::<Mutex<Kept>>::default(), Arc::<Mutex<Kept>>::default());
    let reading = {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = (stdout.clone(), stderr.clone());
        async move {
            tokio::join!(drain(out, &stdout, call.keep, call.out), drain(err, &stderr, KEPT, None));
        }
    };
    let input = child.stdin.take();
    let writing = async move {
        if let Some(mut input) = input {
            // A command that ends without reading its input is no failure of ours.
            drop(input.write_all(&call.stdin).await);
            if let Some(mut stream) = stream {
                // Of a stream that breaks, whoever made it knows why.
                while let Some(Ok(part)) = stream.recv().await {
                    if input.write_all(&part).await.is_err() {
                        break;
                    }
                }
            }
            drop(input.shutdown().await);
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(reading);
    tokio::pin!(writing);
    let mut read = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(failed)?,
            () = &mut reading, if !read => read = true,
            () = &mut writing => {}
        }
    };
    while !read {
        let before = locked(&stdout).seen + locked(&stderr).seen;
        match tokio::time::timeout(LINGER, &mut reading).await {
            Ok(()) => read = true,
            Err(_) if locked(&stdout).seen + locked(&stderr).seen > before => {}
            Err(_) => break,
        }
    }
    let take = |kept: &Mutex<Kept>| {
        let mut kept = locked(kept);
        let cut = kept.seen > kept.bytes.len() as u64;
        (std::mem::take(&mut kept.bytes), cut)
    };
    let (stdout, cut) = take(&stdout);
    let (stderr, _) = take(&stderr);
    match status.code() {
        Some(code) => Ok(Ended { code, stdout, stderr, cut }),
        None => Err(BackendError::failed(
            call.what,
            anyhow::anyhow!(
                "{} was ended by signal {}{}",
                program.display(),
                status.signal().unwrap_or_default(),
                if stderr.is_empty() {
                    String::new()
                } else {
                    format!(": {}", parse::words(&stderr))
                }
            ),
        )),
    }
}

async fn drain(
    stream: Option<impl AsyncRead + Unpin>,
    kept: &Mutex<Kept>,
    keep: usize,
    out: Option<TarSink>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 64 * 1024];
    // A stream that breaks has ended.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if let Some(out) = &out {
            if out.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                return;
            }
            locked(kept).seen += count as u64;
            continue;
        }
        let mut kept = locked(kept);
        kept.seen += count as u64;
        let room = keep.saturating_sub(kept.bytes.len()).min(count);
        kept.bytes.extend_from_slice(&buffer[..room]);
    }
}
