//! Running commands in a machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::InspectContainerOptions;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::engine::Engine;
use super::error;
use super::transport::Pieces;
use crate::backend::{BackendError, ExecOutput, ExecSpec, ExecUser};
use crate::model::Instance;

/// What is kept of each stream.
const KEPT: usize = 1 << 20;

/// How the engine begins its own words where the command's output should be.
pub(super) const RUNTIME_ERROR: &str = "OCI runtime exec failed";

/// The code of what was killed, by itself or with its machine.
const KILLED: i32 = 137;

/// How long after the end of a command an engine may take until it says that its machine has ended: the
/// kernel ends all other processes of a container before the first one is gone.
const ENDING: Duration = Duration::from_millis(500);

/// The longest pause between two questions after an exit code.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Commands that were given up on while they ran, by machine: the engine has no way to end them.
static LEFT: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());

/// So many of them may still be running in one machine before no other is begun there.
const MAX_LEFT: usize = 2;

fn left() -> MutexGuard<'static, BTreeMap<String, Vec<String>>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that counts as given up on unless it is said to have ended.
struct Begun<'a> {
    machine: &'a str,
    id: String,
    ended: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let id = std::mem::take(&mut self.id);
            left().entry(self.machine.to_owned()).or_default().push(id);
        }
    }
}

/// Refuses to begin one more command where earlier ones never end: a guest whose shell sleeps would
/// gather one a try.
async fn none_left(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let Some(ids) = left().remove(&instance.id.0) else { return Ok(()) };
    let mut running = Vec::new();
    for id in ids {
        let found = engine.client.inspect_exec(&id).await;
        if found.is_ok_and(|found| found.running == Some(true)) {
            running.push(id);
        }
    }
    let count = running.len();
    if count > 0 {
        left().entry(instance.id.0.clone()).or_default().extend(running);
    }
    if count < MAX_LEFT {
        return Ok(());
    }
    let why = format!(
        "{count} commands of earlier tries still run in it and do not end: its programs may have \
         been replaced; restart it with `docker restart {}`, or remove it",
        instance.name
    );
    Err(BackendError::failed(running_in(instance), anyhow::Error::msg(why)))
}

pub(super) async fn exec(
    engine: &Engine,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: Bytes,
) -> Result<ExecOutput, BackendError> {
    none_left(engine, instance).await?;
    let with_stdin = !stdin.is_empty();
    let id = create(engine, instance, spec, with_stdin, false).await?;
    let mut begun = Begun { machine: &instance.id.0, id: id.clone(), ended: false };
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
    let ended = ended(engine, instance, &id).await?;
    begun.ended = true;
    must_have_run(engine, instance, ended, &stdout).await?;
    Ok(as_said(ended.code, stdout, stderr))
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
        cmd: Some(spec.loading()),
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
    let (pieces, client) = Pieces::of(&engine.client);
    match client.start_exec(id, Some(options)).await {
        Ok(StartExecResults::Attached { output, input }) => {
            Ok((Box::pin(output.map(move |piece| pieces.next(piece))), input))
        }
        Ok(StartExecResults::Detached) => Err(BackendError::failed(
            running_in(instance),
            anyhow::anyhow!("the engine did not attach to it"),
        )),
        Err(e) => Err(not_running(engine, instance, pieces.explained(e))),
    }
}

fn running_in(instance: &Instance) -> String {
    format!("running a command in {}", instance.name)
}

fn broken(engine: &Engine, instance: &Instance, e: Error) -> BackendError {
    engine.failed(running_in(instance), e)
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

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) code: i32,
    /// It had a process. Else the code is the engine's, which says 126 to 128 as commands do.
    ran: bool,
}

/// Waits for the end of a command: its streams may end before it does.
pub(super) async fn ended(
    engine: &Engine,
    instance: &Instance,
    id: &str,
) -> Result<Ended, BackendError> {
    let mut pause = Duration::from_millis(2);
    loop {
        let found = engine.client.inspect_exec(id).await.map_err(|e| {
            // The engine forgets a machine's commands with the machine.
            not_running(engine, instance, e)
        })?;
        if found.running != Some(true)
            && let Some(code) = found.exit_code
        {
            let code = i32::try_from(code).unwrap_or(i32::MAX);
            return Ok(Ended { code, ran: found.pid.is_some_and(|pid| pid > 0) });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether these are the words of an engine, which stand where a command's output should be.
pub(super) fn are_engines(words: &[u8]) -> bool {
    [RUNTIME_ERROR, "cannot exec in a "].iter().any(|start| words.starts_with(start.as_bytes()))
}

/// An error, and no exit code, for a command that never ran because its machine went away, or ended with it.
pub(super) async fn must_have_run(
    engine: &Engine,
    instance: &Instance,
    ended: Ended,
    output: &[u8],
) -> Result<(), BackendError> {
    if ended.ran && ended.code == KILLED {
        return must_be_there(engine, instance).await;
    }
    if ended.ran || !matches!(ended.code, 126..=128) {
        return Ok(());
    }
    let state = match engine.client.inspect_container(&instance.id.0, None).await {
        Ok(found) => found.state.unwrap_or_default(),
        Err(e) => return Err(not_running(engine, instance, e)),
    };
    if state.running != Some(true) {
        let (name, state) = (instance.name.clone(), "stopped".to_owned());
        return Err(BackendError::NotRunning { name, state });
    }
    let words = String::from_utf8_lossy(output);
    // It was started anew meanwhile.
    if ended.code == 128 || !output.starts_with(RUNTIME_ERROR.as_bytes()) || is_of_machine(&words) {
        let words = words.trim();
        let words = if words.is_empty() { "the engine could not start it" } else { words };
        return Err(BackendError::failed(
            running_in(instance),
            anyhow::Error::msg(words.to_owned()),
        ));
    }
    Ok(())
}

/// An error where the machine in which a command was killed ends, too: nobody has killed that command.
async fn must_be_there(engine: &Engine, instance: &Instance) -> Result<(), BackendError> {
    let gone = |state: &str| {
        let (name, state) = (instance.name.clone(), state.to_owned());
        Err(BackendError::NotRunning { name, state })
    };
    let asked = async {
        loop {
            let options = None::<InspectContainerOptions>;
            let found = engine.client.inspect_container(&instance.id.0, options).await;
            let found = found.map_err(|e| not_running(engine, instance, e))?;
            let state = found.state.unwrap_or_default();
            if state.running != Some(true) || state.restarting == Some(true) {
                return gone("stopped");
            }
            // Its endpoint is new with each start.
            let networks = found.network_settings.and_then(|settings| settings.networks);
            let ends: Vec<String> =
                networks.into_iter().flatten().filter_map(|(_, end)| end.endpoint_id).collect();
            if instance.boot.as_ref().is_some_and(|boot| !ends.contains(boot)) {
                return gone("started anew");
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    // It goes on: somebody has killed the command, or it has killed itself.
    tokio::time::timeout(ENDING, asked).await.unwrap_or(Ok(()))
}

/// The runtime did not get as far as the program, or its folder.
fn is_of_machine(words: &str) -> bool {
    !["exec: \"", "executable", "cwd"].iter().any(|part| words.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_went_away_is_no_program_that_is_missing() {
        let words = "OCI runtime exec failed: exec failed: unable to start container process: ";
        for (cause, expected) in [
            ("error executing setns process: exit status 1: unknown", true),
            ("cannot exec in a stopped container: unknown", true),
            ("error writing config to pipe: write init-p: broken pipe: unknown", true),
            ("chdir to cwd (\"/x\") set in config.json failed: no such file or directory", false),
            ("open /proc/4242/ns/ipc: no such file or directory: unknown", true),
            ("exec: \"x\": executable file not found in $PATH: unknown", false),
            ("exec: \"/etc\": permission denied: unknown", false),
        ] {
            let words = format!("{words}{cause}");
            assert_eq!(is_of_machine(&words), expected, "{words}");
            assert!(are_engines(words.as_bytes()));
        }
        assert!(are_engines(b"cannot exec in a stopped state: unknown"));
    }

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
