//! The only way out: a sandbox's network, its sidecar, and its machine beside it.

use std::sync::Arc;

use bottle::backend::Observation;
use bottle::model::{Fields, Leftover, LeftoverKind, NetworkSpec, ResourceKind, SidecarSpec};

use super::*;

/// What a sidecar may be given. It grants nothing, and holds no secret.
pub(crate) const DOCUMENT: &str = r#"{"version":1,"sandbox":"ada",
    "policy":{"allow":[],"routes":[],"dlp":{"action":"block"}}}"#;

/// Two parts of a sandbox, and its network where the backend has such a thing.
struct Parts {
    network: Option<Instance>,
    sidecar: Instance,
    machine: Instance,
}

fn specs(f: &dyn Fixture) -> (Option<ResourceSpec>, ResourceSpec, MachineSpec) {
    let network = f.backend().kind().has_networks().then(|| {
        let fields = Fields::default();
        ResourceSpec::Network(NetworkSpec { sandbox: ada(), fields, pool: None })
    });
    let fields = Fields::default();
    let sidecar = SidecarSpec { sandbox: ada(), fields, policy: Arc::default(), proxy: None };
    let machine = MachineSpec { connected: true, ..machine(f, ada()) };
    (network, ResourceSpec::Sidecar(sidecar), machine)
}

/// Makes all parts, as a plan would: the sidecar runs and is loaded before its machine is made.
async fn up(f: &dyn Fixture) -> Parts {
    let (network, sidecar, machine) = specs(f);
    let (backend, scope) = (f.backend(), f.scope());
    backend.prepare(scope, &machine, &Progress::silent()).await.expect("preparing");
    let network = match &network {
        Some(spec) => Some(backend.create(scope, spec).await.expect("creating the network")),
        None => None,
    };
    let made = backend.create(scope, &sidecar).await.expect("creating the sidecar");
    let sidecar = start(f, &made).await;
    load(f, &sidecar).await;
    let spec = ResourceSpec::Machine(machine);
    let machine = backend.create(scope, &spec).await.expect("creating the machine");
    let machine = start(f, &machine).await;
    Parts { network, sidecar, machine }
}

async fn load(f: &dyn Fixture, sidecar: &Instance) {
    f.backend().load(f.scope(), sidecar, DOCUMENT.into()).await.expect("loading");
}

/// Whether it works by a document, as it says itself.
async fn is_loaded(f: &dyn Fixture, sidecar: &Instance) -> bool {
    let said = f.backend().sidecar_state(f.scope(), sidecar).await.expect("asking");
    let state: serde_json::Value = serde_json::from_slice(&said).expect("it is JSON");
    state["loaded"] == true || state["generation"].as_u64().is_some_and(|count| count > 0)
}

/// What was left half-done. An imported image is nothing of the kind.
fn scratch(seen: &Observation) -> Vec<Leftover> {
    let scratch = |leftover: &&Leftover| leftover.kind == LeftoverKind::Scratch;
    seen.leftovers.iter().filter(scratch).cloned().collect()
}

async fn part(f: &dyn Fixture, kind: ResourceKind) -> Option<Instance> {
    let mut seen = observe(f).await.instances;
    seen.retain(|instance| instance.resource == kind);
    assert!(seen.len() < 2, "{seen:#?}");
    seen.pop()
}

async fn sidecar(f: &dyn Fixture) -> Instance {
    part(f, ResourceKind::Sidecar).await.expect("there is one")
}

pub(crate) async fn its_parts_are_observed_as_they_were_made(f: &dyn Fixture) {
    let made = up(f).await;
    let (network, sidecar, machine) = specs(f);
    let wanted: Vec<ResourceSpec> =
        network.into_iter().chain([sidecar, ResourceSpec::Machine(machine)]).collect();
    let seen = f.backend().observe(f.scope(), Depth::Deep).await.expect("observing");
    assert_eq!(scratch(&seen), []);
    let mut seen = seen.instances;
    seen.sort_by_key(|instance| instance.resource);
    let kinds: Vec<ResourceKind> = seen.iter().map(|instance| instance.resource).collect();
    assert_eq!(kinds, wanted.iter().map(ResourceSpec::kind).collect::<Vec<_>>());
    for (instance, spec) in seen.iter().zip(&wanted) {
        assert_eq!((&instance.sandbox, instance.hash), (spec.sandbox(), Some(spec.hash())));
        assert_eq!(instance.fields, spec.fields());
        assert_eq!(instance.ownership, Ownership::Ours);
        assert_eq!(instance.state, InstanceState::Running, "{}", instance.name);
        assert_eq!((&instance.drift[..], &instance.mendable[..]), (&[][..], &[][..]));
        assert_eq!(instance.notes, [""; 0]);
    }
    let of = |kind| seen.iter().find(|instance| instance.resource == kind).expect("it is there");
    assert_eq!(of(ResourceKind::Sidecar).boot, made.sidecar.boot);
    assert_eq!(of(ResourceKind::Machine).boot, made.machine.boot);
    assert!(is_loaded(f, &made.sidecar).await);
}

pub(crate) async fn creating_its_parts_twice_makes_one_of_each(f: &dyn Fixture) {
    let made = up(f).await;
    let (network, sidecar, machine) = specs(f);
    let specs = network.into_iter().chain([sidecar, ResourceSpec::Machine(machine)]);
    let made = made.network.iter().chain([&made.sidecar, &made.machine]);
    for (spec, made) in specs.zip(made) {
        let again = f.backend().create(f.scope(), &spec).await.expect("creating again");
        assert_eq!(again.id, made.id);
        if made.resource != ResourceKind::Network {
            let started = start(f, &again).await;
            assert_eq!(started.boot, made.boot, "what runs is not started anew");
        }
    }
    assert!(is_loaded(f, &self::sidecar(f).await).await, "it keeps what it was given");
}

pub(crate) async fn one_that_was_started_anew_has_forgotten(f: &dyn Fixture) {
    let made = up(f).await;
    f.stop(&made.sidecar).await;
    let stopped = sidecar(f).await;
    assert_ne!(stopped.state, InstanceState::Running);
    assert_eq!(stopped.boot, None);
    let machine = part(f, ResourceKind::Machine).await.expect("it is there");
    assert_eq!((machine.state, &machine.boot), (InstanceState::Running, &made.machine.boot));
    let refused = f.backend().load(f.scope(), &stopped, DOCUMENT.into()).await;
    assert!(matches!(refused, Err(BackendError::NotRunning { .. })), "{refused:?}");
    let started = start(f, &stopped).await;
    assert_ne!(started.boot, made.sidecar.boot);
    eventually("it listens again", async || {
        f.backend().sidecar_state(f.scope(), &started).await.ok()
    })
    .await;
    assert!(!is_loaded(f, &started).await);
    load(f, &started).await;
    assert!(is_loaded(f, &started).await);
    assert_eq!(sidecar(f).await.boot, started.boot, "loading starts nothing");
}

pub(crate) async fn it_is_replaced_beside_its_running_machine(f: &dyn Fixture) {
    let made = up(f).await;
    let wrote = exec(f, &made.machine, &["sh", "-c", "cat > /tmp/kept"], "kept").await;
    assert_eq!(wrote.code, 0);
    f.backend().teardown(f.scope(), &made.sidecar).await.expect("tearing down");
    assert_eq!(part(f, ResourceKind::Sidecar).await, None);
    let (_, spec, _) = specs(f);
    let again = f.backend().create(f.scope(), &spec).await.expect("creating again");
    assert_ne!(again.id, made.sidecar.id);
    let again = start(f, &again).await;
    load(f, &again).await;
    let machine = part(f, ResourceKind::Machine).await.expect("it is there");
    assert_eq!((&machine.id, &machine.boot), (&made.machine.id, &made.machine.boot));
    assert_eq!((machine.drift, machine.mendable), (vec![], vec![]));
    assert_eq!(exec(f, &made.machine, &["cat", "/tmp/kept"], "").await.stdout, b"kept");
}

pub(crate) async fn tearing_down_its_parts_leaves_nothing(f: &dyn Fixture) {
    let made = up(f).await;
    let parts: Vec<&Instance> =
        [&made.machine, &made.sidecar].into_iter().chain(&made.network).collect();
    for part in &parts {
        f.backend().teardown(f.scope(), part).await.expect("tearing down");
    }
    let seen = observe(f).await;
    assert_eq!((&seen.instances[..], scratch(&seen)), (&[][..], vec![]));
    for part in parts {
        f.backend().teardown(f.scope(), part).await.expect("tearing down again");
    }
    let refused = f.backend().load(f.scope(), &made.sidecar, DOCUMENT.into()).await;
    assert!(refused.is_err(), "what is gone cannot be loaded");
}

pub(crate) async fn what_is_no_sidecar_cannot_be_loaded(f: &dyn Fixture) {
    let machine = running(f).await;
    assert!(f.backend().load(f.scope(), &machine, DOCUMENT.into()).await.is_err());
    assert_eq!(only(f).await.boot, machine.boot);
}

pub(crate) async fn that_of_another_owner_is_never_acted_on(f: &dyn Fixture) {
    let made = up(f).await;
    let theirs = f.other_owner();
    for part in [&made.machine, &made.sidecar].into_iter().chain(&made.network) {
        let torn = f.backend().teardown(theirs, part).await;
        // What is kept in a folder of its owner's own does not exist for another.
        let unseen = part.resource == ResourceKind::Sidecar && matches!(torn, Ok(()));
        let conflict = matches!(torn, Err(BackendError::Conflict { .. }));
        assert!(unseen || conflict, "{}: {torn:?}", part.name);
    }
    let loaded = f.backend().load(theirs, &made.sidecar, DOCUMENT.into()).await;
    let refused = |e: &BackendError| {
        matches!(e, BackendError::Conflict { .. } | BackendError::NotRunning { .. })
    };
    assert!(loaded.as_ref().is_err_and(refused), "{loaded:?}");
    let asked = f.backend().sidecar_state(theirs, &made.sidecar).await;
    assert!(asked.as_ref().is_err_and(refused), "{asked:?}");
    let seen = f.backend().observe(theirs, Depth::Listing).await.expect("observing");
    assert_eq!((&seen.instances[..], &seen.leftovers[..]), (&[][..], &[][..]));
    assert!(is_loaded(f, &made.sidecar).await);
    let expected = 2 + usize::from(made.network.is_some());
    assert_eq!(observe(f).await.instances.len(), expected);
}
