//! Created, started, stopped, removed: by us and by others.

use bottle::backend::{BackendError, Depth, ExecSpec};
use bottle::model::{
    BackendKind, Fields, Instance, InstanceState, MachineSpec, Ownership, ResourceKind,
    ResourceSpec, Resources,
};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{
    Fixture, ada, create, eventually, exec, machine, named, observe, only, printenv, running, start,
};

pub(crate) async fn nothing_is_observed_as_nothing(f: &dyn Fixture) {
    for depth in [Depth::Listing, Depth::Deep] {
        let seen = f.backend().observe(f.scope(), depth).await.expect("observing");
        assert!(seen.instances.is_empty() && seen.leftovers.is_empty(), "{seen:#?}");
        assert!(!seen.facts.version.is_empty());
    }
}

pub(crate) async fn what_is_created_is_observed_as_it_was_made(f: &dyn Fixture) {
    let spec = MachineSpec { overlay: Some("/projects/x".to_owned()), ..machine(f, ada()) };
    let created = create(f, &spec).await;
    for depth in [Depth::Listing, Depth::Deep] {
        let mut seen = f.backend().observe(f.scope(), depth).await.expect("observing").instances;
        let seen = seen.pop().expect("it is observed");
        assert_eq!(seen.id, created.id);
        assert_eq!(seen.backend, f.backend().kind());
        assert_eq!(seen.resource, ResourceKind::Machine);
        assert_eq!(seen.sandbox, ada());
        assert_eq!(seen.name, f.scope().object_name(&ada()));
        assert_eq!(seen.ownership, Ownership::Ours);
        assert_eq!(seen.hash, Some(spec.hash()));
        assert_eq!(seen.fields, spec.fields());
        assert_eq!(seen.state, InstanceState::Created);
        assert_eq!(seen.boot, None);
        assert_eq!(seen.drift, []);
        assert_eq!(seen.overlay.as_deref(), Some("/projects/x"));
        assert!(seen.created.is_some());
    }
    assert_eq!(created.hash, Some(spec.hash()));
    assert_eq!(created.state, InstanceState::Created);
}

pub(crate) async fn creating_twice_makes_one(f: &dyn Fixture) {
    let spec = machine(f, ada());
    let first = create(f, &spec).await;
    assert_eq!(create(f, &spec).await.id, first.id);
    start(f, &first).await;
    assert_eq!(create(f, &spec).await.id, first.id, "also when it runs by now");
    assert_eq!(only(f).await.state, InstanceState::Running);
}

pub(crate) async fn creating_over_another_hash_fails_and_leaves_it(f: &dyn Fixture) {
    create(f, &machine(f, ada())).await;
    let first = only(f).await;
    let other = MachineSpec { workdir: Some("/elsewhere".to_owned()), ..machine(f, ada()) };
    assert_ne!(Some(other.hash()), first.hash);
    let created = f.backend().create(f.scope(), &ResourceSpec::Machine(other)).await;
    assert!(created.is_err(), "{created:?}");
    assert_eq!(only(f).await, first);
}

pub(crate) async fn starting_twice_is_starting_once(f: &dyn Fixture) {
    let first = running(f).await;
    let again = start(f, &first).await;
    assert_eq!(again.boot, first.boot);
    assert_eq!(only(f).await.state, InstanceState::Running);
}

pub(crate) async fn boot_changes_with_every_start_and_only_then(f: &dyn Fixture) {
    let first = running(f).await;
    assert!(first.boot.is_some());
    assert_eq!(only(f).await.boot, first.boot);
    exec(f, &first, &["true"], "").await;
    assert_eq!(only(f).await.boot, first.boot);
    f.stop(&first).await;
    let second = start(f, &only(f).await).await;
    assert!(second.boot.is_some());
    assert_ne!(second.boot, first.boot);
    assert_eq!(only(f).await.boot, second.boot);
}

pub(crate) async fn teardown_twice_is_teardown_once(f: &dyn Fixture) {
    let machine = running(f).await;
    for _ in 0..2 {
        f.backend().teardown(f.scope(), &machine).await.expect("tearing down");
        assert!(observe(f).await.instances.is_empty());
    }
    assert_eq!(f.describe(&machine.id.0).await, None);
}

pub(crate) async fn teardown_of_what_never_started(f: &dyn Fixture) {
    let created = create(f, &machine(f, ada())).await;
    f.backend().teardown(f.scope(), &created).await.expect("tearing down");
    assert!(observe(f).await.instances.is_empty());
    let again = create(f, &machine(f, ada())).await;
    assert_eq!(only(f).await.id, again.id, "the name is free again");
}

pub(crate) async fn teardown_spares_what_came_after(f: &dyn Fixture) {
    let first = create(f, &machine(f, ada())).await;
    f.remove(&first).await;
    let second = running(f).await;
    assert_ne!(first.id, second.id, "an id is never used twice");
    f.backend().teardown(f.scope(), &first).await.expect("tearing down what is gone");
    assert_eq!(only(f).await.id, second.id);
    assert_eq!(only(f).await.state, InstanceState::Running);
}

pub(crate) async fn stopped_outside_is_stopped_and_keeps_its_files(f: &dyn Fixture) {
    let machine = running(f).await;
    // Not below /tmp, which a microVM empties like any other machine that starts.
    let wrote = exec(f, &machine, &["sh", "-c", "cat > /home/node/note"], "kept").await;
    assert_eq!(wrote.code, 0, "{wrote:?}");
    f.stop(&machine).await;
    let stopped = only(f).await;
    assert!(matches!(stopped.state, InstanceState::Stopped { .. }), "{stopped:?}");
    assert_eq!(stopped.boot, None);
    assert_eq!((&stopped.id, stopped.hash), (&machine.id, machine.hash));
    let again = start(f, &stopped).await;
    assert_eq!(exec(f, &again, &["cat", "/home/node/note"], "").await.stdout, b"kept");
    // So it is when we stop it, and once is enough.
    for _ in 0..2 {
        f.backend().stop(f.scope(), &again).await.expect("stopping");
        let stopped = only(f).await;
        assert!(matches!(stopped.state, InstanceState::Stopped { .. }), "{stopped:?}");
        assert_eq!((&stopped.id, stopped.boot), (&machine.id, None));
    }
    let again = start(f, &only(f).await).await;
    assert_eq!(exec(f, &again, &["cat", "/home/node/note"], "").await.stdout, b"kept");
}

pub(crate) async fn removed_outside_is_gone(f: &dyn Fixture) {
    let machine = running(f).await;
    f.remove(&machine).await;
    assert!(observe(f).await.instances.is_empty());
    f.backend().teardown(f.scope(), &machine).await.expect("tearing down what is gone");
    let started = f.backend().start(f.scope(), &machine).await;
    assert!(matches!(started, Err(BackendError::NotRunning { .. })), "{started:?}");
    let again = create(f, &super::machine(f, ada())).await;
    assert_ne!(again.id, machine.id);
}

pub(crate) async fn paused_outside_is_unpaused_by_start(f: &dyn Fixture) {
    let machine = running(f).await;
    f.pause(&machine).await;
    let paused = only(f).await;
    assert_eq!(paused.state, InstanceState::Paused);
    let again = start(f, &paused).await;
    assert_eq!(again.boot, machine.boot, "it is the same run");
    assert_eq!(exec(f, &again, &["true"], "").await.code, 0);
    f.pause(&machine).await;
    f.backend().teardown(f.scope(), &machine).await.expect("tearing down what is paused");
    assert!(observe(f).await.instances.is_empty());
}

pub(crate) async fn a_fresh_machine_shows_no_drift(f: &dyn Fixture) {
    let spec = MachineSpec {
        workdir: Some("/workspace".to_owned()),
        command: vec!["sleep".to_owned(), "1000".to_owned()],
        ..machine(f, ada())
    };
    let machine = start(f, &create(f, &spec).await).await;
    exec(f, &machine, &["sh", "-c", "cat > /tmp/x"], "x").await;
    for again in [false, true] {
        if again {
            f.stop(&machine).await;
            start(f, &machine).await;
        }
        let deep = f.backend().observe(f.scope(), Depth::Deep).await.expect("observing");
        assert_eq!(deep.instances.len(), 1);
        assert_eq!(deep.instances[0].drift, []);
        assert_eq!(only(f).await.drift, []);
    }
}

pub(crate) async fn several_machines_are_kept_apart(f: &dyn Fixture) {
    let names = ["ada", "ada-b", "bob", "x1"];
    let specs = names.map(|name| MachineSpec {
        env: [("WHO".to_owned(), name.to_owned())].into(),
        ..machine(f, named(name))
    });
    let starting = specs.each_ref().map(|spec| async { start(f, &create(f, spec).await).await });
    let made: Vec<Instance> =
        futures_util::stream::iter(starting).buffered(f.at_once().min(names.len())).collect().await;
    for (machine, name) in made.iter().zip(names) {
        let wrote = exec(f, machine, &["sh", "-c", "cat > /tmp/who"], Bytes::from(name)).await;
        assert_eq!(wrote.code, 0);
    }
    for (machine, name) in made.iter().zip(names) {
        let said = exec(f, machine, &["cat", "/tmp/who"], "").await;
        assert_eq!(String::from_utf8_lossy(&said.stdout), name);
        let spec = ExecSpec::new(printenv(f, "WHO"));
        let said = f.backend().exec(f.scope(), machine, &spec, Bytes::new()).await;
        let said = said.expect("running a command");
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{name}\n"));
    }
    f.backend().teardown(f.scope(), &made[0]).await.expect("tearing down");
    let left = observe(f).await.instances;
    let mut left: Vec<&str> = left.iter().map(|i| i.sandbox.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, names[1..]);
}

pub(crate) async fn limits_are_set(f: &dyn Fixture) {
    let spec = machine(f, ada());
    let machine = start(f, &create(f, &spec).await).await;
    let limits = eventually("the limits can be read", async || {
        Some(f.limits(&machine).await).filter(|limits| limits.memory != 0)
    })
    .await;
    assert_eq!(limits, f.enforced(spec.resources));
    let shown = only(f).await.fields;
    assert_ne!(shown, Fields::default());
    assert_eq!(shown.0.get("resources.memory").map(String::as_str), Some("256M"));
}

pub(crate) async fn limits_change_while_it_runs_on(f: &dyn Fixture) {
    let spec = machine(f, ada());
    let machine = start(f, &create(f, &spec).await).await;
    exec(f, &machine, &["sh", "-c", "cat > /tmp/mine"], "mine").await;
    let other = Resources { millicpus: 750, memory: 320 << 20, pids: 80, disk: None };
    let adjust = async |to: &Resources| {
        f.backend().adjust(f.scope(), &machine, to, &Default::default()).await
    };
    if f.backend().kind() == BackendKind::Smolmachines {
        // Its program changes those of a stopped machine only, so a plan asks for a new one.
        let refused = adjust(&other).await;
        assert!(matches!(refused, Err(BackendError::Unsupported(_))), "{refused:?}");
        return;
    }
    for limits in [&other, &other, &spec.resources, &other] {
        adjust(limits).await.expect("changing the limits");
        assert_eq!(f.limits(&machine).await, f.enforced(*limits));
        let deep = f.backend().observe(f.scope(), Depth::Deep).await.expect("observing");
        let seen = &deep.instances[0];
        assert_eq!((&seen.id, &seen.boot, seen.hash), (&machine.id, &machine.boot, machine.hash));
        assert_eq!((&seen.drift, &seen.mendable), (&vec![], &vec![]));
        for (path, value) in limits.fields().0 {
            assert_eq!(only(f).await.fields.0.get(&path), Some(&value), "{path}");
        }
    }
    let kept = exec(f, &machine, &["cat", "/tmp/mine"], "").await;
    assert_eq!(kept.stdout, b"mine", "nothing of it is lost");
    // One that does not run gets them for its next run.
    f.stop(&machine).await;
    adjust(&spec.resources).await.expect("changing those of a stopped one");
    let again = start(f, &machine).await;
    assert_eq!(f.limits(&again).await, f.enforced(spec.resources));
    f.remove(&only(f).await).await;
    let gone = adjust(&other).await;
    assert!(matches!(gone, Err(BackendError::NotRunning { .. })), "{gone:?}");
}
