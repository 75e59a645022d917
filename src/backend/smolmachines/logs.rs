//! The main process's output, and hints that something moved.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::command;
use super::guest::FILE;
use super::{Smolmachines, exec, observe, parse, sidecar};
use crate::backend::{BackendError, ExecSpec, ExecUser, Hint, LogOptions, Scope};
use crate::model::Instance;

/// How often the listing is compared with the one before. The program tells nothing by itself.
const PERIOD: Duration = Duration::from_secs(15);

/// What is kept of what the program says when it fails.
const WORDS: u64 = 64 * 1024;

pub(super) async fn logs(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    options: LogOptions,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<(), BackendError> {
    let (now, set) = observe::own(backend, scope, instance).await?;
    if options.timed() {
        return Err(BackendError::Unsupported(format!(
            "smolvm keeps no times of what {} writes: read it without --since and --timestamps",
            instance.name
        )));
    }
    if !set.kept_log {
        return file(backend, scope, &now, options, out).await;
    }
    if options.tail == Some(0) && !options.follow {
        return Ok(());
    }
    let tail = options.tail.map(|lines| lines.to_string());
    let mut args = vec!["machine", "logs", "--name", &now.name];
    args.extend(tail.iter().flat_map(|tail| ["--tail", tail.as_str()]));
    args.extend(options.follow.then_some("--follow"));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let program = backend.settings.find().map_err(command::unreachable)?;
    let mut command = command::command(&backend.settings, &program, &args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command::spawn(&mut command, &program)?;
    let failed = |e: std::io::Error| BackendError::failed("reading the log", e);
    let writing = |e: std::io::Error| BackendError::failed("writing the log", e);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let copying = async {
        let Some(mut stdout) = stdout else { return Ok(()) };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = stdout.read(&mut buffer).await.map_err(failed)?;
            if count == 0 {
                return out.flush().await.map_err(writing);
            }
            out.write_all(&buffer[..count]).await.map_err(writing)?;
            if options.follow {
                out.flush().await.map_err(writing)?;
            }
        }
    };
    let listening = async {
        let mut words = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr;
            let mut kept = (&mut stderr).take(WORDS);
            drop(kept.read_to_end(&mut words).await);
            drop(tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await);
        }
        words
    };
    let (copied, words) = tokio::join!(copying, listening);
    copied?;
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    observe::own(backend, scope, &now).await?;
    let why = anyhow::anyhow!("smolvm ended with {status}: {}", parse::words(&words));
    Err(BackendError::failed(format!("reading the log of {}", now.name), why))
}

/// The log of a machine whose output the program does not keep: a file in the guest.
async fn file(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    options: LogOptions,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<(), BackendError> {
    if options.follow {
        return Err(BackendError::Unsupported(format!(
            "the log of {} cannot be followed: smolvm keeps the output of machines with an image \
             only, from 1.32 on; read it without --follow",
            instance.name
        )));
    }
    let lines = options.tail.map_or_else(|| "+1".to_owned(), |lines| lines.to_string());
    let spec =
        ExecSpec { user: ExecUser::Root, ..ExecSpec::new(["tail", "-n", lines.as_str(), FILE]) };
    let ended = exec::exec(backend, scope, instance, &spec, Bytes::new()).await?;
    let writing = |e: std::io::Error| BackendError::failed("writing the log", e);
    out.write_all(&ended.stdout).await.map_err(writing)?;
    out.flush().await.map_err(writing)
}

/// Compares listings, and says which machines differ.
pub(super) async fn events(
    backend: &Smolmachines,
    scope: &Scope,
) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
    let before = snapshot(backend, scope).await?;
    let state = Watch { backend: backend.clone(), scope: scope.clone(), before, over: false };
    Ok(futures_util::stream::unfold(state, next).boxed())
}

struct Watch {
    backend: Smolmachines,
    scope: Scope,
    before: BTreeMap<String, String>,
    over: bool,
}

async fn next(mut watch: Watch) -> Option<(Result<Hint, BackendError>, Watch)> {
    if watch.over {
        return None;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        match snapshot(&watch.backend, &watch.scope).await {
            Ok(now) => {
                let changed = watch.before.keys().chain(now.keys());
                let changed =
                    changed.into_iter().find(|name| watch.before.get(*name) != now.get(*name));
                if let Some(name) = changed.cloned() {
                    watch.before = now;
                    return Some((Ok(Hint { what: name }), watch));
                }
            }
            Err(error) => {
                watch.over = true;
                return Some((Err(error), watch));
            }
        }
    }
}

async fn snapshot(
    backend: &Smolmachines,
    scope: &Scope,
) -> Result<BTreeMap<String, String>, BackendError> {
    let rows = observe::rows(backend).await?;
    let ours = rows.iter().filter(|row| observe::instance(scope, row).is_some());
    let machine = |row: &parse::Row| {
        (format!("machine {}", row.name), format!("{} {:?}", row.state, row.pid))
    };
    Ok(ours.map(machine).chain(sidecar::snapshot(scope)).collect())
}
