//! Running commands in a machine.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::engine::Engine;
use super::error;
use crate::backend::{BackendError, ExecOutput, ExecSpec, ExecUser};
use crate::model::Instance;

/// What is kept of each stream.
const KEPT: usize = 1 << 20;

/// How the engine begins its own words where the command's output should be.
pub(super) const RUNTIME_ERROR: &str = "OCI runtime exec failed";

/// The longest pause between two questions after an exit code.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn exec(
    engine: &Engine,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: Bytes,
) -> Result<ExecOutput, BackendError> {
    let with_stdin = !stdin.is_empty();
    let id = create(engine, instance, spec, with_stdin, false).await?;
    let (mut output, mut input) = start(engine, instance, &id, false).await?;
    let writing = async {
        if with_stdin {
            // A command that ends without reading its input is no failure of ours.
            drop(input.write_all(&stdin).await);
        }
        drop(input.shutdown().await);
    };
    let reading = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(chunk) = output.next().await {
            match chunk.map_err(|e| broken(engine, instance, e))? {
                LogOutput::StdErr { message } => keep(&mut stderr, &message),
                other => keep(&mut stdout, other.as_ref()),
            }
        }
        Ok((stdout, stderr))
    };
    // The output decides: a command may end long before all of its input was written.
    tokio::pin!(writing);
    tokio::pin!(reading);
    let read: Result<_, BackendError> = tokio::select! {
        read = &mut reading => read,
        () = &mut writing => reading.await,
    };
    let (stdout, stderr) = read?;
    let code = exit_code(engine, instance, &id).await?;
    Ok(as_said(code, stdout, stderr))
}

fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..room.min(more.len())]);
}

/// A command that could not be run: engines put their words on its stdout, and differ in the code.
fn as_said(code: i32, stdout: Vec<u8>, mut stderr: Vec<u8>) -> ExecOutput {
    if matches!(code, 126 | 127) && stdout.starts_with(RUNTIME_ERROR.as_bytes()) {
        let text = String::from_utf8_lossy(&stdout).trim().to_owned();
        stderr.extend_from_slice(text.as_bytes());
        return ExecOutput { code: code_of_refusal(&text), stdout: Vec::new(), stderr };
    }
    ExecOutput { code, stdout, stderr }
}

/// 127 where there is no such program, 126 where it cannot be run.
pub(super) fn code_of_refusal(text: &str) -> i32 {
    let missing = text.contains("executable file not found")
        || (text.contains("no such file or directory") && !text.contains("chdir"));
    if missing { 127 } else { 126 }
}

pub(super) async fn create(
    engine: &Engine,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: bool,
    tty: bool,
) -> Result<String, BackendError> {
    let options = CreateExecOptions {
        attach_stdin: Some(stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        // Ctrl-P, Ctrl-Q would leave the command running unseen.
        detach_keys: tty.then(|| "ctrl-@,ctrl-@,ctrl-@".to_owned()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(spec.argv.clone()),
        user: match spec.user {
            ExecUser::Sandbox => None,
            ExecUser::Root => Some("0:0".to_owned()),
        },
        working_dir: spec.workdir.clone(),
        privileged: None,
    };
    let made = engine.client.create_exec(&instance.id.0, options).await;
    made.map(|made| made.id).map_err(|e| not_running(engine, instance, e))
}

type Streams = (
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<LogOutput, Error>> + Send>>,
    std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
);

pub(super) async fn start(
    engine: &Engine,
    instance: &Instance,
    id: &str,
    tty: bool,
) -> Result<Streams, BackendError> {
    let options = StartExecOptions { detach: false, tty, output_capacity: Some(64 * 1024) };
    match engine.client.start_exec(id, Some(options)).await {
        Ok(StartExecResults::Attached { output, input }) => Ok((output, input)),
        Ok(StartExecResults::Detached) => Err(BackendError::failed(
            running(instance),
            anyhow::anyhow!("the engine did not attach to it"),
        )),
        Err(e) => Err(not_running(engine, instance, e)),
    }
}

fn running(instance: &Instance) -> String {
    format!("running a command in {}", instance.name)
}

fn broken(engine: &Engine, instance: &Instance, e: Error) -> BackendError {
    engine.failed(running(instance), e)
}

/// A machine that is not there or not up, told apart from everything else that may go wrong.
pub(super) fn not_running(engine: &Engine, instance: &Instance, e: Error) -> BackendError {
    let state = match error::answer(&e) {
        Some((404, _)) => "gone",
        Some((409, text)) if text.contains("paused") => "paused",
        Some((409, text)) if text.contains("not running") => "stopped",
        Some((409, text)) if text.contains("restarting") => "restarting",
        _ => return broken(engine, instance, e),
    };
    BackendError::NotRunning { name: instance.name.clone(), state: state.to_owned() }
}

/// The exit code. The streams may end before the command does: then it is waited for.
pub(super) async fn exit_code(
    engine: &Engine,
    instance: &Instance,
    id: &str,
) -> Result<i32, BackendError> {
    let mut pause = Duration::from_millis(2);
    loop {
        let found = engine.client.inspect_exec(id).await.map_err(|e| {
            // The engine forgets a machine's commands with the machine.
            not_running(engine, instance, e)
        })?;
        if found.running != Some(true)
            && let Some(code) = found.exit_code
        {
            return Ok(i32::try_from(code).unwrap_or(i32::MAX));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_run_has_the_shells_codes() {
        let said = |code, text: &str| as_said(code, text.as_bytes().to_vec(), Vec::new());
        for (text, code) in [
            (
                r#"OCI runtime exec failed: exec: "x": executable file not found in $PATH: unknown"#,
                127,
            ),
            (
                "OCI runtime exec failed: exec: \"/x\": stat /x: no such file or directory: unknown",
                127,
            ),
            ("OCI runtime exec failed: exec: \"/etc\": permission denied: unknown\r\n", 126),
            (
                r#"OCI runtime exec failed: chdir to cwd ("/x") failed: no such file or directory"#,
                126,
            ),
        ] {
            let output = said(126, text);
            assert_eq!((output.code, output.stdout.len()), (code, 0), "{text}");
            assert_eq!(output.stderr, text.trim().as_bytes());
        }
        let own = said(3, "OCI runtime exec failed, said the guest");
        assert_eq!((own.code, own.stderr.len()), (3, 0));
        assert_eq!(said(126, "other").stdout, b"other");
    }

    #[test]
    fn output_is_bounded() {
        let mut kept = vec![0; KEPT - 2];
        keep(&mut kept, b"abc");
        keep(&mut kept, b"d");
        assert_eq!((kept.len(), kept.last()), (KEPT, Some(&b'b')));
    }
}
