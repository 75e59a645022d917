//! Starting, stopping and removing machines: idempotent, on top of the states in the listing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{self, Call};
use super::labels::Set;
use super::orphans::Note;
use super::{Smolmachines, guest, observe, parse, sidecar};
use crate::backend::{BackendError, Scope};
use crate::model::{Instance, InstanceState, Ownership};

/// The first start fetches and unpacks the image. What hangs before that the program itself gives
/// up after half a minute.
const START_DEADLINE: Duration = Duration::from_secs(900);

/// A machine that does not stop by itself is killed by the program after a while.
const TEARDOWN_DEADLINE: Duration = Duration::from_secs(90);

/// How the program says that the machine's process has outlived being killed, for now: on a busy host
/// the kernel takes longer to end it than the program waits. It only decides whether it is tried again.
const STILL_ALIVE: &str = "still alive after stop";

/// So often in all, a pause apart.
const TEARDOWNS: usize = 5;

/// It only reads.
const ASK_DEADLINE: Duration = Duration::from_secs(15);

/// Between two tries to remove what a machine leaves behind.
const CLEARING: Duration = Duration::from_millis(100);

/// Looks at a machine that somebody else may be starting, and the pause between them.
const LOOKS: usize = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// A processor of an emulated host, or a host that is short of something, may end or stall a machine
/// in the middle of its boot: such a one is booted again, so often in all.
const BOOTS: usize = 3;

/// How the program says so. It only decides whether it is tried again.
const DIED_BOOTING: [&str; 2] = ["before the agent was ready", "no boot progress for"];

/// How the program says that it is being started already. It only decides how long is waited.
const STARTING: &str = "already starting";

/// Starts or resumes; running already is fine. Returns the machine as it is now, set up.
pub(super) async fn start(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<Instance, BackendError> {
    let lock = backend.lock(&instance.id.0);
    let _one = lock.lock().await;
    let (mut now, set) = observe::own(backend, scope, instance).await?;
    if guest::is_quiet(backend, scope, &now) {
        // Its command starts with its machine.
        halt(backend, scope, &now, true).await?;
        guest::keep_quiet(backend, scope, &now, false)?;
        (now, _) = observe::own(backend, scope, instance).await?;
    }
    let up = match now.state {
        InstanceState::Running => now,
        ref state => {
            let verb = if *state == InstanceState::Paused { "resume" } else { "start" };
            boot(backend, scope, &now, &set, verb).await?
        }
    };
    guest::ready(backend, scope, &up, &set).await?;
    Ok(up)
}

async fn boot(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
    verb: &str,
) -> Result<Instance, BackendError> {
    let mut boots = 0;
    loop {
        boots += 1;
        match boot_once(backend, scope, instance, set, verb).await {
            Err(BackendError::Failed { what, source })
                if boots < BOOTS && died_booting(&source.to_string()) =>
            {
                tracing::warn!(what, %source, "its boot failed: booting it again");
            }
            ended => return ended,
        }
    }
}

fn died_booting(said: &str) -> bool {
    DIED_BOOTING.iter().any(|words| said.contains(words))
}

async fn boot_once(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
    verb: &str,
) -> Result<Instance, BackendError> {
    let what = format!("starting {}", instance.name);
    let args = ["machine", verb, "--name", &instance.name];
    let mut call = Call::new(&*what, START_DEADLINE, args);
    call.note = Some(Note::new(scope, &what));
    if set.mount.is_some() && rustix::process::geteuid().is_root() {
        // As root each machine's process becomes a user of its own, to whom the operator's folder
        // is closed.
        call.env.push(("SMOLVM_VM_UID_DROP", "off".to_owned()));
    }
    if set.connected {
        sidecar::start_args(scope, &instance.sandbox, &mut call)?;
    }
    let ended = command::run(&backend.settings, call).await?;
    let words = parse::words(&ended.stderr);
    let looks = if words.contains(STARTING) { LOOKS } else { 1 };
    for look in 1..=looks {
        let (now, _) = observe::own(backend, scope, instance).await?;
        if now.state == InstanceState::Running {
            return Ok(now);
        }
        if look < looks {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(BackendError::failed(
        what,
        anyhow::anyhow!("smolvm ended with {}: {words}{}", ended.code, hint(&words)),
    ))
}

/// What to do about it, where the program's own words do not say.
fn hint(words: &str) -> &'static str {
    if words.contains("KvmOpen") || words.contains("/dev/kvm") {
        "; `bottle doctor --boot` tells what microVMs lack here"
    } else {
        ""
    }
}

/// Ends all that runs in a machine, and boots it anew without its command, so that its files can be read. Starting it
/// boots it once more.
pub(super) async fn quiesce(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<Instance, BackendError> {
    let lock = backend.lock(&instance.id.0);
    let _one = lock.lock().await;
    let (now, set) = observe::own(backend, scope, instance).await?;
    let reads = |instance: &Instance| {
        let known = guest::known(backend, scope, instance);
        known
            .is_some_and(|guest| guest.quiet && guest.boot.is_some() && guest.boot == instance.boot)
    };
    if now.state == InstanceState::Running && reads(&now) {
        return Ok(now);
    }
    if now.state == InstanceState::Running {
        guest::ask_to_end(backend, scope, &now, &set).await;
    }
    // Before it is booted: nobody else starts its command then, and whoever comes after this was cut short knows.
    guest::keep_quiet(backend, scope, &now, true)?;
    halt(backend, scope, &now, true).await?;
    let (halted, _) = observe::own(backend, scope, instance).await?;
    let up = boot(backend, scope, &halted, &set, "start").await?;
    if now.boot.is_some() && up.boot == now.boot {
        let what = format!("ending what runs in {}", now.name);
        return Err(BackendError::failed(what, anyhow::anyhow!("it did not stop")));
    }
    guest::ready_to_be_read(backend, scope, &up, &set).await?;
    Ok(up)
}

/// Stops machines that a run which was cut short has left behind for their files to be read.
pub(super) async fn settle(backend: &Smolmachines, scope: &Scope) {
    if !guest::any_quiet(scope) {
        return;
    }
    let rows = match observe::rows(backend).await {
        Ok(rows) => rows,
        Err(error) => {
            return tracing::warn!(%error, "cannot look for machines that were left to be read");
        }
    };
    for found in rows.iter().filter_map(|row| observe::instance(scope, row)) {
        let runs = found.state == InstanceState::Running && found.ownership == Ownership::Ours;
        if runs
            && guest::is_quiet(backend, scope, &found)
            && let Err(error) = stop(backend, scope, &found).await
        {
            tracing::warn!(machine = %found.name, %error, "it was left to be read, and goes on");
        }
    }
}

/// Stops a machine: it keeps its disks.
pub(super) async fn stop(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let lock = backend.lock(&instance.id.0);
    let _one = lock.lock().await;
    halt(backend, scope, instance, false).await
}

/// `surely`: also one that does not answer, which the listing has for stopped.
async fn halt(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    mut surely: bool,
) -> Result<(), BackendError> {
    let what = format!("stopping {}", instance.name);
    for left in (0..TEARDOWNS).rev() {
        let now = match observe::own(backend, scope, instance).await {
            Ok((now, _)) => now,
            Err(BackendError::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !surely && !matches!(now.state, InstanceState::Running | InstanceState::Paused) {
            return Ok(());
        }
        surely = false;
        let args = ["machine", "stop", "--name", &now.name];
        let mut call = Call::new(&*what, TEARDOWN_DEADLINE, args);
        call.note = Some(Note::new(scope, &what));
        let ended = command::run(&backend.settings, call).await?;
        let words = parse::words(&ended.stderr);
        if ended.code != 0 && (left == 0 || !words.contains(STILL_ALIVE)) {
            let why = anyhow::anyhow!("smolvm ended with {}: {words}", ended.code);
            return Err(BackendError::failed(what, why));
        }
        if ended.code == 0 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Stops and removes a machine, with what was branched from it: that stands on its disks.
pub(super) async fn teardown(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let lock = backend.lock(&instance.id.0);
    let _one = lock.lock().await;
    let now = match observe::own(backend, scope, instance).await {
        Ok((now, _)) => now,
        // Without that label it cannot be used, but it can be removed: it is ours.
        Err(BackendError::Failed { .. }) => instance.clone(),
        Err(BackendError::NotRunning { .. }) => {
            guest::forget(backend, scope, instance);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let what = format!("removing {}", now.name);
    let folder = data_folder(backend, &now.name).await;
    for left in (0..TEARDOWNS).rev() {
        let args = ["machine", "delete", "--force", "--cascade", "--name", &now.name];
        let mut call = Call::new(&*what, TEARDOWN_DEADLINE, args);
        call.note = Some(Note::new(scope, &what));
        let ended = command::run(&backend.settings, call).await?;
        match observe::own(backend, scope, instance).await {
            Err(BackendError::NotRunning { .. }) => break,
            // Without that label it cannot be used, as above.
            Ok(_) | Err(BackendError::Failed { .. }) => {
                let words = parse::words(&ended.stderr);
                if left == 0 || !words.contains(STILL_ALIVE) {
                    let why = anyhow::anyhow!("smolvm ended with {}: {words}", ended.code);
                    return Err(BackendError::failed(what, why));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(folder) = folder {
        clear(&folder).await;
    }
    guest::forget(backend, scope, instance);
    sidecar::machine_is_gone(backend, scope, &instance.sandbox).await;
    Ok(())
}

/// Where the program keeps a machine's disks; `None` where it does not say, or says something else.
async fn data_folder(backend: &Smolmachines, name: &str) -> Option<PathBuf> {
    let all = backend.settings.cache.as_ref()?.join("smolvm/vms");
    let args = ["machine", "data-dir", "--name", name];
    let call = Call::new(format!("asking for the data folder of {name}"), ASK_DEADLINE, args);
    let ended = command::run(&backend.settings, call).await.ok().filter(|ended| ended.code == 0)?;
    let path = PathBuf::from(String::from_utf8(ended.stdout).ok()?.trim_end());
    (path.parent() == Some(&all)).then_some(path)
}

/// The program has been seen to leave a machine's folder behind although the machine was gone from its
/// listing; why, it did not say. Its process may have written something more meanwhile.
async fn clear(folder: &Path) {
    for _ in 0..LOOKS {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            // Whoever still writes is done soon.
            _ => tokio::time::sleep(CLEARING).await,
        }
    }
    tracing::warn!(folder = %folder.display(), "what a machine leaves behind cannot be removed");
}
