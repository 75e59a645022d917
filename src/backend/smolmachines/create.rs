//! From a machine's spec to the arguments of `machine create`, and the making.

use std::path::Path;
use std::time::Duration;

use super::command::{self, Call, Ended};
use super::image::Source;
use super::labels::{self, Set};
use super::orphans::Note;
use super::parse::{self, Row};
use super::version::Version;
use super::{Smolmachines, image, observe, sidecar};
use crate::backend::{BackendError, Scope};
use crate::model::{ImageRef, Instance, InstanceState, MachineSpec, Ownership};

/// Nothing is fetched or unpacked yet, but an archive may be copied.
const DEADLINE: Duration = Duration::from_secs(100);

/// How often is looked at what came of it. A machine that was never started may have lost its image,
/// where another tree removes its own last one with it at that moment: such a one is made anew.
const LOOKS: usize = 4;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What keeps an image's container up, and hands what the command writes to the program's log:
/// the command itself starts only when the guest is ready, as a user that is not known before.
const KEEP_SH: &str = r#"trap 'exit 0' TERM INT HUP
while :; do
if [ -p /run/bottle.out ]; then cat /run/bottle.out & else sleep 0.3 & fi
wait "$!" || sleep 1 || exit 127
done"#;

/// Whether the workspace can be mounted, as far as that shows from here.
pub(super) fn check_mount(spec: &MachineSpec) -> Result<(), BackendError> {
    let Some(workspace) = &spec.mount else { return Ok(()) };
    let shown = workspace.path.display();
    if !workspace.path.is_dir() {
        return Err(BackendError::Unsupported(format!(
            "the workspace {shown} is not a folder: make it, or change `workspace.path`"
        )));
    }
    if shown.to_string().contains(':') || workspace.target.contains(':') {
        return Err(BackendError::Unsupported(format!(
            "the workspace {shown} cannot be mounted in a microVM: smolvm takes no path with a \
             colon; rename it, or use `mode: copy`"
        )));
    }
    Ok(())
}

/// What the machine will be made with, beside its image.
pub(super) fn set(spec: &MachineSpec, version: Version) -> Set {
    let image = !matches!(spec.image, ImageRef::Bare | ImageRef::Pack { .. });
    Set {
        cpus: u64::from(spec.resources.millicpus.div_ceil(1000).max(1)),
        memory_mib: spec.resources.memory.div_ceil(MIB),
        pids: spec.resources.pids,
        user: spec.user.clone(),
        home: spec.env.get("HOME").cloned(),
        workdir: spec.workdir.clone(),
        mount: spec.mount.as_ref().map(|workspace| workspace.target.clone()),
        command: spec.command.clone(),
        restart: spec.restart.as_str().to_owned(),
        waits_for_env: spec.waits_for_env,
        connected: spec.connected,
        image,
        kept_log: image && version.logs(),
    }
}

/// The arguments. Pure.
pub(super) fn args(
    scope: &Scope,
    spec: &MachineSpec,
    set: &Set,
    source: &Source,
    nonce: &str,
) -> Vec<String> {
    let name = labels::machine_name(scope, &spec.sandbox);
    let mut args: Vec<String> = ["machine", "create", "--name", &name].map(str::to_owned).into();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("--cpus", set.cpus.to_string());
    // Without it the default is 8 GiB.
    option("--mem", set.memory_mib.to_string());
    if let Some(disk) = spec.resources.disk {
        option("--storage", disk.div_ceil(GIB).max(1).to_string());
    }
    let text = |path: &Path| path.display().to_string();
    let digest = match source {
        Source::Bare => None,
        Source::Registry(reference) => {
            option("--image", reference.clone());
            None
        }
        Source::Archive { path, digest } => {
            option("--image", text(path));
            Some(*digest)
        }
        Source::Pack(path) => {
            option("--from", text(path));
            spec.image.digest()
        }
    };
    args.extend(sidecar::create_args(spec));
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    for (name, value) in &spec.env {
        option("--env", format!("{name}={value}"));
    }
    if let Some(mount) = &spec.mount {
        option("--volume", format!("{}:{}", text(&mount.path), mount.target));
    }
    for (name, value) in labels::of_machine(scope, spec, set, nonce, digest) {
        option("--label", format!("{name}={value}"));
    }
    if set.image {
        args.extend(["--", "/bin/sh", "-c", KEEP_SH].map(str::to_owned));
    }
    args
}

/// Makes the machine, or finds the one that is there already.
pub(super) async fn machine(
    backend: &Smolmachines,
    scope: &Scope,
    spec: &MachineSpec,
    version: Version,
    source: &Source,
) -> Result<Instance, BackendError> {
    let name = labels::machine_name(scope, &spec.sandbox);
    let what = format!("creating {name}");
    let set = set(spec, version);
    let mut made = None;
    for _ in 0..LOOKS {
        // Whatever it said: what is there counts. Somebody else may have been faster.
        match (observe::by_name(backend, scope, &name).await?, made.take()) {
            (Some(row), _) => {
                let found = existing(scope, spec, &row)?;
                if found.state != InstanceState::Created || !image::is_lost(backend, &row) {
                    return Ok(found);
                }
                tracing::warn!(what, "somebody has removed its image meanwhile: making it anew");
                call(backend, scope, &what, ["machine", "delete", "--force", "--name", &name])
                    .await?;
            }
            (None, Some(ended)) => return Err(refused(what, source, &ended)),
            (None, None) => {}
        }
        let nonce = nonce().map_err(|e| BackendError::failed(what.clone(), e))?;
        let args = args(scope, spec, &set, source, &nonce);
        made = Some(call(backend, scope, &what, args).await?);
    }
    Err(BackendError::failed(what, anyhow::anyhow!("somebody keeps removing its image")))
}

async fn call<S: Into<String>>(
    backend: &Smolmachines,
    scope: &Scope,
    what: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Ended, BackendError> {
    let mut call = Call::new(what, DEADLINE, args);
    call.note = Some(Note::new(scope, what));
    command::run(&backend.settings, call).await
}

fn refused(what: String, source: &Source, ended: &Ended) -> BackendError {
    let words = parse::words(&ended.stderr);
    match source {
        Source::Registry(image) if ended.code != 0 && words.contains(image.as_str()) => {
            BackendError::Image { image: image.clone(), reason: words }
        }
        _ => {
            BackendError::failed(what, anyhow::anyhow!("smolvm ended with {}: {words}", ended.code))
        }
    }
}

/// A number that no other machine has.
pub(super) fn nonce() -> anyhow::Result<String> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random)
        .map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
    Ok(hex::encode(random))
}

/// What stands under our name already: the very thing that was asked for, or an error.
fn existing(scope: &Scope, spec: &MachineSpec, row: &Row) -> Result<Instance, BackendError> {
    match observe::instance(scope, row) {
        Some(found) if found.ownership == Ownership::Ours && found.sandbox == spec.sandbox => {
            if found.hash == Some(spec.hash()) {
                Ok(found)
            } else {
                Err(BackendError::failed(
                    format!("creating {}", row.name),
                    anyhow::anyhow!("it is there already, made from another spec: remove it first"),
                ))
            }
        }
        _ => Err(BackendError::Conflict { name: row.name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::tests::{machine, scope};
    use super::*;
    use crate::model::{SpecHash, Workspace, WorkspaceMode};

    const NEW: Version = Version { major: 1, minor: 32, patch: 2 };

    fn made(spec: &MachineSpec, source: &Source) -> Vec<String> {
        let labels_end_here = |arg: &String| !arg.starts_with("io.bottle.") && arg != "--label";
        args(&scope(), spec, &set(spec, NEW), source, "7f")
            .into_iter()
            .filter(labels_end_here)
            .collect()
    }

    #[test]
    fn a_bare_machine_has_no_network_and_explicit_limits() {
        let mut spec = machine("ada");
        spec.image = ImageRef::Bare;
        spec.resources.millicpus = 1500;
        spec.resources.disk = Some((5 << 30) + 1);
        assert_eq!(
            made(&spec, &Source::Bare).join("|"),
            "machine|create|--name|bottle-team-ada|--cpus|2|--mem|2048|--storage|6|--env|A=1=2 3"
        );
    }

    #[test]
    fn an_image_is_kept_up_by_a_workload() {
        let path = "/state/images/x.tar".into();
        let source = Source::Archive { path, digest: SpecHash::of_bytes(b"x") };
        let all = made(&machine("ada"), &source).join("|");
        assert!(all.contains("|--image|/state/images/x.tar|"), "{all}");
        assert!(all.ends_with(&format!("|--|/bin/sh|-c|{KEEP_SH}")), "{all}");
        let all =
            args(&scope(), &machine("ada"), &set(&machine("ada"), NEW), &source, "7f").join("|");
        let label = format!("|--label|io.bottle.image={}|", SpecHash::of_bytes(b"x"));
        assert!(all.contains(&label), "{all}");
        let registry = made(&machine("ada"), &Source::Registry("node:22".into())).join("|");
        assert!(registry.contains("|--image|node:22|"), "{registry}");
    }

    #[test]
    fn the_workspace_is_the_only_mount() {
        let mut spec = machine("ada");
        spec.mount = Some(Workspace {
            path: "/srv/project".into(),
            mode: WorkspaceMode::Mount,
            target: "/work".into(),
        });
        let all = made(&spec, &Source::Bare).join("|");
        assert_eq!(all.matches("--volume").count(), 1);
        assert!(all.contains("|--volume|/srv/project:/work|"), "{all}");
        let refused = check_mount(&spec).unwrap_err().to_string();
        assert!(refused.contains("/srv/project is not a folder"), "{refused}");
    }

    #[test]
    fn what_no_listing_shows_is_in_a_label() {
        let mut spec = machine("ada");
        spec.command = vec!["serve".into(), "a b".into()];
        spec.env.insert("HOME".into(), "/work".into());
        let set = set(&spec, NEW);
        assert_eq!((set.cpus, set.memory_mib, set.image, set.kept_log), (2, 2048, true, true));
        assert_eq!((set.home.as_deref(), set.restart.as_str()), (Some("/work"), "on-failure"));
        assert_eq!(set.command, spec.command);
        let old = Version { major: 1, minor: 9, patch: 2 };
        assert!(!super::set(&spec, old).kept_log, "1.9 keeps no log");
    }
}
