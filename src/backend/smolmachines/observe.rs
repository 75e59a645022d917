//! What exists: one `machine ls --json`, however many machines there are. State is read from
//! there and nowhere else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::command::{self, Call, LARGEST_LISTING};
use super::labels::{self, Labels, Set};
use super::parse::{self, Row};
use super::{Smolmachines, guest, image, orphans, sidecar};
use crate::backend::{BackendError, Observation, Scope};
use crate::model::{
    BackendFacts, BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Ownership,
    ResourceKind, SandboxId,
};

/// It asks each running machine for a sign of life, for a quarter of a second.
const DEADLINE: Duration = Duration::from_secs(15);

/// A machine under load misses that quarter of a second: looks at one that does not answer, and the
/// pause between them. What never answers is taken for stopped, and starting it repairs it.
const LOOKS: usize = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// All machines of the program, ours and others'.
pub(super) async fn rows(backend: &Smolmachines) -> Result<Vec<Row>, BackendError> {
    let mut call = Call::new("listing machines", DEADLINE, ["machine", "ls", "--json"]);
    call.keep = LARGEST_LISTING;
    let ended = command::run(&backend.settings, call).await?;
    let failed = |why: String| BackendError::failed("listing machines", anyhow::anyhow!(why));
    if ended.code != 0 {
        let words = parse::words(&ended.stderr);
        return Err(failed(format!("smolvm ended with {}: {words}", ended.code)));
    }
    if ended.cut {
        return Err(failed(format!("smolvm printed more than {LARGEST_LISTING} bytes")));
    }
    parse::listing(&ended.stdout).map_err(failed)
}

/// The same; one of ours that does not answer is looked at again, for a while.
async fn settled_rows(backend: &Smolmachines, scope: &Scope) -> Result<Vec<Row>, BackendError> {
    for _ in 1..LOOKS {
        let rows = rows(backend).await?;
        let silent = |row: &Row| {
            row.state == "unreachable"
                && Labels::of(&row.labels).ownership(scope) == Ownership::Ours
        };
        if !rows.iter().any(silent) {
            return Ok(rows);
        }
        tokio::time::sleep(PAUSE).await;
    }
    rows(backend).await
}

/// All that belongs to the scope, or stands where its machines would.
pub(super) async fn observe(
    backend: &Smolmachines,
    scope: &Scope,
) -> Result<Observation, BackendError> {
    let version = super::version::of(&backend.settings, scope).await?;
    orphans::settled(scope, orphans::BEFORE_LOOKING).await;
    let rows = settled_rows(backend, scope).await?;
    let mut instances: Vec<Instance> = rows
        .iter()
        .filter_map(|row| Some(startable(backend, row, instance(scope, row)?)))
        .map(|found| at_rest(backend, scope, found))
        .collect();
    instances.extend(sidecar::observe(backend, scope).await?);
    let leftovers = image::leftovers(scope);
    let facts = BackendFacts {
        version: format!("smolvm {version}"),
        root_images: guest::root_images(scope),
        ..BackendFacts::default()
    };
    Ok(Observation { instances, leftovers, facts })
}

/// A machine that was never started, and cannot be any more, is half of one. Nothing was done in it yet.
fn startable(backend: &Smolmachines, row: &Row, mut found: Instance) -> Instance {
    if found.state == InstanceState::Created && image::is_lost(backend, row) {
        found.state = InstanceState::Broken("smolvm has lost its image".to_owned());
    }
    found
}

/// A machine that was booted for its files to be read, and still is: to whoever makes a plan it does not run.
fn at_rest(backend: &Smolmachines, scope: &Scope, mut found: Instance) -> Instance {
    if found.state == InstanceState::Running && guest::is_quiet(backend, scope, &found) {
        found.state = InstanceState::Stopped { code: None };
        found.boot = None;
    }
    found
}

/// A machine by its name, as it is now.
pub(super) async fn by_name(
    backend: &Smolmachines,
    scope: &Scope,
    name: &str,
) -> Result<Option<Row>, BackendError> {
    let rows = settled_rows(backend, scope).await?;
    Ok(rows.into_iter().find(|row| row.name == name))
}

/// The machine that an instance is, as it is now, and how it was made. It is certain to be this
/// scope's own: nothing else is ever acted on, whatever the caller believes.
pub(super) async fn own(
    backend: &Smolmachines,
    scope: &Scope,
    id: &Instance,
) -> Result<(Instance, Set), BackendError> {
    let gone = || BackendError::NotRunning { name: id.name.clone(), state: "gone".to_owned() };
    let name = name_of(&id.id).ok_or_else(gone)?;
    let row = by_name(backend, scope, name).await?.ok_or_else(gone)?;
    if self::id(&row) != id.id {
        return Err(gone());
    }
    let conflict = || BackendError::Conflict { name: id.name.clone() };
    let found = instance(scope, &row).filter(|i| i.ownership == Ownership::Ours);
    let found = found.ok_or_else(conflict)?;
    let set = Labels::of(&row.labels).set().ok_or_else(|| {
        BackendError::failed(
            format!("looking at {name}"),
            anyhow::anyhow!("its label {} is gone: remove it and apply again", labels::SET),
        )
    })?;
    Ok((found, set))
}

/// The same, of one that has to run.
pub(super) async fn running(
    backend: &Smolmachines,
    scope: &Scope,
    id: &Instance,
) -> Result<(Instance, Set), BackendError> {
    let (found, set) = own(backend, scope, id).await?;
    let state = match &found.state {
        InstanceState::Running => return Ok((found, set)),
        InstanceState::Created => "not started",
        InstanceState::Paused => "paused",
        InstanceState::Stopped { .. } | InstanceState::Aside => "stopped",
        InstanceState::Broken(why) | InstanceState::Unknown(why) => why,
    };
    Err(BackendError::NotRunning { name: found.name, state: state.to_owned() })
}

/// `NAME@NONCE`: the program knows names only, and a name comes again.
pub(super) fn id(row: &Row) -> InstanceId {
    let nonce = Labels::of(&row.labels).text(labels::ID).map(str::to_owned);
    let nonce = nonce.unwrap_or_else(|| format!("at-{}", row.created.unwrap_or_default()));
    InstanceId(format!("{}@{nonce}", row.name))
}

/// The name in an id.
pub(super) fn name_of(id: &InstanceId) -> Option<&str> {
    id.0.split_once('@').map(|(name, _)| name)
}

/// A row as an instance; `None` where it is nothing to us.
pub(super) fn instance(scope: &Scope, row: &Row) -> Option<Instance> {
    let labels = Labels::of(&row.labels);
    let ownership = labels.ownership(scope);
    let ours = ownership != Ownership::Foreign;
    if ours && labels.resource() == Some(labels::PROBE) {
        return None;
    }
    let standing = sandbox_of_name(scope, &row.name);
    // A branch inherits the labels of what it was branched from: that one bears the name.
    let labelled = labels.sandbox().filter(|_| ours);
    let labelled = labelled.filter(|s| labels::machine_name(scope, s) == row.name);
    let sandbox = labelled.or(standing)?;
    let state = state(row);
    let running = matches!(state, InstanceState::Running);
    let unknown = labels.unreadable_with::<labels::Set>().filter(|_| ownership == Ownership::Ours);
    let state =
        unknown.map_or(state, |why| InstanceState::Unknown(format!("machine {}: {why}", row.name)));
    let fields = if ours { labels.fields() } else { Fields::default() };
    let drift = labels.set().filter(|_| ours).map(|set| drift(row, &set)).unwrap_or_default();
    Some(Instance {
        id: id(row),
        backend: BackendKind::Smolmachines,
        resource: ResourceKind::Machine,
        sandbox,
        place: None,
        name: row.name.clone(),
        hash: labels.hash().filter(|_| ours),
        fields,
        boot: running.then(|| row.pid.map(boot)).flatten(),
        state,
        drift,
        mendable: Vec::new(),
        notes: Vec::new(),
        image: labels.image().filter(|_| ours),
        created: row.created,
        overlay: labels.overlay().filter(|_| ours),
        ownership,
    })
}

/// The sandbox that this name belongs to, if it is a name that we would give.
fn sandbox_of_name(scope: &Scope, name: &str) -> Option<SandboxId> {
    let sandbox: SandboxId =
        name.strip_prefix(&format!("bottle-{}-", scope.owner))?.parse().ok()?;
    (labels::machine_name(scope, &sandbox) == name).then_some(sandbox)
}

/// A state that is not known counts as stopped: starting what runs is harmless, and nothing is
/// ever replaced because of a word.
fn state(row: &Row) -> InstanceState {
    match row.state.as_str() {
        "created" => InstanceState::Created,
        "running" => InstanceState::Running,
        "paused" | "pausing" | "frozen" => InstanceState::Paused,
        _ => InstanceState::Stopped { code: None },
    }
}

/// One run of a machine is one process: its id, and when it began. The process ids of a host come
/// again, and so do its clock ticks after a reboot.
fn boot(pid: u32) -> String {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read(format!("/proc/{pid}/stat"));
    let began = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)).unwrap_or("0");
    let host = read("/proc/sys/kernel/random/boot_id".to_owned());
    let host: String = host.chars().take(8).collect();
    format!("{host}.{pid}.{began}")
}

fn drift(row: &Row, set: &Set) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let mut compare = |path: &str, found: Option<u64>, set: u64| {
        if let Some(found) = found.filter(|found| *found != set) {
            changes.push(change(path, &found.to_string(), &set.to_string()));
        }
    };
    compare("resources.cpus", row.cpus, set.cpus);
    compare("resources.memory (MiB)", row.memory_mib, set.memory_mib);
    compare("mounts", row.mounts, u64::from(set.mount.is_some()));
    compare("ports", row.ports, 0);
    if row.network != set.connected {
        let shown = |connected: bool| if connected { "network" } else { "none" };
        changes.push(change("networks", shown(row.network), shown(set.connected)));
    } else if set.connected && row.reach != sidecar::reach() {
        let words = |reach: &BTreeSet<String>| Vec::from_iter(reach.iter().cloned()).join(", ");
        changes.push(change("network", &words(&row.reach), &words(&sidecar::reach())));
    }
    changes
}

fn change(path: &str, from: &str, to: &str) -> FieldChange {
    FieldChange { path: path.to_owned(), from: Some(from.to_owned()), to: Some(to.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::labels::tests::{machine, scope};
    use super::*;

    fn row(name: &str) -> Row {
        let set = Set { cpus: 2, memory_mib: 2048, ..Set::default() };
        Row {
            name: name.to_owned(),
            state: "created".to_owned(),
            labels: labels::of_machine(&scope(), &machine("ada"), &set, "7f", None),
            cpus: Some(2),
            memory_mib: Some(2048),
            mounts: Some(0),
            created: Some(5),
            ..Row::default()
        }
    }

    #[test]
    fn a_machine_of_ours_is_known_by_labels_and_name() {
        let found = instance(&scope(), &row("bottle-team-ada")).unwrap();
        assert_eq!(found.id.0, "bottle-team-ada@7f");
        assert_eq!((found.ownership, found.drift), (Ownership::Ours, vec![]));
        assert_eq!(found.hash, Some(machine("ada").hash()));
        assert_eq!(name_of(&found.id), Some("bottle-team-ada"));
        // A branch of it has its labels, and another name.
        assert_eq!(instance(&scope(), &row("branch")), None);
        let bare = Row { labels: BTreeMap::new(), ..row("bottle-team-bob") };
        let foreign = instance(&scope(), &bare).unwrap();
        assert_eq!((foreign.ownership, foreign.sandbox.as_str()), (Ownership::Foreign, "bob"));
        assert_eq!((foreign.hash, foreign.id.0.as_str()), (None, "bottle-team-bob@at-5"));
        assert_eq!(instance(&scope(), &Row { labels: BTreeMap::new(), ..row("vm-1f") }), None);
    }

    #[test]
    fn states_that_are_not_known_cost_nothing() {
        for (word, expected) in [
            ("created", InstanceState::Created),
            ("running", InstanceState::Running),
            ("paused", InstanceState::Paused),
            ("stopped", InstanceState::Stopped { code: None }),
            ("failed", InstanceState::Stopped { code: None }),
            ("unreachable", InstanceState::Stopped { code: None }),
            ("levitating", InstanceState::Stopped { code: None }),
        ] {
            assert_eq!(state(&Row { state: word.into(), ..row("x") }), expected, "{word}");
        }
    }

    #[test]
    fn what_was_changed_by_hand_is_drift() {
        let changed = Row {
            cpus: Some(3),
            mounts: Some(1),
            network: true,
            ports: Some(1),
            ..row("bottle-team-ada")
        };
        let drift = instance(&scope(), &changed).unwrap().drift;
        let paths: Vec<&str> = drift.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["resources.cpus", "mounts", "ports", "networks"]);
        assert_eq!((drift[0].from.as_deref(), drift[0].to.as_deref()), (Some("3"), Some("2")));
    }
}
